//! How many requests, how many failures, how long: by app, product and service, for whoever watches over one of them.
//!
//! A thread keeps the handles that it has used, so that a request costs a look-up and some additions, without a lock.
//!
//! **Invariant:** there are never more than [`SERIES`] of them; whoever comes later is counted together as [`OTHER`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::usage::OTHER;

/// Combinations of app, product and service that have series of their own; each is some twenty lines of the exposition.
pub const SERIES: usize = 500;

/// The upper ends of the histogram's buckets, in seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// > 101 (Switching Protocols) — RFC 9110 §15.2.2
const SWITCHING: u16 = 101;

/// What answers are sorted by: the class of their status; `none` where there was no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Who called what: app, product and service, each empty where it is not known.
type Key = [Box<str>; 3];

/// The counts of one combination.
#[derive(Debug, Default)]
struct Series {
    under_way: AtomicI64,
    by_class: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

/// The counts of all.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<HashMap<Key, Arc<Series>>>);

impl Calls {
    /// A thread's own end.
    pub(super) fn counter(self: &Arc<Self>) -> CallCounter {
        CallCounter { calls: Arc::clone(self), known: RefCell::default() }
    }

    fn series(&self, key: [&str; 3]) -> Arc<Series> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = key.map(Box::from);
        let key =
            if all.len() >= SERIES && !all.contains_key(&found) { [OTHER; 3].map(Box::from) } else { found };
        Arc::clone(all.entry(key).or_default())
    }
}

/// A thread's own end of the counts.
#[derive(Debug)]
pub struct CallCounter {
    calls: Arc<Calls>,
    known: RefCell<HashTable<(Key, Arc<Series>)>>,
}

/// So many combinations a thread finds without asking; more than there can be are looked up anew.
const KNOWN: usize = 2 * SERIES;

impl CallCounter {
    /// A request of `app` to `service`, let in by `product`, is under way; each is empty where it is not known.
    pub fn begin(&self, app: &str, product: &str, service: &str) -> Call {
        let key = [app, product, service];
        let hash = hash(key);
        let mut known = self.known.borrow_mut();
        let same = |(one, _): &(Key, Arc<Series>)| one.iter().zip(key).all(|(one, other)| **one == *other);
        let series = match known.find(hash, same) {
            Some((_, series)) => Arc::clone(series),
            None => {
                let series = self.calls.series(key);
                if known.len() >= KNOWN {
                    known.clear();
                }
                let entry = (key.map(Box::from), Arc::clone(&series));
                known.insert_unique(hash, entry, |(key, _)| self::hash([&*key[0], &*key[1], &*key[2]]));
                series
            }
        };
        series.under_way.fetch_add(1, Ordering::Relaxed);
        Call(series)
    }
}

/// FNV-1a: the names come from files of the operator's, and so need no key against collisions.
fn hash(key: [&str; 3]) -> u64 {
    let bytes = key.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A request that is under way for as long as this is held.
#[derive(Debug)]
pub struct Call(Arc<Series>);

impl Call {
    /// It has ended with `status`, 0 where there was no answer, after `duration`.
    pub fn count(&self, status: u16, duration: Duration) {
        let class = usize::from(status / 100);
        let Series { by_class, buckets, micros, .. } = &*self.0;
        if let Some(class) = by_class.get(class).or_else(|| by_class.first()) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        if status == SWITCHING {
            // How long a tunnel lives says nothing of how long an answer took.
            return;
        }
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        if let Some(bucket) = buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CallLabels {
    app: String,
    product: String,
    service: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ClassLabels {
    app: String,
    product: String,
    service: String,
    status: &'static str,
}

impl Collector for Calls {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all: Vec<(Key, Arc<Series>)> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(key, series)| (key.clone(), Arc::clone(series))).collect()
        };
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut metric = encoder.encode_descriptor(
            "http_requests",
            "Inbound requests by app, product, service and class of status",
            None,
            MetricType::Counter,
        )?;
        for ([app, product, service], series) in &all {
            for (status, count) in CLASSES.into_iter().zip(&series.by_class) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let [app, product, service] = [app, product, service].map(ToString::to_string);
                    let labels = ClassLabels { app, product, service, status };
                    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "http_request_duration_seconds",
            "From the first byte of a request to the last of its answer, by app, product and service",
            None,
            MetricType::Histogram,
        )?;
        for (key, series) in &all {
            let mut count = 0;
            let ends = BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = ends
                .zip(&series.buckets)
                .map(|(end, bucket)| {
                    let here = bucket.load(Ordering::Relaxed);
                    count += here;
                    (end, here)
                })
                .collect();
            let sum = Duration::from_micros(series.micros.load(Ordering::Relaxed)).as_secs_f64();
            let labels = labels(key);
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let mut metric = encoder.encode_descriptor(
            "http_requests_in_flight",
            "Inbound requests that are under way, by app, product and service",
            None,
            MetricType::Gauge,
        )?;
        for (key, series) in &all {
            let under_way = series.under_way.load(Ordering::Relaxed);
            metric.encode_family(&labels(key))?.encode_gauge(&under_way)?;
        }
        Ok(())
    }
}

fn labels(key: &Key) -> CallLabels {
    let [app, product, service] = key.each_ref().map(ToString::to_string);
    CallLabels { app, product, service }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn exposed(calls: &Arc<Calls>) -> String {
        let mut registry = Registry::with_prefix("postern");
        registry.register_collector(Box::new(Arc::clone(calls)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn requests_are_counted_by_class_duration_and_while_they_are_under_way() {
        let calls = Arc::<Calls>::default();
        let counter = calls.counter();
        let begin = || counter.begin("web", "gold", "orders");
        begin().count(200, Duration::from_millis(3));
        begin().count(503, Duration::from_secs(20));
        begin().count(0, Duration::ZERO);
        begin().count(101, Duration::from_secs(3600));
        let _under_way = begin();

        let text = exposed(&calls);

        let labels = "app=\"web\",product=\"gold\",service=\"orders\"";
        for line in [
            format!("postern_http_requests_total{{{labels},status=\"2xx\"}} 1"),
            format!("postern_http_requests_total{{{labels},status=\"5xx\"}} 1"),
            format!("postern_http_requests_total{{{labels},status=\"none\"}} 1"),
            format!("postern_http_requests_total{{{labels},status=\"1xx\"}} 1"),
            format!("postern_http_request_duration_seconds_count{{{labels}}} 3"),
            format!("postern_http_request_duration_seconds_sum{{{labels}}} 20.003"),
            format!("postern_http_request_duration_seconds_bucket{{le=\"0.0025\",{labels}}} 1"),
            format!("postern_http_request_duration_seconds_bucket{{le=\"0.005\",{labels}}} 2"),
            format!("postern_http_request_duration_seconds_bucket{{le=\"10.0\",{labels}}} 2"),
            format!("postern_http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 3"),
            format!("postern_http_requests_in_flight{{{labels}}} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn whoever_comes_late_is_counted_as_other() {
        let calls = Arc::<Calls>::default();
        let (one, two) = (calls.counter(), calls.counter());
        for number in 0..2 * SERIES {
            one.begin(&format!("app-{number}"), "gold", "orders").count(200, Duration::ZERO);
        }
        two.begin("app-0", "gold", "orders").count(200, Duration::ZERO);
        two.begin("newcomer", "gold", "orders").count(200, Duration::ZERO);

        let text = exposed(&calls);

        let requests = "postern_http_requests_total{app=\"";
        assert_eq!(text.matches(requests).count(), SERIES + 1);
        assert!(text.contains(&format!(
            "{requests}app-0\",product=\"gold\",service=\"orders\",status=\"2xx\"}} 2\n"
        )));
        let rest = SERIES + 1;
        assert!(text.contains(&format!(
            "{requests}other\",product=\"other\",service=\"other\",status=\"2xx\"}} {rest}\n"
        )));
    }

    #[test]
    fn a_combination_that_is_known_takes_nothing_from_the_heap() {
        let calls = Arc::<Calls>::default();
        let counter = calls.counter();
        drop(counter.begin("web", "gold", "orders"));

        let taken = allocation_counter::measure(|| {
            for _ in 0..50 {
                counter.begin("web", "gold", "orders").count(200, Duration::from_millis(1));
            }
        });

        assert_eq!(taken.count_total, 0);
    }
}
