//! Writes down in the audit log what the agent takes over or does of its own accord.

use std::sync::Arc;

use super::troubles::{Trouble, Troubles};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::issuance::HierarchyView;
use crate::telemetry::{Actor, AuditEvent, AuditLog, AuditOutcome};

/// The agent's hand in the audit log. What happens by itself happens also when it cannot be written down; that is told.
#[derive(Clone, Debug)]
pub(super) struct Scribe {
    pub(super) log: Arc<AuditLog>,
    pub(super) troubles: Arc<Troubles>,
}

impl Scribe {
    /// Writes down that `verb` was done to `target`, or failed.
    pub(super) fn note(&self, verb: &str, target: &str, fill: impl FnOnce(&mut AuditEvent), now: Timestamp) {
        let mut event = AuditEvent::new(Actor::agent(), verb, target, AuditOutcome::Done, now);
        fill(&mut event);
        match self.log.append(event) {
            Ok(_) => {
                if self.troubles.clear(Trouble::Audit) {
                    tracing::info!("the audit log can be written again");
                }
            }
            Err(error) => {
                let error = Causes(&error).to_string();
                tracing::error!(error, verb, target, "not written into the audit log");
                self.troubles.note(Trouble::Audit, format!("the audit log cannot be written: {error}"));
            }
        }
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
