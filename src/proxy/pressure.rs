//! Whether the agent has so much memory that it takes in nobody more. The control plane looks; data-plane threads read one byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How hard memory presses.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// Nobody new is taken in.
    Connections,
    /// Nor is anything new done for those who are here.
    Requests,
}

impl Pressure {
    /// How hard `resident` bytes press against a `ceiling`, after `before`: connections are refused from the ceiling on, requests
    /// from a twentieth above it, and either goes on until a twentieth less than where it began.
    #[must_use]
    pub fn of(resident: u64, ceiling: u64, before: Self) -> Self {
        let step = ceiling / 20;
        let from = |pressure: Self, begins: u64| {
            let ends = begins.saturating_sub(step);
            resident > if before >= pressure { ends } else { begins }
        };
        if from(Self::Requests, ceiling.saturating_add(step)) {
            Self::Requests
        } else if from(Self::Connections, ceiling) {
            Self::Connections
        } else {
            Self::None
        }
    }
}

/// Where the pressure is shown to all threads.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU8>);

impl Gauge {
    /// Shows it.
    pub fn set(&self, pressure: Pressure) {
        let shown = match pressure {
            Pressure::None => 0,
            Pressure::Connections => 1,
            Pressure::Requests => 2,
        };
        self.0.store(shown, Ordering::Relaxed);
    }

    /// What it shows.
    #[must_use]
    pub fn get(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Connections,
            _ => Pressure::Requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_refused_before_requests_and_longer() {
        let mut pressure = Pressure::None;
        let steps = [
            (1000, Pressure::None),
            (1001, Pressure::Connections),
            (1050, Pressure::Connections),
            (1051, Pressure::Requests),
            (1001, Pressure::Requests),
            (1000, Pressure::Connections),
            (951, Pressure::Connections),
            (950, Pressure::None),
            (1000, Pressure::None),
        ];
        for (resident, expected) in steps {
            pressure = Pressure::of(resident, 1000, pressure);
            assert_eq!(pressure, expected, "{resident}");
        }
    }

    #[test]
    fn a_gauge_shows_what_it_was_set_to() {
        let gauge = Gauge::default();
        for pressure in [Pressure::Requests, Pressure::Connections, Pressure::None] {
            gauge.clone().set(pressure);
            assert_eq!(gauge.get(), pressure);
        }
    }
}
