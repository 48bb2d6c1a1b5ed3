//! What the front door asks of the agent that stands behind it.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::net::UnixStream;

use crate::admin::{
    AuthorityRequest, Deed, Entitled, Explanation, InstalledStatus, IssuedCertificate, Order, Question,
    Readiness, Reloaded, SignedAuthorityStatus, Status, TokenKeyStatus, UsageWanted, WithdrawOrder,
    Withdrawn,
};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::{CredentialId, WorkloadId};
use crate::issuance::{
    AuthorityRevocation, Change, Changed, InstallOrder, IssuanceError, Run, SignOrder, Wanted,
};
use crate::oauth::{Fault, Form, Minted};
use crate::pki::HierarchyError;
use crate::telemetry::UsageRow;

/// Answers for the agent. What takes time gives a future; the rest answers from what is in memory.
pub trait Steward: Send + Sync + 'static {
    /// Everything about the agent.
    fn status(&self) -> Status;

    /// When each credential on file was used last since the start; those that were not are missing.
    fn credential_uses(&self) -> BTreeMap<CredentialId, Timestamp>;

    /// Whether it can do its work.
    fn readiness(&self) -> Readiness;

    /// What was counted, in the text format of OpenMetrics.
    fn metrics(&self) -> String;

    /// The roots of this host's trust domain, as PEM.
    fn bundle_pem(&self) -> String;

    /// The keys by which services verify assertions, as a JWK Set.
    fn assertion_keys(&self) -> String;

    /// The revocation lists of this host's authorities, as PEM.
    fn crl_pem(&self) -> String;

    /// How a caller would fare.
    ///
    /// # Errors
    /// The question makes no sense here: an unknown listener, a malformed certificate.
    fn explain(&self, question: Question) -> Result<Explanation, StewardError>;

    /// How a request fared, as long as it is remembered.
    ///
    /// # Errors
    /// No such request is remembered.
    fn recall(&self, request_id: String) -> impl Future<Output = Result<Explanation, StewardError>> + Send;

    /// Who may make a request.
    ///
    /// # Errors
    /// There is no such service, or no such request.
    fn who_can(&self, deed: &Deed) -> Result<Entitled, StewardError>;

    /// Who used what, by the hour.
    fn usage(&self, wanted: &UsageWanted) -> Vec<UsageRow>;

    /// Reads configuration and registry again.
    fn reload(&self) -> impl Future<Output = Result<Reloaded, StewardError>> + Send;

    /// Moves an authority from slot to slot.
    fn change_authority(&self, change: Change) -> impl Future<Output = Result<Changed, StewardError>> + Send;

    /// Revokes an authority with all below it.
    fn revoke_authority(
        &self,
        order: AuthorityRevocation,
    ) -> impl Future<Output = Result<Changed, StewardError>> + Send;

    /// Issues a workload's identity anew.
    fn renew(&self, workload: WorkloadId) -> impl Future<Output = Result<(), StewardError>> + Send;

    /// Makes the request for the next issuing authority ready.
    fn request(
        &self,
        wanted: Wanted,
        run: Run,
    ) -> impl Future<Output = Result<AuthorityRequest, StewardError>> + Send;

    /// Signs the issuing authority of another host.
    fn sign(
        &self,
        order: SignOrder,
    ) -> impl Future<Output = Result<SignedAuthorityStatus, StewardError>> + Send;

    /// Installs what was signed elsewhere.
    fn install(
        &self,
        order: InstallOrder,
    ) -> impl Future<Output = Result<InstalledStatus, StewardError>> + Send;

    /// The keys that sign tokens.
    ///
    /// # Errors
    /// No tokens are issued here.
    fn token_keys(&self) -> Result<Vec<TokenKeyStatus>, StewardError>;

    /// Lets no token by this key be taken any more.
    fn kill_token_key(&self, key: String) -> impl Future<Output = Result<(), StewardError>> + Send;

    /// Takes tokens back.
    fn withdraw_tokens(
        &self,
        order: WithdrawOrder,
    ) -> impl Future<Output = Result<Withdrawn, StewardError>> + Send;

    /// A token for the local workload at the other end of `caller`. May block for as long as finding that out takes.
    ///
    /// # Errors
    /// It is none, or its app may not have the token.
    fn mint(&self, caller: &UnixStream, form: &Form) -> Result<Minted, Fault>;

    /// Hands out a certificate with its key.
    fn issue(&self, order: Order) -> impl Future<Output = Result<IssuedCertificate, StewardError>> + Send;
}

/// Why the agent did not do what it was asked, in words for the operator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StewardError {
    /// Somebody would be left behind.
    #[error("{0}")]
    Behind(String),
    /// It does not fit how things stand now.
    #[error("{0}")]
    Conflict(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What it is about is not there.
    #[error("{0}")]
    Unknown(String),
}

impl StewardError {
    /// A failure with all its causes.
    #[must_use]
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(Causes(error).to_string())
    }
}

impl From<IssuanceError> for StewardError {
    fn from(error: IssuanceError) -> Self {
        let text = Causes(&error).to_string();
        match error {
            IssuanceError::NotAcknowledged { .. }
            | IssuanceError::Hierarchy(HierarchyError::StillInUse { .. }) => Self::Behind(text),
            IssuanceError::Expired { .. }
            | IssuanceError::Hierarchy(_)
            | IssuanceError::NoRequest
            | IssuanceError::NotInstalled { .. }
            | IssuanceError::NotSubordinate
            | IssuanceError::Nothing { .. }
            | IssuanceError::Revoked { .. }
            | IssuanceError::RootElsewhere
            | IssuanceError::TooOld { .. } => Self::Conflict(text),
            IssuanceError::Chain(_)
            | IssuanceError::Foreign { .. }
            | IssuanceError::ForeignWorkload { .. }
            | IssuanceError::Lifetimes { .. }
            | IssuanceError::ManyRoots
            | IssuanceError::Refused(_)
            | IssuanceError::Sign(_) => Self::Invalid(text),
            IssuanceError::UnknownAuthority { .. } | IssuanceError::UnknownWorkload(_) => Self::Unknown(text),
            IssuanceError::Issue { .. }
            | IssuanceError::IssueOnce(_)
            | IssuanceError::OtherDomain { .. }
            | IssuanceError::Preflight(_)
            | IssuanceError::Revocations(_)
            | IssuanceError::SecondOpinion(_)
            | IssuanceError::Request(_)
            | IssuanceError::Store(_) => Self::Failed(text),
        }
    }
}
