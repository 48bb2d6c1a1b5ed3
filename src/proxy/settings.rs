//! What the data plane is told to do: plain values, resolved and checked elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{AppId, ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::identity::SpiffeId;
use crate::limit::{Concurrency, Spike};
use crate::registry::Accepts;

/// A door for callers from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// Its name.
    pub id: ListenerId,
    /// Where it listens.
    pub address: SocketAddr,
    /// What is spoken behind the TLS.
    pub protocol: ListenerProtocol,
    /// What callers must present here, if this level says anything.
    pub accepts: Option<Accepts>,
    /// Whose certificate is shown to callers.
    pub workload: WorkloadId,
    /// The oldest TLS version that is spoken.
    pub oldest_tls: OldestTls,
}

/// What a listener speaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2, by ALPN.
    Http,
    /// Anything: the bytes go to this service as they are.
    Tcp(ServiceId),
}

/// The oldest TLS version that a listener speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OldestTls {
    /// TLS 1.2 (RFC 5246), with forward secrecy and AEAD only.
    V12,
    /// TLS 1.3 (RFC 8446).
    #[default]
    V13,
}

/// A local upstream that is guarded.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSettings {
    /// Its name, to which products refer.
    pub id: ServiceId,
    /// The hosts it answers for; none means all.
    pub hosts: Vec<String>,
    /// The path below which it lives; `/` for everything.
    pub base_path: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What callers must present here, if this level says anything.
    pub accepts: Option<Accepts>,
    /// Between what the number of requests under way moves, if it is limited.
    pub concurrency: Option<Concurrency>,
    /// How callers are told why they get no answer from it.
    pub error_format: ErrorFormat,
    /// Whether its answers are looked through for secrets of ours.
    pub watch: Watch,
    /// What it is told of the certificate that a caller came with.
    pub client_cert: ClientCert,
    /// What is asserted of callers under our signature, if anything is.
    pub assertion: Option<AssertionRules>,
}

/// What the signed assertions for a service are like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssertionRules {
    /// For whom they are: the service's own name, a URI.
    pub audience: String,
    /// How long one is good.
    pub ttl: Duration,
}

/// What a service is told of the certificate that a caller came with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientCert {
    /// What becomes of `X-Forwarded-Client-Cert`.
    pub xfcc: Xfcc,
    /// What an element of ours says beside who we are and the certificate's hash.
    pub details: Details,
    /// Whether the certificate itself goes on as well (RFC 9440).
    pub fields: CertificateFields,
    /// The apps whose word for the certificates before their own is passed on.
    pub proxies: Vec<AppId>,
}

/// What becomes of `X-Forwarded-Client-Cert`, by the names that Envoy has for it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Xfcc {
    /// What anybody sends goes on, with a certificate or without: only for services that do not believe it.
    AlwaysForwardOnly,
    /// What a listed proxy sends goes on with ours behind it; who is none gets ours alone.
    AppendForward,
    /// What a listed proxy sends goes on as it is; who is none gets nothing.
    ForwardOnly,
    /// There is none.
    Sanitize,
    /// Ours, and nothing else.
    #[default]
    SanitizeSet,
}

/// Something that an element of `X-Forwarded-Client-Cert` may say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detail {
    /// The certificate, in PEM.
    Cert,
    /// The certificate and the authorities above it without the root, in PEM.
    Chain,
    /// The DNS names.
    Dns,
    /// The distinguished name.
    Subject,
    /// The SPIFFE ID.
    Uri,
}

/// A set of details.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Details(u8);

impl Details {
    /// Distinguished name, SPIFFE ID and DNS names.
    pub const USUAL: Self = Self(Detail::Subject.bit() | Detail::Uri.bit() | Detail::Dns.bit());

    /// Whether `detail` is among them.
    #[must_use]
    pub const fn contains(self, detail: Detail) -> bool {
        self.0 & detail.bit() != 0
    }
}

impl Default for Details {
    fn default() -> Self {
        Self::USUAL
    }
}

impl FromIterator<Detail> for Details {
    fn from_iter<I: IntoIterator<Item = Detail>>(details: I) -> Self {
        Self(details.into_iter().fold(0, |bits, detail| bits | detail.bit()))
    }
}

impl Detail {
    const fn bit(self) -> u8 {
        match self {
            Self::Cert => 1,
            Self::Chain => 2,
            Self::Dns => 4,
            Self::Subject => 8,
            Self::Uri => 16,
        }
    }
}

/// Which of the fields of RFC 9440 a service gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CertificateFields {
    /// `Client-Cert` and `Client-Cert-Chain`.
    Chain,
    /// `Client-Cert` alone.
    Leaf,
    /// None of them.
    #[default]
    None,
}

/// Whether the answers of a service are looked through for secrets of ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Watch {
    /// One that holds a secret is cut before the secret is whole.
    Block,
    /// They are not.
    #[default]
    Off,
    /// One that holds a secret is reported, and passes.
    Report,
}

/// How callers are told why they get no answer from a service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ErrorFormat {
    /// With the bodies and statuses of Apigee, for callers that were written for it.
    Apigee,
    /// With problem documents (RFC 9457).
    #[default]
    Problem,
}

/// Where a service listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// The built-in service that shows what a guarded service sees.
    Whoami,
}

/// Something outside that local workloads reach through the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteSettings {
    /// Its name.
    pub id: RemoteId,
    /// Host and port to dial.
    pub address: String,
    /// What is spoken inside the TLS.
    pub protocol: RemoteProtocol,
    /// Who may answer; the host name proves nothing.
    pub spiffe_ids: Arc<[SpiffeId]>,
    /// The local port for workloads, on loopback only.
    pub listen: Option<SocketAddr>,
    /// The local Unix socket for workloads.
    pub socket: Option<PathBuf>,
}

/// What a remote speaks inside the TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RemoteProtocol {
    /// HTTP/1.1, over pooled connections.
    Http,
    /// Anything, one connection for each.
    Tcp,
}

/// Bounds on what a peer may cost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Between two requests, and without a byte in either direction of a raw connection.
    pub idle: Duration,
    /// To reach a service or a remote, TLS included.
    pub connect: Duration,
    /// Without progress while a request or an answer is under way.
    pub stall: Duration,
    /// For requests under way when the agent stops.
    pub drain: Duration,
    /// The largest request head, in bytes.
    pub head_size: usize,
    /// Streams of one HTTP/2 connection at a time.
    pub h2_streams: u32,
    /// Connections of one listener and thread at a time.
    pub connections: usize,
    /// Idle connections kept to each upstream, by thread.
    pub pooled: usize,
    /// How often one source may present a key that proves nothing; none for as often as it likes.
    pub failed_keys: Option<Spike>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            head_size: 32 * 1024,
            h2_streams: 128,
            connections: 20_000,
            pooled: 512,
            failed_keys: "10/s".parse().ok().map(|rate| Spike::new(rate, 100)),
        }
    }
}
