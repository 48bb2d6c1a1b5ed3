//! What was issued, as one value that is replaced whole: identities, whom to trust, and how things stand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::id::{AuthorityId, WorkloadId};
use crate::identity::distinguished_name;
use crate::pki::{Hierarchy, KeyAlgorithm, Level, Renewal, Revocations, Slot, TrustBundle, X509Svid};

/// Follows what is issued. It is never empty: everything was issued once before the first reader existed.
pub type Feed = watch::Receiver<Arc<Issued>>;

/// Everything that the local CA says at one moment.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Grows with each change of an identity or of the bundle, also over restarts; stays when only the status changes.
    pub generation: u64,
    /// The identity of each workload.
    pub svids: BTreeMap<WorkloadId, Arc<X509Svid>>,
    /// The roots of this host's own trust domain.
    pub bundle: TrustBundle,
    /// The authorities.
    pub hierarchy: HierarchyView,
    /// How the renewal of each workload's identity stands.
    pub renewals: BTreeMap<WorkloadId, RenewalView>,
    /// The revocation lists of all authorities, one PEM block each.
    pub crl: Arc<str>,
    /// What could not be written down, one sentence each. Issuing goes on.
    pub troubles: Vec<String>,
}

/// The authorities, without their keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HierarchyView {
    /// The roots: the active one, the prepared one, retired ones.
    pub roots: Vec<AuthorityView>,
    /// The issuing authorities, likewise.
    pub issuing: Vec<AuthorityView>,
    /// How the replacement of the active issuing authority stands.
    pub rotation: RenewalView,
    /// How the replacement of the active root stands.
    pub roll_over: RenewalView,
    /// If a root is prepared: until when others have time to fetch it.
    pub distributed_at: Option<Timestamp>,
    /// Which levels were rolled back, so that nothing is replaced there of its own accord until that has drained.
    pub held: Vec<Level>,
    /// What the disk has still to be told of it, and why it could not be.
    pub untidy: Option<String>,
    /// Whether the active root signs on another host.
    pub signs_elsewhere: bool,
    /// If the next issuing authority is due and has to be signed elsewhere.
    pub awaiting: Option<Awaiting>,
    /// Whether the prepared issuing authority stands under the prepared root, so that both are activated together.
    pub together: bool,
    /// Whose certificates end with the active issuing authority, sooner than they should, since it has no successor yet.
    pub shortened: Vec<WorkloadId>,
}

/// The next issuing authority waits for a signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Awaiting {
    /// Since when it is due.
    pub since: Timestamp,
    /// When the active one ends, and with it everything that it signed.
    pub until: Timestamp,
}

/// One authority, without its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityView {
    /// Its name.
    pub id: AuthorityId,
    /// Its distinguished name as RFC 4514 writes it.
    pub name: String,
    /// Where it stands in the hierarchy.
    pub level: Level,
    /// Where it stands in its life.
    pub slot: Slot,
    /// The kind of its key; `None` if that is kept elsewhere.
    pub algorithm: Option<KeyAlgorithm>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// If it is retired: when the last certificate that it signed has expired.
    pub drained_at: Option<Timestamp>,
    /// Whether it is revoked, and all below it.
    pub is_revoked: bool,
}

/// How the renewal of one certificate stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenewalView {
    /// The moment that was drawn for it.
    pub next_rotation_at: Timestamp,
    /// When it succeeded last.
    pub last_success: Timestamp,
    /// When it failed last, and why; `None` once it succeeded again.
    pub last_failure: Option<(Timestamp, String)>,
    /// Whether it should have succeeded a while ago.
    pub overdue: bool,
}

impl RenewalView {
    pub(super) fn of(renewal: &Renewal, failure: Option<&(Timestamp, String)>, now: Timestamp) -> Self {
        Self {
            next_rotation_at: renewal.due(),
            last_success: renewal.life().issued_at,
            last_failure: failure.cloned(),
            overdue: renewal.is_overdue(now),
        }
    }
}

impl HierarchyView {
    pub(super) fn of(
        hierarchy: &Hierarchy,
        revocations: &Revocations,
        rotation: RenewalView,
        roll_over: RenewalView,
        distribute: Duration,
    ) -> Self {
        let prepared = hierarchy.roots().prepared.as_ref();
        let levels = [Level::Root, Level::Issuing].into_iter();
        Self {
            roots: authorities(hierarchy, revocations, Level::Root),
            issuing: authorities(hierarchy, revocations, Level::Issuing),
            rotation,
            roll_over,
            distributed_at: prepared.map(|root| root.life().issued_at + distribute),
            held: levels.filter(|level| hierarchy.slots(*level).is_rolled_back()).collect(),
            untidy: None,
            signs_elsewhere: hierarchy.roots().active.key().is_none(),
            awaiting: None,
            together: hierarchy.prepared_pair().is_some(),
            shortened: Vec::new(),
        }
    }
}

/// All authorities of a CA that nobody runs at the moment, roots first.
#[must_use]
pub fn authority_views(hierarchy: &Hierarchy, revocations: &Revocations) -> Vec<AuthorityView> {
    let mut views = authorities(hierarchy, revocations, Level::Root);
    views.extend(authorities(hierarchy, revocations, Level::Issuing));
    views
}

fn authorities(hierarchy: &Hierarchy, revocations: &Revocations, level: Level) -> Vec<AuthorityView> {
    let slots = match level {
        Level::Issuing => hierarchy.issuing(),
        Level::Root => hierarchy.roots(),
    };
    let view = |(slot, authority): (Slot, &Arc<crate::pki::Authority>)| {
        let life = authority.life();
        let retired = slots.retired.iter().find(|retired| retired.authority.id() == authority.id());
        AuthorityView {
            id: authority.id().clone(),
            name: distinguished_name(authority.certificate()).unwrap_or_default(),
            level,
            slot,
            algorithm: authority.key().map(crate::pki::KeyPair::algorithm),
            created: life.issued_at,
            not_before: life.not_before,
            not_after: life.not_after,
            drained_at: retired.map(|retired| retired.until),
            is_revoked: revocations.of_authority(authority).is_some(),
        }
    };
    slots.iter().map(view).collect()
}
