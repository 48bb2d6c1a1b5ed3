//! Who a caller is, once it is proven.

use std::sync::Arc;

use crate::credential::token::Token;
use crate::registry::{App, Credential, CredentialKind, KindSet};

/// A proven caller: the app, and the credentials that proved it.
#[derive(Clone, Debug)]
pub struct Principal<'s> {
    pub(super) certificate: Option<&'s Credential>,
    pub(super) signature: Option<&'s Credential>,
    /// What the token of an app stands for.
    pub(super) of_token: Option<&'s Credential>,
    pub(super) api_key: Option<&'s Credential>,
    pub(super) token: Option<Arc<Token>>,
    pub(super) strongest: (CredentialKind, &'s Credential),
}

impl<'s> Principal<'s> {
    /// The app that calls.
    #[must_use]
    pub fn app(&self) -> &'s Arc<App> {
        &self.strongest.1.app
    }

    /// The strongest credential that was used: a certificate before a signature before a token before a key. For a token of
    /// our own it is the credential by which the token was asked for.
    #[must_use]
    pub const fn credential(&self) -> &'s Credential {
        self.strongest.1
    }

    /// How the strongest credential was used, which for a token of our own is not its kind.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.strongest.0
    }

    /// The access token that was proven, of an app or of a user.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// All credentials that were proven, the strongest first.
    pub fn credentials(&self) -> impl Iterator<Item = &'s Credential> {
        self.proven().into_iter().flatten()
    }

    /// The same, with a gap for each kind that was not presented.
    #[must_use]
    pub const fn proven(&self) -> [Option<&'s Credential>; 4] {
        [self.certificate, self.signature, self.of_token, self.api_key]
    }

    /// Whether all that was proven lets `scope` through, if a product conveys it: each credential may be confined to less, and a
    /// token, of an app or of a user, lets through what it names.
    #[must_use]
    pub fn lets_through(&self, scope: &str) -> bool {
        let named = |token: &Arc<Token>| token.scopes().iter().any(|one| one == scope);
        self.credentials().all(|credential| credential.lets_through(scope))
            && self.token.as_ref().is_none_or(named)
    }

    /// A claim of the access token that was proven, of an app or of a user.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&serde_json::Value> {
        self.token.as_ref()?.claims().all.get(name)
    }

    /// All kinds of credential that were proven.
    #[must_use]
    pub fn kinds(&self) -> KindSet {
        let certificate = self.certificate.map(|_| CredentialKind::Mtls);
        let signature = self.signature.map(|_| CredentialKind::Signature);
        let api_key = self.api_key.map(|_| CredentialKind::ApiKey);
        let token = self.token.as_ref().map(|token| token.kind());
        [certificate, signature, token, api_key].into_iter().flatten().collect()
    }
}
