//! Quota windows: when the one that runs began, when it ends, and what has been counted in it.
//!
//! **Invariant:** a count becomes smaller only because time went forward past the end of its window, or because it was
//! counted longer ago than a rolling window looks back. Neither a clock that steps back nor a changed rule forgives anything
//! that the running window has counted.
//!
//! All instants are nanoseconds since the Unix epoch.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime};

/// How time is cut into windows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Window {
    /// As the calendar cuts it: on the minute, at midnight, on Monday, on the first of the month.
    Calendar {
        /// By which unit.
        unit: Unit,
        /// So many units make a window; at least one.
        count: u32,
        /// How far local time is ahead of UTC, in seconds.
        utc_offset: i32,
    },
    /// One window right after the other, from a start on; without one from the first use on.
    Fixed {
        /// How long a window lasts; longer than nothing.
        length: Duration,
        /// Where the first one begins.
        start: Option<u64>,
    },
    /// A window begins with the first use after the last one has ended.
    Flexi {
        /// How long it lasts; longer than nothing.
        length: Duration,
    },
    /// At every instant the time just before it.
    Rolling {
        /// How far it looks back; longer than nothing.
        length: Duration,
    },
}

/// What the calendar counts in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week; it begins on Monday (ISO 8601).
    Week,
    /// A month, as long as it is.
    Month,
    /// A year.
    Year,
}

impl Unit {
    /// How many seconds it always has; none for months and years.
    #[must_use]
    pub const fn seconds(self) -> Option<u64> {
        match self {
            Self::Second => Some(1),
            Self::Minute => Some(60),
            Self::Hour => Some(3_600),
            Self::Day => Some(86_400),
            Self::Week => Some(604_800),
            Self::Month | Self::Year => None,
        }
    }
}

/// A rolling window forgets in steps of a sixtieth of its length, rounded up.
const STEPS: u64 = 60;

/// One more, because the step that is under way has only begun: what is counted is never forgotten early.
pub(super) const BUCKETS: usize = 61;

impl Window {
    /// A number that tells one way of cutting from another; the same in every version of this program.
    pub(super) fn shape(&self) -> u64 {
        let parts = match *self {
            Self::Calendar { unit, count, utc_offset } => {
                let unit = match unit {
                    Unit::Second => 1,
                    Unit::Minute => 2,
                    Unit::Hour => 3,
                    Unit::Day => 4,
                    Unit::Week => 5,
                    Unit::Month => 6,
                    Unit::Year => 7,
                };
                [1, unit, u64::from(count), i64::from(utc_offset).cast_unsigned()]
            }
            Self::Fixed { length, start } => {
                [2, nanos(length), u64::from(start.is_some()), start.unwrap_or(0)]
            }
            Self::Flexi { length } => [3, nanos(length), 0, 0],
            Self::Rolling { length } => [4, nanos(length), 0, 0],
        };
        // FNV-1a, over whole words.
        parts
            .into_iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, part| (hash ^ part).wrapping_mul(0x0100_0000_01b3))
    }

    /// The window around `now`; `former` is the one before it, of the same shape.
    fn around(&self, now: u64, former: Option<&Count>) -> (u64, u64) {
        match *self {
            Self::Calendar { unit, count, utc_offset } => calendar(unit, count, utc_offset, now),
            Self::Fixed { length, start } => {
                let start = start.or_else(|| former.map(|former| former.start)).unwrap_or(now);
                tile(start, nanos(length), now)
            }
            Self::Flexi { length } => (now, now.saturating_add(nanos(length))),
            Self::Rolling { length } => {
                let step = step_of(length);
                let start = now / step * step;
                (start, start.saturating_add(step.saturating_mul(STEPS + 1)))
            }
        }
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// How long one step of a rolling window is.
fn step_of(length: Duration) -> u64 {
    nanos(length).div_ceil(STEPS).max(1)
}

/// The tile of `length` around `now` in a row of them that passes through `start`.
fn tile(start: u64, length: u64, now: u64) -> (u64, u64) {
    let offset = (i128::from(now) - i128::from(start)).rem_euclid(i128::from(length));
    let begin = now.saturating_sub(u64::try_from(offset).unwrap_or(0));
    (begin, begin.saturating_add(length))
}

const NANOS: i128 = 1_000_000_000;

/// The calendar's window around `now`. Windows of several units are counted from the start of 1970; of weeks, from its first
/// Monday on.
fn calendar(unit: Unit, count: u32, utc_offset: i32, now: u64) -> (u64, u64) {
    let offset = i128::from(utc_offset);
    let local = i128::from(now).div_euclid(NANOS) + offset;
    let count = i128::from(count.max(1));
    let (start, end) = match unit.seconds() {
        Some(seconds) => {
            let length = i128::from(seconds) * count;
            // 1970 began on a Thursday.
            let first = if unit == Unit::Week { 4 * 86_400 } else { 0 };
            let start = local - (local - first).rem_euclid(length);
            (start, start + length)
        }
        None => {
            let months = if unit == Unit::Year { count * 12 } else { count };
            let month = month_of(local);
            let first = month - month.rem_euclid(months);
            (first_of(first), first_of(first + months))
        }
    };
    let instant = |seconds: i128| u64::try_from(((seconds - offset) * NANOS).max(0)).unwrap_or(u64::MAX);
    (instant(start), instant(end))
}

/// Months since January 1970.
fn month_of(seconds: i128) -> i128 {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let Ok(instant) = OffsetDateTime::from_unix_timestamp(seconds) else { return 0 };
    (i128::from(instant.year()) - 1970) * 12 + i128::from(u8::from(instant.month())) - 1
}

/// The first second of a month that is counted from January 1970.
fn first_of(month: i128) -> i128 {
    let year = i32::try_from(1970 + month.div_euclid(12)).unwrap_or(9999);
    let month = u8::try_from(month.rem_euclid(12) + 1).ok().and_then(|month| Month::try_from(month).ok());
    let date = Date::from_calendar_date(year, month.unwrap_or(Month::January), 1).unwrap_or(Date::MAX);
    i128::from(date.midnight().assume_utc().unix_timestamp())
}

/// What has been counted, and in which window.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Count {
    /// How time was cut when this was counted.
    pub(super) shape: u64,
    /// When the window began; in a rolling one, the step that was counted into last.
    pub(super) start: u64,
    /// When all of it is forgotten.
    pub(super) end: u64,
    /// How much was counted.
    pub(super) used: u64,
}

impl Count {
    /// How it stands at `now`: the running window, or a fresh one.
    pub(super) fn at(self, window: &Window, shape: u64, now: u64) -> Self {
        if self.shape == shape && now < self.end && !self.is_far_ahead(now) {
            return self;
        }
        let former = (self.shape == shape).then_some(&self);
        let (start, end) = window.around(now, former);
        // What is still running keeps its count: the rule was changed, or the clock.
        let used = if now < self.end { self.used } else { 0 };
        Self { shape, start, end, used }
    }

    /// Whether `now` lies in the step of a rolling window that was counted into last.
    pub(super) fn is_step_of(&self, length: Duration, now: u64) -> bool {
        (self.start..self.start.saturating_add(step_of(length))).contains(&now)
    }

    /// Which bucket that step is counted in.
    pub(super) fn step(&self, length: Duration) -> usize {
        index(self.start / step_of(length))
    }

    /// Whether the window begins so long after `now` that the clock must have been wrong when it began. One that steps back
    /// by less leaves the window as it is; after a greater step the count moves to the window around `now`, so that nobody
    /// waits for years.
    pub(super) const fn is_far_ahead(&self, now: u64) -> bool {
        self.start.saturating_sub(now) > self.end.saturating_sub(self.start)
    }
}

/// What a rolling window has counted, step by step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) count: Count,
    /// By the step's number, modulo how many there are.
    pub(super) buckets: [u64; BUCKETS],
}

impl Steps {
    /// How it stands at `now`, with everything forgotten that was counted longer ago than `length`.
    pub(super) fn at(mut self, length: Duration, shape: u64, now: u64) -> Self {
        let step = step_of(length);
        let (here, newest) = (now / step, self.count.start / step);
        let far = |ahead: u64| ahead > STEPS + 1;
        if self.count.shape != shape
            || here.saturating_sub(newest) > STEPS
            || far(newest.saturating_sub(here))
        {
            let window = Window::Rolling { length };
            let count = self.count.at(&window, shape, now);
            let mut buckets = [0; BUCKETS];
            if let Some(bucket) = buckets.get_mut(index(here)) {
                *bucket = count.used;
            }
            return Self { count, buckets };
        }
        for passed in newest + 1..=here {
            if let Some(bucket) = self.buckets.get_mut(index(passed)) {
                self.count.used = self.count.used.saturating_sub(std::mem::take(bucket));
            }
        }
        let newest = newest.max(here);
        self.count.start = newest.saturating_mul(step);
        self.count.end = self.count.start.saturating_add(step.saturating_mul(STEPS + 1));
        self
    }

    /// Counts `weight` into the step that is under way.
    pub(super) fn add(&mut self, length: Duration, weight: u64) {
        let step = step_of(length);
        if let Some(bucket) = self.buckets.get_mut(index(self.count.start / step)) {
            *bucket = bucket.saturating_add(weight);
        }
        self.count.used = self.count.used.saturating_add(weight);
    }

    /// When no more than `most` of what is counted now will be left.
    pub(super) fn down_to(&self, length: Duration, most: u64) -> u64 {
        let step = step_of(length);
        let newest = self.count.start / step;
        let mut used = self.count.used;
        // The oldest first.
        for age in (0..=STEPS).rev() {
            if used <= most {
                break;
            }
            let Some(number) = newest.checked_sub(age) else { continue };
            used = used.saturating_sub(self.buckets.get(index(number)).copied().unwrap_or(0));
            if used <= most {
                return number.saturating_add(STEPS + 1).saturating_mul(step);
            }
        }
        self.count.end
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number % (STEPS + 1)).unwrap_or(0)
}
