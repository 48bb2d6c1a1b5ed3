//! Follows every change and publishes what it comes to: the one owner of configuration, registry and trust in force.
//!
//! **Invariant:** what cannot be used changes nothing. The last good state stays, and the reason is told by status, log and
//! metric until it is mended.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::assembly::{Assembly, AssemblyError, Materials};
use super::attestor::KernelAttestor;
use super::clock_watch::{self, Shift};
use super::inheritance::{self, Inheritance};
use super::issuers::{Found, Issuers};
use super::registrar::{Registrar, RegistryError};
use super::scribe::Scribe;
use super::token_keeper::{TokenState, TokenUpdate};
use super::troubles::{Trouble, Troubles};
use super::trust::{self, TrustError};
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Change, Config, ConfigError, NeedsRestart, Watched};
use crate::credential::Peppers;
use crate::credential::token::TokenTrust;
use crate::id::WorkloadId;
use crate::issuance::{self, Acknowledgements, Consumer, Feed, IssuanceError, TokenDesk};
use crate::pki::{BundleSet, Revoked, Skews, Usage, VerifyError};
use crate::proxy::{Claim, Current, Opening, Plane, PlaneError, Socket};
use crate::registry;
use crate::store::revocation_file::{self, RevocationError};
use crate::store::revoked_dir::{self, RevokedError};
use crate::store::{disk, pepper_file};
use crate::telemetry::{AuditEvent, AuditOutcome, Metrics};
use crate::workload::{Delivery, Statuses};

/// Why a change was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// What it would come to cannot be put together.
    #[error("the change cannot be put into force")]
    Assembly(#[from] AssemblyError),
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The CA does not follow.
    #[error("the local CA cannot follow the change")]
    Issuance(#[from] IssuanceError),
    /// A door cannot be opened.
    #[error("a door cannot be opened")]
    Plane(#[from] PlaneError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// The registry on disk cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What somebody else has revoked cannot be told.
    #[error("what is revoked in the folders of `revocations` cannot be told")]
    Revoked(#[from] RevokedError),
    /// The revocations cannot be read.
    #[error("the revocations cannot be read")]
    Revocations(#[from] RevocationError),
    /// Keys that are read at start only.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Restart(Vec<NeedsRestart>),
    /// A trust bundle cannot be believed.
    #[error("a trust bundle cannot be believed")]
    Trust(#[from] TrustError),
    /// Workloads that nobody could tell apart.
    #[error("the workloads' selectors cannot be told apart")]
    Selectors,
}

impl ReloadError {
    /// Whether the files of trusted roots are to blame.
    const fn is_about_roots(&self) -> bool {
        matches!(self, Self::Assembly(AssemblyError::Root(_)) | Self::Trust(_))
    }
}

/// What is in force and how it got there, for whoever asks.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) config: Arc<Config>,
    pub(super) config_loaded_at: Timestamp,
    /// Why the configuration on disk is not the one in force.
    pub(super) config_error: Option<String>,
    pub(super) registry: Arc<registry::Snapshot>,
    pub(super) registry_loaded_at: Timestamp,
    /// Why the registry on disk is not the one in force.
    pub(super) registry_error: Option<String>,
    /// Why the trust bundles on disk are not the ones in force.
    pub(super) trust_error: Option<String>,
    /// Which revocation lists do not speak for now, one sentence each.
    pub(super) mute_crls: Vec<String>,
}

/// What the director can be asked.
#[derive(Debug)]
pub(super) enum Order {
    /// Leave all doors to the process that has their sockets; told when nobody new is taken in.
    Leave(oneshot::Sender<()>),
    /// Read the configuration file and the registry again.
    Reload(oneshot::Sender<Result<Vec<String>, ReloadError>>),
    /// Share the sockets of all doors, each with the place that it was configured for.
    Sockets(oneshot::Sender<io::Result<Vec<(String, Socket)>>>),
}

/// What depends on time alone is looked at this often.
const LOOK_AROUND: Duration = Duration::from_secs(60);

/// Whether a revocation list has become too old is looked at this often.
const LOOK_AT_CRLS: Duration = Duration::from_millis(500);

/// Whether the state directory can be written is looked at this often, and what could not be taken over is tried again.
const LOOK_AT_DISK: Duration = Duration::from_secs(2);

/// After the clock was set, live connections wait no longer than this for the CA before they are looked at.
const PATIENCE: Duration = Duration::from_millis(500);

/// Everything that the director works with.
pub(super) struct Director {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) current: Current,
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    pub(super) assembly: Assembly,
    pub(super) materials: Materials,
    pub(super) registrar: Registrar,
    pub(super) attestor: Arc<KernelAttestor>,
    pub(super) plane: Plane,
    pub(super) commands: mpsc::Sender<issuance::Command>,
    pub(super) feed: Feed,
    pub(super) deliveries: Deliveries,
    pub(super) troubles: Arc<Troubles>,
    pub(super) skews: Arc<Mutex<Skews>>,
    pub(super) token_desk: TokenDesk,
    pub(super) token_updates: mpsc::Receiver<TokenUpdate>,
    /// Who fetches the keys of outside issuers, and what was found.
    pub(super) issuers: Issuers,
    pub(super) found: watch::Receiver<Found>,
    /// Keys of tokens of our own, and what was taken back.
    pub(super) token_state: TokenState,
    /// By whose word tokens of our own are believed.
    pub(super) own_tokens: TokenTrust,
    pub(super) scribe: Scribe,
    /// Why the peppers on disk are not the ones in force.
    pub(super) pepper_error: Option<String>,
}

impl Director {
    /// Follows changes until `shutdown` is done, and gives the data plane back to be drained.
    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        shutdown: impl Future<Output = ()>,
    ) -> Plane {
        tokio::pin!(shutdown);
        let (changed, mut changes) = mpsc::channel(1);
        let mut watching = Some(Watching::start(&self.materials.config, changed.clone()));
        self.note_certificates();
        // A clock of its own: other events must not put this off.
        let mut looking = tokio::time::interval(LOOK_AROUND);
        let mut ageing = tokio::time::interval(LOOK_AT_CRLS);
        let mut watching_disk = tokio::time::interval(LOOK_AT_DISK);
        let (shifted, mut shifts) = mpsc::channel(1);
        tokio::spawn(clock_watch::watch(Arc::clone(&self.clock), shifted));
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return self.plane,
                Some(shift) = shifts.recv() => self.follow_clock(shift).await,
                order = orders.recv() => match order {
                    Some(Order::Leave(reply)) => {
                        // What is written down from now on is written by the other process.
                        self.scribe.fall_silent();
                        self.plane.leave(self.materials.config.limits.drain);
                        // Whoever asked may have gone.
                        reply.send(()).unwrap_or_default();
                    }
                    Some(Order::Reload(reply)) => {
                        let outcome = self.reload_all().await;
                        drop(watching.replace(Watching::start(&self.materials.config, changed.clone())));
                        // Whoever asked may have gone.
                        drop(reply.send(outcome));
                    }
                    Some(Order::Sockets(reply)) => drop(reply.send(self.sockets())),
                    None => {}
                },
                issued = self.feed.changed() => match issued {
                    Ok(()) => self.follow_issued(),
                    Err(_) => return self.plane,
                },
                Some(update) = self.token_updates.recv() => self.follow_tokens(update),
                _ = changes.recv() => {
                    self.follow_files().await;
                }
                Ok(()) = self.found.changed() => self.follow_issuers(),
                _ = looking.tick() => self.end_old_sessions(),
                _ = ageing.tick() => self.follow_crls(),
                _ = watching_disk.tick() => {
                    self.look_at_disk();
                    self.try_again().await;
                }
            }
        }
    }

    /// Binds the first doors, those that were inherited excepted, and lets nobody in yet.
    ///
    /// # Errors
    /// A door cannot be bound.
    pub(super) fn bind_doors(&self, inheritance: &mut Inheritance) -> Result<Vec<Opening>, PlaneError> {
        let changes = config::all_doors(&self.materials.config);
        self.bind(&changes, &[], inheritance)
    }

    /// Opens the doors that were bound.
    pub(super) fn open_doors(&mut self, openings: Vec<Opening>) {
        openings.into_iter().for_each(|opening| self.plane.open(opening));
    }

    /// The sockets of all open doors, each under the place that it was configured for.
    fn sockets(&self) -> io::Result<Vec<(String, Socket)>> {
        let config = &self.materials.config;
        let mut placed = Vec::new();
        let sockets = self.plane.sockets()?;
        for change in config::all_doors(config) {
            let (door, place) = match change {
                Change::OpenTcp(door, address) => (door.clone(), inheritance::tcp(&door, address)),
                Change::OpenUnix(door, path) => (door, inheritance::unix(&path)),
                Change::Close(_) | Change::Issuance | Change::Rename(..) | Change::Workloads => continue,
            };
            for (_, sockets) in sockets.iter().filter(|(other, _)| *other == door) {
                for socket in sockets {
                    placed.push((place.clone(), socket.share()?));
                }
            }
        }
        Ok(placed)
    }

    /// Binds what `changes` open; the doors that are open now may be followed by others at their addresses.
    fn bind(
        &self,
        changes: &[Change],
        open: &[Change],
        inheritance: &mut Inheritance,
    ) -> Result<Vec<Opening>, PlaneError> {
        let claim = |address: SocketAddr| {
            let is_ours = |change: &Change| matches!(change, Change::OpenTcp(_, held) if *held == address);
            if open.iter().any(is_ours) { Claim::Heir } else { Claim::Sole }
        };
        let mut openings = Vec::new();
        for change in changes {
            let (door, sockets) = match change {
                Change::OpenTcp(door, address) => {
                    let inherited = inheritance.take_door(door, &inheritance::tcp(door, *address));
                    (door, inherited.map_or_else(|| self.plane.bind_tcp(*address, claim(*address)), Ok)?)
                }
                Change::OpenUnix(door, path) => {
                    let inherited = inheritance.take_door(door, &inheritance::unix(path));
                    (door, inherited.map_or_else(|| self.plane.bind_unix(path), Ok)?)
                }
                Change::Close(_) | Change::Issuance | Change::Rename(..) | Change::Workloads => continue,
            };
            openings.push(self.plane.share_out(door.clone(), sockets)?);
        }
        Ok(openings)
    }

    fn follow_issued(&mut self) {
        let issued = Arc::clone(&self.feed.borrow_and_update());
        let before = self.materials.clone();
        let next = Materials { issued: Arc::clone(&issued), ..before.clone() };
        let published = if issued.bundle == before.issued.bundle {
            self.publish(next)
        } else {
            let bundles = trust::bundles(&issued.bundle, &next.config.trust).map_err(ReloadError::from);
            let published = bundles
                .and_then(|bundles| self.publish(Materials { bundles: Arc::new(bundles), ..next.clone() }));
            published.or_else(|error| {
                if !error.is_about_roots() {
                    return Err(error);
                }
                // What is wrong with somebody else's roots must not hold back our own, nor what is issued below them.
                self.reject_trust(&[error]);
                let bundles = trust::renewed(&before.bundles, &before.issued.bundle, &issued.bundle);
                self.publish(Materials { bundles: Arc::new(bundles), ..next })
            })
        };
        match published {
            Ok(()) => {
                self.note_certificates();
                let (before, after) = (&before.issued.hierarchy, &self.materials.issued.hierarchy);
                self.scribe.note_authorities(before, after, self.clock.now());
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "new certificates cannot be put into force")
            }
        }
    }

    /// Puts other token keys and withdrawals into force, and tells whoever waits for it. Live connections need not be looked at:
    /// every request is held against the snapshot that is in force when it comes.
    fn follow_tokens(&mut self, update: TokenUpdate) {
        let TokenUpdate { state, done } = update;
        self.own_tokens = state.trust(&self.materials.config);
        let (ring, tokens) = (Arc::clone(&state.ring), Arc::new(self.tokens(&self.materials.config)));
        let next = Materials { ring, tokens, ..self.materials.clone() };
        self.token_state = state;
        match self.assembly.assemble(&next) {
            Ok(snapshot) => {
                self.current.store(Arc::new(snapshot));
                self.materials = next;
                // Whoever asked may have gone.
                done.into_iter().for_each(|(reply, outcome)| drop(reply.send(outcome)));
            }
            // Whoever waits learns that nobody answers.
            Err(error) => tracing::error!(error = %Causes(&error), "token keys cannot be put into force"),
        }
    }

    /// Looks at everything that depends on the time of day again: first the certificates, then whoever rests on them.
    async fn follow_clock(&mut self, shift: Shift) {
        if let Some(set) = shift.set {
            self.metrics.count_clock_step(set.direction());
            tracing::warn!(by = %set, now = %self.clock.now(), "the clock was set; every deadline is looked at again");
        }
        if let Some(slept) = shift.slept {
            self.metrics.count_clock_step("suspend");
            tracing::warn!(?slept, now = %self.clock.now(), "the machine has slept; every deadline is looked at again");
        }
        self.skews.lock().unwrap_or_else(PoisonError::into_inner).forget();
        let (reply, done) = oneshot::channel();
        if self.commands.send(issuance::Command::LookAround { reply }).await.is_ok() {
            // Whatever keeps the CA busy must not let a connection outlive its certificate.
            drop(tokio::time::timeout(PATIENCE, done).await);
        }
        if self.feed.has_changed().unwrap_or(false) {
            self.follow_issued();
        }
        self.end_old_sessions();
        self.plane.announce_change();
    }

    /// Tells whether the state directory can be written, and makes up for what could not be made at the start.
    fn look_at_disk(&mut self) {
        let state_dir = &self.materials.config.state_dir;
        let obstacle = disk::obstacle(state_dir);
        self.metrics.state_writable.set(i64::from(obstacle.is_none()));
        if let Some(why) = obstacle {
            let told = format!(
                "{} cannot be written: {why}; certificates are issued, but no authority can be replaced and nothing revoked",
                state_dir.display()
            );
            if self.troubles.note(Trouble::State, told) {
                tracing::error!(path = %state_dir.display(), why, "the state directory cannot be written");
            }
            return;
        }
        self.scribe.look_again();
        if self.troubles.clear(Trouble::State) {
            tracing::info!(path = %state_dir.display(), "the state directory can be written again");
        }
        if self.troubles.has(Trouble::Peppers) {
            self.make_peppers();
        }
    }

    async fn follow_files(&mut self) {
        // First, for what is on file may be hashed under a new one.
        self.follow_peppers();
        self.follow_registry();
        self.follow_trust().await;
    }

    /// Takes over what could not be: the cause may be gone, such as a lack of descriptors, though no file has changed since.
    async fn try_again(&mut self) {
        let is_behind = {
            let state = self.in_force.load();
            state.registry_error.is_some() || state.trust_error.is_some()
        };
        if is_behind || self.pepper_error.is_some() {
            self.follow_files().await;
        }
    }

    fn make_peppers(&mut self) {
        let made = pepper_file::load_or_create(&self.materials.config.state_dir, &SystemRandom::new());
        let made = made.map_err(|error| Causes(&error).to_string()).and_then(|secrets| {
            let next = Materials { peppers: Arc::new(Peppers::new(secrets)), ..self.materials.clone() };
            self.publish(next).map_err(|error| Causes(&error).to_string())
        });
        match made {
            Ok(()) => {
                tracing::info!("peppers made");
                self.troubles.clear(Trouble::Peppers);
            }
            Err(error) => tracing::warn!(error, "peppers not made"),
        }
    }

    /// Puts the keys of outside issuers into force as they were found last.
    fn follow_issuers(&mut self) {
        let troubles = self.found.borrow_and_update().troubles();
        if troubles.is_empty() {
            self.troubles.clear(Trouble::Issuers);
        } else {
            self.troubles.note(Trouble::Issuers, troubles.join("; "));
        }
        let tokens = self.tokens(&self.materials.config);
        let next = Materials { tokens: Arc::new(tokens), ..self.materials.clone() };
        if let Err(error) = self.publish(next) {
            tracing::error!(error = %Causes(&error), "the keys of issuers cannot be put into force");
        }
    }

    /// By whose word tokens are believed under `config`.
    fn tokens(&self, config: &Config) -> TokenTrust {
        self.found.borrow().believe(config, self.own_tokens.clone())
    }

    /// Takes over peppers that were added or thrown away. Where they cannot be read, those in force stay.
    fn follow_peppers(&mut self) {
        let error = self.take_peppers().err();
        if let Some(error) = &error
            && self.pepper_error.as_ref() != Some(error)
        {
            tracing::error!(error, "the peppers on disk cannot be put into force; the last good ones stay");
        }
        self.pepper_error = error;
    }

    fn take_peppers(&mut self) -> Result<(), String> {
        let secrets = pepper_file::load(&self.materials.config.state_dir);
        let secrets = secrets.map_err(|error| Causes(&error).to_string())?;
        if secrets.is_empty() {
            return Ok(());
        }
        let next = Arc::new(Peppers::new(secrets));
        if next.versions().eq(self.materials.peppers.versions()) {
            return Ok(());
        }
        let all = |peppers: &Peppers| peppers.versions().collect::<Vec<_>>().join(", ");
        let (former, versions) = (all(&self.materials.peppers), all(&next));
        self.publish(Materials { peppers: next, ..self.materials.clone() })
            .map_err(|error| Causes(&error).to_string())?;
        tracing::info!(versions, "peppers in force");
        let fill = |event: &mut AuditEvent| {
            (event.before, event.after) = (Some(former), Some(versions));
        };
        self.scribe.note("pepper.follow", "peppers", fill, self.clock.now());
        Ok(())
    }

    fn follow_registry(&mut self) {
        let now = self.clock.now();
        // The last that was told of: a reload of the configuration may have put another one into force since.
        let former = Arc::clone(&self.in_force.load().registry);
        let outcome = self.registrar.follow(now).map_err(ReloadError::from).and_then(|()| {
            let registry = Arc::clone(self.registrar.snapshot());
            if registry.version() != self.materials.registry.version() {
                self.publish(Materials { registry, ..self.materials.clone() })?;
            }
            Ok(self.materials.registry.version() != former.version())
        });
        let trouble = self.in_force.load().registry_error.clone();
        match outcome {
            Ok(is_new) => {
                if is_new || trouble.is_some() {
                    self.note_registry(now);
                    let registry = &self.materials.registry;
                    let fill = |event: &mut AuditEvent| {
                        event.before = Some(former.version().to_owned());
                        event.after = Some(registry.version().to_owned());
                        event.detail = Some(former.changes_to(registry).to_string());
                        event.registry.clone_from(&event.after);
                    };
                    self.scribe.note("registry.reload", "registry", fill, now);
                }
                self.update(|state| state.registry_error = None);
            }
            Err(error) => {
                let error = Causes(&error).to_string();
                if trouble.as_ref() != Some(&error) {
                    self.metrics.count_reload(false);
                    self.metrics.registry_current.set(0);
                    tracing::error!(
                        problems = error,
                        "the registry on disk is wrong; the last good one stays in force"
                    );
                    let fill = |event: &mut AuditEvent| {
                        event.outcome = AuditOutcome::Failed;
                        event.registry = Some(former.version().to_owned());
                        event.detail = Some(error.clone());
                    };
                    self.scribe.note("registry.reload", "registry", fill, now);
                }
                self.update(|state| state.registry_error = Some(error));
            }
        }
    }

    fn note_registry(&self, now: Timestamp) {
        let registry = &self.materials.registry;
        self.metrics.count_reload(true);
        self.metrics.registry_current.set(1);
        self.metrics.registry_apps.set(i64::try_from(registry.counts().apps).unwrap_or(i64::MAX));
        tracing::info!(version = registry.version(), apps = registry.counts().apps, "registry in force");
        self.update(|state| {
            state.registry = Arc::clone(registry);
            state.registry_loaded_at = now;
        });
    }

    async fn follow_trust(&mut self) {
        let (mut next, mut errors) = (self.materials.clone(), Vec::new());
        let config = Arc::clone(&next.config);
        // Each for itself: what is wrong with one file must not hold back what another one revokes.
        match trust::bundles(&next.issued.bundle, &config.trust) {
            Ok(bundles) if bundles != *next.bundles => next.bundles = Arc::new(bundles),
            Ok(_) => (),
            Err(error) => errors.push(error.into()),
        }
        match revocation_file::load(&config.state_dir) {
            Ok(revocations) if revocations != *next.revocations => next.revocations = Arc::new(revocations),
            Ok(_) => (),
            Err(error) => errors.push(error.into()),
        }
        let (withheld, problems) = revoked_dir::read(&config.revoked_dirs, &next.withheld);
        if withheld != *next.withheld {
            next.withheld = Arc::new(withheld);
        }
        errors.extend(problems.into_iter().map(ReloadError::from));
        let (crls, problems) = trust::crls(&config.trust, &next.bundles, &next.crls, self.clock.now());
        next.crls = crls;
        errors.extend(problems.into_iter().map(ReloadError::from));
        let before = self.materials.clone();
        if !is_same_trust(&before, &next) {
            let outcome = self.publish(next.clone()).or_else(|error| {
                errors.push(error);
                self.publish(Materials { bundles: Arc::clone(&before.bundles), ..next })
            });
            match outcome {
                Ok(()) => self.note_trust(&before).await,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            self.update(|state| state.trust_error = None);
        } else {
            self.reject_trust(&errors);
        }
        self.follow_crls();
    }

    /// Tells who has to know that other certificates are believed than `before`.
    async fn note_trust(&self, before: &Materials) {
        tracing::info!(revoked = self.materials.revocations.iter().len(), "trust in force");
        let now = self.clock.now();
        if !Arc::ptr_eq(&before.bundles, &self.materials.bundles) {
            let detail = Ok("other trust bundles are in force".to_owned());
            self.scribe.note_taken_over(("trust.reload", "bundles"), detail, now);
        }
        if !Arc::ptr_eq(&before.revocations, &self.materials.revocations) {
            let fill = |event: &mut AuditEvent| {
                let count =
                    |materials: &Materials| Some(format!("{} revoked", materials.revocations.iter().len()));
                (event.before, event.after) = (count(before), count(&self.materials));
            };
            self.scribe.note("trust.reload", "revocations", fill, now);
        }
        if !Arc::ptr_eq(&before.withheld, &self.materials.withheld) {
            let count = |materials: &Materials| Some(format!("{} withheld", materials.withheld.len()));
            let fill = |event: &mut AuditEvent| {
                (event.before, event.after) = (count(before), count(&self.materials));
            };
            self.scribe.note("trust.reload", "revoked", fill, now);
        }
        if !Arc::ptr_eq(&before.crls, &self.materials.crls) {
            let detail = Ok("other revocation lists are in force".to_owned());
            self.scribe.note_taken_over(("trust.reload", "crls"), detail, now);
        }
        if !Arc::ptr_eq(&before.revocations, &self.materials.revocations) {
            // The owner of the CA reads for itself, so that it never goes back behind what it has written.
            if self.commands.send(issuance::Command::Revoked).await.is_err() {
                return;
            }
        }
        self.replace_revoked().await;
    }

    /// Takes the verdict on live connections again when a revocation list ceases to speak, or speaks again.
    fn follow_crls(&self) {
        let now = self.clock.now();
        let (set, was_mute) = (&self.materials.crls.set, &self.in_force.load().mute_crls);
        let mut mute = Vec::new();
        for (domain, next_update, sentences) in set.standing(now) {
            let next_update = next_update.map(Timestamp::unix).unwrap_or_default();
            self.metrics.set_crls(domain.as_str(), next_update, sentences.len());
            mute.extend(sentences);
        }
        if mute == *was_mute {
            return;
        }
        for sentence in mute.iter().filter(|sentence| !was_mute.contains(sentence)) {
            tracing::error!(reason = sentence, "a revocation list does not speak for now");
        }
        self.plane.announce_change();
        self.update(|state| state.mute_crls = mute);
    }

    /// Gives workloads of ours whose certificate or key was revoked a fresh one.
    async fn replace_revoked(&self) {
        let verifier = Arc::clone(&self.current.load().verifier);
        for (workload, svid) in &self.materials.issued.svids {
            let Err(VerifyError::Revoked(revoked)) =
                verifier.verify(&svid.chain, Usage::Client, self.clock.now())
            else {
                continue;
            };
            tracing::warn!(%workload, %revoked, "a certificate of this host is revoked");
            if matches!(revoked, Revoked::SpiffeId(_)) {
                continue;
            }
            let (reply, _) = oneshot::channel();
            let command = issuance::Command::IssueNow { workload: workload.clone(), reply };
            if self.commands.send(command).await.is_err() {
                return;
            }
        }
    }

    /// Makes TLS anew before a session that could be resumed becomes too old.
    fn end_old_sessions(&mut self) {
        if self.assembly.is_stale()
            && let Err(error) = self.publish(self.materials.clone())
        {
            tracing::error!(error = %Causes(&error), "TLS cannot be made anew");
        }
    }

    fn reject_trust(&self, errors: &[ReloadError]) {
        let error = errors.iter().map(|error| Causes(error).to_string()).collect::<Vec<_>>().join("; ");
        if self.in_force.load().trust_error.as_ref() == Some(&error) {
            return;
        }
        self.metrics.count_reload(false);
        tracing::error!(
            error,
            "what is trusted or revoked on disk is wrong; the last good state stays in force"
        );
        if self.in_force.load().trust_error.as_ref() != Some(&error) {
            let why = Err(error.clone());
            self.scribe.note_taken_over(("trust.reload", "trust"), why, self.clock.now());
        }
        self.update(|state| state.trust_error = Some(error));
    }

    async fn reload_all(&mut self) -> Result<Vec<String>, ReloadError> {
        let outcome = self.reload_config().await;
        let now = self.clock.now();
        match &outcome {
            Ok(changes) => {
                self.metrics.count_reload(true);
                tracing::info!("configuration in force");
                self.scribe.note_taken_over(("config.reload", "config"), Ok(changes.join("; ")), now);
                let config = Arc::clone(&self.materials.config);
                self.update(|state| {
                    state.config = config;
                    state.config_loaded_at = now;
                    state.config_error = None;
                });
            }
            Err(error) => {
                self.metrics.count_reload(false);
                let error = Causes(error).to_string();
                tracing::error!(
                    problems = error,
                    "the configuration on disk cannot be put into force; the last good one stays"
                );
                self.scribe.note_taken_over(("config.reload", "config"), Err(error.clone()), now);
                self.update(|state| state.config_error = Some(error));
            }
        }
        self.follow_registry();
        outcome
    }

    /// Everything that can fail is done before anything is changed.
    async fn reload_config(&mut self) -> Result<Vec<String>, ReloadError> {
        let old = Arc::clone(&self.materials.config);
        let ordered_environment = old.ordered_environment.clone();
        let new = Arc::new(Config { ordered_environment, ..config::load(&old.path)? });
        let changes = config::plan(&old, &new).map_err(ReloadError::Restart)?;
        let registrar = self.registrar.reopen(&new.registry_dirs, self.clock.now())?;
        let registry = Arc::clone(registrar.snapshot());
        trust::bundles(&self.materials.issued.bundle, &new.trust)?;
        let withheld = if old.revoked_dirs == new.revoked_dirs {
            Arc::clone(&self.materials.withheld)
        } else {
            Arc::new(trust::withheld(&new)?)
        };
        let openings = self.bind(&changes, &config::all_doors(&old), &mut Inheritance::default())?;
        if changes.contains(&Change::Issuance) {
            self.configure_issuance(&new).await?;
        }
        // Not marked as seen, so that it is followed in any case, whatever comes of this.
        let issued = Arc::clone(&self.feed.borrow());
        // Not before: a new root may have come with what was issued.
        let bundles = match trust::bundles(&issued.bundle, &new.trust) {
            Ok(bundles) if bundles == *self.materials.bundles => Arc::clone(&self.materials.bundles),
            Ok(bundles) => Arc::new(bundles),
            Err(error) => {
                self.configure_issuance(&old).await?;
                return Err(error.into());
            }
        };
        let crls = match trust::all_crls(&new.trust, &bundles, &self.materials.crls, self.clock.now()) {
            Ok(crls) => crls,
            Err(error) => {
                self.configure_issuance(&old).await?;
                return Err(error.into());
            }
        };
        let config = Arc::clone(&new);
        let before = std::mem::replace(&mut self.own_tokens, self.token_state.trust(&config));
        let tokens = Arc::new(self.tokens(&config));
        let materials =
            Materials { config, issued, bundles, crls, registry, withheld, tokens, ..self.materials.clone() };
        if let Err(error) = self.publish(materials) {
            self.own_tokens = before;
            self.configure_issuance(&old).await?;
            return Err(error);
        }
        self.registrar = registrar;
        if old.issuers != new.issuers {
            self.issuers.follow(&new);
        }
        if changes.contains(&Change::Workloads) || changes.contains(&Change::Issuance) {
            self.attestor.follow(&new.workloads).map_err(|_| ReloadError::Selectors)?;
            self.deliveries.follow(&new, &self.feed);
        }
        for change in &changes {
            if let Change::Close(door) = change {
                self.plane.close(door);
            }
        }
        if let Err(error) = self.token_desk.configure(new.tokens.as_ref().map(|tokens| tokens.keys)) {
            tracing::error!(%error, "the keeper of token keys goes by the former settings");
        }
        let rename = |change: &Change| match change {
            Change::Rename(from, to) => Some((from.clone(), to.clone())),
            Change::Close(_)
            | Change::Issuance
            | Change::OpenTcp(..)
            | Change::OpenUnix(..)
            | Change::Workloads => None,
        };
        self.plane.rename(&changes.iter().filter_map(rename).collect::<Vec<_>>());
        self.open_doors(openings);
        Ok(changes.iter().map(ToString::to_string).collect())
    }

    async fn configure_issuance(&self, config: &Config) -> Result<(), ReloadError> {
        let (reply, done) = oneshot::channel();
        let settings = Box::new(config.issuance.clone());
        let command = issuance::Command::Configure { settings, reply };
        self.commands.send(command).await.map_err(|_| ReloadError::Stopping)?;
        Ok(done.await.map_err(|_| ReloadError::Stopping)??)
    }

    fn publish(&mut self, materials: Materials) -> Result<(), ReloadError> {
        let snapshot = self.assembly.assemble(&materials)?;
        if !Arc::ptr_eq(&self.materials.crls, &materials.crls) {
            self.metrics.clear_crls();
        }
        self.current.store(Arc::new(snapshot));
        self.plane.announce_change();
        self.deliveries.acknowledge_doors(&materials.config, &materials.bundles);
        self.materials = materials;
        Ok(())
    }

    fn update(&self, change: impl FnOnce(&mut InForce)) {
        let mut state = InForce::clone(&self.in_force.load());
        change(&mut state);
        self.in_force.store(Arc::new(state));
    }

    fn note_certificates(&self) {
        let issued = &self.materials.issued;
        self.metrics.clear_certificates();
        for (workload, svid) in &issued.svids {
            if let Some(renewal) = issued.renewals.get(workload) {
                let (next, last) = (renewal.next_rotation_at.unix(), renewal.last_success.unix());
                self.metrics.set_certificate(
                    workload.as_str(),
                    svid.not_after.unix(),
                    next,
                    last,
                    renewal.overdue,
                );
            }
        }
        let hierarchy = &issued.hierarchy;
        for (level, renewal) in [("root", &hierarchy.roll_over), ("issuing", &hierarchy.rotation)] {
            self.metrics.set_rotation(level, renewal.next_rotation_at.unix(), renewal.overdue);
        }
        self.metrics.awaits_signature.set(i64::from(hierarchy.awaiting.is_some()));
        let shortened = i64::try_from(hierarchy.shortened.len()).unwrap_or(i64::MAX);
        self.metrics.certificates_shortened.set(shortened);
        for authority in issued.hierarchy.roots.iter().chain(&issued.hierarchy.issuing) {
            let (level, slot) = (authority.level.as_str(), authority.slot.as_str());
            self.metrics.set_authority(authority.id.as_str(), level, slot, authority.not_after.unix());
        }
    }
}

fn is_same_trust(one: &Materials, other: &Materials) -> bool {
    Arc::ptr_eq(&one.bundles, &other.bundles)
        && Arc::ptr_eq(&one.revocations, &other.revocations)
        && Arc::ptr_eq(&one.withheld, &other.withheld)
        && Arc::ptr_eq(&one.crls, &other.crls)
}

/// A watch over the files of one configuration; ends when it is dropped.
struct Watching(AbortHandle);

impl Watching {
    fn start(config: &Config, changed: mpsc::Sender<()>) -> Self {
        let bundles = config.trust.iter().map(|bundle| bundle.path.clone());
        let crls = config.trust.iter().filter_map(|bundle| Some(bundle.crl.as_ref()?.path.clone()));
        let own = [revocation_file::path(&config.state_dir), pepper_file::path(&config.state_dir)];
        let files = bundles.chain(crls).chain(own).collect();
        let folders = config.registry_dirs.iter().chain(&config.revoked_dirs).cloned().collect();
        let watched = Watched { files, folders };
        Self(tokio::spawn(config::watch(watched, changed)).abort_handle())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The deliveries of files that are under way.
pub(super) struct Deliveries {
    clock: Arc<dyn Clock>,
    statuses: Statuses,
    acknowledgements: watch::Sender<Acknowledgements>,
    running: JoinSet<()>,
}

impl Deliveries {
    /// No delivery yet; what readers have taken is told to `acknowledgements`.
    pub(super) fn new(clock: Arc<dyn Clock>, acknowledgements: watch::Sender<Acknowledgements>) -> Self {
        let (statuses, _) = watch::channel(BTreeMap::new());
        Self { clock, statuses, acknowledgements, running: JoinSet::new() }
    }

    /// Tells that every door of `config` goes by `bundles`.
    pub(super) fn acknowledge_doors(&self, config: &Config, bundles: &BundleSet) {
        let Some(bundle) = bundles.get(&config.issuance.domain) else { return };
        let now = self.clock.now();
        self.acknowledgements.send_modify(|all| {
            all.expect(readers(config).chain(doors(config)), now);
            doors(config).for_each(|door| all.acknowledge(&door, bundle.sequence, now));
        });
    }

    /// How the deliveries stand.
    pub(super) fn statuses(&self) -> watch::Receiver<BTreeMap<WorkloadId, crate::workload::DeliveryStatus>> {
        self.statuses.subscribe()
    }

    /// Delivers as `config` says, instead of as before.
    pub(super) fn follow(&mut self, config: &Config, feed: &Feed) {
        self.running.abort_all();
        self.running = JoinSet::new();
        let is_read = |workload: &WorkloadId| {
            config.workloads.get(workload).is_some_and(|settings| settings.files.is_some())
        };
        self.statuses.send_modify(|statuses| statuses.retain(|workload, _| is_read(workload)));
        let consumers = readers(config).chain(doors(config));
        self.acknowledgements.send_modify(|all| all.expect(consumers, self.clock.now()));
        for (workload, settings) in &config.workloads {
            if let Some(files) = &settings.files {
                let delivery = Delivery {
                    workload: workload.clone(),
                    settings: Arc::new(files.clone()),
                    clock: Arc::clone(&self.clock),
                    statuses: self.statuses.clone(),
                    acknowledgements: self.acknowledgements.clone(),
                };
                self.running.spawn(delivery.run(feed.clone()));
            }
        }
    }

    /// Waits until every workload has had its first files, or `within` has passed.
    pub(super) async fn first(&self, count: usize, within: Duration) {
        let mut statuses = self.statuses.subscribe();
        let all = statuses.wait_for(|statuses| statuses.len() >= count);
        drop(tokio::time::timeout(within, all).await);
    }
}

/// The workloads whose files somebody reads.
fn readers(config: &Config) -> impl Iterator<Item = Consumer> {
    let read = config.workloads.iter().filter(|(_, settings)| settings.files.is_some());
    read.map(|(workload, _)| Consumer::Files(workload.clone()))
}

/// The agent's own doors.
fn doors(config: &Config) -> impl Iterator<Item = Consumer> {
    let listeners = config.listeners.iter().map(|listener| Consumer::Listener(listener.id.clone()));
    listeners.chain(config.remotes.iter().map(|remote| Consumer::Remote(remote.id.clone())))
}
