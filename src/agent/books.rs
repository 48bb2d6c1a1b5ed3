//! What apps use, written down by one process at a time: limits and usage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::limit_keeper::{LimitKeeper, LimitTroubles};
use super::supervise::AgentError;
use super::usage_keeper::UsageKeeper;
use crate::causes::Causes;
use crate::clock::Clock;
use crate::limit::{Ledger, Told};
use crate::telemetry::Metrics;

/// Both books, and all that it takes to write them.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) state_dir: PathBuf,
    pub(super) keep: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) limit_troubles: Arc<LimitTroubles>,
    /// Who writes limits, unless another process does.
    pub(super) limits: Option<LimitKeeper>,
    pub(super) usage: UsageKeeper,
}

impl Books {
    /// Takes up what an earlier process has left, and writes from now on.
    ///
    /// # Errors
    /// A file cannot be used, or there is no thread.
    pub(super) fn open(&mut self) -> Result<(), AgentError> {
        let (ledger, clock) = (Arc::clone(&self.ledger), Arc::clone(&self.clock));
        self.limits = Some(LimitKeeper::start(&self.state_dir, ledger, clock, &self.limit_troubles)?);
        self.open_usage()
    }

    /// Writes what is left and then no more; says what another process knows of limits by that. Of usage, what is counted from now
    /// on is kept apart. Blocks.
    pub(super) fn close(&mut self) -> Told {
        self.usage.give_up();
        self.limits.take().map(LimitKeeper::finish).unwrap_or_default()
    }

    /// Writes again after [`Books::close`], since the process that was to do it has failed. What it has left of limits is of no
    /// account: it never let anybody in.
    pub(super) fn reopen(&mut self) {
        let (ledger, clock) = (Arc::clone(&self.ledger), Arc::clone(&self.clock));
        match LimitKeeper::go_on(&self.state_dir, ledger, clock, &self.limit_troubles) {
            Ok(keeper) => self.limits = Some(keeper),
            Err(error) => {
                let error = Causes(&error).to_string();
                tracing::error!(error, "what apps have used of their limits cannot be written down any more");
                self.limit_troubles.note_unwritten(error);
            }
        }
        if let Err(error) = self.open_usage() {
            tracing::error!(error = %Causes(&error), "usage cannot be written down any more");
        }
    }

    fn open_usage(&mut self) -> Result<(), AgentError> {
        let (clock, metrics) = (Arc::clone(&self.clock), Arc::clone(&self.metrics));
        let opened = self.usage.take_up(self.state_dir.clone(), self.keep, clock, metrics);
        opened.map_err(AgentError::Runtime)
    }
}
