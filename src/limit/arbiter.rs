//! Another process that has the last word on what may be charged, while both let callers pass.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::echo::{Charge, Echo};
use super::statement::Excess;

/// What the other process says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ruling {
    /// It has charged it.
    Charged,
    /// It is too much, and nothing was charged.
    Refused {
        /// What of.
        excess: Excess,
        /// When all of the limits might let it pass.
        retry_after: Duration,
    },
}

/// How the other process is asked to charge all of these or none; it may not answer. Blocks for as long as that takes.
pub type Ask = dyn Fn(&[Charge]) -> Option<Ruling> + Send + Sync;

/// Who has the last word.
#[derive(Clone)]
pub struct Arbiter {
    /// How it is asked.
    pub ask: Arc<Ask>,
    /// How it hears of what is charged without asking it.
    pub echo: Echo,
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiter").field("echo", &self.echo).finish_non_exhaustive()
    }
}

/// A place for an arbiter, mostly empty.
#[derive(Debug, Default)]
pub(super) struct Seat {
    taken: AtomicBool,
    arbiter: RwLock<Option<Arbiter>>,
}

impl Seat {
    pub(super) fn put(&self, arbiter: Option<Arbiter>) {
        let taken = arbiter.is_some();
        *self.arbiter.write().unwrap_or_else(PoisonError::into_inner) = arbiter;
        self.taken.store(taken, Ordering::Release);
    }

    pub(super) fn arbiter(&self) -> Option<Arbiter> {
        if !self.taken.load(Ordering::Acquire) {
            return None;
        }
        self.arbiter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
