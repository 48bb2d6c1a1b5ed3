//! Days of rotation in milliseconds: time is the runtime's paused clock, and only the test moves it.

mod subordinate;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

mod revoking;

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::id::{AuthorityId, WorkloadId};
use crate::pki::{
    BundleSet, KeyAlgorithm, Level, Profile, Rng as _, SeededRng, Slot, Usage, Verifier, X509Svid,
};
use crate::store::AuthorityDir;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// For what takes many days: looking at the clock every other second adds up.
const SHORT_DAY: Duration = Duration::from_secs(24 * 60);
const DAY: Duration = Duration::from_secs(86_400);

/// Wall time that goes with the runtime's paused time, and can be stepped.
#[derive(Debug)]
struct PausedClock {
    origin: Instant,
    wall: ManualClock,
}

impl PausedClock {
    fn start() -> Arc<Self> {
        let wall = ManualClock::at("2026-11-22T05:21:00Z".parse().unwrap());
        Arc::new(Self { origin: Instant::now(), wall })
    }

    fn step_back(&self, span: Duration) {
        self.wall.set(self.wall.now() - span);
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        self.wall.now() + self.origin.elapsed()
    }

    fn since_boot(&self) -> Duration {
        self.wall.since_boot() + self.origin.elapsed()
    }
}

fn workload(name: &str) -> WorkloadId {
    name.parse().unwrap()
}

fn profile(name: &str, ttl: Duration) -> Profile {
    Profile {
        spiffe_id: format!("spiffe://postern.test/{name}").parse().unwrap(),
        dns: Vec::new(),
        ttl,
        backdate: MINUTE * 5,
        algorithm: KeyAlgorithm::EcdsaP256,
    }
}

fn settings(names: &[&str], leaf: Duration, issuing: Duration) -> Settings {
    Settings {
        domain: "postern.test".parse().unwrap(),
        mode: Mode::Standalone,
        root_ttl: DAY * 365,
        issuing_ttl: issuing,
        distribute: DAY,
        crl_ttl: DAY,
        algorithm: KeyAlgorithm::EcdsaP256,
        backdate: MINUTE * 5,
        second_opinion: None,
        workloads: names.iter().map(|name| (workload(name), profile(name, leaf))).collect(),
    }
}

type History = Arc<Mutex<Vec<(Timestamp, Arc<Issued>)>>>;

/// A running rotator and all that it ever published.
struct World {
    clock: Arc<PausedClock>,
    feed: Feed,
    commands: mpsc::Sender<Command>,
    history: History,
    disk_works: Arc<AtomicBool>,
    acknowledgements: watch::Sender<Acknowledgements>,
    tasks: tokio::task::JoinSet<()>,
    state: Arc<tempfile::TempDir>,
}

impl World {
    fn start(settings: Settings) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), settings, PausedClock::start()).unwrap()
    }

    fn start_in(
        state: Arc<tempfile::TempDir>,
        settings: Settings,
        clock: Arc<PausedClock>,
    ) -> Result<Self, IssuanceError> {
        let disk_works = Arc::new(AtomicBool::new(true));
        let works = Arc::clone(&disk_works);
        let gate = move |_| {
            if works.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err(io::Error::other("no space left on device"))
            }
        };
        let directory = AuthorityDir::open_with(state.path(), Box::new(gate)).unwrap();
        let (rotator, mut feed) = Rotator::start_with(
            settings,
            directory,
            Arc::<PausedClock>::clone(&clock),
            Box::new(SeededRng(1)),
        )?;
        let (acknowledgements, acknowledged) = watch::channel(Acknowledgements::default());
        let rotator = rotator.heeding(acknowledged);
        let (commands, receiver) = mpsc::channel(4);
        let history = Arc::new(Mutex::new(vec![(clock.now(), Arc::clone(&feed.borrow_and_update()))]));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(rotator.run(receiver, std::future::pending()));
        tasks.spawn(record(feed.clone(), Arc::<PausedClock>::clone(&clock), Arc::clone(&history)));
        Ok(Self { clock, feed, commands, history, disk_works, acknowledgements, tasks, state })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn issued(&self) -> Arc<Issued> {
        Arc::clone(&self.feed.borrow())
    }

    fn svid(&self, name: &str) -> Arc<X509Svid> {
        Arc::clone(&self.issued().svids[&workload(name)])
    }

    fn active(&self) -> AuthorityId {
        self.issued().hierarchy.issuing[0].id.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, IssuanceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.unwrap();
        answer.await.unwrap()
    }

    /// Changes the issuing authority.
    async fn change(&self, verb: Verb) -> Result<AuthorityId, IssuanceError> {
        let change = Change::new(Level::Issuing, verb);
        Ok(self.ask(|reply| Command::Change { change, reply }).await?.id)
    }

    /// Changes the root.
    async fn change_root(&self, verb: Verb, insistence: Insistence) -> Result<Changed, IssuanceError> {
        let change = Change { insistence, ..Change::new(Level::Root, verb) };
        self.ask(|reply| Command::Change { change, reply }).await
    }

    fn roots(&self) -> Vec<(Slot, AuthorityId)> {
        self.issued().hierarchy.roots.iter().map(|root| (root.slot, root.id.clone())).collect()
    }

    /// From now on this reader counts.
    fn expect(&self, reader: &str) -> Consumer {
        let consumer = Consumer::Files(workload(reader));
        self.acknowledgements.send_modify(|all| all.expect([consumer.clone()], self.now()));
        consumer
    }

    fn acknowledge(&self, consumer: &Consumer) {
        let sequence = self.issued().bundle.sequence;
        self.acknowledgements.send_modify(|all| all.acknowledge(consumer, sequence, self.now()));
    }

    /// Every identity that a workload had, in order.
    fn lives(&self, name: &str) -> Vec<Arc<X509Svid>> {
        let mut lives: Vec<Arc<X509Svid>> = Vec::new();
        for (_, issued) in self.history.lock().unwrap().iter() {
            let svid = &issued.svids[&workload(name)];
            if lives.last().is_none_or(|last| last.serial != svid.serial) {
                lives.push(Arc::clone(svid));
            }
        }
        lives
    }

    /// Everything ever published was whole: each identity valid and signed by the active authority.
    fn check_history(&self) {
        let mut generation = 0;
        for (at, issued) in self.history.lock().unwrap().iter() {
            assert!(issued.generation >= generation);
            generation = issued.generation;
            let verifier =
                Verifier::new(Arc::new(BundleSet::from_iter([issued.bundle.clone()])), Arc::default())
                    .unwrap();
            assert_eq!(issued.hierarchy.issuing[0].slot, Slot::Active);
            for (workload, svid) in &issued.svids {
                assert_eq!(svid.authority, issued.hierarchy.issuing[0].id);
                let subject = verifier.verify(&svid.chain, Usage::Client, *at).unwrap();
                assert_eq!(subject.subject.spiffe_id, svid.spiffe_id);
                assert_eq!(issued.renewals[workload].last_success, svid.issued_at);
            }
        }
    }

    async fn stop(mut self) -> Arc<tempfile::TempDir> {
        self.tasks.shutdown().await;
        self.state
    }
}

async fn record(mut feed: Feed, clock: Arc<PausedClock>, history: History) {
    while feed.changed().await.is_ok() {
        let issued = Arc::clone(&feed.borrow_and_update());
        history.lock().unwrap().push((clock.now(), issued));
    }
}

async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn the_feed_starts_complete() {
    let world = World::start(settings(&["agent", "orders"], HOUR, DAY * 7));

    let issued = world.issued();

    assert_eq!(issued.svids.len(), 2);
    assert_eq!(issued.bundle.roots.len(), 1);
    assert_eq!(issued.svids[&workload("orders")].generation, issued.generation);
    assert!(issued.renewals.values().all(|renewal| renewal.last_failure.is_none() && !renewal.overdue));
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn every_leaf_is_replaced_between_half_and_three_fifths_of_its_life_with_a_fresh_key() {
    let world = World::start(settings(&["agent", "orders", "ledger"], HOUR, DAY * 7));

    pass(DAY * 2).await;

    let mut keys = BTreeSet::new();
    for name in ["agent", "orders", "ledger"] {
        let lives = world.lives(name);
        assert!(lives.len() > 80, "{}", lives.len());
        for pair in lives.windows(2) {
            let life = pair[0].not_after.since(pair[0].issued_at);
            let part = pair[1].issued_at.since(pair[0].issued_at).as_secs_f64() / life.as_secs_f64();
            assert!((0.5..0.6001).contains(&part), "renewed at {part}");
        }
        keys.extend(lives.iter().map(|svid| svid.key.expose_secret().to_vec()));
        assert!(keys.len() > 80);
    }
    let total: usize = ["agent", "orders", "ledger"].iter().map(|name| world.lives(name).len()).sum();
    assert_eq!(keys.len(), total, "no key twice");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn the_moment_that_was_drawn_is_the_moment_of_renewal() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let due = world.issued().renewals[&workload("agent")].next_rotation_at;

    pass(HOUR).await;

    let lives = world.lives("agent");
    assert!(lives[1].issued_at.since(due) < SECOND, "{} and not {due}", lives[1].issued_at);
}

#[tokio::test(start_paused = true)]
async fn the_issuing_authority_is_replaced_at_half_of_its_life_and_dropped_when_its_last_leaf_has_expired() {
    let world = World::start(settings(&["agent", "orders"], HOUR, HOUR * 12));
    let (first, start, root) = (world.active(), world.now(), world.issued().bundle.clone());

    pass(HOUR * 6 + SECOND * 3).await;

    let issued = world.issued();
    let [active, retired] = issued.hierarchy.issuing.as_slice() else { panic!("{:?}", issued.hierarchy) };
    assert_ne!(active.id, first);
    assert!(active.created.since(start + HOUR * 6) < SECOND);
    assert_eq!((&retired.id, retired.slot), (&first, Slot::Retired));
    let drained = retired.drained_at.unwrap();
    assert!(drained >= start + HOUR * 6 && drained <= start + HOUR * 7 + SECOND);
    assert_eq!(issued.bundle, root, "the bundle stays");

    pass(HOUR).await;
    assert_eq!(world.issued().hierarchy.issuing.len(), 1, "the retired one is gone");

    pass(DAY * 3).await;
    assert_eq!(world.issued().bundle, root);
    world.check_history();
    let stored = world.stop().await;
    let found = std::fs::read_dir(stored.path().join("authorities")).unwrap().count();
    assert!(found <= 3, "{found} authorities on the disk");
}

#[tokio::test(start_paused = true)]
async fn lifetimes_of_seconds_hold_together() {
    let mut settings = settings(&["agent", "orders"], SECOND * 10, MINUTE);
    settings.root_ttl = HOUR;
    settings.distribute = MINUTE;
    let world = World::start(settings);

    pass(MINUTE * 10).await;

    assert!(world.lives("orders").len() > 100);
    for pair in world.lives("orders").windows(2) {
        assert!(pair[1].issued_at < pair[0].not_after, "never without a valid identity");
    }
    let issued = world.issued();
    assert!(issued.hierarchy.rotation.last_failure.is_none(), "{:?}", issued.hierarchy.rotation);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_fails_leaves_go_on_and_the_authority_is_tried_again() {
    let world = World::start(settings(&["agent"], HOUR, HOUR * 12));
    let first = world.active();
    world.disk_works.store(false, Ordering::Relaxed);

    pass(HOUR * 8).await;

    let issued = world.issued();
    assert_eq!(world.active(), first);
    let (_, failure) = issued.hierarchy.rotation.last_failure.clone().unwrap();
    assert!(failure.contains("no space left on device"), "{failure}");
    assert!(issued.hierarchy.rotation.overdue);
    let renewal = &issued.renewals[&workload("agent")];
    assert!(renewal.last_failure.is_none() && world.now().since(renewal.last_success) < HOUR);

    world.disk_works.store(true, Ordering::Relaxed);
    pass(MINUTE * 6).await;

    assert_ne!(world.active(), first);
    assert!(world.issued().hierarchy.rotation.last_failure.is_none());
    assert!(!world.issued().hierarchy.rotation.overdue);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_cannot_be_renewed_stays_and_says_so_until_it_is() {
    let world = World::start(settings(&["agent"], HOUR, HOUR * 3));
    world.disk_works.store(false, Ordering::Relaxed);

    // The authority ends after three hours, so none of its leaves can begin after two.
    pass(HOUR * 3).await;
    let issued = world.issued();
    let renewal = &issued.renewals[&workload("agent")];
    let (_, failure) = renewal.last_failure.clone().unwrap();
    assert!(failure.contains("the issuing authority expires"), "{failure}");
    assert!(renewal.overdue);
    assert_eq!(issued.svids.len(), 1, "nothing was taken away");

    world.disk_works.store(true, Ordering::Relaxed);
    pass(MINUTE * 6).await;
    let renewal = world.issued().renewals[&workload("agent")].clone();
    assert!(renewal.last_failure.is_none() && !renewal.overdue);
    assert!(world.svid("agent").not_after > world.now());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_leaps_is_noticed_within_seconds() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));

    world.clock.wall.advance(HOUR * 2);
    pass(SECOND * 3).await;
    assert!(world.now().since(world.svid("agent").issued_at) <= SECOND * 3, "a suspended machine woke up");

    world.clock.wall.advance(DAY * 30);
    pass(SECOND * 3).await;
    let svid = world.svid("agent");
    assert!(world.now().since(svid.issued_at) <= SECOND * 3, "the authority had expired as well");
    assert!(svid.not_after > world.now());
}

#[tokio::test(start_paused = true)]
async fn no_two_renewals_happen_within_the_minimum_interval_however_the_clock_leaps() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let mut feed = world.feed.clone();
    let mut renewals = vec![(Instant::now(), world.svid("agent").serial.clone())];
    let (mut rng, mut wrong) = (SeededRng(11), Duration::ZERO);

    for _ in 0..1000 {
        let next = HOUR.mul_f64(rng.unit() * 3.0);
        if next < wrong {
            world.clock.step_back(wrong - next)
        } else {
            world.clock.wall.advance(next - wrong)
        }
        wrong = next;
        let until = Instant::now() + Duration::from_millis(700);
        while tokio::time::timeout_at(until, feed.changed()).await.is_ok() {
            let serial = feed.borrow_and_update().svids[&workload("agent")].serial.clone();
            if renewals.last().is_some_and(|(_, last)| *last != serial) {
                renewals.push((Instant::now(), serial));
            }
        }
    }

    assert!(renewals.len() > 100, "it was tried {} times only", renewals.len());
    let shortest = renewals.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0)).min().unwrap();
    assert!(shortest >= SECOND, "{shortest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_valid_is_kept_for_half_a_minute_of_an_hour() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let first = world.svid("agent").serial.clone();

    world.clock.wall.advance(MINUTE * 40);
    pass(SECOND * 29).await;
    assert_eq!(world.svid("agent").serial, first);
    pass(SECOND * 2).await;
    let second = world.svid("agent").serial.clone();
    assert_ne!(second, first);

    world.clock.wall.advance(MINUTE * 40);
    pass(SECOND * 29).await;
    assert_eq!(world.svid("agent").serial, second);
    pass(SECOND * 2).await;
    assert_ne!(world.svid("agent").serial, second);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_gets_certificates_that_are_valid_now() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    pass(HOUR * 10).await;

    world.clock.step_back(HOUR);
    pass(SECOND * 3).await;
    let svid = world.svid("agent");
    assert!(svid.not_before <= world.now() && world.now() <= svid.not_after);

    // Before the CA itself: nothing can be valid, and nothing is lost.
    world.clock.step_back(DAY * 10);
    pass(MINUTE).await;
    assert!(world.issued().renewals[&workload("agent")].last_failure.is_some());
    world.clock.wall.advance(DAY * 10);
    pass(MINUTE * 6).await;
    let svid = world.svid("agent");
    assert!(svid.not_before <= world.now() && world.now() <= svid.not_after);
    assert!(world.issued().renewals[&workload("agent")].last_failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_look_around_finds_done_what_is_due_by_a_clock_that_was_set() {
    let world = World::start(settings(&["agent", "web"], MINUTE * 10, DAY * 7));
    pass(MINUTE).await;

    world.clock.wall.set(world.clock.wall.now() + HOUR);
    let (now, runtime) = (world.now(), Instant::now());
    let (reply, done) = oneshot::channel();
    world.commands.send(Command::LookAround { reply }).await.unwrap();
    done.await.unwrap();

    assert_eq!(runtime.elapsed(), Duration::ZERO, "no timer was waited for");
    for name in ["agent", "web"] {
        assert_eq!(world.svid(name).issued_at, now);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_to_and_fro_replaces_an_authority_only_when_it_must() {
    let world = World::start(settings(&["agent"], MINUTE * 10, DAY * 7));
    pass(DAY * 7 / 2 - MINUTE * 30).await;
    let mut signers = vec![world.active()];

    for _ in 0..3 {
        for step in [HOUR, Duration::ZERO] {
            let now = world.clock.wall.now();
            world.clock.wall.set(if step.is_zero() { now - HOUR } else { now + step });
            pass(SECOND * 3).await;
            let svid = world.svid("agent");
            assert!(svid.life().covers(world.now()), "a leaf for this hour");
            if signers.last() != Some(&world.active()) {
                signers.push(world.active());
            }
        }
    }

    // One that is due an hour on, and one in its place that is valid an hour back as well. Then there is no reason any more.
    assert_eq!(signers.len(), 3, "{signers:?}");
    assert_eq!(world.issued().bundle.sequence, 1, "no root was touched");
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_ca_and_counts_on() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let (before, clock) = (world.issued(), Arc::clone(&world.clock));
    let state = world.stop().await;
    pass(SECOND).await;

    let world = World::start_in(state, settings(&["agent"], HOUR, DAY * 7), clock).unwrap();

    let after = world.issued();
    assert_eq!(after.bundle, before.bundle);
    assert_eq!(after.hierarchy.issuing[0].id, before.hierarchy.issuing[0].id);
    assert!(after.generation > before.generation);
    assert_eq!(
        after.hierarchy.rotation.next_rotation_at, before.hierarchy.rotation.next_rotation_at,
        "a restart does not put the rotation off"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_off_for_longer_than_its_authority_lives_starts_at_once() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let (first, clock) = (world.active(), Arc::clone(&world.clock));
    let state = world.stop().await;
    clock.wall.advance(DAY * 60);

    let world = World::start_in(state, settings(&["agent"], HOUR, DAY * 7), clock).unwrap();

    assert_ne!(world.active(), first);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_was_interrupted_is_finished_with_what_was_prepared() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let prepared = world.change(Verb::Prepare).await.unwrap();
    let clock = Arc::clone(&world.clock);
    let state = world.stop().await;

    let world = World::start_in(state, settings(&["agent"], HOUR, DAY * 7), clock).unwrap();
    let rotated = world.change(Verb::Rotate).await.unwrap();

    assert_eq!(rotated, prepared);
    assert_eq!(world.active(), prepared);
}

#[tokio::test(start_paused = true)]
async fn authorities_move_on_command() {
    let world = World::start(settings(&["agent", "orders"], HOUR, DAY * 7));
    let first = world.active();

    let prepared = world.change(Verb::Prepare).await.unwrap();
    assert_eq!(world.active(), first, "preparing does not touch the leaves");
    assert_eq!(world.change(Verb::Prepare).await.unwrap(), prepared, "once is enough");
    world.change(Verb::Discard(Some(prepared.clone()))).await.unwrap();
    let gone = world.change(Verb::Activate(Some(prepared))).await;
    assert!(gone.is_err());

    let next = world.change(Verb::Prepare).await.unwrap();
    world.change(Verb::Activate(Some(next.clone()))).await.unwrap();
    assert_eq!(world.active(), next);
    for name in ["agent", "orders"] {
        assert_eq!(world.svid(name).authority, next, "issued anew by the time of the answer");
    }
    let rotated = world.change(Verb::Rotate).await.unwrap();
    assert_eq!(world.active(), rotated);
    assert_eq!(world.issued().hierarchy.issuing.len(), 3);
    pass(SECOND).await;
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_root_is_prepared_at_half_of_its_life_and_signs_when_everyone_knows_it() {
    let mut settings = settings(&["agent", "orders"], MINUTE, SHORT_DAY * 7);
    (settings.root_ttl, settings.distribute) = (SHORT_DAY * 30, SHORT_DAY);
    let world = World::start(settings);
    let (start, first) = (world.now(), world.roots());
    let reader = world.expect("orders");
    world.acknowledge(&reader);

    pass(SHORT_DAY * 15 + SECOND * 3).await;
    let roots = world.roots();
    assert_eq!(roots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [Slot::Active, Slot::Prepared]);
    assert_eq!((world.issued().bundle.sequence, world.issued().bundle.roots.len()), (2, 2));

    pass(SHORT_DAY * 2).await;
    assert_eq!(world.roots(), roots, "a reader that lags keeps the old one active");
    assert!(!world.issued().hierarchy.roll_over.overdue);
    pass(SHORT_DAY * 3).await;
    assert!(world.issued().hierarchy.roll_over.overdue, "and that is told in the end");

    world.acknowledge(&reader);
    pass(SECOND * 3).await;
    let next = world.roots();
    assert_eq!(next[0], (Slot::Active, roots[1].1.clone()));
    assert_eq!(next[1], (Slot::Retired, first[0].1.clone()));
    assert!(!world.issued().hierarchy.roll_over.overdue);
    assert!(world.svid("orders").issued_at > start + SHORT_DAY * 20, "everything was issued anew");

    pass(SHORT_DAY * 3).await;
    assert_eq!(world.roots().len(), 1, "the old one goes with the last leaf under it");
    assert_eq!(world.issued().bundle.sequence, 3);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn others_have_time_to_fetch_a_root_even_if_everyone_here_knows_it() {
    let mut settings = settings(&["agent"], MINUTE, SHORT_DAY * 7);
    (settings.root_ttl, settings.distribute) = (SHORT_DAY * 30, SHORT_DAY);
    let world = World::start(settings);

    pass(SHORT_DAY * 15 + SECOND * 3).await;
    assert_eq!(
        world.issued().hierarchy.distributed_at.map(|at| at.since(world.now()) > MINUTE * 23),
        Some(true)
    );
    pass(MINUTE * 23).await;
    assert_eq!(world.roots()[1].0, Slot::Prepared);

    pass(MINUTE).await;
    assert_eq!(world.roots()[1].0, Slot::Retired);
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn years_of_roots_follow_each_other() {
    let mut settings = settings(&["agent"], MINUTE, MINUTE * 12);
    settings.root_ttl = SHORT_DAY * 3;
    settings.distribute = MINUTE;
    let world = World::start(settings);

    pass(SHORT_DAY * 20).await;

    assert!(world.issued().bundle.sequence > 20, "{}", world.issued().bundle.sequence);
    assert!(world.issued().hierarchy.roll_over.last_failure.is_none());
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_root_that_can_sign_no_more_does_not_wait_for_a_reader_that_lags() {
    let mut settings = settings(&["agent"], MINUTE, MINUTE * 12);
    settings.root_ttl = SHORT_DAY * 3;
    settings.distribute = MINUTE;
    let world = World::start(settings);
    let first = world.roots()[0].1.clone();
    world.expect("lame");

    pass(SHORT_DAY * 5).await;

    assert_ne!(world.roots()[0].1, first);
    assert!(world.svid("agent").not_after > world.now(), "nobody else is left without");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn an_activation_is_refused_while_somebody_lags_and_force_names_them() {
    let mut settings = settings(&["agent", "orders"], MINUTE, SHORT_DAY * 7);
    settings.distribute = Duration::ZERO;
    let world = World::start(settings);
    let reader = world.expect("orders");
    world.acknowledge(&reader);
    let first = world.roots();

    let refused = world.change_root(Verb::Rotate, Insistence::Heed).await.unwrap_err();
    let IssuanceError::NotAcknowledged { id, waits_for } = refused else { panic!("{refused:?}") };
    assert!(waits_for[0].starts_with("the files of orders (bundle 1, loaded 2026-"), "{waits_for:?}");
    assert_eq!(world.roots()[0], first[0]);
    let prepared = world.change_root(Verb::Prepare, Insistence::Heed).await.unwrap();
    assert_eq!(prepared.id, id, "what was prepared waits");

    let forced = world.change_root(Verb::Activate(None), Insistence::Force).await.unwrap();
    assert_eq!((&forced.id, &forced.left_behind), (&id, &waits_for));
    assert_eq!(world.roots()[0], (Slot::Active, id.clone()));
    let rotation = world.change(Verb::Rotate).await.unwrap_err();
    assert!(matches!(rotation, IssuanceError::NotAcknowledged { .. }), "the reader still lags");
    world.acknowledge(&reader);
    world.change(Verb::Rotate).await.unwrap();
    let again = world.change_root(Verb::Activate(Some(id)), Insistence::Heed).await.unwrap();
    assert!(again.left_behind.is_empty(), "done already");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_roll_back_holds_until_the_other_authority_has_drained() {
    let mut settings = settings(&["agent"], MINUTE, SHORT_DAY * 7);
    settings.root_ttl = SHORT_DAY * 30;
    settings.distribute = Duration::ZERO;
    let world = World::start(settings);
    let (root, issuing) = (world.roots()[0].1.clone(), world.active());
    pass(SHORT_DAY * 3).await;
    let next = world.change(Verb::Rotate).await.unwrap();
    world.change(Verb::RollBack(None)).await.unwrap();
    assert_eq!(world.active(), issuing);
    assert_eq!(world.issued().hierarchy.held, [Level::Issuing]);
    world.change(Verb::RollBack(Some(issuing.clone()))).await.unwrap();
    assert_eq!(world.active(), issuing, "once is enough");

    world.change_root(Verb::Rotate, Insistence::Heed).await.unwrap();
    assert_ne!(world.roots()[0].1, root);
    let under_old = world.change(Verb::RollBack(Some(next))).await.unwrap_err();
    assert!(matches!(under_old, IssuanceError::Hierarchy(_)), "{under_old}");
    world.change_root(Verb::RollBack(None), Insistence::Heed).await.unwrap();
    assert_eq!(world.roots()[0].1, root);
    assert_eq!(world.svid("agent").authority, world.active());

    pass(SHORT_DAY * 4).await;
    assert_eq!(world.roots().len(), 1, "the one that was rolled back is gone");
    assert!(world.issued().hierarchy.held.is_empty());
    let nothing = world.change_root(Verb::RollBack(None), Insistence::Heed).await.unwrap_err();
    assert_eq!(nothing.to_string(), "no root is retired");
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_retired_root_leaves_early_only_by_force() {
    let mut settings = settings(&["agent"], HOUR, DAY * 7);
    settings.distribute = Duration::ZERO;
    let world = World::start(settings);
    let old = world.roots()[0].1.clone();
    world.change_root(Verb::Rotate, Insistence::Heed).await.unwrap();

    let refused = world.change_root(Verb::Retire(old.clone()), Insistence::Heed).await.unwrap_err();
    assert!(refused.source().unwrap().to_string().contains("is valid until"), "{refused}");
    let forced = world.change_root(Verb::Retire(old.clone()), Insistence::Force).await.unwrap();
    assert!(forced.left_behind[0].contains("is refused from now on"), "{forced:?}");
    assert_eq!(world.issued().bundle.roots.len(), 1);
    world.change_root(Verb::Retire(old), Insistence::Heed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_changes_nothing() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let before = world.issued();

    for level in [Level::Root, Level::Issuing] {
        for verb in [Verb::Prepare, Verb::Rotate] {
            let change = Change { run: Run::Rehearsal, ..Change::new(level, verb) };
            world.ask(|reply| Command::Change { change, reply }).await.unwrap();
        }
    }

    assert_eq!(world.issued().hierarchy, before.hierarchy);
    assert_eq!(world.issued().generation, before.generation);
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_a_new_root_is_activated_only_by_force() {
    let state = tempfile::tempdir().unwrap();
    let mut settings = settings(&["agent"], HOUR, DAY * 7);
    settings.distribute = Duration::ZERO;
    let directory = AuthorityDir::open(state.path()).unwrap();
    let (rotator, _feed) = Rotator::start(settings, directory, PausedClock::start()).unwrap();
    let (commands, receiver) = mpsc::channel(1);
    let task = tokio::spawn(rotator.run(receiver, std::future::pending()));
    let rotate = async |insistence| {
        let (reply, answer) = oneshot::channel();
        let change = Change { insistence, ..Change::new(Level::Root, Verb::Rotate) };
        commands.send(Command::Change { change, reply }).await.unwrap();
        answer.await.unwrap()
    };

    let refused = rotate(Insistence::Heed).await.unwrap_err();
    assert!(refused.to_string().ends_with("it waits for the agent, which is not running"), "{refused}");
    assert_eq!(rotate(Insistence::Force).await.unwrap().left_behind, ["the agent, which is not running"]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_rotation_on_command_that_fails_is_not_repeated_behind_the_operators_back() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let first = world.active();
    world.disk_works.store(false, Ordering::Relaxed);

    let error = world.change(Verb::Rotate).await.unwrap_err();
    assert!(matches!(error, IssuanceError::Store(_)), "{error}");

    world.disk_works.store(true, Ordering::Relaxed);
    pass(HOUR).await;
    assert_eq!(world.active(), first);
}

#[tokio::test(start_paused = true)]
async fn one_identity_is_issued_anew_on_command() {
    let world = World::start(settings(&["agent", "orders"], HOUR, DAY * 7));
    let (agent, orders) = (world.svid("agent"), world.svid("orders"));

    let fresh = world.ask(|reply| Command::IssueNow { workload: workload("orders"), reply }).await.unwrap();

    assert_ne!(fresh.serial, orders.serial);
    assert_eq!(world.svid("orders").serial, fresh.serial);
    assert_eq!(world.svid("agent").serial, agent.serial);
    assert!(fresh.generation > orders.generation);
    let unknown =
        world.ask(|reply| Command::IssueNow { workload: workload("nobody"), reply }).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no workload nobody");
}

#[tokio::test(start_paused = true)]
async fn other_settings_touch_only_what_they_change() {
    let world = World::start(settings(&["agent", "orders", "old"], HOUR, DAY * 7));
    let before = world.issued();
    let mut next = settings(&["agent", "orders", "new"], HOUR, DAY * 7);
    next.workloads.insert(workload("orders"), profile("orders", HOUR * 2));

    world.ask(|reply| Command::Configure { settings: Box::new(next.clone()), reply }).await.unwrap();

    let after = world.issued();
    let serial = |issued: &Issued, name: &str| issued.svids[&workload(name)].serial.clone();
    assert_eq!(serial(&after, "agent"), serial(&before, "agent"));
    assert_ne!(serial(&after, "orders"), serial(&before, "orders"));
    assert_eq!(after.svids.keys().cloned().collect::<Vec<_>>(), ["agent", "new", "orders"].map(workload));
    assert_eq!(after.svids.keys().collect::<Vec<_>>(), after.renewals.keys().collect::<Vec<_>>());

    world.ask(|reply| Command::Configure { settings: Box::new(next), reply }).await.unwrap();
    assert_eq!(
        serial(&world.issued(), "orders"),
        serial(&after, "orders"),
        "a reload without changes issues nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn bad_settings_leave_everything_as_it_was() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let before = world.issued();
    let configure =
        |settings: Settings| world.ask(|reply| Command::Configure { settings: Box::new(settings), reply });

    let too_long = configure(settings(&["agent"], DAY * 3, DAY * 7)).await.unwrap_err();
    assert!(matches!(too_long, IssuanceError::Lifetimes { workload: Some(_), .. }));
    let mut other = settings(&[], HOUR, DAY * 7);
    other.domain = "other.test".parse().unwrap();
    let other = configure(other).await.unwrap_err();
    assert!(matches!(other, IssuanceError::OtherDomain { .. }));
    let mut foreign = settings(&["agent"], HOUR, DAY * 7);
    foreign.workloads.get_mut("agent").unwrap().spiffe_id = "spiffe://other.test/agent".parse().unwrap();
    let foreign = configure(foreign).await.unwrap_err();
    assert!(matches!(foreign, IssuanceError::ForeignWorkload { .. }));
    let mut unnameable = settings(&["agent", "new"], HOUR, DAY * 7);
    unnameable.workloads.get_mut("new").unwrap().dns = vec!["not a name".to_owned()];
    let unnameable = configure(unnameable).await.unwrap_err();
    assert!(matches!(unnameable, IssuanceError::Issue { .. }));

    let after = world.issued();
    assert_eq!(after.generation, before.generation);
    assert_eq!(world.svid("agent").serial, before.svids[&workload("agent")].serial);
}

#[tokio::test(start_paused = true)]
async fn a_longer_leaf_gets_a_new_authority_if_the_old_one_cannot_serve_it() {
    let world = World::start(settings(&["agent", "orders"], HOUR, HOUR * 12));
    let first = world.active();
    pass(HOUR * 5).await;
    let mut next = settings(&["agent", "orders"], HOUR, DAY);
    next.workloads.insert(workload("orders"), profile("orders", HOUR * 8));

    world.ask(|reply| Command::Configure { settings: Box::new(next), reply }).await.unwrap();

    assert_ne!(world.active(), first);
    assert_eq!(world.svid("orders").not_after.since(world.svid("orders").issued_at), HOUR * 8);
    pass(SECOND).await;
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn settings_that_do_not_hold_together_make_no_ca() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let settings = settings(&["agent"], HOUR * 3, HOUR * 6);

    let error = World::start_in(Arc::clone(&state), settings, PausedClock::start()).err().unwrap();

    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(
        text.starts_with("the lifetimes do not fit (workload agent): a leaf that lives 3 h needs"),
        "{text}"
    );
    assert!(!state.path().join("authorities").exists());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_others_would_not_believe_is_never_stored() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let settings = settings(&["agent"], HOUR, DAY * 7);
    let doubtful = Settings { second_opinion: Some("/bin/false".into()), ..settings.clone() };
    let start = |settings| World::start_in(Arc::clone(&state), settings, PausedClock::start());

    let error = start(doubtful.clone()).map(drop).unwrap_err();
    assert!(matches!(error, IssuanceError::SecondOpinion(_)), "{error}");
    assert!(!state.path().join("authorities.toml").exists());

    let world = start(settings).unwrap();
    let active = world.active();
    world.ask(|reply| Command::Configure { settings: Box::new(doubtful), reply }).await.unwrap();
    let error = world.change(Verb::Rotate).await.unwrap_err();
    assert!(matches!(error, IssuanceError::SecondOpinion(_)), "{error}");
    assert_eq!(world.active(), active);
    assert_eq!(world.issued().hierarchy.issuing.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_ca_of_another_trust_domain_is_left_alone() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));
    let clock = Arc::clone(&world.clock);
    let state = world.stop().await;
    let mut other = settings(&[], HOUR, DAY * 7);
    other.domain = "other.test".parse().unwrap();

    let error = World::start_in(Arc::clone(&state), other, clock).err().unwrap();

    assert!(error.to_string().contains("holds the CA of the trust domain postern.test"), "{error}");
    let manifest = std::fs::read_to_string(state.path().join("authorities.toml")).unwrap();
    assert!(manifest.contains("trust_domain = \"postern.test\""));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_before_the_clock_is_set() {
    let state = tempfile::tempdir().unwrap();
    let directory = AuthorityDir::open(state.path()).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(0)));

    let error = Rotator::start(settings(&["agent"], HOUR, DAY * 7), directory, clock).err().unwrap();

    assert!(format!("{error:?}").contains("ClockNotSet"), "{error:?}");
    assert!(!Path::new(&state.path().join("authorities")).exists());
}

#[tokio::test(start_paused = true)]
async fn the_rotator_outlives_its_commanders_and_ends_when_told() {
    let state = tempfile::tempdir().unwrap();
    let directory = AuthorityDir::open(state.path()).unwrap();
    let clock = PausedClock::start();
    let (rotator, feed) =
        Rotator::start(settings(&["agent"], HOUR, DAY * 7), directory, Arc::<PausedClock>::clone(&clock))
            .unwrap();
    let first = feed.borrow().generation;
    let (commands, receiver) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(rotator.run(receiver, async move { drop(stopped.await) }));

    drop(commands);
    pass(HOUR * 3).await;
    assert!(feed.borrow().generation >= first + 4);

    stop.send(()).unwrap();
    task.await.unwrap();
    drop(AuthorityDir::open(state.path()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_does_not_change_is_not_published() {
    let world = World::start(settings(&["agent"], HOUR, DAY * 7));

    pass(MINUTE * 29).await;

    assert_eq!(world.history.lock().unwrap().len(), 1);
}

#[test]
fn the_lifetimes_of_authorities_are_checked_even_without_workloads() {
    let mut settings = settings(&[], HOUR, DAY * 7);
    settings.workloads = BTreeMap::new();
    settings.root_ttl = DAY;

    assert!(matches!(settings.check(), Err(IssuanceError::Lifetimes { workload: None, .. })));
}
