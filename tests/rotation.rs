//! Certificates and authorities are replaced all the time, and nobody notices.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock};
use postern::identity::Subject;
use postern::issuance::{Change, Verb};
use postern::pki::Level;
use postern::store::pem;
use support::{Answer, Identity, Scene, Service, Talk, Tls, World, eventually, write};
use tokio::time::Instant;

/// How long traffic goes on: several lives of a leaf.
const SPAN: Duration = Duration::from_secs(9);

/// Leaves that live three seconds, under authorities that live ten.
async fn hasty() -> (World, Service) {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[leaf]\nttl = \"3s\"\n\n[authority]\nissuing_ttl = \"10s\"\nroot_ttl = \"1h\"\n");
    (scene.start().await, service)
}

/// What the traffic has seen.
#[derive(Default)]
struct Seen {
    requests: Cell<usize>,
    servers: RefCell<BTreeSet<String>>,
    callers: RefCell<BTreeSet<String>>,
    issuers: RefCell<BTreeSet<Vec<u8>>>,
}

async fn ask(talk: &mut Talk<Tls>) -> std::io::Result<Answer> {
    talk.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    talk.try_answer(false).await
}

/// What came of a call; nothing if the certificate has ended meanwhile, because the machine was too busy to use it in time: then
/// it is refused rightly.
fn unless_spent<T>(outcome: std::io::Result<T>, identity: &Identity) -> Option<T> {
    match outcome {
        Ok(found) => Some(found),
        Err(error) => {
            let not_after = identity.subject().not_after;
            assert!(SystemClock.now() >= not_after, "refused before {not_after}: {error}");
            None
        }
    }
}

/// Calls on a new connection each time, with what is delivered at that moment.
async fn call_anew(world: &World, seen: &Seen, until: Instant) {
    while Instant::now() < until {
        let identity = world.identity("caller");
        let outcome = world.dial(Some(&identity), "http/1.1").await.map(Talk::new);
        let Some(mut talk) = unless_spent(outcome, &identity) else { continue };
        let chain = talk.io.get_ref().1.peer_certificates().unwrap().to_vec();
        let server = Subject::from_der(chain.first().unwrap()).unwrap();
        let Some(answer) = unless_spent(ask(&mut talk).await, &identity) else { continue };
        assert_eq!(answer.status, 200);
        seen.servers.borrow_mut().insert(server.serial);
        seen.callers.borrow_mut().insert(identity.subject().serial);
        seen.issuers.borrow_mut().insert(chain.get(1).unwrap().to_vec());
        seen.requests.set(seen.requests.get() + 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls on connections that are kept until the agent says, in an answer, that they are about to end.
async fn call_and_keep(world: &World, seen: &Seen, until: Instant) {
    while Instant::now() < until {
        let identity = world.identity("caller");
        let outcome = world.dial(Some(&identity), "http/1.1").await.map(Talk::new);
        let Some(mut talk) = unless_spent(outcome, &identity) else { continue };
        loop {
            let Some(answer) = unless_spent(ask(&mut talk).await, &identity) else { break };
            assert_eq!(answer.status, 200);
            seen.requests.set(seen.requests.get() + 1);
            if answer.header("connection") == Some("close") || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The same over HTTP/2, where the agent says so by GOAWAY: a request that comes after it was never sent.
async fn call_and_keep_h2(world: &World, seen: &Seen, until: Instant) {
    while Instant::now() < until {
        let h2 = world.h2(Some(&world.identity("caller"))).await;
        loop {
            let request = http::Request::get("https://localhost/a").body(()).unwrap();
            match h2.ask(request, None, None).await {
                Ok(answer) => assert_eq!(answer.status, 200),
                Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => break,
                Err(error) => panic!("{error}"),
            }
            seen.requests.set(seen.requests.get() + 1);
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Reads what is delivered, over and over: as a folder, and as the one file that holds both halves.
async fn read_files(world: &World, until: Instant) -> usize {
    let mut reads = 0;
    while Instant::now() < until {
        assert!(world.identity("caller").is_a_pair(), "key and chain of one folder belong together");
        let path = world.files("caller").join("current/credential-bundle.pem");
        let text = std::fs::read_to_string(path).unwrap();
        let (key, chain) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
        let key = pem::private_key(key.as_bytes()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()).into();
        let both = Identity { chain: pem::certificates(chain.as_bytes()).unwrap(), key };
        assert!(both.is_a_pair(), "key and chain of one file belong together");
        reads += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}

/// Replaces the issuing authority twice.
async fn rotate_twice(world: &World) {
    for _ in 0..2 {
        tokio::time::sleep(SPAN / 4).await;
        let rotation = Change::new(Level::Issuing, Verb::Rotate);
        world.admin().change_authority(&rotation).await.unwrap();
    }
}

#[tokio::test]
async fn steady_traffic_does_not_notice_leaves_and_authorities_come_and_go() {
    let (world, _service) = hasty().await;
    let (seen, until) = (Seen::default(), Instant::now() + SPAN);

    let (_, _, _, reads, _) = tokio::join!(
        call_anew(&world, &seen, until),
        call_and_keep(&world, &seen, until),
        call_and_keep_h2(&world, &seen, until),
        read_files(&world, until),
        rotate_twice(&world)
    );

    let [servers, callers] = [&seen.servers, &seen.callers].map(|serials| serials.borrow().len());
    let issuers = seen.issuers.borrow().len();
    #[expect(clippy::print_stdout, reason = "the figures are wanted")]
    {
        let requests = seen.requests.get();
        println!(
            "{requests} requests and {reads} reads of files, none failed; \
             {servers} server leaves, {callers} caller leaves, {issuers} issuing authorities"
        );
    }
    assert!(servers >= 5 && callers >= 5, "{servers} {callers}");
    assert!(issuers >= 3, "{issuers}");
    assert!(world.status().await.ready.ready);
    assert!(!world.log().contains("handshake failed"), "{}", world.log());
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let (world, _service) = hasty().await;
    // On a busy machine the first answer may come so late that it already says that the end is near.
    let (identity, mut talk) = eventually("an answer long before the end", async || {
        let identity = world.identity("caller");
        let mut talk = world.talk(Some(&identity)).await;
        let answer = talk.get("/a", "").await;
        assert_eq!(answer.status, 200);
        answer.header("connection").is_none().then_some((identity, talk))
    })
    .await;

    assert!(talk.is_closed().await);

    let late = SystemClock.now().since(identity.subject().not_after);
    assert!(late < Duration::from_secs(2), "closed {late:?} after the certificate's end");
    assert!(SystemClock.now() >= identity.subject().not_after, "closed too early");
    assert!(world.try_get(Some(&identity), "").await.is_err());
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_restart_keeps_the_ca_and_what_it_has_signed() {
    let service = Service::start().await;
    let mut world = Scene::guarding(service.address).start().await;
    let (before, identity) = (world.status().await, world.identity("caller"));

    world.restart().await;

    let after = world.status().await;
    let ids = |status: &postern::admin::Status| -> Vec<String> {
        status.authorities.iter().map(|authority| authority.id.to_string()).collect()
    };
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(world.talk(Some(&identity)).await.get("/a", "").await.status, 200);
    assert_ne!(world.identity("caller").subject().serial, identity.subject().serial);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing_and_is_told() {
    let service = Service::start().await;
    let world = Scene::guarding(service.address).start().await;
    let (caller, path) = (world.identity("caller"), world.path().join("postern.toml"));
    let mut talk = world.talk(Some(&caller)).await;
    let good = std::fs::read_to_string(&path).unwrap();
    let taken = tokio::net::TcpListener::bind((world.ip, 8500)).await.unwrap();
    let door =
        |port: u16| format!("{good}\n[[listener]]\nid = \"second\"\naddress = \"{}:{port}\"\n", world.ip);
    let cases = [
        (good.replace("[[listener]]", "[[listner]]"), "did you mean `listener`?"),
        (good.replace("trust_domain = \"postern.test\"", "trust_domain = \"other.test\""), "trust_domain"),
        (good.replace("threads = 2", "threads = 3"), "threads cannot change while the agent runs"),
        (good.replace("threads = 2", "threads ="), "postern.toml:5:"),
        (door(8500), "8500"),
    ];

    for (text, told) in cases {
        write(&path, &text);
        world.signal("HUP");
        let error = eventually("the wrong configuration is told", async || {
            world.status().await.config.last_error.filter(|error| error.contains(told))
        })
        .await;
        assert!(!error.is_empty());
        assert_eq!(talk.get("/a", "").await.status, 200, "{told}");
    }
    assert!(world.status().await.ready.ready);
    assert!(world.metric("postern_reloads_total{result=\"rejected\"}").await >= Some(5.0));
    drop(taken);

    write(&path, &door(8501));
    world.signal("HUP");
    eventually("the second door is open", async || {
        tokio::net::TcpStream::connect((world.ip, 8501)).await.ok()
    })
    .await;
    eventually("all is well", async || world.status().await.config.last_error.is_none().then_some(())).await;
    write(&path, &good.replace("id = \"inbound\"", "id = \"renamed\""));
    world.admin().reload().await.unwrap();
    assert_eq!(world.talk(Some(&caller)).await.get("/a", "").await.status, 200, "under another name");
    assert_eq!(talk.get("/a", "").await.status, 200, "that came in by the door's old name");
    write(&path, &good);
    world.admin().reload().await.unwrap();
    eventually("the second door is closed", async || {
        tokio::net::TcpStream::connect((world.ip, 8501)).await.err()
    })
    .await;
    assert_eq!(talk.get("/a", "").await.status, 200);
}

#[tokio::test]
async fn a_listener_under_another_name_drops_nobody_who_was_waiting() {
    let service = Service::start().await;
    let world = Scene::guarding(service.address).start().await;
    let (caller, path) = (world.identity("caller"), world.path().join("postern.toml"));
    let good = std::fs::read_to_string(&path).unwrap();
    let (seen, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let bundle = std::fs::read(world.path().join("state/bundle.pem")).unwrap();
    let roots = pem::certificates(&bundle).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (address, caller, roots) = (world.address(), caller.clone(), roots.clone());
        let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let tls = support::caller::dial(address, &roots, Some(&caller), "http/1.1").await.unwrap();
                assert_eq!(Talk::new(tls).get("/a", "").await.status, 200);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    for number in 0..30 {
        write(&path, &good.replace("id = \"inbound\"", &format!("id = \"inbound-{number}\"")));
        world.admin().reload().await.unwrap();
        let before = seen.load(Ordering::Relaxed);
        eventually("callers go on", async || (seen.load(Ordering::Relaxed) > before + 20).then_some(()))
            .await;
    }

    stop.store(true, Ordering::Relaxed);
    while let Some(outcome) = callers.join_next().await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_workload_that_is_added_gets_its_identity_at_once() {
    let service = Service::start().await;
    let world = Scene::guarding(service.address).start().await;
    let path = world.path().join("postern.toml");
    let (before, good) = (world.identity("caller"), std::fs::read_to_string(&path).unwrap());

    let more = "\n[[workload]]\nid = \"new\"\n[workload.files]\ndirectory = \"files/new\"\n";
    write(&path, &(good + more));
    world.admin().reload().await.unwrap();

    eventually("its files", async || world.files("new").join("current/key.pem").exists().then_some(())).await;
    assert_eq!(world.identity("new").subject().spiffe_id.as_str(), "spiffe://postern.test/new");
    assert_eq!(world.identity("caller").subject().serial, before.subject().serial, "others keep theirs");
    let renewed = world.admin().renew(&"caller".parse().unwrap()).await.unwrap();
    assert_ne!(renewed.serial, before.subject().serial);
    eventually("the renewed files", async || {
        (world.identity("caller").subject().serial == renewed.serial).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reload_tells_the_metrics_whose_certificates_there_are() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let (path, ends) = (world.path().join("postern.toml"), "postern_certificate_not_after_seconds");
    let good = std::fs::read_to_string(&path).unwrap();
    let known = async |there: bool| {
        eventually("the metric", async || {
            let found = world.metric(&format!("{ends}{{workload=\"new\"}}")).await;
            (found.is_some() == there).then_some(())
        })
        .await;
    };

    write(&path, &format!("{good}\n[[workload]]\nid = \"new\"\n"));
    world.admin().reload().await.unwrap();
    known(true).await;
    write(&path, &good);
    world.admin().reload().await.unwrap();
    known(false).await;
}

#[tokio::test]
async fn files_that_are_not_delivered_any_more_are_no_trouble() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[workload]]\nid = \"slow\"\n");
    let world = scene.start().await;
    let path = world.path().join("postern.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let files = "[workload.files]\ndirectory = \"files/slow\"\nreload = [\"/usr/bin/false\"]\n";
    let degraded = async || world.status().await.degraded;

    write(&path, &(good.clone() + files));
    world.admin().reload().await.unwrap();
    eventually("it is told", async || (!degraded().await.is_empty()).then_some(())).await;
    assert!(degraded().await[0].starts_with("the files of slow are not taken"));
    write(&path, &good);
    world.admin().reload().await.unwrap();

    assert_eq!(degraded().await, [""; 0]);
}
