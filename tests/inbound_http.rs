//! Guarded HTTP: who gets in, what the service is told, and that every body arrives whole, over HTTP/1.1 and HTTP/2.

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use support::world::Key;
use support::{Act, Answer, Identity, Scene, Seen, Service, World, eventually, ok, soon};

/// An agent in front of a service that answers 200, and a key that is good there.
async fn guarded() -> (World, Service, Key) {
    guarding(|_| ok()).await
}

/// An agent in front of a service that answers as `script` says; a silence of a second is too long.
async fn guarding(script: impl Fn(&Seen) -> Vec<Act> + Clone + Send + 'static) -> (World, Service, Key) {
    let service = Service::answering(script).await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[limits]\nstall = \"1s\"\nhead = \"1s\"\n");
    let key = scene.app_with_key("by-key");
    (scene.start().await, service, key)
}

fn send(answer: &str) -> Act {
    Act::Send(answer.as_bytes().to_vec())
}

/// The same GET by HTTP/1.1 and by HTTP/2.
async fn both(world: &World, identity: Option<&Identity>, fields: &[(&str, &str)]) -> [Answer; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let one = world.talk(identity).await.get("/a", &lines).await;
    let two = world.h2(identity).await.get("/a", fields).await;
    [one, two]
}

/// What is presented, by certificate and by fields, and the status and code that come of it.
type Case<'a> = (&'a str, Option<&'a Identity>, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn who_may_gets_in_and_who_may_not_is_told_why() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let refused = scene.key();
    scene.app("by-certificate", &format!("accepts = [[\"mtls\"]]\n{}", refused.table()));
    scene.registry(support::world::GRANT);
    let world = scene.start().await;
    let [caller, stranger, nobody] = ["caller", "stranger", "nobody"].map(|name| world.identity(name));
    let good_key = [("x-api-key", key.text.as_str())];
    let certificate_only = [("x-api-key", refused.text.as_str())];

    let cases: [Case<'_>; 7] = [
        ("a certificate with a grant", Some(&caller), &[], 200, ""),
        ("a key without a certificate", None, &good_key, 200, ""),
        ("nothing", None, &[], 401, "missing-credential"),
        ("a certificate without a grant", Some(&stranger), &[], 403, "not-entitled"),
        (
            "a key of an app that accepts only certificates",
            None,
            &certificate_only,
            403,
            "auth-method-not-allowed",
        ),
        ("a certificate of no app, beside a good key", Some(&nobody), &good_key, 403, "unmapped-certificate"),
        ("a certificate and a key of two apps", Some(&caller), &good_key, 403, "principal-mismatch"),
    ];
    for (what, identity, fields, status, code) in cases {
        for answer in both(&world, identity, fields).await {
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
        }
    }
    assert_eq!(service.seen().len(), 4, "refused requests must not reach the service");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_ca_ends_the_handshake_also_beside_a_good_key() {
    let (world, service, key) = guarded().await;
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);
    let outsider = Identity::of_another_ca("spiffe://postern.test/caller");
    let expired = Identity::expired("spiffe://postern.test/caller", &world.issuing_folder().await);

    for (identity, reason) in [(&outsider, "bad-certificate"), (&expired, "bad-certificate")] {
        assert!(world.try_get(Some(identity), "").await.is_err());
        assert!(world.try_get(Some(identity), &key.line()).await.is_err());
        world.log_with(reason).await;
    }

    assert_eq!(service.seen().len(), 1);
    // The caller hears of it a moment before it is counted.
    eventually("all four are counted", async || {
        let failed = world.metric("postern_handshakes_total{code=\"bad-certificate\"}").await;
        (failed == Some(4.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_service_is_told_who_calls() {
    let (world, service, key) = guarded().await;
    let caller = world.identity("caller");

    for _ in both(&world, Some(&caller), &[]).await {}
    for seen in service.seen() {
        assert_eq!(seen.values("x-postern-app"), ["caller"]);
        assert_eq!(seen.values("x-postern-developer"), ["team"]);
        assert_eq!(seen.values("x-postern-product"), ["orders"]);
        assert_eq!(seen.values("x-postern-credential"), ["mtls:caller-svid"]);
        assert_eq!(seen.values("x-postern-scopes"), ["orders:read"]);
        assert_eq!(seen.values("x-postern-spiffe-id"), ["spiffe://postern.test/caller"]);
        assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
        let forwarded = seen.values("x-forwarded-client-cert").concat();
        assert!(forwarded.contains("URI=\"spiffe://postern.test/caller\""), "{forwarded}");
    }
    world.talk(None).await.get("/a", &key.line()).await;
    let seen = service.last();
    assert_eq!(seen.values("x-postern-credential"), [format!("api_key:{}", key.id)]);
    assert!(seen.values("x-postern-spiffe-id").is_empty());
    assert!(seen.values("x-forwarded-client-cert").is_empty());
}

#[tokio::test]
async fn whoami_shows_what_a_service_sees() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let caller = world.identity("caller");

    for answer in both(&world, Some(&caller), &[("x-postern-app", "admin")]).await {
        let shown = answer.json();
        assert_eq!(shown["app"], "caller");
        assert_eq!(shown["product"], "orders");
        assert_eq!(shown["spiffe_id"], "spiffe://postern.test/caller");
    }
}

/// Names under which a caller could try to speak for the agent.
const FORGED: &[&str] = &[
    "X-Forwarded-Client-Cert",
    "x_forwarded_client_cert",
    "X.Forwarded.Client.Cert",
    "Client-Cert",
    "client_cert",
    "Client-Cert-Chain",
    "Forwarded",
    "X-Forwarded-For",
    "X_Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Real-IP",
    "X-SSL-Client-DN",
    "X_SSL_Client_DN",
    "SSL-Client-Verify",
    "X-Postern-App",
    "x-postern_app",
    "X.POSTERN.APP",
    "X-Postern-Product",
    "X-Postern-Something-New-And-Longer-Than-Any-Other",
    "x_postern_something_new_and_longer_than_any_other",
];

#[tokio::test]
async fn no_spelling_of_an_identity_field_reaches_the_service() {
    let (world, service, _) = guarded().await;
    let caller = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&caller)).await, world.h2(Some(&caller)).await);

    for name in FORGED {
        let twice = format!("{name}: forged\r\n{name}: forged\r\nX-Kept: kept\r\n");
        assert_eq!(talk.get("/a", &twice).await.status, 200, "{name}");
        let name = name.to_ascii_lowercase();
        let fields = [(name.as_str(), "forged"), (name.as_str(), "forged"), ("x-kept", "kept")];
        assert_eq!(h2.get("/a", &fields).await.status, 200, "{name}");
    }

    for seen in service.seen() {
        assert!(!seen.head.contains("forged"), "{}", seen.head);
        assert_eq!(seen.values("x-kept"), ["kept"]);
        assert_eq!(seen.values("x-postern-app"), ["caller"]);
        assert_eq!(seen.values("x-forwarded-client-cert").len(), 1);
    }
}

#[tokio::test]
async fn identity_fields_cannot_be_nominated_away() {
    let (world, service, _) = guarded().await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;
    assert_eq!(talk.get("/a", "Connection: X-Hop\r\nX-Hop: 1\r\n").await.status, 200);
    assert!(service.last().values("x-hop").is_empty());

    let nominated = FORGED.iter().copied().chain(["host", "Authorization", "Content-Length", "x-request-id"]);
    for name in nominated {
        let mut talk = world.talk(Some(&caller)).await;
        let answer = talk.get("/a", &format!("Connection: keep-alive, {name}\r\n")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad-request"), "{name}");
        assert!(talk.is_closed().await, "{name}");
    }
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn trailers_end_at_the_agent() {
    let (world, service, _) = guarding(|_| vec![Act::Echo]).await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;
    let trailers = "POST /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
                    5\r\nhello\r\n0\r\nX-Postern-App: admin\r\nX-Sum: 1\r\n\r\n";

    assert_eq!(talk.ask(trailers).await.text(), "hello");
    assert_eq!(talk.ask(trailers).await.text(), "hello");
    let request = http::Request::post("https://localhost/a").body(()).unwrap();
    let mut map = http::HeaderMap::new();
    map.insert("x-postern-app", "admin".parse().unwrap());
    let h2 = world.h2(Some(&caller)).await;
    let answer = h2.ask(request, Some(Bytes::from_static(b"hello")), Some(map)).await.unwrap();

    assert_eq!(answer.text(), "hello");
    assert!(service.seen().iter().all(|seen| seen.body == b"hello" && !seen.head.contains("admin")));
}

#[tokio::test]
async fn a_key_stays_with_the_agent() {
    let (world, service, key) = guarded().await;
    let fields = [("x-api-key", key.text.as_str()), ("x-copy", &key.text), ("authorization", &key.text)];

    for answer in both(&world, None, &fields).await {
        assert_eq!(answer.status, 200);
        let event = world.access(answer.header("x-request-id").unwrap()).await;
        assert_eq!(event["credential.id"], key.id);
    }

    let secret = &key.text[key.text.len() - 20..];
    assert!(service.seen().iter().all(|seen| !seen.head.contains(secret)), "{:?}", service.seen());
    assert!(!world.log().contains(secret), "{}", world.log());
}

#[tokio::test]
async fn a_key_in_the_url_is_refused_and_not_repeated() {
    let (world, service, key) = guarded().await;
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);

    for path in [format!("/a?apikey={}", key.text), format!("/{}/a", key.text)] {
        let one = world.talk(None).await.get(&path, &key.line()).await;
        let two = world.h2(None).await.get(&path, &[("x-api-key", &key.text)]).await;
        for answer in [one, two] {
            assert_eq!((answer.status, answer.code().as_str()), (400, "key-in-url"));
            assert!(!answer.text().contains(&key.text));
            let event = world.access(answer.header("x-request-id").unwrap()).await;
            assert_eq!(event["decision"], "key-in-url");
        }
    }

    assert!(!world.log().contains(&key.text[key.text.len() - 20..]), "{}", world.log());
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn two_keys_are_one_too_many() {
    let (world, service, key) = guarded().await;
    let fields = [("x-api-key", key.text.as_str()), ("x-api-key", key.text.as_str())];

    for answer in both(&world, None, &fields).await {
        assert_eq!((answer.status, answer.code().as_str()), (400, "duplicate-credential"));
    }
    assert!(service.seen().is_empty());
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_refusal_is_a_problem_document_with_a_challenge() {
    let (world, _service, key) = guarded().await;
    let (start, last) = key.text.split_at(key.text.len() - 1);
    let wrong = format!("{start}{}", if last == "x" { "y" } else { "x" });
    let cases = [
        (vec![], "missing-credential", "ApiKey realm=\"postern\""),
        (
            vec![("x-api-key", wrong.as_str())],
            "invalid-credential",
            "ApiKey realm=\"postern\", error=\"invalid_token\"",
        ),
    ];

    for (fields, code, challenge) in cases {
        for answer in both(&world, None, &fields).await {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("www-authenticate"), Some(challenge));
            let document = answer.json();
            assert_eq!(document["type"], format!("https://postern.invalid/problems/{code}"));
            assert_eq!(document["status"], 401);
            assert_eq!(document["code"], code);
            assert_eq!(document["request_id"], answer.header("x-request-id").unwrap());
        }
    }
}

#[tokio::test]
async fn a_request_has_one_id_everywhere() {
    let (world, service, _) = guarded().await;
    let caller = world.identity("caller");

    for answer in both(&world, Some(&caller), &[("x-request-id", "order-0815.a_b")]).await {
        assert_eq!(answer.header("x-request-id"), Some("order-0815.a_b"));
        assert_eq!(service.last().values("x-request-id"), ["order-0815.a_b"]);
    }
    let event = world.access("order-0815.a_b").await;
    assert_eq!(event["decision"], "allowed");
    assert_eq!(event["app.id"], "caller");
    assert_eq!(event["src.spiffe_id"], "spiffe://postern.test/caller");
    assert_eq!(event["path"], "/a");
    let answers = both(&world, Some(&caller), &[("x-request-id", "two words")]).await;
    for (answer, seen) in answers.iter().zip(&service.seen()[2..]) {
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(seen.values("x-request-id"), [id]);
    }
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let (world, service, key) = guarded().await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;

    for _ in 0..3 {
        assert_eq!(talk.get("/a", "").await.status, 200);
    }
    talk.send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\nGET /b HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!([talk.answer().await.status, talk.answer().await.status], [200, 200]);
    assert_eq!(service.last().path(), "/b");
    assert!(service.seen().iter().all(|seen| seen.connection == 0), "{:?}", service.seen());

    let mut old = world.talk(None).await;
    let answer = old.ask(&format!("GET /a HTTP/1.0\r\nhost: localhost\r\n{}\r\n", key.line())).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_framed() {
    let (world, service, _) = guarding(|_| vec![Act::Echo]).await;
    let caller = world.identity("caller");
    let large: String = (0..1024 * 1024 / 8).map(|number| format!("{number:08}")).collect();
    let mut talk = world.talk(Some(&caller)).await;

    for body in ["", "hello", &large] {
        talk.send(format!("POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len()))
            .await;
        talk.send(body).await;
        assert!(talk.answer().await.text() == body, "{} bytes with a length", body.len());
        talk.send("POST /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for part in body.as_bytes().chunks(50_000) {
            talk.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).await;
        }
        talk.send("0\r\n\r\n").await;
        assert!(talk.answer().await.text() == body, "{} bytes in chunks", body.len());
        let request = http::Request::post("https://localhost/a").body(()).unwrap();
        let h2 = world.h2(Some(&caller)).await;
        let answer = h2.ask(request, Some(Bytes::from(body.to_owned())), None).await.unwrap();
        assert!(answer.text() == body, "{} bytes over HTTP/2", body.len());
        let event = world.access(answer.header("x-request-id").unwrap()).await;
        assert_eq!((&event["received"], &event["sent"]), (&body.len().into(), &body.len().into()));
    }
    assert_eq!(service.seen().len(), 9);
}

#[tokio::test]
async fn answers_arrive_whole_however_they_are_framed() {
    let script = |seen: &Seen| {
        let answer = match seen.path() {
            "/chunked" => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nx: y\r\n\r\n"
            }
            "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/same" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\netag: \"1\"\r\n\r\n",
            "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n",
            _ => "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello until the end",
        };
        let mut acts = vec![send(answer)];
        acts.extend((seen.path() == "/close").then_some(Act::Close));
        acts
    };
    let (world, service, _) = guarding(script).await;
    let caller = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&caller)).await, world.h2(Some(&caller)).await);

    for _ in 0..2 {
        assert_eq!(talk.get("/chunked", "").await.text(), "hello");
        assert_eq!(h2.get("/chunked", &[]).await.text(), "hello");
        let none = talk.get("/none", "").await;
        assert_eq!((none.status, none.header("content-length")), (204, None));
        assert_eq!(h2.get("/none", &[]).await.status, 204);
        let same = talk.get("/same", "").await;
        assert_eq!((same.status, same.header("etag")), (304, Some("\"1\"")));
        assert_eq!(h2.get("/same", &[]).await.status, 304);
        talk.send("HEAD /head HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let head = talk.answer_to_head().await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("99")));
        let request = http::Request::head("https://localhost/head").body(()).unwrap();
        let head = h2.ask(request, None, None).await.unwrap();
        assert_eq!((head.status, head.header("content-length")), (200, Some("99")));
        let old = talk.get("/close", "").await;
        assert_eq!(
            (old.header("transfer-encoding"), old.text().as_str()),
            (Some("chunked"), "hello until the end")
        );
        assert_eq!(h2.get("/close", &[]).await.text(), "hello until the end");
    }
    assert_eq!(service.seen().len(), 20);
}

#[tokio::test]
async fn a_service_may_ask_for_the_body_first() {
    let (world, _service, key) = guarding(|_| vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Act::Echo]).await;
    let request = "POST /a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n";
    let mut talk = world.talk(None).await;

    talk.send(format!("{request}{}\r\n", key.line())).await;
    assert_eq!(talk.answer().await.status, 100);
    talk.send("hello").await;
    assert_eq!(talk.answer().await.text(), "hello");
    assert_eq!(talk.get("/a", &key.line()).await.status, 100);
    assert_eq!(talk.answer().await.status, 200);

    let mut refused = world.talk(None).await;
    assert_eq!(refused.ask(&format!("{request}\r\n")).await.status, 401);
    assert!(refused.is_closed().await);
}

#[tokio::test]
async fn an_early_no_is_heard_although_the_body_is_still_on_its_way() {
    let script =
        |_: &Seen| vec![send("HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge"), Act::Close];
    let (world, _service, key) = guarding(script).await;
    let body = vec![b'x'; 1024 * 1024];
    for (line, status) in [(key.line(), 413), (String::new(), 401)] {
        let mut talk = world.talk(None).await;
        talk.send(format!("POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n{line}\r\n"))
            .await;
        // The agent may hang up before it has read all of it.
        drop(soon("the body is taken", talk.try_send(&body)).await);
        assert_eq!(talk.answer().await.status, status);

        let mut request = http::Request::post("https://localhost/a");
        if status == 413 {
            request = request.header("x-api-key", &key.text);
        }
        let h2 = world.h2(None).await;
        let answer = h2.ask(request.body(()).unwrap(), Some(body.clone().into()), None).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_service_that_fails_is_told_apart_from_a_caller_that_may_not() {
    let script = |seen: &Seen| match seen.path() {
        "/hang-up" => vec![Act::Close],
        "/nonsense" => vec![send("what?\r\n\r\n")],
        "/two-lengths" => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")],
        "/slow" => vec![Act::Pause(Duration::from_secs(4)), Act::Close],
        _ => ok(),
    };
    let (world, _service, _) = guarding(script).await;
    let caller = world.identity("caller");
    assert_eq!(world.talk(Some(&caller)).await.get("/a", "").await.status, 200);
    let cases = [
        ("/hang-up", 502, "bad-gateway"),
        ("/nonsense", 502, "bad-gateway"),
        ("/two-lengths", 502, "bad-gateway"),
        ("/slow", 504, "upstream-timeout"),
    ];

    for (path, status, code) in cases {
        let one = world.talk(Some(&caller)).await.get(path, "").await;
        let two = world.h2(Some(&caller)).await.get(path, &[]).await;
        for answer in [one, two] {
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
            let event = world.access(answer.header("x-request-id").unwrap()).await;
            assert_eq!((&event["status"], &event["decision"]), (&status.into(), &code.into()), "{path}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_broken_off_and_nothing_is_made_up() {
    let script = |seen: &Seen| match seen.path() {
        "/stall" => vec![
            send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun"),
            Act::Pause(Duration::from_secs(4)),
        ],
        _ => ok(),
    };
    let (world, _service, _) = guarding(script).await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;
    assert_eq!(talk.get("/a", "").await.status, 200);

    talk.send("GET /stall HTTP/1.1\r\nhost: localhost\r\nx-request-id: stalled-request\r\n\r\n").await;
    let rest = String::from_utf8(talk.rest().await).unwrap();
    assert!(rest.ends_with("\r\n\r\nbegun"), "{rest}");
    let request = http::Request::get("https://localhost/stall").body(()).unwrap();
    assert!(world.h2(Some(&caller)).await.ask(request, None, None).await.is_err());

    assert_eq!(world.access("stalled-request").await["decision"], "broken-off");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_502_until_it_is() {
    let service = Service::start().await;
    let address = service.address;
    drop(service);
    let world = Scene::guarding(address).start().await;
    let caller = world.identity("caller");

    for answer in both(&world, Some(&caller), &[]).await {
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream-unavailable"));
    }
    assert_eq!(world.metric("postern_upstream_failures_total").await, Some(2.0));
}

#[tokio::test]
async fn a_service_may_listen_on_a_unix_socket() {
    let scene = Scene::guarding("unix:app.sock");
    let service = Service::on_unix(&support::service::socket_path(scene.path()));
    let world = scene.start().await;
    let caller = world.identity("caller");

    for answer in both(&world, Some(&caller), &[]).await {
        assert_eq!(answer.text(), "ok\n");
    }
    assert_eq!(service.seen().len(), 2);
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for() {
    let (world, service, key) = guarded().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);

    talk.send("GET /a HTTP/1.1\r\nhost: local").await;
    let answer = talk.answer().await;

    assert_eq!((answer.status, answer.code().as_str()), (408, "request-timeout"));
    assert!(talk.is_closed().await);
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_takes_no_new_ones() {
    let script = |seen: &Seen| match seen.path() {
        "/slow" => vec![
            Act::Pause(Duration::from_millis(700)),
            send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"),
        ],
        _ => ok(),
    };
    let (mut world, service, _) = guarding(script).await;
    let caller = world.identity("caller");
    let mut idle = world.talk(Some(&caller)).await;
    assert_eq!(idle.get("/a", "").await.status, 200);
    let mut talk = world.talk(Some(&caller)).await;
    talk.send("GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let h2 = world.h2(Some(&caller)).await;
    let over_h2 = tokio::spawn(async move { h2.get("/slow", &[]).await });
    eventually("both requests are under way", async || (service.seen().len() == 3).then_some(())).await;

    world.signal("TERM");
    eventually("the door is closed", async || world.dial(None, "").await.is_err().then_some(())).await;

    assert!(idle.is_closed().await);
    let answer = talk.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", Some("close")));
    assert_eq!(over_h2.await.unwrap().text(), "done");
    assert!(world.ended().await.success());
    assert!(world.log().contains("\"path\":\"/slow\",\"status\":200"), "{}", world.log());
}
