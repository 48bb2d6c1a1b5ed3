//! Postern: a per-host mutual-TLS identity agent.

pub mod clock;
pub mod secret;
pub mod id;
pub mod suggest;
pub mod toml_text;
pub mod identity;
pub mod registry;
pub mod pki;
pub mod store;
pub mod issuance;
pub mod workload;
