//! Fetches the keys of outside issuers, away from any request, and keeps the last good ones.
//!
//! Each issuer has a task of its own. It fetches at its interval, and sooner when a token names a key that nobody knows: then
//! once, and not again before `refetch` has passed, so that invented names cause no traffic. What cannot be fetched or read
//! changes nothing until `keep` has passed; after that nobody is believed by keys that old.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fetch::{FetchError, Fetcher};
use crate::causes::Causes;
use crate::clock::Clock;
use crate::config::{Config, IssuerConfig, KeySource};
use crate::credential::token::{JwkSet, OutsideIssuer, TokenTrust};

/// What is known of the keys of all issuers.
#[derive(Clone, Debug, Default)]
pub(super) struct Found(BTreeMap<String, Known>);

/// What is known of one.
#[derive(Clone, Debug, Default)]
struct Known {
    keys: Arc<JwkSet>,
    /// From where; none before anybody was to fetch them.
    origin: Option<Origin>,
    /// When they were fetched last.
    good_at: Option<Instant>,
    /// Why nothing newer is known.
    trouble: Option<String>,
    unknown_key: Arc<AtomicBool>,
}

/// Where keys come from, and by whose word.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Origin {
    source: KeySource,
    roots: Option<PathBuf>,
}

impl Origin {
    fn of(issuer: &IssuerConfig) -> Self {
        Self { source: issuer.keys.clone(), roots: issuer.roots.clone() }
    }
}

impl Found {
    /// Keeps what is known of those in `issuers` whose keys come from where they came from before, and nothing else.
    fn keep(&mut self, issuers: &[IssuerConfig]) {
        self.0.retain(|name, _| issuers.iter().any(|issuer| issuer.issuer == *name));
        for issuer in issuers {
            let (known, origin) = (self.0.entry(issuer.issuer.clone()).or_default(), Origin::of(issuer));
            if known.origin.as_ref() != Some(&origin) {
                *known = Known { origin: Some(origin), ..Known::default() };
            }
        }
    }

    /// What is known of `issuer`, unless its keys are to come from elsewhere by now.
    fn known(&mut self, issuer: &IssuerConfig) -> Option<&mut Known> {
        let known = self.0.get_mut(&issuer.issuer)?;
        (known.origin.as_ref() == Some(&Origin::of(issuer))).then_some(known)
    }

    /// By whose word tokens of others are believed under `config`, next to those that `trust` has.
    pub(super) fn believe(&self, config: &Config, trust: TokenTrust) -> TokenTrust {
        config.issuers.iter().fold(trust, |trust, settings| {
            let mut issuer = OutsideIssuer::new(settings.issuer.as_str(), settings.audiences.iter().cloned());
            issuer.algorithms.clone_from(&settings.algorithms);
            issuer.kinds.clone_from(&settings.kinds);
            issuer.leeway = settings.leeway;
            issuer.proves = settings.proves;
            if let Some(known) = self.0.get(&settings.issuer) {
                issuer.keys = Arc::clone(&known.keys);
                issuer = issuer.with_unknown_key(Arc::clone(&known.unknown_key));
            }
            trust.with_outside(issuer)
        })
    }

    /// What is wrong, one sentence each.
    pub(super) fn troubles(&self) -> Vec<String> {
        let told = self.0.iter().filter_map(|(issuer, known)| {
            Some(format!("the keys of {issuer} cannot be fetched: {}", known.trouble.as_ref()?))
        });
        told.collect()
    }
}

/// The tasks that fetch.
pub(super) struct Issuers {
    clock: Arc<dyn Clock>,
    found: watch::Sender<Found>,
    running: JoinSet<()>,
}

impl Issuers {
    /// Nobody yet.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, found: watch::Sender::default(), running: JoinSet::new() }
    }

    /// What is found, from now on.
    pub(super) fn found(&self) -> watch::Receiver<Found> {
        self.found.subscribe()
    }

    /// Fetches for the issuers of `config`, instead of those before. What is known of an issuer that stays is kept, unless its keys
    /// are to come from elsewhere.
    pub(super) fn follow(&mut self, config: &Config) {
        self.running.abort_all();
        self.running = JoinSet::new();
        self.found.send_modify(|found| found.keep(&config.issuers));
        for issuer in &config.issuers {
            let unknown_key =
                self.found.borrow().0.get(&issuer.issuer).map(|known| Arc::clone(&known.unknown_key));
            let keeper = Keeper {
                issuer: issuer.clone(),
                clock: Arc::clone(&self.clock),
                found: self.found.clone(),
                unknown_key: unknown_key.unwrap_or_default(),
            };
            self.running.spawn(keeper.run());
        }
    }

    /// Waits until every issuer's keys are there or known to be out of reach, or `within` has passed.
    pub(super) async fn first(&self, within: Duration) {
        let mut found = self.found.subscribe();
        let is_settled = |known: &Known| known.trouble.is_some() || known.keys.keys().len() > 0;
        let all = found.wait_for(|found| found.0.values().all(is_settled));
        drop(tokio::time::timeout(within, all).await);
    }
}

/// One issuer's task.
struct Keeper {
    issuer: IssuerConfig,
    clock: Arc<dyn Clock>,
    found: watch::Sender<Found>,
    unknown_key: Arc<AtomicBool>,
}

impl Keeper {
    async fn run(self) {
        let fetcher = Fetcher::new(Arc::clone(&self.clock), self.issuer.roots.clone());
        loop {
            // Asked for before this fetch is answered by it.
            self.unknown_key.store(false, Ordering::Relaxed);
            let fetched_at = Instant::now();
            match self.fetch(&fetcher).await {
                Ok(keys) => self.publish(keys),
                Err(error) => self.reject(&error),
            }
            self.wait(fetched_at).await;
        }
    }

    async fn fetch(&self, fetcher: &Fetcher) -> Result<JwkSet, FetchError> {
        let text = match &self.issuer.keys {
            KeySource::Discovery => {
                let at = fetcher.discover(&self.issuer.issuer).await?;
                fetcher.get(&at).await?
            }
            KeySource::File(path) => fetcher.read(path).await?,
            KeySource::Url(url) => fetcher.get(url).await?,
        };
        let keys = JwkSet::parse(&text).map_err(FetchError::Keys)?;
        let count = keys.keys().len();
        match count {
            0 => Err(FetchError::NoKeys),
            1..=MOST_KEYS => Ok(keys),
            _ => Err(FetchError::TooManyKeys),
        }
    }

    fn publish(&self, keys: JwkSet) {
        self.found.send_if_modified(|found| {
            let Some(known) = found.known(&self.issuer) else { return false };
            known.good_at = Some(Instant::now());
            let (is_new, was_in_trouble) = (*known.keys != keys, known.trouble.take().is_some());
            if is_new {
                let names: Vec<&str> = keys.keys().map(|(name, _)| name).collect();
                tracing::info!(
                    issuer = self.issuer.issuer,
                    keys = names.join(" "),
                    "keys of an issuer in force"
                );
                for (name, why) in keys.left_out() {
                    tracing::debug!(issuer = self.issuer.issuer, key = name.as_deref(), %why, "key left out");
                }
                known.keys = Arc::new(keys);
            } else if was_in_trouble {
                tracing::info!(issuer = self.issuer.issuer, "keys of an issuer can be fetched again");
            }
            is_new || was_in_trouble
        });
    }

    fn reject(&self, error: &FetchError) {
        let why = Causes(error).to_string();
        self.found.send_if_modified(|found| {
            let Some(known) = found.known(&self.issuer) else { return false };
            let has_aged = known.good_at.is_none_or(|good_at| good_at.elapsed() >= self.issuer.keep);
            let too_old = has_aged && known.keys.keys().len() > 0;
            if too_old {
                tracing::error!(issuer = self.issuer.issuer, "keys of an issuer are too old to be believed");
                known.keys = Arc::default();
            }
            if known.trouble.as_ref() == Some(&why) {
                return too_old;
            }
            tracing::error!(
                issuer = self.issuer.issuer,
                why,
                "keys of an issuer cannot be fetched; the last good ones stay"
            );
            known.trouble = Some(why);
            true
        });
    }

    /// Until the next fetch is due.
    async fn wait(&self, fetched_at: Instant) {
        let refresh = match self.issuer.keys {
            KeySource::File(_) => LOOK_AT_FILE,
            KeySource::Discovery | KeySource::Url(_) => self.issuer.refresh,
        };
        loop {
            tokio::time::sleep(LOOK).await;
            let passed = fetched_at.elapsed();
            let asked_for = self.unknown_key.load(Ordering::Relaxed) && passed >= self.issuer.refetch;
            if asked_for || passed >= refresh {
                return;
            }
        }
    }
}

/// Whether a token has named an unknown key is looked at this often.
const LOOK: Duration = Duration::from_millis(250);

/// A file costs nothing to look at.
const LOOK_AT_FILE: Duration = Duration::from_millis(500);

/// No issuer has more keys in use at a time.
const MOST_KEYS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::token::Proves;

    const JWKS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","alg":"EdDSA","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}]}"#;

    fn issuer() -> IssuerConfig {
        IssuerConfig {
            issuer: "https://id.test".to_owned(),
            keys: KeySource::File("/keys.json".into()),
            roots: None,
            audiences: Vec::new(),
            algorithms: Vec::new(),
            leeway: Duration::ZERO,
            kinds: Vec::new(),
            proves: Proves::Apps,
            refresh: Duration::from_secs(60),
            refetch: Duration::from_secs(60),
            keep: Duration::from_secs(600),
        }
    }

    fn keeper(issuer: IssuerConfig, found: &watch::Sender<Found>) -> Keeper {
        let clock = Arc::new(crate::clock::SystemClock);
        Keeper { issuer, clock, found: found.clone(), unknown_key: Arc::default() }
    }

    fn count(found: &watch::Sender<Found>) -> usize {
        found.borrow().0.values().map(|known| known.keys.keys().len()).sum()
    }

    #[tokio::test]
    async fn keys_are_kept_as_long_as_they_come_from_the_same_place() {
        let found = watch::Sender::<Found>::default();
        found.send_modify(|found| found.keep(&[issuer()]));
        let former = keeper(issuer(), &found);
        former.publish(JwkSet::parse(JWKS).unwrap());
        let slower = IssuerConfig { refresh: Duration::from_secs(90), ..issuer() };
        found.send_modify(|found| found.keep(&[slower]));
        assert_eq!(count(&found), 1);

        for elsewhere in [
            IssuerConfig { keys: KeySource::Discovery, ..issuer() },
            IssuerConfig { roots: Some("/roots.pem".into()), ..issuer() },
        ] {
            found.send_modify(|found| found.keep(&[elsewhere]));
            assert_eq!(count(&found), 0);
            former.publish(JwkSet::parse(JWKS).unwrap());
            assert_eq!(count(&found), 0, "the former task comes too late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_do_not_become_younger_by_a_reload() {
        let found = watch::Sender::<Found>::default();
        found.send_modify(|found| found.keep(&[issuer()]));
        keeper(issuer(), &found).publish(JwkSet::parse(JWKS).unwrap());
        tokio::time::advance(Duration::from_secs(599)).await;
        found.send_modify(|found| found.keep(&[issuer()]));
        let next = keeper(issuer(), &found);
        next.reject(&FetchError::NoKeys);
        assert_eq!(count(&found), 1);

        tokio::time::advance(Duration::from_secs(1)).await;
        next.reject(&FetchError::NoKeys);

        assert_eq!(count(&found), 0);
    }
}
