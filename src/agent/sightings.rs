//! Remembers who still comes in with a certificate of a retired authority, for the status of a roll-over.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, watch};

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::SpiffeId;
use crate::issuance::Issued;
use crate::pki::Slot;
use crate::proxy::Sighting;

/// By authority: who was seen with a leaf of it, and when last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Sightings(BTreeMap<AuthorityId, BTreeMap<SpiffeId, Timestamp>>);

impl Sightings {
    /// Those under authorities that are retired in `issued`.
    pub(super) fn under_retired<'s>(
        &'s self,
        issued: &'s Issued,
    ) -> impl Iterator<Item = (&'s AuthorityId, &'s SpiffeId, Timestamp)> {
        let retired = issued.hierarchy.issuing.iter().filter(|one| one.slot == Slot::Retired);
        let seen = retired.filter_map(|one| self.0.get_key_value(&one.id));
        seen.flat_map(|(authority, seen)| seen.iter().map(move |(id, at)| (authority, id, *at)))
    }

    fn note(&mut self, Sighting { authority, spiffe_id, at }: Sighting) {
        if !self.0.contains_key(&authority) && self.0.len() >= AUTHORITIES {
            // The one whose callers were seen longest ago; as a rule it is long gone.
            let last = |(_, seen): &(&AuthorityId, &BTreeMap<_, Timestamp>)| seen.values().max().copied();
            if let Some(oldest) = self.0.iter().min_by_key(last).map(|(authority, _)| authority.clone()) {
                self.0.remove(&oldest);
            }
        }
        let seen = self.0.entry(authority).or_default();
        if seen.len() < CALLERS || seen.contains_key(&spiffe_id) {
            seen.insert(spiffe_id, at);
        }
    }
}

/// Takes note of what is reported, until nobody reports any more.
pub(super) async fn collect(mut reports: mpsc::Receiver<Sighting>, known: watch::Sender<Sightings>) {
    while let Some(sighting) = reports.recv().await {
        known.send_modify(|known| known.note(sighting));
    }
}

/// As many authorities are remembered.
const AUTHORITIES: usize = 8;

/// As many callers are named for each: enough to know where to look.
const CALLERS: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sighting(authority: u32, caller: u32, second: u64) -> Sighting {
        Sighting {
            authority: format!("{authority:016x}").parse().unwrap(),
            spiffe_id: format!("spiffe://postern.test/{caller}").parse().unwrap(),
            at: Timestamp::FLOOR + Duration::from_secs(second),
        }
    }

    #[test]
    fn a_caller_is_known_by_when_it_was_seen_last() {
        let mut known = Sightings::default();

        known.note(sighting(1, 7, 1));
        known.note(sighting(1, 7, 5));

        let seen = known.0.values().next().unwrap();
        assert_eq!(seen.values().collect::<Vec<_>>(), [&(Timestamp::FLOOR + Duration::from_secs(5))]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_stays() {
        let mut known = Sightings::default();

        for authority in 0..100 {
            for caller in 0..100 {
                known.note(sighting(authority, caller, u64::from(authority)));
            }
        }

        assert_eq!(known.0.len(), AUTHORITIES);
        assert!(known.0.values().all(|seen| seen.len() == CALLERS));
        assert!(known.0.contains_key(&sighting(99, 0, 0).authority));
    }
}
