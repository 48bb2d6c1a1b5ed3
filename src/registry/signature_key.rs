//! Keys by which signatures are checked, as they are on file: a sealed shared secret, or a public key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::Deserialize;

/// The signature algorithms that are known here, by their names in RFC 9421 §6.2.2.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256, the signature as r and s of 32 bytes each.
    EcdsaP256Sha256,
    /// Ed25519.
    Ed25519,
    /// HMAC with SHA-256: a secret that both sides have.
    HmacSha256,
}

impl SignatureAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::EcdsaP256Sha256, Self::HmacSha256];

    /// Its registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::Ed25519 => "ed25519",
            Self::HmacSha256 => "hmac-sha256",
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key by which signatures are checked. Its algorithm is part of it, so no caller can choose another.
#[derive(Clone)]
pub enum SignatureKey {
    /// A public key.
    Public {
        /// What it is for.
        algorithm: SignatureAlgorithm,
        /// The key.
        key: Arc<ParsedPublicKey>,
    },
    /// A shared secret, encrypted under a pepper.
    Sealed {
        /// The name of the pepper.
        pepper: Arc<str>,
        /// Nonce, ciphertext and tag.
        sealed: Box<[u8]>,
    },
}

/// Why a text is no public key for an algorithm.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidPublicKey {
    /// A shared secret is no public key.
    #[error("an hmac-sha256 key is a `secret`, not a public key")]
    Algorithm,
    /// It is a JWK of another kind of key, or none.
    #[error(
        "the JWK is no public key for this algorithm: ed25519 is kty OKP, crv Ed25519; ecdsa-p256-sha256 is kty EC, crv P-256"
    )]
    Jwk,
    /// It holds no key of this algorithm.
    #[error("the key is not one for this algorithm")]
    Key,
    /// It is neither PEM nor JWK.
    #[error("expected a PEM block `-----BEGIN PUBLIC KEY-----`, or a JWK as JSON text")]
    Shape,
}

impl SignatureKey {
    /// The public key in `text`, a PEM block (`SubjectPublicKeyInfo`, RFC 7468 §13) or a JWK (RFC 7517).
    ///
    /// # Errors
    /// It is no public key for `algorithm`.
    pub fn public(algorithm: SignatureAlgorithm, text: &str) -> Result<Self, InvalidPublicKey> {
        let verification: &'static dyn VerificationAlgorithm = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_FIXED,
            SignatureAlgorithm::Ed25519 => &ED25519,
            SignatureAlgorithm::HmacSha256 => return Err(InvalidPublicKey::Algorithm),
        };
        let text = text.trim();
        let bytes = if text.starts_with('{') { from_jwk(algorithm, text)? } else { from_pem(text)? };
        let key = ParsedPublicKey::new(verification, bytes).map_err(|_| InvalidPublicKey::Key)?;
        Ok(Self::Public { algorithm, key: Arc::new(key) })
    }

    /// The one algorithm that the key is for.
    #[must_use]
    pub const fn algorithm(&self) -> SignatureAlgorithm {
        match self {
            Self::Public { algorithm, .. } => *algorithm,
            Self::Sealed { .. } => SignatureAlgorithm::HmacSha256,
        }
    }
}

impl PartialEq for SignatureKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Public { algorithm, key }, Self::Public { algorithm: other_algorithm, key: other }) => {
                algorithm == other_algorithm && (**key).as_ref() == (**other).as_ref()
            }
            (Self::Sealed { pepper, sealed }, Self::Sealed { pepper: other_pepper, sealed: other }) => {
                pepper == other_pepper && sealed == other
            }
            (Self::Public { .. } | Self::Sealed { .. }, _) => false,
        }
    }
}

impl Eq for SignatureKey {}

impl fmt::Debug for SignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public { algorithm, .. } => write!(f, "Public({algorithm})"),
            Self::Sealed { pepper, .. } => write!(f, "Sealed {{ …, pepper: {pepper:?} }}"),
        }
    }
}

fn from_pem(text: &str) -> Result<Vec<u8>, InvalidPublicKey> {
    let body = text.strip_prefix("-----BEGIN PUBLIC KEY-----").ok_or(InvalidPublicKey::Shape)?;
    let body = body.strip_suffix("-----END PUBLIC KEY-----").ok_or(InvalidPublicKey::Shape)?;
    let digits: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    BASE64.decode(digits.as_bytes()).map_err(|_| InvalidPublicKey::Shape)
}

/// The members of a JWK that are looked at; whatever else it says, its algorithm is the one in the registry.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: Option<String>,
    /// A private key that was pasted by mistake is not kept.
    d: Option<serde::de::IgnoredAny>,
}

fn from_jwk(algorithm: SignatureAlgorithm, text: &str) -> Result<Vec<u8>, InvalidPublicKey> {
    let jwk: Jwk = serde_json::from_str(text).map_err(|_| InvalidPublicKey::Jwk)?;
    let coordinate = |text: &str| {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        bytes.filter(|bytes| bytes.len() == COORDINATE).ok_or(InvalidPublicKey::Jwk)
    };
    if jwk.d.is_some() {
        return Err(InvalidPublicKey::Jwk);
    }
    match (algorithm, jwk.kty.as_str(), jwk.crv.as_str(), jwk.y) {
        (SignatureAlgorithm::Ed25519, "OKP", "Ed25519", None) => coordinate(&jwk.x),
        (SignatureAlgorithm::EcdsaP256Sha256, "EC", "P-256", Some(y)) => {
            Ok([&[UNCOMPRESSED], coordinate(&jwk.x)?.as_slice(), coordinate(&y)?.as_slice()].concat())
        }
        _ => Err(InvalidPublicKey::Jwk),
    }
}

/// Bytes of an Ed25519 key, and of one coordinate of a point on P-256.
const COORDINATE: usize = 32;

/// Begins a point that is written with both coordinates (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----\n";
    const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"test-key-ed25519","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}"#;
    const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf\n\
        w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==\n-----END PUBLIC KEY-----";
    const P256_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA","y":"Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0"}"#;

    fn public(algorithm: SignatureAlgorithm, text: &str) -> Result<SignatureKey, InvalidPublicKey> {
        SignatureKey::public(algorithm, text)
    }

    #[test]
    fn a_public_key_is_pem_or_jwk() {
        use SignatureAlgorithm::{EcdsaP256Sha256, Ed25519};

        for (algorithm, texts) in
            [(Ed25519, [ED25519_PEM, ED25519_JWK]), (EcdsaP256Sha256, [P256_PEM, P256_JWK])]
        {
            for text in texts {
                assert_eq!(public(algorithm, text).unwrap().algorithm(), algorithm, "{text}");
            }
        }
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        use SignatureAlgorithm::{EcdsaP256Sha256, Ed25519, HmacSha256};

        let private = ED25519_JWK.replace(r#""x""#, r#""d":"AA","x""#);
        for (algorithm, text, error) in [
            (Ed25519, P256_PEM, InvalidPublicKey::Key),
            (EcdsaP256Sha256, ED25519_PEM, InvalidPublicKey::Key),
            (Ed25519, P256_JWK, InvalidPublicKey::Jwk),
            (EcdsaP256Sha256, ED25519_JWK, InvalidPublicKey::Jwk),
            (Ed25519, private.as_str(), InvalidPublicKey::Jwk),
            (Ed25519, "{", InvalidPublicKey::Jwk),
            (HmacSha256, ED25519_PEM, InvalidPublicKey::Algorithm),
            (Ed25519, "", InvalidPublicKey::Shape),
            (
                Ed25519,
                "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----",
                InvalidPublicKey::Shape,
            ),
            (Ed25519, "-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----", InvalidPublicKey::Shape),
            (Ed25519, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", InvalidPublicKey::Key),
        ] {
            assert_eq!(public(algorithm, text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_algorithm_belongs_to_the_key() {
        let sealed = SignatureKey::Sealed { pepper: "p1".into(), sealed: vec![1; 60].into() };

        assert_eq!(sealed.algorithm(), SignatureAlgorithm::HmacSha256);
        assert!(
            !format!("{sealed:?}").contains('1') || format!("{sealed:?}") == "Sealed { …, pepper: \"p1\" }"
        );
    }
}
