//! What has been taken back before its time: certificates by serial number, keys, and identities.
//!
//! An authority is revoked like a leaf, by its serial number or its key; then everything below it is revoked with it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::clock::Timestamp;
use crate::identity::{SpiffeId, Subject};
use crate::pki::authority::Authority;
use crate::pki::marks::Marks;

/// One thing that is revoked. Reads and prints as `serial:…`, `spki:…` or a SPIFFE ID.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Revoked {
    /// Every certificate with this serial number, in lower-case hexadecimal digits.
    Serial(String),
    /// Every certificate of this holder.
    SpiffeId(SpiffeId),
    /// Every certificate over this key: SHA-256 of its SubjectPublicKeyInfo.
    Spki([u8; 32]),
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::SpiffeId(id) => write!(f, "{id}"),
            Self::Spki(digest) => write!(f, "spki:{}", HEXLOWER.encode(digest)),
        }
    }
}

/// Why a text names nothing that can be revoked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRevoked {
    /// Neither of the three forms.
    #[error("expected `serial:<hex digits>`, `spki:<64 hex digits>` or a SPIFFE ID")]
    Form,
    /// The serial number is no hexadecimal number of at most 20 bytes.
    #[error(
        "expected the serial number as at most 40 hexadecimal digits, as `openssl x509 -serial` prints it"
    )]
    Serial,
    /// The SPIFFE ID is malformed.
    #[error("the SPIFFE ID is malformed")]
    SpiffeId,
    /// The digest is not one of SHA-256.
    #[error("expected 64 hexadecimal digits, the SHA-256 of the public key")]
    Spki,
}

impl FromStr for Revoked {
    type Err = InvalidRevoked;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(digits) = text.strip_prefix("serial:") {
            let digits = digits.replace(':', "").to_ascii_lowercase();
            let padded = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
            let bytes = HEXLOWER.decode(padded.as_bytes()).map_err(|_| InvalidRevoked::Serial)?;
            let significant: Vec<u8> = bytes.into_iter().skip_while(|&byte| byte == 0).collect();
            return match significant.len() {
                0 | 21.. => Err(InvalidRevoked::Serial),
                _ => Ok(Self::Serial(HEXLOWER.encode(&significant))),
            };
        }
        if let Some(digits) = text.strip_prefix("spki:") {
            let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| InvalidRevoked::Spki)?;
            return Ok(Self::Spki(bytes.try_into().map_err(|_| InvalidRevoked::Spki)?));
        }
        if text.starts_with("spiffe:") {
            return text.parse().map(Self::SpiffeId).map_err(|_| InvalidRevoked::SpiffeId);
        }
        Err(InvalidRevoked::Form)
    }
}

impl Revoked {
    /// A certificate by its serial number. Nothing if it cannot be read.
    #[must_use]
    pub fn serial_of(certificate: &[u8]) -> Option<Self> {
        Marks::of(certificate).map(|marks| Self::Serial(marks.serial))
    }
}

/// When and why something was revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Everything that is revoked. Never changes; a new list takes the place of an old one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Revocations(BTreeMap<Revoked, Revocation>);

impl Revocations {
    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Revoked, &Revocation)> {
        self.0.iter()
    }

    /// The list with one thing more. What is there already keeps its time and reason.
    #[must_use]
    pub fn with(mut self, revoked: Revoked, revocation: Revocation) -> Self {
        self.0.entry(revoked).or_insert(revocation);
        self
    }

    /// The list without one thing.
    #[must_use]
    pub fn without(mut self, revoked: &Revoked) -> Self {
        self.0.remove(revoked);
        self
    }

    /// What speaks against an authority.
    #[must_use]
    pub fn of_authority(&self, authority: &Authority) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        let marks = authority.marks();
        self.of_certificate(&marks.serial, &marks.spki_sha256)
    }

    /// The revocation of a certificate with this serial number and key, if there is one.
    pub(super) fn about_certificate(&self, serial: &str, spki_sha256: &[u8; 32]) -> Option<&Revocation> {
        self.of_certificate(serial, spki_sha256).and_then(|revoked| self.0.get(&revoked))
    }

    /// The revocation of a leaf, if there is one.
    pub(super) fn about_leaf(&self, serial: &str, spki: &[u8; 32], id: &SpiffeId) -> Option<&Revocation> {
        self.about_certificate(serial, spki).or_else(|| self.0.get(&Revoked::SpiffeId(id.clone())))
    }

    /// What speaks against a certificate with this serial number and key.
    pub(super) fn of_certificate(&self, serial: &str, spki_sha256: &[u8; 32]) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        [Revoked::Serial(serial.to_owned()), Revoked::Spki(*spki_sha256)]
            .into_iter()
            .find(|revoked| self.0.contains_key(revoked))
    }

    /// What speaks against a leaf.
    pub(super) fn of_leaf(&self, subject: &Subject) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        let by_id = Revoked::SpiffeId(subject.spiffe_id.clone());
        let by_certificate = self.of_certificate(&subject.serial, &subject.spki_sha256);
        by_certificate.or_else(|| self.0.contains_key(&by_id).then_some(by_id))
    }
}

impl FromIterator<(Revoked, Revocation)> for Revocations {
    fn from_iter<I: IntoIterator<Item = (Revoked, Revocation)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_the_same_however_they_are_written() {
        let plain: Revoked = "serial:0abc".parse().unwrap();

        assert_eq!("serial:0A:BC".parse(), Ok(plain.clone()));
        assert_eq!("serial:ABC".parse(), Ok(plain.clone()));
        assert_eq!("serial:000ABC".parse(), Ok(plain.clone()));
        assert_eq!(plain.to_string(), "serial:0abc");
    }

    #[test]
    fn what_names_nothing_is_refused_for_its_reason() {
        for (text, expected) in [
            ("0abc", InvalidRevoked::Form),
            ("serial:", InvalidRevoked::Serial),
            ("serial:00", InvalidRevoked::Serial),
            ("serial:xyz", InvalidRevoked::Serial),
            ("spki:abcd", InvalidRevoked::Spki),
            ("spiffe://postern.test", InvalidRevoked::SpiffeId),
        ] {
            assert_eq!(text.parse::<Revoked>(), Err(expected), "{text}");
        }
        assert!(format!("serial:{}", "f".repeat(41)).parse::<Revoked>().is_err());
    }

    #[test]
    fn what_is_revoked_twice_keeps_its_first_reason() {
        let revoked: Revoked = "spiffe://postern.test/a".parse().unwrap();
        let because = |reason: &str| Revocation { at: Timestamp::FLOOR, reason: reason.to_owned() };

        let list = Revocations::default()
            .with(revoked.clone(), because("stolen"))
            .with(revoked.clone(), because("again"));

        assert_eq!(list.iter().next().map(|(_, revocation)| revocation.reason.as_str()), Some("stolen"));
        assert!(list.without(&revoked).is_empty());
    }
}
