//! The root is elsewhere: what the agent asks for, what it takes, and how it makes do until then.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::pki::{Authority, AuthorityPlan, Hierarchy, LocalKeys, SignedChain, SigningRequest};
use crate::store::StoreError;

/// Everything goes sixty times as fast here, for the clock is looked at every other second.
const MINUTE: Duration = SECOND;
const HOUR: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60);

/// Where the root is.
struct Office(Authority);

impl Office {
    fn open(now: Timestamp) -> Self {
        let plan = AuthorityPlan {
            keys: &LocalKeys,
            algorithm: KeyAlgorithm::EcdsaP256,
            ttl: DAY * 365,
            backdate: MINUTE * 5,
        };
        Self(Authority::make_root(&"postern.test".parse().unwrap(), &plan, now).unwrap())
    }

    /// What comes back for the request that waits in `state`.
    fn sign(&self, state: &Path, ttl: Duration, now: Timestamp) -> SignedChain {
        let text = std::fs::read(state.join("request.pem")).unwrap();
        let request = crate::store::pem::certificate_request(&text).unwrap();
        let domain = "postern.test".parse().unwrap();
        let request = SigningRequest::parse(&request, &domain).unwrap();
        let signed = request.sign(&self.0, &domain, ttl, MINUTE * 5, now).unwrap();
        SignedChain {
            certificates: vec![signed.certificate, self.0.certificate().clone()],
            roots: Vec::new(),
        }
    }
}

fn elsewhere(names: &[&str], leaf: Duration) -> Settings {
    Settings { mode: Mode::Subordinate, distribute: DAY, ..settings(names, leaf, DAY * 7) }
}

fn order(chain: SignedChain) -> InstallOrder {
    InstallOrder { chain, reach: Reach::Active, run: Run::Real }
}

fn ask_at_rest(state: &Path, settings: &Settings) -> Vec<u8> {
    let directory = AuthorityDir::open(state).unwrap();
    let hierarchy = directory.load().unwrap().map(|stored| stored.hierarchy);
    let ready = ready_request(&directory, hierarchy.as_ref(), settings, Wanted::Same, Run::Real);
    ready.unwrap().request.unwrap()
}

/// A running agent whose issuing authority lives `ttl`, and the office that signed it.
fn installed(settings: Settings, ttl: Duration) -> (World, Office) {
    let (state, clock) = (Arc::new(tempfile::tempdir().unwrap()), PausedClock::start());
    let office = Office::open(clock.now());
    ask_at_rest(state.path(), &settings);
    let chain = office.sign(state.path(), ttl, clock.now());
    let directory = AuthorityDir::open(state.path()).unwrap();
    let clock_too = Arc::<PausedClock>::clone(&clock);
    let installed = install_at_rest(directory, &settings, &order(chain), clock_too).unwrap();
    assert_eq!((installed.slot, installed.waits_for.len()), (Slot::Active, 0));
    (World::start_in(state, settings, clock).unwrap(), office)
}

impl World {
    async fn install(&self, chain: SignedChain) -> Result<Installed, IssuanceError> {
        let order = Box::new(order(chain));
        self.ask(|reply| Command::Install { order, reply }).await
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_installed_authority_nothing_starts_and_nothing_is_made() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let started = World::start_in(Arc::clone(&state), elsewhere(&["agent"], HOUR), PausedClock::start());

    let error = started.err().unwrap().to_string();

    assert!(
        error.contains("`postern ca csr > request.pem`") && error.ends_with("`postern ca install chain.pem`")
    );
    assert!(!state.path().join("authorities").exists());
}

#[tokio::test(start_paused = true)]
async fn at_half_of_its_life_a_signature_is_asked_for_and_leaves_go_on_until_it_is_there() {
    let (world, office) = installed(elsewhere(&["agent", "orders"], HOUR), DAY * 7);
    let first = world.active();
    pass(DAY * 3).await;
    assert_eq!(world.issued().hierarchy.awaiting, None);
    assert!(!world.state.path().join("request.pem").exists());

    pass(DAY * 2).await;

    let issued = world.issued();
    let awaiting = issued.hierarchy.awaiting.clone().unwrap();
    assert_eq!(awaiting.until, issued.hierarchy.issuing[0].not_after);
    assert_eq!(world.active(), first);
    assert!(world.svid("orders").not_after > world.now());
    assert!(issued.hierarchy.rotation.last_failure.is_none(), "it waits, it does not fail");

    let chain = office.sign(world.state.path(), DAY * 7, world.now());
    let done = world.install(chain.clone()).await.unwrap();
    assert_eq!((done.slot, &done.id), (Slot::Active, &world.active()));
    assert!(world.issued().svids.values().all(|svid| svid.authority == done.id));
    assert_eq!(world.issued().hierarchy.awaiting, None);
    assert!(
        !world.state.path().join("request.pem").exists() && !world.state.path().join("requested").exists()
    );
    assert_eq!(world.install(chain).await.unwrap(), done, "installing it again changes nothing");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn near_the_end_leaves_end_with_the_authority_once_and_a_fresh_certificate_heals_even_after_it() {
    let (world, office) = installed(elsewhere(&["agent", "orders"], HOUR), HOUR * 12);
    let ends = world.issued().hierarchy.issuing[0].not_after;
    pass(HOUR * 10).await;
    assert!(world.issued().hierarchy.shortened.is_empty());

    pass(MINUTE * 115).await;

    let issued = world.issued();
    assert_eq!(issued.hierarchy.shortened.len(), 2, "both are told");
    assert!(issued.svids.values().all(|svid| svid.not_after == ends));
    assert!(issued.renewals.values().all(|renewal| !renewal.overdue && renewal.last_failure.is_none()));
    let ending = world.lives("orders").iter().filter(|svid| svid.not_after == ends).count();
    assert_eq!(ending, 1, "what cannot end later is not renewed over and over");
    world.check_history();

    pass(MINUTE * 30).await;
    assert!(
        world.now() > ends && world.svid("orders").not_after == ends,
        "nothing new, and nothing taken away"
    );
    let chain = office.sign(world.state.path(), DAY, world.now());
    let done = world.install(chain).await.unwrap();
    assert_eq!(done.slot, Slot::Active);
    let issued = world.issued();
    assert!(issued.svids.values().all(|svid| svid.authority == done.id && svid.not_after > world.now()));
    assert!(issued.hierarchy.shortened.is_empty());
    assert!(issued.renewals.values().all(|renewal| renewal.last_failure.is_none()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_authority_has_expired_says_so_instead_of_starting() {
    let (world, _) = installed(elsewhere(&["agent"], HOUR), HOUR * 12);
    let clock = Arc::clone(&world.clock);
    pass(HOUR * 13).await;
    let state = world.stop().await;

    let error = World::start_in(state, elsewhere(&["agent"], HOUR), clock).err().unwrap();

    assert!(matches!(error, IssuanceError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("`postern ca csr > request.pem`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_request_outlives_a_restart_and_changes_only_on_demand() {
    let (world, office) = installed(elsewhere(&["agent"], HOUR), DAY * 7);
    pass(DAY * 4).await;
    let ready = |wanted| world.ask(move |reply| Command::Request { wanted, run: Run::Real, reply });
    let first = ready(Wanted::Same).await.unwrap();
    assert!(!first.is_new, "the agent made it ready");
    let former = office.sign(world.state.path(), DAY * 7, world.now());

    let second = ready(Wanted::Anew).await.unwrap();
    assert!(second.is_new && second.request != first.request);
    let error = world.install(former).await.unwrap_err();
    assert!(matches!(error, IssuanceError::Chain(_)), "{error}");

    let clock = Arc::clone(&world.clock);
    let state = world.stop().await;
    assert_eq!(ask_at_rest(state.path(), &elsewhere(&["agent"], HOUR)), second.request.unwrap());
    let world = World::start_in(state, elsewhere(&["agent"], HOUR), clock).unwrap();
    let chain = office.sign(world.state.path(), DAY * 7, world.now());
    assert_eq!(world.install(chain).await.unwrap().slot, Slot::Active);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_only_prepared_signs_when_it_is_due() {
    let (world, office) = installed(elsewhere(&["agent"], HOUR), DAY * 7);
    world.ask(|reply| Command::Request { wanted: Wanted::Same, run: Run::Real, reply }).await.unwrap();
    let chain = office.sign(world.state.path(), DAY * 14, world.now());
    let order = Box::new(InstallOrder { reach: Reach::Prepared, ..order(chain) });

    let installed = world.ask(|reply| Command::Install { order, reply }).await.unwrap();
    assert_eq!(installed.slot, Slot::Prepared);
    pass(DAY * 3).await;
    assert_ne!(world.active(), installed.id);
    pass(DAY).await;
    assert_eq!(world.active(), installed.id);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn under_a_new_root_it_waits_until_that_is_known_to_everyone_and_both_move() {
    let (world, _) = installed(elsewhere(&["agent", "orders"], HOUR), DAY * 7);
    let reader = world.expect("orders");
    world.acknowledge(&reader);
    let next = Office::open(world.now());
    pass(DAY * 4).await;
    let chain = next.sign(world.state.path(), DAY * 7, world.now());

    let installed = world.install(chain).await.unwrap();
    assert_eq!(installed.slot, Slot::Prepared);
    assert_eq!(installed.waits_for.len(), 2, "{:?}", installed.waits_for);
    assert_eq!(world.roots().len(), 2);
    assert_eq!(world.issued().bundle.roots.len(), 2);
    pass(DAY + HOUR).await;
    assert_eq!(world.roots()[0].1.as_str().len(), 16);
    assert_ne!(world.active(), installed.id, "the reader has not loaded the new root");
    world.acknowledge(&reader);
    pass(MINUTE * 5).await;

    assert_eq!(world.active(), installed.id);
    assert_eq!(world.roots()[0], (Slot::Active, next.0.id().clone()));
    assert!(world.issued().svids.values().all(|svid| svid.authority == installed.id));
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn who_lags_is_left_behind_only_when_everybody_would_be_left_without() {
    let (world, _) = installed(elsewhere(&["agent", "orders"], HOUR), DAY * 7);
    world.expect("orders");
    let next = Office::open(world.now());
    pass(DAY * 4).await;
    let ends = world.issued().hierarchy.issuing[0].not_after;
    let chain = next.sign(world.state.path(), DAY * 7, world.now());
    let installed = world.install(chain).await.unwrap();

    pass(ends.since(world.now()) - MINUTE * 35).await;
    assert_ne!(world.active(), installed.id);
    pass(MINUTE * 10).await;

    assert_eq!(world.active(), installed.id);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_root_can_be_made_known_ahead_of_the_first_authority_under_it() {
    let (world, _) = installed(elsewhere(&["agent"], HOUR), DAY * 7);
    let reader = world.expect("agent");
    let next = Office::open(world.now());
    let chain = SignedChain { certificates: vec![next.0.certificate().clone()], roots: Vec::new() };
    let order = InstallOrder { chain, reach: Reach::Root, run: Run::Real };

    for _ in 0..2 {
        let order = Box::new(order.clone());
        let installed = world.ask(|reply| Command::Install { order, reply }).await.unwrap();
        assert_eq!((installed.level, installed.slot), (Level::Root, Slot::Prepared));
    }
    world.acknowledge(&reader);
    pass(DAY * 4).await;
    let chain = next.sign(world.state.path(), DAY * 7, world.now());

    assert_eq!(world.install(chain).await.unwrap().slot, Slot::Active, "everyone knows the root already");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_live_long_enough_for_the_leaves_is_refused_with_the_arithmetic() {
    let (world, office) = installed(elsewhere(&["agent"], HOUR), DAY * 7);
    let before = world.active();
    pass(DAY * 4).await;
    let short = office.sign(world.state.path(), HOUR * 2, world.now());

    let error = world.install(short).await.unwrap_err();
    let text = crate::causes::Causes(&error).to_string();
    assert!(text.contains("at least 3 × 1 min = 3 min, but the issuing authority lives 2 min"), "{text}");
    assert_eq!(world.active(), before);

    let settings = Box::new(elsewhere(&["agent"], DAY * 3));
    let error = world.ask(|reply| Command::Configure { settings, reply }).await.unwrap_err();
    assert!(matches!(error, IssuanceError::Lifetimes { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_standalone_ca_moves_below_a_root_elsewhere_without_a_gap() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let clock = PausedClock::start();
    let own =
        World::start_in(state, settings(&["agent", "orders"], HOUR, DAY * 7), Arc::clone(&clock)).unwrap();
    let settings = Box::new(elsewhere(&["agent", "orders"], HOUR));
    own.ask(|reply| Command::Configure { settings, reply }).await.unwrap();
    let reader = own.expect("orders");
    let office = Office::open(own.now());

    own.ask(|reply| Command::Request { wanted: Wanted::Same, run: Run::Real, reply }).await.unwrap();
    let installed = own.install(office.sign(own.state.path(), DAY * 7, own.now())).await.unwrap();
    assert_eq!(installed.slot, Slot::Prepared);
    own.acknowledge(&reader);
    pass(DAY * 4).await;

    assert_eq!(own.active(), installed.id);
    assert!(own.issued().hierarchy.signs_elsewhere);
    own.check_history();
}

#[tokio::test(start_paused = true)]
async fn an_installation_that_is_killed_at_any_step_is_simply_done_again() {
    let settings = elsewhere(&["agent"], HOUR);
    let clock = PausedClock::start();
    let office = Office::open(clock.now());
    for first in [true, false] {
        for last in 0.. {
            let state = tempfile::tempdir().unwrap();
            let path = state.path();
            let install = |directory, chain| {
                let clock = Arc::<PausedClock>::clone(&clock);
                install_at_rest(directory, &settings, &order(chain), clock)
            };
            ask_at_rest(path, &settings);
            let mut chain = office.sign(path, DAY * 7, clock.now());
            if !first {
                install(AuthorityDir::open(path).unwrap(), chain).unwrap();
                ask_at_rest(path, &settings);
                chain = office.sign(path, DAY * 7, clock.now());
            }
            let before = loaded(path).map(|hierarchy| hierarchy.issuing().active.id().clone());
            let steps = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&steps);
            let gate = move |_| {
                let goes_on = counted.fetch_add(1, Ordering::Relaxed) < last;
                if goes_on { Ok(()) } else { Err(io::Error::other("killed")) }
            };
            let outcome = install(AuthorityDir::open_with(path, Box::new(gate)).unwrap(), chain.clone());

            let after = loaded(path).map(|hierarchy| hierarchy.issuing().active.id().clone());
            let done = install(AuthorityDir::open(path).unwrap(), chain).unwrap();
            assert_eq!(done.slot, Slot::Active, "killed before step {last}");
            assert!(after == before || after.as_ref() == Some(&done.id), "killed before step {last}");
            assert_eq!(loaded(path).unwrap().issuing().active.id(), &done.id);
            assert!(!path.join("request.pem").exists() && !path.join("requested").exists());
            if steps.load(Ordering::Relaxed) <= last {
                assert!(outcome.is_ok() && last > 20, "{last}");
                break;
            }
        }
    }
}

fn loaded(state: &Path) -> Option<Hierarchy> {
    let loaded: Result<_, StoreError> = AuthorityDir::open(state).unwrap().load();
    loaded.unwrap().map(|stored| stored.hierarchy)
}
