//! Limits on a live agent: exactly as much passes as may pass, whoever is refused is told when to come back, and neither a
//! restart nor a changed file forgives anything.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::time::Duration;

use postern::admin::{Operation, Origin, Presented, Question};
use support::{Act, Answer, Identity, Scene, Service, Talk, Tls, World, eventually, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// The product of [`Scene::guarding`] with one operation for everything, as it is registered without limits.
const PRODUCT: &str = "[[product]]\nid = \"orders\"\nscopes = [\"orders:read\"]\n";

/// A scene whose product has these keys.
fn limited(endpoint: impl ToString, keys: &str) -> Scene {
    let mut scene = Scene::guarding(endpoint);
    scene.amend_registry(PRODUCT, &format!("{PRODUCT}{keys}\n"));
    scene
}

/// Puts other keys in place of the product's.
fn change_limits(world: &World, from: &str, to: &str) {
    let registry = world.registry();
    assert!(registry.contains(from), "{registry}");
    write(&world.path().join("registry/apps.toml"), &registry.replace(from, to));
}

async fn until_in_force(world: &World, version: &str) {
    eventually("the new registry is in force", async || {
        (world.status().await.registry.version != version).then_some(())
    })
    .await;
}

/// How many of `callers` × `each` calls were let in; all others were told that they were too many.
async fn let_in(world: &World, identity: &Identity, callers: usize, each: usize, code: &str) -> usize {
    let mut talks = Vec::new();
    for _ in 0..callers {
        talks.push(world.talk(Some(identity)).await);
    }
    let calls = talks.into_iter().map(|mut talk| {
        let code = code.to_owned();
        tokio::spawn(async move {
            let mut passed = 0;
            for _ in 0..each {
                let answer = talk.get("/a", "").await;
                match answer.status {
                    200 => passed += 1,
                    _ => assert_eq!((answer.status, answer.code()), (429, code.clone())),
                }
            }
            passed
        })
    });
    let mut passed = 0;
    for call in calls.collect::<Vec<_>>() {
        passed += call.await.unwrap();
    }
    passed
}

/// A parameter of the first policy in a field of `RateLimit` or `RateLimit-Policy`.
fn parameter(answer: &Answer, field: &str, name: &str) -> u64 {
    let value = answer.header(field).unwrap_or_else(|| panic_without(field, answer));
    let first = value.split(", ").next().unwrap();
    let found = first.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    found.unwrap().parse().unwrap()
}

#[expect(clippy::panic, reason = "a test may panic")]
fn panic_without(field: &str, answer: &Answer) -> ! {
    panic!("no {field}: {answer:?}")
}

#[tokio::test]
async fn of_32_callers_at_twice_the_limit_exactly_the_limit_passes() {
    let kinds = [
        "quota = { limit = 160, per = \"1year\" }",
        "quota = { limit = 160, per = \"1h\", kind = \"fixed\" }",
        "quota = { limit = 160, per = \"1h\", kind = \"flexi\" }",
        "quota = { limit = 160, per = \"1h\", kind = \"rolling\" }",
        "spike = { rate = \"1/d\", burst = 159 }",
    ];
    let service = Service::start().await;
    for kind in kinds {
        let code = if kind.starts_with("quota") { "quota-exceeded" } else { "spike-arrested" };
        let world = limited(service.address, kind).start().await;
        let before = service.seen().len();

        let passed = let_in(&world, &world.identity("caller"), 32, 10, code).await;

        assert_eq!(passed, 160, "{kind}");
        assert_eq!(service.seen().len() - before, 160, "{kind}");
        // A request is counted when it has been answered, which the caller may know a little earlier.
        let name = format!("postern_requests_total{{code=\"{code}\"}}");
        eventually("all are counted", async || (world.metric(&name).await == Some(160.0)).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn an_answer_says_how_the_quota_stands() {
    let service = Service::start().await;
    let world =
        limited(service.address, "quota = { limit = 2, per = \"1h\", kind = \"flexi\" }").start().await;
    let identity = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&identity)).await, world.h2(Some(&identity)).await);

    let first = talk.get("/a", "").await;
    let second = h2.get("/a", &[]).await;
    let third = talk.get("/a", "").await;
    let fourth = h2.get("/a", &[]).await;

    for (answer, left) in [(&first, 1), (&second, 0)] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"product:orders\";q=2;w=3600"));
        assert_eq!(parameter(answer, "ratelimit", "r"), left);
        assert!((3590..=3600).contains(&parameter(answer, "ratelimit", "t")));
        assert_eq!(answer.header("retry-after"), None);
    }
    for answer in [&third, &fourth] {
        assert_eq!((answer.status, &*answer.code()), (429, "quota-exceeded"));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((3590..=3600).contains(&wait));
        assert_eq!(parameter(answer, "ratelimit", "r"), 0);
        assert!(parameter(answer, "ratelimit", "t") <= wait);
        assert_eq!(parameter(answer, "ratelimit-policy", "q"), 2);
        let body = answer.json();
        assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!(body["violated-policies"], serde_json::json!(["product:orders"]));
    }
    let event = world.access(third.header("x-request-id").unwrap()).await;
    assert_eq!(event["decision"], "quota-exceeded");
    assert_eq!((&event["app.id"], &event["product.id"]), (&"caller".into(), &"orders".into()));
}

#[tokio::test]
async fn whoever_waits_as_told_is_let_in() {
    let service = Service::start().await;
    let world = limited(service.address, "spike = { rate = \"60/min\" }").start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    let mut passed: Vec<Instant> = Vec::new();

    while passed.len() < 4 {
        let answer = talk.get("/a", "").await;
        if answer.status == 200 {
            passed.push(Instant::now());
        } else {
            assert_eq!((answer.status, &*answer.code()), (429, "spike-arrested"));
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert_eq!(wait, 1);
            sleep(Duration::from_secs(wait)).await;
            assert_eq!(talk.get("/a", "").await.status, 200, "it was told to come back now");
            passed.push(Instant::now());
        }
    }

    // One a second, less what the way to the agent may have taken.
    let span = passed[3] - passed[0];
    assert!(span > Duration::from_millis(2800), "{span:?}");
}

#[tokio::test]
async fn limits_of_app_product_and_operation_are_charged_together_or_not_at_all() {
    let service = Service::start().await;
    let mut scene = limited(service.address, "quota = { limit = 100, per = \"1year\" }");
    scene.amend_registry(
        "methods = [\"*\"]\npath = \"/**\"\n",
        "methods = [\"*\"]\npath = \"/cheap\"\n\n[[product.operation]]\nid = \"dear\"\nservice = \"orders\"\n\
         methods = [\"*\"]\npath = \"/dear\"\nweight = 5\nquota = { limit = 10, per = \"1year\" }\n",
    );
    scene.amend_registry("id = \"caller\"\n", "id = \"caller\"\nquota = { limit = 13, per = \"1year\" }\n");
    let world = scene.start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    assert_eq!(talk.get("/dear", "").await.status, 200);
    assert_eq!(talk.get("/dear", "").await.status, 200);
    for _ in 0..3 {
        let refused = talk.get("/dear", "").await;
        let violated = &refused.json()["violated-policies"];
        assert_eq!(
            *violated,
            serde_json::json!(["app:caller", "operation:orders/dear"]),
            "13 and 10, after 10"
        );
    }
    for left in [2, 1, 0] {
        let answer = talk.get("/cheap", "").await;
        assert_eq!((answer.status, parameter(&answer, "ratelimit", "r")), (200, left), "nothing was charged");
    }
    assert_eq!(talk.get("/cheap", "").await.json()["violated-policies"], serde_json::json!(["app:caller"]));

    let status = world.status().await;
    let used = |scope: &str| status.limits.fullest.iter().find(|quota| quota.scope == scope).unwrap().used;
    assert_eq!((used("app:caller"), used("product:orders"), used("operation:orders/dear")), (13, 13, 10));
}

#[tokio::test]
async fn explain_shows_what_is_left_and_takes_nothing() {
    let service = Service::start().await;
    let world = limited(service.address, "quota = { limit = 1, per = \"1year\" }").start().await;
    let question = Question {
        listener: None,
        operation: Operation::Http { method: "GET".into(), host: "localhost".into(), path: "/a".into() },
        certificate: Some(Presented::SpiffeId("spiffe://postern.test/caller".into())),
        origin: Origin::default(),
        api_key: None,
        fields: Vec::new(),
    };
    let explain = async || {
        let explanation = world.admin().explain(&question).await.unwrap();
        let step = explanation.steps.iter().find(|step| step.name == "limits").unwrap();
        (explanation.code, explanation.status, step.detail.clone())
    };

    for _ in 0..3 {
        let (code, _, detail) = explain().await;
        assert_eq!(code, "allowed");
        assert!(detail.starts_with("product:orders: 0 of 1 left after it, more in "), "{detail}");
    }
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    assert_eq!(talk.get("/a", "").await.status, 200);
    let (code, status, detail) = explain().await;
    assert_eq!((&*code, status), ("quota-exceeded", Some(429)));
    assert!(detail.contains("product:orders: 0 of 1 left, more in "), "{detail}");
    assert_eq!(talk.get("/a", "").await.code(), "quota-exceeded");
}

#[tokio::test]
async fn a_stop_in_good_order_loses_no_count() {
    let service = Service::start().await;
    let mut world = limited(service.address, "quota = { limit = 10, per = \"1year\" }").start().await;
    let identity = world.identity("caller");
    let mut talk = world.talk(Some(&identity)).await;
    for _ in 0..7 {
        assert_eq!(talk.get("/a", "").await.status, 200);
    }

    world.signal("TERM");
    assert!(world.ended().await.success());
    world.restart().await;

    assert_eq!(let_in(&world, &identity, 1, 10, "quota-exceeded").await, 3);
}

#[tokio::test]
async fn a_kill_loses_at_most_the_last_tenth_of_a_second() {
    let service = Service::start().await;
    let quota = "quota = { limit = 1000000, per = \"1h\", kind = \"rolling\" }";
    let mut world = limited(service.address, quota).start().await;
    let identity = world.identity("caller");
    let mut talk = world.talk(Some(&identity)).await;
    let mut counted: Vec<Instant> = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(talk.get("/a", "").await.status, 200);
        counted.push(Instant::now());
    }

    let killed = Instant::now();
    world.restart().await;

    let mut talk = world.talk(Some(&identity)).await;
    let left = parameter(&talk.get("/a", "").await, "ratelimit", "r");
    let kept = usize::try_from(1_000_000 - left - 1).unwrap();
    let old = counted.iter().filter(|at| killed - **at > Duration::from_millis(100)).count();
    assert!(kept >= old && kept <= counted.len(), "kept {kept} of {}, {old} of them old", counted.len());
}

#[tokio::test]
async fn a_changed_limit_holds_for_what_was_counted() {
    let service = Service::start().await;
    let quota = "quota = { limit = 4, per = \"1year\" }";
    let world = limited(service.address, quota).start().await;
    let identity = world.identity("caller");
    assert_eq!(let_in(&world, &identity, 1, 6, "quota-exceeded").await, 4);

    let version = world.status().await.registry.version;
    change_limits(&world, quota, "quota = { limit = 7, per = \"1year\" }");
    until_in_force(&world, &version).await;
    assert_eq!(let_in(&world, &identity, 1, 6, "quota-exceeded").await, 3);

    let version = world.status().await.registry.version;
    change_limits(&world, quota, "quota = { limit = 7, per = \"1h\", kind = \"rolling\" }");
    until_in_force(&world, &version).await;
    assert_eq!(
        let_in(&world, &identity, 1, 2, "quota-exceeded").await,
        0,
        "another kind takes the count along"
    );
}

#[tokio::test]
async fn a_damaged_journal_is_kept_aside_and_told() {
    let service = Service::start().await;
    let mut world = limited(service.address, "quota = { limit = 5, per = \"1year\" }").start().await;
    let identity = world.identity("caller");
    assert_eq!(let_in(&world, &identity, 1, 5, "quota-exceeded").await, 5);
    world.signal("TERM");
    world.ended().await;
    let journal = world.path().join("state/limits.journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.contains("\"used\":5"), "{text}");
    write(&journal, &text.replace("\"used\":5", "\"used\":0"));

    world.restart().await;

    let degraded = world.status().await.degraded.join("\n");
    assert!(degraded.contains("limits.journal was damaged"), "{degraded}");
    let aside = degraded.split_once("kept as ").unwrap().1;
    assert!(std::fs::read_to_string(aside).unwrap().contains("\"used\":0"));
    assert_eq!(let_in(&world, &identity, 1, 6, "quota-exceeded").await, 5, "what is lost begins anew");
}

#[tokio::test]
async fn a_raw_connection_counts_as_one() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    let mut scene = Scene::new();
    scene.listener("inbound", "protocol = \"tcp\"\nservice = \"echo\"").service(
        "echo",
        &address.to_string(),
        "",
    );
    scene.workload("caller", "");
    scene.registry(
        "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\nquota = { limit = 2, per = \"1year\" }\n\n\
         [[product.operation]]\nservice = \"echo\"\n",
    );
    scene.app("caller", "[[app.certificate]]\nuri = \"spiffe://postern.test/caller\"\n");
    scene.registry("[[app.grant]]\nproduct = \"orders\"\n");
    let world = scene.start().await;
    let identity = world.identity("caller");
    let echo = async |stream: &mut Tls| {
        let mut byte = [0];
        let sent = async { stream.write_all(b"x").await.and(stream.flush().await) };
        sent.await.is_ok() && stream.read(&mut byte).await.is_ok_and(|count| count == 1)
    };
    let mut first = world.dial(Some(&identity), "").await.unwrap();
    let mut second = world.dial(Some(&identity), "").await.unwrap();

    assert!(echo(&mut first).await && echo(&mut second).await);
    let mut third = world.dial(Some(&identity), "").await.unwrap();
    assert!(!echo(&mut third).await);
    world.log_with("\"decision\":\"quota-exceeded\"").await;

    // A change looks at live connections again, and charges nothing for it.
    let version = world.status().await.registry.version;
    change_limits(&world, "per = \"1year\" }", "per = \"1year\" }\nscopes = [\"x\"]");
    until_in_force(&world, &version).await;
    assert!(echo(&mut first).await && echo(&mut second).await);
}

#[tokio::test]
async fn keys_that_prove_nothing_are_throttled_by_source() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[limits]\nfailed_keys = \"1/min\"\nfailed_keys_burst = 4\n");
    let key = scene.app_with_key("keyed");
    let world = scene.start().await;
    let wrong = {
        let mut text = key.text.clone();
        let last = text.pop().unwrap();
        text.push(if last == 'A' { 'B' } else { 'A' });
        format!("x-api-key: {text}\r\n")
    };
    let from = async |address: &str| -> Talk<Tls> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream: TcpStream = socket.connect(world.address()).await.unwrap();
        Talk::new(support::caller::handshake(stream, &world.roots(), None, "http/1.1").await.unwrap())
    };
    let (mut attacker, mut neighbour) = (from("127.0.0.77").await, from("127.0.0.78").await);
    assert_eq!(attacker.get("/a", &key.line()).await.status, 200);

    for _ in 0..5 {
        let answer = attacker.get("/a", &wrong).await;
        assert_eq!((answer.status, &*answer.code()), (401, "invalid-credential"));
    }
    let answer = attacker.get("/a", &wrong).await;
    assert_eq!((answer.status, &*answer.code()), (429, "rate-limited"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");

    // Whoever comes from elsewhere, or with a certificate, is none the worse for it.
    assert_eq!(neighbour.get("/a", &key.line()).await.status, 200);
    assert_eq!(neighbour.get("/a", &wrong).await.status, 401);
    assert_eq!(world.talk(Some(&world.identity("caller"))).await.get("/a", "").await.status, 200);
    assert_eq!(attacker.get("/a", &key.line()).await.code(), "rate-limited", "no key is looked at any more");
    let answer = attacker.get("/a", "signature-input: (\r\n").await;
    assert_eq!(answer.code(), "rate-limited", "no signature is read any more");
}

#[tokio::test]
async fn signatures_that_cannot_be_read_count_as_failures() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[limits]\nfailed_keys = \"1/min\"\nfailed_keys_burst = 2\n");
    let key = scene.app_with_key("keyed");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);

    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(talk.get("/a", "signature-input: (\r\n").await.code());
    }

    assert_eq!(codes, ["invalid-credential", "invalid-credential", "invalid-credential", "rate-limited"]);
}

#[tokio::test]
async fn a_service_is_given_no_more_than_its_limit_and_the_lowest_wait_first() {
    let slow = |_: &support::Seen| {
        let mut acts = vec![Act::Pause(Duration::from_secs(2))];
        acts.extend(support::ok());
        acts
    };
    let service = Service::answering(slow).await;
    let mut scene = Scene::new();
    scene.listener("inbound", "").service(
        "orders",
        &service.address.to_string(),
        "concurrency = { minimum = 8, maximum = 8 }",
    );
    for workload in ["low", "normal", "high"] {
        scene.workload(workload, "");
    }
    scene.registry(
        "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\nquota = { limit = 100, per = \"1year\" }\n\n\
         [[product.operation]]\nservice = \"orders\"\nmethods = [\"*\"]\npath = \"/**\"\n",
    );
    for app in ["low", "normal", "high"] {
        let certificate = format!("[[app.certificate]]\nuri = \"spiffe://postern.test/{app}\"\n");
        scene.app(app, &format!("priority = \"{app}\"\n{certificate}"));
        scene.registry("[[app.grant]]\nproduct = \"orders\"\n");
    }
    let world = scene.start().await;
    let (low, normal, high) = (world.identity("low"), world.identity("normal"), world.identity("high"));
    let mut busy = Vec::new();
    let begin = async |identity: &Identity| {
        let mut talk = world.talk(Some(identity)).await;
        talk.send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        talk
    };
    let shed = async |identity: &Identity| {
        let answer = world.talk(Some(identity)).await.get("/a", "").await;
        assert_eq!((answer.status, &*answer.code()), (503, "overloaded"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(
            answer.json()["type"],
            "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
        );
    };

    for (identity, count, so_far) in [(&low, 4, 4), (&normal, 3, 7), (&high, 1, 8)] {
        for _ in 0..count {
            busy.push(begin(identity).await);
        }
        eventually("all of them are under way", async || {
            (world.metric("postern_concurrency_under_way{service=\"orders\"}").await
                == Some(f64::from(so_far)))
            .then_some(())
        })
        .await;
        shed(identity).await;
    }

    for talk in &mut busy {
        assert_eq!(talk.answer().await.status, 200);
    }
    let answer = world.talk(Some(&high)).await.get("/a", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(parameter(&answer, "ratelimit", "r"), 98, "who was turned away was not charged");
}

#[tokio::test]
async fn a_service_that_slows_down_is_given_less_at_a_time() {
    let delay = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(2));
    let pause = std::sync::Arc::clone(&delay);
    let script = move |_: &support::Seen| {
        let millis = pause.load(std::sync::atomic::Ordering::Relaxed);
        let mut acts = vec![Act::Pause(Duration::from_millis(millis))];
        acts.extend(support::ok());
        acts
    };
    let service = Service::answering(script).await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config(
        "[[service]]\nid = \"orders\"\n",
        "[[service]]\nid = \"orders\"\nconcurrency = { minimum = 4, maximum = 64 }\n",
    );
    let world = scene.start().await;
    let identity = world.identity("caller");
    let callers: Vec<_> = {
        let mut callers = Vec::new();
        for _ in 0..4 {
            let mut talk = world.talk(Some(&identity)).await;
            callers.push(tokio::spawn(async move {
                loop {
                    let answer = talk.get("/a", "").await;
                    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                }
            }));
        }
        callers
    };
    let limit = async || world.metric("postern_concurrency_limit{service=\"orders\"}").await.unwrap();

    eventually("a fast service is given more", async || (limit().await > 32.0).then_some(())).await;
    delay.store(100, std::sync::atomic::Ordering::Relaxed);
    eventually("a slow one is given less", async || (limit().await < 12.0).then_some(())).await;
    delay.store(2, std::sync::atomic::Ordering::Relaxed);
    eventually("and a recovered one more", async || (limit().await > 32.0).then_some(())).await;
    for caller in callers {
        assert!(!caller.is_finished(), "nobody was answered otherwise");
        caller.abort();
    }
}
