//! What callers present, and the proof of who they are: evidence becomes a principal or a refusal.

mod api_key;
mod evidence;
mod principal;
mod refusal;
mod verify;

pub use api_key::{API_KEY_MARK, ApiKey, InvalidApiKey, Peppers};
pub use evidence::{Evidence, HeaderEvidence};
pub use principal::Principal;
pub use refusal::Refusal;
pub use verify::authenticate;
