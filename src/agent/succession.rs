//! The elder's half of a hand-over: what there is to give away, who is to rest meanwhile, and how it goes on when the heir fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::books::Books;
use super::director::Order;
use super::exchange::{Accounts, Exchange};
use super::hand_over::{self, Claimant, HandOverError};
use super::inheritance::{self, Inheritance};
use super::key_keeper::KeyKeeper;
use super::reception::{Controls, Reception};
use super::signals::Signals;
use crate::causes::Causes;
use crate::config::Config;
use crate::issuance::{Command, TokenDesk};
use crate::proxy::Socket;
use crate::store::courier::CourierError;
use crate::store::socket_file::SocketError;
use crate::telemetry::Metrics;

/// Who wants to take over, one after the other. Where nobody can be listened for, nobody ever does.
pub(super) fn await_heirs(
    config: &Config,
    controls: &Controls,
    inheritance: &mut Inheritance,
) -> mpsc::Receiver<Claimant> {
    let (heard, claims) = mpsc::channel(1);
    let path = hand_over::path(&config.runtime_dir);
    let door = hand_over::Door::open(&config.runtime_dir, inheritance).and_then(|door| {
        let shared = controls.keep(inheritance::unix(&path), &door, Socket::Unix);
        let io = |source| SocketError::Io { step: "share the socket", path: path.clone(), source };
        shared.map(|()| door).map_err(io)
    });
    match door {
        Ok(door) => {
            let state_dir = config.state_dir.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        claimant = door.claimant(&state_dir) => drop(heard.send(claimant).await),
                        // Whoever comes when nobody wants to hear of heirs any more is for the heir.
                        () = heard.closed() => return,
                    }
                }
            });
        }
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "no other agent can take over from this one");
        }
    }
    claims
}

/// Everything that an heir takes over.
pub(super) struct Estate {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) token_desk: TokenDesk,
    pub(super) key_keeper: Arc<KeyKeeper>,
    pub(super) delivering: AbortHandle,
    pub(super) reception: Reception,
    pub(super) books: Books,
    pub(super) accounts: Accounts,
}

/// Those who write nothing while this is held, and no more when it is dropped.
struct Resting {
    authorities: oneshot::Sender<()>,
    tokens: std::sync::mpsc::Sender<()>,
}

/// What came of an offer.
pub(super) enum Offered {
    /// The heir lets callers in.
    Accepted(Succession),
    /// This process goes on.
    Declined,
    /// This process goes on, but only to end.
    Stopped,
}

/// The elder's last duties.
pub(super) struct Succession {
    claimant: Claimant,
    exchange: Exchange,
    /// Held until the end: the director hears the authorities' silence as the end of everything.
    _authorities: oneshot::Sender<()>,
}

impl Estate {
    /// Has everybody rest who writes, gives `claimant` everything, and waits until it lets callers in. If it does not, all is as it
    /// was before.
    pub(super) async fn offer_to(&mut self, claimant: Claimant, signals: &mut Signals) -> Offered {
        let (pid, version) = (claimant.pid(), claimant.version.clone());
        tracing::info!(pid, version, "another agent takes over");
        self.delivering.abort();
        let (authorities, resumed) = oneshot::channel();
        let (tokens, tokens_resumed) = std::sync::mpsc::channel();
        let resting = Resting { authorities, tokens };
        let mut closed = false;
        let given = async {
            self.give(&claimant, resumed, tokens_resumed).await?;
            closed = true;
            self.yield_to(&claimant).await
        };
        let given = tokio::select! {
            given = given => given,
            () = signals.stop() => Err(HandOverError::Stopping),
        };
        let error = match given {
            Ok(exchange) => {
                claimant.listen(exchange.clone());
                // Those who keep tokens go by what the heir writes from now on.
                let _authorities = resting.authorities;
                return Offered::Accepted(Succession { claimant, exchange, _authorities });
            }
            Err(error) => error,
        };
        let stopping = matches!(error, HandOverError::Stopping);
        if !matches!(error, HandOverError::Courier(CourierError::HungUp)) {
            claimant.refuse(&Causes(&error).to_string());
            tokio::task::block_in_place(|| claimant.give_up());
        }
        self.resume(resting, closed);
        tracing::error!(pid, error = %Causes(&error), "the other agent does not take over; this one goes on");
        if stopping { Offered::Stopped } else { Offered::Declined }
    }

    async fn give(
        &self,
        claimant: &Claimant,
        resumed: oneshot::Receiver<()>,
        tokens_resumed: std::sync::mpsc::Receiver<()>,
    ) -> Result<(), HandOverError> {
        let ending = |_| HandOverError::Ending;
        let (reply, lent) = oneshot::channel();
        let rest = Command::Rest { reply, resumed };
        self.commands.send(rest).await.map_err(|_| HandOverError::Ending)?;
        let lock = lent.await.map_err(ending)?;
        let lock = lock.map_err(|error| HandOverError::Refused(Causes(&error).to_string()))?;
        let rested = self.token_desk.rest(tokens_resumed).await;
        rested.map_err(|error| HandOverError::Refused(error.to_string()))?;
        let (reply, sockets) = oneshot::channel();
        self.orders.send(Order::Sockets(reply)).await.map_err(|_| HandOverError::Ending)?;
        let shared = sockets.await.map_err(ending)?.and_then(|mut sockets| {
            sockets.extend(self.reception.controls().shared()?);
            Ok(sockets)
        });
        let sockets = shared.map_err(|error| HandOverError::Refused(error.to_string()))?;
        claimant.give(sockets, lock).await?;
        claimant.ready().await
    }

    /// Writes everything down, and waits until the heir lets callers in.
    async fn yield_to(&mut self, claimant: &Claimant) -> Result<Exchange, HandOverError> {
        self.reception.close();
        let echo = self.accounts.ledger.listen();
        let told = tokio::task::block_in_place(|| self.books.close());
        let exchange = Exchange::new(self.accounts.clone(), echo).behind(told);
        claimant.yield_to(&exchange).await?;
        claimant.open().await?;
        Ok(exchange)
    }

    /// Goes on as before the offer.
    fn resume(&mut self, resting: Resting, closed: bool) {
        if closed {
            self.accounts.ledger.defer_to(None);
            tokio::task::block_in_place(|| self.books.reopen());
            if let Err(error) = self.reception.open() {
                tracing::error!(%error, "operators cannot be answered any more");
            }
        }
        // Whoever does not rest has nothing to be told.
        resting.authorities.send(()).unwrap_or_default();
        resting.tokens.send(()).unwrap_or_default();
        self.delivering = tokio::spawn(Arc::clone(&self.key_keeper).run()).abort_handle();
    }

    /// Closes all doors; the heir has opened them.
    pub(super) async fn leave(&self) {
        let (reply, left) = oneshot::channel();
        if self.orders.send(Order::Leave(reply)).await.is_ok() {
            // Without a director there is no door either.
            drop(left.await);
        }
    }
}

impl Succession {
    /// The heir.
    pub(super) fn pid(&self) -> i32 {
        self.claimant.pid()
    }

    /// Tells the heir what is let pass here, for as long as there are connections, or this one's own elder is there, but no longer than
    /// `within`.
    pub(super) async fn tell_while_busy(
        &self,
        metrics: &Metrics,
        elder_is_gone: &watch::Receiver<bool>,
        within: Duration,
    ) {
        let begun = tokio::time::Instant::now();
        while (metrics.connections.get() > 0 || !*elder_is_gone.borrow()) && begun.elapsed() < within {
            if let Err(error) = self.claimant.tell(&self.exchange) {
                tracing::debug!(%error, "the next agent hears nothing any more");
            }
            tokio::time::sleep(hand_over::TELL_EVERY).await;
        }
    }

    /// Tells the heir what was let pass last, and says goodbye.
    pub(super) fn part(self) {
        if let Err(error) = self.claimant.tell(&self.exchange) {
            tracing::error!(%error, "the next agent does not hear what was let pass last");
        }
        self.claimant.part();
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
