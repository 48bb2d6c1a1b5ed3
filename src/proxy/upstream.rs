//! Connections to whatever answers: dialled, kept alive in a pool per thread, used again while they are fresh.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::buffer::Buffer;
use super::proxy_status::ProxyError;
use super::settings::Endpoint;
use super::snapshot::Client;
use super::tls::{NotYetValid, not_yet_valid, verdict};
use crate::clock::Timestamp;
use crate::id::{RemoteId, WorkloadId};
use crate::pki::{Usage, Verified, Verifier, VerifyError};

/// How long an idle connection is kept. One that the other side has closed meanwhile is noticed before it is used.
pub(super) const KEEP: Duration = Duration::from_secs(30);

/// No exchange begins so shortly before the end of a certificate under a connection, for it could not outlive that. Whoever
/// is dialled anew shows a fresher one by then.
pub(super) const LAST_STRETCH: Duration = Duration::from_secs(60);

/// What a pooled connection may be used for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum PoolKey {
    /// Plaintext to a local service.
    Local(Endpoint),
    /// mTLS to a remote, under one workload's certificate.
    Remote { remote: RemoteId, workload: WorkloadId, terms: Terms },
}

/// What a connection to a remote was made on. Certificate, trust, expected identities and address make one TLS configuration
/// together; when any of them changes there is another, and what was dialled on the former is not used again.
#[derive(Clone)]
pub(super) struct Terms(Arc<rustls::ClientConfig>);

impl Terms {
    pub(super) fn of(client: &Client) -> Self {
        Self(Arc::clone(&client.tls))
    }
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Terms {}

impl Hash for Terms {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terms")
    }
}

/// A connection with what was read from it and not used yet.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) io: UpstreamIo,
    pub(super) unread: Buffer,
    /// Whether it has served before, so that a failure may only mean that the other side hung up meanwhile.
    pub(super) reused: bool,
    /// When the first of the two certificates ends that it rests on, if it rests on any.
    pub(super) until: Option<Timestamp>,
    /// The two certificates themselves.
    pub(super) bond: Option<Arc<Bond>>,
    since: Instant,
}

impl Upstream {
    /// A connection that was just made.
    pub(super) fn new(io: UpstreamIo) -> Self {
        Self { io, unread: Buffer::default(), reused: false, until: None, bond: None, since: Instant::now() }
    }

    /// Whether the other side has hung up, or said something unasked, or a certificate ends too soon for another exchange.
    fn is_stale(&mut self, now: Timestamp) -> bool {
        let mut byte = [0_u8; 1];
        let mut page = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        self.since.elapsed() >= KEEP
            || self.until.is_some_and(|until| until <= now + LAST_STRETCH)
            || !self.unread.is_empty()
            || Pin::new(&mut self.io).poll_read(&mut cx, &mut page).is_ready()
    }
}

/// What a connection to a remote rests on.
#[derive(Debug)]
pub(super) struct Bond {
    /// The remote's certificate.
    pub(super) peer: Arc<Verified>,
    /// The workload's, if we believe it ourselves.
    pub(super) own: Option<Arc<Verified>>,
    /// When the first of the two ends.
    pub(super) until: Timestamp,
}

/// The streams that lead to something that answers.
#[derive(Debug)]
pub(super) enum UpstreamIo {
    /// To one stream of a shared connection.
    Bridged(DuplexStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            UpstreamIo::Bridged($io) => $call,
            UpstreamIo::Tcp($io) => $call,
            UpstreamIo::Tls($io) => $call,
            UpstreamIo::Unix($io) => $call,
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// Why nothing answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the address is malformed")]
    Name,
    #[error("no answer within the connect timeout")]
    TimedOut,
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the remote is not believed any more")]
    Untrusted(#[from] VerifyError),
}

impl DialError {
    /// The same in the words that proxies have in common.
    pub(super) fn in_common_words(&self) -> ProxyError {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                ProxyError::ConnectionRefused
            }
            Self::Connect(_) => ProxyError::DestinationUnavailable,
            Self::Name => ProxyError::ProxyConfigurationError,
            Self::TimedOut => ProxyError::ConnectionTimeout,
            Self::Tls(error) => {
                let certificate = error.get_ref().and_then(|error| error.downcast_ref());
                match certificate {
                    Some(rustls::Error::InvalidCertificate(_)) => ProxyError::TlsCertificateError,
                    Some(_) | None => ProxyError::TlsProtocolError,
                }
            }
            Self::Untrusted(_) => ProxyError::TlsCertificateError,
        }
    }

    /// What it says of the clocks, if it failed for them.
    pub(super) fn skew(&self) -> Option<&NotYetValid> {
        match self {
            Self::Tls(error) => not_yet_valid(error.get_ref()?.downcast_ref()?),
            Self::Connect(_) | Self::Name | Self::TimedOut | Self::Untrusted(_) => None,
        }
    }
}

/// A thread's idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    idle: RefCell<HashMap<PoolKey, Vec<Upstream>>>,
}

impl Pool {
    /// An empty pool.
    pub(super) fn new() -> Self {
        Self { idle: RefCell::default() }
    }

    /// The connection that was used last, if one is still fresh.
    pub(super) fn take(&self, key: &PoolKey, now: Timestamp) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(key)?;
        while let Some(mut upstream) = kept.pop() {
            if !upstream.is_stale(now) {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection for the next request, up to `most` of its kind.
    pub(super) fn give_back(&self, key: &PoolKey, mut upstream: Upstream, most: usize) {
        upstream.reused = true;
        upstream.since = Instant::now();
        upstream.unread.rest();
        let mut idle = self.idle.borrow_mut();
        if let Some(kept) = idle.get_mut(key) {
            if kept.len() < most {
                kept.push(upstream);
            }
        } else {
            idle.insert(key.clone(), vec![upstream]);
        }
    }

    /// Drops what has been idle for too long; called now and then.
    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|upstream| upstream.since.elapsed() < KEEP);
            !kept.is_empty()
        });
    }
}

/// Connects to a local service.
///
/// # Errors
/// It cannot be reached in time.
pub(super) async fn dial_local(endpoint: &Endpoint, within: Duration) -> Result<Upstream, DialError> {
    let connect = async {
        match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(UpstreamIo::Tcp(stream))
            }
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(UpstreamIo::Unix),
            Endpoint::Whoami => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    };
    let io = timeout(within, connect).await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Connect)?;
    Ok(Upstream::new(io))
}

/// Connects to a remote by mTLS, under a workload's certificate.
///
/// # Errors
/// It cannot be reached in time, or it is not who was expected.
pub(super) async fn dial_remote(
    address: &str,
    client: &Client,
    verifier: &Verifier,
    within: Duration,
    now: Timestamp,
) -> Result<Upstream, DialError> {
    let (host, _) = address.rsplit_once(':').ok_or(DialError::Name)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| DialError::Name)?;
    let connector = TlsConnector::from(Arc::clone(&client.tls));
    let connect = async {
        let stream = TcpStream::connect(address).await.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        connector.connect(name, stream).await.map_err(DialError::Tls)
    };
    let stream = timeout(within, connect).await.map_err(|_| DialError::TimedOut)??;
    // It was verified in the handshake, so this costs no signature; trust may have changed meanwhile.
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = verdict(verifier, chain, Usage::Server, now)?;
    let until = peer.not_after().min(client.life.not_after);
    let bond = Some(Arc::new(Bond { peer, own: client.standing.believed().cloned(), until }));
    Ok(Upstream { until: Some(until), bond, ..Upstream::new(UpstreamIo::Tls(Box::new(stream))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::FLOOR;

    async fn pair() -> (Upstream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Upstream::new(UpstreamIo::Unix(ours)), theirs)
    }

    #[tokio::test]
    async fn a_connection_that_the_other_side_closed_is_not_used_again() {
        let pool = Pool::new();
        let key = PoolKey::Local(Endpoint::Whoami);
        let (open, _other_end) = pair().await;
        let (closed, other_end) = pair().await;
        pool.give_back(&key, open, 8);
        pool.give_back(&key, closed, 8);
        drop(other_end);
        tokio::task::yield_now().await;

        assert!(pool.take(&key, NOW).is_some_and(|upstream| upstream.reused));
        assert!(pool.take(&key, NOW).is_none());
    }

    #[tokio::test]
    async fn a_pool_keeps_no_more_than_it_may() {
        let pool = Pool::new();
        let key = PoolKey::Local(Endpoint::Whoami);
        let mut others = Vec::new();
        for _ in 0..3 {
            let (upstream, other) = pair().await;
            others.push(other);
            pool.give_back(&key, upstream, 2);
        }

        assert!(pool.take(&key, NOW).is_some());
        assert!(pool.take(&key, NOW).is_some());
        assert!(pool.take(&key, NOW).is_none());
    }

    #[tokio::test]
    async fn a_connection_is_not_used_again_when_a_certificate_under_it_is_about_to_end() {
        let pool = Pool::new();
        let key = PoolKey::Local(Endpoint::Whoami);
        let until = NOW + Duration::from_secs(600);
        let mut others = Vec::new();
        for _ in 0..2 {
            let (upstream, other_end) = pair().await;
            others.push(other_end);
            pool.give_back(&key, Upstream { until: Some(until), ..upstream }, 8);
        }

        let last = until - LAST_STRETCH;
        assert!(pool.take(&key, last - Duration::from_millis(1)).is_some());
        assert!(pool.take(&key, last).is_none(), "however the clock came to stand there");
    }

    #[test]
    fn other_trust_or_other_expectations_are_other_terms() {
        let terms = || {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            Terms(Arc::new(config))
        };
        let (before, after) = (terms(), terms());

        let key = |terms: &Terms| PoolKey::Remote {
            remote: "ledger".parse().unwrap(),
            workload: "billing".parse().unwrap(),
            terms: terms.clone(),
        };

        assert_eq!(key(&before), key(&before));
        assert_ne!(key(&before), key(&after));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_not_a_hang() {
        let gone = Endpoint::Unix("/nonexistent/socket".into());

        let result = dial_local(&gone, Duration::from_secs(1)).await;

        assert!(matches!(result, Err(DialError::Connect(_))));
    }
}
