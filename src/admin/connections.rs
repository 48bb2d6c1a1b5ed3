//! Takes connections and serves one request on each, so that nobody can keep the door occupied.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Where connections come from.
pub(super) trait Source {
    /// What a connection is.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn poll_next(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Source for TcpListener {
    type Stream = TcpStream;

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Source for UnixListener {
    type Stream = UnixStream;

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

/// Bounds on what a caller may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at a time; more wait to be accepted.
    pub(super) connections: usize,
    /// From accept to the end of the request's head.
    pub(super) head: Duration,
    /// From accept to the end of the answer.
    pub(super) exchange: Duration,
}

/// The longest request head, in bytes.
const HEAD_SIZE: usize = 16 * 1024;

/// How long to wait when the system gives no connection, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts from `source` until `shutdown`, and lets `begin` make each connection's handler.
///
/// What is under way at the end is finished, as far as that takes no longer than [`FAREWELL`].
pub(super) async fn serve<S, B, H, F>(source: S, bounds: Bounds, begin: B, shutdown: impl Future<Output = ()>)
where
    S: Source,
    B: Fn(&S::Stream) -> H,
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let seats = Arc::new(Semaphore::new(bounds.connections));
    let mut guests = JoinSet::new();
    loop {
        while guests.try_join_next().is_some() {}
        let next = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (seat, poll_fn(|context| source.poll_next(context)).await)
        };
        let (seat, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok(stream) => {
                let handler = begin(&stream);
                guests.spawn(async move {
                    exchange(stream, bounds, handler).await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Another process may have the same socket, and whoever waits there is for it.
    drop(source);
    drop(tokio::time::timeout(FAREWELL, async { while guests.join_next().await.is_some() {} }).await);
}

/// Whoever is being answered at the end has this long.
const FAREWELL: Duration = Duration::from_secs(2);

async fn exchange<T, H, F>(stream: T, bounds: Bounds, handler: H)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let answer = move |request| {
        let answer = handler(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .keep_alive(false)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    match tokio::time::timeout(bounds.exchange, connection).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::debug!(%error, "connection broken off"),
        Err(_) => tracing::debug!("connection took too long"),
    }
}
