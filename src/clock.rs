//! Wall time as a value: the one place that reads the clock.
//!
//! **Invariant:** no other file asks the system for the time of day. Whatever decides takes a [`Timestamp`] argument
//! called `now`, so hours of rotation run in milliseconds under a [`ManualClock`].

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::{datetime, format_description};

/// An instant of wall time, in UTC, to the nanosecond.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The earliest instant an agent believes: a clock that stands before it has not been set.
    pub const FLOOR: Self = Self(datetime!(2026-01-01 00:00 UTC));

    /// The instant `seconds` after the Unix epoch, held within what a certificate can express (years 1 to 9999).
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        match OffsetDateTime::from_unix_timestamp(seconds) {
            Ok(instant) => Self(instant),
            Err(_) if seconds < 0 => Self(datetime!(0001-01-01 00:00 UTC)),
            Err(_) => Self(datetime!(9999-12-31 23:59:59 UTC)),
        }
    }

    /// Whole seconds since the Unix epoch, rounded towards the past.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The instant `nanos` nanoseconds after the Unix epoch.
    #[must_use]
    pub fn from_unix_nanos(nanos: u64) -> Self {
        Self::from_unix(0) + Duration::from_nanos(nanos)
    }

    /// Nanoseconds since the Unix epoch, held within what 64 bits can count (the years 1970 to 2554).
    #[must_use]
    pub fn unix_nanos(self) -> u64 {
        let nanos = self.0.unix_timestamp_nanos();
        if nanos < 0 { 0 } else { u64::try_from(nanos).unwrap_or(u64::MAX) }
    }

    /// How long `self` lies after `earlier`; zero when it does not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or(Duration::ZERO)
    }

    /// The same instant with its fraction of a second cut off, as X.509 stores it.
    #[must_use]
    pub fn to_whole_second(self) -> Self {
        Self(self.0.replace_nanosecond(0).unwrap_or(self.0))
    }

    /// As the `Date` field has it (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
    #[must_use]
    pub fn to_http_date(self) -> String {
        let format = format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        );
        self.0.format(format).unwrap_or_default()
    }

    /// The instant for crates that speak the `time` crate's types.
    #[must_use]
    pub const fn to_offset_date_time(self) -> OffsetDateTime {
        self.0
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(instant: OffsetDateTime) -> Self {
        Self(instant.to_offset(time::UtcOffset::UTC))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the end of the year 9999.
    fn add(self, span: Duration) -> Self {
        let span = time::Duration::try_from(span).unwrap_or(time::Duration::MAX);
        Self(self.0.saturating_add(span))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the beginning of the calendar.
    fn sub(self, span: Duration) -> Self {
        let span = time::Duration::try_from(span).unwrap_or(time::Duration::MAX);
        Self(self.0.saturating_sub(span))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, whole seconds: `2026-01-01T00:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_whole_second().0.format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// Why a text is no instant.
#[derive(Debug, thiserror::Error)]
#[error("expected an RFC 3339 time such as 2026-01-01T00:00:00Z")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self::from).map_err(|_| InvalidTimestamp)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where `now` comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current wall time.
    fn now(&self) -> Timestamp;

    /// How long the machine has been up, suspended or not. Nobody can set it, so a wall clock that was set shows against it.
    fn since_boot(&self) -> Duration;
}

/// The system's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the time of day")]
    fn now(&self) -> Timestamp {
        Timestamp(OffsetDateTime::now_utc())
    }

    fn since_boot(&self) -> Duration {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(since).unwrap_or_default()
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct ManualClock(Mutex<Hands>);

/// What a manual clock shows.
#[derive(Clone, Copy, Debug)]
struct Hands {
    now: Timestamp,
    since_boot: Duration,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self(Mutex::new(Hands { now, since_boot: Duration::ZERO }))
    }

    /// Lets `span` pass.
    pub fn advance(&self, span: Duration) {
        let mut hands = self.hands();
        hands.now = hands.now + span;
        hands.since_boot = hands.since_boot.saturating_add(span);
    }

    /// Sets the clock to `now`, forwards or backwards, in no time.
    pub fn set(&self, now: Timestamp) {
        self.hands().now = now;
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.hands().now
    }

    fn since_boot(&self) -> Duration {
        self.hands().since_boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_the_preferred_form() {
        let at: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();

        assert_eq!(at.to_http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_timestamp_reads_what_it_prints() {
        let text = "2026-11-22T05:21:00Z";

        let parsed: Timestamp = text.parse().unwrap();

        assert_eq!(parsed.to_string(), text);
        assert_eq!(Timestamp::from_unix(parsed.unix()), parsed);
    }

    #[test]
    fn other_offsets_become_utc() {
        let parsed: Timestamp = "2026-11-22T07:21:00+02:00".parse().unwrap();

        assert_eq!(parsed.to_string(), "2026-11-22T05:21:00Z");
    }

    #[test]
    fn nanoseconds_are_counted_both_ways() {
        let instant = Timestamp::FLOOR + Duration::from_nanos(1_000_000_007);

        assert_eq!(Timestamp::from_unix_nanos(instant.unix_nanos()), instant);
        assert_eq!(Timestamp::from_unix(-1).unix_nanos(), 0);
        assert_eq!(Timestamp::from_unix(i64::MAX).unix_nanos(), u64::MAX);
    }

    #[test]
    fn arithmetic_saturates_instead_of_failing() {
        let late = Timestamp::from_unix(i64::MAX);

        assert_eq!(late + Duration::from_secs(10), late + Duration::from_secs(20));
        assert_eq!(Timestamp::FLOOR.since(late), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::FLOOR);

        clock.advance(Duration::from_secs(5));

        assert_eq!(clock.now().since(Timestamp::FLOOR), Duration::from_secs(5));
        assert_eq!(clock.since_boot(), Duration::from_secs(5));
    }

    #[test]
    fn setting_a_clock_takes_no_time() {
        let clock = ManualClock::at(Timestamp::FLOOR);

        clock.set(Timestamp::FLOOR + Duration::from_secs(3600));

        assert_eq!(clock.since_boot(), Duration::ZERO);
    }

    #[test]
    fn the_system_knows_how_long_it_has_been_up() {
        let before = SystemClock.since_boot();

        assert!(before > Duration::ZERO && SystemClock.since_boot() >= before);
    }
}
