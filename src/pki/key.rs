//! Key pairs that sign certificates: made here and kept as PKCS#8, or kept elsewhere and only asked to sign.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use rcgen::PublicKeyData as _;

use crate::secret::Secret;

/// What kinds of key the agent makes and signs with.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
}

impl KeyAlgorithm {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "p256",
            Self::EcdsaP384 => "p384",
            Self::Ed25519 => "ed25519",
        }
    }

    pub(super) fn for_certificates(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind of key.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected \"p256\", \"p384\" or \"ed25519\"")]
pub struct UnknownAlgorithm;

impl FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::EcdsaP256, Self::EcdsaP384, Self::Ed25519]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or(UnknownAlgorithm)
    }
}

/// Why there is no key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The place that keeps the keys did not make one.
    #[error("no key was made where keys are kept")]
    Elsewhere(#[source] RemoteFailure),
    /// The cryptographic library could not make one.
    #[error("cannot make a key")]
    Generate,
    /// The bytes are no PKCS#8 key of a kind that the agent uses.
    #[error("not a PKCS#8 key on P-256 or P-384 or for Ed25519")]
    Unreadable,
}

/// Where the keys of new authorities come from.
pub trait KeySource: fmt::Debug + Send + Sync {
    /// A fresh key of that kind.
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError>;
}

/// Keys that are made here and can be written down.
#[derive(Clone, Copy, Debug)]
pub struct LocalKeys;

impl KeySource for LocalKeys {
    fn generate(&self, algorithm: KeyAlgorithm) -> Result<KeyPair, KeyError> {
        KeyPair::generate(algorithm)
    }
}

/// A private key that never comes here: whoever keeps it is asked to sign.
pub trait RemoteSigner: fmt::Debug + Send + Sync {
    /// The name under which its keeper finds it again.
    fn name(&self) -> &str;

    /// The signature of `message` as certificates carry it: for ECDSA, DER over the digest that belongs to the curve.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, RemoteFailure>;
}

/// Why the keeper of a key did not do what it was asked, in its own words.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct RemoteFailure(pub String);

/// A private key and its public half.
pub struct KeyPair {
    algorithm: KeyAlgorithm,
    signer: Signer,
}

enum Signer {
    Ecdsa(EcdsaKeyPair, Secret),
    Ed25519(Ed25519KeyPair, Secret),
    Remote(Remote),
}

struct Remote {
    signer: Arc<dyn RemoteSigner>,
    /// The point, as it stands in a `SubjectPublicKeyInfo`.
    public_key: Vec<u8>,
    /// Why it did not sign. The certificate library has no room for a reason in its error.
    failure: Mutex<Option<RemoteFailure>>,
}

impl KeyPair {
    /// A fresh key.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate;
        // PKCS#8 v1 throughout: OpenSSL 3.0 does not read the v2 form of an Ed25519 key.
        let signer = match algorithm {
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
                let signer = EcdsaKeyPair::generate(ecdsa(algorithm)).map_err(failed)?;
                let pkcs8 = signer.to_pkcs8v1().map_err(failed)?;
                Signer::Ecdsa(signer, Secret::new(pkcs8.as_ref().to_vec()))
            }
            KeyAlgorithm::Ed25519 => {
                let signer = Ed25519KeyPair::generate().map_err(failed)?;
                let pkcs8 = signer.to_pkcs8v1().map_err(failed)?;
                Signer::Ed25519(signer, Secret::new(pkcs8.as_ref().to_vec()))
            }
        };
        Ok(Self { algorithm, signer })
    }

    /// A key that `signer` keeps, with its public half as it stands in a `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn remote(algorithm: KeyAlgorithm, public_key: Vec<u8>, signer: Arc<dyn RemoteSigner>) -> Self {
        Self { algorithm, signer: Signer::Remote(Remote { signer, public_key, failure: Mutex::default() }) }
    }

    /// The key that a PKCS#8 document holds.
    pub fn from_pkcs8(pkcs8: &Secret) -> Result<Self, KeyError> {
        let bytes = pkcs8.expose_secret();
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384] {
            if let Ok(key) = EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), bytes) {
                return Ok(Self { algorithm, signer: Signer::Ecdsa(key, pkcs8.clone()) });
            }
        }
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(|_| KeyError::Unreadable)?;
        Ok(Self { algorithm: KeyAlgorithm::Ed25519, signer: Signer::Ed25519(key, pkcs8.clone()) })
    }

    /// The kind of key.
    #[must_use]
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The private key as an unencrypted PKCS#8 document; `None` if it is kept elsewhere and cannot be written down.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Option<Secret> {
        match &self.signer {
            Signer::Ecdsa(_, pkcs8) | Signer::Ed25519(_, pkcs8) => Some(pkcs8.clone()),
            Signer::Remote(_) => None,
        }
    }

    /// The name under which its keeper finds it again; `None` if it is kept here.
    #[must_use]
    pub fn remote_name(&self) -> Option<&str> {
        match &self.signer {
            Signer::Ecdsa(..) | Signer::Ed25519(..) => None,
            Signer::Remote(remote) => Some(remote.signer.name()),
        }
    }

    /// Why the keeper of this key did not sign when it was asked last, told once.
    pub(super) fn take_failure(&self) -> Option<RemoteFailure> {
        match &self.signer {
            Signer::Ecdsa(..) | Signer::Ed25519(..) => None,
            Signer::Remote(remote) => remote.failure.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }

    /// The public key as a DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn public_key_info(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }
}

const fn ecdsa(algorithm: KeyAlgorithm) -> &'static signature::EcdsaSigningAlgorithm {
    match algorithm {
        KeyAlgorithm::EcdsaP384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::Ed25519 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
    }
}

impl rcgen::PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        match &self.signer {
            Signer::Ecdsa(key, _) => key.public_key().as_ref(),
            Signer::Ed25519(key, _) => key.public_key().as_ref(),
            Signer::Remote(remote) => &remote.public_key,
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.for_certificates()
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.signer {
            Signer::Ecdsa(key, _) => {
                key.sign(&SystemRandom::new(), message).map(|signature| signature.as_ref().to_vec())
            }
            Signer::Ed25519(key, _) => key.try_sign(message).map(|signature| signature.as_ref().to_vec()),
            Signer::Remote(remote) => return remote.sign(message),
        }
        .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl Remote {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|failure| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            rcgen::Error::RemoteKeyError
        })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KeyAlgorithm; 3] = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];

    #[test]
    fn a_key_survives_its_pkcs8_form() {
        for algorithm in ALL {
            let key = KeyPair::generate(algorithm).unwrap();

            let again = KeyPair::from_pkcs8(&key.to_pkcs8_der().unwrap()).unwrap();

            assert_eq!(again.algorithm(), algorithm);
            assert_eq!(again.public_key_info(), key.public_key_info());
        }
    }

    #[test]
    fn no_two_keys_are_alike() {
        for algorithm in ALL {
            let one = KeyPair::generate(algorithm).unwrap();
            let other = KeyPair::generate(algorithm).unwrap();

            assert_ne!(one.public_key_info(), other.public_key_info());
        }
    }

    #[test]
    fn other_bytes_are_no_key() {
        for bytes in [&b""[..], b"key", &[0x30, 0x03, 0x02, 0x01, 0x00]] {
            let error = KeyPair::from_pkcs8(&Secret::new(bytes.to_vec())).unwrap_err();

            assert_eq!(error, KeyError::Unreadable);
        }
    }

    #[test]
    fn words_name_kinds() {
        for algorithm in ALL {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        }
        assert_eq!("rsa".parse::<KeyAlgorithm>(), Err(UnknownAlgorithm));
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();

        assert_eq!(format!("{key:?}"), "KeyPair { algorithm: EcdsaP256, .. }");
    }
}
