//! What the data plane is told to do: plain values, resolved and checked elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{AppId, ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::identity::SpiffeId;
use crate::limit::{Concurrency, Spike};
use crate::registry::{Accepts, Network};

use super::trailers::TrailerName;
use super::upgrade::UpgradeProtocol;

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
    /// The sources that must say by the PROXY protocol who a connection is from, and without whom none comes in; nobody is asked if
    /// this is absent.
    pub proxy_protocol: Option<Arc<[Network]>>,
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
    /// What is spoken to it.
    pub protocol: ServiceProtocol,
    /// What callers must present here, if this level says anything.
    pub accepts: Option<Accepts>,
    /// Between what the number of requests under way moves, if it is limited.
    pub concurrency: Option<Concurrency>,
    /// How callers are told why they get no answer from it.
    pub error_format: ErrorFormat,
    /// Whether its answers are looked through for secrets of ours.
    pub watch: Watch,
    /// What a connection may go over to from HTTP/1.1; nothing, unless it is listed.
    pub upgrades: Arc<[UpgradeProtocol]>,
    /// What it is told of the certificate that a caller came with.
    pub client_cert: ClientCert,
    /// What is asserted of callers under our signature, if anything is.
    pub assertion: Option<AssertionRules>,
    /// Whether it is told by the PROXY protocol who a raw connection is from.
    pub send_proxy: SendProxy,
    /// What may follow a body, either way; nothing, unless it is listed. For services that speak HTTP/1.
    pub trailers: Arc<[TrailerName]>,
}

/// Whether a service is told by the PROXY protocol who a raw connection is from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SendProxy {
    /// It is not.
    #[default]
    Off,
    /// In a header of version 2, with what TLS has told.
    V2,
}

/// What a local service speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ServiceProtocol {
    /// HTTP/2 in plaintext with prior knowledge (RFC 9113 §3.3); requests share a connection, trailers pass.
    H2c,
    /// HTTP/1.1, over pooled connections.
    #[default]
    Http1,
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
    /// What a connection may go over to from HTTP/1.1; nothing, unless it is listed.
    pub upgrades: Arc<[UpgradeProtocol]>,
}

/// What a remote speaks inside the TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RemoteProtocol {
    /// HTTP/2 (RFC 9113); local callers speak HTTP/1.1, or HTTP/2 with prior knowledge.
    H2,
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
    /// How many frames that carry nothing an HTTP/2 connection may send beyond those that go with requests and answers; none for
    /// as many as it likes.
    pub h2_control: Option<Spike>,
    /// How many of its requests an HTTP/2 connection may take back; none for all.
    pub h2_resets: Option<Spike>,
    /// Connections of one thread at a time.
    pub connections: usize,
    /// Connections of one thread and one source address at a time; an IPv6 network of 64 bits is one source.
    pub source_connections: usize,
    /// Connections of one thread and one app at a time, where its certificate says whose they are.
    pub app_connections: usize,
    /// TLS handshakes of one thread at a time; further ones wait, for as long as a handshake may take.
    pub handshakes: usize,
    /// How old an HTTP connection may become, give or take a tenth; none for any age.
    pub max_age: Option<Duration>,
    /// The least bytes a second of a request body that is waited for; none for any.
    pub body_rate: Option<u64>,
    /// Over how long a wait the rate of a body is taken.
    pub body_window: Duration,
    /// How much memory the agent may use before it takes in nobody more.
    pub memory: Ceiling,
    /// Idle connections kept to each upstream, by thread.
    pub pooled: usize,
    /// How often one source may present a key that proves nothing; none for as often as it likes.
    pub failed_keys: Option<Spike>,
}

/// A bound on memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ceiling {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what the machine or the control group has.
    Share(u8),
    /// None.
    Unlimited,
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
            h2_control: pace("100/s", 1000),
            h2_resets: pace("50/s", 500),
            connections: 20_000,
            source_connections: 5_000,
            app_connections: 5_000,
            handshakes: 1_000,
            max_age: Some(Duration::from_secs(24 * 3600)),
            body_rate: Some(500),
            body_window: Duration::from_secs(10),
            memory: Ceiling::Share(80),
            pooled: 512,
            failed_keys: pace("10/s", 100),
        }
    }
}

fn pace(rate: &str, burst: u32) -> Option<Spike> {
    rate.parse().ok().map(|rate| Spike::new(rate, burst))
}
