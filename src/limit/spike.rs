//! Spike arrest: a steady pace, by the generic cell rate algorithm (GCRA), which remembers one instant and no count.
//!
//! `10/min` is one every six seconds, not ten at once. A burst lets so many more through ahead of their time.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// A pace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spike {
    /// As it was written.
    rate: Rate,
    /// Nanoseconds from one unit of weight to the next; at least one.
    interval: u64,
    /// How many units may come ahead of their time.
    burst: u32,
}

impl Spike {
    /// A pace of `rate`, with `burst` units ahead of their time.
    #[must_use]
    pub fn new(rate: Rate, burst: u32) -> Self {
        // Rounded up, so that it is never faster than it says.
        let interval = rate.period.div_ceil(u64::from(rate.count.get()));
        Self { rate, interval: interval.max(1), burst }
    }

    /// From one unit of weight to the next.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// How many units may come at once.
    #[must_use]
    pub fn at_once(&self) -> u64 {
        u64::from(self.burst) + 1
    }

    /// The pace as it was written.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Nanoseconds for `units` of weight.
    fn span(&self, units: u64) -> u64 {
        self.interval.saturating_mul(units)
    }
}

/// So much per span of time, as `10/min`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    count: NonZeroU32,
    /// In nanoseconds.
    period: u64,
}

/// The text is no rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a rate such as \"5/s\", \"10/min\" or \"1000/h\"")]
pub struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits).ok_or(InvalidRate)?;
        let seconds = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        Ok(Self { count, period: seconds.ok_or(InvalidRate)? * 1_000_000_000 })
    }
}

const UNITS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400)];

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| seconds * 1_000_000_000 == self.period);
        write!(f, "{}/{}", self.count, unit.map_or("?", |(name, _)| name))
    }
}

/// What is remembered of a pace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pace {
    /// When everything that has passed would have passed at the steady pace; nanoseconds since the Unix epoch.
    pub(super) due: u64,
    /// When something passed last.
    pub(super) last: u64,
}

/// A thread may come this much later than it has read the clock. A clock that lies further back was set back.
const SLACK: u64 = 1_000_000_000;

impl Pace {
    /// What is remembered once `weight` has passed at `now`.
    ///
    /// Weight above what may come at once is not refused for ever: it passes when nothing is ahead of its time, and is made up
    /// for by a longer pause.
    ///
    /// # Errors
    /// It is ahead of its time by so many nanoseconds.
    pub(super) fn pass(self, spike: &Spike, weight: u64, now: u64) -> Result<Self, u64> {
        let (due, here) = self.seen_from(now);
        let ahead = due.saturating_sub(here);
        let allowed = spike.span(spike.at_once() - weight.min(spike.at_once()));
        if weight > 0 && ahead > allowed {
            return Err((ahead - allowed).saturating_add(here - now));
        }
        Ok(self.passed(spike, weight, now))
    }

    /// What is remembered once `weight` has passed at `now` in another process, whether it was ahead of its time or not.
    pub(super) fn passed(self, spike: &Spike, weight: u64, now: u64) -> Self {
        let (due, here) = self.seen_from(now);
        Self { due: due.max(here).saturating_add(spike.span(weight)), last: here }
    }

    /// How much more may come at once.
    pub(super) fn room(self, spike: &Spike, now: u64) -> u64 {
        let (due, here) = self.seen_from(now);
        let taken = due.saturating_sub(here).div_ceil(spike.interval);
        spike.at_once().saturating_sub(taken)
    }

    /// How long until all that may come at once may come again, in nanoseconds.
    pub(super) const fn rests(self, now: u64) -> u64 {
        let (due, here) = self.seen_from(now);
        due.saturating_sub(here)
    }

    /// Whether something passed after `now`, as far ahead as only a clock that was set back explains.
    pub(super) const fn is_ahead(self, now: u64) -> bool {
        self.last.saturating_sub(now) > SLACK
    }

    /// The same on the clock as it goes now.
    pub(super) const fn mended(self, now: u64) -> Self {
        let (due, last) = self.seen_from(now);
        Self { due, last }
    }

    /// What is due and what time it is. When the clock was set back, what is still to be waited for is neither forgiven nor
    /// lengthened by the step.
    const fn seen_from(self, now: u64) -> (u64, u64) {
        let behind = self.last.saturating_sub(now);
        if self.is_ahead(now) {
            (self.due.saturating_sub(behind), now)
        } else if behind > 0 {
            (self.due, self.last)
        } else {
            (self.due, now)
        }
    }
}
