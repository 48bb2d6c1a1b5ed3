//! What of a caller bears on a right: all of it, once it is proven; or what can be supposed of one that nobody has seen.

use crate::credential::Principal;
use crate::registry::{App, Condition, Credential, CredentialKind, Facts, KindSet, PolicyPath};

/// Somebody whose rights are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claimant<'p, 's> {
    /// A caller.
    Proven(&'p Principal<'s>),
    /// Nobody yet.
    Supposed(Supposed<'s>),
}

/// A caller that nobody has seen. What its token would say is not known, so it is taken to say what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Supposed<'s> {
    /// The app that would call.
    pub app: &'s App,
    /// The kinds of credential that it would present.
    pub kinds: KindSet,
    /// One of these credentials, where it is known which.
    pub credential: Option<&'s Credential>,
}

impl Supposed<'_> {
    /// Whether there would be a token, of which nobody knows what it says.
    #[must_use]
    pub fn has_token(self) -> bool {
        self.kinds.contains(CredentialKind::Token) || self.kinds.contains(CredentialKind::UserToken)
    }
}

impl<'s> Claimant<'_, 's> {
    pub(super) fn kinds(self) -> KindSet {
        match self {
            Self::Proven(principal) => principal.kinds(),
            Self::Supposed(supposed) => supposed.kinds,
        }
    }

    /// Whose rights they are.
    pub(super) fn app(self) -> &'s App {
        match self {
            Self::Proven(principal) => principal.app(),
            Self::Supposed(supposed) => supposed.app,
        }
    }

    /// The credentials that are known.
    pub(super) fn credentials(self) -> impl Iterator<Item = &'s Credential> {
        let (proven, supposed) = match self {
            Self::Proven(principal) => (Some(principal.credentials()), None),
            Self::Supposed(supposed) => (None, supposed.credential),
        };
        proven.into_iter().flatten().chain(supposed)
    }

    /// Whether all that is known lets `scope` through.
    pub(super) fn lets_through(self, scope: &str) -> bool {
        match self {
            Self::Proven(principal) => principal.lets_through(scope),
            Self::Supposed(supposed) => {
                supposed.credential.is_none_or(|credential| credential.lets_through(scope))
            }
        }
    }

    /// Whether `condition` is met for a request with this path; for a token that nobody has seen, whether it can be.
    pub(super) fn meets(self, condition: &Condition, path: Option<&PolicyPath<'_>>) -> bool {
        match self {
            Self::Proven(principal) => condition.is_met(Facts {
                path,
                attributes: &principal.app().attributes,
                claim: &|name| principal.claim(name),
            }),
            Self::Supposed(supposed) => {
                let facts = Facts { path, attributes: &supposed.app.attributes, claim: &|_| None };
                if supposed.has_token() { condition.can_be_met(facts) } else { condition.is_met(facts) }
            }
        }
    }
}
