//! Who fails too often to say who it is, is not listened to for a while.
//!
//! Only failures are counted, by where they come from, each at the pace of a [`Spike`]. The table has a fixed size. A source
//! that is turned away is never pushed out by others: where all places are held by such sources, a new one is not noted, and
//! so stays unthrottled. Against an attacker with tens of thousands of addresses an account per address is no help anyway.
//!
//! **Invariant:** looking up a source costs one hash of its address and a few reads, however often it has failed.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::spike::Spike;
use crate::clock::Timestamp;

/// How often each source has failed. Shared by all threads.
#[derive(Debug)]
pub struct Throttle {
    hasher: RandomState,
    places: Box<[Place]>,
}

/// One source.
#[derive(Debug, Default)]
struct Place {
    /// Stands for its address; 0 for nobody.
    name: AtomicU64,
    /// When it has paid for its failures, in nanoseconds since the Unix epoch.
    due: AtomicU64,
}

/// So many sources are told apart; a MiB.
const SOURCES: usize = 1 << 16;

/// So many places a source may have.
const WAYS: usize = 8;

impl Default for Throttle {
    fn default() -> Self {
        Self { hasher: RandomState::new(), places: (0..SOURCES).map(|_| Place::default()).collect() }
    }
}

impl Throttle {
    /// Whether `source` is listened to at `now`.
    ///
    /// # Errors
    /// It has failed too often; it may try again after this long.
    pub fn admit(&self, source: u128, pace: &Spike, now: Timestamp) -> Result<(), Duration> {
        let (name, places) = self.places(source);
        let found = places.iter().find(|place| place.name.load(Ordering::Acquire) == name);
        let due = found.map_or(0, |place| place.due.load(Ordering::Acquire));
        let wait = wait(due, pace, now.unix_nanos());
        if wait == 0 { Ok(()) } else { Err(Duration::from_nanos(wait)) }
    }

    /// Notes that `source` has failed once more at `now`.
    pub fn note_failure(&self, source: u128, pace: &Spike, now: Timestamp) {
        let now = now.unix_nanos();
        let (name, places) = self.places(source);
        let Some(place) = place_for(places, name, pace, now) else { return };
        // A failure that was let through counts even if another has used up what was left meanwhile.
        let add = |due: u64| Some(due.min(latest(pace, now)).max(now).saturating_add(step(pace)));
        // `add` always gives something, so what comes back is only what was there before.
        place.due.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).unwrap_or_default();
    }

    fn places(&self, source: u128) -> (u64, &[Place]) {
        let hash = self.hasher.hash_one(source);
        let sets = SOURCES / WAYS;
        let first = usize::try_from(hash % u64::try_from(sets).unwrap_or(1)).unwrap_or(0) * WAYS;
        (hash.max(1), self.places.get(first..first + WAYS).unwrap_or_default())
    }
}

/// The place of `name`, or one that it may take.
fn place_for<'t>(places: &'t [Place], name: u64, pace: &Spike, now: u64) -> Option<&'t Place> {
    if let Some(place) = places.iter().find(|place| place.name.load(Ordering::Acquire) == name) {
        return Some(place);
    }
    let free = places.iter().filter(|place| wait(place.due.load(Ordering::Acquire), pace, now) == 0);
    let place = free.min_by_key(|place| place.due.load(Ordering::Acquire))?;
    let holder = place.name.load(Ordering::Acquire);
    // Whoever comes second looks for another place at its next failure.
    place.name.compare_exchange(holder, name, Ordering::AcqRel, Ordering::Acquire).ok()?;
    place.due.store(0, Ordering::Release);
    Some(place)
}

fn step(pace: &Spike) -> u64 {
    u64::try_from(pace.interval().as_nanos()).unwrap_or(u64::MAX)
}

/// The latest instant that failures can lead to; a later one comes of a clock that was set back.
fn latest(pace: &Spike, now: u64) -> u64 {
    now.saturating_add(step(pace).saturating_mul(pace.at_once()))
}

/// How long somebody who is `due` has to wait before the next failure is allowed for.
fn wait(due: u64, pace: &Spike, now: u64) -> u64 {
    let ahead = due.min(latest(pace, now)).saturating_sub(now);
    ahead.saturating_sub(step(pace).saturating_mul(pace.at_once() - 1))
}
