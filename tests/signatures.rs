//! Callers that sign their requests: what a signature opens, what it does not, and that it opens it once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use postern::admin::{Operation, Origin, Question};
use postern::clock::{Clock as _, SystemClock};
use postern::credential::ContentDigest;
use support::sign::{Fields, lines, nonce, pairs};
use support::world::{GRANT, postern};
use support::{Act, Answer, Scene, Service, SigningKey, World, python_with, write};

/// An agent that guards `service`, and the app `signer` with this credential.
fn scene_with(service: &Service, accepts: &str, tables: &str) -> Scene {
    let mut scene = Scene::guarding(service.address);
    scene.app("signer", &format!("accepts = {accepts}\n{tables}{GRANT}"));
    scene
}

async fn guarded() -> (World, Service, SigningKey) {
    let (service, key) = (Service::answering(|_| vec![Act::Echo]).await, SigningKey::ed25519("signer-2026"));
    let world = scene_with(&service, "[[\"signature\"]]", &key.table()).start().await;
    (world, service, key)
}

async fn post(world: &World, signed: &Fields, framing: &str, body: &[u8]) -> Answer {
    let mut talk = world.talk(None).await;
    let head = format!("POST /a HTTP/1.1\r\nhost: localhost\r\n{}{framing}\r\n", lines(signed));
    talk.send([head.as_bytes(), body].concat()).await;
    talk.answer().await
}

async fn post_h2(world: &World, signed: &Fields, length: Option<usize>, body: &[u8]) -> Answer {
    let mut request = http::Request::post("https://localhost/a");
    for (name, value) in signed {
        request = request.header(name, value);
    }
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    let body = Bytes::copy_from_slice(body);
    world.h2(None).await.ask(request.body(()).unwrap(), Some(body), None).await.unwrap()
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

#[tokio::test]
async fn every_algorithm_opens_the_door_and_the_signature_stays_outside() {
    let service = Service::start().await;
    let (ed25519, p256) = (SigningKey::ed25519("ed"), SigningKey::p256("p256"));
    let mut scene = Scene::guarding(service.address);
    let (shared, secret) = scene.shared_secret();
    let keys = [ed25519, p256, shared];
    for key in &keys {
        scene
            .app(&format!("app-{}", key.id), &format!("accepts = [[\"signature\"]]\n{}{GRANT}", key.table()));
    }
    let world = scene.start().await;

    for key in &keys {
        let signed = key.sign("GET", "/a?b=c&b=d", &[("x-note", "hello")]);
        let first = world
            .talk(None)
            .await
            .get("/a?b=c&b=d", &format!("{}x-request-id: request-by-{}\r\n", lines(&signed), key.id))
            .await;
        assert_eq!(first.status, 200, "{}", first.text());
        let signed = key.sign("GET", "/a?b=c&b=d", &[]);
        assert_eq!(world.h2(None).await.get("/a?b=c&b=d", &pairs(&signed)).await.status, 200);
        for seen in service.seen().iter().rev().take(2) {
            assert_eq!(seen.values("x-postern-credential"), [format!("signature:{}", key.id)]);
            assert_eq!(seen.values("x-postern-app"), [format!("app-{}", key.id)]);
            assert!(seen.values("signature").is_empty() && seen.values("signature-input").is_empty());
        }
        let event = world.access(&format!("request-by-{}", key.id)).await;
        assert_eq!(event["credential.kind"], "signature");
        assert_eq!(event["credential.id"], key.id);
    }
    let secret = String::from_utf8(secret.text().expose_secret().to_vec()).unwrap();
    assert!(!world.log().contains(&secret));
}

#[tokio::test]
async fn unknown_and_wrong_look_the_same() {
    let (world, service, key) = guarded().await;
    let mut talk = world.talk(None).await;
    let line = "x-request-id: the-same-id\r\n";
    let wrong = SigningKey::ed25519(&key.id).sign("GET", "/a", &[]);
    let unknown = SigningKey::ed25519("nobody").sign("GET", "/a", &[]);

    let mut answers = Vec::new();
    for signed in [&wrong, &unknown] {
        let mut answer = talk.get("/a", &format!("{}{line}", lines(signed))).await;
        answer.headers.retain(|(name, _)| name != "date");
        assert_eq!(said(&answer), (401, "invalid-credential".to_owned()));
        answers.push((answer.headers, answer.body));
    }

    assert_eq!(answers.first(), answers.last());
    assert!(service.seen().is_empty());
    assert_eq!(talk.get("/a", &lines(&key.sign("GET", "/a", &[]))).await.status, 200);
}

#[tokio::test]
async fn who_has_not_signed_is_told_how_and_what_time_it_is() {
    let (world, _service, key) = guarded().await;
    let mut talk = world.talk(None).await;

    let bare = talk.get("/a", "").await;
    let old = SystemClock.now() - Duration::from_secs(331);
    let late = talk.get("/a", &lines(&key.sign_at(old, None, "GET", "/a", &[]))).await;
    let early = SystemClock.now() + Duration::from_secs(40);
    let early = talk.get("/a", &lines(&key.sign_at(early, None, "GET", "/a", &[]))).await;

    assert_eq!(said(&bare), (401, "missing-credential".to_owned()));
    for answer in [&late, &early] {
        assert_eq!(said(answer), (401, "clock-skew".to_owned()));
    }
    for answer in [bare, late, early] {
        let challenges: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.split(' ').next().unwrap())
            .collect();
        assert_eq!(challenges, ["ApiKey", "Signature"]);
        assert_eq!(
            answer.header("accept-signature"),
            Some("sig1=(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\");created")
        );
        assert!(answer.header("date").unwrap().ends_with(" GMT"));
    }
    assert_eq!(talk.get("/a", &lines(&key.sign("GET", "/a", &[]))).await.status, 200);
}

#[tokio::test]
async fn a_captured_request_is_worth_nothing_on_any_thread() {
    let (world, service, key) = guarded().await;
    let signed = key.sign("GET", "/a", &[]);

    let talks = (0..24).map(async |_| {
        let (mut talk, h2) = (world.talk(None).await, world.h2(None).await);
        [said(&talk.get("/a", &lines(&signed)).await), said(&h2.get("/a", &pairs(&signed)).await)]
    });
    let mut answers = Vec::new();
    for talk in talks.collect::<Vec<_>>() {
        answers.extend(talk.await);
    }

    let taken = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((taken, service.seen().len()), (1, 1));
    assert!(
        answers.iter().all(|(status, code)| *status == 200 || (*status, code.as_str()) == (401, "replayed"))
    );
}

#[tokio::test]
async fn many_at_once_with_one_nonce_let_one_through() {
    let (world, service, key) = guarded().await;
    for _ in 0..10 {
        let before = service.seen().len();
        let signed = lines(&key.sign("GET", "/a", &[]));
        let mut talks = Vec::new();
        for _ in 0..8 {
            talks.push(world.talk(None).await);
        }
        for talk in &mut talks {
            talk.send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{signed}\r\n")).await;
        }
        let mut taken = 0;
        for talk in &mut talks {
            taken += usize::from(talk.answer().await.status == 200);
        }
        assert_eq!((taken, service.seen().len() - before), (1, 1));
    }
}

#[tokio::test]
async fn an_unsafe_request_needs_a_nonce() {
    let (world, service, key) = guarded().await;
    let digest = ContentDigest::of(b"body");
    let fields = [("content-digest", digest.as_str())];
    let sign = |nonce: Option<&str>| key.sign_at(SystemClock.now(), nonce, "POST", "/a", &fields);

    let without = post(&world, &sign(None), "content-length: 4\r\n", b"body").await;
    let with = post(&world, &sign(Some(&nonce())), "content-length: 4\r\n", b"body").await;

    assert_eq!(said(&without), (401, "insufficient-coverage".to_owned()));
    assert_eq!((with.status, with.text().as_str()), (200, "body"));
    assert_eq!(service.seen().len(), 1);
}

/// Bodies in each manner of framing, small and large.
#[tokio::test]
async fn a_body_must_be_the_one_that_was_signed() {
    let (world, service, key) = guarded().await;
    for size in [1_usize, 100, 16 * 1024, 300_000] {
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut other = body.clone();
        *other.last_mut().unwrap() ^= 1;
        let digest = ContentDigest::of(&body);
        let sign = || key.sign("POST", "/a", &[("content-digest", digest.as_str())]);
        for (sent, expected) in [(&body, 200), (&other, 400)] {
            let chunked =
                [format!("{:x}\r\n", sent.len()).as_bytes(), sent.as_slice(), b"\r\n0\r\n\r\n"].concat();
            let answers = [
                post(&world, &sign(), &format!("content-length: {}\r\n", sent.len()), sent).await,
                post(&world, &sign(), "transfer-encoding: chunked\r\n", &chunked).await,
                post_h2(&world, &sign(), Some(sent.len()), sent).await,
                post_h2(&world, &sign(), None, sent).await,
            ];
            for (manner, answer) in answers.iter().enumerate() {
                assert_eq!(answer.status, expected, "{size} bytes, manner {manner}: {}", answer.code());
                if expected == 200 {
                    assert_eq!(answer.body, body);
                } else {
                    assert_eq!(answer.code(), "content-digest-mismatch");
                }
            }
        }
    }
    // The service has read four bodies of each size to their end, and never a wrong one.
    assert_eq!(service.seen().iter().filter(|seen| !seen.body.is_empty()).count(), 16);
}

#[tokio::test]
async fn a_body_without_a_signed_digest_is_refused_and_so_is_a_digest_without_its_body() {
    let (world, service, key) = guarded().await;
    let digest = ContentDigest::of(b"body");
    let empty = ContentDigest::of(b"");
    let with = |digest: &str| key.sign("POST", "/a", &[("content-digest", digest)]);
    let four = "content-length: 4\r\n";

    let undigested = post(&world, &key.sign("POST", "/a", &[]), four, b"body").await;
    let bodiless = post(&world, &with(&digest), "content-length: 0\r\n", b"").await;
    let unreadable = post(&world, &with("md5=:AAAA:"), four, b"body").await;
    let unsigned = {
        let mut signed = key.sign("POST", "/a", &[]);
        signed.push(("content-digest".to_owned(), digest.clone()));
        post(&world, &signed, four, b"body").await
    };

    assert_eq!(said(&undigested), (401, "insufficient-coverage".to_owned()));
    assert_eq!(said(&unsigned), (401, "insufficient-coverage".to_owned()));
    assert_eq!(said(&bodiless), (400, "content-digest-mismatch".to_owned()));
    assert_eq!(said(&unreadable), (400, "bad-content-digest".to_owned()));
    assert!(service.seen().is_empty());
    assert_eq!(post(&world, &with(&empty), "content-length: 0\r\n", b"").await.status, 200);
    assert_eq!(post(&world, &key.sign("POST", "/a", &[]), "", b"").await.status, 200);
}

#[tokio::test]
async fn a_change_on_the_way_is_noticed() {
    let (world, service, key) = guarded().await;
    let mut talk = world.talk(None).await;
    let ask = |method: &str, target: &str, host: &str, signed: &Fields| {
        format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{}\r\n", lines(signed))
    };
    for (method, target, host) in [
        ("DELETE", "/a?b=1", "localhost"),
        ("GET", "/a/?b=1", "localhost"),
        ("GET", "/a", "localhost"),
        ("GET", "/a?b=2", "localhost"),
        ("GET", "/%61?b=1", "localhost"),
        ("GET", "/a?b=1", "localhost:8443"),
        ("GET", "/a?b=1", "other"),
    ] {
        let answer = talk.ask(&ask(method, target, host, &key.sign("GET", "/a?b=1", &[]))).await;
        assert_eq!(said(&answer), (401, "invalid-credential".to_owned()), "{method} {target} {host}");
    }
    assert!(service.seen().is_empty());
    let spelt = ask("GET", "/a?b=1", "LocalHost:443", &key.sign("GET", "/a?b=1", &[]));
    assert_eq!(talk.ask(&spelt).await.status, 200);
}

/// No line that is folded gets as far as a signature base.
#[tokio::test]
async fn a_folded_line_is_refused_before_anything_is_read_of_it() {
    let (world, service, key) = guarded().await;
    let signed = lines(&key.sign("GET", "/a", &[])).replace(";created", "\r\n ;created");

    let answer = world.talk(None).await.get("/a", &signed).await;

    assert_eq!(said(&answer), (400, "bad-request".to_owned()));
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn all_that_is_presented_must_hold_and_belong_to_one_app() {
    let service = Service::start().await;
    let (own, other) = (SigningKey::ed25519("own"), SigningKey::ed25519("other"));
    let mut scene = Scene::guarding(service.address);
    let api_key = scene.app_with_key("other");
    scene.workload("both", "");
    scene.app(
        "both",
        &format!(
            "accepts = [[\"mtls\", \"signature\"]]\n[[app.certificate]]\nuri = \"spiffe://postern.test/both\"\n{}{GRANT}",
            own.table()
        ),
    );
    scene.app("signer", &format!("accepts = [[\"signature\"], [\"api_key\"]]\n{}{GRANT}", other.table()));
    let world = scene.start().await;
    let (identity, caller) = (world.identity("both"), world.identity("caller"));
    let guess = SigningKey::ed25519("own");
    let key_line = api_key.line();
    let cases = [
        (Some(&identity), lines(&own.sign("GET", "/a", &[])), 200, ""),
        (Some(&identity), String::new(), 403, "auth-method-not-allowed"),
        (None, lines(&own.sign("GET", "/a", &[])), 403, "auth-method-not-allowed"),
        (Some(&identity), lines(&guess.sign("GET", "/a", &[])), 401, "invalid-credential"),
        (Some(&identity), lines(&other.sign("GET", "/a", &[])), 403, "principal-mismatch"),
        (Some(&caller), lines(&own.sign("GET", "/a", &[])), 403, "principal-mismatch"),
        (None, lines(&other.sign("GET", "/a", &[])), 200, ""),
        (None, format!("{}{key_line}", lines(&other.sign("GET", "/a", &[]))), 403, "principal-mismatch"),
        (None, format!("{}{key_line}", lines(&guess.sign("GET", "/a", &[]))), 401, "invalid-credential"),
        (
            None,
            format!("{}x-api-key: nonsense\r\n", lines(&other.sign("GET", "/a", &[]))),
            401,
            "invalid-credential",
        ),
    ];

    for (number, (identity, fields, status, code)) in cases.into_iter().enumerate() {
        let answer = world.try_get(identity, &fields).await.unwrap();
        assert_eq!(said(&answer), (status, code.to_owned()), "case {number}");
    }
    assert_eq!(service.seen().len(), 2);
    let strongest = service.seen().first().unwrap().values("x-postern-credential").concat();
    assert!(strongest.starts_with("mtls:"), "{strongest}");
}

#[tokio::test]
async fn no_level_takes_a_signature_that_it_does_not_accept() {
    let service = Service::start().await;
    for (listener, endpoint, app, operation) in [
        ("accepts = [[\"mtls\"], [\"api_key\"]]", "", "", ""),
        ("", "accepts = [[\"api_key\"]]", "", ""),
        ("", "", "accepts = [[\"mtls\"]]\n", ""),
        ("", "", "", "accepts = [[\"mtls\", \"signature\"]]\n"),
        (
            "accepts = [[\"signature\"]]",
            "accepts = [[\"signature\"]]",
            "accepts = [[\"signature\"]]\n",
            "accepts = [[\"signature\"]]\n",
        ),
    ] {
        let key = SigningKey::ed25519("k");
        let mut scene = Scene::new();
        scene.listener("inbound", listener).service("orders", &service.address.to_string(), endpoint);
        scene.registry(&format!(
            "[[developer]]\nid = \"team\"\n[[product]]\nid = \"orders\"\n[[product.operation]]\nservice = \"orders\"\n\
             methods = [\"*\"]\npath = \"/**\"\n{operation}"
        ));
        scene.app("signer", &format!("{app}{}{GRANT}", key.table()));
        let world = scene.start().await;

        let answer = world.talk(None).await.get("/a", &lines(&key.sign("GET", "/a", &[]))).await;

        let everywhere = listener.contains("signature");
        let expected = if everywhere { (200, "") } else { (403, "auth-method-not-allowed") };
        assert_eq!(
            said(&answer),
            (expected.0, expected.1.to_owned()),
            "{listener} {endpoint} {app} {operation}"
        );
    }
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn rules_are_configured_and_change_while_the_agent_runs() {
    let (service, key) = (Service::start().await, SigningKey::ed25519("k"));
    let mut scene = scene_with(&service, "[[\"signature\"]]", &key.table());
    scene.config(
        "[signature]\nmax_age = \"10s\"\nskew = \"0s\"\nnonce = \"always\"\ncover = [\"X-Tenant\"]\n",
    );
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    let now = || SystemClock.now();
    let kept = key.sign("GET", "/a", &[]);

    for (signed, status, code) in [
        (kept.clone(), 200, ""),
        (key.sign_at(now(), None, "GET", "/a", &[]), 401, "insufficient-coverage"),
        (key.sign_at(now() - Duration::from_secs(12), Some("old"), "GET", "/a", &[]), 401, "clock-skew"),
        (key.sign("GET", "/a", &[("x-tenant", "7")]), 401, "insufficient-coverage"),
    ] {
        assert_eq!(said(&talk.get("/a", &lines(&signed)).await), (status, code.to_owned()));
    }

    let config = std::fs::read_to_string(world.path().join("postern.toml")).unwrap();
    let config = config
        .replace("nonce = \"always\"", "nonce = \"never\"")
        .replace("max_age = \"10s\"", "max_age = \"600s\"");
    write(&world.path().join("postern.toml"), &config);
    assert!(postern(world.path()).arg("check").output().unwrap().status.success());
    world.signal("HUP");
    support::eventually("the new rules are in force", async || {
        let answer = talk.get("/a", &lines(&key.sign_at(now(), None, "GET", "/a", &[]))).await;
        (answer.status == 200).then_some(())
    })
    .await;
    // A nonce that was used before the change has been used.
    assert_eq!(talk.get("/a", &lines(&kept)).await.code(), "replayed");
}

#[tokio::test]
async fn with_a_tag_other_signatures_are_none_of_our_business() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[signature]\ntag = \"postern\"\n");
    let api_key = scene.app_with_key("keyed");
    let world = scene.start().await;
    let foreign = SigningKey::ed25519("theirs").sign("GET", "/a", &[]);

    let answer = world.talk(None).await.get("/a", &format!("{}{}", lines(&foreign), api_key.line())).await;

    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(service.last().values("signature").len(), 1, "the service may have asked for it");
}

#[tokio::test]
async fn a_revoked_signature_key_is_refused_on_a_live_connection() {
    let (world, _service, key) = guarded().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &lines(&key.sign("GET", "/a", &[]))).await.status, 200);

    let revoked = postern(world.path()).args(["key", "revoke", &key.id]).output().unwrap();

    assert!(revoked.status.success(), "{}", text(&revoked));
    support::eventually("the key is refused", async || {
        let answer = talk.get("/a", &lines(&key.sign("GET", "/a", &[]))).await;
        (answer.code() == "credential-revoked").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_explain_says_of_a_signature_uses_nothing_up() {
    let (world, service, key) = guarded().await;
    let signed = key.sign("GET", "/a", &[]);
    let question = || Question {
        listener: None,
        operation: Operation::Http { method: "GET".into(), host: "localhost".into(), path: "/a".into() },
        certificate: None,
        origin: Origin::default(),
        api_key: None,
        fields: signed.clone(),
    };

    for _ in 0..2 {
        let explanation = world.admin().explain(&question()).await.unwrap();
        assert_eq!(explanation.code, "allowed");
        assert_eq!(explanation.credential.unwrap().as_str(), "signer-2026");
    }
    assert_eq!(world.talk(None).await.get("/a", &lines(&signed)).await.status, 200);
    assert_eq!(world.admin().explain(&question()).await.unwrap().code, "replayed");
    assert_eq!(service.seen().len(), 1);
    let mut injected = question();
    injected.fields.push(("x".into(), "y\r\nx-api-key: z".into()));
    assert!(world.admin().explain(&injected).await.is_err());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

/// What the command prints, which must succeed.
fn does(world: &World, words: &[&str]) -> String {
    let output = postern(world.path()).current_dir(world.path()).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// `Name: value` lines as fields.
fn printed(lines: &str) -> Fields {
    let pairs = lines.lines().map(|line| line.split_once(": ").unwrap());
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

#[tokio::test]
async fn keys_are_made_and_requests_signed_on_the_command_line() {
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let mut scene = Scene::guarding(service.address);
    scene.app("signer", &format!("accepts = [[\"signature\"]]\n{GRANT}"));
    let world = scene.start().await;
    does(&world, &["key", "create", "--app", "signer", "--signature", "hmac-sha256", "--out", "secret"]);
    write(&world.path().join("body.json"), "{\"hello\": \"world\"}");
    let made = run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]));
    let registered = made.filter(|made| made.status.success()).map(|made| {
        let path = world.path().join("own.pem");
        write(&path, &String::from_utf8(made.stdout).unwrap());
        let public = run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path)).unwrap();
        write(&world.path().join("own.pub"), &String::from_utf8(public.stdout).unwrap());
        let id = does(
            &world,
            &["key", "create", "--app", "signer", "--signature", "ed25519", "--public-key", "own.pub"],
        );
        id.trim().to_owned()
    });
    if registered.is_none() {
        println!("skipped: openssl is not installed, so only the shared secret is tried");
    }
    let listed = does(&world, &["key", "list", "--json"]);
    assert!(listed.contains("\"hmac-sha256\"") && !listed.contains("pstn_hs_"), "{listed}");

    let mut ways = vec![vec!["--key".to_owned(), "secret".to_owned()]];
    ways.extend(registered.map(|id| ["--key", "own.pem", "--keyid", &id].map(str::to_owned).to_vec()));
    for way in ways {
        let mut words =
            vec!["sign", "-X", "POST", "-H", "Content-Type: application/json", "--body", "body.json"];
        words.extend(["--cover", "content-type", "https://localhost/a"]);
        words.extend(way.iter().map(String::as_str));
        // The agent takes a new key over within a second.
        let answer = support::eventually("the request is let in", async || {
            let mut signed = printed(&does(&world, &words));
            assert_eq!(
                signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                ["content-digest", "signature-input", "signature"]
            );
            signed.push(("content-type".to_owned(), "application/json".to_owned()));
            let answer = post(&world, &signed, "content-length: 18\r\n", b"{\"hello\": \"world\"}").await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        assert_eq!(answer.text(), "{\"hello\": \"world\"}");
    }
}

#[tokio::test]
async fn the_command_line_shows_where_two_sides_part() {
    let (world, _service, _key) = guarded().await;
    does(&world, &["key", "create", "--app", "signer", "--signature", "hmac-sha256", "--out", "secret"]);
    let input = "x=(\"@method\" \"@authority\" \"@path\");created=1618884473;keyid=\"k\"";
    let url = "https://LOCALHOST:443/a?b";
    let common = ["sign", "--explain", "--signature-input", input, url];

    let ours = does(&world, &common);
    assert_eq!(
        ours,
        "\"@method\": GET\n\"@authority\": localhost\n\"@path\": /a\n\
         \"@signature-params\": (\"@method\" \"@authority\" \"@path\");created=1618884473;keyid=\"k\"\n"
    );
    write(&world.path().join("theirs"), &ours);
    let same = does(&world, &[&common[..], &["--base", "theirs"]].concat());
    assert!(same.contains("They are the same"), "{same}");
    write(&world.path().join("theirs"), &ours.replace("localhost", "LOCALHOST:443"));
    let command = [&common[..], &["--base", "theirs"]].concat();
    let differs = postern(world.path()).current_dir(world.path()).args(command).output().unwrap();
    assert_eq!(differs.status.code(), Some(3), "{}", text(&differs));
    assert!(
        text(&differs).contains(
            "  \"@authority\": localhost\n+ \"@authority\": LOCALHOST:443\n                ^ here they begin to differ\n"
        ),
        "{}",
        text(&differs)
    );
    let explained =
        does(&world, &["sign", "--key", "secret", "--explain", "--no-nonce", "https://localhost/a?b"]);
    assert!(explained.contains(
        "\"@query\": ?b\n\"@signature-params\": (\"@method\" \"@authority\" \"@path\" \"@query\");created="
    ));
}

/// A Python that has http-message-signatures, made on first use.
fn python_with_signer() -> Result<PathBuf, String> {
    python_with(
        "http-message-signatures",
        "http_message_signatures, cryptography",
        &["http-message-signatures>=3,<4"],
    )
}

/// Signatures that http-message-signatures has made are taken here, and those that are made here are taken there.
#[tokio::test]
async fn both_sides_understand_http_message_signatures() {
    let python = match python_with_signer() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let mut scene = Scene::guarding(service.address);
    let (shared, secret) = scene.shared_secret();
    scene.app("signer", &format!("accepts = [[\"signature\"]]\n{}{GRANT}", shared.table()));
    let world = scene.start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signatures.py");
    let file = world.path().join("secret");
    write(&file, std::str::from_utf8(secret.text().expose_secret()).unwrap());
    let ed25519 = world.path().join("ed25519");
    let make = run(Command::new(&python).arg(&script).args(["keygen", "ed25519"]).arg(&ed25519)).unwrap();
    assert!(make.status.success(), "{}", text(&make));
    let p256 = world.path().join("p256");
    let make =
        run(Command::new(&python).arg(&script).args(["keygen", "ecdsa-p256-sha256"]).arg(&p256)).unwrap();
    assert!(make.status.success(), "{}", text(&make));
    let register = |algorithm: &str, file: &Path| {
        let public = file.with_extension("pub");
        let public = public.to_str().unwrap();
        does(&world, &["key", "create", "--app", "signer", "--signature", algorithm, "--public-key", public])
            .trim()
            .to_owned()
    };
    let keys = [
        ("hmac-sha256", file.clone(), shared.id.clone()),
        ("ed25519", ed25519.clone(), register("ed25519", &ed25519)),
        ("ecdsa-p256-sha256", p256.clone(), register("ecdsa-p256-sha256", &p256)),
    ];

    for (algorithm, file, id) in &keys {
        let sign = || {
            let output = run(Command::new(&python)
                .arg(&script)
                .args(["sign", algorithm])
                .arg(file)
                .args([id.as_str(), "body"]));
            let output = output.unwrap();
            assert!(output.status.success(), "{}", text(&output));
            printed(&String::from_utf8(output.stdout).unwrap())
        };
        let answer = support::eventually("their signature is taken", async || {
            let answer = post(&world, &sign(), "content-length: 4\r\n", b"body").await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        assert_eq!(answer.text(), "body");
        let bent = post(&world, &sign(), "content-length: 4\r\n", b"bode").await;
        assert_eq!(said(&bent), (400, "content-digest-mismatch".to_owned()));

        write(&world.path().join("body"), "body");
        let key = file.to_str().unwrap();
        let mut words =
            vec!["sign", "--key", key, "-X", "POST", "--body", "body", "https://localhost/a?b=%20c"];
        if *algorithm != "hmac-sha256" {
            words.extend(["--keyid", id]);
        }
        let ours = does(&world, &words);
        let checked = run(Command::new(&python)
            .arg(&script)
            .args(["verify", algorithm])
            .arg(file)
            .args(["body", &ours]));
        let checked = checked.unwrap();
        assert!(checked.status.success(), "{algorithm}: {}", text(&checked));
    }
}

#[tokio::test]
async fn whoever_guesses_signatures_is_made_to_wait() {
    let (service, key) = (Service::start().await, SigningKey::ed25519("k"));
    let mut scene = scene_with(&service, "[[\"signature\"]]", &key.table());
    scene.config("[limits]\nfailed_keys = \"1/h\"\nfailed_keys_burst = 5\n");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &lines(&key.sign("GET", "/a", &[]))).await.status, 200);

    let guess = SigningKey::ed25519("k");
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(talk.get("/a", &lines(&guess.sign("GET", "/a", &[]))).await.code());
    }

    assert_eq!(codes.first().unwrap(), "invalid-credential");
    assert_eq!(codes.last().unwrap(), "rate-limited");
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn where_no_more_nonces_can_be_kept_only_those_without_get_in() {
    let (service, key) = (Service::start().await, SigningKey::ed25519("k"));
    let mut scene = scene_with(&service, "[[\"signature\"]]", &key.table());
    scene.config("[signature]\nnonces = 1000\n");
    let world = scene.start().await;
    let h2 = world.h2(None).await;
    let ask = async || h2.get("/a", &pairs(&key.sign("GET", "/a", &[]))).await;
    assert_eq!(ask().await.status, 200);

    let full = support::eventually("the memory is full", async || {
        let answer = ask().await;
        (answer.status != 200).then_some(answer)
    })
    .await;

    assert_eq!(said(&full), (503, "replay-memory-full".to_owned()));
    assert!(full.header("retry-after").is_some());
    let without = key.sign_at(SystemClock.now(), None, "GET", "/a", &[]);
    assert_eq!(h2.get("/a", &pairs(&without)).await.status, 200);
}
