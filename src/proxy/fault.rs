//! Apigee's way of saying no, for callers that were written for it: its error codes, statuses and sentences.
//!
//! The body is `{"fault":{"faultstring":…,"detail":{"errorcode":…}}}`, as `application/json`. Where Apigee knows no such
//! reason, the error code is ours behind `postern.`, with our status and our sentence.

use crate::authz::Denial;
use crate::credential::Refusal;

/// The JSON type that Apigee's faults are sent as.
pub(super) const FAULT: &str = "application/json";

/// What takes the place of a code of ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Fault {
    /// The status, where it is another one.
    pub(super) status: Option<u16>,
    /// Apigee's name of the reason, where it knows it.
    pub(super) errorcode: Option<&'static str>,
    /// Apigee's sentence, where it is known.
    pub(super) faultstring: Option<&'static str>,
}

impl Fault {
    /// What Apigee says in place of `code`.
    pub(super) fn of(code: &str) -> Self {
        let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code);
        let denial = || Denial::ALL.into_iter().find(|denial| denial.code() == code);
        refusal.map(Self::of_refusal).or_else(|| denial().map(Self::of_denial)).unwrap_or_else(
            || match code {
                "bad-gateway" => Self::new(
                    502,
                    "messaging.adaptors.http.flow.UnexpectedEOFAtTarget",
                    "Unexpected EOF at target",
                ),
                "no-identity" | "upstream-unavailable" => SERVICE_UNAVAILABLE,
                "upstream-timeout" => {
                    Self::new(504, "messaging.adaptors.http.flow.GatewayTimeout", "Gateway Timeout")
                }
                _ => Self::default(),
            },
        )
    }

    const fn new(status: u16, errorcode: &'static str, faultstring: &'static str) -> Self {
        Self { status: Some(status), errorcode: Some(errorcode), faultstring: Some(faultstring) }
    }

    /// A reason that Apigee names, with a sentence of ours.
    const fn named(status: u16, errorcode: &'static str) -> Self {
        Self { status: Some(status), errorcode: Some(errorcode), faultstring: None }
    }

    const fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::CredentialExpired => Self::named(401, "keymanagement.service.consumer_key_expired"),
            Refusal::CredentialNotYetValid | Refusal::CredentialPending | Refusal::CredentialRevoked => {
                Self::named(401, "oauth.v2.ApiKeyNotApproved")
            }
            Refusal::InvalidCredential => Self::new(401, "oauth.v2.InvalidApiKey", "Invalid ApiKey"),
            Refusal::MissingCredential => {
                Self::new(401, "steps.oauth.v2.FailedToResolveAPIKey", "Failed to resolve API Key variable")
            }
            Refusal::AmbiguousCertificate
            | Refusal::BadContentDigest
            | Refusal::BindingFailed
            | Refusal::ClockSkew
            | Refusal::ContentDigestMismatch
            | Refusal::DuplicateCredential
            | Refusal::InsufficientCoverage
            | Refusal::KeyInUrl
            | Refusal::PrincipalMismatch
            | Refusal::ReplayMemoryFull
            | Refusal::Replayed
            | Refusal::SignatureExpired
            | Refusal::TokenBindingFailed
            | Refusal::TokenInUrl
            | Refusal::TokenRevoked
            | Refusal::UnmappedCertificate
            | Refusal::UnmappedToken => Self { status: None, errorcode: None, faultstring: None },
        }
    }

    const fn of_denial(denial: Denial) -> Self {
        match denial {
            Denial::AppRevoked => Self::named(401, "keymanagement.service.invalid_client-app_not_approved"),
            Denial::DeveloperInactive => Self::new(
                401,
                "keymanagement.service.DeveloperStatusNotActive",
                "Developer Status is not Active",
            ),
            Denial::GrantExpired
            | Denial::GrantPending
            | Denial::GrantRevoked
            | Denial::NotEntitled
            | Denial::WrongEnvironment => {
                Self::new(401, "oauth.v2.InvalidApiKeyForGivenResource", "Invalid ApiKey for given resource")
            }
            Denial::Overloaded => SERVICE_UNAVAILABLE,
            // Both blanks are Apigee's.
            Denial::QuotaExceeded => Self::new(
                429,
                "policies.ratelimit.QuotaViolation",
                "Rate limit quota violation. Quota limit  exceeded. Identifier : _default",
            ),
            Denial::SpikeArrested => {
                Self::new(429, "policies.ratelimit.SpikeArrestViolation", "Spike arrest violation.")
            }
            Denial::AuthMethodNotAllowed
            | Denial::ConditionFailed
            | Denial::InsufficientScope
            | Denial::QuotaUnavailable
            | Denial::StepUpRequired => Self { status: None, errorcode: None, faultstring: None },
        }
    }
}

const SERVICE_UNAVAILABLE: Fault = Fault::new(
    503,
    "messaging.adaptors.http.flow.ServiceUnavailable",
    "The Service is temporarily unavailable",
);
