//! What peers' certificates say of the clocks: one that is not valid yet was made by a clock that is ahead of ours.
//!
//! A certificate says nothing before it begins, so the time until then is the least by which the clocks differ; as issuers
//! backdate what they sign, they may differ by more. One peer may be wrong itself. When several say the same, it is likely
//! this host's clock that is.
//!
//! **Invariant:** only certificates that are good but for their time are heeded, and of no more than `MOST_PEERS` peers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::identity::{SpiffeId, TrustDomain};

/// So many peers are remembered; the one that was seen first makes room.
const MOST_PEERS: usize = 64;

/// What a peer has shown counts for so long.
const MEMORY: Duration = Duration::from_secs(600);

/// When so many different peers are ahead, this host's clock is suspected.
const QUORUM: usize = 3;

/// Peers whose clocks are ahead.
#[derive(Clone, Debug, Default)]
pub struct Skews(VecDeque<Seen>);

#[derive(Clone, Debug)]
struct Seen {
    peer: SpiffeId,
    ahead: Duration,
    at: Timestamp,
}

/// Why this host's clock is suspected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Suspicion {
    /// How many peers are ahead of it.
    pub peers: usize,
    /// By how much each of them is, at least.
    pub at_least: Duration,
}

impl Skews {
    /// `peer` has shown a certificate that begins in `ahead`.
    pub fn observe(&mut self, peer: SpiffeId, ahead: Duration, now: Timestamp) {
        self.0.retain(|seen| seen.peer != peer);
        if self.0.len() >= MOST_PEERS {
            self.0.pop_front();
        }
        self.0.push_back(Seen { peer, ahead, at: now });
    }

    /// This host's clock was set, so nothing that was seen before says anything.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// By how much the clocks of each trust domain are ahead of ours, or ours is behind, at least.
    #[must_use]
    pub fn by_domain(&self, now: Timestamp) -> BTreeMap<TrustDomain, Duration> {
        let mut bounds = BTreeMap::new();
        for seen in self.recent(now) {
            let bound: &mut Duration = bounds.entry(seen.peer.trust_domain()).or_default();
            *bound = seen.ahead.max(*bound);
        }
        bounds
    }

    /// Whether so many peers are ahead that it is likely this host's clock that is behind.
    #[must_use]
    pub fn suspicion(&self, now: Timestamp) -> Option<Suspicion> {
        let peers = self.recent(now).count();
        let at_least = self.recent(now).map(|seen| seen.ahead).min()?;
        (peers >= QUORUM).then_some(Suspicion { peers, at_least })
    }

    fn recent(&self, now: Timestamp) -> impl Iterator<Item = &Seen> {
        self.0.iter().filter(move |seen| now.since(seen.at) < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(name: &str) -> SpiffeId {
        format!("spiffe://postern.test/{name}").parse().unwrap()
    }

    #[test]
    fn one_peer_that_is_ahead_may_be_wrong_and_several_mean_us() {
        let (mut skews, now) = (Skews::default(), Timestamp::FLOOR);

        for _ in 0..5 {
            skews.observe(peer("a"), SECOND * 42, now);
        }
        assert_eq!(skews.suspicion(now), None);
        skews.observe(peer("b"), SECOND * 50, now);
        skews.observe(peer("c"), SECOND * 40, now);

        assert_eq!(skews.suspicion(now), Some(Suspicion { peers: 3, at_least: SECOND * 40 }));
        let bounds = skews.by_domain(now);
        assert_eq!(bounds.get(&"postern.test".parse::<TrustDomain>().unwrap()), Some(&(SECOND * 50)));
    }

    #[test]
    fn what_was_seen_is_forgotten_in_time_and_when_the_clock_is_set() {
        let (mut skews, now) = (Skews::default(), Timestamp::FLOOR);
        for name in ["a", "b", "c"] {
            skews.observe(peer(name), SECOND, now);
        }
        assert!(skews.suspicion(now + MEMORY - SECOND).is_some());

        assert_eq!(skews.suspicion(now + MEMORY), None);
        assert!(skews.by_domain(now + MEMORY).is_empty());
        skews.forget();
        assert_eq!(skews.suspicion(now), None);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (mut skews, now) = (Skews::default(), Timestamp::FLOOR);

        for number in 0..10 * MOST_PEERS {
            skews.observe(peer(&number.to_string()), SECOND, now);
        }

        assert_eq!(skews.suspicion(now).map(|suspicion| suspicion.peers), Some(MOST_PEERS));
    }
}
