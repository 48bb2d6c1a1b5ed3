//! Why a caller's evidence proves nothing: the reasons for "I do not know who you are".

use crate::registry::CredentialKind;

/// Authentication failed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Refusal {
    /// The certificate fits rules of several apps equally well.
    AmbiguousCertificate,
    /// The credential's end has passed.
    CredentialExpired,
    /// The credential's beginning lies ahead.
    CredentialNotYetValid,
    /// The credential waits for approval.
    CredentialPending,
    /// The credential was revoked.
    CredentialRevoked,
    /// One kind of credential was presented twice.
    DuplicateCredential,
    /// Malformed, unknown, or wrong secret: one answer for all of them.
    InvalidCredential,
    /// One of our keys stood in the URL, where logs and proxies have seen it.
    KeyInUrl,
    /// Nothing was presented.
    MissingCredential,
    /// The credentials belong to different apps.
    PrincipalMismatch,
    /// The certificate is valid and belongs to no app.
    UnmappedCertificate,
}

impl Refusal {
    /// All reasons, for metrics and documentation.
    pub const ALL: [Self; 11] = [
        Self::AmbiguousCertificate,
        Self::CredentialExpired,
        Self::CredentialNotYetValid,
        Self::CredentialPending,
        Self::CredentialRevoked,
        Self::DuplicateCredential,
        Self::InvalidCredential,
        Self::KeyInUrl,
        Self::MissingCredential,
        Self::PrincipalMismatch,
        Self::UnmappedCertificate,
    ];

    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AmbiguousCertificate => "ambiguous-certificate",
            Self::CredentialExpired => "credential-expired",
            Self::CredentialNotYetValid => "credential-not-yet-valid",
            Self::CredentialPending => "credential-pending",
            Self::CredentialRevoked => "credential-revoked",
            Self::DuplicateCredential => "duplicate-credential",
            Self::InvalidCredential => "invalid-credential",
            Self::KeyInUrl => "key-in-url",
            Self::MissingCredential => "missing-credential",
            Self::PrincipalMismatch => "principal-mismatch",
            Self::UnmappedCertificate => "unmapped-certificate",
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::DuplicateCredential | Self::KeyInUrl => 400,
            Self::CredentialExpired
            | Self::CredentialNotYetValid
            | Self::CredentialPending
            | Self::CredentialRevoked
            | Self::InvalidCredential
            | Self::MissingCredential => 401,
            Self::AmbiguousCertificate | Self::PrincipalMismatch | Self::UnmappedCertificate => 403,
        }
    }

    /// One sentence for a human.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::AmbiguousCertificate => "The client certificate matches rules of more than one app.",
            Self::CredentialExpired => "The credential has expired.",
            Self::CredentialNotYetValid => "The credential is not valid yet.",
            Self::CredentialPending => "The credential has not been approved yet.",
            Self::CredentialRevoked => "The credential has been revoked.",
            Self::DuplicateCredential => "The same kind of credential was presented more than once.",
            Self::InvalidCredential => "The credential is not valid.",
            Self::KeyInUrl => {
                "An API key was sent in the URL; send it in a header and replace it, for it has leaked."
            }
            Self::MissingCredential => "A client certificate or another accepted credential is required.",
            Self::PrincipalMismatch => "The presented credentials belong to different apps.",
            Self::UnmappedCertificate => "The client certificate is valid but belongs to no registered app.",
        }
    }

    /// The authentication scheme for `WWW-Authenticate` (RFC 9110 §11.6.1) of a kind that travels in headers.
    #[must_use]
    pub const fn challenge(kind: CredentialKind) -> Option<&'static str> {
        match kind {
            CredentialKind::ApiKey => Some("ApiKey realm=\"postern\""),
            CredentialKind::Mtls => None,
        }
    }
}
