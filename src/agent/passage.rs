//! The time of day as it can be at most, by how much time has passed: what is forgotten for good is forgotten by it.
//!
//! A wall clock that jumps ahead and back again is no reason to let a token live that was taken back, or to lose what was
//! counted. The time since boot cannot be set.

use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// A moment by both clocks, from which on time is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    wall: Timestamp,
    since_boot: Duration,
    /// Since when, by the time since boot, the wall clock has been ahead.
    ahead_since: Option<Duration>,
}

/// A wall clock that is ahead by no more than this is not.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A wall clock that has been ahead for that long is believed: at the start it had not been set yet.
const SETTLED: Duration = Duration::from_secs(86_400);

impl Passage {
    /// Measures from now on.
    pub(super) fn begin(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), since_boot: clock.since_boot(), ahead_since: None }
    }

    /// The time of day at the start and how much has passed since.
    pub(super) fn measured(&self, clock: &dyn Clock) -> Timestamp {
        self.wall + clock.since_boot().saturating_sub(self.since_boot)
    }

    /// The time of day, or what was measured where that is earlier. A clock that stays ahead is believed after a day.
    pub(super) fn earlier(&mut self, clock: &dyn Clock) -> Timestamp {
        let (now, measured, since_boot) = (clock.now(), self.measured(clock), clock.since_boot());
        if now.since(measured) <= TOLERANCE {
            self.ahead_since = None;
        } else if since_boot.saturating_sub(*self.ahead_since.get_or_insert(since_boot)) >= SETTLED {
            *self = Self { wall: now, since_boot, ahead_since: None };
            return now;
        }
        now.min(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_clock_that_jumps_ahead_and_back_moves_nothing() {
        let start = Timestamp::FLOOR + HOUR;
        let clock = ManualClock::at(start);
        let mut passage = Passage::begin(&clock);
        clock.advance(HOUR);
        assert_eq!(passage.earlier(&clock), start + HOUR);

        clock.set(start + 4 * HOUR);
        assert_eq!(passage.earlier(&clock), start + HOUR);
        clock.set(start);
        assert_eq!(passage.earlier(&clock), start);
        clock.advance(HOUR);
        assert_eq!(passage.earlier(&clock), start + HOUR);
    }

    #[test]
    fn a_clock_that_stays_ahead_is_believed_after_a_day() {
        let start = Timestamp::FLOOR;
        let clock = ManualClock::at(start);
        let mut passage = Passage::begin(&clock);
        clock.set(start + 1000 * HOUR);
        assert_eq!(passage.earlier(&clock), start);

        clock.advance(23 * HOUR);
        assert_eq!(passage.earlier(&clock), start + 23 * HOUR);
        clock.advance(HOUR);
        assert_eq!(passage.earlier(&clock), start + 1024 * HOUR);
    }
}
