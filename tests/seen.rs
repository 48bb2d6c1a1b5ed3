//! What is told afterwards: how a refusal is put, why a request fared as it did, who may do what, and what was used.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use postern::admin::{DetectionStatus, UsageWanted};
use postern::clock::{Clock as _, SystemClock};
use postern::credential::{ApiKey, Evidence, HeaderEvidence, Peppers, Refusal, authenticate};
use postern::registry::{Source, parse};
use postern::secret::Secret;
use support::sign::{self, SigningKey};
use support::world::Key;
use support::{Act, Answer, Identity, Scene, Seen, Service, Talk, World, eventually, write};
use tokio::net::TcpSocket;

/// The same GET by HTTP/1.1 and by HTTP/2.
async fn both(world: &World, identity: Option<&Identity>, fields: &[(&str, &str)]) -> [Answer; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let one = world.talk(identity).await.get("/a", &lines).await;
    let two = world.h2(identity).await.get("/a", fields).await;
    [one, two]
}

/// A key of the right form with this name, and a secret that is nobody's.
fn well_formed(id: &str) -> String {
    let head = format!("pstn_sk_{id}_{}", "7".repeat(43));
    let mut sum = crc32fast::hash(head.as_bytes());
    let mut digits = [0_u8; 6];
    for digit in digits.iter_mut().rev() {
        let number = usize::try_from(sum % 62).unwrap();
        *digit = *b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".get(number).unwrap();
        sum /= 62;
    }
    let key = format!("{head}{}", String::from_utf8_lossy(&digits));
    assert_eq!(ApiKey::id_of(key.as_bytes()), Ok(id));
    key
}

/// A key of the right form that nobody has.
fn invented() -> String {
    let key = ApiKey::generate(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    String::from_utf8(key.text().expose_secret().to_vec()).unwrap()
}

#[tokio::test]
async fn callers_of_a_service_that_moved_here_from_apigee_are_refused_as_they_were_there() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nerror_format = \"apigee\"\n");
    scene.service("gone", "{ip}:9", "base_path = \"/gone\"\nerror_format = \"apigee\"\n");
    let key = scene.app_with_key("by-key");
    scene.amend_registry("service = \"orders\"", "service = \"*\"");
    let world = scene.start().await;
    let (wrong, stranger) = (invented(), world.identity("stranger"));
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);

    let (bare, unknown) = (Vec::new(), vec![("x-api-key", wrong.as_str())]);
    let cases = [
        (None, &bare, "steps.oauth.v2.FailedToResolveAPIKey", "Failed to resolve API Key variable"),
        (None, &unknown, "oauth.v2.InvalidApiKey", "Invalid ApiKey"),
        (
            Some(&stranger),
            &bare,
            "oauth.v2.InvalidApiKeyForGivenResource",
            "Invalid ApiKey for given resource",
        ),
    ];
    for (identity, fields, errorcode, faultstring) in cases {
        for answer in both(&world, identity, fields).await {
            assert_eq!(answer.status, 401, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(answer.header("www-authenticate").unwrap().starts_with("ApiKey realm="), "{answer:?}");
            assert!(answer.header("x-request-id").is_some() && answer.header("date").is_some());
            let expected = serde_json::json!(
                {"fault": {"faultstring": faultstring, "detail": {"errorcode": errorcode}}}
            );
            assert_eq!(answer.json(), expected);
        }
    }
    let answer = world.talk(None).await.get("/gone", &key.line()).await;
    assert_eq!(answer.status, 503);
    let code = answer.json()["fault"]["detail"]["errorcode"].clone();
    assert_eq!(code, "messaging.adaptors.http.flow.ServiceUnavailable");
}

/// What a command prints, and how it ends.
fn says(world: &World, words: &str) -> (Option<i32>, String) {
    let mut command: Command = support::world::postern(world.path());
    let output = command.args(words.split_whitespace()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_request_is_explained_by_its_id_as_it_was_decided() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.registry(
        "[[product]]\nid = \"silver\"\n\n[[product.operation]]\nservice = \"orders\"\nmethods = [\"POST\"]\npath = \"/**\"\n\n\
         [[product]]\nid = \"gold\"\nquota = { limit = 1000, per = \"1d\" }\n\n[[product.operation]]\nid = \"read\"\n\
         service = \"orders\"\nmethods = [\"GET\"]\npath = \"/a\"\n\n",
    );
    let key = scene.key();
    scene.app(
        "by-key",
        &format!(
            "{}[[app.grant]]\nproduct = \"silver\"\n\n[[app.grant]]\nproduct = \"orders\"\nstatus = \"pending\"\n\n\
             [[app.grant]]\nproduct = \"gold\"\n\n",
            key.table()
        ),
    );
    let world = scene.start().await;
    let allowed = world.talk(None).await.get("/a?page=2", &key.line()).await;
    let refused = world.h2(None).await.get("/b", &[("x-api-key", &key.text)]).await;
    let unknown = world.talk(None).await.get("/a", &format!("x-api-key: {}\r\n", invented())).await;
    assert_eq!((allowed.status, refused.status, unknown.status), (200, 403, 401));
    let [allowed, refused, unknown] =
        [allowed, refused, unknown].map(|answer| answer.header("x-request-id").unwrap().to_owned());

    let told = world.admin().recall(&allowed).await.unwrap();
    assert!(told.allowed && told.registry_now.is_none(), "{told:?}");
    let grants: Vec<_> = told.grants.iter().map(|one| (one.product.as_str(), one.code.as_str())).collect();
    assert_eq!(grants, [("silver", "not-entitled"), ("orders", "grant-pending"), ("gold", "allowed")]);
    let request = told.request.unwrap();
    assert_eq!((&*request.method, &*request.path, request.status), ("GET", "/a", 200));
    assert_eq!(request.presented, ["api_key"]);
    let limits = told.steps.iter().find(|step| step.name == "limits").unwrap();
    assert!(limits.detail.contains("product:gold now: 999 of 1000 left"), "{limits:?}");

    let told = world.admin().recall(&refused).await.unwrap();
    assert_eq!((told.code.as_str(), told.status), ("grant-pending", Some(403)));
    assert_eq!(told.grants.iter().filter(|one| one.code == "not-entitled").count(), 2);
    let told = world.admin().recall(&unknown).await.unwrap();
    assert_eq!(told.code, "invalid-credential");
    assert!(told.app.is_none() && told.grants.is_empty());
    assert_eq!(told.request.unwrap().presented, ["api_key"]);

    let (code, page) = says(&world, &format!("explain {allowed}"));
    assert_eq!(code, Some(0), "{page}");
    assert!(
        page.lines().any(|line| line.starts_with("gold ") && line.contains("by the operation read")),
        "{page}"
    );
    let (code, page) = says(&world, &format!("explain {refused}"));
    assert_eq!(code, Some(3), "{page}");
    assert!(page.contains("GET /b from 127."), "{page}");
    assert!(!page.contains(&key.text), "{page}");
    let (code, json) = says(&world, &format!("explain {refused} --json"));
    assert_eq!(code, Some(3));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["request"]["protocol"], "http/2");
    let (code, page) = says(&world, "explain 01a2020c-nobody");
    assert_eq!(code, Some(1));
    assert!(page.contains("no request 01a2020c-nobody is remembered"), "{page}");
}

#[tokio::test]
async fn an_explanation_says_that_the_registry_has_changed_since() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let answer = world.talk(None).await.get("/a", &key.line()).await;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").unwrap();
    let before = world.admin().recall(id).await.unwrap();
    assert_eq!((before.registry_now, before.grants[0].code.as_str()), (None, "allowed"));

    let registry = world.registry().replace("methods = [\"*\"]", "methods = [\"POST\"]");
    write(&world.path().join("registry/apps.toml"), &registry);
    let after = eventually("the registry changes", async || {
        let told = world.admin().recall(id).await.unwrap();
        told.registry_now.is_some().then_some(told)
    })
    .await;

    assert!(after.allowed, "what was decided stays decided");
    assert_eq!(after.registry, before.registry);
    assert_eq!(after.grants[0].code, "not-entitled");
    let (_, page) = says(&world, &format!("explain {id}"));
    assert!(page.contains("The registry has changed since"), "{page}");
}

#[tokio::test]
async fn who_can_names_every_app_with_its_right_and_what_it_must_present() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\naccepts = [[\"mtls\"], [\"api_key\"]]\n");
    scene.registry(
        "[[product]]\nid = \"gold\"\n\n[[product.operation]]\nid = \"read\"\nservice = \"orders\"\nmethods = [\"GET\"]\n\
         path = \"/orders/{id}\"\naccepts = [[\"mtls\", \"api_key\"]]\n\n",
    );
    scene.app_with_key("by-key");
    let gold = "[[app.grant]]\nproduct = \"gold\"\nexpires = \"2126-01-01T00:00:00Z\"\n\n";
    let both = scene.key().table();
    scene.app(
        "by-both",
        &format!("{both}[[app.certificate]]\nuri = \"spiffe://postern.test/both\"\n\n{gold}"),
    );
    let key = scene.key().table();
    scene.app("only-a-key", &format!("{key}{gold}"));
    let revoked = scene.key().table();
    scene.app("revoked", &format!("status = \"revoked\"\n{revoked}[[app.grant]]\nproduct = \"orders\"\n\n"));
    let expired = format!("{}expires = \"2026-01-01T00:00:00Z\"\n", scene.key().table());
    scene.app("expired", &format!("{expired}[[app.grant]]\nproduct = \"orders\"\n\n"));
    scene.write();
    let ask = |folder: &std::path::Path, words: &str| {
        let output = support::world::postern(folder).args(words.split_whitespace()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let question = "who-can GET orders /orders/7";
    let golden = "\
APP      DEVELOPER  BY THE GRANT OF  OPERATION  WITH          UNTIL
by-both  team       gold             read       mtls+api_key  2126-01-01T00:00:00Z
by-key   team       orders           /**        api_key       -
caller   team       orders           /**        mtls          -
";

    let by_files = ask(scene.path(), question);
    let world = scene.start().await;
    let live = ask(world.path(), question);

    let plain = |page: &str| {
        let lines = page.lines().map(|line| line.split(" (in ").next().unwrap().trim_end().to_owned());
        lines.map(|line| line + "\n").collect::<String>()
    };
    for (code, page) in [by_files, live] {
        assert_eq!(code, Some(0));
        assert_eq!(plain(&page), golden, "{page}");
    }
    let (code, json) = ask(world.path(), "who-can POST orders /orders/7 --json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let apps: Vec<_> = json["ways"].as_array().unwrap().iter().map(|way| way["app"].clone()).collect();
    assert_eq!((code, apps), (Some(0), vec!["by-key".into(), "caller".into()]));
    assert_eq!(ask(world.path(), "who-can GET nothing /").0, Some(1));
}

/// How many calls an app has made by what the agent says.
async fn calls(world: &World, app: &str) -> u64 {
    let wanted = UsageWanted { app: Some(app.parse().unwrap()), ..UsageWanted::default() };
    let rows = world.admin().usage(&wanted).await.unwrap();
    rows.iter().map(|row| row.count.calls).sum()
}

#[tokio::test]
async fn a_hundred_calls_are_a_hundred_after_a_stop_and_a_start() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[usage]\nrecords = \"records.jsonl\"\n");
    let key = scene.app_with_key("by-key");
    let mut world = scene.start().await;
    let (mut talk, h2) = (world.talk(None).await, world.h2(None).await);
    for number in 0..50 {
        assert_eq!(talk.get(&format!("/{number}"), &key.line()).await.status, 200);
        assert_eq!(h2.get(&format!("/{number}?x=1"), &[("x-api-key", &key.text)]).await.status, 200);
    }
    assert_eq!(talk.get("/a", "").await.status, 401);
    drop((talk, h2));

    world.signal("TERM");
    assert!(world.ended().await.success());
    let (code, page) = says(&world, "usage --app by-key");
    assert_eq!(code, Some(0));
    let row = page.lines().nth(1).unwrap_or_default();
    let row: Vec<&str> = row.split_whitespace().take(6).collect();
    assert_eq!(row, ["by-key", "orders", "/**", "2xx", "allowed", "100"], "{page}");
    world.restart().await;

    assert_eq!(calls(&world, "by-key").await, 100);
    let (_, csv) = says(&world, "usage --since 1d --csv");
    assert!(csv.starts_with("hour,app,product,operation,status,code,calls,received,sent\r\n"), "{csv}");
    assert!(csv.contains(",,,,4xx,missing-credential,1,0,0\r\n"), "{csv}");
    let (_, json) = says(&world, "usage --product orders --json");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.iter().map(|row| row["calls"].as_u64().unwrap()).sum::<u64>(), 100);
    assert_eq!(says(&world, "usage --app stranger").0, Some(3));
    let records = std::fs::read_to_string(world.path().join("records.jsonl")).unwrap();
    let records: Vec<serde_json::Value> =
        records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 101);
    assert!(
        records[..100]
            .iter()
            .any(|record| record["request_uri"] == "/7" && record["developer_app"] == "by-key")
    );
    assert_eq!(records.iter().filter(|record| record["organization"] == "postern.test").count(), 101);
}

#[tokio::test]
async fn a_kill_costs_no_more_than_what_was_counted_last() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let mut world = scene.start().await;
    let mut talk = world.talk(None).await;
    for _ in 0..20 {
        assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    }
    // Two seconds are promised; a busy machine may take longer.
    eventually("what was counted is written", async || {
        let found = postern::telemetry::usage_dir::read(&world.path().join("state"));
        (found.rows.iter().map(|row| row.count.calls).sum::<u64>() == 20).then_some(())
    })
    .await;

    world.restart().await;

    assert_eq!(calls(&world, "by-key").await, 20);
}

#[tokio::test]
async fn records_that_cannot_be_written_are_counted_and_cost_nobody_an_answer() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[usage]\nrecords = \"/dev/full\"\n");
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;

    for _ in 0..7 {
        assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    }

    eventually("all seven are counted as lost", async || {
        (world.metric("postern_usage_records_dropped_total").await == Some(7.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_path_and_no_key_adds_a_series() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/first", &key.line()).await.status, 200);
    assert_eq!(talk.get("/first", &format!("x-api-key: {}\r\n", invented())).await.status, 401);
    let series = async |total: f64| {
        eventually("the calls are exposed", async || {
            let name = "postern_usage_calls_total{app=\"by-key\",product=\"orders\",code=\"allowed\"}";
            (world.metric(name).await == Some(total)).then_some(())
        })
        .await;
        let (_, text) = world.health("/metrics").await.unwrap();
        assert!(!text.contains(&key.id) && !text.contains("/first"), "{text}");
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let before = series(1.0).await;

    for number in 0..200 {
        assert_eq!(talk.get(&format!("/x/{number}"), &key.line()).await.status, 200);
    }
    // Fewer than what would be noticed as a burst.
    for _ in 0..10 {
        assert_eq!(talk.get("/y", &format!("x-api-key: {}\r\n", invented())).await.status, 401);
    }

    assert_eq!(series(201.0).await, before);
}

const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiaWxsaW5nIn0.c2lnbmF0dXJlLW9mLXNvbWVib2R5";

/// What was noticed of this kind, once there is something.
async fn noticed(world: &World, kind: &str) -> DetectionStatus {
    eventually(kind, async || world.status().await.detections.into_iter().find(|one| one.kind == kind)).await
}

#[tokio::test]
async fn a_key_in_a_url_is_told_by_its_name_and_its_secret_stands_nowhere() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[usage]\nrecords = \"records.jsonl\"\n");
    // Of the libraries beneath, trace tells of every look at a socket, this log among them, which leaves no time for anything else.
    scene.amend_config("[log]\n", "[log]\nlevel = \"debug,postern=trace\"\n");
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    assert_eq!(world.talk(None).await.get("/a", &key.line()).await.status, 200);
    let escaped = key.text.replace('_', "%5F");

    let mut answers = Vec::new();
    for path in [
        format!("/a?apikey={}", key.text),
        format!("/a/{}", key.text),
        format!("/a?k={escaped}"),
        format!("/{JWT}"),
        format!("/a?token={JWT}"),
    ] {
        let fields = [("user-agent", key.text.as_str()), ("x-request-id", &key.text[..60])];
        answers.push(world.h2(None).await.get(&path, &fields).await);
        let lines = format!("user-agent: {JWT}\r\nx-request-id: {JWT}\r\n");
        answers.push(world.talk(None).await.get(&path, &lines).await);
    }
    answers.push(
        world
            .talk(None)
            .await
            .ask(&format!("GET /a HTTP/1.1\r\nhost: {}\r\nx y: {JWT}\r\n\r\n", key.text))
            .await,
    );

    assert_eq!((answers[0].status, &*answers[0].code()), (400, "key-in-url"));
    let secret = &key.text[21..];
    for answer in &answers {
        let told = format!("{:?} {}", answer.headers, answer.text());
        assert!(!told.contains(secret) && !told.contains(JWT), "{told}");
    }
    let leaked = noticed(&world, "key.leaked").await;
    assert_eq!(leaked.about, key.id);
    assert!(leaked.detail.contains("of by-key was seen in a url"), "{leaked:?}");
    let log = world.log_with("\"event\":\"key.leaked\"").await;
    let id = answers[0].header("x-request-id").unwrap();
    assert_eq!(world.access(id).await["credential.id"], key.id);
    let (_, list) = says(&world, "key list");
    assert!(list.lines().any(|line| line.starts_with(&key.id) && line.contains("LEAKED")), "{list}");
    let (_, why) = says(&world, &format!("explain {id}"));
    let (_, usage) = says(&world, "usage");
    let (_, metrics) = world.health("/metrics").await.unwrap();
    assert!(metrics.contains("postern_detections_total{kind=\"key.leaked\"}"), "{metrics}");
    let status = serde_json::to_string(&world.status().await).unwrap();
    let records = std::fs::read_to_string(world.path().join("records.jsonl")).unwrap();
    assert!(records.lines().count() >= 10, "{records}");
    for sink in [log, world.log(), list, why, usage, metrics, status, records] {
        for token in [secret, JWT] {
            assert!(!sink.contains(token), "{sink}");
        }
    }
}

#[tokio::test]
async fn a_key_of_the_right_form_that_nobody_has_is_no_leak() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;

    let answer = talk.get(&format!("/a?k={}", invented()), "").await;
    assert_eq!(answer.code(), "key-in-url");
    assert_eq!(talk.get(&format!("/a?k={}", key.text), "").await.code(), "key-in-url");

    noticed(&world, "key.leaked").await;
    let leaks = world.status().await.detections.into_iter().filter(|one| one.kind == "key.leaked");
    assert_eq!(leaks.map(|one| one.count).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn what_somebody_should_look_into_is_noticed_told_and_counted() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.registry("[[product]]\nid = \"few\"\nquota = { limit = 10, per = \"1d\" }\n\n[[product.operation]]\nservice = \"orders\"\nmethods = [\"GET\"]\npath = \"/few\"\n\n");
    let key = scene.key();
    let soon = format!("{}expires = \"{}\"\n", key.table(), SystemClock.now() + Duration::from_secs(86_400));
    scene.app("by-key", &format!("{soon}[[app.grant]]\nproduct = \"few\"\n\n"));
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    for _ in 0..8 {
        assert_eq!(talk.get("/few", &key.line()).await.status, 200);
    }
    for _ in 0..25 {
        assert_eq!(talk.get("/few", &format!("x-api-key: {}\r\n", invented())).await.status, 401);
    }

    let near = noticed(&world, "quota.80").await;
    assert!(near.detail.contains("by-key has used 8 of 10 of product:few"), "{near:?}");
    for _ in 0..2 {
        assert_eq!(talk.get("/few", &key.line()).await.status, 200);
    }
    assert!(noticed(&world, "quota.100").await.detail.contains("10 of 10"));
    let ending = noticed(&world, "key.expiring").await;
    assert!(ending.about.starts_with(&key.id), "{ending:?}");
    let burst = noticed(&world, "credentials.failed").await;
    assert!(burst.detail.starts_with("20 credentials from 127."), "{burst:?}");
    assert_eq!(world.metric("postern_detections_total{kind=\"credentials.failed\"}").await, Some(1.0));
    let (_, page) = says(&world, "status");
    assert!(page.contains("NOTICED") && page.contains("credentials.failed"), "{page}");
    assert!(world.log().contains("\"event\":\"quota.100\""));
}

/// A GET with a key, by somebody who comes from `address`.
async fn get_from(world: &World, address: &str, key: &Key) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let stream = socket.connect(world.address()).await.unwrap();
    let tls = support::caller::handshake(stream, &world.roots(), None, "http/1.1").await.unwrap();
    Talk::new(tls).get("/a", &key.line()).await
}

#[tokio::test]
async fn a_key_from_a_new_network_and_a_foreign_clock_are_noticed() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let signing = SigningKey::ed25519("signer-2026");
    let accepts = "accepts = [[\"signature\"]]\n";
    scene
        .app("by-signature", &format!("{accepts}{}[[app.grant]]\nproduct = \"orders\"\n\n", signing.table()));
    let world = scene.start().await;
    for address in ["127.0.0.1", "127.0.0.9", "127.0.0.1"] {
        assert_eq!(get_from(&world, address, &key).await.status, 200);
    }
    let on_time = sign::lines(&signing.sign("GET", "/a", &[]));
    assert_eq!(world.talk(None).await.get("/a", &on_time).await.status, 200);
    let silent = ["key.new-network", "clock.skew"];
    assert!(world.status().await.detections.iter().all(|one| !silent.contains(&&*one.kind)));

    assert_eq!(get_from(&world, "127.0.7.1", &key).await.status, 200);
    let old = SystemClock.now() - Duration::from_secs(3_600);
    let late = sign::lines(&signing.sign_at(old, None, "GET", "/a", &[]));
    assert_eq!(world.talk(None).await.get("/a", &late).await.code(), "clock-skew");

    let new = noticed(&world, "key.new-network").await;
    assert!(new.detail.contains("of by-key was used from 127.0.7.0/24 for the first time"), "{new:?}");
    assert!(new.about.starts_with(&key.id), "{new:?}");
    let skew = noticed(&world, "clock.skew").await;
    assert_eq!(skew.detail, "signatures from 127.0.0.0/24 are made by a clock that is not ours");
}

#[tokio::test]
async fn a_key_that_nobody_has_and_a_wrong_secret_are_refused_in_the_same_words() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let (key, wrong, other) = (scene.app_with_key("by-key"), scene.key(), scene.key());
    let table = wrong.table().replace(&wrong.hash, &other.hash);
    scene.app("wronged", &format!("{table}[[app.grant]]\nproduct = \"orders\"\n\n"));
    let world = scene.start().await;
    assert_eq!(world.talk(None).await.get("/a", &key.line()).await.status, 200);
    let unknown = invented();

    let mut told = Vec::new();
    for text in [&unknown, &wrong.text] {
        for answer in both(&world, None, &[("x-api-key", text)]).await {
            assert_eq!((answer.status, &*answer.code()), (401, "invalid-credential"));
            let id = answer.header("x-request-id").unwrap().to_owned();
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date" && name != "x-request-id");
            told.push((headers, answer.text().replace(&id, "ID")));
        }
    }

    assert_eq!((&told[0], &told[1]), (&told[2], &told[3]));
}

/// How much longer than the other one of two refusals may take, in percent of it.
const TOLERANCE: u128 = 20;

#[test]
fn a_key_that_nobody_has_costs_what_a_wrong_secret_costs() {
    let (own, unknown) = (invented(), invented());
    let id = ApiKey::id_of(own.as_bytes()).unwrap();
    let text = format!(
        "[[developer]]\nid = 'team'\n[[app]]\nid = 'caller'\ndeveloper = 'team'\n[[app.api_key]]\nid = '{id}'\n\
         hash = 'hmac-sha256:p1:{}'\n",
        "07".repeat(32)
    );
    let registry = parse(&[Source { path: "a.toml".into(), text }]).unwrap();
    assert!(registry.api_key(id).is_some());
    let peppers = Peppers::new([("p1".to_owned(), Secret::new(vec![7; 32]))]);
    let ask = |text: &str| {
        let headers = HeaderEvidence { api_key: Some(text.as_bytes()), ..HeaderEvidence::default() };
        let evidence = Evidence { headers, ..Evidence::default() };
        let begun = tokio::time::Instant::now();
        let answer = authenticate(&evidence, &registry, &peppers, SystemClock.now());
        assert_eq!(answer.err(), Some(Refusal::InvalidCredential));
        begun.elapsed().as_nanos()
    };

    // A machine that does something else in between does it to both; one round in which it did not is enough.
    let differs = |_: u32| {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..5_000 {
            times[0].push(ask(&unknown));
            times[1].push(ask(&own));
        }
        let [one, other] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        });
        one.abs_diff(other) * 100 > one.min(other) * TOLERANCE
    };
    assert!(!(0..10).all(differs), "the medians differ by more than {TOLERANCE} % each time");
}

#[tokio::test]
async fn no_core_image_is_written_unless_it_is_asked_for() {
    for (wanted, limit) in [(false, "0"), (true, "unlimited")] {
        let mut scene = Scene::guarding("127.0.0.1:9");
        scene.run_by("ulimit -c unlimited; exec \"$@\"");
        if wanted {
            scene.amend_config("state_dir", "core_dumps = true\nstate_dir");
        }
        let world = scene.start().await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(line.split_whitespace().nth(4), Some(limit), "{line}");
    }
}

/// A service that gives `text` away piece by piece, so that each leaves by itself; or whole, in an interim head.
async fn dribbling(text: &str) -> Service {
    let (head, tail) = text.split_at(text.len() - 1);
    let length = text.len();
    let pieces = [format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}"), tail.to_owned()];
    let interim = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: <{text}>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    );
    Service::answering(move |seen: &Seen| {
        if seen.path() == "/interim" {
            return vec![Act::Send(interim.as_bytes().to_vec())];
        }
        let [head, tail] = pieces.clone().map(String::into_bytes);
        vec![Act::Send(head), Act::Pause(Duration::from_millis(300)), Act::Send(tail)]
    })
    .await
}

#[tokio::test]
async fn not_one_character_of_a_secret_passes_that_is_to_be_cut() {
    let mut scene = Scene::guarding("{service}");
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nwatch_responses = \"block\"\n");
    let key = scene.app_with_key("by-key");
    let service = dribbling(&key.text).await;
    scene.amend_config("{service}", &service.address.to_string());
    let world = scene.start().await;
    let identity = world.identity("caller");

    for path in ["/body", "/interim"] {
        let mut talk = world.talk(Some(&identity)).await;
        talk.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        let told = String::from_utf8(talk.rest().await).unwrap();
        // What stands before it is its public name.
        assert!(!told.contains(&key.text[..22]), "{path}: {told}");
    }
    assert_eq!(noticed(&world, "key.leaked").await.about, key.id);
}

#[tokio::test]
async fn a_service_that_makes_up_keys_accuses_nobody() {
    let mut scene = Scene::guarding("{service}");
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nwatch_responses = \"report\"\n");
    let (key, other) = (scene.app_with_key("by-key"), scene.app_with_key("another"));
    // The name of a key that is on file, and a secret that is nobody's.
    let forged = well_formed(&key.id);
    let service = dribbling(&format!("{forged} {forged} {}", other.text)).await;
    scene.amend_config("{service}", &service.address.to_string());
    let world = scene.start().await;
    let identity = world.identity("caller");

    let answer = world.talk(Some(&identity)).await.get("/", "").await;

    assert!(answer.text().contains(&forged));
    assert_eq!(noticed(&world, "key.leaked").await.about, other.id);
    let leaks = world.status().await.detections.into_iter().filter(|one| one.kind == "key.leaked");
    assert_eq!(leaks.map(|one| one.about).collect::<Vec<_>>(), [other.id]);
}

/// A service that gives `key` away in a chunked body, with a border in the middle of it, or in a field of its head.
async fn careless(key: &Key) -> Service {
    let (one, two) = key.text.split_at(30);
    let body = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{{\"{one}\r\n{:x}\r\n{two}\"}}\r\n0\r\n\r\n",
        one.len() + 2,
        two.len() + 2
    );
    let head = format!("HTTP/1.1 200 OK\r\nx-debug: {}\r\ncontent-length: 2\r\n\r\nok", key.text);
    Service::answering(move |seen: &Seen| {
        let answer = if seen.path() == "/head" { &head } else { &body };
        vec![Act::Send(answer.as_bytes().to_vec())]
    })
    .await
}

#[tokio::test]
async fn a_service_that_gives_a_key_away_is_found_out_or_cut() {
    for (mode, passes) in [("off", true), ("report", true), ("block", false)] {
        let mut scene = Scene::guarding("{service}");
        scene.amend_config("id = \"orders\"\n", &format!("id = \"orders\"\nwatch_responses = \"{mode}\"\n"));
        let key = scene.app_with_key("by-key");
        let service = careless(&key).await;
        scene.amend_config("{service}", &service.address.to_string());
        let world = scene.start().await;
        let identity = world.identity("caller");

        for path in ["/body", "/head"] {
            let mut talk = world.talk(Some(&identity)).await;
            talk.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
            let told = String::from_utf8(talk.rest().await).unwrap();
            let whole = told.contains(&key.text[30..]);
            assert_eq!(whole, passes, "{mode} {path}: {told}");
            if passes {
                let answer = world.h2(Some(&identity)).await.get(path, &[]).await;
                let text = format!("{:?} {}", answer.headers, answer.text());
                assert!(text.contains(&key.text), "{mode} {path}: {text}");
            }
        }
        if mode == "off" {
            assert!(world.status().await.detections.iter().all(|one| one.kind != "key.leaked"));
        } else {
            let leaked = noticed(&world, "key.leaked").await;
            assert_eq!(leaked.about, key.id);
            assert!(leaked.detail.contains("of by-key was seen in a response"), "{leaked:?}");
        }
        assert!(!world.log().contains(&key.text[21..]));
    }
}
