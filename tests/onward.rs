//! What goes on from the agent: who calls, as the service is told of it and under our signature; why there is no answer, as the
//! caller is told; and what became of it, as collectors are told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;
use serde_json::{Value, json};
use support::{Answer, Identity, Scene, Service, World, eventually, python_with};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onward.py");

/// An agent that guards `service`, with these keys in its `[[service]]`.
fn scene(service: &Service, keys: &str) -> Scene {
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", &format!("id = \"orders\"\n{keys}\n"));
    scene
}

/// The same GET by HTTP/1.1 and by HTTP/2.
async fn both(world: &World, identity: Option<&Identity>, fields: &[(&str, &str)]) -> [Answer; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let one = world.talk(identity).await.get("/a", &lines).await;
    let two = world.h2(identity).await.get("/a", fields).await;
    [one, two]
}

#[tokio::test]
async fn a_proxy_that_is_listed_speaks_for_those_before_it() {
    let service = Service::start().await;
    let rules = "client_cert = { xfcc = \"append_forward\", proxies = [\"caller\"], details = [\"uri\", \"cert\"], rfc9440 = \"chain\" }";
    let world = scene(&service, rules).start().await;
    let caller = world.identity("caller");
    let before = "By=spiffe://x.test/edge;URI=spiffe://x.test/first";

    for answer in both(&world, Some(&caller), &[("x-forwarded-client-cert", before)]).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    for seen in service.seen() {
        let [value] = *seen.values("x-forwarded-client-cert") else { panic!("{}", seen.head) };
        let (theirs, ours) = value.split_once(',').unwrap();
        assert_eq!(theirs, "By=\"spiffe://x.test/edge\";URI=\"spiffe://x.test/first\"");
        assert!(
            ours.contains("URI=\"spiffe://postern.test/caller\"") && !ours.contains("Subject="),
            "{ours}"
        );
        assert!(ours.contains("Cert=\"-----BEGIN%20CERTIFICATE-----%0A"), "{ours}");
        let leaf = format!(":{}:", BASE64.encode(&caller.chain[0]));
        assert_eq!(seen.values("client-cert"), [leaf]);
        assert_eq!(seen.values("client-cert-chain").len(), 1);
    }
    for answer in both(&world, Some(&caller), &[("x-forwarded-client-cert", "URI=a;")]).await {
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad-forwarded-certificate"));
    }
    assert_eq!(service.seen().len(), 2);
}

/// A Python that has `PyJWT`, made on first use.
fn python_with_jwt() -> Result<PathBuf, String> {
    python_with("pyjwt", "jwt, cryptography", &["pyjwt[crypto]>=2.8,<3"])
}

/// What PyJWT believes of each token by the keys that the agent publishes.
async fn believed(python: &Path, world: &World, tokens: &[&str]) -> Vec<Value> {
    let (status, keys) = world.health("/jwks").await.unwrap();
    assert_eq!(status, 200);
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let mut command = Command::new(python);
    command.args([SCRIPT, "verify", "spiffe://postern.test/orders"]);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = json!({ "jwks": keys, "tokens": tokens }).to_string();
    running.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn who_calls_is_signed_for_the_service_and_verified_by_pyjwt() {
    let python = match python_with_jwt() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let service = Service::start().await;
    let mut scene =
        scene(&service, "assertion = { audience = \"spiffe://postern.test/orders\", ttl = \"60s\" }");
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let caller = world.identity("caller");

    for answer in both(&world, Some(&caller), &[("x-postern-assertion", "forged")]).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut talk = world.talk(None).await;
    for _ in 0..2 {
        assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    }

    let seen = service.seen();
    let tokens: Vec<&str> = seen
        .iter()
        .map(|seen| {
            let [token] = *seen.values("x-postern-assertion") else { panic!("{}", seen.head) };
            token
        })
        .collect();
    assert_eq!(tokens[2], tokens[3], "a connection is not signed for twice");
    let mut spoilt = tokens[0].to_owned();
    spoilt.insert(spoilt.len() - 10, 'A');
    let claims = believed(&python, &world, &[tokens[0], tokens[1], tokens[2], &spoilt]).await;
    for by_certificate in &claims[..2] {
        assert_eq!(by_certificate["sub"], "spiffe://postern.test/caller");
        assert_eq!(by_certificate["cred"], "mtls:caller-svid");
        assert_eq!(by_certificate["scope"], "orders:read");
    }
    let by_key = &claims[2];
    assert_eq!((&by_key["sub"], &by_key["app"]), (&json!("by-key"), &json!("by-key")));
    assert_eq!(by_key["product"], "orders");
    assert_eq!(by_key["exp"].as_i64().unwrap() - by_key["iat"].as_i64().unwrap(), 60);
    assert_eq!(claims[3], Value::Null, "what is not ours is not believed");
}

#[tokio::test]
async fn an_answer_of_the_agents_own_says_so_in_the_words_of_proxies() {
    let mut scene = Scene::guarding("{ip}:9");
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let known = [("x-api-key", key.text.as_str())];

    for answer in both(&world, None, &known).await {
        assert_eq!(answer.status, 502);
        let told = answer.header("proxy-status");
        assert_eq!(told, Some("postern; error=connection_refused; details=\"upstream-unavailable\""));
    }
    for answer in both(&world, None, &[]).await {
        let told = answer.header("proxy-status");
        assert_eq!(told, Some("postern; error=http_request_denied; details=\"missing-credential\""));
    }
}

#[tokio::test]
async fn requests_are_counted_by_app_product_and_service() {
    let service = Service::start().await;
    let world = scene(&service, "").start().await;
    let caller = world.identity("caller");

    both(&world, Some(&caller), &[]).await;
    both(&world, None, &[]).await;

    let of_caller = "app=\"caller\",product=\"orders\",service=\"orders\"";
    let of_nobody = "app=\"\",product=\"\",service=\"orders\"";
    for (name, count) in [
        (format!("postern_http_requests_total{{{of_caller},status=\"2xx\"}}"), 2.0),
        (format!("postern_http_requests_total{{{of_nobody},status=\"4xx\"}}"), 2.0),
        (format!("postern_http_request_duration_seconds_count{{{of_caller}}}"), 2.0),
        (format!("postern_http_requests_in_flight{{{of_caller}}}"), 0.0),
    ] {
        eventually(&name, async || (world.metric(&name).await == Some(count)).then_some(())).await;
    }
}

/// A collector of spans that is ended with the test.
struct Collector {
    process: Child,
    lines: std::sync::mpsc::Receiver<String>,
    port: u16,
}

impl Collector {
    fn start() -> Option<Self> {
        let mut command = Command::new("python3");
        let mut process = command.args([SCRIPT, "collect"]).stdout(Stdio::piped()).spawn().ok()?;
        let (told, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        let port = lines.recv().unwrap().parse().unwrap();
        Some(Self { process, lines, port })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test]
async fn a_request_that_the_caller_traces_becomes_a_span_of_that_trace() {
    let Some(collector) = Collector::start() else { return println!("skipped: there is no python3") };
    let service = Service::start().await;
    let mut scene = scene(&service, "");
    scene.config(&format!("[otlp]\nendpoint = \"http://127.0.0.1:{}\"\none_in = 0\n", collector.port));
    let world = scene.start().await;
    let caller = world.identity("caller");
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let sent = |flags: &str| format!("00-{trace}-{parent}-{flags}");

    let quiet = world.talk(Some(&caller)).await.get("/a", &format!("traceparent: {}\r\n", sent("00"))).await;
    assert_eq!(quiet.status, 200);
    assert_eq!(service.last().values("traceparent"), [sent("00")], "what nobody records passes as it came");
    for answer in both(&world, Some(&caller), &[("traceparent", &sent("01")), ("tracestate", "a=1")]).await {
        assert_eq!(answer.status, 200);
    }

    let mut spans = Vec::new();
    while spans.len() < 2 {
        let body = eventually("spans arrive", async || collector.lines.try_recv().ok()).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let found = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        spans.extend(found.iter().cloned());
    }
    let seen = service.seen();
    for (span, seen) in spans.iter().zip(&seen[1..]) {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(trace), &json!(parent)));
        let own = span["spanId"].as_str().unwrap();
        assert_eq!(seen.values("traceparent"), [format!("00-{trace}-{own}-01")]);
        assert_eq!(seen.values("tracestate"), ["a=1"]);
        assert_eq!((&span["name"], &span["kind"]), (&json!("GET orders"), &json!(2)));
        let attributes = span["attributes"].as_array().unwrap();
        let of = |key: &str| attributes.iter().find(|one| one["key"] == key).unwrap()["value"].clone();
        assert_eq!(of("postern.app"), json!({ "stringValue": "caller" }));
        assert_eq!(of("http.response.status_code"), json!({ "intValue": "200" }));
        assert_eq!(of("url.path"), json!({ "stringValue": "/a" }));
    }
    eventually("both are counted", async || {
        (world.metric("postern_spans_exported_total").await == Some(2.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_of_once_with_what_was_shown_and_what_was_wrong_with_it() {
    let service = Service::start().await;
    let world = scene(&service, "").start().await;
    let caller = world.identity("caller");
    assert_eq!(world.try_get(Some(&caller), "").await.unwrap().status, 200);
    let id = "spiffe://postern.test/caller";
    let outsider = Identity::of_another_ca(id);
    let expired = Identity::expired(id, &world.issuing_folder().await);

    for (identity, check) in [(&outsider, "unknown-issuer"), (&expired, "expired")] {
        assert!(world.try_get(Some(identity), "").await.is_err());

        let sha256 = data_encoding::HEXLOWER.encode(&identity.subject().sha256);
        let log = world.log_with(&sha256).await;
        let told: Vec<Value> = log
            .lines()
            .filter(|line| line.contains(&sha256) && line.contains("handshake failed"))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [event] = told.as_slice() else { panic!("{told:?}") };
        let fields = event;
        assert_eq!((&fields["check"], &fields["sni"]), (&json!(check), &json!("localhost")), "{event}");
        assert_eq!((&fields["code"], &fields["listener"]), (&json!("bad-certificate"), &json!("inbound")));
        assert!(fields["alpn"].as_str().unwrap().contains("http/1.1"), "{event}");
        assert_eq!(fields["cert.names"], format!("URI:{id}"));
        assert_eq!(fields["cert.serial"], identity.subject().serial);
        assert!(fields["cert.issuer"].is_string() && fields["cert.not_after"].is_string(), "{event}");
        let name = format!("postern_handshake_failures_total{{check=\"{check}\"}}");
        eventually(&name, async || (world.metric(&name).await == Some(1.0)).then_some(())).await;
    }
}
