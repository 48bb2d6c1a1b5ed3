//! The front door for local processes: who is calling, which workload that is, and its certificate as files.

mod sock_diag;
mod process;
mod attest;
mod selectors;
mod reload;
mod acl;
mod files;
mod delivery;

pub use acl::Reader;
pub use attest::{AttestError, Caller, Depth, attest_loopback, attest_unix};
pub use delivery::{Delivery, DeliveryStatus, Statuses};
pub use files::{DeliverError, FileMode, InvalidMode, Material, Settings, deliver, delivered_generation};
pub use process::{Executable, ProcessError};
pub use reload::{RELOAD_TIMEOUT, Reload, ReloadError};
pub use selectors::{Directory, InvalidSelectors, Mismatch, NoWorkload, Selectors, missing};
pub use sock_diag::DiagError;

#[cfg(test)]
mod tests;
