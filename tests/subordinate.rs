//! Hosts that have issuing authorities only: the root is kept elsewhere, and nobody notices when something is signed there.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic, and says when it is skipped"
)]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{Scene, Talk, World, eventually, write};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

/// Runs `postern` with the configuration in `folder`.
fn postern(folder: &Path, words: &str) -> Outcome {
    outcome(support::world::postern(folder).args(words.split_whitespace()))
}

fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Outcome { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

#[track_caller]
fn does(folder: &Path, words: &str) -> String {
    let outcome = postern(folder, words);
    assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
    outcome.out
}

/// An offline directory with a root, which no agent ever uses.
fn office() -> Scene {
    let scene = Scene::new();
    scene.init_ca();
    scene
}

/// csr here, sign there, install here.
#[track_caller]
fn renew(office: &Path, host: &Path, ttl: &str) -> Outcome {
    let [request, chain] = ["request.pem", "chain.pem"].map(|name| host.join(name));
    does(host, &format!("ca csr --out {}", request.display()));
    does(office, &format!("ca sign {} --ttl {ttl} --out {}", request.display(), chain.display()));
    postern(host, &format!("ca install {}", chain.display()))
}

/// A host that guards `whoami`, where this very process is the workload `own`, which may call `peer`.
fn host(own: &str, peer: &str) -> Scene {
    let mut scene = Scene::new();
    let uid = rustix::process::geteuid().as_raw();
    scene
        .config("[authority]\nmode = \"subordinate\"\ndistribute = \"1s\"\n\n[leaf]\nttl = \"3s\"\n")
        .listener("inbound", "")
        .service("whoami", "builtin:whoami", "")
        .config(&format!("[[workload]]\nid = \"{own}\"\nmatch = {{ uid = {uid} }}\nfiles = {{ directory = \"files/{own}\" }}\n"));
    scene
        .registry(
            "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\n[[product.operation]]\nservice = \"whoami\"\n\
             methods = [\"*\"]\npath = \"/**\"\n",
        )
        .app(peer, &format!("[[app.certificate]]\nuri = \"spiffe://postern.test/{peer}\"\n"))
        .registry(support::world::GRANT);
    scene
}

fn calls(scene: &mut Scene, ip: std::net::Ipv4Addr) {
    scene.config(&format!(
        "[[remote]]\nid = \"peer\"\naddress = \"{ip}:8443\"\nprotocol = \"http\"\nlisten = \"{{ip}}:15001\"\n\
         spiffe_ids = [\"spiffe://postern.test/agent\"]\n"
    ));
}

/// What the callers have seen.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicU64,
}

/// Asks over and over, in plaintext, through the agent that listens on `address`.
async fn call(address: SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let mut talk = Talk::new(TcpStream::connect(address).await.unwrap());
        for _ in 0..20 {
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

async fn active(world: &World, level: &str) -> String {
    let authorities = world.status().await.authorities;
    let found = authorities.iter().find(|one| one.level == level && one.slot == "active");
    found.unwrap().id.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_of_two_hosts_call_each_other_while_everything_is_signed_elsewhere() {
    let office_scene = office();
    let office = office_scene.path().to_owned();
    let (mut one, mut two) = (host("one", "two"), host("two", "one"));
    let (one_ip, two_ip) = (one.ip, two.ip);
    calls(&mut one, two_ip);
    calls(&mut two, one_ip);
    for scene in [&one, &two] {
        scene.write();
        let refused = postern(scene.path(), "run");
        assert!(refused.code == 1 && refused.err.contains("`postern ca csr > request.pem`"), "{refused:?}");
        assert_eq!(postern(scene.path(), "ca status").code, 3);
        assert_eq!(renew(&office, scene.path(), "60s").code, 0);
    }
    let (one, two) = (one.start().await, two.start().await);
    let tally = Arc::new(Tally::default());
    let mut callers = tokio::task::JoinSet::new();
    for ip in [one_ip, two_ip, one_ip, two_ip] {
        callers.spawn(call((ip, 15001).into(), Arc::clone(&tally)));
    }

    for _ in 0..4 {
        for world in [&one, &two] {
            let former = active(world, "issuing").await;
            let (office, host) = (office.clone(), world.path().to_owned());
            let installed = tokio::task::spawn_blocking(move || renew(&office, &host, "60s")).await.unwrap();
            assert_eq!(installed.code, 0, "{installed:?}");
            assert_eq!(format!("{}\n", active(world, "issuing").await), installed.out);
            assert_ne!(active(world, "issuing").await, former);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(callers.try_join_next().is_none(), "a caller ended");
    }

    let next_scene = self::office();
    let next = next_scene.path().to_owned();
    let root = next.join("state/bundle.pem");
    for world in [&one, &two] {
        does(world.path(), &format!("ca install --root-only {}", root.display()));
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for world in [&one, &two] {
        let (next, host) = (next.clone(), world.path().to_owned());
        let installed = tokio::task::spawn_blocking(move || renew(&next, &host, "60s")).await.unwrap();
        assert!(installed.code == 0 || installed.code == 3, "{installed:?}");
        if installed.code == 3 {
            does(world.path(), "ca rotate --timeout 10s");
        }
        assert_eq!(format!("{}\n", active(world, "issuing").await), installed.out);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(active(&one, "root").await, active(&two, "root").await);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(callers.try_join_next().is_none(), "a caller ended");

    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let requests = tally.requests.load(Ordering::Relaxed);
    assert!(requests > 200, "{requests}");
    for world in [&one, &two] {
        let (_, metrics) = world.health("/metrics").await.unwrap();
        for name in ["handshakes", "requests", "outbound"] {
            let lines: Vec<&str> =
                metrics.lines().filter(|line| line.starts_with(&format!("postern_{name}_total"))).collect();
            let good = |line: &&str| line.contains("\"ok\"") || line.contains("\"allowed\"");
            assert!(!lines.is_empty() && lines.iter().all(good), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_says_what_it_waits_for_lets_its_leaves_end_and_is_healed_without_a_restart() {
    let office = office().start().await;
    let scene = host("one", "two");
    scene.write();
    assert_eq!(renew(office.path(), scene.path(), "12s").code, 0);
    let mut world = scene.start().await;
    let first = active(&world, "issuing").await;

    let waits =
        async || (world.metric("postern_authority_awaits_signature").await == Some(1.0)).then_some(());
    eventually("the agent waits for a signature", waits).await;
    let (status, text) = world.health("/ready").await.unwrap();
    assert!(
        status == 200 && text.contains("degraded: the next issuing authority waits for a signature since"),
        "{text}"
    );
    let shown = postern(world.path(), "ca status");
    assert!(shown.out.contains("waits for a signature: run `postern ca csr`"), "{shown:?}");
    let request = does(world.path(), "ca csr");
    world.restart().await;
    assert_eq!(does(world.path(), "ca csr"), request, "a restart loses nothing");

    let short = async || (world.metric("postern_certificates_shortened").await == Some(2.0)).then_some(());
    eventually("leaves end with the authority", short).await;
    assert!(postern(world.path(), "ca status").out.contains("SHORT     the certificate of one ends with"));
    let dark = async || world.health("/ready").await.filter(|(status, _)| *status == 503);
    let (_, text) = eventually("the authority has ended", dark).await;
    let expired =
        async || world.health("/ready").await.filter(|(_, text)| text.contains("the issuing authority"));
    let (_, text) = if text.contains("the issuing authority") {
        (0, text)
    } else {
        eventually("it is named", expired).await
    };
    assert!(text.contains(&format!("the issuing authority {first} expired at")), "{text}");

    let healed = renew(office.path(), world.path(), "60s");
    assert_eq!(healed.code, 0, "{healed:?}");
    let (status, text) = world.health("/ready").await.unwrap();
    assert_eq!((status, text.as_str()), (200, "ready\n"));
    let log = office.log();
    assert!(log.contains("issuing authority signed for another host") && log.contains("\"serial\""), "{log}");
}

/// A CA of OpenSSL: a root and an intermediate below it.
struct OpenSsl(TempDir);

impl OpenSsl {
    fn found() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let openssl = Self(folder);
        if Command::new("openssl").arg("version").output().is_err() {
            println!("skipped: openssl is not installed");
            return None;
        }
        write(
            &openssl.path("extensions"),
            "[middle]\nbasicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
             [issuing]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://postern.test\n\
             [open]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n\
             [leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             [foreign]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n\
             subjectAltName=URI:spiffe://elsewhere.test\n",
        );
        openssl.run(
            "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 30 -subj /O=Example/CN=Root \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
        );
        openssl.run("req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout middle.key -out middle.csr -subj /O=Example/CN=Middle");
        openssl.sign("middle.csr", "root", "middle", "-days 20", "middle.pem");
        Some(openssl)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, words: &str) {
        let run = outcome(Command::new("openssl").current_dir(self.0.path()).args(words.split_whitespace()));
        assert_eq!(run.code, 0, "openssl {words}: {run:?}");
    }

    fn sign(&self, request: &str, signer: &str, section: &str, life: &str, out: &str) {
        self.run(&format!(
            "x509 -req -in {request} -CA {signer}.pem -CAkey {signer}.key -CAcreateserial -extfile extensions \
             -extensions {section} {life} -out {out}"
        ));
    }

    /// A file with these certificates in this order.
    fn chain(&self, names: &[&str]) -> String {
        let text: String =
            names.iter().map(|name| std::fs::read_to_string(self.path(name)).unwrap()).collect();
        write(&self.path("chain.pem"), &text);
        self.path("chain.pem").display().to_string()
    }
}

#[tokio::test]
async fn what_openssl_has_signed_is_installed_and_what_is_wrong_with_it_is_named() {
    let Some(openssl) = OpenSsl::found() else { return };
    let mut scene = host("one", "two");
    scene.config("");
    scene.write();
    let folder = scene.path().to_owned();
    does(&folder, &format!("ca csr --out {}", openssl.path("request.pem").display()));
    let sign =
        |section: &str, life: &str| openssl.sign("request.pem", "middle", section, life, "issuing.pem");
    let refused = |chain: String, expected: &str| {
        let outcome = postern(&folder, &format!("ca install {chain}"));
        assert!(outcome.code == 1 && outcome.err.contains(expected), "{expected}: {outcome:?}");
        assert_eq!(postern(&folder, "ca status").code, 3, "nothing was changed");
    };

    for (section, expected) in [
        ("open", "with pathLenConstraint 0, found none"),
        ("leaf", "it is not marked as one (basicConstraints CA)"),
        ("foreign", "is that of spiffe://elsewhere.test, this host belongs to spiffe://postern.test"),
    ] {
        sign(section, "-days 10");
        refused(openssl.chain(&["issuing.pem", "middle.pem", "root.pem"]), expected);
    }
    sign("issuing", "-days 25");
    refused(
        openssl.chain(&["issuing.pem", "middle.pem", "root.pem"]),
        "but the certificate between it and the root only until",
    );
    sign("issuing", "-days 0");
    refused(openssl.chain(&["issuing.pem", "middle.pem", "root.pem"]), "and the clock says");
    sign("issuing", "-days 10");
    refused(openssl.chain(&["issuing.pem", "middle.pem"]), "append the root to the chain");
    refused(openssl.chain(&["issuing.pem", "root.pem"]), "the chain is out of order at number 2");
    refused(
        openssl.chain(&["root.pem", "middle.pem", "issuing.pem"]),
        "the chain is out of order at number 1",
    );
    refused(openssl.chain(&["middle.pem", "root.pem"]), "for another key than the one that waits here");
    refused(openssl.path("extensions").display().to_string(), "line 1 stands outside of any PEM block");
    refused(openssl.path("request.pem").display().to_string(), "found CERTIFICATE REQUEST");

    let chain = openssl.chain(&["issuing.pem", "middle.pem"]);
    let install = format!("ca install {chain} --bundle {}", openssl.path("root.pem").display());
    assert_eq!(postern(&folder, &format!("{install} --dry-run")).code, 0);
    assert_eq!(postern(&folder, "ca status").code, 3, "a rehearsal changes nothing");
    does(&folder, &install);
    let world = scene.start().await;
    let (chain, leaf) = (world.files("one").join("current/chain.pem"), openssl.path("leaf.pem"));
    std::fs::copy(chain, &leaf).unwrap();
    openssl.run("verify -x509_strict -CAfile root.pem -untrusted leaf.pem leaf.pem");
    assert_eq!(
        support::world::postern(world.path()).args(["ca", "rotate"]).output().unwrap().status.code(),
        Some(1)
    );
}
