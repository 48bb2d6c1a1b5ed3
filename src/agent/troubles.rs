//! What the agent has to do without for now, in words for status, `/ready` and metric.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the agent can do without, for a while.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Trouble {
    /// The operators' socket.
    Admin,
    /// The audit log.
    Audit,
    /// The keys of outside issuers.
    Issuers,
    /// Keys that are handed to apps in files.
    Keys,
    /// What API keys are hashed under.
    Peppers,
    /// The samples of a first look.
    Quickstart,
    /// A state directory that can be written.
    State,
    /// Withdrawals of tokens that were lost before the start.
    TokenDamage,
    /// Keys that sign tokens, and withdrawals of tokens, that can be written down.
    Tokens,
}

/// All present troubles.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<BTreeMap<Trouble, String>>);

impl Troubles {
    /// There is this trouble; false if it was there already.
    pub(super) fn note(&self, trouble: Trouble, told: String) -> bool {
        self.all().insert(trouble, told).is_none()
    }

    /// This trouble is over; false if there was none.
    pub(super) fn clear(&self, trouble: Trouble) -> bool {
        self.all().remove(&trouble).is_some()
    }

    /// Whether there is this trouble.
    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.all().contains_key(&trouble)
    }

    /// What is told of all of them.
    pub(super) fn told(&self) -> Vec<String> {
        self.all().values().cloned().collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Trouble, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
