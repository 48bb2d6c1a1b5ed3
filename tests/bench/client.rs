//! One caller: connects with its certificate, verifies the server, sends a request and reads the answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::{io, path::Path};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Arguments, Exchange, Mode};

/// A caller's end of a connection.
pub(crate) type Stream = TlsStream<TcpStream>;

/// Everything that the connections of one run have in common.
pub(crate) struct Client {
    target: SocketAddr,
    name: ServerName<'static>,
    tls: ClientConfig,
    /// A request that keeps the connection.
    pub(crate) keep: Vec<u8>,
    /// The same request, asking to close.
    pub(crate) close: Vec<u8>,
    /// The same request for HTTP/2.
    pub(crate) h2: http::Request<()>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the server did not choose HTTP/2")]
    Alpn,
    #[error("the server closed the connection inside an answer")]
    Closed,
    #[error("HTTP/2: {0}")]
    H2(#[from] h2::Error),
    #[error("the answer is not HTTP/1.1 with a content-length")]
    Head,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("no answer in time")]
    Timeout,
}

impl Client {
    /// Reads certificates and keys and prepares the requests.
    pub(crate) fn new(target: SocketAddr, arguments: &Arguments) -> anyhow::Result<Self> {
        let name = arguments.server_name.clone().context("--server-name is missing")?;
        let headers: String =
            arguments.header.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let keep = format!("GET {} HTTP/1.1\r\nhost: {name}\r\n{headers}\r\n", arguments.path);
        let close =
            format!("GET {} HTTP/1.1\r\nhost: {name}\r\n{headers}connection: close\r\n\r\n", arguments.path);
        let h2 = arguments.header.iter().fold(
            http::Request::get(format!("https://{name}{}", arguments.path)),
            |request, (name, value)| request.header(name, value),
        );
        Ok(Self {
            target,
            tls: tls(arguments)?,
            name: ServerName::try_from(name)?,
            keep: keep.into_bytes(),
            close: close.into_bytes(),
            h2: h2.body(())?,
        })
    }

    /// A connector with an empty ticket store of its own.
    pub(crate) fn connector(&self, mode: Mode) -> TlsConnector {
        let mut tls = self.tls.clone();
        tls.resumption = match mode {
            Mode::Resume => Resumption::in_memory_sessions(8),
            Mode::Body
            | Mode::Handshake
            | Mode::H2
            | Mode::Idle
            | Mode::Keepalive
            | Mode::Paced
            | Mode::Tcp => Resumption::disabled(),
        };
        TlsConnector::from(Arc::new(tls))
    }

    /// Connects and completes the handshake.
    pub(crate) async fn connect(&self, connector: &TlsConnector) -> Result<Stream, Failure> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(connector.connect(self.name.clone(), stream).await?)
    }
}

/// Suite, key exchange and protocol of a connection.
pub(crate) fn negotiated(stream: &Stream) -> String {
    let connection = stream.get_ref().1;
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    let alpn = connection.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
    format!("{suite:?} {group:?} {alpn}").replace("Some(", "").replace(')', "")
}

/// Whether a connection's handshake was a resumption.
pub(crate) fn resumed(stream: &Stream) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Sends `request` and reads the whole answer; tells the length of its body.
pub(crate) async fn exchange(
    stream: &mut Stream,
    request: &[u8],
    buffer: &mut BytesMut,
) -> Result<u64, Failure> {
    stream.write_all(request).await?;
    stream.flush().await?;
    buffer.clear();
    let (head, length) = loop {
        buffer.reserve(ROOM);
        if stream.read_buf(buffer).await? == 0 {
            return Err(Failure::Closed);
        }
        if let Some(answer) = answer_head(buffer)? {
            break answer;
        }
    };
    let mut have = u64::try_from(buffer.len().saturating_sub(head)).unwrap_or(u64::MAX);
    while have < length {
        buffer.clear();
        buffer.reserve(ROOM);
        let read = stream.read_buf(buffer).await?;
        if read == 0 {
            return Err(Failure::Closed);
        }
        have += u64::try_from(read).unwrap_or(0);
    }
    Ok(length)
}

/// The sizes of head and body, once the head is complete.
fn answer_head(buffer: &[u8]) -> Result<Option<(usize, u64)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(buffer).map_err(|_| Failure::Head)? else {
        return Ok(None);
    };
    match answer.code {
        Some(200..=299) => (),
        code => return Err(Failure::Status(code.unwrap_or(0))),
    }
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    length.map(|length| Some((head, length))).ok_or(Failure::Head)
}

/// Sends the request in a stream of its own and reads the whole answer; tells the length of its body.
pub(crate) async fn exchange_h2(
    sender: &h2::client::SendRequest<Bytes>,
    request: &http::Request<()>,
) -> Result<u64, Failure> {
    let mut sender = sender.clone().ready().await?;
    let (answer, _) = sender.send_request(request.clone(), true)?;
    let answer = answer.await?;
    if !answer.status().is_success() {
        return Err(Failure::Status(answer.status().as_u16()));
    }
    let mut body = answer.into_body();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        length += u64::try_from(chunk.len()).unwrap_or(0);
    }
    Ok(length)
}

/// The same offer to every server: AES-128-GCM first, ALPN as the mode needs it, the server verified by its root.
fn tls(arguments: &Arguments) -> anyhow::Result<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: match arguments.exchange {
            Exchange::Classical => vec![aws_lc_rs::kx_group::X25519],
            Exchange::Hybrid => vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        },
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(arguments.ca.as_deref().context("--ca is missing")?)? {
        roots.add(root)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match (&arguments.cert, &arguments.key) {
        (Some(chain), Some(key)) => {
            let read = PrivateKeyDer::from_pem_file(key).with_context(|| format!("{}", key.display()))?;
            tls.with_client_auth_cert(certificates(chain)?, read)?
        }
        _ => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = match arguments.mode {
        Mode::H2 => vec![b"h2".to_vec()],
        Mode::Tcp => Vec::new(),
        Mode::Body | Mode::Handshake | Mode::Idle | Mode::Keepalive | Mode::Paced | Mode::Resume => {
            vec![b"http/1.1".to_vec()]
        }
    };
    Ok(tls)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| format!("{}", path.display()))?;
    anyhow::ensure!(!read.is_empty(), "{}: holds no certificate", path.display());
    Ok(read)
}

/// Room for one TLS record.
const ROOM: usize = 16_384;
