//! The admin API over a Unix socket: whoever may connect may read, and only root and the agent's own user may change anything.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::net::unix::UCred;

use super::answer::{self, Answer};
use super::connections::{self, Bounds};
use super::signing::{InstallationOrder, RequestOrder, SignatureOrder};
use super::steward::{Steward, StewardError};
use super::view::{MoveOrder, Moved, Order, RevokeOrder};
use crate::id::WorkloadId;
use crate::pki::Level;
use crate::store::socket_file::{self, SocketError};

/// Opens the socket at `path` for its owner and group, in the place of one that an earlier agent left behind.
///
/// # Errors
/// Somebody else uses the path, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let socket = socket_file::listen(path)?;
    let refused = |source| SocketError::Io { step: "listen on the socket", path: path.to_owned(), source };
    UnixListener::from_std(socket).map_err(refused)
}

/// Serves on `listener` until `shutdown`.
pub async fn serve<S: Steward>(listener: UnixListener, steward: Arc<S>, shutdown: impl Future<Output = ()>) {
    let own_uid = rustix::process::geteuid().as_raw();
    let begin = |stream: &tokio::net::UnixStream| {
        let caller = Caller::of(stream.peer_cred(), own_uid);
        let steward = Arc::clone(&steward);
        move |request: Request<Incoming>| {
            let steward = Arc::clone(&steward);
            async move { answer_to(request, caller, &*steward).await }
        }
    };
    connections::serve(listener, BOUNDS, begin, shutdown).await;
}

const BOUNDS: Bounds =
    Bounds { connections: 32, head: Duration::from_secs(5), exchange: Duration::from_secs(60) };

/// The longest request body, in bytes: a certificate chain and a key fit in easily.
const BODY_SIZE: usize = 64 * 1024;

const PEM: &str = "application/x-pem-file";

/// Who asks, by the kernel's word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Caller {
    uid: Option<u32>,
    pid: Option<i32>,
    rights: Rights,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rights {
    Change,
    Read,
}

impl Caller {
    fn of(credentials: io::Result<UCred>, own_uid: u32) -> Self {
        let credentials = credentials.ok();
        let uid = credentials.map(|credentials| credentials.uid());
        let pid = credentials.and_then(|credentials| credentials.pid());
        Self { uid, pid, rights: rights(uid, own_uid) }
    }
}

/// Who connects got past the socket's permissions and may read; whom the kernel does not name may no more than that.
fn rights(uid: Option<u32>, own_uid: u32) -> Rights {
    match uid {
        Some(uid) if uid == 0 || uid == own_uid => Rights::Change,
        Some(_) | None => Rights::Read,
    }
}

async fn answer_to(request: Request<Incoming>, caller: Caller, steward: &impl Steward) -> Answer {
    let path = request.uri().path().to_owned();
    let Some((call, method)) = Call::parse(&path) else { return answer::not_found(&path) };
    if request.method() != method {
        return answer::wrong_method(if method == Method::GET { "GET" } else { "POST" }, request.method());
    }
    if call.changes_something() {
        if caller.rights == Rights::Read {
            tracing::warn!(uid = caller.uid, pid = caller.pid, path, "change refused");
            let detail = "only root and the agent's own user may change anything";
            return answer::problem(StatusCode::FORBIDDEN, "not-permitted", detail);
        }
        tracing::info!(uid = caller.uid, pid = caller.pid, path, "change asked for");
    }
    let body = match Limited::new(request.into_body(), BODY_SIZE).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return answer::problem(StatusCode::BAD_REQUEST, "bad-body", &error.to_string());
        }
    };
    call.carry_out(&body, steward).await.unwrap_or_else(|error| answer::refusal(&error))
}

/// What can be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Call {
    Bundle,
    Change(Level, String),
    Crl,
    Explain,
    Install,
    Issue,
    Recall(String),
    Reload,
    Renew(WorkloadId),
    Request,
    Revoke(Level),
    Sign,
    Status,
    Usage,
    WhoCan,
}

impl Call {
    fn parse(path: &str) -> Option<(Self, Method)> {
        let call = match path.strip_prefix("/v1/")? {
            "bundle" => return Some((Self::Bundle, Method::GET)),
            "authorities/install" => Self::Install,
            "authorities/request" => Self::Request,
            "authorities/sign" => Self::Sign,
            "certificates" => Self::Issue,
            "crl" => return Some((Self::Crl, Method::GET)),
            "explain" => Self::Explain,
            "reload" => Self::Reload,
            "status" => return Some((Self::Status, Method::GET)),
            "usage" => Self::Usage,
            "who-can" => Self::WhoCan,
            other => match other.split('/').collect::<Vec<_>>().as_slice() {
                ["decisions", id] if is_request_id(id) => {
                    return Some((Self::Recall((*id).to_owned()), Method::GET));
                }
                ["workloads", workload, "renew"] => Self::Renew(workload.parse().ok()?),
                ["authorities", level, verb] => {
                    let level =
                        [Level::Issuing, Level::Root].into_iter().find(|one| one.as_str() == *level)?;
                    match *verb {
                        "revoke" => Self::Revoke(level),
                        verb if Moved::VERBS.contains(&verb) => Self::Change(level, verb.to_owned()),
                        _ => return None,
                    }
                }
                _ => return None,
            },
        };
        Some((call, Method::POST))
    }

    const fn changes_something(&self) -> bool {
        !matches!(
            self,
            Self::Bundle
                | Self::Crl
                | Self::Explain
                | Self::Recall(_)
                | Self::Status
                | Self::Usage
                | Self::WhoCan
        )
    }

    async fn carry_out(self, body: &[u8], steward: &impl Steward) -> Result<Answer, StewardError> {
        Ok(match self {
            Self::Bundle => answer::text(StatusCode::OK, PEM, steward.bundle_pem()),
            Self::Change(level, verb) => {
                let order = if body.is_empty() { MoveOrder::default() } else { read(body)? };
                ok(&Moved::from(steward.change_authority(order.change(level, &verb)?).await?))
            }
            Self::Crl => answer::text(StatusCode::OK, PEM, steward.crl_pem()),
            Self::Explain => ok(&steward.explain(read(body)?)?),
            Self::Install => ok(&steward.install(read::<InstallationOrder>(body)?.order()?).await?),
            Self::Issue => ok(&steward.issue(read::<Order>(body)?).await?),
            Self::Recall(id) => ok(&steward.recall(id).await?),
            Self::Reload => ok(&steward.reload().await?),
            Self::Renew(workload) => {
                steward.renew(workload.clone()).await?;
                let status = steward.status();
                let renewed = status.workloads.into_iter().find(|status| status.id == workload);
                ok(&renewed
                    .ok_or_else(|| StewardError::Unknown(format!("there is no workload {workload}")))?)
            }
            Self::Request => {
                let order: RequestOrder = if body.is_empty() { RequestOrder::default() } else { read(body)? };
                let (wanted, run) = order.terms();
                ok(&steward.request(wanted, run).await?)
            }
            Self::Revoke(level) => {
                let order: RevokeOrder = read(body)?;
                ok(&Moved::from(steward.revoke_authority(order.revocation(level)).await?))
            }
            Self::Sign => ok(&steward.sign(read::<SignatureOrder>(body)?.order()?).await?),
            Self::Status => ok(&steward.status()),
            Self::Usage => ok(&steward.usage(&read(body)?)),
            Self::WhoCan => ok(&steward.who_can(&read(body)?)?),
        })
    }
}

/// Whether `id` is made of what request ids are made of.
fn is_request_id(id: &str) -> bool {
    !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn ok<T: Serialize>(value: &T) -> Answer {
    answer::json(StatusCode::OK, value)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, StewardError> {
    // The message must not quote the body, which may hold a key.
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        StewardError::Invalid(format!("the request's body is malformed at line {line}, column {column}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_agents_own_user_may_change_anything() {
        assert_eq!(rights(Some(0), 991), Rights::Change);
        assert_eq!(rights(Some(991), 991), Rights::Change);
        assert_eq!(rights(Some(1000), 991), Rights::Read);
        assert_eq!(rights(None, 991), Rights::Read);
    }

    #[test]
    fn every_call_has_one_path_and_one_method() {
        let renew = Call::Renew("billing".parse().unwrap());

        assert_eq!(Call::parse("/v1/status"), Some((Call::Status, Method::GET)));
        assert_eq!(Call::parse("/v1/workloads/billing/renew"), Some((renew.clone(), Method::POST)));
        assert!(
            renew.changes_something() && Call::Issue.changes_something() && Call::Reload.changes_something()
        );
        assert!(!Call::Explain.changes_something());
        assert_eq!(
            Call::parse("/v1/authorities/root/rollback"),
            Some((Call::Change(Level::Root, "rollback".to_owned()), Method::POST))
        );
        for path in [
            "/",
            "/v1/authorities/leaf/rotate",
            "/v1/authorities/root/burn",
            "/v1/",
            "/v2/status",
            "/v1/status/",
            "/v1/workloads/../renew",
            "/v1/workloads//renew",
        ] {
            assert_eq!(Call::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_malformed_body_is_not_quoted() {
        let error = read::<Order>(br#"{"pstn_sk_secret": 1}"#).unwrap_err();

        assert_eq!(error.to_string(), "the request's body is malformed at line 1, column 17");
    }
}
