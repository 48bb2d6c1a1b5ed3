//! Issues, renews and rotates: owns the local CA, and is the only half of the renewal that sleeps.
//!
//! What is due is decided by the injected [`Clock`], looked at anew every few seconds and whenever somebody has noticed that the
//! clock was stepped or the machine suspended; the runtime's timer only says when to look. Every change is stored before it is published, and
//! published in one piece.
//!
//! **Invariant:** a failure never takes anything away. Whatever cannot be renewed stays as it is and is tried again; what was
//! published stays published until something better takes its place.

mod authorities;
mod lists;
mod revoking;
mod succession;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::id::{AuthorityId, WorkloadId};
use crate::identity::{SpiffeId, TrustDomain};
use crate::issuance::acknowledgements::Acknowledgements;
use crate::issuance::change::{AuthorityRevocation, Change, Changed, Run};
use crate::issuance::feed::{Feed, HierarchyView, Issued, RenewalView};
use crate::issuance::second_opinion::{self, SecondOpinionError};
use crate::issuance::subordinate::{
    InstallOrder, Installed, ReadyRequest, SignOrder, Signed, Wanted, ready_request, sign,
};
use crate::pki::{
    Authority, AuthorityError, AuthorityPlan, ChainError, Hierarchy, HierarchyError, IssueError, IssuedLeaf,
    KeyAlgorithm, KeySource, Level, Lifetimes, LifetimesError, PreflightError, Profile, Renewal,
    RequestError, Revocations, Revoked, Rng, Slot, Step, SystemRng, X509Svid, issue, preflight,
};
use crate::store::issue_journal::IssueJournal;
use crate::store::revocation_file::{self, RevocationError};
use crate::store::{AuthorityDir, StoreError};

use lists::Lists;

pub use succession::install_at_rest;

/// Where the root is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Here: the agent makes both levels of the CA itself.
    Standalone,
    /// Elsewhere: this host has issuing authorities only, which are signed where the root is.
    Subordinate,
}

/// What the CA is to be, and whom it gives an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The trust domain of every identity.
    pub domain: TrustDomain,
    /// Where the root is. If it is elsewhere, that decides how long a root and an issuing authority live.
    pub mode: Mode,
    /// How long a new root lives.
    pub root_ttl: Duration,
    /// How long a new issuing authority lives.
    pub issuing_ttl: Duration,
    /// How long a new root is made known before it signs: others need that long to fetch it.
    pub distribute: Duration,
    /// The kind of key that new authorities get.
    pub algorithm: KeyAlgorithm,
    /// How far before now an authority's validity begins.
    pub backdate: Duration,
    /// For how long a revocation list speaks. The next one is there at half of that.
    pub crl_ttl: Duration,
    /// The OpenSSL that judges a new authority, too, if one is to be asked.
    pub second_opinion: Option<PathBuf>,
    /// What each workload's identity is to say; the agent itself is one of them.
    pub workloads: BTreeMap<WorkloadId, Profile>,
}

impl Settings {
    /// Whether the lifetimes hold together and every workload belongs to the trust domain.
    pub fn check(&self) -> Result<(), IssuanceError> {
        for (workload, profile) in &self.workloads {
            let Self { issuing_ttl: issuing, root_ttl: root, .. } = *self;
            let held = match self.mode {
                Mode::Standalone => Lifetimes { leaf: profile.ttl, issuing, root }
                    .check()
                    .and_then(|()| Lifetimes::check_backdates(profile.backdate, self.backdate)),
                // How long the issuing authority lives is known when it is there.
                Mode::Subordinate => Lifetimes::check_leaf(profile.ttl, Duration::MAX),
            };
            held.map_err(|source| IssuanceError::Lifetimes { workload: Some(workload.clone()), source })?;
            if profile.spiffe_id.trust_domain() != self.domain {
                return Err(IssuanceError::ForeignWorkload {
                    workload: workload.clone(),
                    spiffe_id: profile.spiffe_id.clone(),
                    domain: self.domain.clone(),
                });
            }
        }
        if self.mode == Mode::Subordinate {
            return Ok(());
        }
        let authorities = Lifetimes { leaf: SHORTEST_LEAF, issuing: self.issuing_ttl, root: self.root_ttl };
        authorities
            .check()
            .and_then(|()| authorities.check_distribution(self.distribute))
            .map_err(|source| IssuanceError::Lifetimes { workload: None, source })
    }

    fn root_plan<'k>(&self, keys: &'k dyn KeySource) -> AuthorityPlan<'k> {
        AuthorityPlan { keys, algorithm: self.algorithm, ttl: self.root_ttl, backdate: self.backdate }
    }

    fn issuing_plan<'k>(&self, keys: &'k dyn KeySource) -> AuthorityPlan<'k> {
        AuthorityPlan { keys, algorithm: self.algorithm, ttl: self.issuing_ttl, backdate: self.backdate }
    }

    pub(super) fn longest_leaf(&self) -> Duration {
        self.workloads.values().map(|profile| profile.ttl).max().unwrap_or_default()
    }
}

/// Why the CA could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IssuanceError {
    /// What came back for a request is of no use.
    #[error("this cannot be installed; nothing was changed")]
    Chain(#[from] ChainError),
    /// There is nothing left that could sign.
    #[error(
        "the issuing authority {id} expired {not_after}, and the root signs elsewhere: `postern ca csr > request.pem`, have it \
         signed where the root is (`postern ca sign request.pem > chain.pem`), then `postern ca install chain.pem`"
    )]
    Expired {
        /// Which one.
        id: AuthorityId,
        /// When.
        not_after: Timestamp,
    },
    /// A certificate is wanted for somebody of another trust domain.
    #[error("{spiffe_id} is not of the trust domain {domain}, whose CA this is")]
    Foreign {
        /// For whom.
        spiffe_id: SpiffeId,
        /// Whose CA this is.
        domain: TrustDomain,
    },
    /// A workload of another trust domain.
    #[error(
        "the workload {workload} has the identity {spiffe_id}, which is not of the trust domain {domain}"
    )]
    ForeignWorkload {
        /// Which workload.
        workload: WorkloadId,
        /// What it was to be.
        spiffe_id: SpiffeId,
        /// Whose CA this is.
        domain: TrustDomain,
    },
    /// An authority cannot be made or moved.
    #[error("cannot replace the authority")]
    Hierarchy(#[from] HierarchyError),
    /// A leaf cannot be issued.
    #[error("cannot issue an identity for the workload {workload}")]
    Issue {
        /// For whom.
        workload: WorkloadId,
        /// Why not.
        #[source]
        source: IssueError,
    },
    /// A leaf cannot be issued.
    #[error("cannot issue the certificate")]
    IssueOnce(#[source] IssueError),
    /// Lifetimes that do not hold together.
    #[error("the lifetimes do not fit{}", workload.as_ref().map(|workload| format!(" (workload {workload})")).unwrap_or_default())]
    Lifetimes {
        /// Whose leaf it is about, if it is about a leaf.
        workload: Option<WorkloadId>,
        /// What does not fit.
        #[source]
        source: LifetimesError,
    },
    /// More new roots than one.
    #[error("only one root can be prepared at a time, found more than one that is not known here yet")]
    ManyRoots,
    /// Nothing waits for a certificate.
    #[error(
        "no request waits here for its certificate: only what was signed for the request of `postern ca csr` can be installed"
    )]
    NoRequest,
    /// Somebody would be left behind.
    #[error("{id} is not known to everyone yet; it waits for {}", waits_for.join(", "))]
    NotAcknowledged {
        /// Which authority.
        id: AuthorityId,
        /// Who does not know it, one phrase each.
        waits_for: Vec<String>,
    },
    /// There is no authority, and none is made here.
    #[error(
        "no issuing authority is installed in {}, and with `mode = \"subordinate\"` none is made here: `postern ca csr > \
         request.pem`, have it signed where the root is (`postern ca sign request.pem > chain.pem`), then `postern ca install \
         chain.pem`",
        path.display()
    )]
    NotInstalled {
        /// The state directory.
        path: PathBuf,
    },
    /// This host needs nobody to sign for it.
    #[error(
        "this host makes its issuing authorities itself; to have them signed elsewhere, set `mode = \"subordinate\"` in \
         [authority]"
    )]
    NotSubordinate,
    /// There is nothing that it could be about.
    #[error("no {level} is {slot}")]
    Nothing {
        /// On which level.
        level: Level,
        /// In which slot.
        slot: Slot,
    },
    /// The CA on disk belongs to another trust domain.
    #[error(
        "{} holds the CA of the trust domain {stored}, the configuration says {configured}: correct the configuration, or use \
         another state directory",
        path.display()
    )]
    OtherDomain {
        /// The state directory.
        path: PathBuf,
        /// Whose CA is there.
        stored: TrustDomain,
        /// Whose it should be.
        configured: TrustDomain,
    },
    /// A new authority is of no use.
    #[error("the new authority was tried out and is of no use; nothing was changed")]
    Preflight(#[from] PreflightError),
    /// Somebody else does not believe what a new authority signs.
    #[error("the new authority was tried out and is of no use to others; nothing was changed")]
    SecondOpinion(#[from] SecondOpinionError),
    /// A request that must not be signed.
    #[error("the request is not signed")]
    Refused(#[from] RequestError),
    /// A request cannot be made.
    #[error("cannot make a request")]
    Request(#[source] AuthorityError),
    /// An issuing authority of another host cannot be signed.
    #[error("cannot sign the issuing authority")]
    Sign(#[source] AuthorityError),
    /// A root that would have to be made here.
    #[error(
        "with `mode = \"subordinate\"` no root is made here: install the next one with `postern ca install --root-only`, or with \
         the first chain that leads to it"
    )]
    RootElsewhere,
    /// The CA cannot be read or written.
    #[error("cannot use the stored CA")]
    Store(#[from] StoreError),
    /// It is revoked, or what it stands under is.
    #[error("{id} cannot sign again: {revoked} is revoked")]
    Revoked {
        /// Which authority.
        id: AuthorityId,
        /// By what.
        revoked: Revoked,
    },
    /// What is revoked cannot be read or written.
    #[error("cannot use the list of what is revoked")]
    Revocations(#[from] RevocationError),
    /// It expires too soon to be of use again.
    #[error("{id} expires {not_after}, too soon for the certificates of this host")]
    TooOld {
        /// Which authority.
        id: AuthorityId,
        /// When its issuing authority ends.
        not_after: Timestamp,
    },
    /// An authority that is not there.
    #[error("there is no {level} {id}")]
    UnknownAuthority {
        /// On which level it was looked for.
        level: Level,
        /// Its name.
        id: AuthorityId,
    },
    /// A workload that is not configured.
    #[error("there is no workload {0}")]
    UnknownWorkload(WorkloadId),
}

/// What the owner of the CA can be asked. The answer comes when it is done, stored and published.
#[derive(Debug)]
pub enum Command {
    /// Move an authority from slot to slot. What signs from then on has signed every identity by the time of the answer.
    Change {
        /// What to do.
        change: Change,
        /// What was done.
        reply: Reply<Changed>,
    },
    /// Follow other settings: identities that are new or to change are issued, others are left alone. All or nothing.
    Configure {
        /// The new settings.
        settings: Box<Settings>,
        /// Whether they are followed.
        reply: Reply<()>,
    },
    /// Install what was signed elsewhere.
    Install {
        /// What, and how far.
        order: Box<InstallOrder>,
        /// Where it is now.
        reply: Reply<Installed>,
    },
    /// Issue one workload's identity anew.
    IssueNow {
        /// For whom.
        workload: WorkloadId,
        /// The new identity.
        reply: Reply<Arc<X509Svid>>,
    },
    /// Look at the clock at once, for it was set or stood still, and do what is due by it.
    LookAround {
        /// Told when that was done and published.
        reply: oneshot::Sender<()>,
    },
    /// Issue a certificate that is handed out once: nobody's identity changes and nothing is renewed.
    IssueOnce {
        /// What it is to say.
        profile: Box<Profile>,
        /// The certificate.
        reply: Reply<X509Svid>,
    },
    /// Make the request for the next issuing authority ready.
    Request {
        /// The one that waits, or another.
        wanted: Wanted,
        /// Whether it is meant.
        run: Run,
        /// The request.
        reply: Reply<ReadyRequest>,
    },
    /// Sign the issuing authority of another host.
    Sign {
        /// What, and for how long.
        order: Box<SignOrder>,
        /// The chain.
        reply: Reply<Signed>,
    },
    /// Do nothing more until it is said how it goes on: another process is about to become the owner of the CA.
    Rest {
        /// Where the owner's lock goes, so that it is never free.
        reply: oneshot::Sender<Result<File, IssuanceError>>,
        /// Told when the other process has failed and this one goes on; dropped when it was replaced.
        resumed: oneshot::Receiver<()>,
    },
    /// Revoke an authority with all below it. If it signs, another one takes over first.
    Revoke {
        /// Which one.
        order: AuthorityRevocation,
        /// What was done.
        reply: Reply<Changed>,
    },
    /// Read again what is revoked.
    Revoked,
}

/// Where an answer goes. It may be dropped.
pub type Reply<T> = oneshot::Sender<Result<T, IssuanceError>>;

/// Owns the local CA of a host.
#[derive(Debug)]
pub struct Rotator {
    settings: Settings,
    directory: AuthorityDir,
    hierarchy: Hierarchy,
    rotation: Tracked,
    roll_over: Tracked,
    /// When the last leaf of the active issuing authority expires.
    last_leaf: Timestamp,
    /// With which bundle the active root was known to everyone who is not left behind.
    known_with: u64,
    acknowledged: Option<watch::Receiver<Acknowledgements>>,
    holders: BTreeMap<WorkloadId, Holder>,
    generation: u64,
    drop_failed: Option<Timestamp>,
    revocations: Arc<Revocations>,
    replacing_failed: Option<Timestamp>,
    journal: IssueJournal,
    lists: Lists,
    untidy: Option<Untidy>,
    /// The authority for whose successor a signature was asked for.
    asked_for: Option<AuthorityId>,
    feed: watch::Sender<Arc<Issued>>,
    means: Means,
}

/// Time and chance.
struct Means {
    clock: Arc<dyn Clock>,
    rng: Box<dyn Rng>,
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// A renewal and how it went last.
#[derive(Clone, Debug)]
struct Tracked {
    renewal: Renewal,
    /// When the certificate was made, if it was by this process; no clock step moves that.
    made: Option<Instant>,
    /// Whether it was told that a replacement is asked for too soon.
    told: bool,
    failure: Option<(Timestamp, String)>,
}

/// What the disk does not say yet, though the CA is whole on it.
#[derive(Clone, Debug)]
struct Untidy {
    /// When it was found out or tried last.
    since: Timestamp,
    why: String,
}

impl Untidy {
    /// Of the first of `errors`, logging all.
    fn of(errors: &[StoreError], now: Timestamp) -> Option<Self> {
        for error in errors {
            tracing::warn!(error = %Causes(error), "state directory left untidy");
        }
        errors.first().map(|error| Self { since: now, why: Causes(error).to_string() })
    }
}

/// One workload's identity and its renewal.
#[derive(Clone, Debug)]
struct Holder {
    svid: Arc<X509Svid>,
    tracked: Tracked,
    ending: Ending,
}

/// What decides when a leaf ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// Its issuing authority, which has no successor yet: sooner than the profile says.
    Authority,
    /// Its profile.
    Profile,
}

impl Rotator {
    /// Loads the CA, or makes it at the very first start, and issues every identity; so the feed starts complete.
    pub fn start(
        settings: Settings,
        directory: AuthorityDir,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Feed), IssuanceError> {
        Self::start_with(settings, directory, clock, Box::new(SystemRng))
    }

    /// [`Self::start`], drawing from `rng`.
    pub fn start_with(
        settings: Settings,
        directory: AuthorityDir,
        clock: Arc<dyn Clock>,
        rng: Box<dyn Rng>,
    ) -> Result<(Self, Feed), IssuanceError> {
        Self::begin(settings, directory, Means { clock, rng }, 0)
    }

    /// [`Self::start`], when the generation `last` is known to have been used, perhaps by a clock that was ahead.
    pub fn start_after(
        settings: Settings,
        directory: AuthorityDir,
        clock: Arc<dyn Clock>,
        last: u64,
    ) -> Result<(Self, Feed), IssuanceError> {
        Self::begin(settings, directory, Means { clock, rng: Box::new(SystemRng) }, last)
    }

    fn begin(
        settings: Settings,
        directory: AuthorityDir,
        means: Means,
        last: u64,
    ) -> Result<(Self, Feed), IssuanceError> {
        settings.check()?;
        let now = means.clock.now();
        let (hierarchy, untidy) = load_or_create(&settings, &directory, now)?;
        let idle = Settings { workloads: BTreeMap::new(), ..settings.clone() };
        let (mut rotator, feed) = Self::idle(idle, directory, hierarchy, means, last)?;
        rotator.untidy = untidy;
        rotator.configure(settings, now)?;
        Ok((rotator, feed))
    }

    /// With a CA, but without any identity.
    fn idle(
        settings: Settings,
        directory: AuthorityDir,
        hierarchy: Hierarchy,
        means: Means,
        last: u64,
    ) -> Result<(Self, Feed), IssuanceError> {
        let now = means.clock.now();
        let revocations = Arc::new(revocation_file::load(directory.path())?);
        let journal = IssueJournal::open(directory.path(), settings.crl_ttl, now);
        let lists = Lists::after(directory.path());
        let rotation = Tracked::of_loaded(&hierarchy.issuing().active);
        let roll_over = Tracked::of_loaded(&hierarchy.roots().active);
        let last_leaf = last_leaf(&hierarchy, &journal, now);
        let known_with = hierarchy.sequence();
        let generation = milliseconds(now).max(last.saturating_add(1));
        let placeholder = Issued {
            generation,
            svids: BTreeMap::new(),
            bundle: hierarchy.bundle(),
            hierarchy: HierarchyView::of(
                &hierarchy,
                &revocations,
                rotation.view(now),
                roll_over.view(now),
                settings.distribute,
            ),
            renewals: BTreeMap::new(),
            crl: lists.pem(),
            troubles: Vec::new(),
        };
        let (sender, receiver) = watch::channel(Arc::new(placeholder));
        let rotator = Self {
            settings,
            directory,
            hierarchy,
            rotation,
            roll_over,
            last_leaf,
            known_with,
            acknowledged: None,
            holders: BTreeMap::new(),
            generation,
            drop_failed: None,
            revocations,
            replacing_failed: None,
            journal,
            lists,
            untidy: None,
            asked_for: None,
            feed: sender,
            means,
        };
        Ok((rotator, receiver))
    }

    /// Heeds what the consumers of the trust bundle acknowledge. Without this nobody is there to acknowledge anything, and a
    /// new root can be activated only by force.
    #[must_use]
    pub fn heeding(self, acknowledged: watch::Receiver<Acknowledgements>) -> Self {
        Self { acknowledged: Some(acknowledged), ..self }
    }

    /// Works until `shutdown` is done. Dropping the commands' sender only ends the commands.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut listening = true;
        loop {
            self.tick();
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                command = commands.recv(), if listening => match command {
                    Some(Command::Rest { reply, resumed }) => {
                        if self.rest(reply, resumed).await.is_err() {
                            return;
                        }
                    }
                    Some(command) => self.handle_command(command),
                    None => listening = false,
                },
                () = tokio::time::sleep(self.nap()) => (),
            }
        }
    }

    /// Lends the lock to another process and writes nothing until that has failed; then goes on from what is on the disk, for
    /// the other may have changed it.
    ///
    /// # Errors
    /// The other process is the owner now.
    async fn rest(
        &mut self,
        reply: oneshot::Sender<Result<File, IssuanceError>>,
        resumed: oneshot::Receiver<()>,
    ) -> Result<(), oneshot::error::RecvError> {
        let lent = self.directory.lend_lock().map_err(IssuanceError::from);
        let refused = lent.is_err();
        if reply.send(lent).is_err() || refused {
            return Ok(());
        }
        resumed.await?;
        self.directory.sign_lock();
        let now = self.means.clock.now();
        self.journal = IssueJournal::open(self.directory.path(), self.settings.crl_ttl, now);
        self.lists = Lists::after(self.directory.path());
        self.read_revocations();
        match self.directory.load() {
            Ok(Some(stored)) => self.go_on_from(stored.hierarchy, now),
            Ok(None) => tracing::error!("the CA on disk is gone; this process goes on with what it knows"),
            Err(error) => tracing::error!(error = %Causes(&error), "the CA on disk cannot be read again"),
        }
        Ok(())
    }

    fn go_on_from(&mut self, stored: Hierarchy, now: Timestamp) {
        let is_same =
            stored.iter().map(|(_, one)| one.id()).eq(self.hierarchy.iter().map(|(_, one)| one.id()))
                && stored.sequence() == self.hierarchy.sequence();
        if is_same {
            return;
        }
        tracing::warn!("another process has changed the CA before it failed; every identity is issued anew");
        self.rotation = Tracked::of_loaded(&stored.issuing().active);
        self.roll_over = Tracked::of_loaded(&stored.roots().active);
        self.known_with = stored.sequence();
        self.last_leaf = self.last_leaf.max(last_leaf(&stored, &self.journal, now));
        self.hierarchy = stored;
        self.renew_all(self.holders.keys().cloned().collect(), now);
        self.publish_generation(now);
    }

    /// Does everything that is due now.
    fn tick(&mut self) {
        let now = self.means.clock.now();
        self.replace_revoked(now);
        self.roll_root_over(now);
        let held = self.hierarchy.issuing().is_rolled_back();
        if !held && self.rotation.step(now) == Step::Renew {
            self.rotate_or_retry(now);
        }
        self.forget_drained(now);
        self.tidy_up(now);
        self.renew_due(now);
        self.publish(now);
    }

    /// Until the next deadline, but never so long that a stepped clock goes unnoticed.
    fn nap(&self) -> Duration {
        let now = self.means.clock.now();
        let leaves = self.holders.values().map(|holder| holder.tracked.next(now));
        // What is past is held, or waits for somebody; then looking again at times is enough.
        let authorities = [&self.rotation, &self.roll_over].map(|tracked| tracked.next(now));
        let lists = self.lists.next_look(self.settings.crl_ttl);
        let next = leaves.chain(authorities.into_iter().filter(|at| *at > now)).chain(lists).min();
        let next = next.unwrap_or(now + LONGEST_NAP);
        next.since(now).clamp(SHORTEST_NAP, LONGEST_NAP)
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.means.clock.now();
        match command {
            Command::Change { change, reply } => {
                let outcome = self.change(&change, now);
                self.publish(now);
                answer(reply, outcome);
            }
            Command::Configure { settings, reply } => answer(reply, self.configure(*settings, now)),
            Command::Install { order, reply } => {
                let outcome = self.install(&order, now);
                self.publish(now);
                answer(reply, outcome);
            }
            Command::IssueNow { workload, reply } => answer(reply, self.issue_now(&workload, now)),
            Command::LookAround { reply } => {
                self.tick();
                if reply.send(()).is_err() {
                    tracing::debug!("nobody waits any more for a look at the clock");
                }
            }
            Command::IssueOnce { profile, reply } => {
                let outcome = self.issue_once(&profile, now);
                self.publish(now);
                answer(reply, outcome);
            }
            Command::Request { wanted, run, reply } => {
                answer(
                    reply,
                    ready_request(&self.directory, Some(&self.hierarchy), &self.settings, wanted, run),
                );
            }
            // Only whoever runs can wait.
            Command::Rest { reply, .. } => drop(reply),
            Command::Revoke { order, reply } => {
                let outcome = self.revoke_authority(&order, now);
                self.publish(now);
                answer(reply, outcome);
            }
            Command::Revoked => {
                self.read_revocations();
                self.replace_revoked(now);
                self.publish(now);
            }
            Command::Sign { order, reply } => {
                answer(reply, sign(&self.hierarchy, &self.settings, &order, now));
            }
        }
    }

    /// Replaces the settings and issues what is new or different, or leaves everything as it was.
    fn configure(&mut self, settings: Settings, now: Timestamp) -> Result<(), IssuanceError> {
        settings.check()?;
        if settings.domain != *self.hierarchy.domain() {
            return Err(IssuanceError::OtherDomain {
                path: self.directory.path().to_owned(),
                stored: self.hierarchy.domain().clone(),
                configured: settings.domain,
            });
        }
        self.check_leaves(&settings)?;
        let former = std::mem::replace(&mut self.settings, settings);
        let signer = self.hierarchy.issuing().active.id().clone();
        match self.issue_changed(&former, now) {
            Ok(holders) => {
                self.holders = holders;
                self.publish_generation(now);
                Ok(())
            }
            Err(error) => {
                self.settings = former;
                if self.hierarchy.issuing().active.id() != &signer {
                    self.renew_all(self.holders.keys().cloned().collect(), now);
                }
                Err(error)
            }
        }
    }

    fn issue_changed(
        &mut self,
        former: &Settings,
        now: Timestamp,
    ) -> Result<BTreeMap<WorkloadId, Holder>, IssuanceError> {
        let stays = self.keep_or_replace_active(now)?;
        let generation = self.generation.saturating_add(1);
        let mut holders = BTreeMap::new();
        for (workload, profile) in &self.settings.workloads {
            let same = stays && former.workloads.get(workload) == Some(profile);
            let holder = match self.holders.get(workload).filter(|_| same) {
                Some(holder) => holder.clone(),
                None => {
                    let (profile, ending) = self.within_authority(profile, now);
                    let svid = issue(&self.hierarchy.issuing().active, &profile, now)
                        .map_err(|source| IssuanceError::Issue { workload: workload.clone(), source })?;
                    self.last_leaf = self.last_leaf.max(svid.not_after);
                    IssuedLeaf::of(&svid).into_iter().for_each(|leaf| self.journal.note(leaf));
                    self.lists.is_touched |= !self.revocations.is_empty();
                    Holder::of(svid.published(generation), ending, self.means.rng.as_mut())
                }
            };
            holders.insert(workload.clone(), holder);
        }
        Ok(holders)
    }

    /// Whether some leaf would outlive the active authority, so that it has to be replaced before anything is issued.
    fn active_cannot_serve(&self, now: Timestamp) -> bool {
        let life = self.hierarchy.issuing().active.life();
        now < life.not_before || (now + self.settings.longest_leaf()).to_whole_second() > life.not_after
    }

    fn issue_now(&mut self, workload: &WorkloadId, now: Timestamp) -> Result<Arc<X509Svid>, IssuanceError> {
        let profile = self.settings.workloads.get(workload).cloned();
        let profile = profile.ok_or_else(|| IssuanceError::UnknownWorkload(workload.clone()))?;
        if self.active_cannot_serve(now) {
            if self.makes_its_own() {
                self.rotate(now)?;
            } else {
                self.rotate_or_retry(now);
            }
        }
        self.expect_unexpired(now)?;
        let svid = self.renew(workload, &profile, self.generation.saturating_add(1), now)?;
        self.publish_generation(now);
        Ok(svid)
    }

    fn issue_once(&mut self, profile: &Profile, now: Timestamp) -> Result<X509Svid, IssuanceError> {
        let Settings { domain, mode, issuing_ttl: issuing, root_ttl: root, .. } = &self.settings;
        if profile.spiffe_id.trust_domain() != *domain {
            return Err(IssuanceError::Foreign {
                spiffe_id: profile.spiffe_id.clone(),
                domain: domain.clone(),
            });
        }
        let authority = &self.hierarchy.issuing().active;
        let life = authority.life();
        match mode {
            Mode::Standalone => Lifetimes { leaf: profile.ttl, issuing: *issuing, root: *root }.check(),
            Mode::Subordinate => Lifetimes::check_leaf(profile.ttl, life.not_after.since(life.issued_at)),
        }
        .map_err(|source| IssuanceError::Lifetimes { workload: None, source })?;
        let svid = issue(authority, profile, now).map_err(IssuanceError::IssueOnce)?;
        self.note(&svid);
        tracing::info!(spiffe_id = %svid.spiffe_id, serial = svid.serial, "certificate handed out");
        Ok(svid)
    }

    /// Renews every leaf that is due, first replacing the authority if it cannot sign for as long as a leaf lives.
    fn renew_due(&mut self, now: Timestamp) {
        let due: Vec<WorkloadId> = self
            .holders
            .iter_mut()
            .filter_map(|(workload, holder)| {
                (holder.tracked.step(now) == Step::Renew).then(|| workload.clone())
            })
            .collect();
        if due.is_empty() {
            return;
        }
        let may_rotate = self.rotation.failure.is_none();
        let signer = self.hierarchy.issuing().active.id().clone();
        if self.active_cannot_serve(now) && may_rotate {
            self.rotate_or_retry(now);
            // Without a successor that signature by signature is waited for, leaves are renewed as long as it goes.
            if self.makes_its_own() || self.hierarchy.issuing().active.id() != &signer {
                return;
            }
        }
        self.renew_all(due, now);
    }

    fn renew_all(&mut self, workloads: Vec<WorkloadId>, now: Timestamp) {
        let generation = self.generation.saturating_add(1);
        let mut renewed = false;
        for workload in workloads {
            let Some(profile) = self.settings.workloads.get(&workload).cloned() else { continue };
            match self.renew(&workload, &profile, generation, now) {
                Ok(_) => renewed = true,
                Err(error) => {
                    tracing::warn!(%workload, error = %Causes(&error), "identity not renewed");
                    if let Some(holder) = self.holders.get_mut(&workload) {
                        holder.tracked.fail(&error, now, self.means.rng.as_mut());
                    }
                }
            }
        }
        if renewed {
            self.publish_generation(now);
        }
    }

    fn renew(
        &mut self,
        workload: &WorkloadId,
        profile: &Profile,
        generation: u64,
        now: Timestamp,
    ) -> Result<Arc<X509Svid>, IssuanceError> {
        let (profile, ending) = self.within_authority(profile, now);
        let svid = issue(&self.hierarchy.issuing().active, &profile, now)
            .map_err(|source| IssuanceError::Issue { workload: workload.clone(), source })?;
        if ending == Ending::Authority {
            let not_after = svid.not_after;
            tracing::warn!(%workload, %not_after, "certificate shortened: its issuing authority ends then and has no successor");
        }
        self.note(&svid);
        let holder = Holder::of(svid.published(generation), ending, self.means.rng.as_mut());
        let svid = Arc::clone(&holder.svid);
        self.holders.insert(workload.clone(), holder);
        Ok(svid)
    }

    /// Remembers that it was issued.
    fn note(&mut self, svid: &X509Svid) {
        self.last_leaf = self.last_leaf.max(svid.not_after);
        IssuedLeaf::of(svid).into_iter().for_each(|leaf| self.journal.note(leaf));
        self.lists.is_touched |= !self.revocations.is_empty();
    }

    fn publish_generation(&mut self, now: Timestamp) {
        self.generation = self.generation.saturating_add(1);
        self.publish(now);
    }

    /// Publishes how things stand, unless everyone knows.
    fn publish(&mut self, now: Timestamp) {
        self.journal.flush(self.settings.crl_ttl, now);
        self.publish_lists(now);
        let next = Issued {
            generation: self.generation,
            svids: self.each(|holder| Arc::clone(&holder.svid)),
            bundle: self.hierarchy.bundle(),
            hierarchy: self.view(now),
            renewals: self.each(|holder| holder.tracked.view(now)),
            crl: self.lists.pem(),
            troubles: self
                .journal
                .failure()
                .into_iter()
                .chain(self.lists.failure())
                .map(str::to_owned)
                .collect(),
        };
        self.feed.send_if_modified(|issued| {
            let news = issued.generation != next.generation
                || issued.bundle.sequence != next.bundle.sequence
                || issued.hierarchy != next.hierarchy
                || issued.renewals != next.renewals
                || issued.crl != next.crl
                || issued.troubles != next.troubles;
            if news {
                *issued = Arc::new(next);
            }
            news
        });
    }

    fn each<T>(&self, view: impl Fn(&Holder) -> T) -> BTreeMap<WorkloadId, T> {
        self.holders.iter().map(|(workload, holder)| (workload.clone(), view(holder))).collect()
    }
}

impl Tracked {
    /// An authority that somebody made before this process began.
    fn of_loaded(authority: &Authority) -> Self {
        Self { renewal: Renewal::of_authority(authority.life()), made: None, told: false, failure: None }
    }

    /// An authority that signs from now on.
    fn of_authority(authority: &Authority) -> Self {
        Self { made: Some(Instant::now()), ..Self::of_loaded(authority) }
    }

    /// What to do at `now`; never to replace what was made a moment ago, however the clock leaps about.
    fn step(&mut self, now: Timestamp) -> Step {
        let (step, rest) = (self.renewal.handle_timeout(now), self.rest(now));
        if step == Step::Wait || rest.is_zero() {
            return step;
        }
        if !std::mem::replace(&mut self.told, true) {
            let issued_at = self.renewal.life().issued_at;
            tracing::warn!(%issued_at, ?rest, "a certificate is due again already, so its renewal waits: does the clock leap?");
        }
        Step::Wait
    }

    /// When to look again.
    fn next(&self, now: Timestamp) -> Timestamp {
        // A clock that was set back makes a renewal due that has a far deadline.
        let due = self.renewal.handle_timeout(now) == Step::Renew;
        let at = if due { now } else { self.renewal.poll_timeout() };
        at.max(now + self.rest(now))
    }

    /// How long it must be kept yet.
    fn rest(&self, now: Timestamp) -> Duration {
        let interval = self.renewal.minimum_interval(now);
        self.made.map(|made| interval.saturating_sub(made.elapsed())).unwrap_or_default()
    }

    fn fail(&mut self, error: &IssuanceError, now: Timestamp, rng: &mut dyn Rng) {
        self.renewal.handle_failure(now, rng);
        self.failure = Some((now, Causes(error).to_string()));
    }

    fn view(&self, now: Timestamp) -> RenewalView {
        RenewalView::of(&self.renewal, self.failure.as_ref(), now)
    }
}

impl Holder {
    fn of(svid: X509Svid, ending: Ending, rng: &mut dyn Rng) -> Self {
        let renewal = match ending {
            Ending::Authority => Renewal::of_last_leaf(svid.life()),
            Ending::Profile => Renewal::of_leaf(svid.life(), rng),
        };
        let tracked = Tracked { renewal, made: Some(Instant::now()), told: false, failure: None };
        Self { svid: Arc::new(svid), tracked, ending }
    }
}

fn load_or_create(
    settings: &Settings,
    directory: &AuthorityDir,
    now: Timestamp,
) -> Result<(Hierarchy, Option<Untidy>), IssuanceError> {
    if let Some(stored) = directory.load()? {
        for orphan in &stored.orphans {
            tracing::warn!(%orphan, "authorities/ holds something that no slot names; the next rotation removes it");
        }
        return Ok((stored.hierarchy, Untidy::of(&stored.untidy, now)));
    }
    if settings.mode == Mode::Subordinate {
        return Err(IssuanceError::NotInstalled { path: directory.path().to_owned() });
    }
    let keys = directory.keys();
    let hierarchy = Hierarchy::create(
        settings.domain.clone(),
        &settings.root_plan(keys),
        &settings.issuing_plan(keys),
        now,
    )?;
    try_out(settings, None, &hierarchy, now)?;
    let untidy = Untidy::of(&directory.commit(&hierarchy)?.untidy, now);
    tracing::info!(domain = %settings.domain, path = %directory.path().display(), "new CA made");
    Ok((hierarchy, untidy))
}

/// Tries out what is new in `next`, and has others judge it, too.
fn try_out(
    settings: &Settings,
    before: Option<&Hierarchy>,
    next: &Hierarchy,
    now: Timestamp,
) -> Result<(), IssuanceError> {
    let trials = preflight(before, next, now)?;
    if let Some(program) = &settings.second_opinion {
        second_opinion::ask(program, &trials, &next.bundle(), now)?;
    }
    Ok(())
}

/// When the last leaf that the active issuing authority signed before this start expires. Where the journal does not know, a
/// leaf lives a third of its authority's life at most.
fn last_leaf(hierarchy: &Hierarchy, journal: &IssueJournal, now: Timestamp) -> Timestamp {
    let (id, life) = (hierarchy.issuing().active.id(), hierarchy.issuing().active.life());
    let unknown = || (now + life.not_after.since(life.issued_at) / 3).min(life.not_after);
    journal.last_leaf_of(id, life.issued_at).unwrap_or_else(unknown)
}

/// Where generations begin: a restarted agent must not use one again that stood for other keys.
fn milliseconds(now: Timestamp) -> u64 {
    u64::try_from(now.to_offset_date_time().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// Whoever asked may have gone; then nobody misses the answer.
fn answer<T>(reply: Reply<T>, outcome: Result<T, IssuanceError>) {
    drop(reply.send(outcome));
}

/// How long a stepped clock may go unnoticed.
const LONGEST_NAP: Duration = Duration::from_secs(2);

/// Against a busy loop, should a deadline lie in the past.
const SHORTEST_NAP: Duration = Duration::from_millis(10);

/// How long after a drained authority could not be dropped it is tried again.
const DROP_PAUSE: Duration = Duration::from_secs(60);

/// How long after the disk could not be tidied up it is tried again.
const TIDY_PAUSE: Duration = Duration::from_secs(5);

/// Stands for the leaves when only the authorities' lifetimes are looked at.
const SHORTEST_LEAF: Duration = Duration::from_secs(1);
