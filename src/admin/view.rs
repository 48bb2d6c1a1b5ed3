//! How the agent stands, as plain data: what `GET /v1/status` answers and the command line prints.
//!
//! Readers skip what they do not know, so an older command line understands a newer agent.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::{SecretText, StewardError};
use crate::clock::Timestamp;
use crate::id::{AppId, AuthorityId, CredentialId, ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::issuance::{
    AuthorityRevocation, AuthorityView, Change, Changed, HierarchyView, Insistence, Issued, Laggard,
    RenewalView, Run, Settings, Verb,
};
use crate::pki::{DEFAULT_BACKDATE, KeyAlgorithm, Level, Lifetimes, Profile, TrustBundle, X509Svid};
use crate::store::pem;

/// Everything about a running agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when.
    pub started_at: Timestamp,
    /// Whose identities it issues.
    pub trust_domain: String,
    /// Whether it can do its work.
    pub ready: Readiness,
    /// What is not as it should be but keeps nobody from being served, one sentence each.
    pub degraded: Vec<String>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The registry in force.
    pub registry: RegistryStatus,
    /// Grows with each change of the roots.
    pub bundle_sequence: u64,
    /// The local CA's authorities, roots first.
    pub authorities: Vec<AuthorityStatus>,
    /// How the replacement of the active issuing authority stands.
    pub rotation: RenewalStatus,
    /// How the replacement of the active root stands.
    #[serde(default)]
    pub roll_over: Option<RollOverStatus>,
    /// Who holds an identity.
    pub workloads: Vec<WorkloadStatus>,
    /// The doors from outside.
    pub listeners: Vec<ListenerStatus>,
    /// What is guarded.
    pub services: Vec<ServiceStatus>,
    /// The doors to outside.
    pub remotes: Vec<RemoteStatus>,
    /// How far limits are used.
    #[serde(default)]
    pub limits: LimitsStatus,
    /// Keys that somebody should know of.
    #[serde(default)]
    pub keys: KeysStatus,
    /// What was noticed that somebody should look into, the latest first.
    #[serde(default)]
    pub detections: Vec<DetectionStatus>,
}

/// Keys that somebody should know of; the first of each sort by name.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeysStatus {
    /// Those that another has taken the place of, and that are good still.
    pub retiring: Vec<RetiringKey>,
    /// How many there are.
    pub retiring_count: usize,
    /// Those that are older than `key_max_age` of their app, or else `[keys] max_age`.
    pub overdue: Vec<CredentialId>,
    /// How many there are.
    pub overdue_count: usize,
}

/// A key that another has taken the place of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RetiringKey {
    /// Its public name.
    pub id: CredentialId,
    /// Whose it is.
    pub app: AppId,
    /// From when on it is refused.
    pub retires: Timestamp,
    /// When it was used last since the start.
    pub last_used: Option<Timestamp>,
}

/// Something that was noticed. Never a secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DetectionStatus {
    /// Of which kind, as in log and metric: `key.leaked`, `credentials.failed` and so on.
    pub kind: String,
    /// About whom or what.
    pub about: String,
    /// In a sentence.
    pub detail: String,
    /// When it was noticed first.
    pub first: Timestamp,
    /// When it was told last.
    pub last: Timestamp,
    /// How often it was noticed.
    pub count: u64,
}

/// How far limits are used.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LimitsStatus {
    /// How many accounts are counted.
    pub accounts: usize,
    /// The quotas that are nearest to their end, these first.
    pub fullest: Vec<QuotaStatus>,
}

/// How far one quota is used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaStatus {
    /// By whom.
    pub app: AppId,
    /// What is counted together: `app:…`, `product:…` or `operation:…/…`.
    pub scope: String,
    /// How much was used.
    pub used: u64,
    /// Of how much.
    pub limit: u64,
    /// When all of it is forgotten.
    pub ends: Timestamp,
}

/// How many requests a service is given at a time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConcurrencyStatus {
    /// How many there may be now.
    pub limit: u32,
    /// How many there are.
    pub under_way: u32,
}

/// Whether the agent can serve a valid certificate now and nothing is overdue.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not, one sentence each.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Ready, unless there is a reason not to be.
    #[must_use]
    pub const fn unless(reasons: Vec<String>) -> Self {
        Self { ready: reasons.is_empty(), reasons }
    }
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigStatus {
    /// The file.
    pub path: PathBuf,
    /// When what is in force was read.
    pub loaded_at: Timestamp,
    /// Why what is on disk now is not in force, one problem a line.
    pub last_error: Option<String>,
}

/// The registry in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegistryStatus {
    /// Tells one state of the files from another.
    pub version: String,
    /// How many apps.
    pub apps: usize,
    /// How many developers.
    pub developers: usize,
    /// How many products.
    pub products: usize,
    /// How many credentials.
    pub credentials: usize,
    /// When what is in force was read.
    pub loaded_at: Timestamp,
    /// Whether what is in force is what is on disk.
    pub current: bool,
    /// Why what is on disk is not in force, one problem a line.
    pub last_error: Option<String>,
}

/// One authority of the local CA.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuthorityStatus {
    /// `root` or `issuing`.
    pub level: String,
    /// `prepared`, `active` or `retired`.
    pub slot: String,
    /// Its name.
    pub id: AuthorityId,
    /// The kind of its key, or `elsewhere` for a root that signs on another host.
    pub algorithm: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// If it is retired: when the last certificate that it signed has expired.
    pub drained_at: Option<Timestamp>,
    /// Whether it is revoked, and all below it.
    #[serde(default)]
    pub revoked: bool,
}

/// How the renewal of one certificate stands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RenewalStatus {
    /// When it is due.
    pub next_rotation_at: Timestamp,
    /// When it succeeded last.
    pub last_success: Timestamp,
    /// When and why it failed since then.
    pub last_failure: Option<Failure>,
    /// Whether it should have succeeded a while ago.
    pub overdue: bool,
}

/// How the roll-over of the CA stands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RollOverStatus {
    /// How the replacement of the active root stands.
    pub root: RenewalStatus,
    /// If a root is prepared: until when others have time to fetch it.
    pub distributed_at: Option<Timestamp>,
    /// `root` or `issuing` where a roll-back keeps anything from being replaced of its own accord until it has drained.
    pub held: Vec<String>,
    /// Who has not loaded the bundle in force.
    pub laggards: Vec<LaggardStatus>,
    /// If the next issuing authority is due and has to be signed where the root is.
    #[serde(default)]
    pub awaiting: Option<AwaitingStatus>,
    /// Whether the prepared issuing authority stands under the prepared root, so that both are activated together.
    #[serde(default)]
    pub together: bool,
    /// Whose certificates end with the active issuing authority, sooner than they should, since it has no successor yet.
    #[serde(default)]
    pub shortened: Vec<WorkloadId>,
    /// Which workloads' readers have not taken their present certificate, and so may show one of a retired authority.
    pub showing_former: Vec<WorkloadId>,
    /// Who still came in with a leaf of a retired authority.
    #[serde(default)]
    pub presented: Vec<PresentedStatus>,
}

/// Somebody who came in with a leaf of a retired authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PresentedStatus {
    /// The authority that signed the leaf.
    pub authority: AuthorityId,
    /// Who showed it.
    pub spiffe_id: String,
    /// When, the last time.
    pub last_seen: Timestamp,
}

/// The next issuing authority waits for a signature.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AwaitingStatus {
    /// Since when it is due.
    pub since: Timestamp,
    /// When the active one ends, and with it everything that it signed.
    pub until: Timestamp,
}

/// Somebody who has not loaded the bundle in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LaggardStatus {
    /// `the listener <id>`, `the remote <id>` or `the files of <workload>`.
    pub consumer: String,
    /// The bundle that was loaded instead, if any.
    pub sequence: Option<u64>,
    /// Since when.
    pub since: Timestamp,
}

impl RollOverStatus {
    /// How things stand in `hierarchy` while `laggards` lag.
    #[must_use]
    pub fn of(
        hierarchy: &HierarchyView,
        laggards: &[Laggard],
        showing_former: Vec<WorkloadId>,
        presented: Vec<PresentedStatus>,
    ) -> Self {
        let laggard = |laggard: &Laggard| LaggardStatus {
            consumer: laggard.consumer.to_string(),
            sequence: laggard.sequence,
            since: laggard.since,
        };
        Self {
            root: (&hierarchy.roll_over).into(),
            distributed_at: hierarchy.distributed_at,
            held: hierarchy.held.iter().map(|level| level.as_str().to_owned()).collect(),
            laggards: laggards.iter().map(laggard).collect(),
            awaiting: hierarchy
                .awaiting
                .as_ref()
                .map(|awaiting| AwaitingStatus { since: awaiting.since, until: awaiting.until }),
            together: hierarchy.together,
            shortened: hierarchy.shortened.clone(),
            showing_former,
            presented,
        }
    }
}

/// Something that went wrong.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// Why, on one line.
    pub reason: String,
}

/// One workload and its identity.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub id: WorkloadId,
    /// Who it is.
    pub spiffe_id: String,
    /// The certificate's serial number in lower-case hexadecimal.
    pub serial: String,
    /// Who signed it.
    pub authority: AuthorityId,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// How its renewal stands.
    #[serde(flatten)]
    pub renewal: RenewalStatus,
    /// How far its files are, if it gets any.
    pub delivery: Option<DeliveryStatus>,
}

/// How far the files of one workload are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeliveryStatus {
    /// Where they go.
    pub directory: PathBuf,
    /// Whether the reader has taken those of the certificate in force.
    pub acknowledged: bool,
    /// Why not, after the last attempt.
    pub last_error: Option<String>,
    /// When this was found.
    pub since: Timestamp,
}

/// A door from outside.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub id: ListenerId,
    /// Where it listens.
    pub address: String,
    /// `http` or `tcp`.
    pub protocol: String,
    /// Whose certificate is shown.
    pub workload: WorkloadId,
    /// What callers must present, if this level says anything: `mtls, api_key`.
    pub accepts: Option<String>,
}

/// A local upstream that is guarded.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub id: ServiceId,
    /// Where it listens.
    pub endpoint: String,
    /// The path below which it lives.
    pub base_path: String,
    /// The hosts it answers for; none means all.
    pub hosts: Vec<String>,
    /// What callers must present, if this level says anything.
    pub accepts: Option<String>,
    /// How many requests it is given at a time, if that is limited.
    #[serde(default)]
    pub concurrency: Option<ConcurrencyStatus>,
}

/// A door to outside.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RemoteStatus {
    /// Its name.
    pub id: RemoteId,
    /// Host and port that are dialled.
    pub address: String,
    /// `http` or `tcp`.
    pub protocol: String,
    /// The local port.
    pub listen: Option<String>,
    /// The local Unix socket.
    pub socket: Option<PathBuf>,
    /// Who may answer.
    pub spiffe_ids: Vec<String>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    /// What changed, one sentence each; nothing if all was as before.
    pub changes: Vec<String>,
}

/// The terms of a change of an authority.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct MoveOrder {
    /// Which one; without it, the only one that it could be.
    #[serde(default)]
    id: Option<AuthorityId>,
    /// Whether somebody may be left behind.
    #[serde(default)]
    force: bool,
    /// Whether it is only tried out.
    #[serde(default)]
    dry_run: bool,
}

impl MoveOrder {
    /// The verb and its terms.
    pub(super) fn of(change: &Change) -> (&'static str, Self) {
        let (verb, id) = match &change.verb {
            Verb::Activate(id) => ("activate", id.clone()),
            Verb::Discard(id) => ("discard", id.clone()),
            Verb::Prepare => ("prepare", None),
            Verb::Retire(id) => ("retire", Some(id.clone())),
            Verb::RollBack(id) => ("rollback", id.clone()),
            Verb::Rotate => ("rotate", None),
        };
        let force = change.insistence == Insistence::Force;
        (verb, Self { id, force, dry_run: change.run == Run::Rehearsal })
    }

    /// The change that `verb` is on these terms.
    pub(super) fn change(self, level: Level, verb: &str) -> Result<Change, StewardError> {
        let Self { id, force, dry_run } = self;
        let verb =
            match verb {
                "activate" => Verb::Activate(id),
                "discard" => Verb::Discard(id),
                "prepare" => Verb::Prepare,
                "retire" => Verb::Retire(id.ok_or_else(|| {
                    StewardError::Invalid("say which authority is to be retired".to_owned())
                })?),
                "rollback" => Verb::RollBack(id),
                "rotate" => Verb::Rotate,
                other => return Err(StewardError::Invalid(format!("an authority cannot {other}"))),
            };
        let insistence = if force { Insistence::Force } else { Insistence::Heed };
        let run = if dry_run { Run::Rehearsal } else { Run::Real };
        Ok(Change { level, verb, insistence, run })
    }
}

/// How an authority is to be revoked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct RevokeOrder {
    pub(super) id: AuthorityId,
    pub(super) reason: String,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
}

impl RevokeOrder {
    /// The terms of a revocation.
    pub(super) fn of(order: &AuthorityRevocation) -> Self {
        let AuthorityRevocation { id, reason, insistence, run, .. } = order;
        let (force, dry_run) = (*insistence == Insistence::Force, *run == Run::Rehearsal);
        Self { id: id.clone(), reason: reason.clone(), force, dry_run }
    }

    /// The revocation on these terms.
    pub(super) fn revocation(self, level: Level) -> AuthorityRevocation {
        let Self { id, reason, force, dry_run } = self;
        let insistence = if force { Insistence::Force } else { Insistence::Heed };
        let run = if dry_run { Run::Rehearsal } else { Run::Real };
        AuthorityRevocation { level, id, reason, insistence, run }
    }
}

/// An authority that was moved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Moved {
    /// Its name.
    pub id: AuthorityId,
    /// Who was left behind by force, one phrase each.
    #[serde(default)]
    pub left_behind: Vec<String>,
}

impl Moved {
    /// All that can be done to an authority.
    pub(super) const VERBS: [&'static str; 6] =
        ["activate", "discard", "prepare", "retire", "rollback", "rotate"];
}

impl From<Changed> for Moved {
    fn from(Changed { id, left_behind }: Changed) -> Self {
        Self { id, left_behind }
    }
}

/// A certificate that somebody wants to have in hand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// For somebody of this host's trust domain.
    Profile {
        /// Who.
        spiffe_id: String,
        /// DNS names besides.
        dns: Vec<String>,
        /// How long it is to live; an hour if nothing is said, or less where an hour does not fit.
        ttl_seconds: Option<u64>,
    },
    /// For a configured workload, by its profile. What the workload itself holds stays as it is.
    Workload(WorkloadId),
}

impl Order {
    /// What the certificate is to say, on a host with these `settings`.
    ///
    /// # Errors
    /// There is no such workload, or the text is no SPIFFE ID.
    pub fn profile(&self, settings: &Settings) -> Result<Profile, StewardError> {
        match self {
            Self::Workload(id) => {
                let profile = settings.workloads.get(id).cloned();
                profile.ok_or_else(|| StewardError::Unknown(format!("there is no workload {id}")))
            }
            Self::Profile { spiffe_id, dns, ttl_seconds } => Ok(Profile {
                spiffe_id: spiffe_id.parse().map_err(|error| {
                    StewardError::Invalid(format!("{spiffe_id:?} is no SPIFFE ID: {error}"))
                })?,
                dns: dns.clone(),
                ttl: ttl_seconds.map_or_else(|| usual_ttl(settings), Duration::from_secs),
                backdate: DEFAULT_BACKDATE,
                algorithm: settings.algorithm,
            }),
        }
    }
}

fn usual_ttl(settings: &Settings) -> Duration {
    Lifetimes::default().leaf.min(settings.issuing_ttl / 3)
}

/// A certificate with its key, handed out once and not kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IssuedCertificate {
    /// Who the holder is.
    pub spiffe_id: String,
    /// Its serial number in lower-case hexadecimal.
    pub serial: String,
    /// Who signed it.
    pub authority: AuthorityId,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The leaf and the issuing authority, as PEM.
    pub chain_pem: String,
    /// The private key, as PEM.
    pub key_pem: SecretText,
    /// The roots, as PEM.
    pub bundle_pem: String,
}

impl IssuedCertificate {
    /// `svid` as text, with the roots to trust.
    #[must_use]
    pub fn of(svid: &X509Svid, bundle: &TrustBundle) -> Self {
        Self {
            spiffe_id: svid.spiffe_id.to_string(),
            serial: svid.serial.clone(),
            authority: svid.authority.clone(),
            not_after: svid.not_after,
            chain_pem: svid.chain.iter().map(pem::certificate_to_pem).collect(),
            key_pem: SecretText::new(pem::key_to_pem(&svid.key)),
            bundle_pem: bundle_pem(bundle),
        }
    }
}

/// The roots as PEM, for others to trust.
#[must_use]
pub fn bundle_pem(bundle: &TrustBundle) -> String {
    bundle.roots.iter().map(pem::certificate_to_pem).collect()
}

/// The authorities as the status shows them, roots first.
#[must_use]
pub fn authorities(hierarchy: &HierarchyView) -> Vec<AuthorityStatus> {
    hierarchy.roots.iter().chain(&hierarchy.issuing).map(AuthorityStatus::from).collect()
}

/// The workloads as the status shows them, by name and without their files.
#[must_use]
pub fn workloads(issued: &Issued) -> Vec<WorkloadStatus> {
    let both = issued.svids.iter().filter_map(|(id, svid)| Some((id, svid, issued.renewals.get(id)?)));
    both.map(|(id, svid, renewal)| WorkloadStatus {
        id: id.clone(),
        spiffe_id: svid.spiffe_id.to_string(),
        serial: svid.serial.clone(),
        authority: svid.authority.clone(),
        not_after: svid.not_after,
        renewal: renewal.into(),
        delivery: None,
    })
    .collect()
}

impl From<&AuthorityView> for AuthorityStatus {
    fn from(view: &AuthorityView) -> Self {
        Self {
            level: match view.level {
                Level::Issuing => "issuing".to_owned(),
                Level::Root => "root".to_owned(),
            },
            slot: view.slot.to_string(),
            id: view.id.clone(),
            algorithm: view.algorithm.map_or("elsewhere", KeyAlgorithm::as_str).to_owned(),
            created_at: view.created,
            not_before: view.not_before,
            not_after: view.not_after,
            drained_at: view.drained_at,
            revoked: view.is_revoked,
        }
    }
}

impl From<&RenewalView> for RenewalStatus {
    fn from(view: &RenewalView) -> Self {
        let failure = |(at, reason): &(Timestamp, String)| Failure { at: *at, reason: reason.clone() };
        Self {
            next_rotation_at: view.next_rotation_at,
            last_success: view.last_success,
            last_failure: view.last_failure.as_ref().map(failure),
            overdue: view.overdue,
        }
    }
}
