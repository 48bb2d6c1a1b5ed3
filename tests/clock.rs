//! The clock is set while the agent works: by an hour, forwards and backwards, under live traffic.
//!
//! The agent runs under libfaketime (Debian's package `faketime`), which is installed where it is missing and root may do so.
//! The runtime's clock and the time since boot stay real, as they do when a machine's clock is set.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use postern::clock::{Clock, SystemClock, Timestamp};
use postern::pki::{Authority, KeyAlgorithm, Profile, issue};
use postern::store::pem;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use support::{H2, Identity, Scene, Service, Talk, Tls, World, eventually};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: i64 = 3600;

/// What follows from a step has happened after this long. A second is promised; the rest is for a machine that is busy.
const SOON: Duration = Duration::from_millis(2500);

/// The clock of the agents of one test, and of their callers.
#[derive(Clone, Debug)]
struct Stepped {
    offset: Arc<AtomicI64>,
    file: PathBuf,
    library: PathBuf,
}

impl Stepped {
    /// A clock that goes right; none where libfaketime is missing.
    fn right(folder: &Path) -> Option<Self> {
        let library = faketime()?;
        let clock = Self { offset: Arc::default(), file: folder.join("offset"), library };
        clock.step_to(0);
        Some(clock)
    }

    /// From now on the clock is wrong by `offset` seconds.
    fn step_to(&self, offset: i64) {
        let next = self.file.with_extension("next");
        support::write(&next, &format!("{offset:+}\n"));
        std::fs::rename(next, &self.file).unwrap();
        self.offset.store(offset, Ordering::SeqCst);
    }

    fn lead(&self, scene: &mut Scene) {
        scene
            .variable("LD_PRELOAD", self.library.to_str().unwrap())
            .variable("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .variable("NO_FAKE_STAT", "1");
    }
}

impl Clock for Stepped {
    fn now(&self) -> Timestamp {
        let offset = self.offset.load(Ordering::SeqCst);
        let by = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { SystemClock.now() - by } else { SystemClock.now() + by }
    }

    fn since_boot(&self) -> Duration {
        SystemClock.since_boot()
    }
}

impl TimeProvider for Stepped {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.now().unix()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

/// Where the library is, once it is installed.
fn faketime() -> Option<PathBuf> {
    let find = || {
        let folders = std::fs::read_dir("/usr/lib").ok()?;
        let folders =
            folders.filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")));
        folders.into_iter().find(|library| library.exists())
    };
    let found = find().or_else(|| {
        let mut install = Command::new("apt-get");
        let install = install.args(["install", "-qq", "-y", "faketime"]).output();
        install.is_ok_and(|output| output.status.success()).then(find).flatten()
    });
    if found.is_none() {
        #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
        {
            println!("skipped: libfaketime is missing and cannot be installed");
        }
    }
    found
}

/// One agent whose clock is stepped, with a listener for HTTP and one for raw connections.
struct Stage {
    world: World,
    clock: Stepped,
    _service: Service,
    _echo: Service,
}

impl Stage {
    /// Its CA is two hours old, its leaves live for ten minutes.
    async fn set() -> Option<Self> {
        let service = Service::start().await;
        let echo = Service::echoing("hello ").await;
        let mut scene = Scene::guarding(service.address);
        let clock = Stepped::right(scene.path())?;
        clock.lead(&mut scene);
        scene.config("[leaf]\nttl = \"10m\"\n");
        scene.config(
            "[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n",
        );
        scene.service("echo", &echo.address.to_string(), "");
        scene.registry("[[product]]\nid = \"raw\"\n[[product.operation]]\nservice = \"echo\"\n");
        for (app, product) in [("veteran", "orders"), ("veteran-raw", "raw"), ("caller-raw", "raw")] {
            scene.app(app, &format!("[[app.certificate]]\nuri = \"spiffe://postern.test/{app}\"\n"));
            scene.registry(&format!("[[app.grant]]\nproduct = \"{product}\"\n"));
        }
        scene.workload("caller-raw", "");
        clock.step_to(-2 * HOUR);
        scene.init_ca();
        clock.step_to(0);
        Some(Self { world: scene.start().await, clock, _service: service, _echo: echo })
    }

    /// A certificate of the agent's CA that was valid an hour ago and is for `left` from now on.
    async fn veteran(&self, name: &str, left: Duration) -> Identity {
        issued(&self.world, name, SystemClock.now() - MINUTE * 90, left + MINUTE * 90).await
    }

    /// Connects as somebody whose clock goes as the agent's.
    async fn dial(&self, port: u16, identity: &Identity, protocol: &str) -> std::io::Result<Tls> {
        let bundle = std::fs::read(self.world.path().join("state/bundle.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        for root in pem::certificates(&bundle).unwrap() {
            roots.add(root).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(self.clock.clone()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .unwrap();
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        }
        let stream = TcpStream::connect((self.world.ip, port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    async fn connect(&self, http: &Identity, raw: &Identity) -> Connections {
        let mut http1 = Talk::new(self.dial(8443, http, "http/1.1").await.unwrap());
        assert_eq!(http1.get("/a", "").await.status, 200);
        let h2 = H2::new(self.dial(8443, http, "h2").await.unwrap()).await;
        assert_eq!(h2.get("/a", &[]).await.status, 200);
        let mut tcp = self.dial(8444, raw, "").await.unwrap();
        assert!(echoes(&mut tcp).await);
        Connections { http1, h2, tcp }
    }

    async fn number_of(&self, metric: &str) -> f64 {
        self.world.metric(metric).await.unwrap_or(0.0)
    }

    /// What must hold however the clock stands: ready, leaves that are valid by it, the authorities of before.
    async fn stands(&self, authorities: &[String]) {
        eventually("the agent is ready by its clock", async || {
            let (status, _) = self.world.health("/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        let status = self.world.status().await;
        let now = self.clock.now();
        for workload in &status.workloads {
            let left = workload.not_after.since(now);
            assert!(left > Duration::ZERO && left <= MINUTE * 10, "{workload:?} at {now}");
        }
        assert_eq!(ids(&status), authorities, "nothing was rotated");
    }

    fn delivered_generation(&self) -> u64 {
        let path = self.world.files("caller").join("current/generation");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

/// A certificate that the agent's CA might have issued at `at`.
async fn issued(world: &World, name: &str, at: Timestamp, ttl: Duration) -> Identity {
    let folder = world.issuing_folder().await;
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let certificate = pem::certificates(&read("certificate.pem")).unwrap().remove(0);
    let key = pem::private_key(&read("key.pem")).unwrap();
    let authority = Authority::load(certificate, &key, SystemClock.now()).unwrap();
    let profile = Profile {
        spiffe_id: format!("spiffe://postern.test/{name}").parse().unwrap(),
        dns: Vec::new(),
        ttl,
        backdate: MINUTE,
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    Identity::from(&issue(&authority, &profile, at).unwrap())
}

fn ids(status: &postern::admin::Status) -> Vec<String> {
    status.authorities.iter().map(|authority| format!("{} {}", authority.id, authority.slot)).collect()
}

/// One connection of each kind, under one person's certificates.
struct Connections {
    http1: Talk<Tls>,
    h2: H2,
    tcp: Tls,
}

impl Connections {
    async fn all_answer(&mut self) {
        assert_eq!(self.http1.get("/a", "").await.status, 200);
        assert_eq!(self.h2.get("/a", &[]).await.status, 200);
        assert!(echoes(&mut self.tcp).await);
    }

    /// How long it takes until all three have ended.
    async fn all_end(mut self) -> Duration {
        let begun = Instant::now();
        let mut rest = Vec::new();
        let (closed, (), read) =
            tokio::join!(self.http1.is_closed(), self.h2.closed(), self.tcp.read_to_end(&mut rest));
        assert!(closed && rest.is_empty());
        // An end without a goodbye is one, too.
        drop(read);
        begun.elapsed()
    }
}

async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let exchange = async {
        stream.write_all(b"ping").await?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"ping") {
            let mut bytes = [0_u8; 64];
            match stream.read(&mut bytes).await? {
                0 => return Ok(false),
                count => heard.extend_from_slice(bytes.get(..count).unwrap()),
            }
        }
        Ok::<_, std::io::Error>(true)
    };
    tokio::time::timeout(SOON, exchange).await.is_ok_and(|outcome| outcome.unwrap_or(false))
}

/// Callers who come anew all the time. None of them is in the middle of a handshake when the clock is stepped: what was shown
/// before by one clock could rightly be refused by the other.
#[derive(Default)]
struct Callers {
    door: RwLock<()>,
    handshakes: AtomicUsize,
    slowest: std::sync::Mutex<Duration>,
}

impl Callers {
    async fn come(&self, stage: &Stage, veteran: &Identity) {
        loop {
            let held = self.door.read().await;
            let begun = Instant::now();
            let mut talk = Talk::new(stage.dial(8443, veteran, "http/1.1").await.unwrap());
            drop(held);
            assert_eq!(talk.get("/a", "").await.status, 200);
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = begun.elapsed().max(*slowest);
            self.handshakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn step(&self, stage: &Stage, offset: i64) {
        let _nobody = self.door.write().await;
        stage.clock.step_to(offset);
    }
}

#[tokio::test]
async fn an_hour_forwards_and_backwards_ends_what_has_expired_and_nothing_else() {
    let Some(stage) = Stage::set().await else { return };
    let world = &stage.world;
    let (old, old_raw) =
        tokio::join!(stage.veteran("veteran", MINUTE * 120), stage.veteran("veteran-raw", MINUTE * 120));
    let before = world.status().await;
    let mut lasting = stage.connect(&old, &old_raw).await;
    let callers = Callers::default();

    let steps = async {
        let mut generation = stage.delivered_generation();
        for (offset, direction, reason) in [
            (HOUR, "forward", "certificate-expired"),
            (0, "back", "certificate-not-yet-valid"),
            (-HOUR, "back", "certificate-not-yet-valid"),
            (0, "forward", "certificate-expired"),
        ] {
            let (brief, brief_raw) = (world.identity("caller"), world.identity("caller-raw"));
            let resting_on_brief = stage.connect(&brief, &brief_raw).await;
            let cuts = format!("postern_connections_cut_total{{code=\"{reason}\"}}");
            let steps = format!("postern_clock_steps_total{{direction=\"{direction}\"}}");
            let (cut, stepped) = (stage.number_of(&cuts).await, stage.number_of(&steps).await);

            callers.step(&stage, offset).await;

            let took = resting_on_brief.all_end().await;
            assert!(took < SOON, "cut {took:?} after a step to {offset}");
            assert_eq!(stage.number_of(&cuts).await - cut, 3.0, "{reason}");
            assert_eq!(stage.number_of(&steps).await - stepped, 1.0, "{direction}");
            lasting.all_answer().await;
            stage.stands(&ids(&before)).await;
            eventually("a fresh delivery", async || {
                (stage.delivered_generation() > generation).then_some(())
            })
            .await;
            generation = stage.delivered_generation();
        }
    };
    tokio::select! {
        _ = async { tokio::join!(callers.come(&stage, &old), callers.come(&stage, &old)) } => {}
        () = steps => {}
    }

    let (handshakes, slowest) =
        (callers.handshakes.load(Ordering::Relaxed), *callers.slowest.lock().unwrap());
    #[expect(clippy::print_stdout, reason = "the figures are wanted")]
    {
        println!("{handshakes} handshakes and requests, none failed; the slowest took {slowest:?}");
    }
    assert!(handshakes > 20 && slowest < SOON, "{handshakes} {slowest:?}");
    assert_eq!(world.status().await.bundle_sequence, before.bundle_sequence);
    let log = world.log();
    assert_eq!(log.matches("the clock was set").count(), 4, "{log}");
    assert!(log.contains("forward by 36") && log.contains("back by 36"), "{log}");
    assert!(!log.contains("handshake failed"), "{log}");
}

#[tokio::test]
async fn after_a_restart_under_a_clock_that_was_set_back_generations_still_grow() {
    let Some(mut stage) = Stage::set().await else { return };
    let before = (stage.delivered_generation(), ids(&stage.world.status().await));

    stage.clock.step_to(-HOUR);
    stage.world.restart().await;

    assert!(stage.delivered_generation() > before.0);
    stage.stands(&before.1).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_gives_a_connection_the_rest_of_its_certificate() {
    let Some(stage) = Stage::set().await else { return };
    let end = Duration::from_secs(6);
    let (brief, brief_raw) = tokio::join!(stage.veteran("veteran", end), stage.veteran("veteran-raw", end));
    let mut connections = stage.connect(&brief, &brief_raw).await;
    let begun = Instant::now();

    stage.clock.step_to(-60);

    tokio::time::sleep_until(begun + end + Duration::from_secs(2)).await;
    connections.all_answer().await;
    stage.clock.step_to(0);
    let took = connections.all_end().await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn connections_to_outside_follow_the_clock_too() {
    let echo = Service::echoing("hello ").await;
    let mut far = Scene::of("far.test");
    let mut near = Scene::of("near.test");
    let Some(clock) = Stepped::right(near.path()) else { return };
    clock.lead(&mut far);
    clock.lead(&mut near);
    far.config("[leaf]\nttl = \"10m\"\n\n[[trust]]\ndomain = \"near.test\"\nbundle = \"other.pem\"\n")
        .listener("inbound", "")
        .config(
            "[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n",
        )
        .service("whoami", "builtin:whoami", "")
        .service("echo", &echo.address.to_string(), "");
    far.registry(
        "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"all\"\n[[product.operation]]\nservice = \"whoami\"\n\
         methods = [\"*\"]\npath = \"/**\"\n[[product.operation]]\nservice = \"echo\"\n",
    );
    far.app(
        "web",
        "[[app.certificate]]\nuri = \"spiffe://near.test/web\"\n[[app.grant]]\nproduct = \"all\"\n",
    );
    let uid = rustix::process::geteuid().as_raw();
    near.config(&format!(
        "[leaf]\nttl = \"10m\"\n\n[[trust]]\ndomain = \"far.test\"\nbundle = \"other.pem\"\n\n\
         [[workload]]\nid = \"web\"\nmatch = {{ uid = {uid} }}\n"
    ));
    for (id, port, protocol, listen) in [("far", 8443, "http", 15001), ("raw", 8444, "tcp", 15003)] {
        near.config(&format!(
            "[[remote]]\nid = \"{id}\"\naddress = \"{}:{port}\"\nprotocol = \"{protocol}\"\nlisten = \"{{ip}}:{listen}\"\n\
             spiffe_ids = [\"spiffe://far.test/agent\"]\n",
            far.ip
        ));
    }
    clock.step_to(-2 * HOUR);
    support::write(&near.path().join("other.pem"), &far.init_ca());
    support::write(&far.path().join("other.pem"), &near.init_ca());
    clock.step_to(0);
    let (_far, near) = (far.start().await, near.start().await);

    for offset in [HOUR, 0] {
        let mut kept = Talk::new(TcpStream::connect((near.ip, 15001)).await.unwrap());
        assert_eq!(kept.get("/a", "").await.status, 200);
        let mut raw = TcpStream::connect((near.ip, 15003)).await.unwrap();
        assert!(echoes(&mut raw).await);

        clock.step_to(offset);

        assert_eq!(kept.get("/a", "").await.status, 200, "over a fresh connection");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, raw.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the raw connection outlived its certificate at {offset}");
        let mut raw = TcpStream::connect((near.ip, 15003)).await.unwrap();
        assert!(echoes(&mut raw).await, "a new one works at once");
    }
}

#[tokio::test]
async fn a_peer_whose_clock_is_ahead_is_named_and_several_mean_this_hosts_clock() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let future = SystemClock.now() + MINUTE * 5;
    let degraded = async || world.status().await.degraded;

    for name in ["caller", "stranger", "caller", "caller"] {
        let early = issued(&world, name, future, MINUTE * 60).await;
        assert!(world.try_get(Some(&early), "").await.is_err());
    }

    world.log_with("their clock is ahead of ours by at least as much, or ours is behind").await;
    let skew = world.metric("postern_clock_skew_seconds{trust_domain=\"postern.test\"}").await.unwrap();
    assert!(skew > 200.0 && skew <= 240.0, "a backdate of one minute hides as much of the five: {skew}");
    assert_eq!(degraded().await, Vec::<String>::new(), "two peers may be wrong themselves");
    let foreign = Identity::of_another_ca("spiffe://postern.test/outsider");
    assert!(world.try_get(Some(&foreign), "").await.is_err());
    assert_eq!(degraded().await, Vec::<String>::new());

    let early = issued(&world, "nobody", future, MINUTE * 60).await;
    assert!(world.try_get(Some(&early), "").await.is_err());

    let reasons = degraded().await;
    assert!(
        reasons.iter().any(|reason| reason.starts_with("3 peers show certificates that begin")),
        "{reasons:?}"
    );
    assert_eq!(world.health("/ready").await.unwrap().0, 200, "it serves all the same");
}
