//! The authorization server: who gets a token of ours, for what, and what becomes of it (RFC 6749, client credentials).

mod form;
mod fault;
mod signing_key;
mod key_ring;
mod settings;
mod withdrawal;
mod assertion;
mod client;
mod scope;
mod mint;
mod inspect;
mod office;

pub use fault::Fault;
pub use form::{Form, InvalidForm};
pub use key_ring::{KeyRing, KeyRules, KeySlot, KeyStep, KilledKey, LONGEST_LEAD, TokenKey, UnknownKey};
pub use mint::{Minted, Wish};
pub use office::{Counter, Errand, Office, Records, Reply};
pub use settings::{Binding, InvalidIssuer, Issuer, Settings};
pub use signing_key::{SigningKey, SigningKeyError};
pub use withdrawal::{Withdrawal, WithdrawalError, Withdrawals};

#[cfg(test)]
mod tests;
