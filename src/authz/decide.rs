//! The decision itself: pure, in a fixed order, default deny.

use std::convert::Infallible;
use std::sync::Arc;

use crate::authz::{Ask, Denial, Door};
use crate::clock::Timestamp;
use crate::credential::Principal;
use crate::registry::{
    Accepts, App, AppStatus, Credential, Developer, DeveloperStatus, Grant, GrantStatus, KindSet, Operation,
    Product, Target,
};

/// The answer.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'s> {
    /// Yes, on these terms.
    Allow(Terms<'s>),
    /// No, because.
    Deny(Denial),
}

/// On what a yes rests: what the service is told and the log remembers.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'s> {
    /// The app that calls.
    pub app: &'s Arc<App>,
    /// The strongest credential that it used.
    pub credential: &'s Credential,
    /// The product that contains the operation.
    pub product: &'s Arc<Product>,
    /// The operation.
    pub operation: &'s Operation,
}

impl<'s> Terms<'s> {
    /// Who owns the app.
    #[must_use]
    pub fn developer(&self) -> &'s Developer {
        &self.app.developer
    }
}

/// Whether `principal`, who came in by `door`, may do what it asks, if there is enough left of it.
///
/// The order: app, developer, kind of credential, then the grants in the order in which they are written. The first grant
/// that allows wins; when none does, the answer is the one that came closest.
#[must_use]
pub fn decide<'s>(principal: &Principal<'s>, ask: &Ask<'_>, door: Door<'_>, now: Timestamp) -> Decision<'s> {
    match consider(principal, ask, door, now, |_| Ok::<(), Infallible>(())) {
        Ok((terms, ())) => Decision::Allow(terms),
        Err(Hindrance::Denial(denial)) => Decision::Deny(denial),
    }
}

/// What comes of each grant of `app` for itself, in the order in which they are written, for a caller with these `kinds` of
/// credential. [`decide`] takes the first that allows.
pub fn survey<'s>(
    app: &'s App,
    ask: &Ask<'_>,
    kinds: KindSet,
    now: Timestamp,
) -> impl Iterator<Item = (&'s Grant, Result<&'s Operation, Denial>)> {
    app.grants.iter().map(move |grant| (grant, by_grant(grant, ask, kinds, now)))
}

/// Why a principal may not.
pub(super) enum Hindrance<E> {
    /// It has no right.
    Denial(Denial),
    /// It has the right, and cannot pay.
    Unpaid(E),
}

/// The first grant that allows and that `pay` pays for. Whoever has a right that cannot be paid for is told so, and not that
/// another right is missing.
pub(super) fn consider<'s, P, E>(
    principal: &Principal<'s>,
    ask: &Ask<'_>,
    door: Door<'_>,
    now: Timestamp,
    mut pay: impl FnMut(&Terms<'s>) -> Result<P, E>,
) -> Result<(Terms<'s>, P), Hindrance<E>> {
    let app = principal.app();
    if app.status == AppStatus::Revoked {
        return Err(Hindrance::Denial(Denial::AppRevoked));
    }
    if app.developer.status == DeveloperStatus::Inactive {
        return Err(Hindrance::Denial(Denial::DeveloperInactive));
    }
    let kinds = principal.kinds();
    if ![door.listener, door.service, app.accepts.as_ref()].into_iter().all(|level| satisfied(level, kinds)) {
        return Err(Hindrance::Denial(Denial::AuthMethodNotAllowed));
    }
    let mut closest = Denial::NotEntitled;
    let mut unpaid = None;
    for grant in &app.grants {
        match by_grant(grant, ask, kinds, now) {
            Ok(operation) => {
                let credential = principal.credential();
                let terms = Terms { app, credential, product: &grant.product, operation };
                match pay(&terms) {
                    Ok(paid) => return Ok((terms, paid)),
                    Err(error) => unpaid = unpaid.or(Some(error)),
                }
            }
            Err(Denial::NotEntitled) => {}
            Err(denial) if closest == Denial::NotEntitled => closest = denial,
            Err(_) => {}
        }
    }
    Err(unpaid.map_or(Hindrance::Denial(closest), Hindrance::Unpaid))
}

fn by_grant<'s>(
    grant: &'s Grant,
    ask: &Ask<'_>,
    kinds: KindSet,
    now: Timestamp,
) -> Result<&'s Operation, Denial> {
    let mut matching =
        grant.product.operations.iter().filter(|operation| contains(operation, ask)).peekable();
    if matching.peek().is_none() {
        return Err(Denial::NotEntitled);
    }
    match grant.status {
        GrantStatus::Approved => {}
        GrantStatus::Pending => return Err(Denial::GrantPending),
        GrantStatus::Revoked => return Err(Denial::GrantRevoked),
    }
    if grant.expires.is_some_and(|expires| now >= expires) {
        return Err(Denial::GrantExpired);
    }
    let accepted = matching.find(|operation| satisfied(operation.accepts.as_ref(), kinds));
    accepted.ok_or(Denial::AuthMethodNotAllowed)
}

fn contains(operation: &Operation, ask: &Ask<'_>) -> bool {
    operation.service.covers(ask.service())
        && match ask {
            Ask::Http { method, path, .. } => operation.target.covers_request(method, path),
            Ask::Tcp { .. } => operation.target == Target::Tcp,
        }
}

fn satisfied(level: Option<&Accepts>, kinds: KindSet) -> bool {
    level.is_none_or(|accepts| accepts.satisfied_by(kinds))
}
