//! HTTP/2 connections to whatever answers: the requests of a thread share them, and one that is gone is dialled anew.
//!
//! No PING is sent: gRPC servers hang up on who sends more than one in five minutes. A connection that is not used is closed,
//! and one on which a request timed out is not used for another.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::forward::{Failure, NOT_HTTP2, Resident, Route, TIMED_OUT, Way, dial_believed, may_go_on};
use super::relay::MAX_RESPONSE_HEAD;
use super::settings::Limits;
use super::upstream::{Bond, KEEP, LAST_STRETCH, PoolKey, Upstream, UpstreamIo};
use super::worker::Worker;
use crate::clock::Timestamp;

/// What a service may send of one answer before it must be taken.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Streams of one connection at a time; with more to do, another connection is made.
const MOST_STREAMS: u32 = 64;

/// Room for all streams of a connection: a caller that reads slowly must not stop the others that share it with him.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;

/// Bytes of body that wait in one stream for the service to take them.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset here and are still remembered, so that what was under way then is no error of the service's.
const RESETS: usize = 256;

/// How long streams may go on after a certificate has ended under their connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// A thread's shared connections.
#[derive(Debug, Default)]
pub(super) struct H2Pool {
    places: RefCell<HashMap<PoolKey, Rc<Place>>>,
}

impl H2Pool {
    fn place(&self, key: &PoolKey) -> Rc<Place> {
        if let Some(place) = self.places.borrow().get(key) {
            return Rc::clone(place);
        }
        Rc::clone(self.places.borrow_mut().entry(key.clone()).or_default())
    }

    /// Lets go of what is gone, or has been idle for too long; called now and then.
    pub(super) fn sweep(&self) {
        self.places.borrow_mut().retain(|_, place| {
            let mut connections = place.connections.borrow_mut();
            connections.retain(|shared| !shared.is_over());
            !connections.is_empty() || Rc::strong_count(place) > 1
        });
    }
}

/// The connections that lead to one place.
#[derive(Debug, Default)]
struct Place {
    connections: RefCell<Vec<Rc<Shared>>>,
    /// Held by whoever dials, so that a crowd of requests makes one connection and not one each.
    dialling: Mutex<()>,
}

impl Place {
    /// A place on the first connection that has one and may be used.
    fn seat(&self, worker: &Worker, route: &Route<'_>) -> Option<Seat> {
        let now = worker.now();
        let mut connections = self.connections.borrow_mut();
        // Who is on a connection that is not used any more holds it himself.
        connections.retain(|shared| !shared.is_unusable(now) && shared.is_believed(worker, route));
        let free = connections.iter().find(|shared| shared.has_room())?;
        Some(Seat::on(free))
    }
}

/// A connection that several requests share.
#[derive(Debug)]
struct Shared {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
    /// Whether it has answered before, so that a failure may only mean that the other side hung up meanwhile.
    served: Cell<bool>,
    until: Option<Timestamp>,
    bond: Option<Arc<Bond>>,
}

#[derive(Debug)]
struct State {
    streams: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Nothing new may begin on it.
    gone: Cell<bool>,
}

impl Shared {
    fn is_over(&self) -> bool {
        let State { streams, idle_since, gone } = &*self.state;
        gone.get() || streams.get() == 0 && idle_since.get().elapsed() >= KEEP
    }

    fn is_unusable(&self, now: Timestamp) -> bool {
        let ready = self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.is_over()
            || self.until.is_some_and(|until| until <= now + LAST_STRETCH)
            || matches!(ready, Poll::Ready(Err(_)))
    }

    fn is_believed(&self, worker: &Worker, route: &Route<'_>) -> bool {
        match (route, &self.bond) {
            (Route::Remote(resident), Some(bond)) => may_go_on(worker, resident, bond).is_ok(),
            (Route::Remote(_) | Route::Service(_), _) => true,
        }
    }

    fn has_room(&self) -> bool {
        let streams = self.state.streams.get();
        let allowed = u32::try_from(self.sender.current_max_send_streams()).unwrap_or(MOST_STREAMS);
        streams < allowed.min(MOST_STREAMS)
    }
}

/// One request's place on a shared connection; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Rc<Shared>,
}

impl Seat {
    fn on(shared: &Rc<Shared>) -> Self {
        let streams = &shared.state.streams;
        streams.set(streams.get() + 1);
        Self { shared: Rc::clone(shared) }
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) fn send(
        &self,
        request: http::Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.shared.sender.clone().send_request(request, ended)
    }

    /// Whether the connection has served before.
    pub(super) fn is_reused(&self) -> bool {
        self.shared.served.get()
    }

    /// An answer has come over the connection.
    pub(super) fn note_answer(&self) {
        self.shared.served.set(true);
    }

    /// Nothing was heard for too long: the next request goes by another connection.
    pub(super) fn suspect(&self) {
        self.shared.state.gone.set(true);
    }

    /// When the first of the two certificates ends under the connection, if it rests on any.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.shared.until
    }

    /// The two certificates themselves.
    pub(super) fn bond(&self) -> Option<Arc<Bond>> {
        self.shared.bond.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let State { streams, idle_since, .. } = &*self.shared.state;
        streams.set(streams.get().saturating_sub(1));
        idle_since.set(Instant::now());
    }
}

/// A place on a connection along `way`, dialling where none has room.
///
/// # Errors
/// What to tell the caller.
pub(super) async fn seat(
    worker: &Worker,
    route: &Route<'_>,
    way: &Way,
    limits: &Limits,
) -> Result<Seat, Failure> {
    let place = worker.shared.place(&way.key);
    if let Some(seat) = place.seat(worker, route) {
        return Ok(seat);
    }
    let turn = timeout(limits.connect, place.dialling.lock()).await;
    let _turn = turn.map_err(|_| Failure::Answer(TIMED_OUT))?;
    if let Some(seat) = place.seat(worker, route) {
        return Ok(seat);
    }
    let dialling = async {
        let upstream = dial_believed(worker, route, way, limits).await?;
        share(worker, route, upstream, limits).await
    };
    // Most exchanges never dial, and are small for it.
    let shared = Box::pin(dialling).await?;
    place.connections.borrow_mut().push(Rc::clone(&shared));
    Ok(Seat::on(&shared))
}

/// Begins HTTP/2 on a fresh connection, and sees to it from now on.
async fn share(
    worker: &Worker,
    route: &Route<'_>,
    upstream: Upstream,
    limits: &Limits,
) -> Result<Rc<Shared>, Failure> {
    let Upstream { io, until, bond, .. } = upstream;
    if let UpstreamIo::Tls(stream) = &io
        && stream.get_ref().1.alpn_protocol() != Some(b"h2")
    {
        worker.metrics.upstream_failures.inc();
        tracing::warn!(target: "postern::proxy", to = route.name(), "the remote does not speak HTTP/2");
        return Err(Failure::Answer(NOT_HTTP2));
    }
    let header_list = u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX);
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS)
        .handshake(io);
    let begun = timeout(limits.connect, handshake).await.map_err(|_| Failure::Answer(TIMED_OUT))?;
    let (sender, connection) = begun.map_err(|error| {
        worker.metrics.upstream_failures.inc();
        tracing::warn!(target: "postern::proxy", to = route.name(), %error, "HTTP/2 did not begin");
        Failure::Answer(NOT_HTTP2)
    })?;
    let state =
        State { streams: Cell::new(0), idle_since: Cell::new(Instant::now()), gone: Cell::new(false) };
    let state = Rc::new(state);
    let ground = match (route, &bond) {
        (Route::Remote(resident), Some(bond)) => Some((resident.twin(), Arc::clone(bond))),
        (Route::Remote(_) | Route::Service(_), _) => None,
    };
    tokio::task::spawn_local(drive(worker.weak(), connection, Rc::clone(&state), ground));
    Ok(Rc::new(Shared { sender, state, served: Cell::new(false), until, bond }))
}

/// Moves the bytes of a connection until it ends, or must not go on: it is cut when what it rests on is not believed any more.
/// It ends by itself when nobody holds it.
async fn drive(
    worker: Weak<Worker>,
    mut connection: Connection<UpstreamIo, Bytes>,
    state: Rc<State>,
    ground: Option<(Resident, Arc<Bond>)>,
) {
    let ended = match (ground, worker.upgrade()) {
        (Some((resident, bond)), Some(worker)) => {
            guard(&worker, &mut connection, &state, &resident, &bond).await
        }
        (Some(_) | None, _) => connection.await,
    };
    state.gone.set(true);
    if let Err(error) = ended {
        tracing::debug!(target: "postern::proxy", %error, "an HTTP/2 connection to an upstream ended");
    }
}

/// [`drive`] for a connection that rests on two certificates.
async fn guard(
    worker: &Worker,
    connection: &mut Connection<UpstreamIo, Bytes>,
    state: &State,
    resident: &Resident,
    bond: &Bond,
) -> Result<(), h2::Error> {
    let mut signal = worker.signal.clone();
    signal.mark_unchanged();
    let mut end = std::pin::pin!(sleep_until(worker.moment(bond.until)));
    let (mut valid, mut listening) = (true, true);
    loop {
        tokio::select! {
            biased;
            ended = &mut *connection => return ended,
            () = &mut end => {
                if !valid {
                    return Ok(());
                }
                valid = false;
                state.gone.set(true);
                if state.streams.get() > 0 {
                    worker.note_expiry();
                }
                end.as_mut().reset(Instant::now() + FAREWELL);
            }
            changed = signal.changed(), if listening => {
                listening = changed.is_ok();
                if may_go_on(worker, resident, bond).is_err() {
                    return Ok(());
                }
                if valid {
                    end.as_mut().reset(worker.moment(bond.until));
                }
            }
        }
    }
}
