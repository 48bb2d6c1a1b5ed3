//! One account: what one app has used of the limits of one scope, in words that several threads charge at once.
//!
//! Reading never waits for a turn and writes nothing, so whoever is refused costs the others nothing. A charge claims its
//! accounts by compare-and-swap of their versions, decides once more, writes a few words and lets go: some ten nanoseconds,
//! in which nobody sleeps and nothing is awaited. Claims are taken in the order app, product, operation, so that two charges
//! never wait for each other.

use std::hint::spin_loop;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::rule::{Limits, Quota};
use super::spike::Pace;
use super::window::{BUCKETS, Count, Steps, Window};

/// What one app has used of the limits of one scope.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Even while nobody writes; grows by two with each charge.
    version: AtomicU64,
    due: AtomicU64,
    last: AtomicU64,
    shape: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    used: AtomicU64,
    /// Only where a rolling window is counted.
    buckets: OnceLock<Box<[AtomicU64; BUCKETS]>>,
}

/// What a quota has counted, as it stands at some instant.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for the length of a charge, which must not allocate"
)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Tally {
    Plain(Count),
    Rolling(Steps),
    /// A rolling window whose present step goes on: only this step changes.
    Step(Count),
}

impl Tally {
    pub(super) const fn count(&self) -> &Count {
        match self {
            Self::Plain(count) | Self::Step(count) => count,
            Self::Rolling(steps) => &steps.count,
        }
    }

    pub(super) fn add(&mut self, quota: &Quota, weight: u64) {
        match (self, quota.window()) {
            (Self::Rolling(steps), Window::Rolling { length }) => steps.add(*length, weight),
            (Self::Rolling(steps), Window::Calendar { .. } | Window::Fixed { .. } | Window::Flexi { .. }) => {
                steps.count.used = steps.count.used.saturating_add(weight);
            }
            (Self::Plain(count) | Self::Step(count), _) => count.used = count.used.saturating_add(weight),
        }
    }
}

impl Account {
    /// What `read` finds, all of one moment.
    pub(super) fn read<T>(&self, read: impl Fn(&Self) -> T) -> T {
        let mut tries = 0;
        loop {
            let before = self.version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let found = read(self);
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return found;
                }
            }
            pause(&mut tries);
        }
    }

    /// The account for oneself, for as long as the claim is held.
    pub(super) fn claim(&self) -> Claim<'_> {
        let mut tries = 0;
        loop {
            let version = self.version.load(Ordering::Relaxed);
            if version.is_multiple_of(2)
                && self
                    .version
                    .compare_exchange_weak(version, version + 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                fence(Ordering::Release);
                return Claim { account: self, version, written: false };
            }
            pause(&mut tries);
        }
    }

    /// Changes whenever something is charged.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether it was written under a clock that has been set back since; see [`Claim::mend`].
    pub(super) fn is_ahead(&self, now: u64) -> bool {
        self.read(|account| account.pace().is_ahead(now) || account.count().is_far_ahead(now))
    }

    /// The pace as it was written last; only within [`Account::read`] or under a claim.
    pub(super) fn pace(&self) -> Pace {
        Pace { due: self.due.load(Ordering::Relaxed), last: self.last.load(Ordering::Relaxed) }
    }

    /// The count as it was written last; only within [`Account::read`] or under a claim.
    pub(super) fn count(&self) -> Count {
        Count {
            shape: self.shape.load(Ordering::Relaxed),
            start: self.start.load(Ordering::Relaxed),
            end: self.end.load(Ordering::Relaxed),
            used: self.used.load(Ordering::Relaxed),
        }
    }

    /// The steps of a rolling window as they were written last, if there are any.
    pub(super) fn steps(&self) -> Option<[u64; BUCKETS]> {
        let stored = self.buckets.get()?;
        Some(std::array::from_fn(|at| stored.get(at).map_or(0, |bucket| bucket.load(Ordering::Relaxed))))
    }

    /// What `quota` has counted, as it stands at `now`, for somebody who wants `weight` more; only within [`Account::read`] or
    /// under a claim.
    pub(super) fn tally(&self, quota: &Quota, weight: u64, now: u64) -> Tally {
        let count = self.count();
        match quota.window() {
            Window::Rolling { length } => {
                // The usual case, which has no need of the other steps.
                let within = count.used.saturating_add(weight) <= quota.limit();
                if within && count.shape == quota.shape() && count.is_step_of(*length, now) {
                    return Tally::Step(count);
                }
                let buckets = self.steps().unwrap_or([0; BUCKETS]);
                Tally::Rolling(Steps { count, buckets }.at(*length, quota.shape(), now))
            }
            window @ (Window::Calendar { .. } | Window::Fixed { .. } | Window::Flexi { .. }) => {
                Tally::Plain(count.at(window, quota.shape(), now))
            }
        }
    }
}

/// The right to write to an account.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    account: &'a Account,
    version: u64,
    written: bool,
}

impl<'a> Claim<'a> {
    pub(super) const fn account(&self) -> &'a Account {
        self.account
    }

    /// Lets go of the account, and says which version it has now.
    pub(super) fn release(self) -> u64 {
        // The claim is dropped with this.
        if self.written { self.version.wrapping_add(2) } else { self.version }
    }

    /// Moves what is remembered to the clock as it goes now. Without that a refusal, which writes nothing, would be repeated
    /// until the clock had made up for the step.
    pub(super) fn mend(&mut self, limits: &Limits, now: u64) {
        self.set_pace(self.account.pace().mended(now));
        if let Some(quota) = &limits.quota {
            self.set_tally(&self.account.tally(quota, u64::MAX, now));
        }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.written = true;
        self.account.due.store(pace.due, Ordering::Relaxed);
        self.account.last.store(pace.last, Ordering::Relaxed);
    }

    /// Adds `weight` to what `tally` says, and writes it.
    pub(super) fn charge(&mut self, quota: &Quota, weight: u64, now: u64) {
        let mut tally = self.account.tally(quota, weight, now);
        if let (Tally::Step(count), Window::Rolling { length }) = (&tally, quota.window())
            && let Some(bucket) =
                self.account.buckets.get().and_then(|buckets| buckets.get(count.step(*length)))
        {
            bucket.store(bucket.load(Ordering::Relaxed).saturating_add(weight), Ordering::Relaxed);
        }
        tally.add(quota, weight);
        self.set_tally(&tally);
    }

    pub(super) fn set_tally(&mut self, tally: &Tally) {
        self.written = true;
        let count = tally.count();
        self.account.shape.store(count.shape, Ordering::Relaxed);
        self.account.start.store(count.start, Ordering::Relaxed);
        self.account.end.store(count.end, Ordering::Relaxed);
        self.account.used.store(count.used, Ordering::Relaxed);
        if let Tally::Rolling(steps) = tally {
            let stored =
                self.account.buckets.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
            for (stored, bucket) in stored.iter().zip(steps.buckets) {
                stored.store(bucket, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Whoever read meanwhile may keep what it read, if nothing was written.
        let version = if self.written { self.version.wrapping_add(2) } else { self.version };
        self.account.version.store(version, Ordering::Release);
    }
}

/// Waits for the few instructions that another thread needs; gives way if that thread seems to have been interrupted.
fn pause(tries: &mut u32) {
    *tries += 1;
    if tries.is_multiple_of(64) {
        std::thread::yield_now();
    } else {
        spin_loop();
    }
}
