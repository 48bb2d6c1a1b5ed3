//! Writes down what apps have used, so that neither a restart nor a crash forgives it.
//!
//! Whatever a request was charged is on its way to the file within a twentieth of a second, and on the disk within a second.
//! So the end of the process loses less than 100 ms of counts, a stop in good order loses none, and the end of the host
//! loses about a second.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::causes::Causes;
use crate::clock::Clock;
use crate::limit::{Ledger, Record, Told};
use crate::store::limit_journal::{JournalError, LimitJournal};

/// Changes wait no longer than this before they are written.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// So many rounds of writing pass before what was written is forced to the disk.
const ROUNDS_TO_SYNC: u32 = 20;

/// So many rounds pass after a failure before the next attempt.
const ROUNDS_TO_REST: u32 = 20;

/// The file is written anew when it has so many lines for each account, and so many more.
const LINES_PER_ACCOUNT: usize = 4;
const LINES_AT_LEAST: usize = 10_000;

/// What is not as it should be with the written counts.
#[derive(Debug, Default)]
pub(super) struct LimitTroubles {
    /// Why they cannot be written now.
    writing: ArcSwapOption<String>,
    /// What was lost before the start.
    damage: ArcSwapOption<String>,
}

impl LimitTroubles {
    /// They cannot be written for this reason.
    pub(super) fn note_unwritten(&self, why: String) {
        self.writing.store(Some(Arc::new(why)));
    }

    /// One sentence each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let writing = self.writing.load_full().map(|why| {
            format!("what apps have used of their limits cannot be written down, and is forgotten at a restart: {why}")
        });
        let damage = self.damage.load_full().map(|damage| damage.to_string());
        writing.into_iter().chain(damage).collect()
    }
}

/// The thread that writes; what is left is written when this is dropped.
#[derive(Debug)]
pub(super) struct LimitKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Told>>,
}

impl LimitKeeper {
    /// Takes up what an earlier process has left in `state`, and keeps `ledger` written down from now on. What is not as it
    /// should be is told to `troubles`.
    ///
    /// # Errors
    /// The file cannot be read or written, or there is no thread.
    pub(super) fn start(
        state: &Path,
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        troubles: &Arc<LimitTroubles>,
    ) -> Result<Self, KeeperError> {
        let (journal, found) = LimitJournal::open(state, clock.now())?;
        let left_out = found.records.iter().filter(|record| !ledger.restore(record)).count();
        if left_out > 0 {
            tracing::error!(left_out, "there are more accounts on file than there is room for");
        }
        let damage = found.damage.map(|(aside, lines)| {
            let aside = aside.display();
            format!("limits.journal was damaged, and the counts of {lines} of its lines are lost; it is kept as {aside}")
        });
        if let Some(damage) = &damage {
            tracing::error!("{damage}");
        }
        troubles.damage.store(damage.map(Arc::new));
        let anew = found.unwritten.is_some();
        let writer = Writer { journal, ledger, clock, troubles: Arc::clone(troubles), anew, rest: 0 };
        if let Some(error) = found.unwritten {
            writer.note(Err::<(), _>(error));
        }
        Self::writing(writer)
    }

    /// Keeps `ledger` written down again, whatever another process has left in `state` meanwhile.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub(super) fn go_on(
        state: &Path,
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        troubles: &Arc<LimitTroubles>,
    ) -> Result<Self, KeeperError> {
        let (journal, _) = LimitJournal::open(state, clock.now())?;
        Self::writing(Writer { journal, ledger, clock, troubles: Arc::clone(troubles), anew: true, rest: 0 })
    }

    fn writing(writer: Writer) -> Result<Self, KeeperError> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("limits".into()).spawn(move || writer.run(&stopped));
        let thread = thread.map_err(KeeperError::Thread)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Writes what is left, and says what is on file now. Blocks.
    pub(super) fn finish(mut self) -> Told {
        self.end()
    }

    fn end(&mut self) -> Told {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(told)) => told,
            Some(Err(_)) => {
                tracing::error!("the thread that writes down limits had panicked");
                Told::default()
            }
            None => Told::default(),
        }
    }
}

impl Drop for LimitKeeper {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Why counts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The file cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system gives no thread.
    #[error("cannot start the thread that writes down limits")]
    Thread(#[source] io::Error),
}

struct Writer {
    journal: LimitJournal,
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    troubles: Arc<LimitTroubles>,
    /// Whether the file must be written anew, because a line may have gone in half.
    anew: bool,
    /// Rounds to let pass after a failure: a full disk is not helped by being asked twenty times a second.
    rest: u32,
}

impl Writer {
    fn run(mut self, stopped: &Receiver<()>) -> Told {
        let mut unsynced = 0;
        while stopped.recv_timeout(WRITE_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.ledger.prepare();
            if self.rest > 0 {
                self.rest -= 1;
                continue;
            }
            let written = self.write();
            if written.is_err() {
                self.rest = ROUNDS_TO_REST;
            }
            unsynced = match written {
                Ok(true) => unsynced + 1,
                Ok(false) if unsynced > 0 => unsynced + 1,
                Ok(false) | Err(_) => 0,
            };
            let synced = if unsynced >= ROUNDS_TO_SYNC {
                unsynced = 0;
                self.journal.sync()
            } else {
                Ok(())
            };
            self.note(written.and(synced));
        }
        let last = self.replace();
        match last {
            Ok(told) => {
                self.note(Ok(()));
                told
            }
            Err(error) => {
                self.note(Err::<(), _>(error));
                Told::default()
            }
        }
    }

    /// Writes what has changed; says whether anything had.
    fn write(&mut self) -> Result<bool, JournalError> {
        let mut changed = Vec::new();
        self.ledger.take_changed(|record| changed.push(record));
        let too_long = self.journal.lines() > self.ledger.accounts() * LINES_PER_ACCOUNT + LINES_AT_LEAST;
        if self.anew || too_long {
            self.replace()?;
            return Ok(false);
        }
        if changed.is_empty() {
            return Ok(false);
        }
        // Should this fail, the next round writes everything.
        self.anew = true;
        self.journal.append(&changed)?;
        self.anew = false;
        Ok(true)
    }

    fn replace(&mut self) -> Result<Told, JournalError> {
        let now = self.clock.now();
        let mut records: Vec<Record> = Vec::new();
        let told = self.ledger.tell_all(|record| records.push(record));
        records.retain(|record| !record.is_over(now));
        self.anew = true;
        self.journal.replace(&records)?;
        self.anew = false;
        Ok(told)
    }

    /// Tells of a failure once, and of its end.
    fn note(&self, outcome: Result<impl Sized, JournalError>) {
        let before = self.troubles.writing.load();
        match outcome {
            Ok(_) if before.is_none() => {}
            Ok(_) if self.anew => {}
            Ok(_) => {
                tracing::info!("what apps have used of their limits is written down again");
                self.troubles.writing.store(None);
            }
            Err(error) => {
                let error = Causes(&error).to_string();
                if before.is_none() {
                    tracing::error!(error, "what apps have used of their limits cannot be written down");
                }
                self.troubles.writing.store(Some(Arc::new(error)));
            }
        }
    }
}
