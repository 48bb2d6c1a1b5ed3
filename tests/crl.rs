//! Revocation lists from one agent to another, and authorities that are revoked under traffic.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use postern::store::{atomic_file, pem};
use support::world::{GRANT, postern};
use support::{ForeignCa, Identity, Scene, Service, Talk, Tls, World, eventually, soon, write};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

/// Whoever comes from `other.test` may use the service.
fn open_to_others(scene: &mut Scene, keys: &str) {
    scene
        .config(&format!(
            "[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\ncrl = \"other-crl.pem\"\n{keys}\n"
        ))
        .app("others", "[[app.certificate]]\nuri = \"spiffe://other.test/**\"\n")
        .registry(GRANT);
}

/// An agent A that issues for `other.test`, and an agent B that heeds its lists.
struct Pair {
    a: World,
    b: World,
    _service: Service,
}

impl Pair {
    async fn start() -> Self {
        let mut a = Scene::of("other.test");
        for workload in ["one", "two"] {
            a.workload(workload, "");
        }
        let a = a.start().await;
        let service = Service::start().await;
        let mut b = Scene::guarding(service.address);
        open_to_others(&mut b, "");
        for (from, to) in [("bundle.pem", "other.pem"), ("crl.pem", "other-crl.pem")] {
            write(&b.path().join(to), &std::fs::read_to_string(a.path().join("state").join(from)).unwrap());
        }
        Self { a, b: b.start().await, _service: service }
    }

    /// Carries the lists of A to B, as `ca crl` prints them.
    fn carry(&self) -> Instant {
        let lists = run(&self.a, "ca crl");
        assert!(lists.status.success(), "{lists:?}");
        replace(&self.b, &String::from_utf8(lists.stdout).unwrap());
        Instant::now()
    }

    async fn talk(&self, workload: &str) -> Talk<Tls> {
        let mut talk = self.b.talk(Some(&self.a.identity(workload))).await;
        assert_eq!(talk.get("/a", "").await.status, 200);
        talk
    }
}

fn replace(world: &World, lists: &str) {
    atomic_file::replace(&world.path().join("other-crl.pem"), lists.as_bytes(), 0o644).unwrap();
}

fn run(world: &World, words: &str) -> Output {
    postern(world.path()).args(words.split_whitespace()).output().unwrap()
}

async fn does(world: &World, words: &str) -> String {
    let mut command = postern(world.path());
    command.args(words.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8([output.stderr, output.stdout].concat()).unwrap()
}

/// Where the lists of `world` have this serial number: how many.
async fn listed(world: &World, serial: &str) -> usize {
    let serial = data_encoding::HEXLOWER.decode(serial.as_bytes()).unwrap();
    let lists = pem::crls(world.admin().crl_pem().await.unwrap().as_bytes()).unwrap();
    let has = |list: &rustls::pki_types::CertificateRevocationListDer<'_>| {
        let list = webpki::CertRevocationList::from(webpki::OwnedCertRevocationList::from_der(list).unwrap());
        list.find_serial(&serial).unwrap().is_some()
    };
    lists.iter().filter(|list| has(list)).count()
}

async fn active(world: &World, level: &str) -> String {
    let authorities = world.status().await.authorities;
    let found = authorities.iter().find(|one| one.level == level && one.slot == "active");
    found.unwrap().id.to_string()
}

#[tokio::test]
async fn what_one_agent_revokes_another_one_cuts_once_it_has_the_list() {
    let pair = Pair::start().await;
    let (mut victim, mut other) = (pair.talk("one").await, pair.talk("two").await);
    let identity = pair.a.identity("one");

    does(&pair.a, &format!("cert revoke serial:{}", identity.subject().serial)).await;
    eventually("it is in the list", async || {
        (listed(&pair.a, &identity.subject().serial).await == 1).then_some(())
    })
    .await;
    assert_eq!(victim.get("/a", "").await.status, 200, "B has not heard of it");
    let begun = pair.carry();

    assert!(victim.is_closed().await);
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    assert_eq!(other.get("/a", "").await.status, 200);
    assert!(pair.b.try_get(Some(&identity), "").await.is_err());
    assert_eq!(pair.b.metric("postern_connections_cut_total{code=\"revoked\"}").await, Some(1.0));
    let published = std::fs::read_to_string(pair.a.path().join("state/crl.pem")).unwrap();
    assert_eq!(pair.a.health("/crl").await, Some((200, published)));
}

#[tokio::test]
async fn an_authority_that_one_agent_revokes_takes_its_leaves_along_at_the_other() {
    let pair = Pair::start().await;
    let (mut talk, old) = (pair.talk("one").await, pair.a.identity("one"));
    let issuing = active(&pair.a, "issuing").await;

    does(&pair.a, &format!("ca revoke {issuing}")).await;
    assert_eq!(talk.get("/a", "").await.status, 200);
    let fresh = pair.a.identity("two");
    assert_eq!(
        pair.b.try_get(Some(&fresh), "").await.unwrap().status,
        200,
        "its authority is younger than B's lists"
    );
    let begun = pair.carry();

    assert!(talk.is_closed().await);
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    assert!(pair.b.try_get(Some(&old), "").await.is_err());
    assert_eq!(pair.b.try_get(Some(&fresh), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn lists_that_cannot_be_used_change_nothing_and_are_told() {
    let pair = Pair::start().await;
    let good = std::fs::read_to_string(pair.a.path().join("state/crl.pem")).unwrap();
    let identity = pair.a.identity("one");
    let mut talk = pair.talk("two").await;
    does(&pair.a, &format!("cert revoke serial:{}", identity.subject().serial)).await;
    let in_list = async || (listed(&pair.a, &identity.subject().serial).await == 1).then_some(());
    eventually("it is in the list", in_list).await;
    pair.carry();
    let refused = async || pair.b.try_get(Some(&identity), "").await.err();
    eventually("it is refused", refused).await;

    let foreign = ForeignCa::root("somebody else").crl(&[]);
    let forged = good.replacen("MII", "MIH", 1);
    for (lists, why) in [
        ("", "expected a X509 CRL block, found none"),
        ("<html>404</html>", "line 1 stands outside"),
        (&good[..good.len() / 3], "-----END X509 CRL----- is missing"),
        (&forged, "cannot be used"),
        (&good, "is older than the one in force"),
    ] {
        replace(&pair.b, lists);
        let told = async || {
            let degraded = pair.b.status().await.degraded.join("\n");
            degraded.contains(why).then_some(degraded)
        };
        let told = eventually(why, told).await;
        assert!(told.contains("other-crl.pem"), "{told}");
        assert!(pair.b.try_get(Some(&identity), "").await.is_err(), "{why}");
        assert_eq!(talk.get("/a", "").await.status, 200, "{why}");
    }

    // One file that is wrong holds nothing else back.
    does(&pair.b, "cert revoke spiffe://other.test/two").await;
    assert!(talk.is_closed().await);
    does(&pair.b, "cert unrevoke spiffe://other.test/two").await;
    pair.carry();
    let mended = async || pair.b.status().await.degraded.is_empty().then_some(());
    eventually("all is well again", mended).await;
    replace(&pair.b, &format!("{}{foreign}", pair.a.admin().crl_pem().await.unwrap()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pair.b.status().await.degraded.is_empty(), "a list of nobody that is known does no harm");
}

/// An agent that heeds the lists of a foreign CA, and a caller of that CA.
async fn heeding(
    keys: &str,
    lists: impl Fn(&ForeignCa, &ForeignCa, &Identity) -> String,
) -> (World, Identity, Service) {
    let root = ForeignCa::root("their root");
    let issuing = root.issuing("their issuing authority");
    let identity = issuing.leaf("spiffe://other.test/caller", HOUR);
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    open_to_others(&mut scene, keys);
    write(&scene.path().join("other.pem"), &root.pem());
    write(&scene.path().join("other-crl.pem"), &lists(&root, &issuing, &identity));
    (scene.start().await, identity, service)
}

#[tokio::test]
async fn a_list_that_grows_old_is_refused_by_default_also_on_live_connections() {
    let life = Duration::from_secs(4);
    let (world, identity, _service) =
        heeding("", |root, issuing, _| [root.crl(&[]), issuing.crl_for(&[], 1, life)].concat()).await;
    let mut talk = world.talk(Some(&identity)).await;
    assert_eq!(talk.get("/a", "").await.status, 200);
    let mut own = world.talk(Some(&world.identity("caller"))).await;
    assert_eq!(own.get("/a", "").await.status, 200);

    assert!(soon("the end", talk.is_closed()).await);

    assert!(world.try_get(Some(&identity), "").await.is_err());
    assert_eq!(own.get("/a", "").await.status, 200, "nobody else is hit");
    let degraded = world.status().await.degraded.join("\n");
    assert!(degraded.contains("their issuing authority") && degraded.contains("are refused"), "{degraded}");
    assert_eq!(world.metric("postern_crl_stale{trust_domain=\"other.test\"}").await, Some(1.0));
    assert_eq!(world.metric("postern_connections_cut_total{code=\"no-current-crl\"}").await, Some(1.0));
    world.log_with("a revocation list does not speak for now").await;
}

#[tokio::test]
async fn a_list_that_grows_old_still_speaks_where_that_is_accepted() {
    let revoked = Identity::of_another_ca("spiffe://other.test/x").subject().serial;
    let life = Duration::from_secs(3);
    let (world, identity, _service) = heeding("stale_crl = \"accept\"", |root, issuing, _| {
        [root.crl(&[]), issuing.crl_for(std::slice::from_ref(&revoked), 1, life)].concat()
    })
    .await;
    let mut talk = world.talk(Some(&identity)).await;
    let stale = async || {
        world.metric("postern_crl_stale{trust_domain=\"other.test\"}").await.filter(|&stale| stale == 1.0)
    };

    eventually("the list is old", stale).await;

    assert_eq!(talk.get("/a", "").await.status, 200);
    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    let degraded = world.status().await.degraded.join("\n");
    assert!(degraded.contains("are accepted all the same"), "{degraded}");
}

#[tokio::test]
async fn an_old_list_is_believed_about_what_it_has_revoked() {
    let life = Duration::from_secs(2);
    let (world, identity, _service) = heeding("stale_crl = \"accept\"", |root, issuing, identity| {
        [root.crl(&[]), issuing.crl_for(&[identity.subject().serial], 1, life)].concat()
    })
    .await;
    tokio::time::sleep(life + Duration::from_secs(1)).await;

    assert!(world.try_get(Some(&identity), "").await.is_err());
    world.log_with("is revoked").await;
}

#[tokio::test]
async fn an_intermediate_in_the_list_of_its_root_takes_everybody_along() {
    let (world, identity, _service) = heeding("", |root, issuing, _| {
        [root.crl(std::slice::from_ref(&issuing.serial)), issuing.crl(&[])].concat()
    })
    .await;

    assert!(world.try_get(Some(&identity), "").await.is_err());
    world.log_with("is revoked").await;
}

#[tokio::test]
async fn an_agent_does_not_start_with_lists_that_cannot_be_used() {
    let mut scene = Scene::guarding("builtin:whoami");
    open_to_others(&mut scene, "");
    write(&scene.path().join("other.pem"), &ForeignCa::root("their root").pem());
    // The same name and another key.
    write(&scene.path().join("other-crl.pem"), &ForeignCa::root("their root").crl(&[]));
    scene.write();

    let ended = postern(scene.path()).arg("run").output().unwrap();

    assert!(!ended.status.success());
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains("was not signed by the root of that name"), "{told}");
}

/// What callers have seen.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicU64,
}

/// Dials with what is in the files now, asks a few times, and starts over.
async fn call(folder: PathBuf, address: SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let (identity, roots) = delivery(&folder);
        let authority = identity.subject().issuer;
        let is_former = || delivery(&folder).0.subject().issuer != authority;
        let stream = match support::caller::dial(address, &roots, Some(&identity), "http/1.1").await {
            Ok(stream) => stream,
            Err(_) if is_former() => continue,
            Err(error) => panic!("a handshake failed: {error}"),
        };
        let mut talk = Talk::new(stream);
        for _ in 0..20 {
            let asked = talk.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()).await;
            let answer = match asked {
                Ok(()) => talk.try_answer(false).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => assert_eq!(answer.status, 200),
                // Cut with the authority that was revoked; nobody else may be.
                Err(_) if is_former() => break,
                Err(error) => panic!("a request broke: {error}"),
            }
            tally.requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn delivery(folder: &std::path::Path) -> (Identity, Vec<rustls::pki_types::CertificateDer<'static>>) {
    let read = || {
        let current = std::fs::canonicalize(folder.join("current")).ok()?;
        let file = |name: &str| std::fs::read(current.join(name)).ok();
        let chain = pem::certificates(&file("chain.pem")?).ok()?;
        let key = pem::private_key(&file("key.pem")?).ok()?;
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()).into();
        Some((Identity { chain, key }, pem::certificates(&file("bundle.pem")?).ok()?))
    };
    (0..100).find_map(|_| read()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_authorities_cuts_only_who_was_not_issued_anew() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let tally = Arc::new(Tally::default());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        callers.spawn(call(world.files("caller"), world.address(), Arc::clone(&tally)));
    }
    let old = world.identity("caller");
    let mut talk = world.talk(Some(&old)).await;
    assert_eq!(talk.get("/a", "").await.status, 200);
    let issuing = active(&world, "issuing").await;

    let told = does(&world, &format!("ca revoke {issuing} --dry-run")).await;
    assert!(told.contains("nothing was changed"), "{told}");
    assert_eq!(active(&world, "issuing").await, issuing);
    does(&world, &format!("ca revoke {issuing}")).await;

    assert!(talk.is_closed().await);
    assert!(world.try_get(Some(&old), "").await.is_err());
    let status = does(&world, "ca status").await;
    let line = status.lines().find(|line| line.starts_with(&issuing)).unwrap();
    assert!(line.contains("retired, REVOKED"), "{status}");
    let back = run(&world, &format!("ca rollback {issuing}"));
    assert_eq!(back.status.code(), Some(1), "{back:?}");
    assert!(String::from_utf8_lossy(&back.stderr).contains("is revoked"), "{back:?}");
    does(&world, &format!("ca revoke {issuing}")).await;

    does(&world, "ca rotate").await;
    let retired =
        world.status().await.authorities.into_iter().find(|one| one.slot == "retired" && !one.revoked);
    does(&world, &format!("ca revoke {}", retired.unwrap().id)).await;

    let root = active(&world, "root").await;
    let refused = run(&world, &format!("ca revoke --root {root}"));
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let before = world.identity("caller");
    let told = does(&world, &format!("ca revoke --root {root} --force")).await;
    assert!(told.contains("Left behind: other hosts"), "{told}");
    let gone = async || world.try_get(Some(&before), "").await.err();
    eventually("the former root is refused", gone).await;
    assert!(world.status().await.authorities.iter().all(|one| one.id.as_str() != root));
    does(&world, &format!("ca revoke --root {root}")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert!(tally.requests.load(Ordering::Relaxed) > 100, "{tally:?}");
}
