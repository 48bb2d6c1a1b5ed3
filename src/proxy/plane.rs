//! The data plane's threads: one per core, each with its own runtime, its own sockets and its own pools.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::context::{PlaneContext, Signal};
use super::worker::Worker;
use super::{inbound, outbound};
use crate::id::{ListenerId, RemoteId};
use crate::store::socket_file::{self, SocketError};
use crate::telemetry::Remembered;

/// A door to be opened on every thread.
#[derive(Debug)]
pub struct Opening {
    /// Which door.
    pub door: Door,
    /// The bound sockets, one for each thread.
    pub sockets: Vec<Socket>,
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
    Open(Door, Socket),
    Recall(String, oneshot::Sender<Option<Remembered>>),
    Rename(Vec<(ListenerId, ListenerId)>),
}

/// A way to ask all threads what they remember, which does not keep them from ending.
#[derive(Clone, Debug)]
pub struct Recollection(Vec<mpsc::WeakUnboundedSender<Order>>);

impl Recollection {
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
        Ok(Self { threads: threads.collect::<Result<_, _>>().map_err(PlaneError::Thread)?, signal })
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

    /// Binds a Unix socket at `path`, for owner and group alone, and shares it among the threads. A socket that nobody
    /// listens on any more is replaced.
    ///
    /// # Errors
    /// The path cannot be bound, or somebody else listens there.
    pub fn bind_unix(&self, path: &std::path::Path) -> Result<Vec<Socket>, PlaneError> {
        let fail = |source| PlaneError::Bind { address: path.display().to_string(), source };
        let listener = socket_file::listen(path)?;
        let copies = (1..self.width()).map(|_| listener.try_clone().map(Socket::Unix));
        let mut sockets = copies.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        sockets.push(Socket::Unix(listener));
        Ok(sockets)
    }

    /// Opens a door on every thread.
    pub fn open(&self, opening: Opening) {
        let Opening { door, sockets } = opening;
        for ((orders, _), socket) in self.threads.iter().zip(sockets) {
            // A thread that is gone takes no orders; its end was reported when it happened.
            drop(orders.send(Order::Open(door.clone(), socket)));
        }
    }

    /// Closes a door. Connections that came in by it live on.
    pub fn close(&self, door: &Door) {
        for (orders, _) in &self.threads {
            drop(orders.send(Order::Close(door.clone())));
        }
    }

    /// Gives open listeners other names, from the first to the second of each pair, all at once. Their sockets stay, so that
    /// nobody who waits at them is turned away: the system resets whoever has not been accepted when a socket closes.
    pub fn rename(&self, names: &[(ListenerId, ListenerId)]) {
        for (orders, _) in &self.threads {
            drop(orders.send(Order::Rename(names.to_vec())));
        }
    }

    /// Has every live connection looked at again: a new snapshot is in force.
    pub fn announce_change(&self) {
        self.signal.send_modify(|signal| signal.changes = signal.changes.wrapping_add(1));
    }

    /// Closes all doors, lets requests that are under way finish, and returns when the last connection has ended or the
    /// snapshot's drain limit has passed. Blocks.
    pub fn drain(self) {
        self.signal.send_modify(|signal| signal.draining = true);
        let (orders, threads): (Vec<_>, Vec<_>) = self.threads.into_iter().unzip();
        drop(orders);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread had panicked");
            }
        }
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
    signal: watch::Receiver<Signal>,
) {
    let worker = Worker::new(&context, signal);
    tokio::task::spawn_local(Rc::clone(&worker).flush_log());
    tokio::task::spawn_local(Rc::clone(&worker).sweep_pool());
    tokio::task::spawn_local(Rc::clone(&worker).keep_turns());
    tokio::task::spawn_local(Rc::clone(&worker).hand_over_usage());
    let mut doors: HashMap<Door, AbortHandle> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Close(door) => {
                if let Some(accepting) = doors.remove(&door) {
                    accepting.abort();
                }
            }
            Order::Open(door, socket) => {
                let accepting = accept(Rc::clone(&worker), door.clone(), socket);
                if let Some(earlier) = doors.insert(door, tokio::task::spawn_local(accepting).abort_handle())
                {
                    earlier.abort();
                }
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
    for accepting in doors.into_values() {
        accepting.abort();
    }
    let within = worker.snapshot().limits.drain;
    let begun = tokio::time::Instant::now();
    while worker.open() > 0 && begun.elapsed() < within {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if worker.open() > 0 {
        tracing::warn!(connections = worker.open(), "connections cut at the end of the drain");
    }
}

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
