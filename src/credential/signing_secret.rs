//! Shared secrets for `hmac-sha256`: made like API keys, and kept encrypted, since the verifier needs the secret itself.
//!
//! `pstn_hs_<id: 12>_<secret: 43><checksum: 6>`, all base62. The whole text is the HMAC key, byte for byte, so that any
//! program can use it as it stands. On file lies its AES-256-GCM encryption under a key derived from a pepper, bound to the
//! credential's id: moved to another credential it does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::credential::InvalidApiKey;
use crate::credential::api_key::{id_in, mint};
use crate::secret::Secret;

/// A shared secret in clear, just made or just read.
#[derive(Clone, Debug)]
pub struct SigningSecret {
    id: String,
    text: Secret,
}

const PREFIX: &str = "pstn_hs_";

impl SigningSecret {
    /// A fresh secret from `random`.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let (id, text) = mint(PREFIX, random)?;
        Ok(Self { id, text })
    }

    /// Reads a secret that was made here: exact length, alphabet and checksum.
    ///
    /// # Errors
    /// The text is no secret of ours.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidApiKey> {
        let id = id_in(PREFIX, text)?.to_owned();
        Ok(Self { id, text: Secret::new(text.to_vec()) })
    }

    /// The `keyid` that goes with it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole secret: the HMAC key, to be shown exactly once.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        &self.text
    }
}

/// What shared secrets are encrypted under.
#[derive(Debug)]
pub(super) struct SealingKey(Option<LessSafeKey>);

impl SealingKey {
    /// The key that follows from a pepper. What it is derived from begins like no API key, so the two uses never meet.
    pub(super) fn derive(pepper: &hmac::Key) -> Self {
        let key = hmac::sign(pepper, b"postern: sealing key for shared secrets, version 1");
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new);
        Self(key.ok())
    }

    /// A fresh nonce, the encrypted secret, and its tag.
    pub(super) fn seal(&self, id: &str, secret: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0_u8; NONCE_LEN];
        aws_lc_rs::rand::SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = Zeroizing::new(secret.to_vec());
        let key = self.0.as_ref()?;
        let tag = key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(id.as_bytes()),
            &mut sealed,
        );
        Some([nonce.as_slice(), sealed.as_slice(), tag.ok()?.as_ref()].concat())
    }

    /// The secret, if it was sealed for `id` under this key.
    pub(super) fn open(&self, id: &str, sealed: &[u8]) -> Option<Secret> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let secret = self.0.as_ref()?.open_in_place(nonce, Aad::from(id.as_bytes()), &mut bytes).ok()?;
        Some(Secret::new(secret.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;

    use super::*;
    use crate::credential::{ApiKey, Peppers};

    fn peppers() -> Peppers {
        let pepper = |version: &str, byte| (version.to_owned(), Secret::new(vec![byte; 32]));
        Peppers::new([pepper("p1", 1), pepper("p2", 2)])
    }

    #[test]
    fn a_sealed_secret_opens_for_its_credential_and_pepper_only() {
        let (peppers, secret) = (peppers(), SigningSecret::generate(&SystemRandom::new()).unwrap());
        let sealed = peppers.seal("p1", secret.id(), secret.text().expose_secret()).unwrap();

        assert_eq!(peppers.open("p1", secret.id(), &sealed).as_ref(), Some(secret.text()));
        assert_eq!(peppers.open("p1", "0000000000A1", &sealed), None);
        assert_eq!(peppers.open("p2", secret.id(), &sealed), None);
        assert_eq!(peppers.open("p3", secret.id(), &sealed), None);
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(peppers.open("p1", secret.id(), &bent), None, "byte {at}");
        }
        assert_eq!(peppers.open("p1", secret.id(), &sealed[..11]), None);
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike() {
        let peppers = peppers();

        assert_ne!(peppers.seal("p1", "a", b"secret"), peppers.seal("p1", "a", b"secret"));
    }

    #[test]
    fn a_shared_secret_is_told_from_an_api_key() {
        let random = SystemRandom::new();
        let (secret, key) = (SigningSecret::generate(&random).unwrap(), ApiKey::generate(&random).unwrap());

        assert_eq!(SigningSecret::parse(secret.text().expose_secret()).unwrap().id(), secret.id());
        assert!(SigningSecret::parse(key.text().expose_secret()).is_err());
        assert!(ApiKey::parse(secret.text().expose_secret()).is_err());
    }
}
