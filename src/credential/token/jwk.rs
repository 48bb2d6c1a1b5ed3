//! Keys by which tokens are checked, as JWKs (RFC 7517): each is good for one algorithm, whatever a token says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::json::{Members, members};
use super::jws::{Jws, is_key_id};

/// The signature algorithms that are known here (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, by keys of 2048 to 8192 bits; for tokens of others, never for our own.
    Rs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// Its registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// The algorithm of this name, letter for letter. `Ed25519` is the newer name of what `EdDSA` means with such a key
    /// (RFC 9864 §2.2).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key by which tokens are checked. Its algorithm is part of it, so no token can choose another.
#[derive(Clone)]
pub struct VerificationKey {
    algorithm: Algorithm,
    key: Arc<ParsedPublicKey>,
    /// The members that RFC 7638 §3.2 requires, in its order, with their values.
    members: Vec<(&'static str, String)>,
}

/// Why a JWK is no key that tokens can be checked by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidJwk {
    /// Its `alg` is not the one that its type is used with here.
    #[error("its `alg` does not go with its `kty` and `crv`: EdDSA, ES256 and RS256 are known here")]
    Algorithm,
    /// It is no JSON object, or a member stands twice.
    #[error("expected a JSON object in which no member stands twice")]
    Json,
    /// What it holds is no key of its type.
    #[error("it holds no key of its type, or an RSA key that is shorter than 2048 bits")]
    Key,
    /// A member is missing or of the wrong form.
    #[error("`{0}` is missing or not in the form that RFC 7518 gives it")]
    Member(&'static str),
    /// It holds a private key.
    #[error("it holds a private or secret key, which does not belong in here")]
    Private,
    /// Two keys of a set have one name.
    #[error("two keys of the set have the same `kid`, or one key has two algorithms")]
    Repeated,
    /// It is of a type that is not known here.
    #[error("expected kty OKP with crv Ed25519, kty EC with crv P-256, or kty RSA")]
    Type,
    /// It is not for signatures.
    #[error("its `use` or `key_ops` says that it is not for checking signatures")]
    Use,
}

impl VerificationKey {
    /// The Ed25519 key of these 32 bytes.
    ///
    /// # Errors
    /// They are no such key.
    pub fn ed25519(public: &[u8]) -> Result<Self, InvalidJwk> {
        let key = parsed(&ED25519, public, COORDINATE)?;
        let members = vec![
            ("crv", "Ed25519".to_owned()),
            ("kty", "OKP".to_owned()),
            ("x", BASE64URL_NOPAD.encode(public)),
        ];
        Ok(Self { algorithm: Algorithm::EdDsa, key, members })
    }

    /// The key on P-256 of this uncompressed point (65 bytes, SEC 1 §2.3.3).
    ///
    /// # Errors
    /// It is no such point.
    pub fn p256(point: &[u8]) -> Result<Self, InvalidJwk> {
        let Some((&[UNCOMPRESSED], coordinates)) = point.split_first_chunk() else {
            return Err(InvalidJwk::Key);
        };
        let (x, y) = coordinates.split_at_checked(COORDINATE).ok_or(InvalidJwk::Key)?;
        let key = parsed(&ECDSA_P256_SHA256_FIXED, point, POINT)?;
        let members = vec![
            ("crv", "P-256".to_owned()),
            ("kty", "EC".to_owned()),
            ("x", BASE64URL_NOPAD.encode(x)),
            ("y", BASE64URL_NOPAD.encode(y)),
        ];
        Ok(Self { algorithm: Algorithm::Es256, key, members })
    }

    /// The RSA key of this modulus and exponent, big-endian without leading zeros.
    ///
    /// # Errors
    /// It is no such key, or shorter than 2048 bits.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, InvalidJwk> {
        // The library would notice at the first signature only.
        let sound = MODULUS.contains(&modulus.len())
            && modulus.first().is_some_and(|&first| first != 0)
            && (modulus.len() > *MODULUS.start() || modulus.first().is_some_and(|&first| first >= 0x80))
            && (1..=LONGEST_EXPONENT).contains(&exponent.len())
            && exponent.last().is_some_and(|&last| last % 2 == 1)
            && !matches!(exponent, [0, ..] | [1]);
        if !sound {
            return Err(InvalidJwk::Key);
        }
        let components = PublicKeyComponents { n: modulus, e: exponent };
        let parsed =
            components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| InvalidJwk::Key)?;
        let members = vec![
            ("e", BASE64URL_NOPAD.encode(exponent)),
            ("kty", "RSA".to_owned()),
            ("n", BASE64URL_NOPAD.encode(modulus)),
        ];
        Ok(Self { algorithm: Algorithm::Rs256, key: Arc::new(parsed), members })
    }

    /// The key in a JWK.
    ///
    /// # Errors
    /// It is no public key for signatures by an algorithm that is known here.
    pub fn from_jwk(jwk: &Members) -> Result<Self, InvalidJwk> {
        if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return Err(InvalidJwk::Private);
        }
        if text(jwk, "use")?.is_some_and(|usage| usage != "sig") || !verifies(jwk)? {
            return Err(InvalidJwk::Use);
        }
        let key = match (text(jwk, "kty")?, text(jwk, "crv")?) {
            (Some("OKP"), Some("Ed25519")) => Self::ed25519(&bytes(jwk, "x")?),
            (Some("EC"), Some("P-256")) => {
                let (x, y) = (coordinate(jwk, "x")?, coordinate(jwk, "y")?);
                Self::p256(&[&[UNCOMPRESSED], x.as_slice(), y.as_slice()].concat())
            }
            (Some("RSA"), None) => Self::rsa(&integer(jwk, "n")?, &integer(jwk, "e")?),
            _ => Err(InvalidJwk::Type),
        }?;
        match text(jwk, "alg")? {
            Some(name) if Algorithm::from_name(name) != Some(key.algorithm) => Err(InvalidJwk::Algorithm),
            Some(_) | None => Ok(key),
        }
    }

    /// The key as a JWK, named by `key_id`, with its algorithm and its use.
    #[must_use]
    pub fn to_jwk(&self, key_id: &str) -> Members {
        let own = self.members.iter().map(|(name, value)| (*name, value.as_str()));
        let about = [("alg", self.algorithm.as_str()), ("kid", key_id), ("use", "sig")];
        own.chain(about).map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }

    /// Its one algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The SHA-256 thumbprint of the key (RFC 7638) in base64url, by which our own are named.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let pairs: Vec<String> =
            self.members.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        let text = format!("{{{}}}", pairs.join(","));
        BASE64URL_NOPAD.encode(digest(&SHA256, text.as_bytes()).as_ref())
    }

    /// Whether this key has signed `jws`, and its header says the same algorithm.
    #[must_use]
    pub fn has_signed(&self, jws: &Jws<'_>) -> bool {
        Algorithm::from_name(&jws.algorithm) == Some(self.algorithm)
            && self.key.verify_sig(jws.signed(), jws.signature()).is_ok()
    }
}

impl PartialEq for VerificationKey {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}

impl Eq for VerificationKey {}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerificationKey({}, {})", self.algorithm, self.thumbprint())
    }
}

/// The usable keys of a JWK Set (RFC 7517 §5), by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JwkSet {
    keys: BTreeMap<String, VerificationKey>,
    left_out: Vec<(Option<String>, InvalidJwk)>,
}

impl JwkSet {
    /// Reads a JWK Set.
    ///
    /// > Implementations SHOULD ignore JWKs within a JWK Set that use "kty" (key type) values that are not understood by
    /// > them, that are missing required members, or for which values are out of the supported ranges. — RFC 7517 §5
    ///
    /// # Errors
    /// It is none, or two keys in it cannot be told apart: nothing of it is taken then.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidJwk> {
        let set = members(text).map_err(|_| InvalidJwk::Json)?;
        let Some(Value::Array(listed)) = set.get("keys") else { return Err(InvalidJwk::Member("keys")) };
        let mut read = Self::default();
        for jwk in listed {
            let Value::Object(jwk) = jwk else { return Err(InvalidJwk::Json) };
            let id = text_of_key_id(jwk);
            match (VerificationKey::from_jwk(jwk), id) {
                (Ok(key), Some(id)) => read.insert(id, key)?,
                (Ok(_), None) => read.left_out.push((None, InvalidJwk::Member("kid"))),
                (Err(error), id) => read.left_out.push((id, error)),
            }
        }
        let usable_too = |id: &Option<String>| id.as_ref().is_some_and(|id| read.keys.contains_key(id));
        if read.left_out.iter().any(|(id, reason)| usable_too(id) && *reason == InvalidJwk::Algorithm) {
            return Err(InvalidJwk::Repeated);
        }
        Ok(read)
    }

    fn insert(&mut self, id: String, key: VerificationKey) -> Result<(), InvalidJwk> {
        match self.keys.insert(id, key) {
            Some(_) => Err(InvalidJwk::Repeated),
            None => Ok(()),
        }
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&VerificationKey> {
        self.keys.get(id)
    }

    /// The keys, by name.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&str, &VerificationKey)> {
        self.keys.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// What was left out of it, and why.
    #[must_use]
    pub fn left_out(&self) -> &[(Option<String>, InvalidJwk)] {
        &self.left_out
    }

    /// A JWK Set of `keys`, in JSON.
    #[must_use]
    pub fn write<'k>(keys: impl IntoIterator<Item = (&'k str, &'k VerificationKey)>) -> String {
        let keys: Vec<Members> = keys.into_iter().map(|(id, key)| key.to_jwk(id)).collect();
        json!({ "keys": keys }).to_string()
    }
}

fn text_of_key_id(jwk: &Members) -> Option<String> {
    jwk.get("kid").and_then(Value::as_str).filter(|id| is_key_id(id)).map(str::to_owned)
}

/// The library tells encodings apart by their length, and takes more of them than one.
fn parsed(
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: &[u8],
    length: usize,
) -> Result<Arc<ParsedPublicKey>, InvalidJwk> {
    if bytes.len() != length {
        return Err(InvalidJwk::Key);
    }
    ParsedPublicKey::new(algorithm, bytes).map(Arc::new).map_err(|_| InvalidJwk::Key)
}

fn text<'j>(jwk: &'j Members, name: &'static str) -> Result<Option<&'j str>, InvalidJwk> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(InvalidJwk::Member(name)),
    }
}

/// Whether its `key_ops`, if it has them, say that it checks signatures.
fn verifies(jwk: &Members) -> Result<bool, InvalidJwk> {
    match jwk.get("key_ops") {
        None => Ok(true),
        Some(Value::Array(operations)) => Ok(operations.iter().any(|one| one == "verify")),
        Some(_) => Err(InvalidJwk::Member("key_ops")),
    }
}

fn bytes(jwk: &Members, name: &'static str) -> Result<Vec<u8>, InvalidJwk> {
    let written = text(jwk, name)?.ok_or(InvalidJwk::Member(name))?;
    BASE64URL_NOPAD.decode(written.as_bytes()).map_err(|_| InvalidJwk::Member(name))
}

fn coordinate(jwk: &Members, name: &'static str) -> Result<Vec<u8>, InvalidJwk> {
    bytes(jwk, name)
        .and_then(|found| if found.len() == COORDINATE { Ok(found) } else { Err(InvalidJwk::Member(name)) })
}

/// > The octet sequence MUST utilize the minimum number of octets needed to represent the value. — RFC 7518 §2
fn integer(jwk: &Members, name: &'static str) -> Result<Vec<u8>, InvalidJwk> {
    bytes(jwk, name).and_then(|found| match found.first() {
        None | Some(0) => Err(InvalidJwk::Member(name)),
        Some(_) => Ok(found),
    })
}

/// Members that only a private or a symmetric key has (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Bytes of an Ed25519 key, and of one coordinate of a point on P-256.
const COORDINATE: usize = 32;

/// Begins a point that is written with both coordinates (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Bytes of a point that is written so.
const POINT: usize = 1 + 2 * COORDINATE;

/// Bytes of an RSA modulus of 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Bytes of the longest public exponent: nearly all are 65537.
const LONGEST_EXPONENT: usize = 4;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    };

    use super::*;

    /// RFC 8037 appendix A.3.
    const ED25519_JWK: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn jwk(text: &str) -> Result<VerificationKey, InvalidJwk> {
        VerificationKey::from_jwk(&members(text.as_bytes()).unwrap())
    }

    fn head(algorithm: &str) -> String {
        BASE64URL_NOPAD.encode(format!(r#"{{"alg":"{algorithm}"}}"#).as_bytes()) + ".e30"
    }

    fn token(head: &str, signature: &[u8]) -> String {
        format!("{head}.{}", BASE64URL_NOPAD.encode(signature))
    }

    fn believed(key: &VerificationKey, token: &str) -> bool {
        key.has_signed(&Jws::parse(token.as_bytes()).unwrap())
    }

    #[test]
    fn a_thumbprint_is_that_of_the_specification() {
        assert_eq!(jwk(ED25519_JWK).unwrap().thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        // RFC 7638 §3.1.
        let rsa = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
        assert_eq!(jwk(rsa).unwrap().thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn each_kind_of_key_believes_its_own_signature_and_no_other() {
        let random = SystemRandom::new();
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let keys = [
            VerificationKey::ed25519(ed25519.public_key().as_ref()).unwrap(),
            VerificationKey::p256(p256.public_key().as_ref()).unwrap(),
            VerificationKey::rsa(
                rsa.public_key().modulus().big_endian_without_leading_zero(),
                rsa.public_key().exponent().big_endian_without_leading_zero(),
            )
            .unwrap(),
        ];
        let heads = [head("EdDSA"), head("ES256"), head("RS256")];
        let mut by_rsa = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, heads[2].as_bytes(), &mut by_rsa).unwrap();
        let tokens = [
            token(&heads[0], ed25519.sign(heads[0].as_bytes()).as_ref()),
            token(&heads[1], p256.sign(&random, heads[1].as_bytes()).unwrap().as_ref()),
            token(&heads[2], &by_rsa),
        ];

        for (at, key) in keys.iter().enumerate() {
            for (other, token) in tokens.iter().enumerate() {
                assert_eq!(believed(key, token), at == other, "{key:?} {token}");
            }
            let again = VerificationKey::from_jwk(&key.to_jwk("k")).unwrap();
            assert_eq!(&again, key);
            assert!(believed(&again, &tokens[at]));
        }
        let newer_name = head("Ed25519");
        assert!(believed(&keys[0], &token(&newer_name, ed25519.sign(newer_name.as_bytes()).as_ref())));
    }

    #[test]
    fn a_signature_of_zeros_is_no_signature() {
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = VerificationKey::p256(p256.public_key().as_ref()).unwrap();
        let good = p256.sign(&SystemRandom::new(), head("ES256").as_bytes()).unwrap();
        assert!(believed(&key, &token(&head("ES256"), good.as_ref())));

        let (r, s) = good.as_ref().split_at(32);
        for forged in [vec![0; 64], [&[0; 32], s].concat(), [r, &[0; 32]].concat(), Vec::new(), vec![0; 8]] {
            assert!(!believed(&key, &token(&head("ES256"), &forged)), "{forged:?}");
        }
    }

    #[test]
    fn what_is_no_public_key_for_signatures_is_refused() {
        use InvalidJwk::{Algorithm, Key, Member, Private, Type, Use};

        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        for (text, expected) in [
            (ED25519_JWK.replace("\"crv\"", "\"d\":\"AA\",\"crv\""), Private),
            (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), Private),
            (r#"{"kty":"oct"}"#.to_owned(), Type),
            (format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#), Type),
            (format!(r#"{{"kty":"EC","crv":"P-384","x":"{x}","y":"{x}"}}"#), Type),
            (format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}"}}"#), Member("y")),
            (format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{x}"}}"#), Key),
            (ED25519_JWK.replace("URo", "URp"), Member("x")),
            (ED25519_JWK.replace("URo\"", "URo=\""), Member("x")),
            (ED25519_JWK.replace("11qY", ""), Key),
            (ED25519_JWK.replace("\"crv\"", "\"use\":\"enc\",\"crv\""), Use),
            (ED25519_JWK.replace("\"crv\"", "\"key_ops\":[\"sign\"],\"crv\""), Use),
            (ED25519_JWK.replace("\"crv\"", "\"alg\":\"ES256\",\"crv\""), Algorithm),
            (ED25519_JWK.replace("\"crv\"", "\"alg\":\"none\",\"crv\""), Algorithm),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(), Key),
            (r#"{"kty":"RSA","n":"AAEA","e":"AQAB"}"#.to_owned(), Member("n")),
            (format!(r#"{{"kty":"RSA","n":"{}","e":"AQ"}}"#, "_".repeat(342)), Member("n")),
            (format!(r#"{{"kty":"RSA","n":"{}w","e":"AQ"}}"#, "_".repeat(341)), Key),
        ] {
            assert_eq!(jwk(&text).err(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_set_holds_the_keys_that_can_be_used() {
        let named = |id: &str| ED25519_JWK.replacen('{', &format!("{{\"kid\":\"{id}\","), 1);
        let text = format!(
            r#"{{"keys":[{},{{"kty":"RSA","use":"enc","kid":"e","n":"AQ","e":"AQAB"}},{ED25519_JWK}]}}"#,
            named("a")
        );

        let set = JwkSet::parse(text.as_bytes()).unwrap();

        assert_eq!(set.keys().map(|(id, _)| id).collect::<Vec<_>>(), ["a"]);
        assert_eq!(
            set.left_out(),
            [(Some("e".to_owned()), InvalidJwk::Use), (None, InvalidJwk::Member("kid"))]
        );
        let written = JwkSet::write(set.keys());
        assert_eq!(JwkSet::parse(written.as_bytes()).unwrap().key("a"), set.key("a"));
    }

    #[test]
    fn a_set_in_which_a_name_stands_for_two_keys_is_refused() {
        let named = ED25519_JWK.replacen('{', "{\"kid\":\"a\",", 1);
        let other = named.replacen('{', "{\"alg\":\"ES256\",", 1);
        let set = |keys: &str| JwkSet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).err();

        assert_eq!(set(&named), None);
        assert_eq!(set(&format!("{named},{named}")), Some(InvalidJwk::Repeated));
        assert_eq!(set(&format!("{named},{other}")), Some(InvalidJwk::Repeated));
        assert_eq!(set("1"), Some(InvalidJwk::Json));
        assert_eq!(JwkSet::parse(b"{}").err(), Some(InvalidJwk::Member("keys")));
        assert_eq!(JwkSet::parse(br#"{"keys":[],"keys":[]}"#).err(), Some(InvalidJwk::Json));
    }
}
