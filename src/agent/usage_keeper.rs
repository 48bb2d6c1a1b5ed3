//! Writes down what was used, so that a restart does not forget it.
//!
//! Threads hand over what they have counted twice a second, and hours that have changed are written every second. A stop in
//! good order loses nothing; the end of the process loses what was counted in the last two seconds.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::passage::Passage;
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::telemetry::{Metrics, UsageBook, usage_dir};

/// Hours that have changed are written this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Nothing is forgotten while the wall clock is further ahead of the time that has passed.
const FAR_AHEAD: Duration = Duration::from_secs(86_400);

/// The thread that writes; what is left is written when this is dropped.
#[derive(Debug)]
pub(super) struct UsageKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    book: Arc<Mutex<UsageBook>>,
    troubles: Arc<ArcSwap<Vec<String>>>,
    /// Where it is written down.
    state: Option<PathBuf>,
}

/// What the thread works with.
struct Writer {
    state: PathBuf,
    keep: Duration,
    book: Arc<Mutex<UsageBook>>,
    passage: Passage,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    damage: Vec<String>,
    troubles: Arc<ArcSwap<Vec<String>>>,
}

impl UsageKeeper {
    /// A book that nothing is written of yet.
    pub(super) fn idle() -> Self {
        Self { stop: None, thread: None, book: Arc::default(), troubles: Arc::default(), state: None }
    }

    /// Takes up what an earlier process has left in `state`, and keeps the last `keep` written down from now on.
    ///
    /// # Errors
    /// There is no thread.
    pub(super) fn take_up(
        &mut self,
        state: PathBuf,
        keep: Duration,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> io::Result<()> {
        let found = usage_dir::read(&state);
        for damage in &found.damage {
            tracing::error!("{damage}");
        }
        {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            found.rows.into_iter().for_each(|row| book.restore(row));
        }
        self.troubles.store(Arc::new(found.damage.clone()));
        self.state = Some(state.clone());
        let writer = Writer {
            state,
            keep,
            book: Arc::clone(&self.book),
            passage: Passage::begin(&*clock),
            clock,
            metrics,
            damage: found.damage,
            troubles: Arc::clone(&self.troubles),
        };
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("usage".into()).spawn(move || writer.run(&stopped))?;
        (self.stop, self.thread) = (Some(stop), Some(thread));
        Ok(())
    }

    /// Writes what is left, and leaves a book that counts from nothing for another process to add to its own. Blocks.
    pub(super) fn give_up(&mut self) {
        self.end();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        // What was handed over since the last round.
        for (hour, rows) in book.take_changed() {
            let written = self.state.as_ref().map(|state| usage_dir::write(state, hour, &rows));
            if let Some(Err(error)) = written {
                tracing::error!(error = %Causes(&error), "usage cannot be written down");
            }
        }
        *book = UsageBook::default();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes down usage had panicked");
        }
    }

    /// Where threads hand over what they count.
    pub(super) fn book(&self) -> Arc<Mutex<UsageBook>> {
        Arc::clone(&self.book)
    }

    /// What is not as it should be, one sentence each.
    pub(super) fn troubles(&self) -> Arc<ArcSwap<Vec<String>>> {
        Arc::clone(&self.troubles)
    }
}

impl Drop for UsageKeeper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Writer {
    fn run(self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(WRITE_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.write();
        }
        self.write();
    }

    fn write(&self) {
        let (now, measured) = (self.clock.now(), self.passage.measured(&*self.clock));
        let (changed, fresh) = {
            let mut book = self.book();
            if now.since(measured) <= FAR_AHEAD {
                book.forget_before(now.min(measured) - self.keep);
            }
            (book.take_changed(), book.take_fresh())
        };
        for ((app, product, code), calls) in fresh {
            self.metrics.count_calls(app, product, code, calls);
        }
        let mut failed: BTreeMap<Timestamp, String> = BTreeMap::new();
        for (hour, rows) in changed {
            if let Err(error) = usage_dir::write(&self.state, hour, &rows) {
                failed.insert(hour, Causes(&error).to_string());
            }
        }
        failed.keys().for_each(|hour| self.book().note_unwritten(*hour));
        self.note(failed.into_values().next());
    }

    /// Tells of a failure once, and of its end.
    fn note(&self, failure: Option<String>) {
        let before = self.troubles.load().len() > self.damage.len();
        if let Some(error) = &failure
            && !before
        {
            tracing::error!(error, "usage cannot be written down");
        } else if failure.is_none() && before {
            tracing::info!("usage is written down again");
        } else if failure.is_none() {
            return;
        }
        let told =
            failure.map(|why| format!("usage cannot be written down, and is forgotten at a restart: {why}"));
        self.troubles.store(Arc::new(self.damage.iter().cloned().chain(told).collect()));
    }

    fn book(&self) -> MutexGuard<'_, UsageBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
