//! Postern: a per-host mutual-TLS identity agent.

pub mod clock;
pub mod secret;
pub mod id;
pub mod workload;
