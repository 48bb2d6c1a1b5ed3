//! Notices what somebody should look into, tells it once in a while and not with every request, and remembers the latest.
//!
//! **Invariant:** what is remembered is bounded, whoever calls.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::steward::quota_of;
use crate::clock::{Clock, Timestamp};
use crate::issuance::Feed;
use crate::proxy::{Current, Noticed, Sign};
use crate::telemetry::Metrics;

/// Something that was noticed, and how often since it was told first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Detection {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u64,
    pub(super) detail: String,
}

/// What is noticed, in the words of log, metric and status.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    CertificateExpiring,
    ClockSkew,
    FailedBurst,
    KeyExpiring,
    KeyLeaked,
    NewNetwork,
    QuotaNear,
    QuotaReached,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateExpiring => "certificate.expiring",
            Self::ClockSkew => "clock.skew",
            Self::FailedBurst => "credentials.failed",
            Self::KeyExpiring => "key.expiring",
            Self::KeyLeaked => "key.leaked",
            Self::NewNetwork => "key.new-network",
            Self::QuotaNear => "quota.80",
            Self::QuotaReached => "quota.100",
        }
    }
}

/// The latest detections, by kind and by whom they are about.
pub(super) type Detections = Arc<Mutex<BTreeMap<(Kind, String), Detection>>>;

/// So many are remembered.
const DETECTIONS: usize = 1_000;

/// The same is told again no sooner than this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// So many failures of one network within a minute are a burst.
const BURST: u32 = 20;

/// So many networks are watched, and so many keys.
const NETWORKS: usize = 10_000;
const KEYS: usize = 100_000;

/// So many networks of a key are known; whoever roams further is told of each time.
const NETWORKS_OF_A_KEY: usize = 8;

/// Quotas and ends are looked at no more often than this.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks lies so many times what the first one took, so that looking never takes more than half a percent of a core.
const REST: u32 = 200;

/// How long to wait after a look that `took` so long.
fn pause_after(took: Duration) -> Duration {
    LOOK_EVERY.max(took.saturating_mul(REST))
}

/// So many credentials that end soon are told by name; the others by their number.
const ENDING_BY_NAME: usize = 100;

const fn days(span: Duration) -> u64 {
    span.as_secs() / 86_400
}

/// A key that ends within this span should have been replaced.
const KEY_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

/// What detecting needs to know.
#[derive(Debug)]
pub(super) struct Detectors {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) current: Current,
    pub(super) feed: Feed,
    pub(super) metrics: Arc<Metrics>,
    pub(super) detections: Detections,
}

impl Detectors {
    /// Takes note of what is reported and looks for itself now and then, until nobody reports any more.
    pub(super) async fn run(self, mut reports: mpsc::Receiver<Sign>) {
        let mut memory = Memory::default();
        let detectors = Arc::new(self);
        let mut looking = JoinSet::new();
        looking.spawn(Arc::clone(&detectors).keep_looking());
        while let Some(sign) = reports.recv().await {
            if let Some((kind, about, detail)) = memory.handle(&sign) {
                detectors.detect(kind, about, detail, sign.at);
            }
        }
    }

    /// Looks for itself, over and over: on a thread that keeps nobody waiting, and the less often the more there is to see.
    async fn keep_looking(self: Arc<Self>) {
        loop {
            let begun = Instant::now();
            let looker = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || looker.look(looker.clock.now())).await;
            if let Err(error) = looked {
                tracing::error!(%error, "nobody looks at quotas and ends any more");
                return;
            }
            tokio::time::sleep(pause_after(begun.elapsed())).await;
        }
    }

    /// Looks at what has no event of its own: quotas, and what ends soon.
    fn look(&self, now: Timestamp) {
        let snapshot = self.current.load_full();
        for one in snapshot.ledger.uses(now) {
            let Some((scope, limit)) = quota_of(&snapshot.registry, &one) else { continue };
            let kind = match one.used {
                used if used >= limit => Kind::QuotaReached,
                used if u128::from(used) * 5 >= u128::from(limit) * 4 => Kind::QuotaNear,
                _ => continue,
            };
            let detail =
                format!("{} has used {} of {limit} of {scope}, until {}", one.app, one.used, one.ends);
            self.detect_once(kind, format!("{} {scope} {}", one.app, one.ends), detail, now);
        }
        let soon = |ends: &Timestamp| *ends > now && *ends < now + KEY_ENDS_SOON;
        let credentials = snapshot.registry.credentials();
        let mut ending =
            credentials.filter_map(|credential| Some((credential, credential.expires.filter(soon)?)));
        for (credential, ends) in ending.by_ref().take(ENDING_BY_NAME) {
            let (id, app) = (&credential.id, &credential.app.id);
            let detail = format!("the credential {id} of {app} ends at {ends}");
            self.detect_once(Kind::KeyExpiring, format!("{id} {ends}"), detail, now);
        }
        let others = ending.count();
        if others > 0 {
            let detail = format!("{others} other credentials end within {} days", days(KEY_ENDS_SOON));
            self.detect_once(Kind::KeyExpiring, "others".to_owned(), detail, now);
        }
        for (workload, svid) in &self.feed.borrow().svids {
            let life = svid.life();
            // Renewal happens at half of its life.
            let late = life.not_after.since(now) < life.not_after.since(life.issued_at) / 5;
            if late {
                let detail =
                    format!("the certificate of {workload} ends at {} and was not renewed", life.not_after);
                self.detect_once(
                    Kind::CertificateExpiring,
                    format!("{workload} {}", life.not_after),
                    detail,
                    now,
                );
            }
        }
    }

    /// Tells of something that stays as it is: once.
    fn detect_once(&self, kind: Kind, about: String, detail: String, now: Timestamp) {
        let detections = self.detections.lock().unwrap_or_else(PoisonError::into_inner);
        let known = detections.contains_key(&(kind, about.clone()));
        drop(detections);
        if !known {
            self.detect(kind, about, detail, now);
        }
    }

    fn detect(&self, kind: Kind, about: String, detail: String, now: Timestamp) {
        self.metrics.count_detection(kind.as_str());
        let mut detections = self.detections.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, about);
        if let Some(known) = detections.get_mut(&key) {
            known.count += 1;
            let told = now.since(known.last) < TELL_AGAIN;
            if !told {
                known.last = now;
                tracing::warn!(target: "postern::detect", event = kind.as_str(), count = known.count, "{detail}");
            }
            known.detail = detail;
            return;
        }
        tracing::warn!(target: "postern::detect", event = kind.as_str(), count = 1, "{detail}");
        if detections.len() >= DETECTIONS {
            let oldest = detections.iter().min_by_key(|(_, one)| one.last).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| detections.remove(&oldest));
        }
        detections.insert(key, Detection { first: now, last: now, count: 1, detail });
    }
}

/// What is known of networks and keys.
#[derive(Debug, Default)]
struct Memory {
    failures: HashMap<u128, (Timestamp, u32)>,
    networks: HashMap<String, VecDeque<u128>>,
}

impl Memory {
    /// What a sign means: what is detected, about whom, and in a sentence.
    fn handle(&mut self, sign: &Sign) -> Option<(Kind, String, String)> {
        match &sign.what {
            Noticed::ClockSkew { network } => {
                let of = told(*network);
                let detail = format!("signatures from {of} are made by a clock that is not ours");
                Some((Kind::ClockSkew, of, detail))
            }
            Noticed::Failed { network } => {
                let failed = self.failed(*network, sign.at)?;
                let of = told(*network);
                let detail = format!("{failed} credentials from {of} were not valid within a minute");
                Some((Kind::FailedBurst, of, detail))
            }
            Noticed::Leaked { credential, app, place } => {
                let detail =
                    format!("the credential {credential} of {app} was seen in a {place}: replace it");
                Some((Kind::KeyLeaked, credential.clone(), detail))
            }
            Noticed::Used { credential, app, network } => self.is_new(credential, *network).then(|| {
                let of = told(*network);
                let detail =
                    format!("the credential {credential} of {app} was used from {of} for the first time");
                (Kind::NewNetwork, format!("{credential} {of}"), detail)
            }),
        }
    }

    /// How many failures that makes within a minute, each time that it is a burst.
    fn failed(&mut self, network: u128, at: Timestamp) -> Option<u32> {
        if self.failures.len() >= NETWORKS && !self.failures.contains_key(&network) {
            self.failures.retain(|_, (begun, _)| at.since(*begun) < TELL_AGAIN);
        }
        if self.failures.len() >= NETWORKS && !self.failures.contains_key(&network) {
            return None;
        }
        let (begun, count) = self.failures.entry(network).or_insert((at, 0));
        if at.since(*begun) >= TELL_AGAIN {
            (*begun, *count) = (at, 0);
        }
        *count += 1;
        (*count % BURST == 0).then_some(*count)
    }

    /// Whether a key that is known already was used from a network that it was not used from before.
    fn is_new(&mut self, credential: &str, network: u128) -> bool {
        if !self.networks.contains_key(credential) {
            if self.networks.len() < KEYS {
                self.networks.insert(credential.to_owned(), VecDeque::from([network]));
            }
            return false;
        }
        let Some(known) = self.networks.get_mut(credential) else { return false };
        if known.contains(&network) {
            return false;
        }
        if known.len() >= NETWORKS_OF_A_KEY {
            known.pop_front();
        }
        known.push_back(network);
        true
    }
}

/// `192.0.2.0/24` or `2001:db8::/64`.
fn told(network: u128) -> String {
    let address = Ipv6Addr::from_bits(network);
    match address.to_ipv4_mapped() {
        Some(address) => format!("{address}/24"),
        None => format!("{address}/64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::FLOOR + Duration::from_secs(second)
    }

    fn network(last: u8) -> u128 {
        std::net::Ipv4Addr::new(192, 0, last, 0).to_ipv6_mapped().to_bits()
    }

    fn told_by(memory: &mut Memory, second: u64, what: Noticed) -> Option<(Kind, String)> {
        memory.handle(&Sign { at: at(second), what }).map(|(kind, _, detail)| (kind, detail))
    }

    #[test]
    fn a_burst_of_failures_is_told_and_a_trickle_is_not() {
        let mut memory = Memory::default();
        let failed =
            |memory: &mut Memory, second| told_by(memory, second, Noticed::Failed { network: network(2) });

        for second in 0..u64::from(BURST) - 1 {
            assert_eq!(failed(&mut memory, second), None);
        }
        let (kind, detail) = failed(&mut memory, 30).unwrap();
        assert_eq!(kind, Kind::FailedBurst);
        assert_eq!(detail, "20 credentials from 192.0.2.0/24 were not valid within a minute");
        for minute in 2..100 {
            assert_eq!(failed(&mut memory, minute * 60), None);
        }
    }

    #[test]
    fn a_key_from_a_new_network_is_told_and_its_first_one_is_not() {
        let mut memory = Memory::default();
        let used = |memory: &mut Memory, last| {
            let (credential, app) = ("k1".to_owned(), "billing".to_owned());
            told_by(memory, 0, Noticed::Used { credential, app, network: network(last) })
        };

        assert_eq!(used(&mut memory, 1), None);
        assert_eq!(used(&mut memory, 1), None);
        let (kind, detail) = used(&mut memory, 7).unwrap();
        assert_eq!(kind, Kind::NewNetwork);
        assert_eq!(detail, "the credential k1 of billing was used from 192.0.7.0/24 for the first time");
        assert_eq!((used(&mut memory, 7), used(&mut memory, 1)), (None, None));
    }

    #[test]
    fn leaks_and_foreign_clocks_are_told() {
        let mut memory = Memory::default();
        let leaked = Noticed::Leaked { credential: "k1".into(), app: "billing".into(), place: "url" };

        let (kind, detail) = told_by(&mut memory, 0, leaked).unwrap();

        assert_eq!(kind, Kind::KeyLeaked);
        assert_eq!(detail, "the credential k1 of billing was seen in a url: replace it");
        assert_eq!(
            told_by(&mut memory, 0, Noticed::ClockSkew { network: 1 << 64 }).unwrap().0,
            Kind::ClockSkew
        );
    }

    #[test]
    fn however_much_there_is_to_look_at_it_takes_less_than_a_hundredth_of_a_core() {
        for took in [1, 24, 25, 26, 400, 60_000].map(Duration::from_millis) {
            let pause = pause_after(took);

            assert!(pause >= LOOK_EVERY && took * 100 < took + pause, "{took:?} {pause:?}");
        }
        assert_eq!(pause_after(Duration::from_millis(1)), LOOK_EVERY);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = Memory::default();

        for number in 0..20_000_u128 {
            told_by(&mut memory, 0, Noticed::Failed { network: number << 64 });
            let (credential, app) = ("k1".to_owned(), "a".to_owned());
            told_by(&mut memory, 0, Noticed::Used { credential, app, network: number << 64 });
        }

        assert_eq!(memory.failures.len(), NETWORKS);
        assert_eq!(memory.networks["k1"].len(), NETWORKS_OF_A_KEY);
    }
}
