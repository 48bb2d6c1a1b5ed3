//! Publishes what this CA has revoked, as one revocation list for each of its authorities.
//!
//! They are drawn up anew at half of their span, at once when something was revoked or an authority has moved, and when the
//! clock was set back to before they were made. All lists of one drawing have the same number. It is the time in milliseconds,
//! or one more than the last number if that is larger, so it falls neither with the clock nor, since the published file is
//! asked, over a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Rotator, milliseconds};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::pki::{CrlEdition, CrlEntries, CrlError, ForeignCrl, Hierarchy, crl_entries, draw_up_crl};
use crate::store::{atomic_file, pem};

/// The lists as they are published.
#[derive(Debug)]
pub(super) struct Lists {
    path: PathBuf,
    pem: Arc<str>,
    number: u64,
    drawn: Option<Drawn>,
    /// Whether what they say may have changed.
    pub(super) is_touched: bool,
    /// Whether the file holds what is published.
    is_written: bool,
    failure: Option<(Timestamp, String)>,
}

/// What the lists were drawn up from.
#[derive(Debug)]
struct Drawn {
    at: Timestamp,
    ttl: Duration,
    entries: CrlEntries,
}

/// After a failure the next attempt waits this long.
const PAUSE: Duration = Duration::from_secs(5);

impl Lists {
    /// No list yet; those that `state` has from earlier only tell which numbers are taken.
    pub(super) fn after(state: &Path) -> Self {
        let path = state.join("crl.pem");
        let number = fs::read(&path).map(|bytes| highest_number(&bytes)).unwrap_or_default();
        Self { path, pem: "".into(), number, drawn: None, is_touched: true, is_written: false, failure: None }
    }

    /// All lists, one PEM block each.
    pub(super) fn pem(&self) -> Arc<str> {
        Arc::clone(&self.pem)
    }

    /// Why the lists, or the file, are not what they should be.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|(_, why)| why.as_str())
    }

    /// When they are drawn up again if nothing happens.
    pub(super) fn due(&self, ttl: Duration) -> Option<Timestamp> {
        // The span that was promised counts, also when another one is configured since.
        self.drawn.as_ref().map(|drawn| drawn.at + drawn.ttl.min(ttl) / 2)
    }

    fn is_due(&self, ttl: Duration, now: Timestamp) -> bool {
        let early = self.drawn.as_ref().is_some_and(|drawn| now < drawn.at);
        early || self.due(ttl).is_none_or(|due| now >= due)
    }

    fn say(&self, entries: &CrlEntries) -> bool {
        self.drawn.as_ref().is_some_and(|drawn| drawn.entries == *entries)
    }

    fn draw(
        &mut self,
        hierarchy: &Hierarchy,
        entries: CrlEntries,
        span: (Duration, Duration),
        now: Timestamp,
    ) -> Result<(), CrlError> {
        let (ttl, backdate) = span;
        let number = milliseconds(now).max(self.number.saturating_add(1));
        let edition = CrlEdition { number, this_update: now - backdate, next_update: now + ttl };
        let mut text = String::new();
        for (_, authority) in hierarchy.iter() {
            // A root that signs elsewhere has its list there.
            if authority.key().is_some()
                && let Some(entries) = entries.get(authority.id())
            {
                text.push_str(&pem::crl_to_pem(&draw_up_crl(authority, entries, &edition)?));
            }
        }
        self.pem = text.into();
        self.number = number;
        self.is_written = false;
        self.drawn = Some(Drawn { at: now, ttl, entries });
        Ok(())
    }
}

impl Rotator {
    /// Draws the lists up if they are due, and writes them down.
    pub(super) fn publish_lists(&mut self, now: Timestamp) {
        let (ttl, backdate) = (self.settings.crl_ttl, self.settings.backdate);
        let waits = self.lists.failure.as_ref().is_some_and(|(at, _)| *at <= now && now < *at + PAUSE);
        let is_due = self.lists.is_due(ttl, now);
        if !self.lists.is_touched && (waits || !is_due && self.lists.is_written) {
            return;
        }
        let entries = crl_entries(&self.hierarchy, self.journal.leaves(), &self.revocations, ttl, now);
        self.lists.is_touched = false;
        let drawn = if is_due || !self.lists.say(&entries) {
            self.lists
                .draw(&self.hierarchy, entries, (ttl, backdate), now)
                .map_err(|error| Causes(&error).to_string())
        } else if self.lists.is_written {
            return;
        } else {
            Ok(())
        };
        let outcome = drawn.and_then(|()| {
            atomic_file::replace(&self.lists.path, self.lists.pem.as_bytes(), 0o644)
                .map_err(|error| Causes(&error).to_string())
        });
        self.lists.is_written = outcome.is_ok();
        if let Err(why) = &outcome
            && self.lists.failure.is_none()
        {
            tracing::error!(why, "revocation lists cannot be published");
        }
        self.lists.failure = outcome.err().map(|why| (now, why));
    }
}

fn highest_number(bytes: &[u8]) -> u64 {
    let lists = pem::crls(bytes).unwrap_or_default();
    let numbers = lists.iter().filter_map(|list| ForeignCrl::parse(list).ok()?.number());
    numbers.max().unwrap_or_default()
}
