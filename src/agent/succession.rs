//! The elder's half of a hand-over: what there is to give away, who is to rest meanwhile, and how it goes on when the heir fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::director::Order;
use super::hand_over::{self, Claimant, HandOverError};
use super::inheritance::{self, Inheritance};
use super::key_keeper::KeyKeeper;
use super::signals::Signals;
use super::supervise::AgentError;
use crate::admin;
use crate::causes::Causes;
use crate::config::Config;
use crate::issuance::{Command, TokenDesk};
use crate::proxy::Socket;
use crate::store::courier::CourierError;
use crate::store::disk;
use crate::store::socket_file::SocketError;

/// The sockets of the control plane, and copies of them for an heir.
#[derive(Debug, Default)]
pub(super) struct Controls {
    sockets: Vec<(String, Socket)>,
}

impl Controls {
    /// Where operators ask; nothing if nothing can be written there now.
    pub(super) fn admin(
        &mut self,
        path: &Path,
        inheritance: &mut Inheritance,
    ) -> Result<Option<UnixListener>, AgentError> {
        let bound = match inherited_unix(inheritance, "admin", path) {
            Some(socket) => admin::take_over(socket, path),
            None => admin::bind(path),
        };
        match bound {
            Err(SocketError::Io { source, .. }) if disk::refuses_writing(&source) => Ok(None),
            outcome => {
                let listener = outcome?;
                self.keep(inheritance::unix(path), &listener, Socket::Unix)?;
                Ok(Some(listener))
            }
        }
    }

    /// Where local workloads get tokens.
    pub(super) fn tokens(
        &mut self,
        path: &Path,
        inheritance: &mut Inheritance,
    ) -> Result<UnixListener, AgentError> {
        let listener = match inherited_unix(inheritance, "token", path) {
            Some(socket) => admin::take_over(socket, path)?,
            None => admin::bind_tokens(path)?,
        };
        self.keep(inheritance::unix(path), &listener, Socket::Unix)?;
        Ok(listener)
    }

    /// Where metrics and health are asked for.
    pub(super) async fn health(
        &mut self,
        address: std::net::SocketAddr,
        inheritance: &mut Inheritance,
    ) -> Result<TcpListener, AgentError> {
        let place = inheritance::tcp(&"metrics", address);
        let refused = |source| AgentError::Listen { address: address.to_string(), source };
        let listener = match inheritance.take("metrics", &place).and_then(|all| all.into_iter().next()) {
            Some(Socket::Tcp(socket)) => TcpListener::from_std(socket).map_err(refused)?,
            Some(Socket::Unix(_)) | None => TcpListener::bind(address).await.map_err(refused)?,
        };
        self.keep(place, &listener, Socket::Tcp)?;
        Ok(listener)
    }

    /// Who wants to take over, one after the other. Where nobody can be listened for, nobody ever does.
    pub(super) fn await_heirs(
        &mut self,
        config: &Config,
        inheritance: &mut Inheritance,
    ) -> mpsc::Receiver<Claimant> {
        let (heard, claims) = mpsc::channel(1);
        let door = hand_over::Door::open(&config.runtime_dir, inheritance);
        let shared = door.and_then(|door| {
            let path = hand_over::path(&config.runtime_dir);
            let io = |source| SocketError::Io { step: "share the socket", path: path.clone(), source };
            let shared = door.share().map_err(io)?;
            Ok((door, inheritance::unix(&path), shared))
        });
        match shared {
            Ok((door, place, socket)) => {
                self.sockets.push((place, socket));
                let state_dir = config.state_dir.clone();
                tokio::spawn(async move {
                    // Ends when nobody wants to hear of heirs any more.
                    while heard.send(door.claimant(&state_dir).await).await.is_ok() {}
                });
            }
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "no other agent can take over from this one");
            }
        }
        claims
    }

    fn keep<L: std::os::fd::AsFd, S: From<std::os::fd::OwnedFd>>(
        &mut self,
        place: String,
        listener: &L,
        socket: fn(S) -> Socket,
    ) -> Result<(), AgentError> {
        let shared = listener.as_fd().try_clone_to_owned().map_err(AgentError::Runtime)?;
        self.sockets.push((place, socket(shared.into())));
        Ok(())
    }
}

fn inherited_unix(
    inheritance: &mut Inheritance,
    name: &str,
    path: &Path,
) -> Option<std::os::unix::net::UnixListener> {
    let found = inheritance.take(name, &inheritance::unix(path))?;
    found.into_iter().find_map(|socket| match socket {
        Socket::Unix(socket) => Some(socket),
        Socket::Tcp(_) => None,
    })
}

/// Everything that an heir takes over.
pub(super) struct Estate {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) token_desk: TokenDesk,
    pub(super) key_keeper: Arc<KeyKeeper>,
    pub(super) delivering: AbortHandle,
    pub(super) controls: Controls,
}

/// Those who write nothing while this is held, and no more when it is dropped.
pub(super) struct Resting {
    authorities: oneshot::Sender<()>,
    tokens: std::sync::mpsc::Sender<()>,
}

impl Resting {
    /// Lets those who keep tokens go by what the heir writes.
    pub(super) fn authorities_only(self) -> oneshot::Sender<()> {
        self.authorities
    }
}

/// What came of an offer.
pub(super) enum Offered {
    /// The heir can let callers in.
    Accepted(Resting),
    /// This process goes on.
    Declined,
    /// This process is to end.
    Stopped,
}

impl Estate {
    /// Has everybody rest who writes, gives `claimant` everything, and waits until it can let callers in. If it cannot, all is as
    /// it was before.
    pub(super) async fn offer_to(&mut self, claimant: &Claimant, signals: &mut Signals) -> Offered {
        let (pid, version) = (claimant.pid(), &claimant.version);
        tracing::info!(pid, version, "another agent takes over");
        self.delivering.abort();
        let (authorities, resumed) = oneshot::channel();
        let (tokens, tokens_resumed) = std::sync::mpsc::channel();
        let resting = Resting { authorities, tokens };
        let offered = tokio::select! {
            offered = self.give(claimant, resumed, tokens_resumed) => offered,
            () = signals.stop() => {
                claimant.part();
                return Offered::Stopped;
            }
        };
        let Err(error) = offered else { return Offered::Accepted(resting) };
        if !matches!(error, HandOverError::Courier(CourierError::HungUp)) {
            claimant.refuse(&Causes(&error).to_string());
            claimant.give_up();
        }
        // Whoever does not rest has nothing to be told.
        resting.authorities.send(()).unwrap_or_default();
        resting.tokens.send(()).unwrap_or_default();
        self.delivering = tokio::spawn(Arc::clone(&self.key_keeper).run()).abort_handle();
        tracing::error!(pid, error = %Causes(&error), "the other agent does not take over; this one goes on");
        Offered::Declined
    }

    async fn give(
        &self,
        claimant: &Claimant,
        resumed: oneshot::Receiver<()>,
        tokens_resumed: std::sync::mpsc::Receiver<()>,
    ) -> Result<(), HandOverError> {
        let stopping = |_| HandOverError::Stopping;
        let (reply, lent) = oneshot::channel();
        let rest = Command::Rest { reply, resumed };
        self.commands.send(rest).await.map_err(|_| HandOverError::Stopping)?;
        let lock = lent.await.map_err(stopping)?;
        let lock = lock.map_err(|error| HandOverError::Refused(Causes(&error).to_string()))?;
        let rested = self.token_desk.rest(tokens_resumed).await;
        rested.map_err(|error| HandOverError::Refused(error.to_string()))?;
        let (reply, sockets) = oneshot::channel();
        self.orders.send(Order::Sockets(reply)).await.map_err(|_| HandOverError::Stopping)?;
        let shared = sockets.await.map_err(stopping)?.and_then(|mut sockets| {
            for (place, socket) in &self.controls.sockets {
                sockets.push((place.clone(), socket.share()?));
            }
            Ok(sockets)
        });
        let sockets = shared.map_err(|error| HandOverError::Refused(error.to_string()))?;
        claimant.give(sockets, lock).await?;
        claimant.ready().await
    }

    /// Closes all doors; the heir opens them.
    pub(super) async fn leave(&self) {
        let (reply, left) = oneshot::channel();
        if self.orders.send(Order::Leave(reply)).await.is_ok() {
            // Without a director there is no door either.
            drop(left.await);
        }
    }
}

/// Starts the program that is on disk now, which then takes over from this process.
pub(super) fn launch(program: &Path, config: &Config) {
    let mut command = tokio::process::Command::new(program);
    command.arg("--config").arg(&config.path).args(["run", "--take-over"]);
    if let Some(environment) = &config.ordered_environment {
        command.arg("--env").arg(environment.as_str());
    }
    // These were meant for this process alone.
    command.env_remove("LISTEN_PID").env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
    // The service manager waits to be told that all is well by whichever process is the main one.
    command.env_remove("WATCHDOG_PID");
    match command.stdin(std::process::Stdio::null()).spawn() {
        Ok(mut child) => {
            tracing::info!(pid = child.id(), program = %program.display(), "the next agent is started");
            tokio::spawn(async move {
                match child.wait().await {
                    Ok(status) => tracing::warn!(%status, "the next agent has ended"),
                    Err(error) => tracing::debug!(%error, "nobody knows how the next agent has ended"),
                }
            });
        }
        Err(error) => {
            tracing::error!(%error, program = %program.display(), "the next agent cannot be started");
        }
    }
}

/// Where this program is on disk. Asked at the start, for later another one may be there.
pub(super) fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("postern"))
}
