//! The limits of a product, an operation or an app, as they are written down.

use std::str::FromStr;
use std::time::Duration;

use super::spike::Spike;
use super::window::{Unit, Window};

/// What may be done at most, in one place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// How much in a window of time.
    pub quota: Option<Quota>,
    /// How fast.
    pub spike: Option<Spike>,
}

/// So much in each window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    limit: u64,
    window: Window,
    shape: u64,
}

impl Quota {
    /// At most `limit` in each `window`.
    #[must_use]
    pub fn new(limit: u64, window: Window) -> Self {
        Self { limit, window, shape: window.shape() }
    }

    /// How much.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// In which windows.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    pub(super) const fn shape(&self) -> u64 {
        self.shape
    }
}

/// The kinds of window, by their names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QuotaKind {
    /// [`Window::Calendar`].
    #[default]
    Calendar,
    /// [`Window::Fixed`].
    Fixed,
    /// [`Window::Flexi`].
    Flexi,
    /// [`Window::Rolling`].
    Rolling,
}

/// So many units of time, as `15min`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Period {
    /// How many; at least one.
    pub count: u32,
    /// Of what.
    pub unit: Unit,
}

/// The text is no period.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected one number with its unit (s, min, h, d, w, month, year), such as \"15min\", \"1d\" or \"1month\""
)]
pub struct InvalidPeriod;

impl Period {
    /// How long it always is; none for months and years.
    #[must_use]
    pub fn length(self) -> Option<Duration> {
        let seconds = self.unit.seconds()?;
        Some(Duration::from_secs(seconds * u64::from(self.count)))
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or(InvalidPeriod)?;
        let (count, unit) = text.split_at_checked(digits).ok_or(InvalidPeriod)?;
        let unit = match unit {
            "s" => Unit::Second,
            "min" => Unit::Minute,
            "h" => Unit::Hour,
            "d" => Unit::Day,
            "w" => Unit::Week,
            "month" => Unit::Month,
            "year" => Unit::Year,
            _ => return Err(InvalidPeriod),
        };
        let count = count.parse().ok().filter(|count| (1..=LONGEST).contains(count)).ok_or(InvalidPeriod)?;
        let period = Self { count, unit };
        // Windows of centuries are mistakes, and would not fit into the arithmetic.
        let too_long = period.length().is_some_and(|length| length > CENTURY);
        let months = if unit == Unit::Year { count.saturating_mul(12) } else { count };
        if too_long || (period.length().is_none() && months > 1200) { Err(InvalidPeriod) } else { Ok(period) }
    }
}

const LONGEST: u32 = 1_000_000_000;

const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);
