//! Tokens: JWTs (RFC 7519) as access tokens (RFC 9068), how they are read, and by whose word they are believed.
//!
//! The JWS reading is our own and not a library's. `jsonwebtoken` 11 accepts an absent `aud`, a future `nbf` and a second
//! member of one name as it comes, reads `exp` as a floating-point number, and asks the caller's header for the algorithm before
//! it asks the key; `josekit` needs OpenSSL; `biscuit` is not maintained. What remains after all that is switched off is
//! less than what stands here, and the cryptography is `aws-lc-rs` in either case.

mod json;
mod jws;
mod jwk;
mod claims;
mod trust;
mod bearer;

pub use bearer::{Bearer, Objection, Token};
pub use claims::{Claims, InvalidClaims, LEEWAY, Standing};
pub use json::{InvalidJson, Members, members};
pub use jwk::{Algorithm, InvalidJwk, JwkSet, VerificationKey};
pub use jws::{InvalidJws, Jws, LONGEST, is_key_id, signing_input};
pub use trust::{Denied, KeyStatus, OutsideIssuer, OwnIssuer, Proves, TokenTrust};

#[cfg(test)]
mod tests;
