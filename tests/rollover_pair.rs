//! Two hosts roll their CAs over, issuing authorities and roots, while their services talk to each other in every way there is.
//!
//! Leaves live ten seconds, issuing authorities a minute. Only what rests on something revoked may be cut.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, and tells what it measured"
)]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock};
use postern::store::pem;
use support::world::postern;
use support::{Act, H2, Identity, Scene, Service, Talk, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const LIFETIMES: &str =
    "[leaf]\nttl = \"10s\"\n\n[authority]\nissuing_ttl = \"60s\"\nroot_ttl = \"10m\"\ndistribute = \"2s\"\n";

/// How many times the issuing authorities are replaced on command, on both hosts together.
const ISSUING: usize = 20;

/// How many times the roots are.
const ROOTS: usize = 5;

/// A long answer trickles for so long; a leaf is renewed when it has four seconds left at least.
const TRICKLE: Duration = Duration::from_millis(2500);

/// A raw connection lasts at least so long, for the same reason.
const RAW: Duration = Duration::from_secs(3);

/// A host: its agent, and what stands behind it.
struct Host {
    world: World,
    _services: [Service; 2],
}

/// Two hosts, each of which trusts what the other publishes.
struct Pair {
    hosts: [Host; 2],
}

impl Pair {
    async fn start() -> Self {
        let mut scenes = [Scene::of("north.test"), Scene::of("south.test")];
        let mut services = Vec::new();
        for scene in &mut scenes {
            services.push([Service::answering(act).await, Service::echoing("").await]);
            let [web, echo] = &services[services.len() - 1];
            furnish(scene, web, echo);
        }
        let places: Vec<(Ipv4Addr, PathBuf)> =
            scenes.iter().map(|scene| (scene.ip, scene.path().join("state"))).collect();
        for (scene, ((ip, state), domain)) in
            scenes.iter_mut().zip(places.iter().rev().zip(["south.test", "north.test"]))
        {
            introduce(scene, *ip, state, domain);
        }
        scenes.iter().for_each(|scene| drop(scene.init_ca()));
        let [north, south] = scenes;
        let mut services = services.into_iter();
        let hosts = [
            Host { world: north.start().await, _services: services.next().unwrap() },
            Host { world: south.start().await, _services: services.next().unwrap() },
        ];
        Self { hosts }
    }
}

/// What the web service does: a path that asks for it gets an answer that takes long.
fn act(seen: &support::Seen) -> Vec<Act> {
    if seen.path() != "/long" {
        return support::ok();
    }
    let parts = 10;
    let mut acts = vec![Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
    for _ in 0..parts {
        acts.push(Act::Send(b"5\r\nline\n\r\n".to_vec()));
        acts.push(Act::Pause(TRICKLE / parts));
    }
    acts.push(Act::Send(b"0\r\n\r\n".to_vec()));
    acts
}

/// What a whole long answer says.
fn long_answer() -> String {
    "line\n".repeat(10)
}

/// Doors and services of one host, and a workload for whoever runs this test.
fn furnish(scene: &mut Scene, web: &Service, echo: &Service) {
    let uid = rustix::process::geteuid().as_raw();
    scene
        .config(LIFETIMES)
        .config(&format!("[[workload]]\nid = \"caller\"\nmatch = {{ uid = {uid} }}\n[workload.files]\ndirectory = \"files/caller\"\n"))
        .listener("inbound", "")
        .config("[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n")
        .service("web", &web.address.to_string(), "")
        .service("echo", &echo.address.to_string(), "hosts = [\"echo.test\"]")
        .registry(
            "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"all\"\n[[product.operation]]\nservice = \"web\"\n\
             methods = [\"*\"]\npath = \"/**\"\n[[product.operation]]\nservice = \"echo\"\n",
        );
}

/// The way to the other host, and its right to come in.
fn introduce(scene: &mut Scene, ip: Ipv4Addr, state: &Path, domain: &str) {
    let [bundle, crl] = ["bundle.pem", "crl.pem"].map(|name| state.join(name).display().to_string());
    scene.config(&format!(
        "[[trust]]\ndomain = \"{domain}\"\nbundle = \"{bundle}\"\ncrl = \"{crl}\"\nstale_crl = \"refuse\"\n"
    ));
    for (id, port, protocol, listen) in [("web", 8443, "http", 15001), ("echo", 8444, "tcp", 15002)] {
        scene.config(&format!(
            "[[remote]]\nid = \"{id}\"\naddress = \"{ip}:{port}\"\nprotocol = \"{protocol}\"\nlisten = \"{{ip}}:{listen}\"\n\
             spiffe_ids = [\"spiffe://{domain}/agent\"]\n"
        ));
    }
    scene.app("other", &format!("[[app.certificate]]\nuri = \"spiffe://{domain}/caller\"\n"));
    scene.registry("[[app.grant]]\nproduct = \"all\"\n");
}

/// What has been seen of the traffic.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    handshakes: AtomicU64,
    requests: AtomicU64,
    streams: AtomicU64,
    flows: AtomicU64,
    /// Issuing authorities that were revoked, by serial number; what rests on them may break.
    revoked: Mutex<Vec<String>>,
    /// Grows when an authority is about to be revoked, and again when that is done.
    emergencies: AtomicU64,
    broken: Mutex<Vec<String>>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Whether something that began when there were `begun` emergencies may rest on what is revoked: it began before it was.
    fn may_rest_on_revoked(&self, begun: u64) -> bool {
        begun % 2 == 1 || self.emergencies.load(Ordering::Relaxed) != begun
    }

    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, what: &str, why: impl std::fmt::Display) {
        self.broken.lock().unwrap().push(format!("{} {what}: {why}", SystemClock.now()));
    }
}

/// From which host to which.
#[derive(Clone)]
struct Way {
    /// The caller's side: its delivered files, and the local ports of its agent.
    files: PathBuf,
    near: Ipv4Addr,
    /// The other side: its doors, and its roots.
    far: Ipv4Addr,
    roots: PathBuf,
    tally: Arc<Tally>,
}

impl Way {
    fn between(near: &World, far: &World, tally: &Arc<Tally>) -> Self {
        Self {
            files: near.files("caller"),
            near: near.ip,
            far: far.ip,
            roots: far.path().join("state/bundle.pem"),
            tally: Arc::clone(tally),
        }
    }

    /// A handshake of a service that has its certificate as files, with the other host.
    async fn dial(&self, protocol: &str) -> Option<(support::Tls, Identity)> {
        let identity = Identity::delivered(&self.files);
        let roots = pem::certificates(&std::fs::read(&self.roots).unwrap()).unwrap();
        match support::caller::dial((self.far, 8443).into(), &roots, Some(&identity), protocol).await {
            Ok(stream) => {
                self.tally.count(&self.tally.handshakes);
                Some((stream, identity))
            }
            Err(error) => {
                self.fail("a handshake", &identity, error);
                None
            }
        }
    }

    /// Notes what has broken, unless it rested on a revoked authority.
    fn fail(&self, what: &str, identity: &Identity, why: impl std::fmt::Display) {
        let issuer = postern_serial(&identity.chain[1]);
        if !self.tally.revoked.lock().unwrap().contains(&issuer) {
            self.tally.note(what, why);
        }
    }

    /// New connections, one request on each.
    async fn handshakes(self) {
        while self.tally.goes_on() {
            if let Some((stream, identity)) = self.dial("http/1.1").await {
                let mut talk = Talk::new(stream);
                match ask(&mut talk, "/a").await {
                    Ok(_) => self.tally.count(&self.tally.requests),
                    Err(why) => self.fail("a request of its own connection", &identity, why),
                }
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Long answers over HTTP/2, several streams of one connection.
    async fn long_streams(self) {
        while self.tally.goes_on() {
            let Some((stream, identity)) = self.dial("h2").await else { continue };
            let http2 = H2::new(stream).await;
            let mut streams = JoinSet::new();
            for _ in 0..3 {
                let http2 = http2.clone();
                streams.spawn(async move {
                    let request = http::Request::get("https://localhost/long").body(()).unwrap();
                    http2.ask(request, None, None).await
                });
            }
            while let Some(answer) = streams.join_next().await {
                match answer.unwrap() {
                    Ok(answer) if answer.status == 200 && answer.text() == long_answer() => {
                        self.tally.count(&self.tally.streams);
                    }
                    Ok(answer) => self.fail("a long stream", &identity, format!("{answer:?}")),
                    Err(error) => self.fail("a long stream", &identity, error),
                }
            }
        }
    }

    /// Requests of a service that knows nothing of certificates, over the agent; the local connection is kept.
    async fn local(self, path: &'static str) {
        while self.tally.goes_on() {
            let mut talk = Talk::new(TcpStream::connect((self.near, 15001)).await.unwrap());
            while self.tally.goes_on() {
                let begun = self.tally.emergencies.load(Ordering::Relaxed);
                match ask(&mut talk, path).await {
                    Ok(End::Open) => self.tally.count(&self.tally.requests),
                    Ok(End::Closed) => {
                        self.tally.count(&self.tally.requests);
                        break;
                    }
                    Err(why) => {
                        if !self.tally.may_rest_on_revoked(begun) {
                            self.tally.note("a local request", why);
                        }
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Raw connections over both agents, each for as long as it lasts.
    async fn raw(self) {
        while self.tally.goes_on() {
            let begun = Instant::now();
            let mut flow = TcpStream::connect((self.near, 15002)).await.unwrap();
            let emergencies = self.tally.emergencies.load(Ordering::Relaxed);
            while self.tally.goes_on() && pings(&mut flow).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let is_cut = self.tally.may_rest_on_revoked(emergencies);
            if self.tally.goes_on() && begun.elapsed() < RAW && !is_cut {
                self.tally.note("a raw connection", format!("it ended after {:?}", begun.elapsed()));
            }
            self.tally.count(&self.tally.flows);
        }
    }
}

/// What became of a connection after an answer.
enum End {
    Closed,
    Open,
}

async fn ask<S>(talk: &mut Talk<S>, path: &str) -> Result<End, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    talk.try_send(request).await.map_err(|error| error.to_string())?;
    let answer = talk.try_answer(false).await.map_err(|error| error.to_string())?;
    let whole = if path == "/long" { answer.text() == long_answer() } else { answer.text() == "ok\n" };
    if answer.status != 200 || !whole {
        return Err(format!("{answer:?}"));
    }
    Ok(if answer.header("connection") == Some("close") { End::Closed } else { End::Open })
}

async fn pings(flow: &mut TcpStream) -> bool {
    let mut echo = [0; 4];
    flow.write_all(b"ping").await.is_ok() && flow.read_exact(&mut echo).await.is_ok() && echo == *b"ping"
}

/// A certificate's serial number, as a revocation names it.
fn postern_serial(certificate: &rustls::pki_types::CertificateDer<'_>) -> String {
    use x509_parser::prelude::FromDer as _;

    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    let significant: Vec<u8> = parsed.raw_serial().iter().copied().skip_while(|&byte| byte == 0).collect();
    data_encoding::HEXLOWER.encode(&significant)
}

/// A command of the operator, which must succeed.
async fn does(world: &World, words: &str) {
    let mut command = postern(world.path());
    command.args(words.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The serial number of the authority that signs leaves now.
async fn signer(world: &World) -> String {
    let folder = world.issuing_folder().await;
    let certificates = pem::certificates(&std::fs::read(folder.join("certificate.pem")).unwrap()).unwrap();
    postern_serial(&certificates[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_roll_over_twenty_five_times_and_their_services_notice_nothing() {
    let pair = Pair::start().await;
    let [north, south] = [&pair.hosts[0].world, &pair.hosts[1].world];
    let tally = Arc::new(Tally::default());
    let mut traffic = JoinSet::new();
    for way in [Way::between(north, south, &tally), Way::between(south, north, &tally)] {
        traffic.spawn(way.clone().handshakes());
        traffic.spawn(way.clone().long_streams());
        traffic.spawn(way.clone().local("/a"));
        traffic.spawn(way.clone().local("/long"));
        traffic.spawn(way.clone().raw());
    }
    let begun = Instant::now();

    for round in 0..ISSUING / 2 {
        for world in [north, south] {
            does(world, "ca rotate").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if round < ROOTS {
            does([north, south][round % 2], "ca rotate --root").await;
        }
        if round == 2 {
            does(south, "ca rollback").await;
        }
        if round == 6 {
            emergency(north, Way::between(north, south, &tally)).await;
        }
        let broken = tally.broken.lock().unwrap().clone();
        assert!(broken.is_empty(), "in round {round}: {broken:#?}");
    }
    let span = begun.elapsed();

    // All of it is through: nothing is left of what was replaced.
    for world in [north, south] {
        let mut patience = 6;
        while world.status().await.authorities.iter().any(|one| one.slot == "retired") {
            patience -= 1;
            assert!(patience > 0, "{:#?}", world.status().await.authorities);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
    tally.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = traffic.join_next().await {
        ended.unwrap();
    }
    let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let [handshakes, requests, streams, flows] =
        [&tally.handshakes, &tally.requests, &tally.streams, &tally.flows].map(counted);
    println!(
        "{ISSUING} issuing authorities and {ROOTS} roots replaced in {span:?}: {handshakes} handshakes, {requests} requests, \
         {streams} long HTTP/2 streams, {flows} raw connections; broken: {}",
        tally.broken.lock().unwrap().len()
    );
    assert!(tally.broken.lock().unwrap().is_empty(), "{:#?}", tally.broken.lock().unwrap());
    assert!(handshakes > 500 && requests > 1000 && streams > 50 && flows > 10);
}

/// The key of the issuing authority is in other hands: another takes its place, and what it has signed ends, also at the other
/// host.
async fn emergency(world: &World, way: Way) {
    let (stolen, stolen_id) = (signer(world).await, active_issuing(world).await);
    let (stream, _) = way.dial("http/1.1").await.unwrap();
    let mut thief = Talk::new(stream);
    assert!(ask(&mut thief, "/a").await.is_ok());

    // Whatever rests on it may break, and what begins after it has been replaced must not.
    way.tally.revoked.lock().unwrap().push(stolen);
    way.tally.emergencies.fetch_add(1, Ordering::Relaxed);
    does(world, &format!("ca revoke {stolen_id}")).await;
    let begun = Instant::now();
    way.tally.emergencies.fetch_add(1, Ordering::Relaxed);

    assert!(thief.is_closed().await);
    assert!(begun.elapsed() < Duration::from_secs(1), "the other host cut it after {:?}", begun.elapsed());
}

async fn active_issuing(world: &World) -> String {
    let authorities = world.status().await.authorities;
    let active = authorities.iter().find(|one| one.level == "issuing" && one.slot == "active");
    active.unwrap().id.to_string()
}
