//! Who is served first when not everybody can be.

/// How much an app is worth to a service that is at its limit.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    /// It is the first to be turned away.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// It is turned away last.
    High,
}

impl Priority {
    /// How many of `limit` places it may fill: half of them, seven eighths, or all. At least one.
    #[must_use]
    pub const fn share(self, limit: u32) -> u32 {
        let eighths = match self {
            Self::Low => 4,
            Self::Normal => 7,
            Self::High => 8,
        };
        // In two parts, because the product could be too large.
        let share = limit / 8 * eighths + (limit % 8 * eighths).div_ceil(8);
        if share == 0 { 1 } else { share }
    }
}
