//! Postern: a per-host mutual-TLS identity agent.

pub mod clock;
pub mod secret;
pub mod id;
pub mod suggest;
pub mod toml_text;
pub mod identity;
pub mod registry;
pub mod pki;
pub mod credential;
pub mod authz;
pub mod store;
pub mod telemetry;
pub mod issuance;
pub mod proxy;
pub mod workload;
pub mod admin;
pub mod config;
pub mod agent;
pub mod cli;
