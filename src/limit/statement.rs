//! How an app stands with its limits: what the answer says of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, OperationId, ProductId};

/// What a limit is counted by, always within one app.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scope<'a> {
    /// All that the app does.
    App(&'a AppId),
    /// One operation of a product.
    Operation(&'a ProductId, &'a OperationId),
    /// One product.
    Product(&'a ProductId),
}

impl fmt::Display for Scope<'_> {
    /// `app:ledger`, `product:orders`, `operation:orders/search`: visible ASCII without quotes, whatever the names are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => write!(f, "app:{app}"),
            Self::Operation(product, operation) => write!(f, "operation:{product}/{operation}"),
            Self::Product(product) => write!(f, "product:{product}"),
        }
    }
}

/// Which of a scope's limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measure {
    /// How much in a window.
    Quota,
    /// How fast.
    Spike,
}

/// Whether a limit lets the request pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It does not.
    Exceeded,
    /// It does.
    Within,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// What it is counted by.
    pub scope: Scope<'a>,
    /// Which one.
    pub measure: Measure,
    /// Whether it lets the request pass.
    pub standing: Standing,
    /// How much it allows.
    pub limit: u64,
    /// In how much time.
    pub window: Duration,
    /// How much of it is left.
    pub remaining: u64,
    /// How long until there is more; within a rolling window, until all that was used is forgotten.
    pub resets: Duration,
}

impl fmt::Display for Entry<'_> {
    /// The name of the policy: its scope, and `:spike` for a pace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.measure == Measure::Spike { ":spike" } else { "" };
        write!(f, "{}{suffix}", self.scope)
    }
}

/// Three scopes with two limits each.
pub(super) const MOST: usize = 6;

/// How all limits stand that a request meets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statement<'a>([Option<Entry<'a>>; MOST]);

impl<'a> Statement<'a> {
    pub(super) fn push(&mut self, entry: Entry<'a>) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(entry);
        }
    }

    /// The limits: of the app, of the product, of the operation.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<'a>> + Clone {
        self.0.iter().flatten()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, [None, ..])
    }
}

/// Why a request is too much.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Excess {
    /// There is no room left to count in.
    NoRoom,
    /// A quota is used up.
    Quota,
    /// It comes too fast.
    Spike,
}
