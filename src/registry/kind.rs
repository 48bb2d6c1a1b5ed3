//! The kinds of credential, and which combinations of them are enough.

use std::fmt;
use std::str::FromStr;

/// A kind of credential.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CredentialKind {
    /// A shared secret in a header.
    ApiKey,
    /// A key that signs for a client at the token endpoint (RFC 7523). No request comes with it.
    ClientKey,
    /// A client's secret at the token endpoint (RFC 6749 §2.3.1). No request comes with it.
    ClientSecret,
    /// A client certificate.
    Mtls,
    /// A signature over the request (RFC 9421).
    Signature,
}

impl CredentialKind {
    /// Every kind that a request can come with, the strongest first.
    pub const ALL: [Self; 3] = [Self::Mtls, Self::Signature, Self::ApiKey];

    /// The word for it in config, logs and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::ClientKey => "client_key",
            Self::ClientSecret => "client_secret",
            Self::Mtls => "mtls",
            Self::Signature => "signature",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::ApiKey => 1,
            Self::ClientKey => 64,
            Self::ClientSecret => 128,
            Self::Mtls => 2,
            Self::Signature => 4,
        }
    }
}

/// The text is no kind of credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected 'mtls', 'signature' or 'api_key'")]
pub struct UnknownKind;

impl FromStr for CredentialKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownKind)
    }
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KindSet(u8);

impl KindSet {
    /// No kind at all.
    pub const EMPTY: Self = Self(0);

    /// Adds a kind.
    pub const fn insert(&mut self, kind: CredentialKind) {
        self.0 |= kind.bit();
    }

    /// Whether `kind` is in the set.
    #[must_use]
    pub const fn contains(self, kind: CredentialKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether every kind in `other` is in this set too.
    #[must_use]
    pub const fn is_superset(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is no kind in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = CredentialKind> {
        CredentialKind::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<CredentialKind> for KindSet {
    fn from_iter<I: IntoIterator<Item = CredentialKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::EMPTY, |mut set, kind| {
            set.insert(kind);
            set
        })
    }
}

impl fmt::Display for KindSet {
    /// `mtls+api_key`; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (position, kind) in self.iter().enumerate() {
            if position > 0 {
                f.write_str("+")?;
            }
            f.write_str(kind.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KindSet({self})")
    }
}

/// Which credentials are enough: one of several alternatives, each of which asks for all of its kinds.
///
/// **Invariant:** there is at least one alternative and none of them is empty, so nothing is ever enough by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepts(Box<[KindSet]>);

/// There is no alternative, or one that asks for nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected at least one alternative, each with at least one kind of credential")]
pub struct EmptyAccepts;

impl Accepts {
    /// One of `alternatives` is enough.
    ///
    /// # Errors
    /// There is no alternative, or one of them is empty.
    pub fn new(alternatives: impl IntoIterator<Item = KindSet>) -> Result<Self, EmptyAccepts> {
        let alternatives: Box<[KindSet]> = alternatives.into_iter().collect();
        if alternatives.is_empty() || alternatives.iter().any(|set| set.is_empty()) {
            return Err(EmptyAccepts);
        }
        Ok(Self(alternatives))
    }

    /// Whether what was presented, and proven, contains one whole alternative.
    #[must_use]
    pub fn satisfied_by(&self, presented: KindSet) -> bool {
        self.0.iter().any(|&alternative| presented.is_superset(alternative))
    }

    /// The alternatives, as they were written.
    pub fn iter(&self) -> impl Iterator<Item = KindSet> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Accepts {
    /// `mtls or mtls+api_key`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, alternative) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(" or ")?;
            }
            write!(f, "{alternative}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use CredentialKind::{ApiKey, Mtls};

    use super::*;

    fn set(kinds: &[CredentialKind]) -> KindSet {
        kinds.iter().copied().collect()
    }

    #[test]
    fn kinds_read_as_they_print() {
        for kind in CredentialKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("API_KEY".parse::<CredentialKind>(), Err(UnknownKind));
        assert_eq!(set(&[ApiKey, Mtls]).to_string(), "mtls+api_key");
        assert_eq!(KindSet::EMPTY.to_string(), "none");
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let both = set(&[ApiKey, Mtls]);

        assert!(both.is_superset(set(&[Mtls])) && !set(&[Mtls]).is_superset(both));
        assert!(set(&[Mtls]).contains(Mtls) && !set(&[Mtls]).contains(ApiKey));
        assert_eq!(both.iter().collect::<Vec<_>>(), [Mtls, ApiKey]);
    }

    #[test]
    fn one_alternative_must_be_met_in_full() {
        let both = Accepts::new([set(&[Mtls, ApiKey])]).unwrap();
        let either = Accepts::new([set(&[Mtls]), set(&[ApiKey])]).unwrap();

        assert!(both.satisfied_by(set(&[ApiKey, Mtls])));
        assert!(!both.satisfied_by(set(&[Mtls])) && !both.satisfied_by(set(&[ApiKey])));
        assert!(either.satisfied_by(set(&[Mtls])) && either.satisfied_by(set(&[ApiKey])));
        assert_eq!(either.to_string(), "mtls or api_key");
    }

    #[test]
    fn nothing_is_never_enough() {
        assert_eq!(Accepts::new([]), Err(EmptyAccepts));
        assert_eq!(Accepts::new([set(&[Mtls]), KindSet::EMPTY]), Err(EmptyAccepts));
        assert!(!Accepts::new([set(&[Mtls])]).unwrap().satisfied_by(KindSet::EMPTY));
    }
}
