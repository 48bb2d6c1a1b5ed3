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
    /// An access token that stands for an app.
    Token,
    /// An access token that stands for a user, next to what proves the app.
    UserToken,
}

impl CredentialKind {
    /// Every kind that a request can come with, the strongest first.
    pub const ALL: [Self; 5] = [Self::Mtls, Self::Signature, Self::Token, Self::ApiKey, Self::UserToken];

    /// The word for it in config, logs and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::ClientKey => "client_key",
            Self::ClientSecret => "client_secret",
            Self::Mtls => "mtls",
            Self::Signature => "signature",
            Self::Token => "token",
            Self::UserToken => "user_token",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::ApiKey => 1,
            Self::ClientKey => 64,
            Self::ClientSecret => 128,
            Self::Mtls => 2,
            Self::Signature => 4,
            Self::Token => 8,
            Self::UserToken => 16,
        }
    }
}

/// The text is no kind of credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected 'mtls', 'signature', 'token', 'api_key' or 'user_token'")]
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

    /// The same, with `kind`.
    #[must_use]
    pub const fn with(mut self, kind: CredentialKind) -> Self {
        self.insert(kind);
        self
    }

    /// Those that travel in the headers of a request.
    #[must_use]
    pub const fn in_headers(self) -> Self {
        Self(self.0 & !CredentialKind::Mtls.bit())
    }

    /// Whether there is more than one kind in the set.
    #[must_use]
    pub const fn is_several(self) -> bool {
        self.0.count_ones() > 1
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
/// **Invariant:** there is at least one alternative and none of them is empty, so nothing is ever enough by itself. Each has a
/// kind that names an app, which a user's token does not; and none asks for two tokens, for there is one field for them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepts(Box<[KindSet]>);

/// Why alternatives can never be met, or could be met by nobody in particular.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAccepts {
    /// There is no alternative, or one that asks for nothing.
    #[error("expected at least one alternative, each with at least one kind of credential")]
    Empty,
    /// One asks for an app's token and a user's.
    #[error(
        "'token' and 'user_token' exclude each other: both come in `Authorization`, of which there is one"
    )]
    TwoTokens,
    /// One asks for a user's token and nothing else.
    #[error(
        "'user_token' proves a user and no app; add the kind that proves the app, as in [\"api_key\", \"user_token\"]"
    )]
    UserAlone,
}

impl Accepts {
    /// One of `alternatives` is enough.
    ///
    /// # Errors
    /// There is no alternative, or one of them makes no sense.
    pub fn new(alternatives: impl IntoIterator<Item = KindSet>) -> Result<Self, InvalidAccepts> {
        let alternatives: Box<[KindSet]> = alternatives.into_iter().collect();
        if alternatives.is_empty() || alternatives.iter().any(|set| set.is_empty()) {
            return Err(InvalidAccepts::Empty);
        }
        let user = KindSet::EMPTY.with(CredentialKind::UserToken);
        if alternatives.contains(&user) {
            return Err(InvalidAccepts::UserAlone);
        }
        if alternatives.iter().any(|set| set.is_superset(user.with(CredentialKind::Token))) {
            return Err(InvalidAccepts::TwoTokens);
        }
        Ok(Self(alternatives))
    }

    /// Whether what was presented, and proven, contains one whole alternative.
    #[must_use]
    pub fn satisfied_by(&self, presented: KindSet) -> bool {
        self.0.iter().any(|&alternative| presented.is_superset(alternative))
    }

    /// Whether one alternative asks for all of `kinds` together.
    #[must_use]
    pub fn asks_for(&self, kinds: KindSet) -> bool {
        self.0.iter().any(|alternative| alternative.is_superset(kinds))
    }

    /// Whether every alternative is met by whoever has proven `kinds` and nothing else.
    #[must_use]
    pub fn only_ask_for(&self, kinds: KindSet) -> bool {
        self.0.iter().all(|&alternative| kinds.is_superset(alternative))
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
    use CredentialKind::{ApiKey, Mtls, Token, UserToken};

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
        assert_eq!(Accepts::new([]), Err(InvalidAccepts::Empty));
        assert_eq!(Accepts::new([set(&[Mtls]), KindSet::EMPTY]), Err(InvalidAccepts::Empty));
        assert!(!Accepts::new([set(&[Mtls])]).unwrap().satisfied_by(KindSet::EMPTY));
    }

    #[test]
    fn a_user_is_a_second_factor_and_never_the_only_one() {
        let users = |kinds: &[CredentialKind]| Accepts::new([set(&[Mtls]), set(kinds)]);

        assert!(users(&[ApiKey, UserToken]).is_ok_and(|both| !both.satisfied_by(set(&[ApiKey]))));
        assert_eq!(users(&[UserToken]), Err(InvalidAccepts::UserAlone));
        assert_eq!(users(&[Token, UserToken]), Err(InvalidAccepts::TwoTokens));
    }
}
