//! The data plane's threads: one per core, each with its own runtime, its own sockets and its own pools.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::context::{PlaneContext, Signal};
use super::worker::Worker;
use super::{inbound, outbound};
use crate::id::{ListenerId, RemoteId};
use crate::store::socket_file::{self, SocketError};
use crate::telemetry::Remembered;

/// A door that can be opened on every thread.
#[derive(Debug)]
pub struct Opening {
    door: Door,
    /// What each thread takes callers from.
    shares: Vec<Vec<Socket>>,
    /// All sockets once more.
    kept: Vec<Socket>,
}

/// A door's name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Door {
    /// From outside.
    Inbound(ListenerId),
    /// To outside, by loopback TCP.
    OutboundTcp(RemoteId),
    /// To outside, by Unix socket.
    OutboundUnix(RemoteId),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound(listener) => write!(f, "the listener {listener}"),
            Self::OutboundTcp(remote) => write!(f, "the local port of {remote}"),
            Self::OutboundUnix(remote) => write!(f, "the local socket of {remote}"),
        }
    }
}

/// A bound, listening socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

impl Socket {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// The system gives none.
    pub fn share(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Why the data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// A socket cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A Unix socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A thread cannot be started.
    #[error("cannot start a data-plane thread")]
    Thread(#[source] io::Error),
}

enum Order {
    Close(Door),
    Open(Door, Vec<Socket>),
    Recall(String, oneshot::Sender<Option<Remembered>>),
    Rename(Vec<(ListenerId, ListenerId)>),
}

/// A way to ask all threads what they remember, which does not keep them from ending.
#[derive(Clone, Debug)]
pub struct Recollection(Vec<mpsc::WeakUnboundedSender<Order>>);

impl Recollection {
    /// Whether every thread answers, which it does when it comes to it.
    pub async fn is_alive(&self) -> bool {
        let mut answers = Vec::new();
        for orders in self.0.iter().filter_map(mpsc::WeakUnboundedSender::upgrade) {
            let (reply, answer) = oneshot::channel();
            if orders.send(Order::Recall(String::new(), reply)).is_err() {
                return false;
            }
            answers.push(answer);
        }
        for answer in answers {
            if answer.await.is_err() {
                return false;
            }
        }
        true
    }

    /// The latest decision on a request with this id, if some thread remembers it still.
    pub async fn of(&self, request_id: &str) -> Option<Remembered> {
        let mut answers = Vec::new();
        for orders in self.0.iter().filter_map(mpsc::WeakUnboundedSender::upgrade) {
            let (reply, answer) = oneshot::channel();
            if orders.send(Order::Recall(request_id.to_owned(), reply)).is_ok() {
                answers.push(answer);
            }
        }
        let mut latest: Option<Remembered> = None;
        for answer in answers {
            let found = answer.await.ok().flatten();
            latest = latest.into_iter().chain(found).max_by_key(|one| one.at);
        }
        latest
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Plane {
    threads: Vec<(mpsc::UnboundedSender<Order>, JoinHandle<()>)>,
    signal: watch::Sender<Signal>,
    /// Every open socket once more, for whoever takes them over.
    kept: HashMap<Door, Vec<Socket>>,
}

/// With whom an address may be shared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// With a door of our own that is about to close.
    Heir,
    /// With nobody.
    Sole,
}

impl Plane {
    /// Starts `threads` threads without any door.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(threads: usize, context: &PlaneContext) -> Result<Self, PlaneError> {
        let (signal, heard) = watch::channel(Signal::default());
        let threads = (0..threads.max(1)).map(|number| spawn(number, context.clone(), heard.clone()));
        let threads = threads.collect::<Result<_, _>>().map_err(PlaneError::Thread)?;
        Ok(Self { threads, signal, kept: HashMap::new() })
    }

    /// A way to ask the threads what they remember.
    #[must_use]
    pub fn recollection(&self) -> Recollection {
        Recollection(self.threads.iter().map(|(orders, _)| orders.downgrade()).collect())
    }

    /// How many threads there are, and so how many sockets a door needs.
    #[must_use]
    pub fn width(&self) -> usize {
        self.threads.len()
    }

    /// Binds one TCP socket for each thread, all on one address (SO_REUSEPORT). Port 0 is chosen once for all of them.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind_tcp(&self, address: SocketAddr, claim: Claim) -> Result<Vec<Socket>, PlaneError> {
        if claim == Claim::Sole {
            free(address).map_err(|source| PlaneError::Bind { address: address.to_string(), source })?;
        }
        let mut address = address;
        (0..self.width())
            .map(|_| {
                let listener = bind_tcp(address)
                    .map_err(|source| PlaneError::Bind { address: address.to_string(), source })?;
                address = listener.local_addr().unwrap_or(address);
                Ok(Socket::Tcp(listener))
            })
            .collect()
    }

    /// Binds a Unix socket at `path`, for owner and group alone. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// The path cannot be bound, or somebody else listens there.
    pub fn bind_unix(&self, path: &std::path::Path) -> Result<Vec<Socket>, PlaneError> {
        Ok(vec![Socket::Unix(socket_file::listen(path)?)])
    }

    /// Gives each thread its share of `sockets`, each of which has a queue of callers of its own. Where there are fewer than
    /// threads, threads share them; where there are more, threads have several: no queue is without somebody who takes callers
    /// from it.
    ///
    /// # Errors
    /// The system gives no descriptors.
    pub fn share_out(&self, door: Door, sockets: Vec<Socket>) -> Result<Opening, PlaneError> {
        let fail = |source| PlaneError::Bind { address: door.to_string(), source };
        let mut shares: Vec<Vec<Socket>> = self.threads.iter().map(|_| Vec::new()).collect();
        for (thread, queue) in allot(shares.len(), sockets.len()) {
            if let (Some(share), Some(socket)) = (shares.get_mut(thread), sockets.get(queue)) {
                share.push(socket.share().map_err(fail)?);
            }
        }
        Ok(Opening { door, shares, kept: sockets })
    }

    /// Opens a door on every thread.
    pub fn open(&mut self, opening: Opening) {
        let Opening { door, shares, kept } = opening;
        for ((orders, _), share) in self.threads.iter().zip(shares) {
            // A thread that is gone takes no orders; its end was reported when it happened.
            drop(orders.send(Order::Open(door.clone(), share)));
        }
        self.kept.insert(door, kept);
    }

    /// Closes a door. Connections that came in by it live on.
    pub fn close(&mut self, door: &Door) {
        self.kept.remove(door);
        self.tell_to_close(door);
    }

    fn tell_to_close(&self, door: &Door) {
        for (orders, _) in &self.threads {
            drop(orders.send(Order::Close(door.clone())));
        }
    }

    /// Gives open listeners other names, from the first to the second of each pair, all at once. Their sockets stay, so that
    /// nobody who waits at them is turned away: the system resets whoever has not been accepted when a socket closes.
    pub fn rename(&mut self, names: &[(ListenerId, ListenerId)]) {
        let inbound = |id: &ListenerId| Door::Inbound(id.clone());
        // Two may have swapped their names.
        let found = names.iter().map(|(from, to)| (self.kept.remove(&inbound(from)), inbound(to)));
        for (sockets, to) in found.collect::<Vec<_>>() {
            sockets.and_then(|sockets| self.kept.insert(to, sockets));
        }
        for (orders, _) in &self.threads {
            drop(orders.send(Order::Rename(names.to_vec())));
        }
    }

    /// The open doors and their sockets, for whoever takes them over.
    ///
    /// # Errors
    /// The system gives no descriptors.
    pub fn sockets(&self) -> io::Result<Vec<(Door, Vec<Socket>)>> {
        let shared = self.kept.iter().map(|(door, sockets)| {
            Ok((door.clone(), sockets.iter().map(Socket::share).collect::<io::Result<_>>()?))
        });
        shared.collect()
    }

    /// Leaves all doors to another process that has their sockets: nobody new is taken in, and who is here goes at leisure until
    /// `within` has passed, for there is somebody to go to. HTTP/1 connections are closed with the answer to their next request,
    /// HTTP/2 ones say GOAWAY, all at moments of their own.
    pub fn leave(&self, within: Duration) {
        for door in self.kept.keys() {
            self.tell_to_close(door);
        }
        self.signal.send_modify(|signal| {
            signal.heir = true;
            signal.drain_by(Instant::now() + within);
        });
    }

    /// Has every live connection looked at again: a new snapshot is in force.
    pub fn announce_change(&self) {
        self.signal.send_modify(|signal| signal.changes = signal.changes.wrapping_add(1));
    }

    /// A way to cut a drain short.
    #[must_use]
    pub fn scissors(&self) -> Scissors {
        Scissors(self.signal.clone())
    }

    /// Closes all doors, lets requests that are under way finish, and returns when the last connection has ended or `within` has
    /// passed, which may have begun before. Blocks.
    pub fn drain(self, within: Duration) {
        self.signal.send_modify(|signal| signal.drain_by(Instant::now() + within));
        // Nobody may wait at a socket from which nobody takes callers any more.
        drop(self.kept);
        let (orders, threads): (Vec<_>, Vec<_>) = self.threads.into_iter().unzip();
        drop(orders);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread had panicked");
            }
        }
    }
}

/// Which thread takes callers from which queue.
fn allot(threads: usize, queues: usize) -> impl Iterator<Item = (usize, usize)> {
    let rounds = if threads == 0 || queues == 0 { 0 } else { threads.max(queues) };
    (0..rounds).map(move |round| (round % threads, round % queues))
}

/// Cuts a drain short; see [`Plane::scissors`].
#[derive(Clone, Debug)]
pub struct Scissors(watch::Sender<Signal>);

impl Scissors {
    /// Whoever is still here goes no further.
    pub fn cut(&self) {
        self.0.send_modify(|signal| signal.drain_by(Instant::now()));
    }
}

fn spawn(
    number: usize,
    context: PlaneContext,
    signal: watch::Receiver<Signal>,
) -> io::Result<(mpsc::UnboundedSender<Order>, JoinHandle<()>)> {
    let (orders, received) = mpsc::unbounded_channel();
    let thread = std::thread::Builder::new().name(format!("data-{number}")).spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(run(context, received, signal)),
            Err(error) => tracing::error!(%error, "a data-plane thread has no event queue"),
        }
    })?;
    Ok((orders, thread))
}

async fn run(
    context: PlaneContext,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut signal: watch::Receiver<Signal>,
) {
    let worker = Worker::new(&context, signal.clone());
    tokio::task::spawn_local(Rc::clone(&worker).flush_log());
    tokio::task::spawn_local(Rc::clone(&worker).sweep_pool());
    tokio::task::spawn_local(Rc::clone(&worker).keep_turns());
    tokio::task::spawn_local(Rc::clone(&worker).hand_over_usage());
    let mut doors: HashMap<Door, Vec<AbortHandle>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Close(door) => {
                doors.remove(&door).into_iter().flatten().for_each(|accepting| accepting.abort());
            }
            Order::Open(door, sockets) => {
                let accepting = sockets.into_iter().map(|socket| {
                    let accepting = accept(Rc::clone(&worker), door.clone(), socket);
                    tokio::task::spawn_local(accepting).abort_handle()
                });
                let earlier = doors.insert(door.clone(), accepting.collect());
                earlier.into_iter().flatten().for_each(|earlier| earlier.abort());
            }
            Order::Recall(request_id, reply) => {
                // Whoever asked may have gone.
                drop(reply.send(worker.recall.find(&request_id)));
            }
            Order::Rename(names) => {
                // Two may have swapped their names.
                let found = names.into_iter().map(|(from, to)| (doors.remove(&Door::Inbound(from)), to));
                for (accepting, to) in found.collect::<Vec<_>>() {
                    accepting.and_then(|accepting| doors.insert(Door::Inbound(to), accepting));
                }
            }
        }
    }
    doors.into_values().flatten().for_each(|accepting| accepting.abort());
    loop {
        let ends = signal.borrow_and_update().ends;
        if worker.open() == 0 || ends.is_none_or(|ends| ends <= Instant::now()) {
            break;
        }
        // Nobody tells when a connection ends, and a second word may bring the end nearer.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN, signal.changed()).await {
            break;
        }
    }
    if worker.open() > 0 {
        let connections = worker.open();
        (0..connections).for_each(|_| worker.cuts.count("agent-stopped"));
        tracing::warn!(connections, "connections cut at the end of the drain");
    }
}

/// Whether the last connection has ended is looked at this often during a drain.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

async fn accept(worker: Rc<Worker>, door: Door, socket: Socket) {
    let accepted = match (door.clone(), socket) {
        (Door::Inbound(listener), Socket::Tcp(socket)) => inbound::accept(worker, listener, socket).await,
        (Door::OutboundTcp(remote), Socket::Tcp(socket)) => {
            outbound::accept_tcp(worker, remote, socket).await
        }
        (Door::OutboundUnix(remote), Socket::Unix(socket)) => {
            outbound::accept_unix(worker, remote, socket).await
        }
        (Door::Inbound(_) | Door::OutboundTcp(_), Socket::Unix(_))
        | (Door::OutboundUnix(_), Socket::Tcp(_)) => Err(io::ErrorKind::InvalidInput.into()),
    };
    if let Err(error) = accepted {
        tracing::error!(?door, %error, "a door cannot be opened");
    }
}

/// Whether nobody listens at `address`. A shared port would be split with another agent of the same user, which nobody would
/// notice but every other caller.
fn free(address: SocketAddr) -> io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};

    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};

    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_a_thread_and_every_thread_a_queue() {
        for threads in 1..9 {
            for queues in 1..9 {
                let pairs: Vec<_> = allot(threads, queues).collect();
                assert!((0..threads).all(|thread| pairs.iter().any(|pair| pair.0 == thread)));
                assert!((0..queues).all(|queue| pairs.iter().any(|pair| pair.1 == queue)));
            }
        }
        assert_eq!(allot(3, 3).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 2)]);
        assert_eq!(allot(0, 3).count() + allot(3, 0).count(), 0);
    }
}
