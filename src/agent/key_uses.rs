//! Remembers when each credential was used last since the start, and warns of those in use that are about to retire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::id::CredentialId;
use crate::proxy::CredentialUse;

/// When each credential was used last.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyUses(Arc<Mutex<HashMap<CredentialId, Use>>>);

#[derive(Clone, Copy, Debug)]
struct Use {
    last: Timestamp,
    warned: Option<Timestamp>,
}

impl KeyUses {
    /// When `credential` was used last since the start.
    pub(super) fn last(&self, credential: &str) -> Option<Timestamp> {
        self.all().get(credential).map(|one| one.last)
    }

    /// Takes note of what is reported, until nobody reports any more.
    pub(super) async fn collect(self, mut reports: mpsc::Receiver<CredentialUse>) {
        while let Some(report) = reports.recv().await {
            if self.note(&report) {
                let CredentialUse { credential, app, retires, .. } = report;
                let retires = retires.map(|at| at.to_string()).unwrap_or_default();
                tracing::warn!(
                    credential.id = %credential, app.id = %app, retires,
                    "a key is in use that another has taken the place of"
                );
            }
        }
    }

    /// Whether it is time to warn.
    fn note(&self, report: &CredentialUse) -> bool {
        let mut all = self.all();
        if !all.contains_key(&report.credential) && all.len() >= MOST {
            // The one that was used longest ago has the least to tell.
            let oldest = all.iter().min_by_key(|(_, one)| one.last).map(|(id, _)| id.clone());
            oldest.map(|id| all.remove(&id));
        }
        let entry = all.entry(report.credential.clone()).or_insert(Use { last: report.at, warned: None });
        entry.last = report.at;
        let due = |warned: Timestamp| report.at.since(warned) >= WARN_EVERY || warned > report.at;
        let warns = report.retires.is_some() && entry.warned.is_none_or(due);
        if warns {
            entry.warned = Some(report.at);
        }
        warns
    }

    fn all(&self) -> MutexGuard<'_, HashMap<CredentialId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody hears of the same key more often.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// Credentials that are remembered.
const MOST: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(second: u64, retires: bool) -> CredentialUse {
        let at = Timestamp::FLOOR + Duration::from_secs(second);
        CredentialUse {
            credential: "0000000000A1".parse().unwrap(),
            app: "ledger".parse().unwrap(),
            at,
            retires: retires.then(|| at + WARN_EVERY),
        }
    }

    #[test]
    fn a_retiring_key_in_use_is_told_once_an_hour() {
        let uses = KeyUses::default();

        assert!(!uses.note(&report(0, false)));
        assert!(uses.note(&report(1, true)));
        assert!(!uses.note(&report(2, true)));
        assert!(!uses.note(&report(3600, true)));
        assert!(uses.note(&report(3601, true)));
        assert_eq!(uses.last("0000000000A1"), Some(Timestamp::FLOOR + Duration::from_secs(3601)));
        assert_eq!(uses.last("0000000000B2"), None);
    }
}
