//! Keeps one workload's files as new as its identity, and says whether its reader has taken them.
//!
//! **Invariant:** a delivery is done when the reader has acknowledged it. Until then it is tried again, less and less
//! often, unless something newer is to be delivered; that goes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::id::WorkloadId;
use crate::issuance::{Acknowledgements, Consumer, Feed};
use crate::workload::files::{self, DeliverError, Material, Settings};
use crate::workload::reload::{Notice, ReloadError};

/// How far the files of one workload are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeliveryStatus {
    /// What is being delivered, or was.
    pub generation: u64,
    /// Whether the reader has taken it; without a reload to run it has as soon as the files are there.
    pub acknowledged: bool,
    /// Why it has not, on one line, after the last attempt.
    pub last_error: Option<String>,
    /// When this was found.
    pub since: Timestamp,
}

/// The status of every workload that files are delivered to; the sending half, one clone for each [`Delivery`].
pub type Statuses = watch::Sender<BTreeMap<WorkloadId, DeliveryStatus>>;

/// The delivery of files to one workload.
#[derive(Debug)]
pub struct Delivery {
    /// Whose files.
    pub workload: WorkloadId,
    /// Where they go.
    pub settings: Arc<Settings>,
    /// For the status.
    pub clock: Arc<dyn Clock>,
    /// Where to report to.
    pub statuses: Statuses,
    /// Where it says which bundle the reader has taken.
    pub acknowledgements: watch::Sender<Acknowledgements>,
}

/// Why one attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("the files cannot be delivered")]
    Deliver(#[from] DeliverError),
    #[error("the reader has not taken the files")]
    Reload(#[from] ReloadError),
    #[error("the agent is stopping")]
    Stopping,
}

impl Delivery {
    /// Delivers the workload's identity, again each time that it or the roots change, until the feed ends.
    ///
    /// What is the same but for its generation is not delivered again. When the workload is no longer in the feed, what
    /// was delivered stays until it expires. Dropping the future kills a reload that is under way.
    pub async fn run(self, feed: Feed) {
        let workload = self.workload.clone();
        self.follow(feed, |issued| Material::of(issued, &workload)).await;
    }

    /// [`Self::run`] for any feed in which `material` finds what is to be delivered.
    async fn follow<T>(&self, mut feed: watch::Receiver<T>, material: impl Fn(&T) -> Option<Material>) {
        let mut done: Option<Material> = None;
        loop {
            let is_news =
                |published: &T| material(published).is_some_and(|found| !is_same(&found, done.as_ref()));
            let found = match feed.wait_for(is_news).await {
                Ok(published) => material(&published),
                Err(_) => return,
            };
            if let Some(found) = found {
                self.settle(&found, &mut feed, &material).await;
                done = Some(found);
            }
        }
    }

    /// Tries until it succeeds, something newer is there, or the feed ends.
    async fn settle<T>(
        &self,
        current: &Material,
        feed: &mut watch::Receiver<T>,
        material: &impl Fn(&T) -> Option<Material>,
    ) {
        let mut written = Written::No;
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.attempt(current, &mut written).await;
            self.report(current, outcome.as_ref().err());
            if outcome.is_ok() {
                return;
            }
            let is_newer =
                |published: &T| material(published).is_some_and(|found| !is_same(&found, Some(current)));
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause.saturating_mul(2)),
                _ = feed.wait_for(is_newer) => return,
            }
        }
    }

    async fn attempt(&self, material: &Material, written: &mut Written) -> Result<(), AttemptError> {
        if let Written::No = written {
            let (settings, material) = (Arc::clone(&self.settings), material.clone());
            let delivered = tokio::task::spawn_blocking(move || files::deliver(&settings, &material)).await;
            delivered.map_err(|_| AttemptError::Stopping)??;
            *written = Written::Yes;
        }
        if let Some(reload) = &self.settings.reload {
            let directory = &self.settings.directory;
            let notice = Notice { workload: &self.workload, directory, generation: material.generation };
            reload.run(notice).await?;
        }
        Ok(())
    }

    fn report(&self, material: &Material, error: Option<&AttemptError>) {
        let (generation, now) = (material.generation, self.clock.now());
        let workload = self.workload.as_str();
        let last_error = error.map(in_one_line);
        match &last_error {
            Some(error) => tracing::warn!(workload, generation, error, "an identity is not with its reader"),
            None => tracing::info!(workload, generation, "an identity is with its reader"),
        }
        let status = DeliveryStatus { generation, acknowledged: error.is_none(), last_error, since: now };
        self.statuses.send_modify(|statuses| {
            statuses.insert(self.workload.clone(), status);
        });
        if error.is_none() {
            let consumer = Consumer::Files(self.workload.clone());
            self.acknowledgements.send_modify(|all| all.acknowledge(&consumer, material.sequence, now));
        }
    }
}

enum Written {
    No,
    Yes,
}

/// A leaf is issued with a fresh key each time, so equal certificates are the same identity.
fn is_same(one: &Material, other: Option<&Material>) -> bool {
    other.is_some_and(|other| {
        one.chain == other.chain && one.roots == other.roots && one.sequence == other.sequence
    })
}

fn in_one_line(error: &AttemptError) -> String {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::issuance::{self, Command, Rotator};
    use crate::pki::{KeyAlgorithm, Profile};
    use crate::store::AuthorityDir;
    use crate::workload::reload::Reload;
    use crate::workload::tests::{identity, settings};

    /// A delivery to a temporary directory whose reload is a shell script, and what it feeds on and reports.
    struct World {
        directory: tempfile::TempDir,
        feed: watch::Sender<Option<Material>>,
        statuses: watch::Receiver<BTreeMap<WorkloadId, DeliveryStatus>>,
        acknowledgements: watch::Sender<Acknowledgements>,
        task: tokio::task::JoinHandle<()>,
    }

    fn reader() -> Consumer {
        Consumer::Files("ledger".parse().unwrap())
    }

    impl World {
        fn start(reload: Option<&str>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let script = reload.map(|script| Reload::Command {
                program: "/bin/sh".into(),
                arguments: vec!["-c".into(), format!("cd '{}'; {script}", directory.path().display()).into()],
            });
            let settings = Settings { reload: script, ..settings(directory.path()) };
            let (feed, receiver) = watch::channel(None);
            let statuses = Statuses::new(BTreeMap::new());
            let acknowledgements = watch::Sender::new(Acknowledgements::default());
            acknowledgements.send_modify(|all| all.expect([reader()], Timestamp::FLOOR));
            let delivery = Delivery {
                workload: "ledger".parse().unwrap(),
                settings: Arc::new(settings),
                clock: Arc::new(ManualClock::at(Timestamp::FLOOR)),
                statuses: statuses.clone(),
                acknowledgements: acknowledgements.clone(),
            };
            let task = tokio::spawn(async move { delivery.follow(receiver, Option::clone).await });
            Self { directory, feed, statuses: statuses.subscribe(), acknowledgements, task }
        }

        fn publish(&self, material: Material) {
            self.feed.send_replace(Some(material));
        }

        async fn status(&mut self, is_it: impl Fn(&DeliveryStatus) -> bool) -> DeliveryStatus {
            let wanted = |statuses: &BTreeMap<_, _>| statuses.values().any(&is_it);
            let found = self.statuses.wait_for(wanted);
            let statuses = tokio::time::timeout(Duration::from_secs(60), found).await.unwrap().unwrap();
            statuses.get("ledger").unwrap().clone()
        }

        fn read(&self, file: &str) -> String {
            std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn without_a_reload_files_are_acknowledged_when_they_are_there() {
        let mut world = World::start(None);

        world.publish(identity(1));

        let status = world.status(|status| status.generation == 1).await;
        let expected =
            DeliveryStatus { generation: 1, acknowledged: true, last_error: None, since: Timestamp::FLOOR };
        assert_eq!(status, expected);
        assert_eq!(world.read("current/generation"), "1\n");
    }

    #[tokio::test]
    async fn a_reload_is_retried_until_it_succeeds() {
        let mut world =
            World::start(Some("echo >> tries; test $(wc -l < tries) -ge 2 || { echo busy >&2; false; }"));

        world.publish(identity(1));

        let refused = world.status(|status| status.generation == 1).await;
        assert!(!refused.acknowledged);
        assert_eq!(
            refused.last_error.as_deref(),
            Some("the reader has not taken the files: the reload command ended with exit status: 1: busy")
        );
        assert_eq!(world.status(|status| status.acknowledged).await.last_error, None);
        assert_eq!(world.read("tries").lines().count(), 2);
    }

    #[tokio::test]
    async fn a_bundle_is_acknowledged_when_the_reload_has_succeeded() {
        let mut world = World::start(Some("test $POSTERN_GENERATION = 2"));
        let lags = |world: &World| !world.acknowledgements.borrow().laggards(7).is_empty();
        world.publish(Material { sequence: 7, ..identity(1) });
        world.status(|status| !status.acknowledged).await;
        assert!(lags(&world));

        world.publish(Material { sequence: 7, ..identity(2) });

        world.acknowledgements.subscribe().wait_for(|all| all.laggards(7).is_empty()).await.unwrap();
        assert!(!lags(&world));
    }

    #[tokio::test]
    async fn something_newer_goes_before_a_retry() {
        let mut world = World::start(Some("test $POSTERN_GENERATION = 2"));
        world.publish(identity(1));
        world.status(|status| !status.acknowledged).await;

        world.publish(identity(2));

        let status = world.status(|status| status.acknowledged).await;
        assert_eq!(status.generation, 2);
    }

    #[tokio::test]
    async fn the_same_identity_in_a_newer_generation_is_not_delivered_again() {
        let mut world = World::start(Some("echo $POSTERN_GENERATION >> reloads"));
        let material = identity(1);
        world.publish(material.clone());
        world.status(|status| status.acknowledged).await;

        world.publish(Material { generation: 2, ..material });
        world.publish(identity(3));

        world.status(|status| status.generation == 3).await;
        assert_eq!(world.read("reloads"), "1\n3\n");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_reported() {
        let mut world = World::start(None);
        std::fs::create_dir(world.directory.path().join("current")).unwrap();

        world.publish(identity(1));

        let status = world.status(|status| status.generation == 1).await;
        assert!(!status.acknowledged);
        assert!(
            status
                .last_error
                .unwrap()
                .starts_with("the files cannot be delivered: cannot make a delivery current")
        );
        std::fs::remove_dir(world.directory.path().join("current")).unwrap();
        world.status(|status| status.acknowledged).await;
    }

    /// From the CA to the reader: what `issuance` publishes is what lies in the files.
    #[tokio::test]
    async fn each_identity_that_is_issued_reaches_its_files() {
        let state = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        let ledger: WorkloadId = "ledger".parse().unwrap();
        let hour = Duration::from_secs(3600);
        let profile = Profile {
            spiffe_id: "spiffe://postern.test/ledger".parse().unwrap(),
            dns: Vec::new(),
            ttl: hour,
            backdate: Duration::ZERO,
            algorithm: KeyAlgorithm::EcdsaP256,
        };
        let issuance = issuance::Settings {
            domain: "postern.test".parse().unwrap(),
            mode: issuance::Mode::Standalone,
            root_ttl: hour * 1000,
            issuing_ttl: hour * 100,
            distribute: hour,
            crl_ttl: hour,
            algorithm: KeyAlgorithm::EcdsaP256,
            backdate: Duration::ZERO,
            second_opinion: None,
            workloads: BTreeMap::from([(ledger.clone(), profile)]),
        };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::FLOOR));
        let directory = AuthorityDir::open(state.path()).unwrap();
        let (rotator, feed) = Rotator::start(issuance, directory, Arc::clone(&clock)).unwrap();
        let (commands, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(rotator.run(receiver, std::future::pending()));
        let statuses = Statuses::new(BTreeMap::new());
        let settings = Arc::new(settings(target.path()));
        let acknowledgements = watch::Sender::new(Acknowledgements::default());
        let delivery = Delivery {
            workload: ledger.clone(),
            settings,
            clock,
            statuses: statuses.clone(),
            acknowledgements,
        };
        tokio::spawn(delivery.run(feed.clone()));
        let mut statuses = statuses.subscribe();
        let delivered = || {
            let chain = std::fs::read(target.path().join("current/chain.pem")).unwrap();
            crate::store::pem::certificates(&chain).unwrap()
        };
        let is_delivered = |generation| {
            move |statuses: &BTreeMap<WorkloadId, DeliveryStatus>| {
                statuses.values().any(|status| status.acknowledged && status.generation == generation)
            }
        };

        let first = Arc::clone(&feed.borrow());
        statuses.wait_for(is_delivered(first.generation)).await.unwrap();
        assert_eq!(delivered(), first.svids.get(&ledger).unwrap().chain);

        let (reply, answer) = tokio::sync::oneshot::channel();
        commands.send(Command::IssueNow { workload: ledger, reply }).await.unwrap();
        let second = answer.await.unwrap().unwrap();
        let generation = feed.borrow().generation;
        assert_ne!(generation, first.generation);
        statuses.wait_for(is_delivered(generation)).await.unwrap();
        assert_eq!(delivered(), second.chain);
    }

    #[tokio::test]
    async fn it_ends_with_the_feed() {
        let World { feed, task, .. } = World::start(None);

        drop(feed);

        task.await.unwrap();
    }
}
