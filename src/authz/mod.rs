//! May this caller do this: the question, the pure decision, and the permit without which nothing is forwarded.

mod ask;
mod claimant;
mod decide;
mod denial;
mod gate;
mod permit;
mod toll;
mod who_can;

pub use ask::{Ask, Door};
pub use claimant::Supposed;
pub use decide::{Decision, Terms, decide, survey};
pub use denial::Denial;
pub use gate::{No, check};
pub use permit::Permit;
pub use toll::{Shortage, Till, Toll};
pub use who_can::{Entitlement, Proviso, who_can};

#[cfg(test)]
mod tests;
