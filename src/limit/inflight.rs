//! How many requests a service is given at a time, by how fast it answers.
//!
//! A service that slows down is handed fewer requests at once, until it is as fast as when it was idle; a fast one is handed
//! more. Per window of measurement `limit = gradient × limit + √limit`, where the gradient is the ratio of the least delay to
//! the delay now, between a half and two. The least delay is measured anew from time to time, with few requests at a time.
//! This is the gradient controller of Envoy's adaptive concurrency filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::priority::Priority;
use crate::clock::Timestamp;

/// How the limit moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Concurrency {
    /// Never fewer at a time than this; also while the least delay is measured.
    pub minimum: u32,
    /// Never more.
    pub maximum: u32,
}

/// A window of measurement lasts at least so long.
const WINDOW: u64 = 100_000_000;

/// And holds at least so many answers.
const SAMPLES: u64 = 10;

/// So many answers are enough to know the least delay.
const LEAST_SAMPLES: u64 = 50;

/// The least delay is measured anew after so long.
const MEASURE_EVERY: u64 = 60_000_000_000;

/// The delay may be so much above the least one, in eighths, before it counts as slower: noise is no load.
const TOLERANCE: u64 = 1;

/// The limit of one service and those who are within it. Shared by all threads.
#[derive(Debug)]
pub struct Inflight {
    bounds: Concurrency,
    limit: AtomicU32,
    within: AtomicU32,
    /// The sum of delays in this window, in nanoseconds, and how many.
    delays: AtomicU64,
    answers: AtomicU64,
    /// When the window began.
    since: AtomicU64,
    /// The least delay; 0 while it is being measured.
    least: AtomicU64,
    /// When it was measured.
    measured: AtomicU64,
    /// The limit to go back to after measuring.
    before: AtomicU32,
}

impl Inflight {
    /// A service of which nothing is known yet.
    #[must_use]
    pub fn new(bounds: Concurrency) -> Self {
        Self {
            bounds,
            limit: AtomicU32::new(bounds.minimum),
            within: AtomicU32::new(0),
            delays: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            since: AtomicU64::new(0),
            least: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            before: AtomicU32::new(bounds.minimum),
        }
    }

    /// Between what the limit moves.
    #[must_use]
    pub const fn bounds(&self) -> Concurrency {
        self.bounds
    }

    /// How many may be within now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are.
    #[must_use]
    pub fn within(&self) -> u32 {
        self.within.load(Ordering::Relaxed)
    }

    /// A place for somebody of this priority, if there is one.
    #[must_use]
    pub fn enter(self: &Arc<Self>, priority: Priority) -> Option<Seat> {
        let most = priority.share(self.limit());
        let enter = |within: u32| (within < most).then_some(within + 1);
        self.within.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).ok()?;
        Some(Seat(Arc::clone(self)))
    }

    /// Whether there is a place for somebody of this priority.
    #[must_use]
    pub fn has_room(&self, priority: Priority) -> bool {
        self.within() < priority.share(self.limit())
    }

    /// Notes an answer after `delay`, and moves the limit at the end of a window.
    fn note(&self, delay: Duration, now: Timestamp) {
        let (delay, now) = (u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX / 1024), now.unix_nanos());
        self.delays.fetch_add(delay.max(1), Ordering::Relaxed);
        let answers = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = self.since.load(Ordering::Relaxed);
        let least = self.least.load(Ordering::Relaxed);
        let enough = if least == 0 { LEAST_SAMPLES } else { SAMPLES };
        // A clock that was set back ends the window, too.
        if answers < enough || now.abs_diff(since) < WINDOW {
            return;
        }
        // One of those who see the end of the window draws the conclusion.
        if self.since.compare_exchange(since, now, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let answers = self.answers.swap(0, Ordering::Relaxed).max(1);
        let mean = (self.delays.swap(0, Ordering::Relaxed) / answers).max(1);
        self.conclude(least, mean, now);
    }

    fn conclude(&self, least: u64, mean: u64, now: u64) {
        let limit = self.limit();
        let next = if least == 0 {
            self.least.store(mean, Ordering::Relaxed);
            self.measured.store(now, Ordering::Relaxed);
            self.before.load(Ordering::Relaxed)
        } else if now.abs_diff(self.measured.load(Ordering::Relaxed)) >= MEASURE_EVERY {
            self.least.store(0, Ordering::Relaxed);
            self.before.store(limit, Ordering::Relaxed);
            self.bounds.minimum
        } else {
            moved(limit, least, mean)
        };
        self.limit.store(next.clamp(self.bounds.minimum, self.bounds.maximum), Ordering::Relaxed);
    }
}

/// `gradient × limit + √limit`.
pub(super) fn moved(limit: u32, least: u64, mean: u64) -> u32 {
    let tolerated = least.saturating_add(least / 8 * TOLERANCE);
    // In 1024ths.
    let gradient = (u128::from(tolerated) * 1024 / u128::from(mean.max(1))).clamp(512, 2048);
    let scaled = u128::from(limit) * gradient / 1024 + u128::from(limit.isqrt());
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

/// A place among those who are within; given back when it is dropped.
#[derive(Debug)]
pub struct Seat(Arc<Inflight>);

impl Seat {
    /// Notes that the service has answered after `delay`.
    pub fn answered(&self, delay: Duration, now: Timestamp) {
        self.0.note(delay, now);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.within.fetch_sub(1, Ordering::AcqRel);
    }
}
