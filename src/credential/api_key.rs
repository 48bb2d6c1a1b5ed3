//! API keys: 256 random bits with a public name and a checksum, stored as a keyed hash.
//!
//! `pstn_sk_<id: 12>_<secret: 43><checksum: 6>`, all base62. The id is the lookup key and may be logged; the checksum is the
//! CRC-32 of everything before it, so that a typing error, or a scanner's false alarm, is told apart without any lookup.
//! The secret has the full strength of the hash, so a slow password hash would only be a lever for denial of service.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SecureRandom;
use subtle::ConstantTimeEq;

use crate::credential::signing_secret::SealingKey;
use crate::secret::Secret;

/// What every key of ours begins with, whatever its kind.
pub const API_KEY_MARK: &str = "pstn_";

const PREFIX: &str = "pstn_sk_";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 6;
const LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key in clear, just made or just presented.
#[derive(Clone, Debug)]
pub struct ApiKey {
    id: String,
    text: Secret,
}

/// Why a text is no API key; the reason stays inside, callers all get the same answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidApiKey {
    /// The checksum does not fit: mistyped, cut or invented.
    #[error("the key's checksum is wrong")]
    Checksum,
    /// Not the shape of a key.
    #[error("the text has not the shape of a key")]
    Shape,
}

impl ApiKey {
    /// A fresh key from `random`.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let (id, text) = mint(PREFIX, random)?;
        Ok(Self { id, text })
    }

    /// Reads what a caller presented: exact length, alphabet and checksum, before any lookup.
    ///
    /// # Errors
    /// The text is no key of ours.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidApiKey> {
        let id = Self::id_of(text)?;
        Ok(Self { id: id.to_owned(), text: Secret::new(text.to_vec()) })
    }

    /// The id inside a well-formed key.
    ///
    /// # Errors
    /// The text is no key of ours.
    pub fn id_of(text: &[u8]) -> Result<&str, InvalidApiKey> {
        id_in(PREFIX, text)
    }

    /// The public half of the name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole key, to be shown exactly once.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        &self.text
    }
}

/// The keys of the keyed hash, by version (`p1`, `p2`, …), so that they can be replaced.
#[derive(Debug, Default)]
pub struct Peppers {
    keys: BTreeMap<String, Pepper>,
}

/// What one pepper is used for.
#[derive(Debug)]
struct Pepper {
    /// API keys are hashed under it.
    hash: hmac::Key,
    /// Shared secrets are sealed under a key that is derived from it.
    seal: SealingKey,
}

impl Peppers {
    /// Peppers from their secret bytes.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = (String, Secret)>) -> Self {
        let pepper = |secret: Secret| {
            let hash = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret());
            Pepper { seal: SealingKey::derive(&hash), hash }
        };
        Self { keys: secrets.into_iter().map(|(version, secret)| (version, pepper(secret))).collect() }
    }

    /// The version that new keys are hashed under, if there is any.
    #[must_use]
    pub fn newest(&self) -> Option<&str> {
        self.keys.keys().max_by_key(|version| (version.len(), version.as_str())).map(String::as_str)
    }

    /// All versions that are here.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The keyed hash of `key` under pepper `version`; `None` when that pepper is not here.
    #[must_use]
    pub fn hash(&self, version: &str, key: &[u8]) -> Option<[u8; 32]> {
        let tag = hmac::sign(&self.keys.get(version)?.hash, key);
        tag.as_ref().try_into().ok()
    }

    /// Encrypts a shared secret of the credential `id` under pepper `version`; `None` when that pepper is not here, or the
    /// random source failed.
    #[must_use]
    pub fn seal(&self, version: &str, id: &str, secret: &[u8]) -> Option<Vec<u8>> {
        self.keys.get(version)?.seal.seal(id, secret)
    }

    /// The secret that [`Peppers::seal`] has encrypted for the same credential.
    #[must_use]
    pub fn open(&self, version: &str, id: &str, sealed: &[u8]) -> Option<Secret> {
        self.keys.get(version)?.seal.open(id, sealed)
    }

    /// Whether `key` hashes to `expected` under pepper `version`, in constant time. A version that is not here does the
    /// same work and says no.
    #[must_use]
    pub fn matches(&self, version: &str, key: &[u8], expected: &[u8; 32]) -> bool {
        let known = self.hash(version, key);
        let hash =
            known.or_else(|| self.newest().and_then(|version| self.hash(version, key))).unwrap_or_default();
        let equal: bool = hash.ct_eq(expected).into();
        equal && known.is_some()
    }
}

/// How long every secret of ours is, in bytes.
pub const LONGEST_SECRET: usize = LENGTH;

/// So many bytes of every secret of ours are its prefix and its name, which are public.
pub const SECRET_MARK_LENGTH: usize = PREFIX.len() + ID_LENGTH + 1;

/// What secrets of ours begin with, by kind.
const PREFIXES: [&str; 3] = [PREFIX, "pstn_hs_", "pstn_cs_"];

/// The name inside a well-formed secret of ours, of whatever kind.
#[must_use]
pub fn secret_id(text: &[u8]) -> Option<&str> {
    PREFIXES.into_iter().find_map(|prefix| id_in(prefix, text).ok())
}

/// Whether `text` may be the beginning of a secret of ours, as far as it goes.
#[must_use]
pub fn begins_secret(text: &[u8]) -> bool {
    let begins = |prefix: &str| {
        let common = text.len().min(prefix.len());
        text.get(..common) == prefix.as_bytes().get(..common)
    };
    let rest = text.iter().enumerate().skip(PREFIX.len());
    let fits = |(at, byte): (usize, &u8)| {
        if at == SECRET_MARK_LENGTH - 1 { *byte == b'_' } else { byte.is_ascii_alphanumeric() }
    };
    text.len() <= LENGTH && PREFIXES.into_iter().any(begins) && rest.into_iter().all(fits)
}

/// A fresh id, and the secret text that begins with `prefix` and contains it.
///
/// # Errors
/// The random source failed.
pub(super) fn mint(
    prefix: &str,
    random: &dyn SecureRandom,
) -> Result<(String, Secret), aws_lc_rs::error::Unspecified> {
    let mut id_bytes = [0_u8; 9];
    let mut secret_bytes = [0_u8; 32];
    random.fill(&mut id_bytes)?;
    random.fill(&mut secret_bytes)?;
    let id = base62(&id_bytes, ID_LENGTH);
    let body = format!("{prefix}{id}_{}", base62(&secret_bytes, SECRET_LENGTH));
    let text = format!("{body}{}", checksum(body.as_bytes()));
    Ok((id, Secret::new(text.into_bytes())))
}

/// The id inside a text that [`mint`] made with this `prefix`.
///
/// # Errors
/// It is no such text.
pub(super) fn id_in<'t>(prefix: &str, text: &'t [u8]) -> Result<&'t str, InvalidApiKey> {
    let shaped = text.len() == LENGTH && text.starts_with(prefix.as_bytes());
    let (head, sum) = text.split_at_checked(LENGTH - CHECKSUM_LENGTH).ok_or(InvalidApiKey::Shape)?;
    let id = head.get(prefix.len()..prefix.len() + ID_LENGTH).ok_or(InvalidApiKey::Shape)?;
    let separator = head.get(prefix.len() + ID_LENGTH);
    let secret = head.get(prefix.len() + ID_LENGTH + 1..).ok_or(InvalidApiKey::Shape)?;
    let alphabet = [id, secret, sum].iter().all(|part| part.iter().all(u8::is_ascii_alphanumeric));
    if !shaped || separator != Some(&b'_') || !alphabet {
        return Err(InvalidApiKey::Shape);
    }
    if checksum(head).as_bytes() != sum {
        return Err(InvalidApiKey::Checksum);
    }
    std::str::from_utf8(id).map_err(|_| InvalidApiKey::Shape)
}

/// `bytes` as a number in base 62, in exactly `length` digits (the number's lowest ones).
fn base62(bytes: &[u8], length: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; length];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u16;
        for byte in &mut number {
            let value = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = BASE62.get(usize::from(remainder)).copied().unwrap_or(b'0');
    }
    digits.into_iter().map(char::from).collect()
}

fn checksum(head: &[u8]) -> String {
    base62(&crc32fast::hash(head).to_be_bytes(), CHECKSUM_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = "pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3lksCr";

    #[test]
    fn the_format_is_the_documented_one() {
        let secret: Vec<u8> = (0..32).collect();
        let body = format!("pstn_sk_0000000000A1_{}", base62(&secret, SECRET_LENGTH));

        assert_eq!(format!("{body}{}", checksum(body.as_bytes())), VECTOR);
        assert_eq!(ApiKey::id_of(VECTOR.as_bytes()), Ok("0000000000A1"));
    }

    #[test]
    fn the_stored_hash_is_an_hmac_under_the_pepper() {
        let peppers = Peppers::new([("p1".to_owned(), Secret::new(vec![0; 32]))]);

        let hash = peppers.hash("p1", VECTOR.as_bytes()).unwrap();

        let expected = "5f8ce295e14e4a3b633dc981cacb54c299e62af3a15d4367049daa170c9ced14";
        assert_eq!(data_encoding::HEXLOWER.encode(&hash), expected);
        assert!(peppers.matches("p1", VECTOR.as_bytes(), &hash));
        assert!(!peppers.matches("p2", VECTOR.as_bytes(), &hash));
        assert!(!peppers.matches("p1", b"other", &hash));
    }

    #[test]
    fn fresh_keys_are_well_formed_and_differ() {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let keys: std::collections::BTreeSet<Vec<u8>> =
            (0..1000).map(|_| ApiKey::generate(&random).unwrap().text().expose_secret().to_vec()).collect();

        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| ApiKey::parse(key).is_ok()));
    }

    #[test]
    fn every_single_wrong_character_is_noticed() {
        for at in 0..VECTOR.len() {
            let mut key = VECTOR.as_bytes().to_vec();
            key[at] = if key[at] == b'x' { b'y' } else { b'x' };

            assert!(ApiKey::parse(&key).is_err(), "position {at}");
        }
        assert!(ApiKey::parse(b"").is_err());
        assert!(ApiKey::parse(&VECTOR.as_bytes()[..69]).is_err());
        assert!(ApiKey::parse(format!("{VECTOR}0").as_bytes()).is_err());
    }

    #[test]
    fn the_newest_pepper_is_the_highest_version() {
        let pepper = |version: &str| (version.to_owned(), Secret::new(vec![1]));

        assert_eq!(Peppers::new([pepper("p9"), pepper("p10"), pepper("p2")]).newest(), Some("p10"));
        assert_eq!(Peppers::default().newest(), None);
    }
}
