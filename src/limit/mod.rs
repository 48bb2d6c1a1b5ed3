//! How much: quotas, spike arrest, how many requests at a time, and how often somebody may fail to say who it is.

mod window;
mod spike;
mod rule;
mod statement;
mod account;
mod table;
mod record;
mod echo;
mod arbiter;
mod ledger;
mod priority;
mod inflight;
mod throttle;

pub use arbiter::{Arbiter, Ask, Ruling};
pub use echo::{Charge, Echo, Told};
pub use inflight::{Concurrency, Inflight, Seat};
pub use ledger::{Bill, Ledger, Line, Refused};
pub use priority::Priority;
pub use record::{Record, Use};
pub use rule::{InvalidPeriod, Limits, Period, Quota, QuotaKind};
pub use spike::{InvalidRate, Rate, Spike};
pub use statement::{Entry, Excess, Measure, Scope, Standing, Statement};
pub use throttle::Throttle;
pub use window::{Count, Unit, Window};

#[cfg(test)]
mod tests;
