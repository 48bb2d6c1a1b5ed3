//! Keys that sign tokens of our own: one algorithm each, named by the thumbprint of the public half.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;

use crate::credential::token::{Algorithm, Claims, VerificationKey, signing_input};
use crate::secret::Secret;

/// A key that signs tokens.
pub struct SigningKey {
    id: String,
    pair: Pair,
    public: VerificationKey,
    pkcs8: Secret,
}

enum Pair {
    EdDsa(Box<Ed25519KeyPair>),
    Es256(Box<EcdsaKeyPair>),
}

/// Why there is no key, or no signature by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SigningKeyError {
    /// Tokens of our own are not signed by this algorithm.
    #[error("tokens are signed by ES256 or EdDSA, not by {0}")]
    Algorithm(Algorithm),
    /// The library could not make one.
    #[error("a key cannot be made")]
    Generate,
    /// The library could not sign.
    #[error("the key does not sign")]
    Sign,
    /// The document holds no private key of this algorithm.
    #[error("it holds no private key for this algorithm")]
    Unreadable,
}

impl SigningKey {
    /// A fresh key.
    ///
    /// # Errors
    /// There can be none for this algorithm, or the library cannot make one.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let failed = |_| SigningKeyError::Generate;
        let pkcs8 = match algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::generate()
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Algorithm::Rs256 => return Err(SigningKeyError::Algorithm(algorithm)),
        };
        Self::from_pkcs8(algorithm, Secret::new(pkcs8))
    }

    /// The key in a PKCS#8 document.
    ///
    /// # Errors
    /// It holds none for this algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: Secret) -> Result<Self, SigningKeyError> {
        let bytes = pkcs8.expose_secret();
        let (pair, public) = match algorithm {
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
                    .map_err(|_| SigningKeyError::Unreadable)?;
                let public = VerificationKey::ed25519(pair.public_key().as_ref());
                (Pair::EdDsa(Box::new(pair)), public)
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes)
                    .map_err(|_| SigningKeyError::Unreadable)?;
                let public = VerificationKey::p256(pair.public_key().as_ref());
                (Pair::Es256(Box::new(pair)), public)
            }
            Algorithm::Rs256 => return Err(SigningKeyError::Algorithm(algorithm)),
        };
        let public = public.map_err(|_| SigningKeyError::Unreadable)?;
        Ok(Self { id: public.thumbprint(), pair, public, pkcs8 })
    }

    /// Its `kid`: the thumbprint of its public half (RFC 7638).
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its one algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &VerificationKey {
        &self.public
    }

    /// The private key, to be stored.
    #[must_use]
    pub const fn pkcs8(&self) -> &Secret {
        &self.pkcs8
    }

    /// An access token that makes these claims.
    ///
    /// # Errors
    /// The library could not sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, SigningKeyError> {
        self.sign_as("at+jwt", claims.to_json().as_bytes())
    }

    /// A token of another `kind` with this payload. Its kind keeps it from being taken for an access token.
    ///
    /// # Errors
    /// The library could not sign.
    pub fn sign_as(&self, kind: &str, payload: &[u8]) -> Result<String, SigningKeyError> {
        let mut token = signing_input(kind, self.algorithm(), &self.id, payload);
        let signature = match &self.pair {
            Pair::EdDsa(pair) => pair.sign(token.as_bytes()).as_ref().to_vec(),
            Pair::Es256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), token.as_bytes());
                signature.map_err(|_| SigningKeyError::Sign)?.as_ref().to_vec()
            }
        };
        token.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {})", self.algorithm(), self.id)
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for SigningKey {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::token::Jws;

    #[test]
    fn a_token_is_signed_by_the_key_that_it_names() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let (key, other) =
                (SigningKey::generate(algorithm).unwrap(), SigningKey::generate(algorithm).unwrap());
            let claims = crate::oauth::tests::claims();

            let token = key.sign(&claims).unwrap();

            let jws = Jws::parse(token.as_bytes()).unwrap();
            assert_eq!(jws.key_id.as_deref(), Some(key.id()));
            assert!(key.public().has_signed(&jws) && !other.public().has_signed(&jws));
        }
        assert_eq!(
            SigningKey::generate(Algorithm::Rs256).unwrap_err(),
            SigningKeyError::Algorithm(Algorithm::Rs256)
        );
    }

    #[test]
    fn a_key_comes_back_from_its_document_and_shows_nothing_of_it() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();

        let read = SigningKey::from_pkcs8(Algorithm::Es256, key.pkcs8().clone()).unwrap();

        assert_eq!(read, key);
        assert_eq!(format!("{read:?}"), format!("SigningKey(ES256, {})", key.id()));
        assert_eq!(
            SigningKey::from_pkcs8(Algorithm::EdDsa, key.pkcs8().clone()).unwrap_err(),
            SigningKeyError::Unreadable
        );
    }
}
