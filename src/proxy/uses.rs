//! When each credential was used last, and by whom one that is about to retire.
//!
//! A thread reports each credential at most once a second over a channel of bounded length and goes on; what does not fit is
//! reported with the next use. Uses of what is retiring are all counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId};
use crate::registry::{Credential, CredentialStatus};
use crate::telemetry::Metrics;

/// A credential by which somebody was let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialUse {
    /// Which one.
    pub credential: CredentialId,
    /// Whose.
    pub app: AppId,
    /// When.
    pub at: Timestamp,
    /// When it retires, if another has taken its place.
    pub retires: Option<Timestamp>,
}

/// Where uses are reported.
#[derive(Clone, Debug)]
pub struct UseReports(mpsc::Sender<CredentialUse>);

impl UseReports {
    /// Where to report, and where reports arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<CredentialUse>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }
}

/// One thread's memory of what it has reported.
#[derive(Debug)]
pub(super) struct UseLog {
    reports: UseReports,
    reported: RefCell<HashMap<CredentialId, Timestamp>>,
}

impl UseLog {
    pub(super) fn new(reports: UseReports) -> Self {
        Self { reports, reported: RefCell::default() }
    }

    /// Somebody was let in by `credential`.
    pub(super) fn note(&self, credential: &Credential, metrics: &Metrics, now: Timestamp) {
        let retires = match credential.status {
            CredentialStatus::Retiring(at) => {
                metrics.count_retiring_use(credential.app.id.as_str());
                Some(at)
            }
            CredentialStatus::Approved | CredentialStatus::Pending | CredentialStatus::Revoked => None,
        };
        let mut reported = self.reported.borrow_mut();
        let last = reported.get(credential.id.as_str());
        // A clock that was set back must not silence it.
        if last.is_some_and(|&last| last <= now && now.since(last) < EVERY) {
            return;
        }
        if reported.len() >= MOST {
            reported.clear();
        }
        let (id, app) = (credential.id.clone(), credential.app.id.clone());
        let report = CredentialUse { credential: id.clone(), app, at: now, retires };
        if self.reports.0.try_send(report).is_ok() {
            reported.insert(id, now);
        }
    }
}

/// A credential is reported no more often.
const EVERY: Duration = Duration::from_secs(1);

/// Reports that may wait.
const BACKLOG: usize = 1024;

/// A thread remembers no more credentials; beyond that it begins anew, which costs a few reports more.
const MOST: usize = 16_384;
