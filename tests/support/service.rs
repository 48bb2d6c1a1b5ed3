//! A service behind the agent: it notes what it was asked, and does what the test says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Which connection of the service it came by, from 0.
    pub(crate) connection: usize,
    /// The head, byte for byte.
    pub(crate) head: String,
    /// The body, taken out of its chunks; what was read of it.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// All values of the fields called `name`, whatever its case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

/// What the service does about a request, one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Hangs up.
    Close,
    /// Reads the body and answers 200 with it.
    Echo,
    /// Sends back whatever comes from now on, HTTP or not, until the other side is done.
    EchoRaw,
    /// Waits without a word.
    Pause(Duration),
    /// Reads the body to its end.
    ReadBody,
    /// Sends these bytes.
    Send(Vec<u8>),
}

/// Reads the body, and a small 200.
pub(crate) fn ok() -> Vec<Act> {
    vec![Act::ReadBody, Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n".to_vec())]
}

/// A running service; stops when it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl Service {
    /// A service on TCP that answers 200 to everything.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| ok()).await
    }

    /// A service on TCP that answers as `script` says.
    pub(crate) async fn answering(script: impl Fn(&Seen) -> Vec<Act> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::default();
        let seen = Arc::clone(&state.seen);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(state.clone().serve(stream, script.clone()));
            }
        });
        Self { address, seen, serving }
    }

    /// A service on a Unix socket at `path` that answers 200 to everything.
    pub(crate) fn on_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = State::default();
        let seen = Arc::clone(&state.seen);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(state.clone().serve(stream, |_: &Seen| ok()));
            }
        });
        Self { address: ([0, 0, 0, 0], 0).into(), seen, serving }
    }

    /// A raw service on TCP that sends back what it gets, with `greeting` in front.
    pub(crate) async fn echoing(greeting: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        Self { address, seen: Arc::default(), serving }
    }

    /// Everything that it was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last thing that it was asked.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Where a Unix socket may lie: paths of sockets must be short.
pub(crate) fn socket_path(folder: &Path) -> PathBuf {
    folder.join("app.sock")
}

#[derive(Clone, Default)]
struct State {
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl State {
    async fn serve<S>(self, mut io: S, script: impl Fn(&Seen) -> Vec<Act>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut unread = Vec::new();
        while let Some(end) = fill_until(&mut io, &mut unread, b"\r\n\r\n").await {
            let head = String::from_utf8(unread.drain(..end).collect()).unwrap();
            let seen = Seen { connection, head, body: Vec::new() };
            let number = {
                let mut all = self.seen.lock().unwrap();
                all.push(seen.clone());
                all.len() - 1
            };
            for act in script(&seen) {
                match act {
                    Act::Close => return,
                    Act::Echo => {
                        let Some(body) = read_body(&mut io, &mut unread, &seen).await else { return };
                        self.seen.lock().unwrap()[number].body.clone_from(&body);
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        let answer = [head.as_bytes(), &body].concat();
                        if io.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                    Act::EchoRaw => {
                        while !unread.is_empty()
                            || io.read_buf(&mut unread).await.is_ok_and(|count| count > 0)
                        {
                            let bytes = std::mem::take(&mut unread);
                            if io.write_all(&bytes).await.is_err() {
                                return;
                            }
                        }
                        return;
                    }
                    Act::Pause(span) => tokio::time::sleep(span).await,
                    Act::ReadBody => {
                        let Some(body) = read_body(&mut io, &mut unread, &seen).await else { return };
                        self.seen.lock().unwrap()[number].body = body;
                    }
                    Act::Send(bytes) => {
                        if io.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

async fn read_body<S: AsyncRead + Unpin>(io: &mut S, unread: &mut Vec<u8>, seen: &Seen) -> Option<Vec<u8>> {
    if seen.values("transfer-encoding") == ["chunked"] {
        let mut body = Vec::new();
        loop {
            let end = fill_until(io, unread, b"\r\n").await?;
            let line: Vec<u8> = unread.drain(..end).collect();
            let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim_end(), 16).unwrap();
            fill(io, unread, size + 2).await?;
            body.extend(unread.drain(..size));
            let end: Vec<u8> = unread.drain(..2).collect();
            assert_eq!(end, b"\r\n", "a chunk without an end, or a trailer");
            if size == 0 {
                return Some(body);
            }
        }
    }
    let length = seen.values("content-length").first().map_or(0, |length| length.parse().unwrap());
    fill(io, unread, length).await?;
    Some(unread.drain(..length).collect())
}

async fn fill<S: AsyncRead + Unpin>(io: &mut S, unread: &mut Vec<u8>, count: usize) -> Option<()> {
    while unread.len() < count {
        if io.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

/// Reads until `mark` has come; where it ends.
async fn fill_until<S: AsyncRead + Unpin>(io: &mut S, unread: &mut Vec<u8>, mark: &[u8]) -> Option<usize> {
    loop {
        if let Some(at) = unread.windows(mark.len()).position(|window| window == mark) {
            return Some(at + mark.len());
        }
        if io.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}
