//! One agent takes over from another while callers are at it, and none of them notices; and an agent that ends lets whoever is
//! under way finish.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use support::caller::dial;
use support::world::{GRANT, postern};
use support::{Act, H2, Identity, Scene, Seen, Service, Talk, World, eventually, soon};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// So often one agent takes over from another.
const TIMES: usize = 10;

/// What the metered app may use.
const QUOTA: usize = 300;

/// Callers make a pause between two requests, so that a few hundred come each second.
const PAUSE: Duration = Duration::from_millis(10);

/// A service whose answer is the path that it was asked for.
async fn mirror() -> Service {
    Service::answering(|seen: &Seen| {
        let path = seen.path().to_owned();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", path.len());
        vec![Act::ReadBody, Act::Send([head.into_bytes(), path.into_bytes()].concat())]
    })
    .await
}

/// A scene in which everybody is let in, and the way out leads to its own listener.
fn scene(service: &Service) -> Scene {
    let mut scene = Scene::guarding(service.address);
    let uid = rustix::process::geteuid().as_raw();
    scene.amend_config("threads = 2\n", "threads = 2\n\n[limits]\ndrain = \"2s\"\n");
    scene.workload("resident", &format!("match = {{ uid = {uid} }}"));
    scene.config(
        "[[remote]]\nid = \"self\"\naddress = \"{ip}:8443\"\nprotocol = \"http\"\nlisten = \"{ip}:15001\"\n\
         spiffe_ids = [\"spiffe://postern.test/agent\"]\n",
    );
    scene.app("resident", "[[app.certificate]]\nuri = \"spiffe://postern.test/resident\"\n");
    scene.registry(GRANT);
    scene
}

/// What callers need to know, and what came of their requests.
#[derive(Clone)]
struct Load {
    address: std::net::SocketAddr,
    outbound: std::net::SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    identity: Arc<Identity>,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn on(world: &World) -> Self {
        Self {
            address: world.address(),
            outbound: (world.ip, 15001).into(),
            roots: world.roots(),
            identity: Arc::new(world.identity("caller")),
            over: Arc::default(),
            answered: Arc::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn expect(&self, answer: &support::Answer, path: &str) {
        assert_eq!((answer.status, &*answer.text()), (200, path), "{answer:?}");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn talk(&self) -> Talk<support::Tls> {
        let identity = Some(&*self.identity);
        Talk::new(dial(self.address, &self.roots, identity, "http/1.1").await.unwrap())
    }

    /// Request after request on one connection, for as long as it is offered.
    async fn keep_alive(self, name: String) {
        let mut talk = self.talk().await;
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let path = format!("/{name}/{number}");
            let answer = talk.get(&path, "").await;
            self.expect(&answer, &path);
            if answer.header("connection") == Some("close") {
                talk = self.talk().await;
            }
            sleep(PAUSE).await;
        }
    }

    /// A connection for each request.
    async fn anew(self, name: String) {
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let path = format!("/{name}/{number}");
            let answer = self.talk().await.get(&path, "connection: close\r\n").await;
            self.expect(&answer, &path);
            sleep(PAUSE).await;
        }
    }

    /// Streams of one connection, until it says GOAWAY.
    async fn streams(self, name: String) {
        let connect = async || {
            H2::new(dial(self.address, &self.roots, Some(&self.identity), "h2").await.unwrap()).await
        };
        let mut h2 = connect().await;
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let path = format!("/{name}/{number}");
            let request = http::Request::get(format!("https://localhost{path}")).body(()).unwrap();
            match h2.ask(request.clone(), None, None).await {
                Ok(answer) => self.expect(&answer, &path),
                // Nothing was sent after GOAWAY, so nothing is lost: the service is asked below whether that is so.
                Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                    h2 = connect().await;
                    self.expect(&h2.ask(request, None, None).await.unwrap(), &path);
                }
                Err(error) => {
                    assert!(h2.is_closed(), "{error:?}");
                    h2 = connect().await;
                    self.expect(&h2.ask(request, None, None).await.unwrap(), &path);
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Request after request by the way out.
    async fn outward(self, name: String) {
        let connect = async || Talk::new(TcpStream::connect(self.outbound).await.unwrap());
        let mut talk = connect().await;
        let mut number = 0;
        while !self.is_over() {
            number += 1;
            let path = format!("/{name}/{number}");
            let answer = talk.get(&path, "").await;
            self.expect(&answer, &path);
            if answer.header("connection") == Some("close") {
                talk = connect().await;
            }
            sleep(PAUSE).await;
        }
    }
}

/// How often a caller of a metered app was let in; it goes on asking when it is not any more.
async fn metered(load: Load, line: String) -> usize {
    let connect = async || Talk::new(dial(load.address, &load.roots, None, "http/1.1").await.unwrap());
    let mut talk = connect().await;
    let mut passed = 0;
    while !load.is_over() {
        let answer = talk.get("/metered", &line).await;
        match answer.status {
            200 => passed += 1,
            _ => assert_eq!((answer.status, &*answer.code()), (429, "quota-exceeded"), "{answer:?}"),
        }
        if answer.header("connection") == Some("close") {
            talk = connect().await;
        }
        sleep(Duration::from_millis(50)).await;
    }
    passed
}

async fn ended(mut process: Child) {
    let status = eventually("the former agent ends", async || process.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

/// Processes that run with the configuration of `world`.
fn processes(world: &World) -> Vec<u32> {
    let config = world.path().join("postern.toml").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let all = all.filter_map(|name| name.parse().ok());
    let is_ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&config)
    };
    all.filter(is_ours).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_under_load_nobody_is_refused_or_reset_or_answered_wrongly() {
    let service = mirror().await;
    let mut scene = scene(&service);
    let key = scene.key();
    scene.app(
        "metered",
        &format!("accepts = [[\"api_key\"]]\nquota = {{ limit = {QUOTA}, per = \"1year\" }}\n{}{GRANT}", key.table()),
    );
    let mut world = scene.start().await;
    let load = Load::on(&world);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..2 {
        callers.spawn(load.clone().keep_alive(format!("keep-{number}")));
        callers.spawn(load.clone().anew(format!("anew-{number}")));
        callers.spawn(load.clone().streams(format!("streams-{number}")));
        callers.spawn(load.clone().outward(format!("outward-{number}")));
    }
    let meters = [0, 1].map(|_| tokio::spawn(metered(load.clone(), key.line())));
    let begun = Instant::now();

    for time in 1..=TIMES {
        let former = world.take_over();
        // A caller that fails says so at once.
        let ended = async {
            ended(former).await;
            world.log_with(&format!("\"took_over\":true")).await;
        };
        tokio::select! {
            () = ended => {}
            Some(failed) = callers.join_next() => panic!("time {time}: {failed:?}"),
        }
    }
    let rate = load.answered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    load.over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let mut passed = 0;
    for meter in meters {
        passed += meter.await.unwrap();
    }

    let answered = load.answered.load(Ordering::Relaxed);
    eprintln!("{answered} answers, {rate:.0} a second; {passed} of {QUOTA} metered passed");
    let seen = service.seen();
    let mut paths: Vec<&str> = seen.iter().map(Seen::path).filter(|path| *path != "/metered").collect();
    paths.sort_unstable();
    assert_eq!(paths.len(), answered, "each request was made once");
    assert!(paths.windows(2).all(|pair| pair[0] != pair[1]), "none was made twice");
    assert_eq!(seen.len() - paths.len(), passed);
    assert!((QUOTA..=QUOTA + 2).contains(&passed), "{passed} of {QUOTA}");
    assert_eq!(processes(&world), [world.pid()]);
    let verified = postern(world.path()).args(["audit", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn an_heir_that_cannot_start_leaves_everything_as_it_was() {
    let service = mirror().await;
    let mut world = scene(&service).start().await;
    let identity = world.identity("caller");
    let mut talk = world.talk(Some(&identity)).await;
    assert_eq!(talk.get("/before", "").await.text(), "/before");
    let good = std::fs::read_to_string(world.path().join("postern.toml")).unwrap();
    // One that is wrong from the first look, and one whose new door is taken by somebody else.
    let taken = std::net::TcpListener::bind((world.ip, 8500)).unwrap();
    let more = format!("{good}\n[[listener]]\nid = \"more\"\naddress = \"{}:8500\"\n", world.ip);
    for bad in [good.replace("[metrics]", "[metricks]"), more.clone()] {
        support::write(&world.path().join("postern.toml"), &bad);

        let former = world.take_over();
        let failed = world.ended().await;
        drop(world.put_back(former));

        assert_eq!(failed.code(), Some(1));
        assert_eq!(talk.get("/after", "").await.text(), "/after");
        assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
        // The CA is its own again.
        support::write(&world.path().join("postern.toml"), &good);
        let renewed = postern(world.path()).args(["cert", "renew", "caller"]).output().unwrap();
        assert!(renewed.status.success(), "{renewed:?}");
    }
    drop(taken);

    // The same with nothing in the way.
    support::write(&world.path().join("postern.toml"), &more);
    let former = world.take_over();
    assert_eq!(talk.get("/last", "").await.text(), "/last");
    drop(talk);
    ended(former).await;
    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    assert!(TcpStream::connect((world.ip, 8500)).await.is_ok());
}
