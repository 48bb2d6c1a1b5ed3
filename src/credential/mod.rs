//! What callers present, and the proof of who they are: evidence becomes a principal or a refusal.

mod api_key;
mod client_secret;
mod signing_secret;
mod structured;
mod content_digest;
mod message;
mod nonces;
mod signature;
mod signer;
pub mod token;
mod evidence;
mod principal;
mod refusal;
mod strength;
mod verify;

pub use api_key::{
    API_KEY_MARK, ApiKey, InvalidApiKey, LONGEST_SECRET, Peppers, SECRET_MARK_LENGTH, begins_secret,
    secret_id,
};
pub use client_secret::ClientSecret;
pub use content_digest::{ContentDigest, DigestCheck};
pub use evidence::{Evidence, HeaderEvidence};
pub use message::{Content, Message};
pub use nonces::{AskForNonce, NonceClaim, NonceMemory, NonceUsed, UsedNonce};
pub use principal::Principal;
pub use refusal::Refusal;
pub use signature::{BaseError, NonceRule, NonceUse, SignatureRules, SignatureTerms, Signed, signature_base};
pub use signer::{Plan, SignError, SignatureLines, Signer, base_for, usual_cover};
pub use signing_secret::SigningSecret;
pub use strength::{WeakKey, expect_strong};
pub use verify::{authenticate, bound, recognise, usable};
