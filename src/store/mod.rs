//! What the agent keeps on disk: written whole or not at all, read strictly.

pub mod atomic_file;
pub mod pem;
pub mod registry_dir;
pub mod registry_edit;
pub mod pepper_file;
pub mod revocation_file;
pub mod limit_journal;
pub mod socket_file;
mod authority_dir;

pub use authority_dir::{AuthorityDir, Committed, StoreError, StoredHierarchy};

#[cfg(test)]
mod tests;
