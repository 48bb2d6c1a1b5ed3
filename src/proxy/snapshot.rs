//! All that a request is judged by, in one immutable value that is replaced whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::authz::Till;
use crate::credential::token::TokenTrust;
use crate::credential::{Peppers, SignatureTerms};
use crate::id::{AuthorityId, EnvironmentId, ListenerId, RemoteId, ServiceId, WorkloadId};
use crate::identity::SpiffeId;
use crate::limit::{Inflight, Ledger, Throttle};
use crate::oauth::{KeyRing, Office};
use crate::pki::{Life, Verified, Verifier};
use crate::proxy::settings::{Limits, ListenerSettings, RemoteSettings, SendProxy, ServiceSettings};
use crate::registry::{Accepts, Snapshot as Registry};

/// The data plane's view of the world. Loaded once per request.
#[derive(Debug)]
pub struct Snapshot {
    /// Developers, apps, products, credentials.
    pub registry: Arc<Registry>,
    /// What API keys are hashed under.
    pub peppers: Arc<Peppers>,
    /// The environment that the agent stands in, if it has a name.
    pub environment: Option<EnvironmentId>,
    /// Who is trusted.
    pub verifier: Arc<Verifier>,
    /// Which service answers for which host and path.
    pub routes: Arc<Routes>,
    /// The doors from outside.
    pub listeners: BTreeMap<ListenerId, Arc<Listener>>,
    /// The doors to outside.
    pub remotes: BTreeMap<RemoteId, Arc<Remote>>,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// The header that carries API keys, in lower case.
    pub api_key_header: Arc<str>,
    /// What signatures must be like, and the nonces that were used.
    pub signatures: Arc<SignatureTerms>,
    /// By whose word access tokens are believed.
    pub tokens: Arc<TokenTrust>,
    /// Our issuing authorities that sign no more, by their distinguished names.
    pub retired: Arc<BTreeMap<String, AuthorityId>>,
    /// What every app has used of its limits; the same one in every snapshot.
    pub ledger: Arc<Ledger>,
    /// Who has failed too often to say who it is; the same one in every snapshot.
    pub throttle: Arc<Throttle>,
    /// How many requests services are given at a time, where that is limited.
    pub inflight: BTreeMap<ServiceId, Arc<Inflight>>,
    /// Where tokens are to be had, if anywhere.
    pub office: Option<Arc<Office>>,
    /// What signs assertions for services.
    pub assertion_keys: Arc<KeyRing>,
}

impl Snapshot {
    /// What is accepted now at the listener by which somebody came in, whatever it is called by now; at one that is gone, what was
    /// accepted then.
    pub(super) fn accepted_at<'a>(&'a self, door: &'a ListenerSettings) -> Option<&'a Accepts> {
        let is_same = |listener: &&Arc<Listener>| listener.settings.address == door.address;
        let by_name = || self.listeners.get(&door.id);
        let here =
            by_name().filter(is_same).or_else(|| self.listeners.values().find(is_same)).or_else(by_name);
        here.map_or(door, |listener| &listener.settings).accepts.as_ref()
    }

    /// Where requests to `service` are paid for.
    pub(super) fn till(&self, service: &ServiceSettings) -> Till<'_> {
        let limited = service.concurrency.and_then(|_| self.inflight.get(&service.id));
        Till { ledger: &self.ledger, service: limited }
    }
}

/// Where every data-plane thread finds the snapshot in force.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// A listener with the TLS that it speaks now.
#[derive(Debug)]
pub struct Listener {
    /// As configured.
    pub settings: ListenerSettings,
    /// The identity that is shown.
    pub own_id: SpiffeId,
    /// From when until when its certificate is valid; nobody is answered with it at another time.
    pub life: Life,
    /// Certificate, verifier and session store of this generation.
    pub tls: Arc<rustls::ServerConfig>,
}

/// A remote with the certificates that workloads reach it by.
#[derive(Debug)]
pub struct Remote {
    /// As configured.
    pub settings: RemoteSettings,
    /// By workload: its own certificate and whom it expects.
    pub clients: BTreeMap<WorkloadId, Client>,
}

/// A workload's end of a remote.
#[derive(Clone, Debug)]
pub struct Client {
    /// The workload's identity.
    pub own_id: SpiffeId,
    /// Its certificate's generation.
    pub generation: u64,
    /// From when until when its certificate is valid: no connection is made at another time, and none outlives it.
    pub life: Life,
    /// Whether we believe its own certificate ourselves: what is revoked here is not shown to others.
    pub standing: Standing,
    /// Its certificate and the verifier of the remote's identity; pooled connections are tied to it.
    pub tls: Arc<rustls::ClientConfig>,
}

/// What we think of a certificate that we show ourselves.
#[derive(Clone, Debug)]
pub enum Standing {
    /// We would believe it, too.
    Believed(Arc<Verified>),
    /// It was revoked here, or its key, its holder or an authority above it.
    Revoked,
    /// Our own roots do not prove it now; others may.
    Unproven,
}

impl Standing {
    /// The certificate, if we believe it.
    pub(super) const fn believed(&self) -> Option<&Arc<Verified>> {
        match self {
            Self::Believed(own) => Some(own),
            Self::Revoked | Self::Unproven => None,
        }
    }
}

/// Which service answers for which host and path.
#[derive(Debug, Default)]
pub struct Routes {
    /// Longest base path first.
    services: Vec<Arc<ServiceSettings>>,
}

impl Routes {
    /// Routes over `services`.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = ServiceSettings>) -> Self {
        let mut services: Vec<_> = services.into_iter().map(Arc::new).collect();
        services
            .sort_by_key(|service| (std::cmp::Reverse(service.base_path.len()), service.hosts.is_empty()));
        Self { services }
    }

    /// The service for `authority` (host and optional port) and the normalised `path`: the longest base path wins, and among
    /// equals the one that names the host. A service that is told who each connection is from is none for HTTP, whose callers share
    /// connections.
    #[must_use]
    pub fn find(&self, authority: &str, path: &str) -> Option<&Arc<ServiceSettings>> {
        let host = host_of(authority);
        self.services.iter().find(|service| {
            let for_host =
                service.hosts.is_empty() || service.hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
            for_host && is_below(path, &service.base_path) && service.send_proxy == SendProxy::Off
        })
    }

    /// Whether a request to `authority` and `path`, for which `found` answers, belongs on another connection: the handshake
    /// asked for `sni`, which is the host of some service, and not `found` answers for that host and path.
    #[must_use]
    pub fn is_misdirected(
        &self,
        sni: &str,
        authority: &str,
        path: &str,
        found: Option<&Arc<ServiceSettings>>,
    ) -> bool {
        if host_of(authority).eq_ignore_ascii_case(sni) {
            return false;
        }
        let mut hosts = self.services.iter().flat_map(|service| &service.hosts);
        let meant = self.find(sni, path).map(|service| &service.id);
        meant != found.map(|service| &service.id) && hosts.any(|host| host.eq_ignore_ascii_case(sni))
    }

    /// The service called `id`.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&Arc<ServiceSettings>> {
        self.services.iter().find(|service| service.id == *id)
    }

    /// All services.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServiceSettings>> {
        self.services.iter()
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether `path` is `base` or lies below it, by whole segments.
fn is_below(path: &str, base: &str) -> bool {
    let base = base.trim_end_matches('/');
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::settings::{Endpoint, ErrorFormat, ServiceProtocol};

    fn service(id: &str, hosts: &[&str], base_path: &str) -> ServiceSettings {
        ServiceSettings {
            id: id.parse().unwrap(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            base_path: base_path.to_owned(),
            endpoint: Endpoint::Whoami,
            protocol: ServiceProtocol::default(),
            accepts: None,
            concurrency: None,
            error_format: ErrorFormat::default(),
            upgrades: Arc::default(),
            send_proxy: Default::default(),
            trailers: Arc::default(),
            watch: crate::proxy::Watch::Off,
            client_cert: Default::default(),
            assertion: None,
        }
    }

    #[test]
    fn the_longest_base_path_wins_then_the_named_host() {
        let routes = Routes::new([
            service("all", &[], "/"),
            service("orders", &[], "/orders"),
            service("orders-eu", &["eu.example"], "/orders"),
        ]);
        let find = |host, path| routes.find(host, path).unwrap().id.to_string();

        assert_eq!(find("x", "/"), "all");
        assert_eq!(find("x", "/orders/7"), "orders");
        assert_eq!(find("x", "/ordersx"), "all");
        assert_eq!(find("EU.example:8443", "/orders"), "orders-eu");
        assert_eq!(find("[::1]:8443", "/orders"), "orders");
    }

    #[test]
    fn a_name_that_a_service_lists_leads_to_no_other_service() {
        let routes = Routes::new([
            service("red", &["red.test"], "/"),
            service("blue", &["blue.test"], "/"),
            service("shared", &[], "/shared"),
        ]);
        let misdirected =
            |sni, authority, path| routes.is_misdirected(sni, authority, path, routes.find(authority, path));

        assert!(!misdirected("red.test", "red.test:8443", "/a"));
        assert!(!misdirected("RED.test", "red.TEST", "/a"));
        assert!(misdirected("red.test", "blue.test", "/a"));
        assert!(misdirected("red.test", "other.test", "/a"));
        assert!(!misdirected("red.test", "blue.test", "/shared/a"));
        assert!(!misdirected("localhost", "blue.test", "/a"));
        assert!(!misdirected("localhost", "other.test", "/a"));
    }
}
