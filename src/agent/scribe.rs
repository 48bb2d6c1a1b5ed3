//! Writes down in the audit log what the agent takes over or does of its own accord.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::troubles::{Trouble, Troubles};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::issuance::HierarchyView;
use crate::telemetry::{Actor, AuditEvent, AuditLog, AuditOutcome};

/// The agent's hand in the audit log. What happens by itself happens also when it cannot be written down; that is told, and how
/// much is missing is written down later.
#[derive(Clone, Debug)]
pub(super) struct Scribe {
    log: Arc<AuditLog>,
    troubles: Arc<Troubles>,
    /// Events that could not be written down, and of which nothing is written yet.
    missing: Arc<AtomicU64>,
    /// Whether another process writes everything down by now.
    silent: bool,
}

/// The control plane waits for others no longer than this, and not at all while the log cannot be written anyway.
const PATIENCE: Duration = Duration::from_millis(250);

impl Scribe {
    /// Writes into `log`, and tells `troubles` when it cannot.
    pub(super) fn new(log: Arc<AuditLog>, troubles: Arc<Troubles>) -> Self {
        Self { log, troubles, missing: Arc::default(), silent: false }
    }

    /// Writes nothing any more, for another process does.
    pub(super) const fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// Looks whether the log can be written again.
    pub(super) fn look_again(&self) {
        if self.troubles.has(Trouble::Audit) && self.log.obstacle().is_none() {
            self.clear();
        }
    }

    /// Writes down that `verb` was done to `target`, or failed.
    pub(super) fn note(&self, verb: &str, target: &str, fill: impl FnOnce(&mut AuditEvent), now: Timestamp) {
        if self.silent {
            return;
        }
        let mut event = AuditEvent::new(Actor::agent(), verb, target, AuditOutcome::Done, now);
        fill(&mut event);
        let patience = if self.troubles.has(Trouble::Audit) { Duration::ZERO } else { PATIENCE };
        match self.log.append_within(event, patience) {
            Ok(_) => {
                self.clear();
                self.own_up(now);
            }
            Err(error) => {
                let error = Causes(&error).to_string();
                tracing::error!(error, verb, target, "not written into the audit log");
                let missing = self.missing.fetch_add(1, Ordering::Relaxed) + 1;
                let told = format!("the audit log cannot be written: {error}; records missing: {missing}");
                self.troubles.note(Trouble::Audit, told);
            }
        }
    }

    fn clear(&self) {
        if self.troubles.clear(Trouble::Audit) {
            tracing::info!("the audit log can be written again");
        }
    }

    /// Writes down how many events are not in the log.
    fn own_up(&self, now: Timestamp) {
        let missing = self.missing.swap(0, Ordering::Relaxed);
        if missing == 0 {
            return;
        }
        let mut event = AuditEvent::new(Actor::agent(), "audit.miss", "audit", AuditOutcome::Failed, now);
        event.detail = Some(format!("records that could not be written: {missing}"));
        if self.log.append_within(event, PATIENCE).is_err() {
            self.missing.fetch_add(missing, Ordering::Relaxed);
        }
    }

    /// Writes down that what is on file was put into force, with `detail`, or why it was not.
    pub(super) fn note_taken_over(
        &self,
        (verb, target): (&str, &str),
        outcome: Result<String, String>,
        now: Timestamp,
    ) {
        let fill = |event: &mut AuditEvent| {
            if outcome.is_err() {
                event.outcome = AuditOutcome::Failed;
            }
            event.detail = Some(outcome.unwrap_or_else(|why| why)).filter(|detail| !detail.is_empty());
        };
        self.note(verb, target, fill, now);
    }

    /// Writes down which authorities have come, gone and moved.
    pub(super) fn note_authorities(&self, before: &HierarchyView, after: &HierarchyView, now: Timestamp) {
        let all = |view: &HierarchyView| {
            let all = view.roots.iter().chain(&view.issuing);
            all.map(|one| {
                let revoked = if one.is_revoked { ", revoked" } else { "" };
                (one.id.clone(), format!("{} {}{revoked}", one.level.as_str(), one.slot.as_str()))
            })
            .collect::<std::collections::BTreeMap<_, _>>()
        };
        let (mut former, present) = (all(before), all(after));
        for (id, state) in present {
            let was = former.remove(&id);
            if was.as_deref() != Some(&*state) {
                let fill = |event: &mut AuditEvent| (event.before, event.after) = (was, Some(state));
                self.note("ca.follow", &format!("authority:{id}"), fill, now);
            }
        }
        for (id, was) in former {
            self.note("ca.follow", &format!("authority:{id}"), |event| event.before = Some(was), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::telemetry::{AuditSettings, ROTATE_AT};

    #[test]
    fn what_could_not_be_written_is_counted_and_owned_up_to() {
        let place = tempfile::tempdir().unwrap();
        let settings = AuditSettings { folder: place.path().join("audit"), rotate_at: ROTATE_AT, key: None };
        let (log, troubles) = (Arc::new(AuditLog::new(settings)), Arc::new(Troubles::default()));
        let scribe = Scribe::new(Arc::clone(&log), Arc::clone(&troubles));
        let note = || scribe.note("config.reload", "config", |_| (), Timestamp::FLOOR);
        note();
        assert!(troubles.told().is_empty());
        let somebody = File::open(log.folder()).unwrap();
        somebody.lock().unwrap();

        note();
        note();

        assert!(troubles.told()[0].ends_with("records missing: 2"), "{:?}", troubles.told());
        drop(somebody);
        note();
        assert!(troubles.told().is_empty());
        let records = log.records(|_| true).unwrap();
        let last = &records.last().unwrap().event;
        assert_eq!((records.len(), &*last.verb), (3, "audit.miss"));
        assert_eq!(last.detail.as_deref(), Some("records that could not be written: 2"));
    }
}
