//! Tries a CA out before anybody hears of it: throwaway leaves, judged by our own verifier with the bundle as it will be.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::InvalidSpiffeId;
use crate::pki::authority::{Authority, AuthorityError, AuthorityPlan, Level};
use crate::pki::bundle::BundleSet;
use crate::pki::hierarchy::{Hierarchy, Slot};
use crate::pki::issue::{IssueError, issue};
use crate::pki::key::LocalKeys;
use crate::pki::profile::Profile;
use crate::pki::roots::InvalidRoot;
use crate::pki::verifier::{Usage, Verifier, VerifyError};

/// Why an authority must not be used.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// A root that cannot sign an issuing authority.
    #[error("the new authority {id} cannot sign one below it")]
    Authority {
        /// Which one.
        id: AuthorityId,
        /// Why not.
        #[source]
        source: AuthorityError,
    },
    /// A bundle that nobody could use.
    #[error("the bundle would be of no use")]
    Bundle(#[from] InvalidRoot),
    /// The name of the throwaway leaf cannot be formed.
    #[error("a trial certificate cannot be named")]
    Name(#[from] InvalidSpiffeId),
    /// It cannot sign a leaf.
    #[error("the new authority {id} cannot sign a leaf")]
    Issue {
        /// Which one.
        id: AuthorityId,
        /// Why not.
        #[source]
        source: IssueError,
    },
    /// Its leaf would not be believed.
    #[error("a leaf of the new authority {id} would not be believed")]
    Verify {
        /// Which one.
        id: AuthorityId,
        /// Why not.
        #[source]
        source: VerifyError,
    },
}

/// A throwaway leaf that our own verifier believes, for others to judge as well.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Whose leaf it is; that of a root stands below a throwaway issuing authority.
    pub authority: AuthorityId,
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Whether everything that signs in `next` and did not in `before`, or is new there, signs leaves that will be believed. Each
/// was tried out with one, which is given back.
///
/// # Errors
/// The first authority that does not, and why.
pub fn preflight(
    before: Option<&Hierarchy>,
    next: &Hierarchy,
    now: Timestamp,
) -> Result<Vec<Trial>, PreflightError> {
    let verifier = Verifier::new(Arc::new(BundleSet::from_iter([next.bundle()])), Arc::default())?;
    let known = |slot: Slot, authority: &Authority| {
        before.is_some_and(|before| {
            before
                .iter()
                .any(|(was, found)| found.id() == authority.id() && (was == slot || slot != Slot::Active))
        })
    };
    let new = next.iter().filter(|(slot, authority)| !known(*slot, authority));
    new.filter_map(|(_, authority)| try_out(next, authority, &verifier, now).transpose()).collect()
}

/// Nothing comes of a root that signs elsewhere: it is tried out by the issuing authority under it.
fn try_out(
    next: &Hierarchy,
    authority: &Authority,
    verifier: &Verifier,
    now: Timestamp,
) -> Result<Option<Trial>, PreflightError> {
    let id = || authority.id().clone();
    let Some(key) = authority.key() else { return Ok(None) };
    let algorithm = key.algorithm();
    let profile = Profile {
        spiffe_id: format!("{}/throwaway", next.domain().id_text()).parse()?,
        dns: Vec::new(),
        ttl: SPAN,
        backdate: Duration::ZERO,
        algorithm,
    };
    let below;
    let signer = match authority.level() {
        Level::Issuing => authority,
        Level::Root => {
            let plan = AuthorityPlan { keys: &LocalKeys, algorithm, ttl: SPAN, backdate: Duration::ZERO };
            below = Authority::make_issuing(authority, next.domain(), &plan, now)
                .map_err(|source| PreflightError::Authority { id: id(), source })?;
            &below
        }
    };
    let svid = issue(signer, &profile, now).map_err(|source| PreflightError::Issue { id: id(), source })?;
    for usage in [Usage::Client, Usage::Server] {
        verifier
            .verify(&svid.chain, usage, now)
            .map_err(|source| PreflightError::Verify { id: id(), source })?;
    }
    Ok(Some(Trial { authority: id(), chain: svid.chain }))
}

/// Long enough to be valid now in whole seconds.
const SPAN: Duration = Duration::from_secs(2);
