//! One agent from start to stop: everything is built before a door opens, and drained before it ends.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot, watch};

use super::assembly::{Assembly, AssemblyError, Materials};
use super::attestor::KernelAttestor;
use super::books::Books;
use super::detectors::{Detections, Detectors};
use super::director::{Deliveries, Director, InForce, Order};
use super::exchange::{Accounts, Exchange};
use super::hand_over::{Claimed, HandOverError, Heir};
use super::inheritance::{Inheritance, InheritanceError};
use super::issuers::Issuers;
use super::key_keeper::{KeyKeeper, Setbacks};
use super::key_uses::KeyUses;
use super::limit_keeper::{KeeperError, LimitTroubles};
use super::memory_watch;
use super::quickstart::{self, Quickstart, QuickstartError};
use super::reception::{self, Reception, told};
use super::registrar::{Registrar, RegistryError};
use super::scribe::Scribe;
use super::sightings::{self, Sightings};
use super::signals::{Event, Signals};
use super::span_exporter;
use super::steward::AgentSteward;
use super::succession::{self, Estate, Offered};
use super::token_keeper::{self, TokenKeeperError};
use super::troubles::{Trouble, Troubles};
use super::trust::{self, TrustError};
use super::usage_keeper::UsageKeeper;
use super::watchdog;
use crate::admin;
use crate::causes::Causes;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Config;
use crate::credential::Peppers;
use crate::issuance::{Acknowledgements, IssuanceError, Rotator};
use crate::limit::Ledger;
use crate::pki::Skews;
use crate::proxy::{Current, Gauge, Lookout, Plane, PlaneContext, PlaneError, Scissors, Signs, UseReports};
use crate::secret::Secret;
use crate::store::pepper_file::{self, PepperError};
use crate::store::revocation_file::{self, RevocationError};
use crate::store::revoked_dir::RevokedError;
use crate::store::socket_file::SocketError;
use crate::store::{AuthorityDir, StoreError};
use crate::telemetry::{AccessSink, AuditLog, LogWriter, Metrics, SubscribeError, subscribe};
use crate::workload;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The operators' socket cannot be bound.
    #[error("the admin socket cannot be opened")]
    Admin(#[from] SocketError),
    /// What is configured cannot be put together.
    #[error("the data plane cannot be set up")]
    Assembly(#[from] AssemblyError),
    /// The clock has not been set.
    #[error("the clock stands at {0}, which cannot be: set it before certificates are issued")]
    Clock(Timestamp),
    /// A folder cannot be made.
    #[error("{}: cannot be made", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The local CA cannot be used.
    #[error("the local CA cannot be used")]
    Issuance(#[from] IssuanceError),
    /// A control socket cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// One agent does not take over from another.
    #[error("this agent does not take over")]
    HandOver(#[from] HandOverError),
    /// The sockets that were passed cannot be used.
    #[error("the sockets that were passed cannot be used")]
    Inheritance(#[from] InheritanceError),
    /// What apps have used of their limits cannot be kept.
    #[error("what apps have used of their limits cannot be kept")]
    Limits(#[from] KeeperError),
    /// The log cannot be set up.
    #[error("the log cannot be set up")]
    Log(#[from] SubscribeError),
    /// The peppers cannot be used.
    #[error("the peppers of the API keys cannot be used")]
    Peppers(#[from] PepperError),
    /// Keys are on file, but not what they were hashed under.
    #[error(
        "the registry holds API keys, but {} is gone, without which none of them is worth anything: restore it, or take the \
         keys out and make new ones",
        .0.display()
    )]
    PeppersLost(PathBuf),
    /// A data-plane socket or thread.
    #[error("the data plane cannot start")]
    Plane(#[from] PlaneError),
    /// The samples cannot be made.
    #[error("the quickstart's samples cannot be made")]
    Quickstart(#[from] QuickstartError),
    /// The file for usage records cannot be opened.
    #[error("usage records cannot be written to {}", path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What somebody else has revoked cannot be told.
    #[error("what is revoked in the folders of `revocations` cannot be told")]
    Revoked(#[from] RevokedError),
    /// The revocations cannot be used.
    #[error("the revocations cannot be used")]
    Revocations(#[from] RevocationError),
    /// The system does not give what every process gets.
    #[error("the control plane cannot start")]
    Runtime(#[source] io::Error),
    /// Workloads that nobody could tell apart.
    #[error("the workloads' selectors cannot be told apart")]
    Selectors,
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] StoreError),
    /// The keys that sign tokens, or what was taken back, cannot be used.
    #[error("the keys of tokens cannot be used")]
    Tokens(#[from] TokenKeeperError),
    /// A trust bundle cannot be believed.
    #[error("a trust bundle cannot be believed")]
    Trust(#[from] TrustError),
}

/// Files for workloads are waited for no longer than this before the agent says that it is ready.
const FIRST_DELIVERY: Duration = Duration::from_secs(2);

/// How an agent begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// With nobody before it.
    Alone,
    /// By taking over from the agent that runs with the same configuration, if there is one.
    TakeOver,
}

/// What an agent begins with.
struct Legacy {
    heir: Option<Heir>,
    inheritance: Inheritance,
    lock: Option<File>,
}

impl Legacy {
    /// From the agent that runs, or from the service manager, or nothing.
    fn of(config: &Config, start: Start) -> Result<Self, AgentError> {
        if start == Start::TakeOver {
            if let Some(claimed) = Heir::claim(&config.runtime_dir, &config.state_dir)? {
                let Claimed { heir, inheritance, lock } = claimed;
                return Ok(Self { heir: Some(heir), inheritance, lock: Some(lock) });
            }
            tracing::info!("there is no agent to take over from");
        }
        Ok(Self { heir: None, inheritance: Inheritance::from_manager()?, lock: None })
    }
}

/// Runs an agent until it is told to stop (SIGTERM, SIGINT) or another one has taken over. `announce` is given what a person at a terminal should read.
///
/// # Errors
/// Why it cannot start. Once it runs, nothing but a signal stops it.
pub fn run(config: Config, start: Start, announce: impl Fn(&str)) -> Result<(), AgentError> {
    subscribe(&config.log)?;
    let clock = Arc::new(SystemClock);
    if clock.now() < Timestamp::FLOOR {
        return Err(AgentError::Clock(clock.now()));
    }
    raise_descriptor_limit();
    if !config.core_dumps {
        close_memory();
    }
    let legacy = Legacy::of(&config, start)?;
    // Whatever becomes of it, the former agent must not write again while some thread of this one may.
    let _until_the_end = legacy.heir.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(AgentError::Runtime)?;
    runtime.block_on(supervise(config, clock, legacy, announce))
}

/// Each connection takes two descriptors; the soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Keys and secrets pass through memory, and a core image outlives the process: none is written, and no other process looks into
/// this one's memory but one of root.
fn close_memory() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let undumpable = || set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let closed = setrlimit(Resource::Core, none).and_then(|()| undumpable());
    if let Err(error) = closed {
        tracing::warn!(%error, "core images of the agent cannot be forbidden");
    }
}

async fn supervise(
    config: Config,
    clock: Arc<dyn Clock>,
    Legacy { heir, mut inheritance, lock }: Legacy,
    announce: impl Fn(&str),
) -> Result<(), AgentError> {
    let program = succession::program();
    // Before anything else, for a signal that nobody heeds ends the process.
    let mut signals = Signals::new().map_err(AgentError::Runtime)?;
    let started_at = clock.now();
    let config = Arc::new(config);
    make_folder(&config.state_dir)?;
    if let Err(error) = make_folder(&config.runtime_dir) {
        // The operators' socket will say so too, and be tried again.
        tracing::error!(error = %Causes(&error), "the runtime directory cannot be made");
    }
    let troubles = Arc::new(Troubles::default());
    let audit = Arc::new(AuditLog::new(config.audit.clone()));
    if !pepper_file::exists(&config.state_dir)? {
        check_first_start(&config, started_at)?;
    }
    let directory = match lock {
        Some(lock) => AuthorityDir::open_lent(&config.state_dir, &config.keys, lock)?,
        None => AuthorityDir::open_keeping(&config.state_dir, &config.keys)?,
    };
    let (rotator, mut feed) = Rotator::start_after(
        config.issuance.clone(),
        directory,
        Arc::clone(&clock),
        last_generation(&config, started_at),
    )?;
    let (acknowledgements, acknowledged) = watch::channel(Acknowledgements::default());
    let rotator = rotator.heeding(acknowledged.clone());
    let peppers = Arc::new(Peppers::new(peppers(&config, &troubles)?));
    let quickstart = samples(&config, &peppers, started_at, &troubles)?;

    let registrar = Registrar::open(&config.registry_dirs, started_at)?;
    let registry = Arc::clone(registrar.snapshot());
    let issued = Arc::clone(&feed.borrow_and_update());
    let bundles = Arc::new(trust::bundles(&issued.bundle, &config.trust)?);
    let revocations = Arc::new(revocation_file::load(&config.state_dir)?);
    let withheld = Arc::new(trust::withheld(&config)?);
    let crls = trust::all_crls(&config.trust, &bundles, &Arc::default(), started_at)?;
    let mut issuers = Issuers::new(Arc::clone(&clock));
    issuers.follow(&config);
    issuers.first(FIRST_KEYS).await;
    let mut found = issuers.found();
    let rules = config.tokens.as_ref().map(|tokens| tokens.keys);
    let token_keeper =
        token_keeper::start(&config.state_dir, rules, Arc::clone(&clock), Arc::clone(&troubles))?;
    let own_tokens = token_keeper.state.trust(&config);
    let tokens = Arc::new(found.borrow_and_update().believe(&config, own_tokens.clone()));
    found.mark_changed();
    let materials = Materials {
        config: Arc::clone(&config),
        issued,
        bundles,
        revocations,
        crls,
        registry: Arc::clone(&registry),
        withheld,
        peppers,
        tokens,
        ring: Arc::clone(&token_keeper.state.ring),
    };
    let ledger = Arc::new(Ledger::default());
    let limit_troubles = Arc::new(LimitTroubles::default());
    let mut assembly = Assembly::new(Arc::clone(&clock), Arc::clone(&ledger));
    let current: Current = Arc::new(ArcSwap::from_pointee(assembly.assemble(&materials)?));
    let attestor = Arc::new(KernelAttestor::new(&config.workloads).map_err(|_| AgentError::Selectors)?);

    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    metrics.registry_current.set(1);
    metrics.registry_apps.set(i64::try_from(registry.counts().apps).unwrap_or(i64::MAX));
    let (access, _writer) = access_log(&config, &metrics)?;
    let (records, record_writer) = usage_records(&config, &metrics)?;
    let usage_keeper = UsageKeeper::idle();
    let (lookout, sighted) = Lookout::new();
    let (sightings, known_sightings) = watch::channel(Sightings::default());
    tokio::spawn(sightings::collect(sighted, sightings));
    let (use_reports, reported_uses) = UseReports::new();
    let key_uses = KeyUses::default();
    tokio::spawn(key_uses.clone().collect(reported_uses));
    let skews: Arc<Mutex<Skews>> = Arc::default();
    let (signs, noticed) = Signs::new(metrics.signs_dropped.clone());
    let detections = Detections::default();
    let pressure = Gauge::default();
    let (spans, exporting) = span_exporter::start(&config, &metrics);
    let context = PlaneContext {
        signs,
        current: Arc::clone(&current),
        clock: Arc::clone(&clock),
        attestor: Arc::<KernelAttestor>::clone(&attestor),
        metrics: Arc::clone(&metrics),
        skews: Arc::clone(&skews),
        remember: config.remember,
        usage: usage_keeper.book(),
        spans,
        records,
        access,
        lookout,
        tokens: token_keeper.desk.clone(),
        uses: use_reports,
        pressure: pressure.clone(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let plane = Plane::start(config.threads.unwrap_or(cores), &context)?;

    let in_force = Arc::new(ArcSwap::from_pointee(InForce {
        config: Arc::clone(&config),
        config_loaded_at: started_at,
        config_error: None,
        registry,
        registry_loaded_at: started_at,
        registry_error: None,
        trust_error: None,
        mute_crls: Vec::new(),
    }));
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(memory_watch::watch(Arc::clone(&in_force), pressure, Arc::clone(&metrics)));
    let (commands, received_commands) = mpsc::channel(16);
    let (orders, received_orders) = mpsc::channel(16);
    let mut deliveries = Deliveries::new(Arc::clone(&clock), acknowledgements);
    deliveries.follow(&config, &feed);
    deliveries.acknowledge_doors(&config, &materials.bundles);
    let detectors = Detectors {
        clock: Arc::clone(&clock),
        current: Arc::clone(&current),
        feed: feed.clone(),
        metrics: Arc::clone(&metrics),
        detections: Arc::clone(&detections),
    };
    tokio::spawn(detectors.run(noticed));
    let steward = AgentSteward {
        detections,
        clock: Arc::clone(&clock),
        started_at,
        current: Arc::clone(&current),
        in_force: Arc::clone(&in_force),
        deliveries: deliveries.statuses(),
        acknowledged,
        sightings: known_sightings,
        desk: admin::Desk::new(commands.clone(), feed.clone()),
        directives: orders.clone(),
        metrics: Arc::clone(&metrics),
        troubles: Arc::clone(&troubles),
        skews: Arc::clone(&skews),
        limit_troubles: Arc::clone(&limit_troubles),
        token_desk: token_keeper.desk.clone(),
        attestor: Arc::clone(&attestor),
        key_uses,
        recollection: plane.recollection(),
        usage: usage_keeper.book(),
        usage_troubles: usage_keeper.troubles(),
        stopping: stopping.clone(),
    };
    let expected_deliveries = config.workloads.values().filter(|workload| workload.files.is_some()).count();
    deliveries.first(expected_deliveries, FIRST_DELIVERY).await;
    let doorman = admin::Doorman {
        roles: config.admin_roles.clone(),
        audit: Arc::clone(&audit),
        clock: Arc::clone(&clock),
    };
    let key_keeper = Arc::new(KeyKeeper {
        clock: Arc::clone(&clock),
        current: Arc::clone(&current),
        in_force: Arc::clone(&in_force),
        audit: Arc::clone(&audit),
        troubles: Arc::clone(&troubles),
        setbacks: Setbacks::default(),
    });
    let accounts =
        Accounts { ledger: Arc::clone(&ledger), usage: usage_keeper.book(), current: Arc::clone(&current) };
    let scissors = plane.scissors();
    tokio::spawn(watchdog::keep_alive(plane.recollection()));
    let current_limits = Arc::clone(&current);
    let mut director = Director {
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        current,
        in_force,
        assembly,
        materials,
        registrar,
        attestor,
        plane,
        commands: commands.clone(),
        feed,
        deliveries,
        troubles: Arc::clone(&troubles),
        skews,
        token_desk: token_keeper.desk.clone(),
        token_updates: token_keeper.updates,
        token_state: token_keeper.state,
        issuers,
        found,
        own_tokens,
        scribe: Scribe::new(audit, Arc::clone(&troubles)),
        pepper_error: None,
    };
    let openings = director.bind_doors(&mut inheritance)?;
    let controls = reception::bind(&config, &mut inheritance).await?;
    let mut claims = succession::await_heirs(&config, &controls, &mut inheritance);
    inheritance.settle()?;
    let mut reception = Reception::new(&config, controls, steward, doorman, &troubles);
    let mut books = Books {
        state_dir: config.state_dir.clone(),
        keep: config.usage.keep,
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        ledger: Arc::clone(&ledger),
        limit_troubles,
        limits: None,
        usage: usage_keeper,
    };
    let had_elder = heir.is_some();
    let exchange = match &heir {
        Some(heir) => Some(take_over(heir, &mut books, &accounts)?),
        None => {
            books.open()?;
            None
        }
    };
    director.open_doors(openings);
    reception.open().map_err(AgentError::Runtime)?;
    let elder_is_gone = match (heir, exchange) {
        (Some(heir), Some(exchange)) => heir.go_on_with(exchange),
        _ => watch::channel(true).1,
    };
    let rotating = tokio::spawn(rotator.run(received_commands, told(stopping.clone())));
    let directing = tokio::spawn(director.run(received_orders, told(stopping.clone())));
    let mut estate = Estate {
        commands,
        orders: orders.clone(),
        token_desk: token_keeper.desk,
        delivering: tokio::spawn(Arc::clone(&key_keeper).run()).abort_handle(),
        key_keeper,
        reception,
        books,
        accounts,
    };

    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, config = %config.path.display(), took_over = had_elder, "ready");
    tell_systemd(&[NotifyState::Ready]);
    if let Some(quickstart) = quickstart.filter(|_| !had_elder) {
        announce(&quickstart.tour(&config));
    }
    let succession = loop {
        tokio::select! {
            event = signals.next() => match event {
                Event::Launch => succession::launch(&program, &config),
                Event::Reload => reload(&orders).await,
                Event::Stop => break None,
            },
            Some(claimant) = claims.recv() => match estate.offer_to(claimant, &mut signals).await {
                Offered::Accepted(succession) => break Some(succession),
                Offered::Declined => {}
                Offered::Stopped => break None,
            }
        }
    };

    drop(claims);
    let within = current_limits.load().limits.drain;
    let begun = tokio::time::Instant::now();
    if let Some(succession) = &succession {
        estate.leave().await;
        if let Ok(pid) = u32::try_from(succession.pid()) {
            tell_systemd(&[NotifyState::MainPid(pid)]);
        }
        tracing::info!(pid = succession.pid(), "another agent has taken over; connections end one by one");
        tokio::select! {
            () = succession.tell_while_busy(&metrics, &elder_is_gone, within) => {}
            () = signals.stop() => scissors.cut(),
        }
    } else {
        tracing::info!("stopping");
        tell_systemd(&[NotifyState::Stopping]);
    }
    estate.delivering.abort();
    stop.send_replace(true);
    if let Ok(plane) = directing.await {
        tokio::select! {
            () = drain(plane, within.saturating_sub(begun.elapsed())) => {}
            // Once is a request, twice is an order.
            () = cut_when_told(&mut signals, &scissors) => {}
        }
    }
    let Estate { reception, books, .. } = estate;
    reception.close();
    drop(reception);
    drop(context);
    span_exporter::finish(exporting).await;
    if let Some(succession) = succession {
        succession.part();
    }
    // Nothing is charged any more, so what is written now is final.
    drop(books);
    drop(record_writer);
    drop(rotating.await);
    tracing::info!("stopped");
    Ok(())
}

/// Takes up what the former agent leaves. Up to here it can go on as if nothing had happened, and it can for as long as this fails.
fn take_over(heir: &Heir, books: &mut Books, accounts: &Accounts) -> Result<Exchange, AgentError> {
    tokio::task::block_in_place(|| {
        let questions = heir.ready()?;
        books.open()?;
        let exchange = Exchange::new(accounts.clone(), accounts.ledger.listen());
        heir.count(questions, &exchange)?;
        Ok(exchange)
    })
}

/// Cuts what is left when this process is told to end once more. Never done by itself.
async fn cut_when_told(signals: &mut Signals, scissors: &Scissors) {
    loop {
        signals.stop().await;
        tracing::warn!("told to end at once");
        scissors.cut();
    }
}

/// Reads configuration and registry again.
async fn reload(orders: &mpsc::Sender<Order>) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell_systemd(&[NotifyState::Reloading, now]);
    }
    let (reply, done) = oneshot::channel();
    if orders.send(Order::Reload(reply)).await.is_ok() {
        // What came of it is in the log and in the status.
        drop(done.await);
    }
    tell_systemd(&[NotifyState::Ready]);
}

/// The start waits no longer than this for the keys of outside issuers; what comes later is taken then.
const FIRST_KEYS: Duration = Duration::from_secs(2);

/// The latest generation that a reader has seen, which a clock that was ahead may have made greater than now's. What lies
/// further ahead than a clock is ever set back is somebody's joke.
fn last_generation(config: &Config, now: Timestamp) -> u64 {
    let delivered = config.workloads.values().filter_map(|workload| workload.files.as_ref());
    let delivered = delivered.filter_map(workload::delivered_generation);
    let latest = (now + FURTHEST_AHEAD).to_offset_date_time().unix_timestamp_nanos() / 1_000_000;
    delivered.filter(|generation| i128::from(*generation) <= latest).max().unwrap_or_default()
}

const FURTHEST_AHEAD: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The peppers; none where the first one cannot be written, for no key can be on file then.
fn peppers(config: &Config, troubles: &Troubles) -> Result<Vec<(String, Secret)>, AgentError> {
    match pepper_file::load_or_create(&config.state_dir, &SystemRandom::new()) {
        Err(error) if error.is_for_want_of_a_disk() => {
            let error = Causes(&error).to_string();
            tracing::error!(
                error,
                "the peppers of API keys cannot be made; certificates are issued all the same"
            );
            troubles.note(Trouble::Peppers, format!("the peppers of API keys cannot be made: {error}"));
            Ok(Vec::new())
        }
        outcome => Ok(outcome?),
    }
}

/// The quickstart's samples, if they are wanted and can be written.
fn samples(
    config: &Config,
    peppers: &Peppers,
    now: Timestamp,
    troubles: &Troubles,
) -> Result<Option<Quickstart>, AgentError> {
    if !config.quickstart {
        return Ok(None);
    }
    match quickstart::prepare(config, peppers, now) {
        Err(error) if error.is_for_want_of_a_disk() => {
            let error = Causes(&error).to_string();
            tracing::warn!(error, "the quickstart's samples cannot be made");
            troubles.note(Trouble::Quickstart, format!("the quickstart's samples cannot be made: {error}"));
            Ok(None)
        }
        outcome => Ok(Some(outcome?)),
    }
}

/// Nothing is made for a registry that cannot be used, and no pepper in place of one that was lost.
fn check_first_start(config: &Config, now: Timestamp) -> Result<(), AgentError> {
    let registrar = Registrar::open(&config.registry_dirs, now)?;
    if registrar.snapshot().credentials().any(|credential| credential.pepper().is_some()) {
        return Err(AgentError::PeppersLost(config.state_dir.join("peppers.toml")));
    }
    Ok(())
}

/// Closes the doors and waits for requests under way, off the runtime's threads.
async fn drain(plane: Plane, within: Duration) {
    if tokio::task::spawn_blocking(move || plane.drain(within)).await.is_err() {
        tracing::error!("the drain was broken off");
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

fn access_log(config: &Config, metrics: &Metrics) -> Result<(AccessSink, Option<LogWriter>), AgentError> {
    if !config.log.access {
        return Ok((AccessSink::none(), None));
    }
    let dropped = metrics.access_log_dropped.clone();
    let (sink, writer) =
        AccessSink::start(config.log.format, dropped, io::stderr()).map_err(AgentError::Runtime)?;
    Ok((sink, Some(writer)))
}

/// Where usage records go, if they are wanted.
fn usage_records(config: &Config, metrics: &Metrics) -> Result<(AccessSink, Option<LogWriter>), AgentError> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let Some(path) = &config.usage.records else { return Ok((AccessSink::none(), None)) };
    let file = File::options().create(true).append(true).mode(0o640).open(path);
    let file = file.map_err(|source| AgentError::Records { path: path.clone(), source })?;
    let organization = config.issuance.domain.to_string();
    let dropped = metrics.usage_records_dropped.clone();
    let (sink, writer) =
        AccessSink::start_records(&organization, dropped, file).map_err(AgentError::Runtime)?;
    Ok((sink, Some(writer)))
}

pub(super) fn make_folder(path: &std::path::Path) -> Result<(), AgentError> {
    use std::os::unix::fs::DirBuilderExt;

    // Some file systems refuse to make what is there, because they cannot be written, before they say that it is there.
    if path.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|source| AgentError::Folder { path: path.to_owned(), source })
}
