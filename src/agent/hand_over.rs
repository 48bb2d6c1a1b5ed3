//! One agent takes over from another without a caller noticing: the former one is the *elder*, the next one its *heir*.
//!
//! ```text
//! heir                                          elder
//!   Claim ────────────────────────────────────▶  ends its writing: CA, tokens, keys of apps
//!         ◀──────────────── Sockets …, then Lock  goes on serving from memory
//!   reads, issues, binds; still lets nobody in
//!   Ready ────────────────────────────────────▶  writes limits and usage; still lets callers in
//!         ◀───────────────────────────── Yours
//!   reads limits and usage, and has the last
//!   word on what may be charged
//!   Counting ─────────────────────────────────▶  asks the heir before it lets anything pass that is counted
//!         ◀───────────────── Used …, and then Go  has told what it let pass meanwhile
//!   lets callers in
//!   Open  ────────────────────────────────────▶  closes its doors (the sockets live on), drains
//!         ◀────────────── Used ──────────────▶   each tells the other what it has let pass
//! ```
//!
//! **Invariant:** at every moment there is one process that writes to the state directory, and somebody who holds its lock; every
//! listening socket is open, and whoever waits at it is taken in by one of the two; and a limit is counted by one process alone. Up to
//! `Open` the elder can go on as if nothing had happened, and does when the heir fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::exchange::{Exchange, Questions, Used};
use super::inheritance::{Inheritance, InheritanceError};
use crate::limit::Charge;
use crate::proxy::Socket;
use crate::store::courier::{Courier, CourierError};
use crate::store::socket_file::{self, SocketError};
use crate::telemetry::UsageRow;

/// Why one agent does not take over from another.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The other one cannot be understood.
    #[error(transparent)]
    Courier(#[from] CourierError),
    /// What it gave is of no use.
    #[error(transparent)]
    Inheritance(#[from] InheritanceError),
    /// It lets nobody take over.
    #[error("the running agent does not hand over: {0}")]
    Refused(String),
    /// The running agent is not itself any more.
    #[error("the agent is ending")]
    Ending,
    /// It is being stopped.
    #[error("the agent is being stopped")]
    Stopping,
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// It said something else than it should have.
    #[error("the other agent speaks of something else")]
    Unexpected,
}

/// Where the elder listens.
pub(super) fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("hand-over.sock")
}

/// Where it listens, by the name of an inherited socket.
pub(super) const NAME: &str = "hand-over";

/// Another version of the conversation is not understood.
const DIALECT: u32 = 1;

/// What an heir says.
#[derive(Debug, Deserialize, Serialize)]
enum ToElder {
    /// It wants to take over.
    Claim {
        dialect: u32,
        version: String,
        state_dir: PathBuf,
    },
    /// It can let callers in.
    Ready,
    /// It has taken up what was used, and answers whether more may be.
    Counting,
    /// It lets callers in.
    Open,
    Used(Used),
}

/// What an elder says.
#[derive(Debug, Deserialize, Serialize)]
enum ToHeir {
    Refused(String),
    /// Sockets that go along with this, each with the place that it was opened for.
    Sockets(Vec<String>),
    /// The lock of the state directory goes along with this.
    Lock,
    /// Everything is on the disk. A socket goes along with this, over which it is asked what may be charged.
    Yours,
    /// Everything that was let pass before it was asked has been told.
    Go,
    Used(Used),
}

/// The elder answers within this time where it has nothing to do first.
const PATIENCE: Duration = Duration::from_secs(10);

/// An heir that is not ready by then never will be.
pub(super) const HEIR_PATIENCE: Duration = Duration::from_secs(60);

/// The elder writes everything down within this time.
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);

/// What was let pass is told this often.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(20);

/// A charge that was begun before the heir is asked is done by then.
const SETTLING: Duration = Duration::from_millis(5);

/// So many of each go into one message.
const AT_A_TIME: usize = 200;

/// So many sockets go along with one message.
const SOCKETS_AT_A_TIME: usize = 32;

/// What an heir was given.
pub(super) struct Claimed {
    pub(super) heir: Heir,
    pub(super) inheritance: Inheritance,
    pub(super) lock: std::fs::File,
}

/// The heir's end of the conversation. It is hung up when this process ends, and not before.
#[derive(Clone, Debug)]
pub(super) struct Heir(Arc<Courier>);

impl Heir {
    /// Claims everything from the agent that listens in `runtime_dir`; nothing if there is none. Blocks.
    ///
    /// # Errors
    /// It does not hand over, or something else than it should.
    pub(super) fn claim(runtime_dir: &Path, state_dir: &Path) -> Result<Option<Claimed>, HandOverError> {
        let Some(courier) = Courier::to(&path(runtime_dir))? else { return Ok(None) };
        courier.be_patient(PATIENCE)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        courier.send(&ToElder::Claim { dialect: DIALECT, version, state_dir: whole(state_dir) }, &[])?;
        let mut inheritance = Inheritance::default();
        loop {
            let (message, open): (ToHeir, Vec<OwnedFd>) = courier.receive()?;
            match message {
                ToHeir::Refused(why) => return Err(HandOverError::Refused(why)),
                ToHeir::Sockets(places) => {
                    if places.len() != open.len() {
                        return Err(HandOverError::Unexpected);
                    }
                    for (place, descriptor) in places.into_iter().zip(open) {
                        inheritance.add(place, descriptor)?;
                    }
                }
                ToHeir::Lock => {
                    let lock = open.into_iter().next().ok_or(HandOverError::Unexpected)?.into();
                    return Ok(Some(Claimed { heir: Self(Arc::new(courier)), inheritance, lock }));
                }
                ToHeir::Go | ToHeir::Used(_) | ToHeir::Yours => return Err(HandOverError::Unexpected),
            }
        }
    }

    /// Says that this process can let callers in, and waits until everything is its own; gives the socket over which the elder
    /// asks. Blocks.
    ///
    /// # Errors
    /// The elder is gone, or goes on.
    pub(super) fn ready(&self) -> Result<OwnedFd, HandOverError> {
        self.0.be_patient(FLUSH_PATIENCE)?;
        self.0.send(&ToElder::Ready, &[])?;
        match self.0.receive()? {
            (ToHeir::Yours, open) => open.into_iter().next().ok_or(HandOverError::Unexpected),
            (ToHeir::Refused(why), _) => Err(HandOverError::Refused(why)),
            (ToHeir::Go | ToHeir::Lock | ToHeir::Sockets(_) | ToHeir::Used(_), _) => {
                Err(HandOverError::Unexpected)
            }
        }
    }

    /// Answers from now on what the elder asks over `questions`, and waits until nothing is let pass without being asked. Blocks.
    ///
    /// # Errors
    /// The elder is gone, or there is no thread.
    pub(super) fn count(&self, questions: OwnedFd, exchange: &Exchange) -> Result<(), HandOverError> {
        let questions = Courier::over(questions)?;
        let own = exchange.clone();
        let answering = std::thread::Builder::new().name("arbiter".into()).spawn(move || {
            while let Ok((charges, _)) = questions.receive::<Vec<Charge>>() {
                if questions.send(&own.rule(&charges), &[]).is_err() {
                    break;
                }
            }
        });
        answering.map_err(HandOverError::Thread)?;
        self.0.send(&ToElder::Counting, &[])?;
        loop {
            match self.0.receive()?.0 {
                ToHeir::Used(used) => exchange.add(used),
                ToHeir::Go => return Ok(()),
                ToHeir::Refused(why) => return Err(HandOverError::Refused(why)),
                ToHeir::Lock | ToHeir::Sockets(_) | ToHeir::Yours => return Err(HandOverError::Unexpected),
            }
        }
    }

    /// Says that callers are let in, and exchanges with the elder what both let pass until the elder is gone; tells when that is.
    pub(super) fn go_on_with(self, exchange: Exchange) -> watch::Receiver<bool> {
        let (gone, is_gone) = watch::channel(false);
        if let Err(error) = self.0.send(&ToElder::Open, &[]) {
            tracing::debug!(%error, "the former agent is gone already");
            gone.send_replace(true);
            return is_gone;
        }
        let (heard, own) = (Arc::clone(&self.0), exchange.clone());
        let listening = std::thread::Builder::new().name("elder".into()).spawn(move || {
            loop {
                match heard.receive::<ToHeir>() {
                    Ok((ToHeir::Used(used), _)) => own.add(used),
                    Err(error) if error.is_impatience() => {}
                    Ok(_) | Err(_) => break,
                }
            }
            gone.send_replace(true);
            tracing::info!("the former agent has ended");
        });
        if let Err(error) = listening {
            tracing::error!(%error, "what the former agent still lets pass is not counted here");
            return is_gone;
        }
        let mut until = is_gone.clone();
        tokio::spawn(async move {
            let telling = async {
                loop {
                    tokio::time::sleep(TELL_EVERY).await;
                    // Usage is counted here for good; it is only the limits that both have to know.
                    if tell(&self.0, exchange.charges(), Vec::new(), ToElder::Used).is_err() {
                        return;
                    }
                }
            };
            // With it ends the listening to what is charged here: nobody else may wait in vain for what this one takes.
            tokio::select! {
                () = telling => {}
                _ = until.wait_for(|gone| *gone) => {}
            }
        });
        is_gone
    }
}

/// Where the elder waits for an heir.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
}

impl Door {
    /// Listens in `runtime_dir`, on the socket that was inherited if there is one.
    ///
    /// # Errors
    /// It cannot be listened on.
    pub(super) fn open(runtime_dir: &Path, inheritance: &mut Inheritance) -> Result<Self, SocketError> {
        let path = path(runtime_dir);
        let inherited = inheritance.take(NAME, &super::inheritance::unix(&path));
        let listener = match inherited.into_iter().flatten().next() {
            Some(Socket::Unix(listener)) => listener,
            Some(Socket::Tcp(_)) | None => socket_file::listen_for_messages(&path)?,
        };
        let listener = UnixListener::from_std(listener).map_err(|source| SocketError::Io {
            step: "listen on the socket",
            path,
            source,
        })?;
        Ok(Self { listener })
    }

    /// Waits for an heir that has said what it wants.
    pub(super) async fn claimant(&self, state_dir: &Path) -> Claimant {
        loop {
            let stream = match self.listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an heir");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let own = whole(state_dir);
            let heard = off_the_runtime(move || Claimant::hear(stream.into(), &own)).await;
            match heard {
                Ok(claimant) => return claimant,
                // Also whoever only looks whether somebody is here.
                Err(HandOverError::Courier(CourierError::HungUp)) => {}
                Err(error) => tracing::warn!(%error, "an heir was turned away"),
            }
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The elder's end of the conversation.
#[derive(Clone, Debug)]
pub(super) struct Claimant {
    courier: Arc<Courier>,
    pub(super) version: String,
}

impl Claimant {
    fn hear(socket: OwnedFd, own: &Path) -> Result<Self, HandOverError> {
        let courier = Courier::over(socket)?;
        courier.be_patient(PATIENCE)?;
        let (ToElder::Claim { dialect, version, state_dir }, _) = courier.receive()? else {
            return Err(HandOverError::Unexpected);
        };
        let refusal = if dialect != DIALECT {
            format!("it is version {} and hands over in another manner", env!("CARGO_PKG_VERSION"))
        } else if state_dir != own {
            format!("its state directory is {}", own.display())
        } else {
            return Ok(Self { courier: Arc::new(courier), version });
        };
        courier.send(&ToHeir::Refused(refusal.clone()), &[])?;
        Err(HandOverError::Refused(refusal))
    }

    pub(super) fn pid(&self) -> i32 {
        self.courier.pid()
    }

    /// Turns it away.
    pub(super) fn refuse(&self, why: &str) {
        if let Err(error) = self.courier.send(&ToHeir::Refused(why.to_owned()), &[]) {
            tracing::debug!(%error, "an heir does not hear that it is turned away");
        }
    }

    /// Gives it all sockets, and the lock of the state directory.
    pub(super) async fn give(
        &self,
        sockets: Vec<(String, Socket)>,
        lock: std::fs::File,
    ) -> Result<(), HandOverError> {
        let courier = Arc::clone(&self.courier);
        off_the_runtime(move || {
            for part in sockets.chunks(SOCKETS_AT_A_TIME) {
                let places = part.iter().map(|(place, _)| place.clone()).collect();
                let open: Vec<_> = part.iter().map(|(_, socket)| socket.as_fd()).collect();
                courier.send(&ToHeir::Sockets(places), &open)?;
            }
            Ok(courier.send(&ToHeir::Lock, &[lock.as_fd()])?)
        })
        .await
    }

    /// Waits until it can let callers in.
    pub(super) async fn ready(&self) -> Result<(), HandOverError> {
        self.courier.be_patient(HEIR_PATIENCE)?;
        self.expect(|message| matches!(message, ToElder::Ready)).await
    }

    /// Lets it have everything, which is on the disk by now, and asks it from now on what may be charged.
    ///
    /// # Errors
    /// It is gone, or does not say what it should.
    pub(super) async fn yield_to(&self, exchange: &Exchange) -> Result<(), HandOverError> {
        let (questions, theirs) = Questions::open()?;
        self.courier.send(&ToHeir::Yours, &[theirs.as_fd()])?;
        drop(theirs);
        self.courier.be_patient(FLUSH_PATIENCE)?;
        self.expect(|message| matches!(message, ToElder::Counting)).await?;
        exchange.defer_to(questions);
        tokio::time::sleep(SETTLING).await;
        tell(&self.courier, exchange.charges(), Vec::new(), ToHeir::Used)?;
        Ok(self.courier.send(&ToHeir::Go, &[])?)
    }

    /// Waits until it lets callers in.
    ///
    /// # Errors
    /// It is gone, or does not say so.
    pub(super) async fn open(&self) -> Result<(), HandOverError> {
        self.courier.be_patient(PATIENCE)?;
        self.expect(|message| matches!(message, ToElder::Open)).await
    }

    async fn expect(&self, is_it: fn(&ToElder) -> bool) -> Result<(), HandOverError> {
        let courier = Arc::clone(&self.courier);
        let (message, _) = off_the_runtime(move || Ok(courier.receive::<ToElder>()?)).await?;
        if is_it(&message) { Ok(()) } else { Err(HandOverError::Unexpected) }
    }

    /// Ends an heir that is still there, for two must not write, and waits until it is gone. Blocks.
    pub(super) fn give_up(&self) {
        use rustix::process::{Pid, Signal, kill_process};

        if let Some(pid) = Pid::from_raw(self.pid()) {
            // It has mostly gone by itself.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        // The system hangs up for a process when the last of its threads is gone.
        drop(self.courier.be_patient(PATIENCE));
        while self.courier.receive::<ToElder>().is_ok() {}
        self.courier.hang_up();
    }

    /// Hears what the heir lets pass, until it is gone or [`Claimant::part`].
    pub(super) fn listen(&self, exchange: Exchange) {
        let courier = Arc::clone(&self.courier);
        let listening = std::thread::Builder::new().name("heir".into()).spawn(move || {
            loop {
                match courier.receive::<ToElder>() {
                    Ok((ToElder::Used(used), _)) => exchange.add(used),
                    Err(error) if error.is_impatience() => {}
                    Ok(_) | Err(_) => return,
                }
            }
        });
        if let Err(error) = listening {
            tracing::error!(%error, "what the next agent lets pass is not counted here");
        }
    }

    /// Tells the heir what was let pass here since the last time.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn tell(&self, exchange: &Exchange) -> Result<(), CourierError> {
        tell(&self.courier, exchange.charges(), exchange.rows(), ToHeir::Used)
    }

    /// Says goodbye.
    pub(super) fn part(&self) {
        self.courier.hang_up();
    }
}

/// Sends what was let pass, in messages that are not too long.
fn tell<T: Serialize>(
    courier: &Courier,
    charges: Vec<Charge>,
    rows: Vec<UsageRow>,
    message: impl Fn(Used) -> T,
) -> Result<(), CourierError> {
    for part in charges.chunks(AT_A_TIME) {
        courier.send(&message(Used { charges: part.to_vec(), rows: Vec::new() }), &[])?;
    }
    for part in rows.chunks(AT_A_TIME) {
        courier.send(&message(Used { charges: Vec::new(), rows: part.to_vec() }), &[])?;
    }
    Ok(())
}

/// The path without links, so that two of them can be compared.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HandOverError> + Send + 'static,
) -> Result<T, HandOverError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(HandOverError::Ending))
}
