//! What is charged in one process, for another one that counts the same: while one agent takes over from another, both let callers
//! pass.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::statement::Scope;
use super::table::Key;
use crate::clock::Timestamp;
use crate::id::{AppId, OperationId, ProductId};

/// One charge of one account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Charge {
    /// Who paid.
    pub app: AppId,
    /// The product, unless it is counted over all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<ProductId>,
    /// The operation, unless it is counted over all of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// How much.
    pub weight: u64,
    /// When.
    pub at: Timestamp,
    /// The version that it made of the account.
    #[serde(skip)]
    version: u64,
}

impl Charge {
    pub(super) fn new(app: &AppId, scope: &Scope<'_>, weight: u64, at: Timestamp, version: u64) -> Self {
        let Key { app, product, operation } = Key::of(app, scope);
        Self { app, product, operation, weight, at, version }
    }

    /// What is counted together.
    #[must_use]
    pub const fn scope(&self) -> Scope<'_> {
        match (&self.product, &self.operation) {
            (Some(product), Some(operation)) => Scope::Operation(product, operation),
            (Some(product), None) => Scope::Product(product),
            (None, _) => Scope::App(&self.app),
        }
    }
}

/// One who hears of every charge since it began to listen, until all copies of this are dropped.
#[derive(Clone, Debug)]
pub struct Echo(Arc<Mutex<Vec<Charge>>>);

impl Echo {
    /// The charges since this was last asked, but for those that `told` has heard of with the accounts as they stood.
    pub fn take(&self, told: &Told) -> Vec<Charge> {
        let mut charges = std::mem::take(&mut *lock(&self.0));
        charges.retain(|charge| {
            let account = (charge.app.clone(), charge.product.clone(), charge.operation.clone());
            told.0.get(&account).is_none_or(|version| charge.version > *version)
        });
        charges
    }
}

/// Which state of every account another process knows.
#[derive(Debug, Default)]
pub struct Told(HashMap<(AppId, Option<ProductId>, Option<OperationId>), u64>);

impl Told {
    pub(super) fn note(&mut self, key: &Key, version: u64) {
        let Key { app, product, operation } = key.clone();
        self.0.insert((app, product, operation), version);
    }
}

/// All who listen.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    wanted: AtomicBool,
    listeners: Mutex<Vec<Weak<Mutex<Vec<Charge>>>>>,
}

impl Echoes {
    pub(super) fn listen(&self) -> Echo {
        let echo = Echo(Arc::default());
        let mut listeners = lock(&self.listeners);
        listeners.push(Arc::downgrade(&echo.0));
        self.wanted.store(true, Ordering::Release);
        echo
    }

    /// Whether anybody wants to hear of charges, for all that is known without asking.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Tells everybody of `charges` but those who know.
    pub(super) fn tell(&self, charges: &[Charge], informed: &[&Echo]) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| {
            let Some(heard) = listener.upgrade() else { return false };
            if !informed.iter().any(|echo| Arc::ptr_eq(&echo.0, &heard)) {
                let mut heard = lock(&heard);
                let room = ECHOES.saturating_sub(heard.len());
                heard.extend(charges.iter().take(room).cloned());
            }
            true
        });
        self.wanted.store(!listeners.is_empty(), Ordering::Release);
    }
}

/// Charges that are kept for one who does not come to hear of them; more are forgotten.
const ECHOES: usize = 100_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
