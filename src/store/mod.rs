//! What the agent keeps on disk: written whole or not at all, read strictly.

pub mod atomic_file;
pub mod pem;
pub mod seal;
pub(crate) mod checked_line;
pub mod disk;
pub mod registry_dir;
pub mod registry_change;
pub mod registry_edit;
pub mod revoked_dir;
pub mod registry_journal;
pub mod registry_apply;
pub mod pepper_file;
pub mod revocation_file;
pub mod issue_journal;
pub mod limit_journal;
pub mod token_keys;
pub mod token_journal;
pub mod socket_file;
pub mod courier;
mod secret_source;
mod sealed_key;
mod token;
mod key_store;
mod authority_dir;

pub use authority_dir::{AuthorityDir, Committed, Pending, Rekeyed, StoreError, StoredHierarchy};
pub use key_store::{Custody, KeySettings, KeyStore, KeyStoreError};
pub use sealed_key::SealError;
pub use secret_source::{SecretError, SecretSource};
pub use token::{TokenError, TokenSettings};

#[cfg(test)]
mod tests;
