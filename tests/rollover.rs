//! The CA is rolled over on both levels while callers come and go, and nobody notices.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use postern::store::pem;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use support::world::GRANT;
use support::{ForeignCa, Identity, Scene, Talk, World, eventually};

const LIFETIMES: &str =
    "[authority]\nroot_ttl = \"90s\"\nissuing_ttl = \"30s\"\ndistribute = \"1s\"\n\n[leaf]\nttl = \"3s\"\n";

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

async fn postern(world: &World, words: &str) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.arg("--config").arg(world.path().join("postern.toml")).args(words.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Outcome { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

async fn does(world: &World, words: &str) {
    let outcome = postern(world, words).await;
    assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
}

async fn active(world: &World, level: &str) -> String {
    let authorities = world.status().await.authorities;
    let found = authorities.iter().find(|one| one.level == level && one.slot == "active");
    found.unwrap().id.to_string()
}

/// One whole delivery: identity and roots of the same generation, however often they are replaced meanwhile.
fn delivery(folder: &Path) -> (Identity, Vec<CertificateDer<'static>>) {
    let read = || -> Option<(Identity, Vec<CertificateDer<'static>>)> {
        let current = std::fs::canonicalize(folder.join("current")).ok()?;
        let file = |name: &str| std::fs::read(current.join(name)).ok();
        let chain = pem::certificates(&file("chain.pem")?).ok()?;
        let key = pem::private_key(&file("key.pem")?).ok()?;
        let key = PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()).into();
        Some((Identity { chain, key }, pem::certificates(&file("bundle.pem")?).ok()?))
    };
    (0..100).find_map(|_| read()).unwrap()
}

/// What the callers have seen.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    handshakes: AtomicU64,
    requests: AtomicU64,
}

/// Dials with what is in the files now, and asks `requests` times over the connection.
async fn call(folder: PathBuf, address: std::net::SocketAddr, requests: u32, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let (identity, roots) = delivery(&folder);
        let stream = support::caller::dial(address, &roots, Some(&identity), "http/1.1").await;
        let stream = stream.unwrap_or_else(|error| panic!("a handshake failed: {error}"));
        tally.handshakes.fetch_add(1, Ordering::Relaxed);
        let mut talk = Talk::new(stream);
        for _ in 0..requests {
            let answer = talk.get("/a", "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            tally.requests.fetch_add(1, Ordering::Relaxed);
            if answer.header("connection") == Some("close") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_and_no_request_breaks_while_the_ca_is_rolled_over() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config(LIFETIMES);
    let world = scene.start().await;
    let tally = Arc::new(Tally::default());
    let mut callers = tokio::task::JoinSet::new();
    for requests in [1, 1, 50, 50] {
        callers.spawn(call(world.files("caller"), world.address(), requests, Arc::clone(&tally)));
    }
    let first = active(&world, "root").await;

    for words in [
        "ca rotate",
        "ca rotate",
        "ca rotate --root",
        "ca rotate",
        "ca rollback",
        "ca rotate",
        "ca rollback --root",
        "ca rotate --root",
        "ca rotate",
    ] {
        does(&world, words).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!callers.is_empty() && callers.try_join_next().is_none(), "a caller ended after {words}");
    }
    assert_ne!(active(&world, "root").await, first);
    let drained = async || {
        let roots = world.status().await.authorities.into_iter().filter(|one| one.level == "root");
        (roots.count() == 1).then_some(())
    };
    eventually("only the new root is left", drained).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let [handshakes, requests] = [&tally.handshakes, &tally.requests].map(|all| all.load(Ordering::Relaxed));
    assert!(handshakes > 100 && requests > 500, "{tally:?}");
    let (_, metrics) = world.health("/metrics").await.unwrap();
    let counted = |name: &str| -> Vec<&str> {
        metrics.lines().filter(|line| line.starts_with(&format!("postern_{name}_total"))).collect()
    };
    assert_eq!(counted("handshakes"), [format!("postern_handshakes_total{{code=\"ok\"}} {handshakes}")]);
    assert_eq!(counted("requests"), [format!("postern_requests_total{{code=\"allowed\"}} {requests}")]);
}

#[tokio::test]
async fn a_reader_that_lags_keeps_the_old_root_active_and_is_named_until_it_is_left_behind() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.workload("slow", "").config("reload = [\"/usr/bin/test\", \"-e\", \"{dir}/awake\"]\n");
    scene.config(&LIFETIMES.replace("\"1s\"", "\"0s\""));
    let awake = scene.path().join("awake");
    support::write(&awake, "");
    let world = scene.start().await;
    let first = active(&world, "root").await;
    std::fs::remove_file(&awake).unwrap();

    let refused = postern(&world, "ca rotate --root --timeout 1s").await;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("it waits for the files of slow (bundle 1, loaded 20"), "{refused:?}");
    let refused = postern(&world, "ca activate --root").await;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert_eq!(active(&world, "root").await, first);
    let status = postern(&world, "ca status").await;
    assert!(status.out.contains("LAGS      the files of slow: has loaded bundle 1"), "{status:?}");
    assert_eq!(world.metric("postern_bundle_laggards").await, Some(1.0));

    let rehearsed = postern(&world, "ca activate --root --force --dry-run").await;
    assert!(rehearsed.code == 0 && rehearsed.err.contains("Left behind: the files of slow"), "{rehearsed:?}");
    assert_eq!(active(&world, "root").await, first);
    let forced = postern(&world, "ca activate --root --force").await;
    assert!(forced.code == 0 && forced.err.contains("Left behind: the files of slow"), "{forced:?}");
    assert_eq!(format!("{}\n", active(&world, "root").await), forced.out);
    assert_eq!(postern(&world, &format!("ca retire --root {first}")).await.code, 3);
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);

    support::write(&awake, "");
    let caught_up = async || (world.metric("postern_bundle_laggards").await == Some(0.0)).then_some(());
    eventually("the reader has caught up", caught_up).await;
}

#[tokio::test]
async fn a_foreign_bundle_that_is_broken_does_not_hold_back_our_own_roots() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\n");
    scene.config("[[trust]]\ndomain = \"postern.test\"\nbundle = \"more.pem\"\n");
    scene.config(&LIFETIMES.replace("\"1s\"", "\"0s\""));
    scene.app("others", "[[app.certificate]]\nuri = \"spiffe://other.test/**\"\n").registry(GRANT);
    scene.app("more", "[[app.certificate]]\nuri = \"spiffe://postern.test/more/**\"\n").registry(GRANT);
    let (other, more) = (ForeignCa::root("other"), ForeignCa::root("more"));
    let path = scene.path().join("other.pem");
    support::write(&path, &other.pem());
    support::write(&scene.path().join("more.pem"), &more.pem());
    let world = scene.start().await;
    let strangers = [
        other.leaf("spiffe://other.test/a", Duration::from_secs(3600)),
        more.leaf("spiffe://postern.test/more/a", Duration::from_secs(3600)),
    ];
    let first = active(&world, "root").await;

    support::write(&path, "no certificate\n");
    eventually("it is told", async || {
        world.status().await.degraded.iter().any(|reason| reason.contains("other.pem")).then_some(())
    })
    .await;
    does(&world, "ca rotate --root --timeout 9s").await;

    assert_ne!(active(&world, "root").await, first);
    assert_eq!(world.metric("postern_bundle_laggards").await, Some(0.0));
    does(&world, &format!("ca retire --root {first} --force")).await;
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
    for stranger in &strangers {
        assert_eq!(world.try_get(Some(stranger), "").await.unwrap().status, 200, "believed as before");
    }
    let degraded = world.status().await.degraded;
    assert!(degraded.iter().any(|reason| reason.contains("other.pem")), "{degraded:?}");
    support::write(&path, &other.pem());
    eventually("all is well", async || world.status().await.degraded.is_empty().then_some(())).await;
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn who_still_shows_a_leaf_of_the_former_authority_is_named_until_it_has_drained() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[authority]\nissuing_ttl = \"20s\"\n\n[leaf]\nttl = \"5s\"\n");
    let world = scene.start().await;
    let (early, late) = (world.identity("caller"), world.identity("stranger"));
    let mut kept = world.talk(Some(&early)).await;
    assert_eq!(kept.get("/a", "").await.status, 200);
    let former = active(&world, "issuing").await;

    does(&world, "ca rotate").await;
    let named = async |spiffe_id: &str| {
        eventually("the caller is named", async || {
            let status = postern(&world, "ca status").await.out;
            let line = format!("SHOWN     spiffe://postern.test/{spiffe_id} came in under {former}, last ");
            status.contains(&line).then_some(())
        })
        .await;
    };
    named("caller").await;
    assert!(!postern(&world, "ca status").await.out.contains("test/stranger came in"));
    world.try_get(Some(&late), "").await.unwrap();
    named("stranger").await;
    assert_eq!(world.try_get(Some(&world.identity("nobody")), "").await.unwrap().status, 403);
    assert!(!postern(&world, "ca status").await.out.contains("test/nobody came in"), "it has renewed");

    let forgotten = async || (!postern(&world, "ca status").await.out.contains("SHOWN")).then_some(());
    eventually("the former authority is gone", forgotten).await;
}
