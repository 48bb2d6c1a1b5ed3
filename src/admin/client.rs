//! Asks a running agent over its admin socket.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::answer::Problem;
use super::entitled::{Deed, Entitled};
use super::question::{Explanation, Question};
use super::signing::{
    AuthorityRequest, InstallationOrder, InstalledStatus, RequestOrder, SignatureOrder, SignedAuthorityStatus,
};
use super::tokens::{TokenKeyOrder, TokenKeyStatus, WithdrawOrder, Withdrawn};
use super::usage_wanted::UsageWanted;
use super::view::{
    IssuedCertificate, MoveOrder, Moved, Order, Reloaded, RevokeOrder, Status, WorkloadStatus,
};
use crate::clock::Timestamp;
use crate::id::{CredentialId, WorkloadId};
use crate::issuance::{AuthorityRevocation, Change, InstallOrder, Run, SignOrder, Wanted};
use crate::telemetry::UsageRow;

/// Why the agent gave no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke.
    #[error("the agent at {} broke off", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// It could not be reached.
    #[error("cannot reach the agent at {}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The answer makes no sense to this program.
    #[error("the agent at {} speaks another language: {reason}", socket.display())]
    Malformed {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The socket is closed to this user.
    #[error("no permission for {}: become root, or join the group that owns it", .0.display())]
    NoPermission(PathBuf),
    /// Nobody listens there.
    #[error("no agent is running: nobody listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// The agent says that this user may not.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The agent did not do it, and says why.
    #[error("{detail}")]
    Unwilling {
        /// The stable code: `conflict`, `failed`, `invalid`, `left-behind`, `unknown`.
        code: String,
        /// For people.
        detail: String,
    },
    /// It took too long.
    #[error("the agent at {} did not answer in {} s", .0.display(), PATIENCE.as_secs())]
    TooSlow(PathBuf),
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The way to one agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent that listens on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Everything about the agent.
    ///
    /// # Errors
    /// As for all calls: there is no agent, it cannot be reached, or it says no.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// How a caller would fare.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn explain(&self, question: &Question) -> Result<Explanation, ClientError> {
        self.post("/v1/explain", Some(question)).await
    }

    /// How the request with this id fared. An `unknown` means that it is not remembered.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn recall(&self, request_id: &str) -> Result<Explanation, ClientError> {
        self.get(&format!("/v1/decisions/{request_id}")).await
    }

    /// Who may make a request.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn who_can(&self, deed: &Deed) -> Result<Entitled, ClientError> {
        self.post("/v1/who-can", Some(deed)).await
    }

    /// Who used what, by the hour.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn usage(&self, wanted: &UsageWanted) -> Result<Vec<UsageRow>, ClientError> {
        self.post("/v1/usage", Some(wanted)).await
    }

    /// Has configuration and registry read again.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.post("/v1/reload", None::<&()>).await
    }

    /// Has an authority moved from slot to slot. A `left-behind` means that somebody does not know it yet.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn change_authority(&self, change: &Change) -> Result<Moved, ClientError> {
        let (verb, order) = MoveOrder::of(change);
        let path = format!("/v1/authorities/{}/{verb}", change.level.as_str());
        self.post(&path, Some(&order)).await
    }

    /// Has the request for the next issuing authority made ready.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn request(&self, wanted: Wanted, run: Run) -> Result<AuthorityRequest, ClientError> {
        self.post("/v1/authorities/request", Some(&RequestOrder::of(wanted, run))).await
    }

    /// Has the issuing authority of another host signed.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn sign(&self, order: &SignOrder) -> Result<SignedAuthorityStatus, ClientError> {
        self.post("/v1/authorities/sign", Some(&SignatureOrder::of(order))).await
    }

    /// Has something installed that was signed elsewhere.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn install(&self, order: &InstallOrder) -> Result<InstalledStatus, ClientError> {
        self.post("/v1/authorities/install", Some(&InstallationOrder::of(order))).await
    }

    /// Has an authority revoked. A `left-behind` means that it signs, and somebody does not know the next one yet.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn revoke_authority(&self, order: &AuthorityRevocation) -> Result<Moved, ClientError> {
        let path = format!("/v1/authorities/{}/revoke", order.level.as_str());
        self.post(&path, Some(&RevokeOrder::of(order))).await
    }

    /// Has a workload's identity issued anew.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn renew(&self, workload: &WorkloadId) -> Result<WorkloadStatus, ClientError> {
        self.post(&format!("/v1/workloads/{workload}/renew"), None::<&()>).await
    }

    /// The keys that sign tokens.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn token_keys(&self) -> Result<Vec<TokenKeyStatus>, ClientError> {
        self.get("/v1/tokens/keys").await
    }

    /// Has a key killed that signs tokens; what keys there are then.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn kill_token_key(&self, key: &str) -> Result<Vec<TokenKeyStatus>, ClientError> {
        self.post("/v1/tokens/keys/kill", Some(&TokenKeyOrder { key: key.to_owned() })).await
    }

    /// Has tokens taken back.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn withdraw_tokens(&self, order: &WithdrawOrder) -> Result<Withdrawn, ClientError> {
        self.post("/v1/tokens/withdraw", Some(order)).await
    }

    /// Has a certificate handed out.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn issue(&self, order: &Order) -> Result<IssuedCertificate, ClientError> {
        self.post("/v1/certificates", Some(order)).await
    }

    /// The roots of the agent's trust domain, as PEM.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn bundle_pem(&self) -> Result<String, ClientError> {
        let body = self.exchange(Method::GET, "/v1/bundle", Bytes::new()).await?;
        String::from_utf8(body.into()).map_err(|_| self.malformed("the bundle is no text"))
    }

    /// When each credential was used last since the agent's start.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn credential_uses(&self) -> Result<BTreeMap<CredentialId, Timestamp>, ClientError> {
        self.get("/v1/credentials/uses").await
    }

    /// The revocation lists of the agent's authorities, as PEM.
    ///
    /// # Errors
    /// As for [`Client::status`].
    pub async fn crl_pem(&self) -> Result<String, ClientError> {
        let body = self.exchange(Method::GET, "/v1/crl", Bytes::new()).await?;
        String::from_utf8(body.into()).map_err(|_| self.malformed("the revocation lists are no text"))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(&error.to_string()))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(|error| self.malformed(&error.to_string()))?.unwrap_or_default();
        let answer = self.exchange(Method::POST, path, Bytes::from(body)).await?;
        serde_json::from_slice(&answer).map_err(|error| self.malformed(&error.to_string()))
    }

    /// The body of a good answer.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let exchange = self.exchange_without_end(method, path, body);
        let outcome = tokio::time::timeout(PATIENCE, exchange).await;
        let (status, body) = outcome.map_err(|_| ClientError::TooSlow(self.socket.clone()))??;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if status == StatusCode::FORBIDDEN => Err(ClientError::Refused(problem.detail)),
            Ok(Problem { code, detail, .. }) => Err(ClientError::Unwilling { code, detail }),
            Err(_) => Err(self.malformed(&format!("status {status}"))),
        }
    }

    async fn exchange_without_end(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let broken = |source| ClientError::Broken { socket: self.socket.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "postern")
            .body(Full::new(body))
            .map_err(|error| self.malformed(&error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| self.malformed(&error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection may end before the answer has been taken from it.
            _ = connection => answer.await,
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        let kind = source.kind();
        if matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
            ClientError::NotRunning(socket)
        } else if kind == io::ErrorKind::PermissionDenied {
            ClientError::NoPermission(socket)
        } else {
            ClientError::Io { socket, source }
        }
    }

    fn malformed(&self, reason: &str) -> ClientError {
        ClientError::Malformed { socket: self.socket.clone(), reason: reason.to_owned() }
    }
}
