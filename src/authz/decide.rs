//! The decision itself: pure, in a fixed order, default deny.

use std::convert::Infallible;
use std::sync::Arc;

use crate::authz::claimant::{Claimant, Supposed};
use crate::authz::{Ask, Denial, Door};
use crate::clock::Timestamp;
use crate::credential::Principal;
use crate::id::ProductId;
use crate::registry::{
    Accepts, App, AppStatus, Credential, CredentialKind, Developer, DeveloperStatus, Grant, GrantStatus,
    KindSet, Operation, Product, Share, Target,
};

/// The answer.
#[derive(Clone, Debug)]
pub enum Decision<'s> {
    /// Yes, on these terms.
    Allow(Terms<'s>),
    /// No, because.
    Deny(Denial),
}

/// On what a yes rests: what the service is told and the log remembers.
#[derive(Clone, Debug)]
pub struct Terms<'s> {
    /// The app that calls.
    pub app: &'s Arc<App>,
    /// The strongest credential that it used.
    pub credential: &'s Credential,
    /// How it used that.
    pub kind: CredentialKind,
    /// The product that contains the operation.
    pub product: &'s Arc<Product>,
    /// The operation.
    pub operation: &'s Operation,
    /// Which of the product's scopes are in force, by their position: those that all credentials let through.
    scopes: u128,
}

impl<'s> Terms<'s> {
    /// Who owns the app.
    #[must_use]
    pub fn developer(&self) -> &'s Developer {
        &self.app.developer
    }

    /// The scopes in force: what the product conveys and all credentials let through.
    pub fn scopes(&self) -> impl Iterator<Item = &'s str> {
        let in_force = self.scopes;
        let scopes = self.product.scopes.iter().enumerate();
        scopes.filter(move |(at, _)| in_force >> at & 1 == 1).map(|(_, scope)| scope.as_str())
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
        Err(Hindrance::Denial(Obstacle { denial, .. })) => Decision::Deny(denial),
    }
}

/// What comes of each grant for itself, in the order in which they are written, for a caller who is only supposed, and comes in
/// by `door`. [`decide`] takes the first that allows.
pub fn survey<'s>(
    supposed: Supposed<'s>,
    ask: &Ask<'_>,
    door: Door<'_>,
    now: Timestamp,
) -> impl Iterator<Item = (&'s Grant, Result<&'s Operation, Denial>)> {
    let judge = move |grant: &'s Grant| {
        by_grant(grant, ask, Claimant::Supposed(supposed), door, now).map_err(|obstacle| obstacle.denial)
    };
    supposed.app.grants.iter().map(move |grant| (grant, judge(grant)))
}

/// Why a principal may not.
pub(super) enum Hindrance<'s, E> {
    /// It has no right.
    Denial(Obstacle<'s>),
    /// It has the right, and cannot pay.
    Unpaid(E),
}

/// What stands in the way.
#[derive(Clone, Copy)]
pub(super) struct Obstacle<'s> {
    /// What the caller is told.
    pub(super) denial: Denial,
    /// The operation that came closest, if any contains what is asked.
    pub(super) operation: Option<&'s Operation>,
}

impl<'s> Obstacle<'s> {
    const fn to_all(denial: Denial) -> Self {
        Self { denial, operation: None }
    }

    /// The one that was met later on the way; of two that were met at the same step, the first.
    fn or_later(self, other: Self) -> Self {
        if depth(other.denial) > depth(self.denial) { other } else { self }
    }
}

/// How far on the way through a grant somebody came who met with `denial`.
const fn depth(denial: Denial) -> u8 {
    match denial {
        Denial::AppRevoked | Denial::DeveloperInactive | Denial::NotEntitled => 0,
        Denial::AuthMethodNotAllowed | Denial::StepUpRequired => 1,
        Denial::WrongEnvironment => 2,
        Denial::GrantExpired | Denial::GrantPending | Denial::GrantRevoked => 3,
        Denial::InsufficientScope => 4,
        Denial::ConditionFailed => 5,
        Denial::Overloaded | Denial::QuotaExceeded | Denial::QuotaUnavailable | Denial::SpikeArrested => 6,
    }
}

/// The first grant that allows and that `pay` pays for. Whoever has a right that cannot be paid for is told so, and not that
/// another right is missing.
pub(super) fn consider<'s, P, E>(
    principal: &Principal<'s>,
    ask: &Ask<'_>,
    door: Door<'_>,
    now: Timestamp,
    mut pay: impl FnMut(&Terms<'s>) -> Result<P, E>,
) -> Result<(Terms<'s>, P), Hindrance<'s, E>> {
    let app = principal.app();
    if app.status == AppStatus::Revoked {
        return Err(Hindrance::Denial(Obstacle::to_all(Denial::AppRevoked)));
    }
    if app.developer.status == DeveloperStatus::Inactive {
        return Err(Hindrance::Denial(Obstacle::to_all(Denial::DeveloperInactive)));
    }
    let kinds = principal.kinds();
    let levels = [door.listener, door.service, app.accepts.as_ref()];
    if let Some(denial) = objection(kinds, |kinds| levels.into_iter().all(|level| satisfied(level, kinds))) {
        return Err(Hindrance::Denial(Obstacle::to_all(denial)));
    }
    let mut closest = Obstacle::to_all(Denial::NotEntitled);
    let mut unpaid = None;
    for grant in &app.grants {
        match by_grant(grant, ask, Claimant::Proven(principal), door, now) {
            Ok(operation) => {
                let credential = principal.credential();
                let scopes = in_force_for(principal, &grant.product);
                let kind = principal.kind();
                let product = &grant.product;
                let terms = Terms { app, credential, kind, product, operation, scopes };
                match pay(&terms) {
                    Ok(paid) => return Ok((terms, paid)),
                    Err(error) => unpaid = unpaid.or(Some(error)),
                }
            }
            Err(obstacle) => closest = closest.or_later(obstacle),
        }
    }
    Err(unpaid.map_or(Hindrance::Denial(closest), Hindrance::Unpaid))
}

/// Which scopes of `product` are in force, by their position. There are no more than there are bits.
fn in_force_for(principal: &Principal<'_>, product: &Product) -> u128 {
    let scopes = product.scopes.iter().zip(0_u32..);
    let in_force = scopes.filter(|(scope, _)| principal.lets_through(scope));
    in_force.fold(0, |bits, (_, at)| bits | 1_u128.checked_shl(at).unwrap_or(0))
}

/// The first operation of a granted product that contains what is asked and stands open.
fn by_grant<'s>(
    grant: &'s Grant,
    ask: &Ask<'_>,
    claimant: Claimant<'_, 's>,
    door: Door<'_>,
    now: Timestamp,
) -> Result<&'s Operation, Obstacle<'s>> {
    let mut closest = Obstacle::to_all(Denial::NotEntitled);
    for operation in grant.product.operations.iter().filter(|operation| contains(operation, ask)) {
        match opens(grant, operation, claimant, (ask, door), now) {
            Ok(()) => return Ok(operation),
            Err(Denial::NotEntitled) => return Err(closest),
            Err(denial) => closest = closest.or_later(Obstacle { denial, operation: Some(operation) }),
        }
    }
    Err(closest)
}

/// Whether this operation of a granted product, which contains what is asked, stands open.
pub(super) fn opens(
    grant: &Grant,
    operation: &Operation,
    claimant: Claimant<'_, '_>,
    asked: (&Ask<'_>, Door<'_>),
    now: Timestamp,
) -> Result<(), Denial> {
    let shares = Shares::of(claimant, &grant.product.id).ok_or(Denial::NotEntitled)?;
    stands_open(grant, shares, operation, asked, now)
}

/// How much each credential of a caller has of its app's right to one product: something.
#[derive(Clone, Copy)]
struct Shares<'p, 's> {
    claimant: Claimant<'p, 's>,
    product: &'s ProductId,
}

impl<'p, 's> Shares<'p, 's> {
    /// None if one of the credentials has nothing of it.
    fn of(claimant: Claimant<'p, 's>, product: &'s ProductId) -> Option<Self> {
        let has_some = |credential: &Credential| credential.share_of(product) != Share::Nothing;
        claimant.credentials().all(has_some).then_some(Self { claimant, product })
    }

    /// Those that say something of their own.
    fn parts(self) -> impl Iterator<Item = &'s Grant> {
        self.claimant.credentials().filter_map(move |credential| match credential.share_of(self.product) {
            Share::Part(part) => Some(part),
            Share::Nothing | Share::Whole => None,
        })
    }
}

/// Whether what contains the operation asked for is in force for this caller.
fn stands_open(
    grant: &Grant,
    shares: Shares<'_, '_>,
    operation: &Operation,
    (ask, door): (&Ask<'_>, Door<'_>),
    now: Timestamp,
) -> Result<(), Denial> {
    let Shares { claimant, .. } = shares;
    let (product, kinds) = (&*grant.product, claimant.kinds());
    let levels = || {
        let fixed = [&product.accepts, &operation.accepts, &grant.accepts];
        fixed.into_iter().chain(shares.parts().map(|part| &part.accepts))
    };
    let enough =
        |kinds| levels().all(|level| satisfied(level.as_ref(), kinds)) && product.key_alone.admits(kinds);
    if let Some(denial) = objection(kinds, enough) {
        return Err(denial);
    }
    let all_levels = [door.listener, door.service, claimant.app().accepts.as_ref()].into_iter().flatten();
    let mut all_levels = all_levels.chain(levels().flatten());
    // Which of two credentials in its headers a caller means is not ours to choose, unless somebody asked for both.
    if kinds.in_headers().is_several() && !all_levels.any(|level| level.asks_for(kinds.in_headers())) {
        return Err(Denial::AuthMethodNotAllowed);
    }
    if !product.is_for(door.environment) {
        return Err(Denial::WrongEnvironment);
    }
    in_force(grant, now)?;
    shares.parts().try_for_each(|part| in_force(part, now))?;
    let conveyed = |scope: &String| product.scopes.contains(scope) && claimant.lets_through(scope);
    if !operation.scopes.iter().all(conveyed) {
        return Err(Denial::InsufficientScope);
    }
    if !operation.when.as_ref().is_none_or(|condition| claimant.meets(condition, ask.path())) {
        return Err(Denial::ConditionFailed);
    }
    Ok(())
}

/// Whether a right is given, and has not ended.
fn in_force(grant: &Grant, now: Timestamp) -> Result<(), Denial> {
    match grant.status {
        GrantStatus::Approved if grant.expires.is_some_and(|expires| now >= expires) => {
            Err(Denial::GrantExpired)
        }
        GrantStatus::Approved => Ok(()),
        GrantStatus::Pending => Err(Denial::GrantPending),
        GrantStatus::Revoked => Err(Denial::GrantRevoked),
    }
}

/// What stands in the way of these kinds of credential where `enough` decides; a user's token may be all that is missing.
fn objection(kinds: KindSet, enough: impl Fn(KindSet) -> bool) -> Option<Denial> {
    if enough(kinds) {
        None
    } else if enough(kinds.with(CredentialKind::UserToken)) {
        Some(Denial::StepUpRequired)
    } else {
        Some(Denial::AuthMethodNotAllowed)
    }
}

pub(super) fn contains(operation: &Operation, ask: &Ask<'_>) -> bool {
    operation.service.covers(ask.service())
        && match ask {
            Ask::Http { method, path, .. } => operation.target.covers_request(method, path),
            Ask::Tcp { .. } => operation.target == Target::Tcp,
        }
}

pub(super) fn satisfied(level: Option<&Accepts>, kinds: KindSet) -> bool {
    level.is_none_or(|accepts| accepts.satisfied_by(kinds))
}
