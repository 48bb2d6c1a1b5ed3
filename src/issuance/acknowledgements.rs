//! Who has loaded which trust bundle: what has to be known before anything is signed under a new root.
//!
//! **Invariant:** a value without a clock or a channel. Whoever loads a bundle says so with its sequence number, and whoever
//! wants to go on asks who has not.

use std::collections::BTreeMap;
use std::fmt;

use crate::clock::Timestamp;
use crate::id::{ListenerId, RemoteId, WorkloadId};

/// Somebody who has to know a root before a certificate below it is shown to anyone.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Consumer {
    /// The reader of a workload's files.
    Files(WorkloadId),
    /// A door from outside, which verifies callers.
    Listener(ListenerId),
    /// A door to outside, which verifies who is dialled.
    Remote(RemoteId),
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(workload) => write!(f, "the files of {workload}"),
            Self::Listener(listener) => write!(f, "the listener {listener}"),
            Self::Remote(remote) => write!(f, "the remote {remote}"),
        }
    }
}

/// What one consumer has loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Loaded {
    /// Nothing yet.
    sequence: Option<u64>,
    since: Timestamp,
}

/// Somebody who has not loaded what was asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Laggard {
    /// Who.
    pub consumer: Consumer,
    /// What was loaded instead, if anything.
    pub sequence: Option<u64>,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sequence {
            Some(sequence) => {
                write!(f, "{} (bundle {sequence}, loaded {})", self.consumer, self.since)
            }
            None => write!(f, "{} (no bundle yet, since {})", self.consumer, self.since),
        }
    }
}

/// What everyone who counts has loaded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Acknowledgements(BTreeMap<Consumer, Loaded>);

impl Acknowledgements {
    /// From now on exactly `consumers` count. What is known of them stays known.
    pub fn expect(&mut self, consumers: impl IntoIterator<Item = Consumer>, now: Timestamp) {
        let mut former = std::mem::take(&mut self.0);
        let nothing = Loaded { sequence: None, since: now };
        self.0 = consumers
            .into_iter()
            .map(|consumer| {
                let loaded = former.remove(&consumer).unwrap_or(nothing);
                (consumer, loaded)
            })
            .collect();
    }

    /// `consumer` has loaded the bundle `sequence`. Of somebody who does not count, or who knows better already, it changes
    /// nothing.
    pub fn acknowledge(&mut self, consumer: &Consumer, sequence: u64, now: Timestamp) {
        if let Some(loaded) = self.0.get_mut(consumer)
            && loaded.sequence.is_none_or(|known| known < sequence)
        {
            *loaded = Loaded { sequence: Some(sequence), since: now };
        }
    }

    /// Who has not loaded the bundle `sequence` or a later one.
    #[must_use]
    pub fn laggards(&self, sequence: u64) -> Vec<Laggard> {
        let behind = self.0.iter().filter(|(_, loaded)| loaded.sequence.is_none_or(|known| known < sequence));
        behind
            .map(|(consumer, loaded)| Laggard {
                consumer: consumer.clone(),
                sequence: loaded.sequence,
                since: loaded.since,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn files(workload: &str) -> Consumer {
        Consumer::Files(workload.parse().unwrap())
    }

    fn listener() -> Consumer {
        Consumer::Listener("inbound".parse().unwrap())
    }

    #[test]
    fn whoever_counts_lags_until_it_has_loaded_the_bundle_or_a_later_one() {
        let mut all = Acknowledgements::default();
        let now = Timestamp::FLOOR;
        all.expect([listener(), files("web")], now);
        assert_eq!(all.laggards(1).len(), 2);

        all.acknowledge(&listener(), 2, now);
        all.acknowledge(&files("web"), 1, now + Duration::from_secs(1));

        let expected =
            Laggard { consumer: files("web"), sequence: Some(1), since: now + Duration::from_secs(1) };
        assert_eq!(all.laggards(2), [expected]);
        assert_eq!(all.laggards(1), []);
    }

    #[test]
    fn an_earlier_bundle_takes_nothing_back_and_strangers_do_not_count() {
        let mut all = Acknowledgements::default();
        all.expect([files("web")], Timestamp::FLOOR);
        all.acknowledge(&files("web"), 3, Timestamp::FLOOR);

        all.acknowledge(&files("web"), 2, Timestamp::FLOOR);
        all.acknowledge(&files("gone"), 1, Timestamp::FLOOR);
        assert_eq!(all.laggards(3), []);

        all.expect([files("web"), files("new")], Timestamp::FLOOR);
        assert_eq!(all.laggards(3).len(), 1, "what is known of a reader outlives a reload");
    }
}
