//! The name of a trust domain: the part of the world whose certificates one set of authorities signs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest trust domain name, in bytes (SPIFFE-ID §2.3).
pub(super) const MAX_TRUST_DOMAIN: usize = 255;

/// A trust domain such as `prod.example.org`: what stands between `spiffe://` and the first slash.
///
/// Only the lower-case form exists: an upper-case letter is an error, never folded, so that two names are equal
/// exactly when their bytes are.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The bare name, without a scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domain's own SPIFFE ID, which has no path: `spiffe://prod.example.org`.
    #[must_use]
    pub fn id_text(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

/// Why a text names no trust domain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidTrustDomain {
    /// Something other than `a-z 0-9 . _ -`.
    #[error("a trust domain has only lower-case letters, digits, '.', '_' and '-'")]
    Character,
    /// Nothing at all.
    #[error("a trust domain is not empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a trust domain has at most {MAX_TRUST_DOMAIN} characters")]
    TooLong,
}

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidTrustDomain::Empty);
        }
        if text.len() > MAX_TRUST_DOMAIN {
            return Err(InvalidTrustDomain::TooLong);
        }
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if text.bytes().all(allowed) { Ok(Self(Arc::from(text))) } else { Err(InvalidTrustDomain::Character) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPIFFE-ID §2.1.
    #[test]
    fn only_the_listed_characters_make_a_trust_domain() {
        for code in 0_u8..=255 {
            let letter = char::from(code);
            let allowed = matches!(letter, 'a'..='z' | '0'..='9' | '.' | '-' | '_');

            assert_eq!(letter.to_string().parse::<TrustDomain>().is_ok(), allowed, "{letter:?}");
        }
    }

    #[test]
    fn an_address_is_a_name_like_any_other_but_ports_and_brackets_are_not() {
        assert!("10.0.0.1".parse::<TrustDomain>().is_ok());
        assert_eq!("[::1]".parse::<TrustDomain>(), Err(InvalidTrustDomain::Character));
        assert_eq!("prod:8443".parse::<TrustDomain>(), Err(InvalidTrustDomain::Character));
    }

    #[test]
    fn the_length_ends_at_255_bytes() {
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
        assert_eq!("a".repeat(256).parse::<TrustDomain>(), Err(InvalidTrustDomain::TooLong));
        assert_eq!("".parse::<TrustDomain>(), Err(InvalidTrustDomain::Empty));
    }

    #[test]
    fn a_domain_knows_its_own_id() {
        let domain: TrustDomain = "postern.test".parse().unwrap();

        assert_eq!(domain.id_text(), "spiffe://postern.test");
    }
}
