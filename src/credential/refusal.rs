//! Why a caller's evidence proves nothing: the reasons for "I do not know who you are".

use crate::registry::CredentialKind;

/// Authentication failed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Refusal {
    /// The certificate fits rules of several apps equally well.
    AmbiguousCertificate,
    /// The signed `Content-Digest` cannot be checked.
    BadContentDigest,
    /// The credential is bound to another origin, certificate or time.
    BindingFailed,
    /// The signature is too old, or made in the future.
    ClockSkew,
    /// The body is not the one that was signed.
    ContentDigestMismatch,
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
    /// The signature does not cover what it must.
    InsufficientCoverage,
    /// Malformed, unknown, or wrong secret: one answer for all of them.
    InvalidCredential,
    /// One of our keys stood in the URL, where logs and proxies have seen it.
    KeyInUrl,
    /// Nothing was presented.
    MissingCredential,
    /// The credentials belong to different apps.
    PrincipalMismatch,
    /// No more nonces can be remembered.
    ReplayMemoryFull,
    /// The signature's nonce was used before.
    Replayed,
    /// The signature's own end has passed.
    SignatureExpired,
    /// The token is bound to a certificate that the caller has not shown.
    TokenBindingFailed,
    /// An access token stood in the URL.
    TokenInUrl,
    /// The token was taken back before its end.
    TokenRevoked,
    /// The certificate is valid and belongs to no app.
    UnmappedCertificate,
    /// The token is valid and belongs to no app.
    UnmappedToken,
}

impl Refusal {
    /// All reasons, for metrics and documentation.
    pub const ALL: [Self; 23] = [
        Self::AmbiguousCertificate,
        Self::BadContentDigest,
        Self::BindingFailed,
        Self::ClockSkew,
        Self::ContentDigestMismatch,
        Self::CredentialExpired,
        Self::CredentialNotYetValid,
        Self::CredentialPending,
        Self::CredentialRevoked,
        Self::DuplicateCredential,
        Self::InsufficientCoverage,
        Self::InvalidCredential,
        Self::KeyInUrl,
        Self::MissingCredential,
        Self::PrincipalMismatch,
        Self::ReplayMemoryFull,
        Self::Replayed,
        Self::SignatureExpired,
        Self::TokenBindingFailed,
        Self::TokenInUrl,
        Self::TokenRevoked,
        Self::UnmappedCertificate,
        Self::UnmappedToken,
    ];

    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AmbiguousCertificate => "ambiguous-certificate",
            Self::BadContentDigest => "bad-content-digest",
            Self::BindingFailed => "binding-failed",
            Self::ClockSkew => "clock-skew",
            Self::ContentDigestMismatch => "content-digest-mismatch",
            Self::CredentialExpired => "credential-expired",
            Self::CredentialNotYetValid => "credential-not-yet-valid",
            Self::CredentialPending => "credential-pending",
            Self::CredentialRevoked => "credential-revoked",
            Self::DuplicateCredential => "duplicate-credential",
            Self::InsufficientCoverage => "insufficient-coverage",
            Self::InvalidCredential => "invalid-credential",
            Self::KeyInUrl => "key-in-url",
            Self::MissingCredential => "missing-credential",
            Self::PrincipalMismatch => "principal-mismatch",
            Self::ReplayMemoryFull => "replay-memory-full",
            Self::Replayed => "replayed",
            Self::SignatureExpired => "signature-expired",
            Self::TokenBindingFailed => "token-binding-failed",
            Self::TokenInUrl => "token-in-url",
            Self::TokenRevoked => "token-revoked",
            Self::UnmappedCertificate => "unmapped-certificate",
            Self::UnmappedToken => "unmapped-token",
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadContentDigest
            | Self::ContentDigestMismatch
            | Self::DuplicateCredential
            | Self::KeyInUrl
            | Self::TokenInUrl => 400,
            Self::ClockSkew
            | Self::CredentialExpired
            | Self::CredentialNotYetValid
            | Self::CredentialPending
            | Self::CredentialRevoked
            | Self::InsufficientCoverage
            | Self::InvalidCredential
            | Self::MissingCredential
            | Self::Replayed
            | Self::SignatureExpired
            | Self::TokenBindingFailed
            | Self::TokenRevoked => 401,
            Self::AmbiguousCertificate
            | Self::BindingFailed
            | Self::PrincipalMismatch
            | Self::UnmappedCertificate
            | Self::UnmappedToken => 403,
            Self::ReplayMemoryFull => 503,
        }
    }

    /// One sentence for a human.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::AmbiguousCertificate => "The client certificate matches rules of more than one app.",
            Self::BadContentDigest => {
                "The signed Content-Digest field is malformed, or has neither sha-256 nor sha-512."
            }
            Self::BindingFailed => "The credential is bound to another origin, certificate or time.",
            Self::ClockSkew => "The signature is too old, or was made in the future; compare clocks.",
            Self::ContentDigestMismatch => {
                "The body does not match the signed Content-Digest; the service was not given all of it."
            }
            Self::CredentialExpired => "The credential has expired.",
            Self::CredentialNotYetValid => "The credential is not valid yet.",
            Self::CredentialPending => "The credential has not been approved yet.",
            Self::CredentialRevoked => "The credential has been revoked.",
            Self::DuplicateCredential => "The same kind of credential was presented more than once.",
            Self::InsufficientCoverage => {
                "The signature does not cover all that it must, or lacks `created` or a required nonce."
            }
            Self::InvalidCredential => "The credential is not valid.",
            Self::KeyInUrl => {
                "An API key was sent in the URL; send it in a header and replace it, for it has leaked."
            }
            Self::MissingCredential => "A client certificate or another accepted credential is required.",
            Self::PrincipalMismatch => "The presented credentials belong to different apps.",
            Self::ReplayMemoryFull => {
                "No more nonces can be remembered at the moment; try again with a fresh signature."
            }
            Self::Replayed => "The signature's nonce was used before; sign every request anew.",
            Self::SignatureExpired => "The signature has expired; sign the request anew.",
            Self::TokenBindingFailed => {
                "The token is bound to a certificate other than that of this connection."
            }
            Self::TokenInUrl => {
                "An access token was sent in the URL; send it in the Authorization header and replace it, for it has leaked."
            }
            Self::TokenRevoked => "The token has been revoked.",
            Self::UnmappedCertificate => "The client certificate is valid but belongs to no registered app.",
            Self::UnmappedToken => "The token is valid but belongs to no registered app.",
        }
    }

    /// The authentication scheme for `WWW-Authenticate` (RFC 9110 §11.6.1) of a kind that travels in headers.
    #[must_use]
    pub const fn challenge(kind: CredentialKind) -> Option<&'static str> {
        match kind {
            CredentialKind::ApiKey => Some("ApiKey realm=\"postern\""),
            CredentialKind::ClientKey | CredentialKind::ClientSecret | CredentialKind::Mtls => None,
            CredentialKind::Signature => Some("Signature realm=\"postern\""),
            CredentialKind::Token | CredentialKind::UserToken => Some("Bearer realm=\"postern\""),
        }
    }
}
