//! Callers: raw bytes of HTTP/1 over any stream, and HTTP/2 over TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Identity, soon};

/// A caller's end of a TLS connection.
pub(crate) type Tls = TlsStream<TcpStream>;

/// Connects and completes the handshake; the server is believed by `roots` and the name `localhost`.
pub(crate) async fn dial(
    address: SocketAddr,
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    protocol: &str,
) -> io::Result<Tls> {
    handshake(TcpStream::connect(address).await?, roots, identity, protocol).await
}

/// Completes the handshake on a connection, wherever it comes from.
pub(crate) async fn handshake(
    stream: TcpStream,
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    protocol: &str,
) -> io::Result<Tls> {
    handshake_for("localhost", stream, roots, identity, protocol).await
}

/// The same, but asks for the server called `name`.
pub(crate) async fn handshake_for(
    name: &'static str,
    stream: TcpStream,
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    protocol: &str,
) -> io::Result<Tls> {
    stream.set_nodelay(true)?;
    let name = name.try_into().unwrap();
    soon("a handshake", connector(roots, identity, protocol).connect(name, stream)).await
}

/// What connects; its sessions are resumed among its connections.
pub(crate) fn connector(
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    protocol: &str,
) -> TlsConnector {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let mut config = match identity {
        Some(Identity { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    }
    TlsConnector::from(Arc::new(config))
}

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// With names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The `code` of a problem document; empty for anything else.
    pub(crate) fn code(&self) -> String {
        if self.header("content-type") != Some("application/problem+json") || self.body.is_empty() {
            return String::new();
        }
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// An HTTP/1 conversation over `S`.
pub(crate) struct Talk<S> {
    pub(crate) io: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(crate) const fn new(io: S) -> Self {
        Self { io, unread: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        self.io.flush().await
    }

    /// Sends a GET for `path` with further field lines, each ended by CR LF, and reads the answer.
    pub(crate) async fn get(&mut self, path: &str, lines: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n")).await
    }

    /// Sends a whole request and reads the answer.
    pub(crate) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer(false).await.unwrap()
    }

    /// The answer to a HEAD, which has no body whatever it announces.
    pub(crate) async fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).await.unwrap()
    }

    /// The next answer, an interim one included.
    pub(crate) async fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        soon("an answer", self.read_answer(to_head)).await
    }

    async fn read_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break self.take(end + 4);
            }
            self.more().await?;
        };
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap();
        assert!(status.starts_with("HTTP/1.1 "), "no status line: {status}");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status: status[9..12].parse().unwrap(), headers, body: Vec::new() };
        let bodiless = to_head || answer.status < 200 || matches!(answer.status, 204 | 304);
        if bodiless {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.read_chunks().await?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            while self.unread.len() < length {
                self.more().await?;
            }
            answer.body = self.take(length);
        } else {
            answer.body = self.rest().await;
        }
        Ok(answer)
    }

    async fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match find(&self.unread, b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let line = String::from_utf8(self.take(end + 2)).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            while self.unread.len() < size + 2 {
                self.more().await?;
            }
            body.extend(self.take(size));
            assert_eq!(self.take(2), b"\r\n");
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Everything until the other side hangs up, in whatever manner.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        soon("the end of the connection", async { while self.more().await.is_ok() {} }).await;
        std::mem::take(&mut self.unread)
    }

    /// Whether the other side has said nothing more and closed.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.rest().await.is_empty()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.unread.drain(..count).collect()
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.io.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct H2 {
    sender: h2::client::SendRequest<Bytes>,
    /// Its other end goes with the connection.
    open: watch::Receiver<()>,
}

impl H2 {
    pub(crate) async fn new(io: Tls) -> Self {
        let (sender, connection) = soon("HTTP/2", h2::client::handshake(io)).await.unwrap();
        let (ended, open) = watch::channel(());
        tokio::spawn(async move {
            drop(connection.await);
            drop(ended);
        });
        Self { sender, open }
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.has_changed().is_err()
    }

    /// Waits until the connection has ended, in whatever manner.
    pub(crate) async fn closed(mut self) {
        while soon("the end of the connection", self.open.changed()).await.is_ok() {}
    }

    /// Sends a GET for `path` with further fields.
    pub(crate) async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = http::Request::get(format!("https://localhost{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.ask(request.body(()).unwrap(), None, None).await.unwrap()
    }

    /// Sends a request with a body and trailers, if there are any, and reads the whole answer.
    pub(crate) async fn ask(
        &self,
        request: http::Request<()>,
        body: Option<Bytes>,
        trailers: Option<http::HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        soon("an answer over HTTP/2", async {
            let mut sender = self.sender.clone().ready().await?;
            let ended = body.is_none() && trailers.is_none();
            let (response, mut stream) = sender.send_request(request, ended)?;
            if let Some(mut body) = body {
                while !body.is_empty() {
                    stream.reserve_capacity(body.len());
                    let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    let Some(Ok(granted)) = granted else { break };
                    // Who has answered already may take no more of the body.
                    if stream.send_data(body.split_to(granted.min(body.len())), false).is_err() {
                        break;
                    }
                }
                if trailers.is_none() {
                    drop(stream.send_data(Bytes::new(), true));
                }
            }
            if let Some(trailers) = trailers {
                stream.send_trailers(trailers)?;
            }
            let (parts, mut received) = response.await?.into_parts();
            let mut answer = Answer { status: parts.status.as_u16(), headers: Vec::new(), body: Vec::new() };
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            answer.headers.extend(parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))));
            while let Some(data) = received.data().await {
                let data = data?;
                received.flow_control().release_capacity(data.len())?;
                answer.body.extend_from_slice(&data);
            }
            Ok(answer)
        })
        .await
    }
}
