//! A caller that keeps its sessions from one connection to the next, as real clients do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Identity, Talk, Tls, soon};

/// Both versions that a door may speak, by their names.
pub(crate) const VERSIONS: [(&str, &SupportedProtocolVersion); 2] =
    [("TLS 1.2", &rustls::version::TLS12), ("TLS 1.3", &rustls::version::TLS13)];

/// What became of one request on a connection of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Answered with this status after a full handshake.
    Full(u16),
    /// No answer at all.
    Refused,
    /// Answered with this status in a session that was made earlier.
    Resumed(u16),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(status) => write!(f, "full, {status}"),
            Self::Refused => f.write_str("refused"),
            Self::Resumed(status) => write!(f, "resumed, {status}"),
        }
    }
}

/// A caller with one certificate, or none, and all the sessions that it was ever given.
#[derive(Clone)]
pub(crate) struct Resumer {
    pub(crate) config: Arc<ClientConfig>,
}

impl Resumer {
    /// A caller of one TLS version that believes servers called `localhost` under `roots`.
    pub(crate) fn new(
        version: &'static SupportedProtocolVersion,
        roots: &[CertificateDer<'static>],
        identity: Option<&Identity>,
    ) -> Self {
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.clone()).unwrap());
        let builder =
            ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(store);
        let config = match identity {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config) }
    }

    /// The same caller, sessions included, that shows what `wardrobe` holds at the moment.
    pub(crate) fn dressed_from(&self, wardrobe: &Arc<Wardrobe>) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        let wardrobe: Arc<Wardrobe> = Arc::clone(wardrobe);
        config.client_auth_cert_resolver = wardrobe;
        Self { config: Arc::new(config) }
    }

    /// The same caller, sessions included, that offers these application protocols.
    pub(crate) fn offering(&self, protocols: &[&[u8]]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self { config: Arc::new(config) }
    }

    /// Connects and completes the handshake; how it went is seen at the connection.
    pub(crate) async fn dial(&self, address: SocketAddr) -> io::Result<Tls> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        soon("a handshake", connector.connect("localhost".try_into().unwrap(), stream)).await
    }

    /// A request on a connection of its own.
    pub(crate) async fn call(&self, address: SocketAddr) -> Outcome {
        self.ask(address, "").await
    }

    /// A request with further field lines on a connection of its own.
    pub(crate) async fn ask(&self, address: SocketAddr, lines: &str) -> Outcome {
        let Ok(stream) = self.dial(address).await else { return Outcome::Refused };
        let mut talk = Talk::new(stream);
        let request = format!("GET /a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n");
        if talk.try_send(request).await.is_err() {
            return Outcome::Refused;
        }
        let Ok(answer) = talk.try_answer(false).await else { return Outcome::Refused };
        match talk.io.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => Outcome::Resumed(answer.status),
            Some(_) | None => Outcome::Full(answer.status),
        }
    }
}

/// A certificate that is replaced while its holder runs, as those who renew in time do.
#[derive(Debug)]
pub(crate) struct Wardrobe(ArcSwap<CertifiedKey>);

impl Wardrobe {
    pub(crate) fn with(identity: &Identity) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from(certified(identity))))
    }

    pub(crate) fn replace(&self, identity: &Identity) {
        self.0.store(certified(identity));
    }
}

impl ResolvesClientCert for Wardrobe {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider).unwrap().into()
}

/// The first half of the first message of a handshake.
pub(crate) fn half_a_hello() -> Vec<u8> {
    let caller = Resumer::new(&rustls::version::TLS13, &[], None);
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(caller.config, "localhost".try_into().unwrap()).unwrap();
    client.write_tls(&mut hello).unwrap();
    hello.truncate(hello.len() / 2);
    hello
}
