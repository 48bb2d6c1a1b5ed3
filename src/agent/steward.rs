//! Answers for the agent at the operators' door.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use tokio::sync::{mpsc, oneshot, watch};

use super::attestor::KernelAttestor;
use super::detectors::Detections;
use super::director::{InForce, Order as Directive};
use super::explain;
use super::key_uses::KeyUses;
use super::limit_keeper::LimitTroubles;
use super::readiness::{self, obstacles};
use super::sightings::Sightings;
use super::troubles::Troubles;
use super::who_can::{Doors, entitled};
use crate::admin::{
    self, AuthorityRequest, ConcurrencyStatus, ConfigStatus, Deed, DeliveryStatus, Desk, DetectionStatus,
    Entitled, Explanation, InstalledStatus, IssuedCertificate, KeysStatus, LimitsStatus, ListenerStatus,
    Order, PresentedStatus, Question, QuotaStatus, Readiness, RegistryStatus, Reloaded, RemoteStatus,
    RetiringKey, RollOverStatus, ServiceStatus, SignedAuthorityStatus, Status, Steward, StewardError,
    TokenKeyStatus, UsageWanted, WithdrawOrder, Withdrawn, WorkloadStatus,
};
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::credential::token::JwkSet;
use crate::id::{CredentialId, ServiceId, WorkloadId};
use crate::identity::Match;
use crate::issuance::{
    Acknowledgements, AuthorityRevocation, Change, Changed, InstallOrder, Issued, Laggard, Run, SignOrder,
    TokenDesk, TokenOrderError, Wanted,
};
use crate::limit::{Inflight, Scope, Use};
use crate::oauth::{Fault, Form, KeySlot, KilledKey, Minted, Records, TokenKey, Wish, Withdrawal};
use crate::pki::{Skews, Suspicion, Usage};
use crate::proxy::{Attestor as _, Current, Endpoint, ListenerProtocol, Recollection, RemoteProtocol};
use crate::registry::{self, CredentialStatus};
use crate::telemetry::{Metrics, UsageBook, UsageRow};
use crate::workload;

/// What the answers are drawn from.
#[derive(Debug)]
pub(super) struct AgentSteward {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started_at: Timestamp,
    pub(super) current: Current,
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    pub(super) deliveries: watch::Receiver<BTreeMap<WorkloadId, workload::DeliveryStatus>>,
    pub(super) acknowledged: watch::Receiver<Acknowledgements>,
    pub(super) sightings: watch::Receiver<Sightings>,
    pub(super) desk: Desk,
    pub(super) directives: mpsc::Sender<Directive>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) troubles: Arc<Troubles>,
    pub(super) skews: Arc<Mutex<Skews>>,
    pub(super) limit_troubles: Arc<LimitTroubles>,
    pub(super) token_desk: TokenDesk,
    pub(super) attestor: Arc<KernelAttestor>,
    pub(super) key_uses: KeyUses,
    pub(super) recollection: Recollection,
    pub(super) detections: Detections,
    pub(super) usage: Arc<Mutex<UsageBook>>,
    pub(super) usage_troubles: Arc<ArcSwap<Vec<String>>>,
    /// Whether this process is on its way out.
    pub(super) stopping: watch::Receiver<bool>,
}

impl AgentSteward {
    fn issued(&self) -> Arc<Issued> {
        Arc::clone(&self.desk.feed().borrow())
    }

    /// What an operator wants to be taken back, and the same in words.
    fn withdrawal(&self, order: WithdrawOrder) -> Result<(Withdrawal, String), StewardError> {
        let (snapshot, now) = (self.current.load(), self.clock.now());
        let office = snapshot.office.as_ref().ok_or_else(no_tokens)?;
        let registry = &snapshot.registry;
        let unknown =
            |kind: &str, name: &str| StewardError::Unknown(format!("there is no {kind} called `{name}`"));
        let issued_until = snapshot.tokens.denied().next_reach(now).unix();
        match order {
            WithdrawOrder::App(app) => {
                registry.app(app.as_str()).ok_or_else(|| unknown("app", app.as_str()))?;
                let what = format!("All tokens that {app} was issued until {now} are taken back.");
                Ok((Withdrawal::App { app, issued_until }, what))
            }
            WithdrawOrder::Credential(credential) => {
                let name = credential.as_str();
                registry.credential(name).ok_or_else(|| unknown("credential", name))?;
                let what = format!("All tokens by {credential} that were issued until {now} are taken back.");
                Ok((Withdrawal::Credential { credential, issued_until }, what))
            }
            WithdrawOrder::Jti(jti) => {
                let what = format!("The token {jti} is taken back.");
                let expires = (now + office.longest_ttl()).unix();
                Ok((Withdrawal::Token { app: None, jti, expires }, what))
            }
            WithdrawOrder::Token(token) => {
                let text = std::str::from_utf8(token.secret().expose_secret()).unwrap_or_default();
                let found = office.withdrawal_of(text, &snapshot.tokens, now);
                let withdrawal = found.ok_or_else(|| {
                    StewardError::Unknown("this is no token of this agent, or it has ended".to_owned())
                })?;
                let what = match &withdrawal {
                    Withdrawal::Token { jti, .. } => format!("The token {jti} is taken back."),
                    Withdrawal::All { .. } | Withdrawal::App { .. } | Withdrawal::Credential { .. } => {
                        String::new()
                    }
                };
                Ok((withdrawal, what))
            }
        }
    }

    /// What is not as it should be, but keeps nobody from being served.
    fn degraded(&self, state: &InForce, issued: &Issued) -> Vec<String> {
        let mut reasons = Vec::new();
        for (what, error) in [
            ("configuration", &state.config_error),
            ("registry", &state.registry_error),
            ("trust bundles", &state.trust_error),
        ] {
            if let Some(error) = error {
                let first = error.lines().next().unwrap_or_default();
                reasons.push(format!("the {what} on disk cannot be put into force: {first}"));
            }
        }
        reasons.extend(self.troubles.told());
        if let Some(Suspicion { peers, at_least }) = self.skews().suspicion(self.clock.now()) {
            reasons.push(format!(
                "{peers} peers show certificates that begin in the future, all of them by at least {} s: this host's clock is \
                 probably behind",
                at_least.as_secs()
            ));
        }
        if let Some(why) = &issued.hierarchy.untidy {
            reasons.push(format!("the CA on disk is whole, but it could not be tidied up: {why}"));
        }
        for (workload, delivery) in self.deliveries.borrow().iter() {
            if let Some(error) = &delivery.last_error {
                reasons.push(format!("the files of {workload} are not taken: {error}"));
            }
        }
        reasons.extend(readiness::on_signature(&issued.hierarchy));
        reasons.extend(state.mute_crls.iter().cloned());
        reasons.extend(issued.troubles.iter().cloned());
        reasons.extend(self.limit_troubles.sentences());
        reasons.extend(self.usage_troubles.load().iter().cloned());
        let roll_over = &issued.hierarchy.roll_over;
        if roll_over.overdue && issued.hierarchy.signs_elsewhere {
            reasons.push(
                "the root ends before another issuing authority of the present length would: have it replaced \
                 where it is, and make the next one known here with `postern ca install --root-only`"
                    .to_owned(),
            );
        } else if roll_over.overdue {
            let laggards = self.laggards(issued);
            let laggards: Vec<String> = laggards.iter().map(ToString::to_string).collect();
            let waits = if laggards.is_empty() {
                String::new()
            } else {
                format!("; it waits for {}", laggards.join(", "))
            };
            reasons.push(format!("the roll-over of the root is overdue{waits}"));
        }
        if let Some((at, why)) = &roll_over.last_failure {
            reasons.push(format!("the roll-over of the root failed at {at}: {why}"));
        }
        let renewals = issued.renewals.iter().map(|(workload, renewal)| (workload.as_str(), renewal));
        for (what, renewal) in renewals.chain([("the issuing authority", &issued.hierarchy.rotation)]) {
            if let Some((at, why)) = &renewal.last_failure {
                reasons.push(format!("the renewal of {what} failed at {at}: {why}"));
            }
        }
        reasons
    }

    /// What was noticed, the latest first.
    fn detections(&self) -> Vec<DetectionStatus> {
        let detections = self.detections.lock().unwrap_or_else(PoisonError::into_inner);
        let told = detections.iter().map(|((kind, about), one)| DetectionStatus {
            kind: kind.as_str().to_owned(),
            about: about.clone(),
            detail: one.detail.clone(),
            first: one.first,
            last: one.last,
            count: one.count,
        });
        let mut told: Vec<DetectionStatus> = told.collect();
        told.sort_by_key(|one| std::cmp::Reverse(one.last));
        told
    }

    fn skews(&self) -> MutexGuard<'_, Skews> {
        self.skews.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has not loaded the bundle in force.
    fn laggards(&self, issued: &Issued) -> Vec<Laggard> {
        self.acknowledged.borrow().laggards(issued.bundle.sequence)
    }

    /// Who still comes in with a leaf of a retired authority.
    fn presented(&self, issued: &Issued) -> Vec<PresentedStatus> {
        let sightings = self.sightings.borrow();
        let presented = sightings.under_retired(issued).map(|(authority, spiffe_id, last_seen)| {
            PresentedStatus { authority: authority.clone(), spiffe_id: spiffe_id.to_string(), last_seen }
        });
        presented.collect()
    }

    /// How many accounts there are, and the quotas that are nearest to their end.
    fn limits(&self, registry: &registry::Snapshot) -> LimitsStatus {
        let ledger = &self.current.load().ledger;
        let quotas = ledger.uses(self.clock.now()).into_iter().filter_map(|one| {
            let (scope, limit) = quota_of(registry, &one)?;
            Some(QuotaStatus { app: one.app, scope, used: one.used, limit, ends: one.ends })
        });
        let mut fullest: Vec<QuotaStatus> = quotas.collect();
        let filled =
            |quota: &QuotaStatus| u128::from(quota.used) * 1_000_000 / u128::from(quota.limit.max(1));
        fullest.sort_by(|one, other| filled(other).cmp(&filled(one)).then_with(|| one.app.cmp(&other.app)));
        fullest.truncate(FULLEST);
        LimitsStatus { accounts: ledger.accounts(), fullest }
    }

    /// The keys that another has taken the place of, and those that are older than they may become.
    fn keys(&self, config: &Config, registry: &registry::Snapshot) -> KeysStatus {
        let now = self.clock.now();
        let mut keys = KeysStatus::default();
        for key in registry.credentials() {
            if let CredentialStatus::Retiring(retires) = key.status
                && now < retires
            {
                keys.retiring_count += 1;
                if keys.retiring.len() < SHOWN_KEYS {
                    let last_used = self.key_uses.last(key.id.as_str());
                    let (id, app) = (key.id.clone(), key.app.id.clone());
                    keys.retiring.push(RetiringKey { id, app, retires, last_used });
                }
            }
            if key.is_too_old(config.key_rules.max_age, now) {
                keys.overdue_count += 1;
                if keys.overdue.len() < SHOWN_KEYS {
                    keys.overdue.push(key.id.clone());
                }
            }
        }
        keys
    }

    fn workloads(&self, config: &Config, issued: &Issued) -> Vec<WorkloadStatus> {
        let deliveries = self.deliveries.borrow();
        let mut workloads = admin::workloads(issued);
        for workload in &mut workloads {
            let generation = issued.svids.get(&workload.id).map_or(0, |svid| svid.generation);
            let files = config.workloads.get(&workload.id).and_then(|config| config.files.as_ref());
            workload.delivery =
                files.zip(deliveries.get(&workload.id)).map(|(files, status)| DeliveryStatus {
                    directory: files.directory.clone(),
                    // What was taken may be an earlier certificate than the one in force.
                    acknowledged: status.acknowledged && status.generation >= generation,
                    last_error: status.last_error.clone(),
                    since: status.since,
                });
        }
        workloads
    }
}

impl Steward for AgentSteward {
    fn status(&self) -> Status {
        let (state, issued) = (self.in_force.load_full(), self.issued());
        let (config, registry) = (&state.config, &state.registry);
        let workloads = self.workloads(config, &issued);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            trust_domain: config.issuance.domain.to_string(),
            ready: self.readiness(),
            degraded: self.degraded(&state, &issued),
            config: ConfigStatus {
                path: config.path.clone(),
                loaded_at: state.config_loaded_at,
                last_error: state.config_error.clone(),
            },
            registry: RegistryStatus {
                version: registry.version().to_owned(),
                apps: registry.counts().apps,
                developers: registry.counts().developers,
                products: registry.counts().products,
                credentials: registry.counts().credentials,
                loaded_at: state.registry_loaded_at,
                current: state.registry_error.is_none(),
                last_error: state.registry_error.clone(),
            },
            bundle_sequence: issued.bundle.sequence,
            authorities: admin::authorities(&issued.hierarchy),
            rotation: (&issued.hierarchy.rotation).into(),
            roll_over: Some(RollOverStatus::of(
                &issued.hierarchy,
                &self.laggards(&issued),
                showing_former(&workloads),
                self.presented(&issued),
            )),
            workloads,
            listeners: listeners(config),
            services: services(config, &self.current.load().inflight),
            limits: self.limits(registry),
            keys: self.keys(config, registry),
            detections: self.detections(),
            remotes: remotes(config),
        }
    }

    fn credential_uses(&self) -> BTreeMap<CredentialId, Timestamp> {
        let registry = Arc::clone(&self.in_force.load().registry);
        let used = registry.credentials().map(|one| (one.id.clone(), self.key_uses.last(one.id.as_str())));
        used.filter_map(|(id, last)| Some((id, last?))).collect()
    }

    fn readiness(&self) -> Readiness {
        let mut reasons = obstacles(&self.issued(), self.clock.now());
        if *self.stopping.borrow() {
            reasons.push("the agent is stopping".to_owned());
        }
        Readiness::unless(reasons)
    }

    fn metrics(&self) -> String {
        let issued = self.issued();
        let degraded = self.degraded(&self.in_force.load(), &issued).len();
        self.metrics.degraded.set(i64::try_from(degraded).unwrap_or(i64::MAX));
        let skews = self.skews().by_domain(self.clock.now());
        self.metrics.set_clock_skews(skews.iter().map(|(domain, ahead)| (domain.as_str(), *ahead)));
        let state = self.in_force.load();
        let overdue = self.keys(&state.config, &state.registry).overdue_count;
        self.metrics.keys_overdue.set(i64::try_from(overdue).unwrap_or(i64::MAX));
        let laggards = self.laggards(&issued).len();
        self.metrics.bundle_laggards.set(i64::try_from(laggards).unwrap_or(i64::MAX));
        let snapshot = self.current.load();
        self.metrics.limit_accounts.set(i64::try_from(snapshot.ledger.accounts()).unwrap_or(i64::MAX));
        self.metrics.clear_concurrency();
        for (service, inflight) in &snapshot.inflight {
            self.metrics.set_concurrency(service.as_str(), inflight.limit(), inflight.within());
        }
        self.metrics.render()
    }

    fn bundle_pem(&self) -> String {
        admin::bundle_pem(&self.issued().bundle)
    }

    fn assertion_keys(&self) -> String {
        let snapshot = self.current.load();
        let keys = snapshot.assertion_keys.keys.iter();
        JwkSet::write(keys.map(|one| (one.key.id(), one.key.public())))
    }

    fn crl_pem(&self) -> String {
        self.issued().crl.to_string()
    }

    fn explain(&self, question: Question) -> Result<Explanation, StewardError> {
        explain::explain(question, &self.current.load(), self.clock.now())
    }

    fn who_can(&self, deed: &Deed) -> Result<Entitled, StewardError> {
        let snapshot = self.current.load();
        let services = snapshot.routes.iter().map(|service| &**service);
        let listeners = snapshot.listeners.values().map(|listener| &listener.settings);
        let environment = snapshot.environment.as_ref();
        let doors = Doors { services, listeners, environment, issuers: snapshot.tokens.issuers().collect() };
        entitled(deed, &snapshot.registry, doors, self.clock.now())
    }

    fn usage(&self, wanted: &UsageWanted) -> Vec<UsageRow> {
        let book = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.of(book.rows(wanted.since))
    }

    async fn recall(&self, request_id: String) -> Result<Explanation, StewardError> {
        let remembered = self.recollection.of(&request_id).await;
        let remembered = remembered.ok_or_else(|| {
            StewardError::Unknown(format!(
                "no request {request_id} is remembered: each data-plane thread remembers the last {}, and none from before \
                 the start ([explain] remember)",
                self.in_force.load().config.remember
            ))
        })?;
        Ok(explain::recall(remembered, &self.current.load(), self.clock.now()))
    }

    async fn reload(&self) -> Result<Reloaded, StewardError> {
        let stopping = || StewardError::Failed("the agent is stopping".to_owned());
        let (reply, done) = oneshot::channel();
        self.directives.send(Directive::Reload(reply)).await.map_err(|_| stopping())?;
        let changes = done
            .await
            .map_err(|_| stopping())?
            .map_err(|error| StewardError::Invalid(Causes(&error).to_string()))?;
        Ok(Reloaded { changes })
    }

    async fn change_authority(&self, change: Change) -> Result<Changed, StewardError> {
        self.desk.change_authority(change).await
    }

    async fn revoke_authority(&self, order: AuthorityRevocation) -> Result<Changed, StewardError> {
        self.desk.revoke_authority(order).await
    }

    async fn renew(&self, workload: WorkloadId) -> Result<(), StewardError> {
        self.desk.renew(workload).await
    }

    async fn request(&self, wanted: Wanted, run: Run) -> Result<AuthorityRequest, StewardError> {
        self.desk.request(wanted, run).await
    }

    async fn sign(&self, order: SignOrder) -> Result<SignedAuthorityStatus, StewardError> {
        self.desk.sign(order).await
    }

    async fn install(&self, order: InstallOrder) -> Result<InstalledStatus, StewardError> {
        self.desk.install(order).await
    }

    fn token_keys(&self) -> Result<Vec<TokenKeyStatus>, StewardError> {
        let snapshot = self.current.load();
        let ring = &snapshot.office.as_ref().ok_or_else(no_tokens)?.ring;
        let kept = ring.keys.iter().map(|TokenKey { key, slot, created, .. }| TokenKeyStatus {
            id: key.id().to_owned(),
            algorithm: key.algorithm().to_string(),
            slot: slot.as_str().to_owned(),
            created: Some(*created),
            until: match slot {
                KeySlot::Active { .. } | KeySlot::Prepared => None,
                KeySlot::Retired { until } => Some(*until),
            },
        });
        let killed = ring.killed.iter().map(|KilledKey { public, until }| TokenKeyStatus {
            id: public.thumbprint(),
            algorithm: public.algorithm().to_string(),
            slot: "killed".to_owned(),
            created: None,
            until: Some(*until),
        });
        Ok(kept.chain(killed).collect())
    }

    async fn kill_token_key(&self, key: String) -> Result<(), StewardError> {
        self.token_desk.kill(key).await.map_err(order_refused)
    }

    async fn withdraw_tokens(&self, order: WithdrawOrder) -> Result<Withdrawn, StewardError> {
        let (withdrawal, what) = self.withdrawal(order)?;
        self.token_desk.withdraw(withdrawal).await.map_err(order_refused)?;
        tracing::warn!(what, "tokens were taken back");
        Ok(Withdrawn { what })
    }

    fn mint(&self, caller: &UnixStream, form: &Form) -> Result<Minted, Fault> {
        match form.value("grant_type") {
            Some("client_credentials") => {}
            Some(_) => return Err(Fault::UNSUPPORTED_GRANT_TYPE),
            None => return Err(Fault::request("The grant_type is missing.")),
        }
        let workload = self.attestor.attest_unix(caller).map_err(|error| {
            tracing::warn!(%error, "a token was asked for by no workload");
            Fault::client("The caller is no workload of this host.")
        })?;
        let (snapshot, now) = (self.current.load(), self.clock.now());
        let office = snapshot.office.as_ref().ok_or(Fault::UNAVAILABLE)?;
        let issued = self.issued();
        let svid = issued.svids.get(&workload).ok_or(Fault::UNAVAILABLE)?;
        let verified = snapshot.verifier.verify(&svid.chain, Usage::Client, now).map_err(|error| {
            tracing::warn!(%workload, %error, "a workload that asks for a token has no certificate that is believed");
            Fault::client("The workload has no certificate that is valid now.")
        })?;
        let Match::Found(credential) = snapshot.registry.certificate(&verified.subject) else {
            return Err(Fault::client("The workload's identity belongs to no registered app."));
        };
        if form.value("client_id").is_some_and(|claimed| claimed != credential.app.id.as_str()) {
            return Err(Fault::INVALID_CLIENT);
        }
        let wish = Wish {
            scope: form.value("scope"),
            resources: form.values("resource").collect(),
            certificate: Some(&verified.subject),
        };
        let records =
            Records { registry: &snapshot.registry, peppers: &snapshot.peppers, trust: &snapshot.tokens };
        let minted = office.mint_for(credential, &wish, &records, &SystemRandom::new(), now)?;
        tracing::info!(%workload, app = %credential.app.id, "a token was issued to a local workload");
        Ok(minted)
    }

    async fn issue(&self, order: Order) -> Result<IssuedCertificate, StewardError> {
        self.desk.issue(&order, &self.in_force.load().config.issuance).await
    }
}

fn no_tokens() -> StewardError {
    StewardError::Conflict("no tokens are issued here: the configuration has no [token]".to_owned())
}

fn order_refused(error: TokenOrderError) -> StewardError {
    let text = Causes(&error).to_string();
    match error {
        TokenOrderError::Busy | TokenOrderError::Full(_) => StewardError::Conflict(text),
        TokenOrderError::Stopping | TokenOrderError::Unwritten(_) => StewardError::Failed(text),
        TokenOrderError::Unknown(_) => StewardError::Unknown(text),
    }
}

/// So many keys of a sort are shown.
const SHOWN_KEYS: usize = 10;

/// So many quotas are shown.
const FULLEST: usize = 10;

/// The name and the limit of the quota that is counted in `one`, if there is one still.
pub(super) fn quota_of(registry: &registry::Snapshot, one: &Use) -> Option<(String, u64)> {
    let (scope, limits) = match (&one.product, &one.operation) {
        (None, _) => (Scope::App(&one.app), registry.app(one.app.as_str())?.limits.as_deref()),
        (Some(id), None) => (Scope::Product(id), registry.product(id.as_str())?.limits.as_deref()),
        (Some(id), Some(operation)) => {
            let mut operations = registry.product(id.as_str())?.operations.iter();
            let found = operations.find(|one| one.id.as_ref() == Some(operation))?;
            (Scope::Operation(id, operation), found.limits.as_deref())
        }
    };
    Some((scope.to_string(), limits?.quota?.limit()))
}

/// Whose reader has not taken the certificate in force.
fn showing_former(workloads: &[WorkloadStatus]) -> Vec<WorkloadId> {
    let behind = workloads
        .iter()
        .filter(|workload| workload.delivery.as_ref().is_some_and(|delivery| !delivery.acknowledged));
    behind.map(|workload| workload.id.clone()).collect()
}

fn listeners(config: &Config) -> Vec<ListenerStatus> {
    let listener = |listener: &crate::proxy::ListenerSettings| ListenerStatus {
        id: listener.id.clone(),
        address: listener.address.to_string(),
        protocol: match &listener.protocol {
            ListenerProtocol::Http => "http".to_owned(),
            ListenerProtocol::Tcp(service) => format!("tcp to {service}"),
        },
        workload: listener.workload.clone(),
        accepts: listener.accepts.as_ref().map(ToString::to_string),
    };
    config.listeners.iter().map(listener).collect()
}

fn services(config: &Config, inflight: &BTreeMap<ServiceId, Arc<Inflight>>) -> Vec<ServiceStatus> {
    let service = |service: &crate::proxy::ServiceSettings| ServiceStatus {
        id: service.id.clone(),
        endpoint: match &service.endpoint {
            Endpoint::Tcp(address) => address.to_string(),
            Endpoint::Unix(path) => format!("unix:{}", path.display()),
            Endpoint::Whoami => "builtin:whoami".to_owned(),
        },
        base_path: service.base_path.clone(),
        hosts: service.hosts.clone(),
        accepts: service.accepts.as_ref().map(ToString::to_string),
        concurrency: inflight
            .get(&service.id)
            .map(|inflight| ConcurrencyStatus { limit: inflight.limit(), under_way: inflight.within() }),
    };
    config.services.iter().map(service).collect()
}

fn remotes(config: &Config) -> Vec<RemoteStatus> {
    let remote = |remote: &crate::proxy::RemoteSettings| RemoteStatus {
        id: remote.id.clone(),
        address: remote.address.clone(),
        protocol: match remote.protocol {
            RemoteProtocol::H2 => "h2".to_owned(),
            RemoteProtocol::Http => "http".to_owned(),
            RemoteProtocol::Tcp => "tcp".to_owned(),
        },
        listen: remote.listen.map(|address| address.to_string()),
        socket: remote.socket.clone(),
        spiffe_ids: remote.spiffe_ids.iter().map(ToString::to_string).collect(),
    };
    config.remotes.iter().map(remote).collect()
}
