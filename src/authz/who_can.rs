//! The question the other way round: which apps may do it, by which right and with which credentials.

use std::collections::HashMap;
use std::sync::Arc;

use crate::authz::{Ask, Door, survey};
use crate::clock::Timestamp;
use crate::credential::usable;
use crate::registry::{
    Accepts, App, AppStatus, CredentialKind, DeveloperStatus, Grant, KindSet, Operation, Snapshot,
};

/// A way in which an app may.
#[derive(Clone, Copy, Debug)]
pub struct Entitlement<'s> {
    /// The app.
    pub app: &'s Arc<App>,
    /// The credentials that are enough, of those that it has now; none of them can be left out.
    pub kinds: KindSet,
    /// The right.
    pub grant: &'s Grant,
    /// The operation of that right's product.
    pub operation: &'s Operation,
}

/// All ways in which apps of `registry` may do what is asked `now`, if they come in by one of `doors`; by app, and the fewest
/// credentials first. Whether they have used up what they may is not asked.
pub fn who_can<'s>(
    registry: &'s Snapshot,
    ask: &Ask<'_>,
    doors: &[Door<'_>],
    now: Timestamp,
) -> Vec<Entitlement<'s>> {
    let mut held: HashMap<&str, KindSet> = HashMap::new();
    for credential in registry.credentials().filter(|credential| usable(credential, now).is_ok()) {
        held.entry(credential.app.id.as_str()).or_default().insert(credential.kind());
    }
    let mut found = Vec::new();
    for app in registry.apps() {
        if app.status == AppStatus::Revoked || app.developer.status == DeveloperStatus::Inactive {
            continue;
        }
        let held = held.get(app.id.as_str()).copied().unwrap_or_default();
        ways(app, held, ask, doors, now, &mut found);
    }
    found
}

fn ways<'s>(
    app: &'s Arc<App>,
    held: KindSet,
    ask: &Ask<'_>,
    doors: &[Door<'_>],
    now: Timestamp,
    found: &mut Vec<Entitlement<'s>>,
) {
    let first = found.len();
    for kinds in combinations(held) {
        let enough_already = |way: &Entitlement<'_>| kinds.is_superset(way.kinds);
        if found.iter().skip(first).any(enough_already) || !admitted(app, kinds, doors) {
            continue;
        }
        let right = survey(app, ask, kinds, now).find_map(|(grant, found)| Some((grant, found.ok()?)));
        if let Some((grant, operation)) = right {
            found.push(Entitlement { app, kinds, grant, operation });
        }
    }
}

/// Whether some door, and the app itself, are content with `kinds`.
fn admitted(app: &App, kinds: KindSet, doors: &[Door<'_>]) -> bool {
    let content = |level: Option<&Accepts>| level.is_none_or(|accepts| accepts.satisfied_by(kinds));
    content(app.accepts.as_ref()) && doors.iter().any(|door| content(door.listener) && content(door.service))
}

/// All sets of some of `held`, the smaller ones first.
fn combinations(held: KindSet) -> Vec<KindSet> {
    let kinds: Vec<CredentialKind> = held.iter().collect();
    let chosen = |bits: usize| kinds.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1);
    let mut sets: Vec<KindSet> =
        (1..1_usize << kinds.len()).map(|bits| chosen(bits).map(|(_, kind)| *kind).collect()).collect();
    sets.sort_by_key(|set: &KindSet| set.iter().count());
    sets
}
