//! What a caller presented, unproven.

use crate::credential::token::Bearer;
use crate::credential::{Refusal, Signed};
use crate::identity::Subject;
use crate::registry::{CredentialKind, KindSet};

/// Everything that one request presented about who is calling.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// What the verified client certificate of the connection says.
    pub certificate: Option<&'a Subject>,
    /// What stood in the headers.
    pub headers: HeaderEvidence<'a>,
}

/// Evidence from headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderEvidence<'a> {
    /// The value of the API-key header.
    pub api_key: Option<&'a [u8]>,
    /// The signature over the request.
    pub signature: Option<&'a Signed<'a>>,
    /// The access token, of an app or of a user.
    pub token: Option<Bearer<'a>>,
}

impl<'a> HeaderEvidence<'a> {
    /// Picks the evidence out of a request's fields. `api_key_header` is in lower case.
    ///
    /// # Errors
    /// [`Refusal::DuplicateCredential`] when a kind is presented twice: which one was meant is not ours to choose.
    pub fn from_fields(
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        api_key_header: &str,
    ) -> Result<Self, Refusal> {
        let mut found = Self::default();
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(api_key_header) && found.api_key.replace(value).is_some() {
                return Err(Refusal::DuplicateCredential);
            }
        }
        Ok(found)
    }
}

impl Evidence<'_> {
    /// The kinds that were presented.
    #[must_use]
    pub fn kinds(&self) -> KindSet {
        let certificate = self.certificate.map(|_| CredentialKind::Mtls);
        let signature = self.headers.signature.map(|_| CredentialKind::Signature);
        let token = self.headers.token.map(|token| token.kind());
        let api_key = self.headers.api_key.map(|_| CredentialKind::ApiKey);
        [certificate, signature, token, api_key].into_iter().flatten().collect()
    }
}
