//! Tokens at the operators' door: which keys there are, and what can be taken back.

use serde::{Deserialize, Serialize};

use crate::admin::SecretText;
use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId};

/// A key that signs tokens.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenKeyStatus {
    /// Its `kid`.
    pub id: String,
    /// By what it signs.
    pub algorithm: String,
    /// `prepared`, `active`, `retired` or `killed`.
    pub slot: String,
    /// When it was made; not known any more of a killed one.
    pub created: Option<Timestamp>,
    /// When the last token by it has ended, once it signs no more.
    pub until: Option<Timestamp>,
}

/// The name of a key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKeyOrder {
    /// Its `kid`.
    pub key: String,
}

/// Which tokens are to be taken back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawOrder {
    /// All that an app was issued until now.
    App(AppId),
    /// All that were issued by a credential until now.
    Credential(CredentialId),
    /// The one of this `jti`.
    Jti(String),
    /// This one.
    Token(SecretText),
}

/// What was taken back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Withdrawn {
    /// In words.
    pub what: String,
}
