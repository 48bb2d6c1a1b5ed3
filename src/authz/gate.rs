//! The one way in: evidence → principal → decision, for the proxy and for `explain` alike.

use crate::authz::{Ask, Decision, Denial, Door, Permit, decide};
use crate::clock::Timestamp;
use crate::credential::{Evidence, Peppers, Principal, Refusal, authenticate};
use crate::registry::Snapshot;

/// The gate's no, with the principal as far as it was known.
#[derive(Clone, Copy, Debug)]
pub enum No<'s> {
    /// A known caller that may not.
    Denied {
        /// Why not.
        denial: Denial,
        /// Who asked.
        principal: Principal<'s>,
    },
    /// Nobody knows who calls.
    Refused(Refusal),
}

impl No<'_> {
    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Denied { denial, .. } => denial.code(),
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Denied { denial, .. } => denial.status(),
            Self::Refused(refusal) => refusal.status(),
        }
    }

    /// One sentence for a human.
    #[must_use]
    pub const fn sentence(&self) -> &'static str {
        match self {
            Self::Denied { denial, .. } => denial.sentence(),
            Self::Refused(refusal) => refusal.sentence(),
        }
    }
}

/// Proves the caller and decides on what it asks.
///
/// # Errors
/// Who or why not.
pub fn check<'s>(
    evidence: &Evidence<'_>,
    ask: &Ask<'_>,
    door: Door<'_>,
    registry: &'s Snapshot,
    peppers: &Peppers,
    now: Timestamp,
) -> Result<Permit<'s>, No<'s>> {
    let principal = authenticate(evidence, registry, peppers, now).map_err(No::Refused)?;
    match decide(&principal, ask, door, now) {
        Decision::Allow(terms) => Ok(Permit::issue(terms)),
        Decision::Deny(denial) => Err(No::Denied { denial, principal }),
    }
}
