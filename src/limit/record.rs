//! An account as it is written down, to be taken up again by the next process.

use serde::{Deserialize, Serialize};

use super::account::{Account, Tally};
use super::spike::Pace;
use super::table::{Key, Named};
use super::window::{BUCKETS, Count, Steps};
use crate::clock::Timestamp;
use crate::id::{AppId, OperationId, ProductId};

/// What one app has used of the limits of one scope.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// The app.
    pub app: AppId,
    /// The product, unless it is counted over all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<ProductId>,
    /// The operation, unless it is counted over all of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What the quota has counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// The steps of a rolling window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u64>,
    /// When the pace is even again and when something passed last, in nanoseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<(u64, u64)>,
}

impl Record {
    /// What is to be written down of `named`, and the version that this is.
    pub(super) fn of(named: &Named) -> (Self, u64) {
        let account = &named.account;
        let (count, steps, pace, version) =
            account.read(|account| (account.count(), account.steps(), account.pace(), account.version()));
        let Key { app, product, operation } = named.key.clone();
        let steps = steps.map(|steps| steps.to_vec()).unwrap_or_default();
        let record = Self {
            app,
            product,
            operation,
            count: (count != Count::default()).then_some(count),
            steps,
            pace: (pace != Pace::default()).then_some((pace.due, pace.last)),
        };
        (record, version)
    }

    /// Whether nothing in it matters any more at `now`.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        let now = now.unix_nanos();
        self.count.is_none_or(|count| count.end <= now) && self.pace.is_none_or(|(due, _)| due <= now)
    }

    /// Puts what is written down in place of what `account` says.
    pub(super) fn put_into(&self, account: &Account) {
        let mut claim = account.claim();
        if let Some(count) = self.count {
            let buckets: Option<[u64; BUCKETS]> = self.steps.as_slice().try_into().ok();
            claim.set_tally(&match buckets {
                Some(buckets) => Tally::Rolling(Steps { count, buckets }),
                None => Tally::Plain(count),
            });
        }
        if let Some((due, last)) = self.pace {
            claim.set_pace(Pace { due, last });
        }
    }
}

/// How far a quota is used, for whoever asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Use {
    /// The app.
    pub app: AppId,
    /// The product, unless it is counted over all of them.
    pub product: Option<ProductId>,
    /// The operation, unless it is counted over all of the product.
    pub operation: Option<OperationId>,
    /// How much was counted in the window that runs.
    pub used: u64,
    /// When all of it is forgotten.
    pub ends: Timestamp,
}
