//! Publishes what this CA has revoked, as one revocation list for each of its authorities.
//!
//! They are drawn up anew at half of their span, at once when something was revoked or an authority has moved, and when the
//! clock was set back to before they were made. All lists of one drawing have the same number. It is the time in milliseconds,
//! or one more than the last number if that is larger, so it falls neither with the clock nor, since the published file is
//! asked, over a restart.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Rotator, milliseconds};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::pki::{CrlEdition, CrlEntries, CrlError, ForeignCrl, Hierarchy, crl_entries, draw_up_crl};
use crate::store::{atomic_file, pem};

/// The lists as they are published.
#[derive(Debug)]
pub(super) struct Lists {
    path: PathBuf,
    pem: Arc<str>,
    /// The list of each authority; one that could not be drawn up anew is its former one.
    each: BTreeMap<AuthorityId, String>,
    number: u64,
    drawn: Option<Drawn>,
    /// Whether every list is of the last drawing.
    is_complete: bool,
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
        Self {
            path,
            pem: "".into(),
            each: BTreeMap::new(),
            number,
            drawn: None,
            is_complete: false,
            is_touched: true,
            is_written: false,
            failure: None,
        }
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
    fn due(&self, ttl: Duration) -> Option<Timestamp> {
        // The span that was promised counts, also when another one is configured since.
        self.drawn.as_ref().map(|drawn| drawn.at + drawn.ttl.min(ttl) / 2)
    }

    /// When to look again.
    pub(super) fn next_look(&self, ttl: Duration) -> Option<Timestamp> {
        // What failed is overdue, and waits all the same.
        self.failure.as_ref().map(|(at, _)| *at + PAUSE).or_else(|| self.due(ttl))
    }

    fn is_due(&self, ttl: Duration, now: Timestamp) -> bool {
        let early = self.drawn.as_ref().is_some_and(|drawn| now < drawn.at);
        early || !self.is_complete || self.due(ttl).is_none_or(|due| now >= due)
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
        // Until all is done, it is asked again.
        self.is_complete = false;
        let (mut each, mut text, mut outcome) = (BTreeMap::new(), String::new(), Ok(()));
        for (_, authority) in hierarchy.iter() {
            let id = authority.id();
            // A root that signs elsewhere has its list there.
            let Some(entries) = entries.get(id).filter(|_| authority.key().is_some()) else { continue };
            let list = match (draw_up_crl(authority, entries, &edition), self.each.get(id)) {
                (Ok(list), _) => pem::crl_to_pem(&list),
                // A token may be away. The others' lists must not run out with this one.
                (Err(error), Some(former)) => {
                    outcome = outcome.and(Err(error));
                    former.clone()
                }
                (Err(error), None) => return Err(error),
            };
            text.push_str(&list);
            each.insert(id.clone(), list);
        }
        self.each = each;
        self.pem = text.into();
        self.number = number;
        self.is_complete = outcome.is_ok();
        self.is_written = false;
        self.drawn = Some(Drawn { at: now, ttl, entries });
        outcome
    }

    fn note(&mut self, outcome: Result<(), String>, now: Timestamp) {
        if let Err(why) = &outcome
            && self.failure.is_none()
        {
            tracing::error!(why, "revocation lists cannot be published");
        }
        self.failure = outcome.err().map(|why| (now, why));
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
        // What could be drawn up is written; if nothing could, the lists from before the start stay.
        if self.lists.drawn.is_some() && !self.lists.is_written {
            let written = atomic_file::replace(&self.lists.path, self.lists.pem.as_bytes(), 0o644)
                .map_err(|error| Causes(&error).to_string());
            self.lists.is_written = written.is_ok();
            self.lists.note(drawn.and(written), now);
        } else {
            self.lists.note(drawn, now);
        }
    }
}

fn highest_number(bytes: &[u8]) -> u64 {
    let lists = pem::crls(bytes).unwrap_or_default();
    let numbers = lists.iter().filter_map(|list| ForeignCrl::parse(list).ok()?.number());
    numbers.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rcgen::{PublicKeyData as _, SigningKey as _};

    use super::*;
    use crate::pki::{
        AuthorityPlan, KeyAlgorithm, KeyError, KeyPair, KeySource, LocalKeys, RemoteFailure, RemoteSigner,
        Revocations,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    /// A token that can be pulled out.
    #[derive(Clone, Debug)]
    struct Pluggable {
        key: Arc<KeyPair>,
        is_there: Arc<AtomicBool>,
    }

    impl KeySource for Pluggable {
        fn generate(&self, algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError> {
            Ok(KeyPair::remote(algorithm, self.key.der_bytes().to_vec(), Arc::new(self.clone())))
        }
    }

    impl RemoteSigner for Pluggable {
        fn name(&self) -> &'static str {
            "pluggable"
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, RemoteFailure> {
            if !self.is_there.load(Ordering::Relaxed) {
                return Err(RemoteFailure("it was pulled out".to_owned()));
            }
            self.key.sign(message).map_err(|error| RemoteFailure(error.to_string()))
        }
    }

    #[test]
    fn an_authority_whose_key_is_away_does_not_silence_the_others_and_is_asked_again_after_a_pause() {
        let now: Timestamp = "2026-11-22T05:21:00Z".parse().unwrap();
        let algorithm = KeyAlgorithm::EcdsaP256;
        let (key, is_there) = (KeyPair::generate(algorithm).unwrap(), Arc::new(AtomicBool::new(true)));
        let token = Pluggable { key: Arc::new(key), is_there };
        let plan = |keys, ttl| AuthorityPlan { keys, algorithm, ttl, backdate: Duration::ZERO };
        let (root, issuing) = (plan(&token, HOUR * 900), plan(&LocalKeys, HOUR * 90));
        let hierarchy = Hierarchy::create("postern.test".parse().unwrap(), &root, &issuing, now).unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut lists = Lists::after(state.path());
        let mut draw = |now| {
            let entries = crl_entries(&hierarchy, &[], &Revocations::default(), HOUR, now);
            let outcome = lists.draw(&hierarchy, entries, (HOUR, Duration::ZERO), now);
            lists.note(outcome.map_err(|error| Causes(&error).to_string()), now);
            let numbers = pem::crls(lists.pem.as_bytes()).unwrap();
            let numbers = numbers.iter().filter_map(|list| ForeignCrl::parse(list).unwrap().number());
            (numbers.collect::<BTreeSet<u64>>(), lists.failure.clone(), lists.next_look(HOUR))
        };
        let (first, failure, next) = draw(now);
        assert_eq!((first.len(), failure, next), (1, None, Some(now + HOUR / 2)));

        token.is_there.store(false, Ordering::Relaxed);
        let late = now + HOUR;
        let (second, failure, next) = draw(late);

        assert_eq!(second.len(), 2, "one is anew, and the other stays");
        assert!(second.is_superset(&first));
        assert!(failure.unwrap().1.ends_with("it was pulled out"));
        assert_eq!(next, Some(late + PAUSE), "not at once, over and over");
        token.is_there.store(true, Ordering::Relaxed);
        let (third, failure, _) = draw(late + PAUSE);
        assert_eq!((third.len(), failure), (1, None));
        assert!(third.is_disjoint(&second));
    }
}
