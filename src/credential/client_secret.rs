//! Client secrets: made and stored like API keys, and good for nothing but getting a token (RFC 6749 §2.3.1).
//!
//! `pstn_cs_<id: 12>_<secret: 43><checksum: 6>`, all base62. The id inside is the lookup key, so what is asked for does not
//! depend on the `client_id` that is sent with it, and neither does the time that it takes.

use aws_lc_rs::rand::SecureRandom;

use crate::credential::api_key::{id_in, mint};
use crate::credential::{InvalidApiKey, Peppers, Refusal};
use crate::registry::{Credential, CredentialSecret, Snapshot};
use crate::secret::Secret;

/// A client secret in clear, just made.
#[derive(Clone, Debug)]
pub struct ClientSecret {
    id: String,
    text: Secret,
}

const PREFIX: &str = "pstn_cs_";

/// What an unknown id is compared with, so that it costs what a known one costs.
const UNKNOWN: [u8; 32] = [0; 32];

impl ClientSecret {
    /// A fresh secret from `random`.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let (id, text) = mint(PREFIX, random)?;
        Ok(Self { id, text })
    }

    /// The id inside a well-formed secret.
    ///
    /// # Errors
    /// The text is no client secret of ours.
    pub fn id_of(text: &[u8]) -> Result<&str, InvalidApiKey> {
        id_in(PREFIX, text)
    }

    /// The credential whose secret `text` is, good or not.
    ///
    /// # Errors
    /// [`Refusal::InvalidCredential`]: malformed, unknown and wrong are one answer.
    pub fn prove<'s>(
        text: &[u8],
        registry: &'s Snapshot,
        peppers: &Peppers,
    ) -> Result<&'s Credential, Refusal> {
        let id = Self::id_of(text).map_err(|_| Refusal::InvalidCredential)?;
        let on_file = registry.client_secret(id);
        let (hash, pepper) = on_file.and_then(|credential| stored(credential)).unwrap_or((&UNKNOWN, ""));
        let proven = peppers.matches(pepper, text, hash);
        on_file.filter(|_| proven).map(|credential| &**credential).ok_or(Refusal::InvalidCredential)
    }

    /// The public half of the name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole secret, to be shown exactly once.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        &self.text
    }
}

fn stored(credential: &Credential) -> Option<(&[u8; 32], &str)> {
    match &credential.secret {
        CredentialSecret::ClientSecret { hash, pepper } => Some((hash, pepper)),
        CredentialSecret::ApiKey { .. }
        | CredentialSecret::Certificate(_)
        | CredentialSecret::ClientKey(_)
        | CredentialSecret::ImportedKey { .. }
        | CredentialSecret::Signature(_)
        | CredentialSecret::Token(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::ApiKey;

    #[test]
    fn a_client_secret_is_no_api_key_and_an_api_key_no_client_secret() {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let secret = ClientSecret::generate(&random).unwrap();
        let key = ApiKey::generate(&random).unwrap();

        assert_eq!(ClientSecret::id_of(secret.text().expose_secret()), Ok(secret.id()));
        assert_eq!(ApiKey::id_of(secret.text().expose_secret()), Err(InvalidApiKey::Shape));
        assert_eq!(ClientSecret::id_of(key.text().expose_secret()), Err(InvalidApiKey::Shape));
    }

    #[test]
    fn a_secret_proves_the_credential_that_it_was_made_for_and_no_other_secret_does() {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let peppers = Peppers::new([("p1".to_owned(), Secret::new(vec![7; 32]))]);
        let secret = ClientSecret::generate(&random).unwrap();
        let other = ClientSecret::generate(&random).unwrap();
        let hash = peppers.hash("p1", secret.text().expose_secret()).unwrap();
        let registry = crate::registry::parse(&[crate::registry::Source {
            path: "apps.toml".into(),
            text: format!(
                "[[developer]]\nid = \"team\"\n[[app]]\nid = \"web\"\ndeveloper = \"team\"\n[[app.client_secret]]\n\
                 id = \"{}\"\nhash = \"hmac-sha256:p1:{}\"\n",
                secret.id(),
                data_encoding::HEXLOWER.encode(&hash)
            ),
        }])
        .unwrap();

        let prove = |secret: &ClientSecret| {
            let proven = ClientSecret::prove(secret.text().expose_secret(), &registry, &peppers);
            proven.map(|credential| credential.id.to_string())
        };
        assert_eq!(prove(&secret), Ok(secret.id().to_owned()));
        assert_eq!(prove(&other), Err(Refusal::InvalidCredential));
        assert!(registry.api_key(secret.id()).is_none());
    }
}
