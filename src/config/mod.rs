//! The agent's own configuration: read whole with every mistake at once, compared with the one in force, watched.

mod settings;
mod section;
mod onward;
mod issuer;
mod file;
mod plan;
mod watch;

pub use file::{ConfigError, load, parse};
pub use issuer::{IssuerConfig, KeySource};
pub use plan::{Change, NeedsRestart, all_doors, plan};
pub use settings::{Config, CrlFile, ForeignBundle, KeyDelivery, KeyRules, UsageSettings, WorkloadConfig};
pub use watch::{Watched, watch};
