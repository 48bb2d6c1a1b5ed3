//! Wires the rooms into one agent: builds what the data plane sees, follows changes, starts and stops everything.

mod attestor;
mod trust;
mod assembly;
mod troubles;
mod fetch;
mod issuers;
mod registrar;
mod scribe;
mod span_exporter;
mod key_uses;
mod key_keeper;
mod director;
mod clock_watch;
mod quickstart;
mod readiness;
mod limit_keeper;
mod memory_watch;
mod passage;
mod token_keeper;
mod usage_keeper;
mod explain;
mod who_can;
mod sightings;
mod detectors;
mod steward;
mod supervise;

pub use assembly::AssemblyError;
pub use director::ReloadError;
pub use limit_keeper::KeeperError;
pub use quickstart::QuickstartError;
pub use registrar::RegistryError;
pub use supervise::{AgentError, run};
pub use token_keeper::TokenKeeperError;
pub use trust::TrustError;
pub use who_can::{Doors, entitled};
