//! Small documents over HTTP or from a file: with bounds on time and size, over TLS by roots of the operator's choice, and
//! without following anybody who says to look elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock::Clock;
use crate::credential::token::{InvalidJwk, members};
use crate::proxy::{TlsError, web_client_config};
use crate::store::pem::{self, PemError};

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The address cannot be asked.
    #[error("{0} is no address that can be asked")]
    Address(String),
    /// Nobody is there, or the connection broke.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The metadata document cannot be used.
    #[error("the metadata document is not the issuer's own: {0}")]
    Discovery(&'static str),
    /// No HTTP is spoken there.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// It is no JWK Set.
    #[error("it is no JWK Set that can be used")]
    Keys(#[source] InvalidJwk),
    /// It holds no key that is known here.
    #[error("the JWK Set holds no key that can be used here")]
    NoKeys,
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The roots cannot be used.
    #[error("{} holds no roots", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: PemError,
    },
    /// It is too long, or broke off.
    #[error("the answer is longer than {LONGEST} bytes, or broke off")]
    Size,
    /// Something else than 200.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// It took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// There are more keys than anybody uses.
    #[error("the JWK Set holds too many keys")]
    TooManyKeys,
}

/// Asks for documents.
pub(super) struct Fetcher {
    clock: Arc<dyn Clock>,
    roots: Option<PathBuf>,
}

impl Fetcher {
    /// One that believes web servers by the `roots` in a PEM file.
    pub(super) fn new(clock: Arc<dyn Clock>, roots: Option<PathBuf>) -> Self {
        Self { clock, roots }
    }

    /// The document in a file.
    ///
    /// # Errors
    /// It cannot be read, or is too long.
    pub(super) async fn read(&self, path: &Path) -> Result<Vec<u8>, FetchError> {
        let unreadable = |source| FetchError::Read { path: path.to_owned(), source };
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(LONGEST_READ).read_to_end(&mut bytes).await.map_err(unreadable)?;
        if bytes.len() > LONGEST { Err(FetchError::Size) } else { Ok(bytes) }
    }

    /// The document at an address.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn get(&self, url: &Uri) -> Result<Vec<u8>, FetchError> {
        tokio::time::timeout(PATIENCE, self.ask(url)).await.map_err(|_| FetchError::Timeout)?
    }

    /// Where the metadata document of `issuer` says that its keys are.
    ///
    /// > The issuer value returned MUST be identical to the Issuer URL that was used as the prefix to /.well-known/openid-configuration
    /// > to retrieve the configuration information. — OpenID Connect Discovery 1.0 §4.3
    ///
    /// # Errors
    /// There is none, or it is somebody else's.
    pub(super) async fn discover(&self, issuer: &str) -> Result<Uri, FetchError> {
        let of = |text: String| text.parse::<Uri>().map_err(|_| FetchError::Address(text));
        let openid = of(format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
        let text = match self.get(&openid).await {
            // > […] by inserting a well-known URI string into the authorization server's issuer identifier between the host
            // > component and the path component, if any — RFC 8414 §3
            Err(FetchError::Status(StatusCode::NOT_FOUND)) => {
                let uri = of(issuer.to_owned())?;
                let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority());
                let authority = authority.map(|found| found.as_str()).unwrap_or_default();
                let path = uri.path().trim_end_matches('/');
                let oauth =
                    of(format!("{scheme}://{authority}/.well-known/oauth-authorization-server{path}"))?;
                self.get(&oauth).await?
            }
            outcome => outcome?,
        };
        let document = members(&text).map_err(|_| FetchError::Discovery("it is no JSON object"))?;
        let member = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        if member("issuer") != Some(issuer) {
            return Err(FetchError::Discovery("its `issuer` is another"));
        }
        let keys = of(member("jwks_uri").ok_or(FetchError::Discovery("it has no `jwks_uri`"))?.to_owned())?;
        if keys.scheme() != openid.scheme()
            || keys.scheme_str() == Some("http") && keys.host() != openid.host()
        {
            return Err(FetchError::Discovery("its `jwks_uri` leads to somewhere less safe"));
        }
        Ok(keys)
    }

    async fn ask(&self, url: &Uri) -> Result<Vec<u8>, FetchError> {
        let address = || FetchError::Address(url.to_string());
        let host = url.host().ok_or_else(address)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((bare.as_str(), port)).await.map_err(FetchError::Connect)?;
        if !is_tls {
            return exchange(url, TokioIo::new(stream)).await;
        }
        let path = self.roots.clone().ok_or_else(address)?;
        let text = self.read(&path).await?;
        let roots = pem::certificates(&text).map_err(|source| FetchError::Roots { path, source })?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let connector = TlsConnector::from(web_client_config(store, Arc::clone(&self.clock))?);
        let name = ServerName::try_from(bare).map_err(|_| address())?;
        let stream = connector.connect(name, stream).await.map_err(FetchError::Connect)?;
        exchange(url, TokioIo::new(stream)).await
    }
}

async fn exchange<S>(url: &Uri, io: TokioIo<S>) -> Result<Vec<u8>, FetchError>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(FetchError::Http)?;
    let authority = url.authority().map(|found| found.as_str()).unwrap_or_default();
    let target = url.path_and_query().map_or("/", |found| found.as_str());
    let request = Request::get(target)
        .header("host", authority)
        .header("accept", "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Address(url.to_string()))?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|_| FetchError::Size)?;
        Ok(body.to_bytes().to_vec())
    };
    tokio::pin!(asked);
    tokio::select! {
        biased;
        outcome = &mut asked => outcome,
        ended = connection => {
            ended.map_err(FetchError::Http)?;
            asked.await
        }
    }
}

/// From the first packet to the last.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the longest document: a key takes less than 2 KiB.
const LONGEST: usize = 256 * 1024;

/// So much is read of a file to see that it is too long.
const LONGEST_READ: u64 = 256 * 1024 + 1;
