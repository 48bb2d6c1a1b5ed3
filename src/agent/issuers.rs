//! Fetches the keys of outside issuers, away from any request, and keeps the last good ones.
//!
//! Each issuer has a task of its own. It fetches at its interval, and sooner when a token names a key that nobody knows: then
//! once, and not again before `refetch` has passed, so that invented names cause no traffic. What cannot be fetched or read
//! changes nothing until `keep` has passed; after that nobody is believed by keys that old.

use std::collections::BTreeMap;
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
    /// Why nothing newer is known.
    trouble: Option<String>,
    unknown_key: Arc<AtomicBool>,
}

impl Found {
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

    /// Fetches for the issuers of `config`, instead of those before. What is known of an issuer that stays is kept.
    pub(super) fn follow(&mut self, config: &Config) {
        self.running.abort_all();
        self.running = JoinSet::new();
        self.found.send_modify(|found| {
            found.0.retain(|name, _| config.issuers.iter().any(|issuer| issuer.issuer == *name));
            for issuer in &config.issuers {
                found.0.entry(issuer.issuer.clone()).or_default();
            }
        });
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
        let mut good_at = Instant::now();
        loop {
            // Asked for before this fetch is answered by it.
            self.unknown_key.store(false, Ordering::Relaxed);
            let fetched_at = Instant::now();
            match self.fetch(&fetcher).await {
                Ok(keys) => {
                    good_at = Instant::now();
                    self.publish(keys);
                }
                Err(error) => self.reject(&error, good_at),
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
            let known = found.0.entry(self.issuer.issuer.clone()).or_default();
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

    fn reject(&self, error: &FetchError, good_at: Instant) {
        let why = Causes(error).to_string();
        self.found.send_if_modified(|found| {
            let known = found.0.entry(self.issuer.issuer.clone()).or_default();
            let too_old = good_at.elapsed() >= self.issuer.keep && known.keys.keys().len() > 0;
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
