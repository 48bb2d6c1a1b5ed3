//! Everything that is counted, as typed values that are handed to whoever counts.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::red::{CallCounter, Calls};
use super::usage::Cap;

/// A label whose values are the stable codes of refusals and denials.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TrustDomainLabel {
    trust_domain: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WorkloadLabel {
    workload: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ServiceLabel {
    service: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AppLabel {
    app: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct LevelLabel {
    level: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AuthorityLabel {
    authority: String,
    level: &'static str,
    slot: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CallsLabel {
    app: String,
    product: String,
    code: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CheckLabel {
    check: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: &'static str,
}

/// All metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<CodeLabel, Counter>,
    calls: Family<CallsLabel, Counter>,
    by_caller: Arc<Calls>,
    handshake_failures: Family<CheckLabel, Counter>,
    /// Spans that found no room, or could not be sent.
    pub spans_dropped: Counter,
    /// Spans that the collector has taken.
    pub spans_exported: Counter,
    detections: Family<KindLabel, Counter>,
    /// Signs that found no room on their way to the detectors.
    pub signs_dropped: Counter,
    called: Mutex<Cap>,
    /// Usage records that found no room or could not be written.
    pub usage_records_dropped: Counter,
    outbound: Family<CodeLabel, Counter>,
    handshakes: Family<CodeLabel, Counter>,
    cuts: Family<CodeLabel, Counter>,
    reloads: Family<ResultLabel, Counter>,
    clock_steps: Family<DirectionLabel, Counter>,
    clock_skew: Family<TrustDomainLabel, Gauge<f64, AtomicU64>>,
    /// Connections that are open now.
    pub connections: Gauge,
    /// Access-log lines that found no room.
    pub access_log_dropped: Counter,
    /// Attempts to reach a service that failed.
    pub upstream_failures: Counter,
    /// 1 while the registry in force is the one on disk.
    pub registry_current: Gauge,
    /// Apps in force.
    pub registry_apps: Gauge,
    not_after: Family<WorkloadLabel, Gauge>,
    next_rotation: Family<WorkloadLabel, Gauge>,
    last_rotation: Family<WorkloadLabel, Gauge>,
    overdue: Family<WorkloadLabel, Gauge>,
    authority_not_after: Family<AuthorityLabel, Gauge>,
    authority_next: Family<LevelLabel, Gauge>,
    authority_overdue: Family<LevelLabel, Gauge>,
    /// 1 while the next issuing authority waits for a signature of the root, which is elsewhere.
    pub awaits_signature: Gauge,
    /// Certificates that end with the issuing authority, sooner than was configured.
    pub certificates_shortened: Gauge,
    /// Consumers of the trust bundle that have not loaded the one in force.
    pub bundle_laggards: Gauge,
    crl_next_update: Family<TrustDomainLabel, Gauge>,
    crl_stale: Family<TrustDomainLabel, Gauge>,
    /// Reasons for which the agent calls itself degraded.
    pub degraded: Gauge,
    /// 1 while the state directory can be written.
    pub state_writable: Gauge,
    /// Accounts of limits that are counted.
    pub limit_accounts: Gauge,
    /// Bytes of memory that the agent has.
    pub resident_memory: Gauge,
    /// 1 while new connections are refused for want of memory, 2 while requests are.
    pub memory_pressure: Gauge,
    retiring_uses: Family<AppLabel, Counter>,
    /// Keys that are older than they may become.
    pub keys_overdue: Gauge,
    concurrency_limit: Family<ServiceLabel, Gauge>,
    concurrency_under_way: Family<ServiceLabel, Gauge>,
}

impl Metrics {
    /// A fresh set, all zero.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("postern");
        registry.register("build", "The version that runs", Info::new(vec![("version", version)]));
        let by_caller = Arc::<Calls>::default();
        registry.register_collector(Box::new(Arc::clone(&by_caller)));
        Self {
            by_caller,
            handshake_failures: family(
                &mut registry,
                "handshake_failures",
                "TLS handshakes that failed, by what was found wrong",
            ),
            spans_dropped: family(
                &mut registry,
                "spans_dropped",
                "Spans that found no room or could not be sent",
            ),
            spans_exported: family(&mut registry, "spans_exported", "Spans that the collector has taken"),
            requests: family(&mut registry, "requests", "Inbound requests and raw connections by decision"),
            calls: family(&mut registry, "usage_calls", "Inbound requests by app, product and decision"),
            called: Mutex::default(),
            detections: family(
                &mut registry,
                "detections",
                "Times that something was noticed which somebody should look into, by kind",
            ),
            signs_dropped: family(
                &mut registry,
                "signs_dropped",
                "Signs of something to look into that found no room",
            ),
            usage_records_dropped: family(
                &mut registry,
                "usage_records_dropped",
                "Usage records that found no room or could not be written",
            ),
            outbound: family(&mut registry, "outbound", "Outbound requests and raw connections by outcome"),
            handshakes: family(&mut registry, "handshakes", "TLS handshakes by outcome"),
            cuts: family(&mut registry, "connections_cut", "Live connections that were ended, by reason"),
            reloads: family(&mut registry, "reloads", "Reloads of configuration and registry by result"),
            clock_steps: family(
                &mut registry,
                "clock_steps",
                "Times that the clock was found set, or to have stood still, by direction",
            ),
            clock_skew: family(
                &mut registry,
                "clock_skew_seconds",
                "The least by which the clocks of a trust domain's peers are ahead of this host's",
            ),
            connections: family(&mut registry, "connections", "Connections open now"),
            access_log_dropped: family(
                &mut registry,
                "access_log_dropped",
                "Access-log lines that found no room",
            ),
            upstream_failures: family(
                &mut registry,
                "upstream_failures",
                "Attempts to reach a service that failed",
            ),
            registry_current: family(
                &mut registry,
                "registry_current",
                "1 while the registry in force is the one on disk",
            ),
            registry_apps: family(&mut registry, "registry_apps", "Apps in force"),
            not_after: family(
                &mut registry,
                "certificate_not_after_seconds",
                "Unix time at which the certificate ends",
            ),
            next_rotation: family(
                &mut registry,
                "certificate_next_rotation_seconds",
                "Unix time of the next renewal",
            ),
            last_rotation: family(
                &mut registry,
                "certificate_last_rotation_seconds",
                "Unix time of the last renewal",
            ),
            overdue: family(&mut registry, "certificate_overdue", "1 while a renewal is overdue"),
            authority_not_after: family(
                &mut registry,
                "authority_not_after_seconds",
                "Unix time at which an authority ends",
            ),
            authority_next: family(
                &mut registry,
                "authority_next_rotation_seconds",
                "Unix time at which the next authority of a level is made",
            ),
            authority_overdue: family(
                &mut registry,
                "authority_overdue",
                "1 while the replacement of a level's authority is overdue",
            ),
            degraded: family(&mut registry, "degraded", "Reasons for which the agent calls itself degraded"),
            state_writable: family(
                &mut registry,
                "state_writable",
                "1 while the state directory can be written",
            ),
            awaits_signature: family(
                &mut registry,
                "authority_awaits_signature",
                "1 while the next issuing authority waits for a signature of the root, which is elsewhere",
            ),
            certificates_shortened: family(
                &mut registry,
                "certificates_shortened",
                "Certificates that end with the issuing authority, sooner than was configured",
            ),
            bundle_laggards: family(
                &mut registry,
                "bundle_laggards",
                "Consumers that have not loaded the trust bundle in force",
            ),
            crl_next_update: family(
                &mut registry,
                "crl_next_update_seconds",
                "Unix time at which the first revocation list of a foreign trust domain ceases to speak",
            ),
            crl_stale: family(
                &mut registry,
                "crl_stale",
                "Revocation lists of a foreign trust domain that do not speak for now",
            ),
            limit_accounts: family(&mut registry, "limit_accounts", "Accounts of limits that are counted"),
            resident_memory: family(&mut registry, "resident_memory_bytes", "Memory that the agent has"),
            memory_pressure: family(
                &mut registry,
                "memory_pressure",
                "1 while new connections are refused for want of memory, 2 while new requests are",
            ),
            retiring_uses: family(
                &mut registry,
                "credential_retiring_uses",
                "Requests that were let in by a key that another has taken the place of",
            ),
            keys_overdue: family(
                &mut registry,
                "keys_overdue",
                "Keys that are older than key_max_age of their app or [keys] max_age, and good",
            ),
            concurrency_limit: family(
                &mut registry,
                "concurrency_limit",
                "Requests that a service is given at a time, where that is limited",
            ),
            concurrency_under_way: family(
                &mut registry,
                "concurrency_under_way",
                "Requests that a service with a limit has under way",
            ),
            registry,
        }
    }

    /// The exposition in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    /// A thread's own counter of inbound decisions.
    #[must_use]
    pub fn requests(&self) -> CodeCounter {
        CodeCounter::new(self.requests.clone())
    }

    /// A thread's own end of what is counted by app, product and service.
    #[must_use]
    pub fn by_caller(&self) -> CallCounter {
        self.by_caller.counter()
    }

    /// Counts a handshake that failed at this check.
    pub fn count_handshake_failure(&self, check: &'static str) {
        self.handshake_failures.get_or_create_owned(&CheckLabel { check }).inc();
    }

    /// Counts what an app has called; those beyond the first thousand pairs of app and product together as `other`.
    pub fn count_calls(&self, app: String, product: String, code: String, calls: u64) {
        let (app, product) = self.called.lock().unwrap_or_else(PoisonError::into_inner).of(app, product);
        self.calls.get_or_create(&CallsLabel { app, product, code }).inc_by(calls);
    }

    /// Counts that something was noticed.
    pub fn count_detection(&self, kind: &'static str) {
        self.detections.get_or_create(&KindLabel { kind }).inc();
    }

    /// A thread's own counter of outbound outcomes.
    #[must_use]
    pub fn outbound(&self) -> CodeCounter {
        CodeCounter::new(self.outbound.clone())
    }

    /// A thread's own counter of handshakes.
    #[must_use]
    pub fn handshakes(&self) -> CodeCounter {
        CodeCounter::new(self.handshakes.clone())
    }

    /// A thread's own counter of live connections that were ended.
    #[must_use]
    pub fn cuts(&self) -> CodeCounter {
        CodeCounter::new(self.cuts.clone())
    }

    /// Counts a reload that was carried out or rejected.
    pub fn count_reload(&self, succeeded: bool) {
        let result = if succeeded { "applied" } else { "rejected" };
        self.reloads.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts that the clock was set, `forward` or `back`, or stood still (`suspend`).
    pub fn count_clock_step(&self, direction: &'static str) {
        self.clock_steps.get_or_create(&DirectionLabel { direction }).inc();
    }

    /// Remembers by how much the clocks of each trust domain are ahead; of all others nothing is known.
    pub fn set_clock_skews<'a>(&self, skews: impl Iterator<Item = (&'a str, Duration)>) {
        self.clock_skew.clear();
        for (domain, ahead) in skews {
            let label = TrustDomainLabel { trust_domain: domain.to_owned() };
            self.clock_skew.get_or_create(&label).set(ahead.as_secs_f64());
        }
    }

    /// Remembers the times of a workload's certificate, in Unix seconds.
    pub fn set_certificate(&self, workload: &str, not_after: i64, next: i64, last: i64, overdue: bool) {
        let label = WorkloadLabel { workload: workload.to_owned() };
        self.not_after.get_or_create(&label).set(not_after);
        self.next_rotation.get_or_create(&label).set(next);
        self.last_rotation.get_or_create(&label).set(last);
        self.overdue.get_or_create(&label).set(i64::from(overdue));
    }

    /// Remembers when a level's authority is replaced, in Unix seconds.
    pub fn set_rotation(&self, level: &'static str, next: i64, overdue: bool) {
        let label = LevelLabel { level };
        self.authority_next.get_or_create(&label).set(next);
        self.authority_overdue.get_or_create(&label).set(i64::from(overdue));
    }

    /// Forgets all workloads and authorities, before the present ones are set.
    pub fn clear_certificates(&self) {
        self.not_after.clear();
        self.next_rotation.clear();
        self.last_rotation.clear();
        self.overdue.clear();
        self.authority_not_after.clear();
    }

    /// Remembers how the revocation lists of a trust domain stand.
    pub fn set_crls(&self, trust_domain: &str, next_update: i64, stale: usize) {
        let label = TrustDomainLabel { trust_domain: trust_domain.to_owned() };
        self.crl_next_update.get_or_create(&label).set(next_update);
        self.crl_stale.get_or_create(&label).set(i64::try_from(stale).unwrap_or(i64::MAX));
    }

    /// Forgets the revocation lists of all trust domains, before the present ones are set.
    pub fn clear_crls(&self) {
        self.crl_next_update.clear();
        self.crl_stale.clear();
    }

    /// Counts that `app` was let in by a key that is about to retire.
    pub fn count_retiring_use(&self, app: &str) {
        // As many series as there are apps that lag behind in a rotation.
        self.retiring_uses.get_or_create_owned(&AppLabel { app: app.to_owned() }).inc();
    }

    /// Forgets all services, before the present ones are set.
    pub fn clear_concurrency(&self) {
        self.concurrency_limit.clear();
        self.concurrency_under_way.clear();
    }

    /// Remembers how many requests a service is given at a time, and how many it has under way.
    pub fn set_concurrency(&self, service: &str, limit: u32, under_way: u32) {
        let label = ServiceLabel { service: service.to_owned() };
        self.concurrency_limit.get_or_create(&label).set(i64::from(limit));
        self.concurrency_under_way.get_or_create(&label).set(i64::from(under_way));
    }

    /// Remembers the end of an authority, in Unix seconds.
    pub fn set_authority(&self, authority: &str, level: &'static str, slot: &'static str, not_after: i64) {
        let label = AuthorityLabel { authority: authority.to_owned(), level, slot };
        self.authority_not_after.get_or_create(&label).set(not_after);
    }
}

fn family<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Clone + Default + prometheus_client::registry::Metric,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Counts by code without a lock: each thread keeps the handles that it has used.
#[derive(Debug)]
pub struct CodeCounter {
    family: Family<CodeLabel, Counter>,
    known: RefCell<Vec<(&'static str, Counter<u64, AtomicU64>)>>,
}

impl CodeCounter {
    const fn new(family: Family<CodeLabel, Counter>) -> Self {
        Self { family, known: RefCell::new(Vec::new()) }
    }

    /// Counts one event with this code.
    pub fn count(&self, code: &'static str) {
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(name, _)| std::ptr::eq(*name, code)) {
            counter.inc();
            return;
        }
        let counter = self.family.get_or_create_owned(&CodeLabel { code });
        counter.inc();
        known.push((code, counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_exposed() {
        let metrics = Metrics::new("0.0.0");
        let requests = metrics.requests();
        requests.count("allowed");
        requests.count("allowed");
        metrics.set_certificate("agent", 10, 5, 1, false);

        let text = metrics.render();

        assert!(text.contains("postern_requests_total{code=\"allowed\"} 2\n"), "{text}");
        assert!(text.contains("postern_certificate_not_after_seconds{workload=\"agent\"} 10\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
