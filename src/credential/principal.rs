//! Who a caller is, once it is proven.

use std::sync::Arc;

use crate::registry::{App, Credential, CredentialKind, KindSet};

/// A proven caller: the app, and the credentials that proved it.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'s> {
    pub(super) certificate: Option<&'s Credential>,
    pub(super) signature: Option<&'s Credential>,
    pub(super) api_key: Option<&'s Credential>,
    pub(super) strongest: &'s Credential,
}

impl<'s> Principal<'s> {
    /// The app that calls.
    #[must_use]
    pub fn app(&self) -> &'s Arc<App> {
        &self.strongest.app
    }

    /// The strongest credential that was used: a certificate before a signature before a key.
    #[must_use]
    pub const fn credential(&self) -> &'s Credential {
        self.strongest
    }

    /// All credentials that were proven, the strongest first.
    pub fn credentials(&self) -> impl Iterator<Item = &'s Credential> {
        [self.certificate, self.signature, self.api_key].into_iter().flatten()
    }

    /// Whether all that was proven lets `scope` through, if a product conveys it: each credential may be confined to less.
    #[must_use]
    pub fn lets_through(&self, scope: &str) -> bool {
        self.credentials().all(|credential| credential.lets_through(scope))
    }

    /// A claim of the access token that was proven. The kinds of credential that there are carry none.
    #[must_use]
    pub const fn claim(&self, _name: &str) -> Option<&'s serde_json::Value> {
        None
    }

    /// All kinds of credential that were proven.
    #[must_use]
    pub fn kinds(&self) -> KindSet {
        let certificate = self.certificate.map(|_| CredentialKind::Mtls);
        let signature = self.signature.map(|_| CredentialKind::Signature);
        let api_key = self.api_key.map(|_| CredentialKind::ApiKey);
        [certificate, signature, api_key].into_iter().flatten().collect()
    }
}
