//! Requests for issuing authorities and what is signed for them, as they travel over the admin socket: PEM in JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::StewardError;
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::issuance::{InstallOrder, Installed, Reach, ReadyRequest, Run, SignOrder, Signed, Wanted};
use crate::pki::SignedChain;
use crate::store::pem::{self, PemError};

/// Asks for the request of the next issuing authority.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct RequestOrder {
    /// Whether another key is wanted than the one that waits.
    #[serde(default)]
    anew: bool,
    #[serde(default)]
    dry_run: bool,
}

impl RequestOrder {
    pub(super) fn of(wanted: Wanted, run: Run) -> Self {
        Self { anew: wanted == Wanted::Anew, dry_run: run == Run::Rehearsal }
    }

    pub(super) const fn terms(&self) -> (Wanted, Run) {
        (if self.anew { Wanted::Anew } else { Wanted::Same }, run(self.dry_run))
    }
}

/// The request for the next issuing authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorityRequest {
    /// PKCS#10 as PEM; none if one would have been made, but was only rehearsed.
    pub request_pem: Option<String>,
    /// Whether its key was made just now.
    pub is_new: bool,
}

impl From<ReadyRequest> for AuthorityRequest {
    fn from(ReadyRequest { request, is_new }: ReadyRequest) -> Self {
        Self { request_pem: request.map(|request| pem::certificate_request_to_pem(&request)), is_new }
    }
}

/// A request that is to be signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct SignatureOrder {
    request_pem: String,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

impl SignatureOrder {
    pub(super) fn of(order: &SignOrder) -> Self {
        Self {
            request_pem: pem::certificate_request_to_pem(&order.request),
            ttl_seconds: order.ttl.map(|ttl| ttl.as_secs()),
            dry_run: order.run == Run::Rehearsal,
        }
    }

    pub(super) fn order(&self) -> Result<SignOrder, StewardError> {
        Ok(SignOrder {
            request: pem::certificate_request(self.request_pem.as_bytes()).map_err(invalid("the request"))?,
            ttl: self.ttl_seconds.map(Duration::from_secs),
            run: run(self.dry_run),
        })
    }
}

/// An issuing certificate for another host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignedAuthorityStatus {
    /// The certificate, then the root, as PEM.
    pub chain_pem: String,
    /// Its serial number in lower-case hexadecimal.
    pub serial: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

impl From<Signed> for SignedAuthorityStatus {
    fn from(Signed { chain, serial, not_after }: Signed) -> Self {
        Self { chain_pem: chain.iter().map(pem::certificate_to_pem).collect(), serial, not_after }
    }
}

/// What is to be installed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct InstallationOrder {
    chain_pem: String,
    #[serde(default)]
    roots_pem: Option<String>,
    #[serde(default)]
    reach: ReachWord,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum ReachWord {
    #[default]
    Active,
    Prepared,
    Root,
}

impl InstallationOrder {
    pub(super) fn of(order: &InstallOrder) -> Self {
        let text = |certificates: &[_]| certificates.iter().map(pem::certificate_to_pem).collect::<String>();
        Self {
            chain_pem: text(&order.chain.certificates),
            roots_pem: Some(text(&order.chain.roots)).filter(|roots| !roots.is_empty()),
            reach: match order.reach {
                Reach::Active => ReachWord::Active,
                Reach::Prepared => ReachWord::Prepared,
                Reach::Root => ReachWord::Root,
            },
            dry_run: order.run == Run::Rehearsal,
        }
    }

    pub(super) fn order(&self) -> Result<InstallOrder, StewardError> {
        let certificates = pem::certificates(self.chain_pem.as_bytes()).map_err(invalid("the chain"))?;
        let roots = self.roots_pem.as_ref().map(|roots| pem::certificates(roots.as_bytes()));
        let roots = roots.transpose().map_err(invalid("the roots"))?.unwrap_or_default();
        Ok(InstallOrder {
            chain: SignedChain { certificates, roots },
            reach: match self.reach {
                ReachWord::Active => Reach::Active,
                ReachWord::Prepared => Reach::Prepared,
                ReachWord::Root => Reach::Root,
            },
            run: run(self.dry_run),
        })
    }
}

/// Where something installed stands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstalledStatus {
    /// The issuing authority, or the root if it was only about that.
    pub id: AuthorityId,
    /// `root` or `issuing`.
    pub level: String,
    /// `prepared`, `active` or `retired`.
    pub slot: String,
    /// Who has to know it before it signs, one phrase each.
    pub waits_for: Vec<String>,
}

impl From<Installed> for InstalledStatus {
    fn from(Installed { id, level, slot, waits_for }: Installed) -> Self {
        Self { id, level: level.as_str().to_owned(), slot: slot.to_string(), waits_for }
    }
}

const fn run(dry_run: bool) -> Run {
    if dry_run { Run::Rehearsal } else { Run::Real }
}

fn invalid(what: &'static str) -> impl FnOnce(PemError) -> StewardError {
    move |error| StewardError::Invalid(format!("{what} cannot be read: {}", Causes(&error)))
}
