//! The decision itself: pure, in a fixed order, default deny.

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
}

impl<'s> Terms<'s> {
    /// Who owns the app.
    #[must_use]
    pub fn developer(&self) -> &'s Developer {
        &self.app.developer
    }
}

/// Whether `principal`, who came in by `door`, may do what it asks.
///
/// The order: app, developer, kind of credential, then the grants in the order in which they are written. The first grant
/// that allows wins; when none does, the answer is the one that came closest.
#[must_use]
pub fn decide<'s>(principal: &Principal<'s>, ask: &Ask<'_>, door: Door<'_>, now: Timestamp) -> Decision<'s> {
    let app = principal.app();
    if app.status == AppStatus::Revoked {
        return Decision::Deny(Denial::AppRevoked);
    }
    if app.developer.status == DeveloperStatus::Inactive {
        return Decision::Deny(Denial::DeveloperInactive);
    }
    let kinds = principal.kinds();
    if ![door.listener, door.service, app.accepts.as_ref()].into_iter().all(|level| satisfied(level, kinds)) {
        return Decision::Deny(Denial::AuthMethodNotAllowed);
    }
    let mut closest = Denial::NotEntitled;
    for grant in &app.grants {
        match by_grant(grant, ask, kinds, now) {
            Ok(()) => {
                let credential = principal.credential();
                return Decision::Allow(Terms { app, credential, product: &grant.product });
            }
            Err(Denial::NotEntitled) => {}
            Err(denial) if closest == Denial::NotEntitled => closest = denial,
            Err(_) => {}
        }
    }
    Decision::Deny(closest)
}

fn by_grant(grant: &Grant, ask: &Ask<'_>, kinds: KindSet, now: Timestamp) -> Result<(), Denial> {
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
    if matching.any(|operation| satisfied(operation.accepts.as_ref(), kinds)) {
        Ok(())
    } else {
        Err(Denial::AuthMethodNotAllowed)
    }
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
