//! Puts together what the data plane sees, and keeps what has not changed.
//!
//! A change of the registry leaves TLS as it is: its configurations hold the session stores, and a new one is made only when
//! the certificate or the trust behind it has changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::trust::Crls;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::token::{Algorithm, TokenTrust};
use crate::credential::{NonceMemory, Peppers, SignatureTerms};
use crate::id::{AuthorityId, ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::issuance::Issued;
use crate::limit::{Inflight, Ledger, Throttle};
use crate::oauth::{KeyRing, KeyRules, Office, SigningKey};
use crate::pki::{BundleSet, InvalidRoot, Revocations, Slot, Usage, Verifier, VerifyError};
use crate::proxy::{
    self, Client, Listener, ListenerProtocol, Remote, RemoteProtocol, Routes, Standing, TlsError,
    client_config, server_config,
};
use crate::registry::{self, Withheld};

/// Why nothing can be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A listener shows the certificate of a workload that has none.
    #[error("the workload {0} has no identity")]
    NoIdentity(WorkloadId),
    /// A trust bundle holds something that is no root.
    #[error("a trust bundle cannot be used")]
    Root(#[from] InvalidRoot),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up for {door}")]
    Tls {
        /// The listener or remote.
        door: String,
        /// Why not.
        #[source]
        source: TlsError,
    },
}

/// What the data plane's view is made of.
#[derive(Clone, Debug)]
pub(super) struct Materials {
    pub(super) config: Arc<Config>,
    pub(super) issued: Arc<Issued>,
    pub(super) bundles: Arc<BundleSet>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) crls: Arc<Crls>,
    pub(super) registry: Arc<registry::Snapshot>,
    /// What somebody else has revoked of it.
    pub(super) withheld: Arc<Withheld>,
    pub(super) peppers: Arc<Peppers>,
    pub(super) tokens: Arc<TokenTrust>,
    pub(super) ring: Arc<KeyRing>,
}

impl Materials {
    /// What is on file, less what is withheld.
    fn usable_registry(&self) -> Arc<registry::Snapshot> {
        if self.withheld.is_empty() {
            return Arc::clone(&self.registry);
        }
        Arc::new(self.registry.withholding(Arc::clone(&self.withheld)))
    }
}

/// Assembles snapshots, one after the other.
#[derive(Debug)]
pub(super) struct Assembly {
    clock: Arc<dyn Clock>,
    verifier: Option<Arc<Verifier>>,
    listeners: BTreeMap<ListenerId, Made>,
    remotes: BTreeMap<RemoteId, Arc<Remote>>,
    ledger: Arc<Ledger>,
    throttle: Arc<Throttle>,
    inflight: BTreeMap<ServiceId, Arc<Inflight>>,
    nonces: Arc<NonceMemory>,
    assertions: Arc<NonceMemory>,
    /// What signs assertions for services, and what such keys are like while some service wants any. They are on no disk: an
    /// assertion is over before a restart is.
    assertion_keys: Arc<KeyRing>,
    assertion_rules: Option<KeyRules>,
}

/// A listener's TLS, from which certificate it was made and when.
#[derive(Clone, Debug)]
struct Made {
    generation: u64,
    /// By the time since boot, for a session grows old also while the clock is set back.
    at: Duration,
    listener: Arc<Listener>,
}

/// Assertions that are remembered for as long as they could be used again: some thirty a second where they last for an hour.
const ASSERTIONS: usize = 100_000;

/// A key for assertions signs for a day, and is made known ten minutes before.
const ASSERTION_KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// More steps are not due at a time, however far the clock has leapt.
const MOST_STEPS: usize = 8;

/// TLS sessions can be resumed for as long as their configuration lives. It is made anew at this age, so that no session
/// becomes older than an hour, however often it is resumed.
const OLDEST_SESSIONS: Duration = Duration::from_secs(55 * 60);

impl Assembly {
    /// An assembly that has made nothing yet; what apps use is charged to `ledger`.
    pub(super) fn new(clock: Arc<dyn Clock>, ledger: Arc<Ledger>) -> Self {
        // Its size is that of the rules, as soon as there are any.
        let nonces = Arc::new(NonceMemory::new(0, clock.now()));
        let assertions = Arc::new(NonceMemory::new(ASSERTIONS, clock.now()));
        Self {
            clock,
            verifier: None,
            listeners: BTreeMap::new(),
            remotes: BTreeMap::new(),
            ledger,
            throttle: Arc::default(),
            inflight: BTreeMap::new(),
            nonces,
            assertions,
            assertion_keys: Arc::default(),
            assertion_rules: None,
        }
    }

    /// What may be used once: nonces of signatures, and client assertions.
    pub(super) fn memories(&self) -> [Arc<NonceMemory>; 2] {
        [Arc::clone(&self.nonces), Arc::clone(&self.assertions)]
    }

    /// Whether some listener's sessions, or a key, grow too old unless everything is assembled again.
    pub(super) fn is_stale(&self) -> bool {
        let now = self.clock.since_boot();
        let due = |rules: &KeyRules| self.assertion_keys.due(rules, self.clock.now()).is_some();
        self.assertion_rules.as_ref().is_some_and(due)
            || self.listeners.values().any(|made| now.saturating_sub(made.at) >= OLDEST_SESSIONS)
    }

    /// The data plane's view of `materials`.
    ///
    /// # Errors
    /// What cannot be used; everything made before stays as it was.
    pub(super) fn assemble(&mut self, materials: &Materials) -> Result<proxy::Snapshot, AssemblyError> {
        let Materials { config, issued, bundles, revocations, crls, peppers, tokens, ring, .. } = materials;
        let now = self.clock.since_boot();
        let same = |verifier: &&Arc<Verifier>| {
            Arc::ptr_eq(verifier.bundles(), bundles)
                && Arc::ptr_eq(verifier.revocations(), revocations)
                && Arc::ptr_eq(verifier.crls(), &crls.set)
        };
        let known = self.verifier.as_ref().filter(same).cloned();
        let trust_is_new = known.is_none();
        let verifier = match known {
            Some(verifier) => verifier,
            None => {
                let verifier = Verifier::new(Arc::clone(bundles), Arc::clone(revocations))?;
                Arc::new(verifier.heeding(Arc::clone(&crls.set)))
            }
        };
        let mut listeners = BTreeMap::new();
        for settings in &config.listeners {
            let svid = issued
                .svids
                .get(&settings.workload)
                .ok_or_else(|| AssemblyError::NoIdentity(settings.workload.clone()))?;
            let kept = self.listeners.get(&settings.id).filter(|made| {
                !trust_is_new
                    && made.generation == svid.generation
                    && made.listener.settings == *settings
                    && now.saturating_sub(made.at) < OLDEST_SESSIONS
            });
            let made = match kept {
                Some(made) => made.clone(),
                None => {
                    let protocols: &[&[u8]] = match settings.protocol {
                        ListenerProtocol::Http => &[b"h2", b"http/1.1"],
                        ListenerProtocol::Tcp(_) => &[],
                    };
                    let clock = Arc::clone(&self.clock);
                    let tls =
                        server_config(svid, Arc::clone(&verifier), clock, settings.oldest_tls, protocols)
                            .map_err(|source| AssemblyError::Tls { door: settings.id.to_string(), source })?;
                    let own_id = svid.spiffe_id.clone();
                    let life = svid.life();
                    let listener = Arc::new(Listener { settings: settings.clone(), own_id, life, tls });
                    Made { generation: svid.generation, at: now, listener }
                }
            };
            listeners.insert(settings.id.clone(), made);
        }
        let mut standings = BTreeMap::new();
        let mut remotes = BTreeMap::new();
        for settings in &config.remotes {
            let before =
                self.remotes.get(&settings.id).filter(|remote| !trust_is_new && remote.settings == *settings);
            let mut clients = BTreeMap::new();
            for (workload, svid) in &issued.svids {
                let kept = before.and_then(|remote| remote.clients.get(workload));
                let client = match kept.filter(|client| client.generation == svid.generation) {
                    Some(client) => client.clone(),
                    None => {
                        let protocols: &[&[u8]] = match settings.protocol {
                            RemoteProtocol::H2 => &[b"h2"],
                            RemoteProtocol::Http => &[b"http/1.1"],
                            RemoteProtocol::Tcp => &[],
                        };
                        let expected = Arc::clone(&settings.spiffe_ids);
                        let clock = Arc::clone(&self.clock);
                        let tls = client_config(svid, Arc::clone(&verifier), clock, expected, protocols)
                            .map_err(|source| AssemblyError::Tls { door: settings.id.to_string(), source })?;
                        let standing = standings.entry(workload).or_insert_with(|| {
                            match verifier.verify(&svid.chain, Usage::Client, self.clock.now()) {
                                Ok(own) => Standing::Believed(Arc::new(own)),
                                Err(VerifyError::Revoked(_)) => Standing::Revoked,
                                Err(_) => Standing::Unproven,
                            }
                        });
                        Client {
                            standing: standing.clone(),
                            own_id: svid.spiffe_id.clone(),
                            generation: svid.generation,
                            life: svid.life(),
                            tls,
                        }
                    }
                };
                clients.insert(workload.clone(), client);
            }
            remotes.insert(settings.id.clone(), Arc::new(Remote { settings: settings.clone(), clients }));
        }
        self.verifier = Some(Arc::clone(&verifier));
        self.listeners.clone_from(&listeners);
        self.remotes.clone_from(&remotes);
        self.inflight = self.inflight(config);
        self.turn_keys(config);
        let office = config.tokens.as_ref().map(|settings| Office {
            settings: Arc::clone(settings),
            ring: Arc::clone(ring),
            assertions: Arc::clone(&self.assertions),
        });
        Ok(proxy::Snapshot {
            registry: materials.usable_registry(),
            peppers: Arc::clone(peppers),
            environment: config.environment().cloned(),
            verifier,
            routes: Arc::new(Routes::new(config.services.iter().cloned())),
            listeners: listeners.into_iter().map(|(id, made)| (id, made.listener)).collect(),
            remotes,
            limits: Arc::new(config.limits.clone()),
            api_key_header: Arc::clone(&config.api_key_header),
            signatures: Arc::new(SignatureTerms::new(config.signatures.clone(), Arc::clone(&self.nonces))),
            tokens: Arc::clone(tokens),
            retired: Arc::new(retired(issued)),
            ledger: Arc::clone(&self.ledger),
            throttle: Arc::clone(&self.throttle),
            inflight: self.inflight.clone(),
            office: office.map(Arc::new),
            assertion_keys: Arc::clone(&self.assertion_keys),
        })
    }

    /// Takes the steps that are due for the keys of assertions.
    fn turn_keys(&mut self, config: &Config) {
        let rules = config.services.iter().filter_map(|service| service.assertion.as_ref());
        let longest = rules.map(|rules| rules.ttl).max();
        self.assertion_rules = longest.map(|ttl| KeyRules {
            // The algorithms of JWT-SVIDs are those of RSA and ECDSA.
            algorithm: Algorithm::Es256,
            lifetime: ASSERTION_KEY_LIFETIME,
            ttl,
        });
        let Some(rules) = self.assertion_rules else { return };
        let now = self.clock.now();
        for _ in 0..MOST_STEPS {
            let Some(step) = self.assertion_keys.due(&rules, now) else { return };
            match self.assertion_keys.after(step, &rules, SigningKey::generate, now) {
                Ok(ring) => self.assertion_keys = Arc::new(ring),
                Err(error) => {
                    tracing::error!(%error, "the next key for assertions cannot be made");
                    return;
                }
            }
        }
    }

    /// The services whose requests are limited; what is known of one stays known while its bounds stay.
    fn inflight(&self, config: &Config) -> BTreeMap<ServiceId, Arc<Inflight>> {
        let limited = config.services.iter().filter_map(|service| Some((&service.id, service.concurrency?)));
        limited
            .map(|(id, bounds)| {
                let known = self.inflight.get(id).filter(|known| known.bounds() == bounds).cloned();
                (id.clone(), known.unwrap_or_else(|| Arc::new(Inflight::new(bounds))))
            })
            .collect()
    }
}

/// The issuing authorities that sign no more, by their names as leaves write them.
fn retired(issued: &Issued) -> BTreeMap<String, AuthorityId> {
    let retired = issued.hierarchy.issuing.iter().filter(|one| one.slot == Slot::Retired);
    retired.map(|one| (one.name.clone(), one.id.clone())).collect()
}
