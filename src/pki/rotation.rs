//! When a certificate is replaced: one point drawn when it is issued, and how to go on when replacing it fails.
//!
//! The half that thinks. It keeps no clock and sleeps never; whoever drives it asks [`Renewal::poll_timeout`] when to come
//! back and then calls [`Renewal::handle_timeout`]. Coming back too early or too often does nothing.
//!
//! **Invariant:** the point is drawn once for each certificate and kept. A draw for each look would let the first lucky one
//! win, and a thousand certificates issued together would be renewed almost together.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::pki::random::Rng;

/// The earliest moment of a leaf's renewal, as a part of its life.
const WINDOW_START: f64 = 0.5;

/// The latest moment of a leaf's renewal, as a part of its life.
const WINDOW_END: f64 = 0.6;

/// The shortest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is shorter, however near the end is: a failing disk is not helped by being asked a thousand times a second.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// At least this many attempts fit into what is left of a certificate's life.
const ATTEMPTS_LEFT: u32 = 8;

/// How long after its due moment a renewal counts as overdue, as a part of the certificate's life.
const GRACE: f64 = 0.1;

/// How long a certificate is kept at least, as a part of its life: half a minute of an hour.
const KEPT_AT_LEAST: f64 = 1.0 / 120.0;

/// However short a life is, and even if the certificate is of no use: one that is replaced more often is replaced in a loop.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// However long a life is: a clock that was wrong must not hold an authority for hours.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// What to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Replace the certificate and report the outcome.
    Renew,
    /// Nothing; come back at [`Renewal::poll_timeout`].
    Wait,
}

/// When one certificate is replaced.
#[derive(Clone, Debug)]
pub struct Renewal {
    life: Life,
    due: Timestamp,
    next_attempt: Timestamp,
    failures: u32,
}

/// A certificate's life, counted from when it was issued and not from its backdated first second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Life {
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

impl Life {
    /// The moment at which `part` of the life has passed.
    #[must_use]
    pub fn at(&self, part: f64) -> Timestamp {
        self.issued_at + self.span(part)
    }

    /// Whether it is valid at `now`.
    #[must_use]
    pub fn covers(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    fn span(&self, part: f64) -> Duration {
        self.not_after.since(self.issued_at).mul_f64(part.clamp(0.0, 1.0))
    }
}

impl Renewal {
    /// Renews a leaf at one random point between 50 % and 60 % of its life.
    #[must_use]
    pub fn of_leaf(life: Life, rng: &mut dyn Rng) -> Self {
        Self::at(life, rng.unit().mul_add(WINDOW_END - WINDOW_START, WINDOW_START))
    }

    /// Renews an authority at half of its life: each host has its own, so there is nothing to spread.
    #[must_use]
    pub fn of_authority(life: Life) -> Self {
        Self::at(life, WINDOW_START)
    }

    /// Looks again only when a leaf ends: one that ends with its authority cannot be renewed before there is another.
    #[must_use]
    pub fn of_last_leaf(life: Life) -> Self {
        Self::at(life, 1.0)
    }

    fn at(life: Life, part: f64) -> Self {
        let due = life.at(part);
        Self { life, due, next_attempt: due, failures: 0 }
    }

    /// The life of the certificate that is to be replaced.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// The point that was drawn.
    #[must_use]
    pub const fn due(&self) -> Timestamp {
        self.due
    }

    /// When to come back. The clock may be stepped, so look again now and then all the same.
    #[must_use]
    pub const fn poll_timeout(&self) -> Timestamp {
        self.next_attempt
    }

    /// What to do at `now`.
    #[must_use]
    pub fn handle_timeout(&self, now: Timestamp) -> Step {
        if now >= self.next_attempt || self.clock_was_set_back(now) { Step::Renew } else { Step::Wait }
    }

    /// How long the certificate is kept before it may be replaced of its own accord, in time that no clock step shortens: the
    /// breaker of every loop. One that is of no use at `now` only has to wait so long that it is no loop.
    #[must_use]
    pub fn minimum_interval(&self, now: Timestamp) -> Duration {
        let is_valid = self.life.not_before <= now && now <= self.life.not_after;
        let part = if is_valid { KEPT_AT_LEAST } else { 0.0 };
        self.life.span(part).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }

    /// Notes that replacing it failed, and when to try again: at first after a second, then twice as long each time, but
    /// never so long that fewer than eight attempts are left before the certificate expires.
    pub fn handle_failure(&mut self, now: Timestamp, rng: &mut dyn Rng) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        let left = self.life.not_after.since(now);
        let urgent = if left.is_zero() { LONGEST_PAUSE } else { left / ATTEMPTS_LEFT };
        let pause = doubled.min(urgent).min(LONGEST_PAUSE);
        // Between three quarters and the whole of it, so that many failures do not stay in step.
        let pause = pause.mul_f64(rng.unit().mul_add(0.25, 0.75)).max(SHORTEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.next_attempt = now + pause;
    }

    /// Whether the certificate should have been replaced for a while: something is wrong.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        now >= self.due + self.life.span(GRACE)
    }

    /// The clock was set back so far that the certificate is not valid yet, or that a pause would outlast every pause.
    fn clock_was_set_back(&self, now: Timestamp) -> bool {
        match self.failures {
            0 => now < self.life.not_before,
            _ => now + LONGEST_PAUSE < self.next_attempt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::random::SeededRng;

    const HOUR: Duration = Duration::from_secs(3600);

    fn life(ttl: Duration) -> Life {
        let issued_at = Timestamp::FLOOR + HOUR;
        Life { not_before: issued_at - Duration::from_secs(300), issued_at, not_after: issued_at + ttl }
    }

    #[test]
    fn ten_thousand_renewals_spread_evenly_over_the_window() {
        let mut rng = SeededRng(2);
        let life = life(HOUR);
        let draws = 10_000_u32;
        let mut parts: Vec<f64> = (0..draws)
            .map(|_| {
                Renewal::of_leaf(life, &mut rng).due().since(life.issued_at).as_secs_f64()
                    / HOUR.as_secs_f64()
            })
            .collect();
        parts.sort_by(f64::total_cmp);

        // Kolmogorov-Smirnov against the uniform distribution, at a level of one in a thousand.
        let mut distance = 0.0_f64;
        for (rank, part) in (0_u32..).zip(&parts) {
            let expected = (part - WINDOW_START) / (WINDOW_END - WINDOW_START);
            let below = f64::from(rank) / f64::from(draws);
            let above = f64::from(rank + 1) / f64::from(draws);
            distance = distance.max((expected - below).abs()).max((above - expected).abs());
        }

        assert!(parts.iter().all(|part| (WINDOW_START..=WINDOW_END).contains(part)));
        assert!(distance < 1.95 / f64::from(draws).sqrt(), "distance {distance}");
    }

    #[test]
    fn looking_often_does_not_renew_earlier() {
        let renewal = Renewal::of_leaf(life(HOUR), &mut SeededRng(7));
        let mut now = life(HOUR).issued_at;

        while now < renewal.due() {
            assert_eq!(renewal.handle_timeout(now), Step::Wait);
            now = now + Duration::from_secs(5);
        }

        assert_eq!(renewal.handle_timeout(renewal.due()), Step::Renew);
        assert!(renewal.due() >= life(HOUR).at(0.5) && renewal.due() <= life(HOUR).at(0.6));
    }

    #[test]
    fn a_certificate_is_kept_for_a_while_unless_it_is_of_no_use() {
        let at = life(HOUR).issued_at;
        let interval = |ttl: Duration, now: Timestamp| Renewal::of_authority(life(ttl)).minimum_interval(now);

        assert_eq!(interval(HOUR, at), Duration::from_secs(30));
        assert_eq!(interval(HOUR * 168, at), Duration::from_secs(60));
        assert_eq!(interval(Duration::from_secs(10), at), Duration::from_secs(1));
        assert_eq!(interval(HOUR, at + HOUR * 2), Duration::from_secs(1), "expired");
        assert_eq!(interval(HOUR, at - HOUR), Duration::from_secs(1), "not valid yet");
    }

    #[test]
    fn an_authority_is_replaced_at_half_of_its_life() {
        let life = life(HOUR * 168);

        assert_eq!(Renewal::of_authority(life).due(), life.issued_at + HOUR * 84);
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut rng = SeededRng(3);
        let life = life(HOUR * 1000);
        let mut renewal = Renewal::of_authority(life);
        let mut now = renewal.due();
        let mut previous = Duration::ZERO;

        for attempt in 0..20_u32 {
            renewal.handle_failure(now, &mut rng);
            let pause = renewal.poll_timeout().since(now);
            let whole = LONGEST_PAUSE.min(Duration::from_secs(1 << attempt));
            assert!(pause <= whole && pause >= whole.mul_f64(0.74), "attempt {attempt}: {pause:?}");
            assert!(pause >= previous.mul_f64(0.74));
            assert_eq!(renewal.handle_timeout(now), Step::Wait);
            previous = pause;
            now = renewal.poll_timeout();
            assert_eq!(renewal.handle_timeout(now), Step::Renew);
        }
    }

    #[test]
    fn attempts_become_more_frequent_towards_the_end() {
        let mut rng = SeededRng(4);
        let life = life(HOUR);
        let mut renewal = Renewal::of_authority(life);
        let mut now = renewal.due();
        let mut in_the_last_minute = 0;

        while now < life.not_after {
            renewal.handle_failure(now, &mut rng);
            now = renewal.poll_timeout();
            in_the_last_minute += u32::from(life.not_after.since(now) < Duration::from_secs(60));
        }

        assert!(in_the_last_minute > 20, "{in_the_last_minute}");
    }

    #[test]
    fn even_an_expired_certificate_is_tried_again_but_never_in_a_hurry() {
        let mut rng = SeededRng(5);
        let life = life(Duration::from_secs(10));
        let mut renewal = Renewal::of_authority(life);
        let mut now = life.not_after + HOUR;

        for _ in 0..50 {
            renewal.handle_failure(now, &mut rng);
            assert!(renewal.poll_timeout().since(now) >= SHORTEST_PAUSE);
            assert!(renewal.poll_timeout().since(now) <= LONGEST_PAUSE);
            now = renewal.poll_timeout();
        }
    }

    #[test]
    fn a_renewal_is_overdue_a_tenth_of_a_life_after_it_was_due() {
        let renewal = Renewal::of_authority(life(HOUR));

        assert!(!renewal.is_overdue(renewal.due()));
        assert!(!renewal.is_overdue(renewal.due() + Duration::from_secs(359)));
        assert!(renewal.is_overdue(renewal.due() + Duration::from_secs(360)));
    }

    #[test]
    fn a_clock_set_back_before_the_certificate_asks_for_another() {
        let life = life(HOUR);
        let mut renewal = Renewal::of_authority(life);

        assert_eq!(renewal.handle_timeout(life.not_before), Step::Wait);
        assert_eq!(renewal.handle_timeout(life.not_before - Duration::from_secs(1)), Step::Renew);

        let now = life.not_before - HOUR;
        renewal.handle_failure(now, &mut SeededRng(1));
        assert_eq!(renewal.handle_timeout(now), Step::Wait, "a failed attempt gets its pause");
        assert_eq!(renewal.handle_timeout(renewal.poll_timeout()), Step::Renew);
    }
}
