//! A service that speaks HTTP/2 in plaintext, and does about each stream what the test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::HeaderMap;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One stream's request head.
pub(crate) type Head = http::request::Parts;

/// A running service; stops when it is dropped.
pub(crate) struct H2cService {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Head>>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl H2cService {
    /// A service that answers each stream as `script` does.
    pub(crate) async fn answering<F, R>(script: F) -> Self
    where
        F: Fn(Head, RecvStream, SendResponse<Bytes>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Head>>>::default(), Arc::<AtomicUsize>::default());
        let (noted, counted) = (Arc::clone(&seen), Arc::clone(&connections));
        let serving = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (script, noted) = (script.clone(), Arc::clone(&noted));
                all.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (head, body) = request.into_parts();
                        noted.lock().unwrap().push(head.clone());
                        // The service says goodbye after a path that asks for it.
                        if head.uri.path() == "/goodbye" {
                            connection.graceful_shutdown();
                        }
                        tokio::spawn(script(head, body, respond));
                    }
                });
            }
        });
        Self { address, seen, connections, serving }
    }

    /// A service that sends every body back, with the trailers that came behind it.
    pub(crate) async fn echoing() -> Self {
        Self::answering(|_, body, respond| echo(body, respond)).await
    }

    /// Every head that it got so far.
    pub(crate) fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for H2cService {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Answers 200 with what comes, piece by piece, and its trailers.
pub(crate) async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let count = data.len();
        if !send(&mut stream, data).await {
            return;
        }
        body.flow_control().release_capacity(count).unwrap();
    }
    match body.trailers().await {
        Ok(Some(trailers)) => drop(stream.send_trailers(trailers)),
        Ok(None) => drop(stream.send_data(Bytes::new(), true)),
        Err(_) => {}
    }
}

/// Sends all of `data` as fast as it is taken; false when nobody takes it any more.
pub(crate) async fn send(stream: &mut h2::SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(granted)) = granted else { return false };
        if stream.send_data(data.split_to(granted.min(data.len())), false).is_err() {
            return false;
        }
    }
    true
}

/// Reads a body to its end.
pub(crate) async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok((whole, body.trailers().await?))
}
