//! Spans of requests for a collector of OpenTelemetry, in the JSON of OTLP/HTTP.
//!
//! A span is written by the thread that served the request, and left in a queue of bounded length; what finds no room is
//! dropped and counted. Who sends it on is the agent's control plane.

use std::net::SocketAddr;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::AccessEvent;

/// Where spans go, and of which requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpanSettings {
    /// The collector, on this host.
    pub collector: SocketAddr,
    /// The path to which spans are posted.
    pub path: String,
    /// Of the traces that begin here, one in so many is recorded; 0 for none.
    pub one_in: u32,
    /// Whether what a caller has recorded is recorded here, too.
    pub follow: bool,
}

/// Spans that may wait to be sent.
pub const WAITING: usize = 4_096;

/// Where a thread leaves its spans.
#[derive(Clone, Debug)]
pub struct SpanSink {
    queue: Option<mpsc::Sender<String>>,
    one_in: u32,
    follow: bool,
    dropped: Counter,
}

/// A span of ours, and where it hangs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpanContext {
    /// The trace, in 32 hexadecimal digits.
    pub trace_id: [u8; 32],
    /// The caller's span, in 16 hexadecimal digits, if it has one.
    pub parent: Option<[u8; 16]>,
    /// Our own.
    pub span_id: [u8; 16],
}

impl SpanSink {
    /// A sink by `settings`, with the end of the queue at which spans come out; `dropped` counts those that found no room.
    #[must_use]
    pub fn new(settings: &SpanSettings, dropped: Counter) -> (Self, mpsc::Receiver<String>) {
        let (queue, spans) = mpsc::channel(WAITING);
        let SpanSettings { one_in, follow, .. } = *settings;
        (Self { queue: Some(queue), one_in, follow, dropped }, spans)
    }

    /// A sink that wants none.
    #[must_use]
    pub fn none() -> Self {
        Self { queue: None, one_in: 0, follow: false, dropped: Counter::default() }
    }

    /// Whether a request is recorded whose caller has recorded it.
    #[must_use]
    pub const fn follows(&self) -> bool {
        self.follow
    }

    /// Whether a trace is recorded that begins here; `random` decides.
    #[must_use]
    pub fn begins(&self, random: u64) -> bool {
        random.checked_rem(u64::from(self.one_in)) == Some(0)
    }

    /// Leaves a span about `event`.
    pub fn record(&self, span: &SpanContext, event: &AccessEvent<'_>) {
        let Some(queue) = &self.queue else { return };
        if queue.capacity() == 0 || queue.try_send(span_json(span, event).to_string()).is_err() {
            self.dropped.inc();
        }
    }
}

/// Methods that a span is named by; all others are said in an attribute only, for callers invent them.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// One span, with the attributes that OpenTelemetry's semantic conventions name, and ours behind `postern.`.
fn span_json(span: &SpanContext, event: &AccessEvent<'_>) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let begun = event.at.unix_nanos();
    let ended = begun.saturating_add(u64::try_from(event.duration.as_nanos()).unwrap_or(u64::MAX));
    let known = METHODS.contains(&event.method);
    let (kind, server_failed) = match event.direction {
        "in" => (2, event.status >= 500),
        _ => (3, event.status >= 400),
    };
    let peer = event.peer.map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
    let texts = [
        ("http.request.method", if known { event.method } else { "_OTHER" }),
        ("http.request.method_original", if known { "" } else { event.method }),
        ("url.path", event.path),
        ("url.scheme", "https"),
        ("network.protocol.version", event.protocol.trim_start_matches("http/")),
        ("client.address", &peer),
        ("user_agent.original", event.user_agent),
        ("postern.decision", event.code),
        ("postern.service", event.service),
        ("postern.app", event.app),
        ("postern.product", event.product),
        ("postern.operation", event.operation),
        ("postern.spiffe_id", event.spiffe_id),
        ("postern.request_id", event.request_id),
        ("postern.door", event.door),
    ];
    let texts = texts.iter().filter(|(_, value)| !value.is_empty());
    let mut attributes: Vec<Value> =
        texts.map(|(key, value)| json!({ "key": key, "value": { "stringValue": value } })).collect();
    if event.status > 0 {
        let status = event.status.to_string();
        attributes.push(json!({ "key": "http.response.status_code", "value": { "intValue": status } }));
    }
    let name = if known { event.method } else { "HTTP" };
    let mut written = json!({
        "traceId": text(&span.trace_id),
        "spanId": text(&span.span_id),
        "name": if event.service.is_empty() { name.to_owned() } else { format!("{name} {}", event.service) },
        "kind": kind,
        "startTimeUnixNano": begun.to_string(),
        "endTimeUnixNano": ended.to_string(),
        "attributes": attributes,
        "status": if server_failed || event.status == 0 { json!({ "code": 2 }) } else { json!({}) },
    });
    if let (Some(parent), Some(object)) = (&span.parent, written.as_object_mut()) {
        object.insert("parentSpanId".to_owned(), json!(text(parent)));
    }
    written
}

/// What is posted to a collector: `spans`, each as it came out of the queue, of the agent with this identity and version.
#[must_use]
pub fn export_request(spans: &[String], own_id: &str, version: &str) -> String {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = json!({ "attributes": [
        attribute("service.name", "postern"),
        attribute("service.version", version),
        attribute("service.instance.id", own_id),
    ]});
    let scope = json!({ "name": "postern", "version": version });
    format!(
        "{{\"resourceSpans\":[{{\"resource\":{resource},\"scopeSpans\":[{{\"scope\":{scope},\"spans\":[{}]}}]}}]}}",
        spans.join(",")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    fn settings(one_in: u32) -> SpanSettings {
        let collector = SocketAddr::from(([127, 0, 0, 1], 4318));
        SpanSettings { collector, path: "/v1/traces".to_owned(), one_in, follow: true }
    }

    const SPAN: SpanContext =
        SpanContext { trace_id: [b'a'; 32], parent: Some([b'b'; 16]), span_id: [b'c'; 16] };

    #[test]
    fn a_span_says_what_became_of_a_request_and_where_it_hangs() {
        let (sink, mut spans) = SpanSink::new(&settings(1), Counter::default());
        let event = AccessEvent {
            at: Timestamp::FLOOR,
            method: "GET\"",
            path: "/a\"b",
            status: 502,
            code: "bad-gateway",
            service: "orders",
            duration: Duration::from_millis(5),
            ..AccessEvent::NOTHING
        };

        sink.record(&SPAN, &event);

        let request = export_request(&[spans.try_recv().unwrap()], "spiffe://a/agent", "1");
        let request: Value = serde_json::from_str(&request).unwrap();
        let span = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "a".repeat(32));
        assert_eq!(span["parentSpanId"], "b".repeat(16));
        assert_eq!(span["name"], "HTTP orders");
        assert_eq!(span["status"]["code"], 2);
        let nanos = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(nanos("endTimeUnixNano") - nanos("startTimeUnixNano"), 5_000_000);
        let attributes = span["attributes"].as_array().unwrap();
        let value = |key: &str| attributes.iter().find(|one| one["key"] == key).map(|one| &one["value"]);
        assert_eq!(value("http.request.method").unwrap()["stringValue"], "_OTHER");
        assert_eq!(value("http.request.method_original").unwrap()["stringValue"], "GET\"");
        assert_eq!(value("http.response.status_code").unwrap()["intValue"], "502");
        assert_eq!(value("postern.app"), None);
    }

    #[test]
    fn spans_that_nobody_takes_are_dropped_and_counted() {
        let dropped = Counter::default();
        let (sink, _spans) = SpanSink::new(&settings(1), dropped.clone());

        (0..WAITING + 3).for_each(|_| sink.record(&SPAN, &AccessEvent::NOTHING));

        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn one_in_so_many_begins_here() {
        let begun = |one_in: u32| {
            let (sink, _) = SpanSink::new(&settings(one_in), Counter::default());
            (0..100).filter(|&random| sink.begins(random)).count()
        };
        assert_eq!((begun(0), begun(1), begun(10)), (0, 100, 10));
        assert!(!SpanSink::none().begins(0) && !SpanSink::none().follows());
    }
}
