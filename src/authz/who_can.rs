//! The question the other way round: which apps may do it, by which right and with which credentials.

use std::collections::HashMap;
use std::sync::Arc;

use crate::authz::claimant::Claimant;
use crate::authz::decide::{contains, opens, satisfied};
use crate::authz::{Ask, Door, Supposed};
use crate::clock::Timestamp;
use crate::credential::token::Proves;
use crate::credential::usable;
use crate::registry::{
    App, AppStatus, Condition, Credential, CredentialKind, DeveloperStatus, Grant, KindSet, Operation,
    Snapshot,
};

/// A way in which an app may.
#[derive(Clone, Debug)]
pub struct Entitlement<'s> {
    /// The app.
    pub app: &'s Arc<App>,
    /// The credentials that are enough, of those that it has now; none of them can be left out.
    pub kinds: KindSet,
    /// The right.
    pub grant: &'s Grant,
    /// The operation of that right's product.
    pub operation: &'s Operation,
    /// What must be so besides, which only a request shows.
    pub provisos: Vec<Proviso<'s>>,
}

/// What a way depends on besides.
#[derive(Clone, Debug)]
pub enum Proviso<'s> {
    /// The token claims what this asks for.
    Claims(&'s Condition),
    /// Not any credential of its kind will do, but these, where their bindings hold.
    Credentials(Vec<&'s Credential>),
    /// The token names these scopes.
    Scopes(&'s [String]),
}

/// All ways in which apps of `registry` may do what is asked `now`, if they come in by one of `doors`; by app, and the fewest
/// credentials first. Tokens are believed of `issuers`. Whether the apps have used up what they may is not asked.
pub fn who_can<'s>(
    registry: &'s Snapshot,
    ask: &Ask<'_>,
    doors: &[Door<'_>],
    issuers: &[(&str, Proves)],
    now: Timestamp,
) -> Vec<Entitlement<'s>> {
    let granted = |app: &App| {
        let operations = app.grants.iter().flat_map(|grant| &grant.product.operations);
        operations.into_iter().any(|operation| contains(operation, ask))
    };
    let is_active =
        |app: &App| app.status == AppStatus::Approved && app.developer.status == DeveloperStatus::Active;
    let apps: Vec<&Arc<App>> = registry.apps().filter(|app| is_active(app) && granted(app)).collect();
    let mut held: HashMap<&str, Vec<&Credential>> =
        apps.iter().map(|app| (app.id.as_str(), Vec::new())).collect();
    let believed = |credential: &Credential| {
        let rule = credential.token_rule();
        rule.is_none_or(|rule| issuers.contains(&(rule.issuer(), Proves::Apps)))
    };
    for credential in registry.credentials() {
        if let Some(held) = held.get_mut(credential.app.id.as_str())
            && usable(credential, registry, now).is_ok()
            && believed(credential)
        {
            held.push(credential);
        }
    }
    let users = issuers.iter().any(|(_, proves)| *proves == Proves::Users);
    let mut found = Vec::new();
    for app in apps {
        let credentials = held.remove(app.id.as_str()).unwrap_or_default();
        let mut kinds: KindSet = credentials.iter().map(|credential| credential.kind()).collect();
        if users {
            kinds.insert(CredentialKind::UserToken);
        }
        ways(&Holder { app, credentials, kinds }, ask, doors, now, &mut found);
    }
    found
}

/// An app with the credentials that are good now.
struct Holder<'s> {
    app: &'s Arc<App>,
    credentials: Vec<&'s Credential>,
    /// Their kinds, and the user's token that it could come with.
    kinds: KindSet,
}

fn ways<'s>(
    holder: &Holder<'s>,
    ask: &Ask<'_>,
    doors: &[Door<'_>],
    now: Timestamp,
    found: &mut Vec<Entitlement<'s>>,
) {
    let first = found.len();
    for kinds in combinations(holder.kinds) {
        let enough_already = |way: &Entitlement<'_>| kinds.is_superset(way.kinds);
        if found.iter().skip(first).any(enough_already) {
            continue;
        }
        let mut admitting = doors.iter().filter(|door| admitted(holder.app, kinds, door));
        found.extend(admitting.find_map(|door| way(holder, kinds, (ask, *door), now)));
    }
}

/// The first right that lets the app in with these `kinds`.
fn way<'s>(
    holder: &Holder<'s>,
    kinds: KindSet,
    asked: (&Ask<'_>, Door<'_>),
    now: Timestamp,
) -> Option<Entitlement<'s>> {
    let app = holder.app;
    let rights = app.grants.iter().flat_map(|grant| {
        let operations = grant.product.operations.iter().filter(|operation| contains(operation, asked.0));
        operations.map(move |operation| (grant, operation))
    });
    let mut open = rights.filter_map(|(grant, operation)| {
        let provisos = provisos(holder, kinds, (grant, operation), asked, now)?;
        Some(Entitlement { app, kinds, grant, operation, provisos })
    });
    open.next()
}

/// What must be so besides, for somebody with these `kinds` whom a right could let in; none if it lets nobody in.
///
/// Each credential narrows a right for itself, so what one of each kind lets through, all of them do together.
fn provisos<'s>(
    holder: &Holder<'s>,
    kinds: KindSet,
    (grant, operation): (&'s Grant, &'s Operation),
    asked: (&Ask<'_>, Door<'_>),
    now: Timestamp,
) -> Option<Vec<Proviso<'s>>> {
    let supposed = Supposed { app: holder.app, kinds, credential: None };
    let lets_in = |credential: Option<&'s Credential>| {
        let claimant = Claimant::Supposed(Supposed { credential, ..supposed });
        opens(grant, operation, claimant, asked, now).is_ok()
    };
    let mut provisos = Vec::new();
    if !lets_in(None) {
        return None;
    }
    // The user's token is none of the app's credentials.
    for kind in kinds.iter().filter(|kind| *kind != CredentialKind::UserToken) {
        let of_kind: Vec<&Credential> =
            holder.credentials.iter().copied().filter(|credential| credential.kind() == kind).collect();
        let fitting: Vec<&Credential> =
            of_kind.iter().copied().filter(|credential| lets_in(Some(credential))).collect();
        if fitting.is_empty() {
            return None;
        }
        let is_bound = |credential: &&Credential| credential.bindings.is_some();
        if fitting.len() < of_kind.len() || fitting.iter().any(is_bound) {
            provisos.push(Proviso::Credentials(fitting));
        }
    }
    if supposed.has_token() {
        let claims = operation.when.as_deref().filter(|condition| condition.asks_for_claim());
        provisos.extend(claims.map(Proviso::Claims));
        let scopes = Some(&*operation.scopes).filter(|scopes| !scopes.is_empty());
        provisos.extend(scopes.map(Proviso::Scopes));
    }
    Some(provisos)
}

/// Whether the door, and the app itself, are content with `kinds`.
fn admitted(app: &App, kinds: KindSet, door: &Door<'_>) -> bool {
    let levels = [app.accepts.as_ref(), door.listener, door.service];
    levels.into_iter().all(|level| satisfied(level, kinds))
}

/// All sets of some of `held` that can be presented together and name an app, the smaller ones first.
fn combinations(held: KindSet) -> Vec<KindSet> {
    let kinds: Vec<CredentialKind> = held.iter().collect();
    let chosen = |bits: usize| kinds.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1);
    let sets = (1..1_usize << kinds.len()).map(|bits| chosen(bits).map(|(_, kind)| *kind).collect());
    let user = KindSet::EMPTY.with(CredentialKind::UserToken);
    // There is one field for tokens.
    let makes_sense = |set: &KindSet| *set != user && !set.is_superset(user.with(CredentialKind::Token));
    let mut sets: Vec<KindSet> = sets.filter(makes_sense).collect();
    sets.sort_by_key(|set: &KindSet| set.iter().count());
    sets
}
