//! The one way in: evidence → principal → decision → charge, for the proxy and for `explain` alike.

use crate::authz::decide::{Hindrance, Obstacle, consider};
use crate::authz::{Ask, Denial, Door, Permit, Shortage, Terms, Toll};
use crate::clock::Timestamp;
use crate::credential::{Evidence, Peppers, Principal, Refusal, authenticate};
use crate::registry::{Operation, Snapshot};

/// The gate's no, with the principal as far as it was known.
#[derive(Clone, Debug)]
pub enum No<'s> {
    /// A known caller that may not.
    Denied {
        /// Why not.
        denial: Denial,
        /// Who asked.
        principal: Principal<'s>,
        /// The operation that came closest, if any contains what is asked.
        operation: Option<&'s Operation>,
    },
    /// A known caller that may, but not now.
    Limited {
        /// What it has too little of.
        shortage: Box<Shortage<'s>>,
        /// What it would have been granted on.
        terms: Terms<'s>,
    },
    /// Nobody knows who calls.
    Refused(Refusal),
}

impl No<'_> {
    /// The stable code that callers, logs and metrics see.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied { denial, .. } => denial.code(),
            Self::Limited { shortage, .. } => shortage.denial.code(),
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// The HTTP status to answer with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Denied { denial, .. } => denial.status(),
            Self::Limited { shortage, .. } => shortage.denial.status(),
            Self::Refused(refusal) => refusal.status(),
        }
    }

    /// One sentence for a human.
    #[must_use]
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::Denied { denial, .. } => denial.sentence(),
            Self::Limited { shortage, .. } => shortage.denial.sentence(),
            Self::Refused(refusal) => refusal.sentence(),
        }
    }
}

/// Proves the caller, decides on what it asks, and takes the toll for it.
///
/// # Errors
/// Who or why not; nothing has been charged then.
pub fn check<'s>(
    evidence: &Evidence<'_>,
    ask: &Ask<'_>,
    door: Door<'_>,
    registry: &'s Snapshot,
    peppers: &Peppers,
    toll: &Toll<'_>,
    now: Timestamp,
) -> Result<Permit<'s>, No<'s>> {
    let principal = authenticate(evidence, registry, peppers, now).map_err(No::Refused)?;
    // Any of several rights will do, so what stands in the way is the one that comes back first.
    let mut nearest: Option<(Box<Shortage<'s>>, Terms<'s>)> = None;
    let pay = |terms: &Terms<'s>| {
        toll.pay(terms, now).map_err(|shortage| {
            if nearest.as_ref().is_none_or(|(found, _)| shortage.retry_after < found.retry_after) {
                nearest = Some((shortage, terms.clone()));
            }
        })
    };
    match (consider(&principal, ask, door, now, pay), nearest) {
        (Ok((terms, (statement, seat))), _) => Ok(Permit::issue(terms, statement, seat, &principal)),
        (Err(Hindrance::Unpaid(())), Some((shortage, terms))) => Err(No::Limited { shortage, terms }),
        (Err(Hindrance::Denial(Obstacle { denial, operation })), _) => {
            Err(No::Denied { denial, principal, operation })
        }
        (Err(Hindrance::Unpaid(())), None) => {
            Err(No::Denied { denial: Denial::QuotaUnavailable, principal, operation: None })
        }
    }
}
