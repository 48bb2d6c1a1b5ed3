//! One agent takes over from another while callers are at it, and none of them notices; and an agent that ends lets whoever is
//! under way finish.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test may panic, and says how much it has tried"
)]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postern::store::courier::Courier;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use support::caller::dial;
use support::sign::lines;
use support::world::{GRANT, Key, postern};
use support::{
    Act, Answer, H2, Identity, Scene, Seen, Service, SigningKey, Talk, Tls, World, eventually, soon, write,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// So often one agent takes over from another.
const TIMES: usize = 10;

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

/// A scene in which `caller` is let in, also by a raw connection, and the way out leads to the agent's own listener.
fn scene(service: &Service, echo: SocketAddr, drain: &str) -> Scene {
    let mut scene = Scene::guarding(service.address);
    let uid = rustix::process::geteuid().as_raw();
    scene.amend_config("threads = 2\n", &format!("threads = 2\n\n[limits]\ndrain = \"{drain}\"\n"));
    scene.workload("resident", &format!("match = {{ uid = {uid} }}"));
    scene.config(
        "[[remote]]\nid = \"self\"\naddress = \"{ip}:8443\"\nprotocol = \"http\"\nlisten = \"{ip}:15001\"\n\
         spiffe_ids = [\"spiffe://postern.test/agent\"]\n",
    );
    scene.config(
        "[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n",
    );
    scene.service("echo", &echo.to_string(), "");
    scene.amend_registry("path = \"/**\"\n", "path = \"/**\"\n\n[[product.operation]]\nservice = \"echo\"\n");
    scene.app("resident", "[[app.certificate]]\nuri = \"spiffe://postern.test/resident\"\n");
    scene.registry(GRANT);
    scene
}

/// A service that sends back whatever comes.
async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    address
}

/// What callers need to know, and what came of their requests.
#[derive(Clone)]
struct Load {
    address: SocketAddr,
    raw: SocketAddr,
    outbound: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    identity: Arc<Identity>,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    echoed: Arc<AtomicUsize>,
}

impl Load {
    fn on(world: &World) -> Self {
        Self {
            address: world.address(),
            raw: (world.ip, 8444).into(),
            outbound: (world.ip, 15001).into(),
            roots: world.roots(),
            identity: Arc::new(world.identity("caller")),
            over: Arc::default(),
            answered: Arc::default(),
            echoed: Arc::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn expect(&self, answer: &Answer, path: &str) {
        assert_eq!((answer.status, &*answer.text()), (200, path), "{answer:?}");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn talk(&self) -> Talk<Tls> {
        Talk::new(dial(self.address, &self.roots, Some(&self.identity), "http/1.1").await.unwrap())
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
                // A stream behind GOAWAY was not begun, and a connection that has ended takes none: the service is asked below
                // whether that is so.
                Err(error) => {
                    let goaway = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
                    assert!(goaway || h2.is_closed(), "{error:?}");
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

    /// A raw connection, which ends in good order or not at all. Who speaks as it ends cannot be heard, and says it again.
    async fn pipe(self) {
        let connect = async || dial(self.raw, &self.roots, Some(&self.identity), "").await.unwrap();
        let mut pipe = connect().await;
        let mut number = 0_u64;
        while !self.is_over() {
            number += 1;
            let mut heard = [0; 8];
            let sent = async { pipe.write_all(&number.to_be_bytes()).await.and(pipe.flush().await) };
            if let Err(error) = sent.await {
                assert_ne!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            match pipe.read_exact(&mut heard).await {
                Ok(_) => {
                    assert_eq!(u64::from_be_bytes(heard), number);
                    self.echoed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
                    assert!(error.to_string().contains("early eof"), "no close_notify: {error}");
                    pipe = connect().await;
                    number -= 1;
                }
            }
            sleep(10 * PAUSE).await;
        }
    }
}

/// An app that may be let in so often, and how often it was.
#[derive(Clone)]
struct Meter {
    load: Load,
    app: String,
    quota: usize,
    line: String,
    passed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Meter {
    fn table(scene: &mut Scene, app: &str, quota: usize) -> Key {
        let key = scene.key();
        let limit = format!("accepts = [[\"api_key\"]]\nquota = {{ limit = {quota}, per = \"1year\" }}\n");
        scene.app(app, &format!("{limit}{}{GRANT}", key.table()));
        key
    }

    async fn talk(&self) -> Talk<Tls> {
        Talk::new(dial(self.load.address, &self.load.roots, None, "http/1.1").await.unwrap())
    }

    /// Asks and asks, and goes on asking when it is let in no more; on one connection or on one for each request.
    async fn run(self, lines: &'static str) {
        let path = format!("/metered-{}", self.app);
        let mut talk = self.talk().await;
        while !self.load.is_over() {
            let answer = talk.get(&path, &format!("{}{lines}", self.line)).await;
            match answer.status {
                200 => self.passed.fetch_add(1, Ordering::Relaxed),
                _ => {
                    assert_eq!((answer.status, &*answer.code()), (429, "quota-exceeded"), "{answer:?}");
                    self.refused.fetch_add(1, Ordering::Relaxed)
                }
            };
            if answer.header("connection") == Some("close") {
                talk = self.talk().await;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Asks until the answer says that the connection is closed with it, as it is then.
async fn until_dismissed(talk: &mut Talk<Tls>) {
    eventually("the next agent lets callers in", async || {
        let answer = talk.get("/last", "").await;
        assert_eq!(answer.text(), "/last");
        (answer.header("connection") == Some("close")).then_some(())
    })
    .await;
    assert!(talk.is_closed().await);
}

async fn ended(mut process: Child) {
    let status = eventually("the former agent ends", async || process.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

/// Processes that run with the configuration of `world`.
fn processes(world: &World) -> Vec<u32> {
    let config = world.path().join("postern.toml").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let is_ours = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&config)
    };
    all.filter_map(|name| name.parse().ok()).filter(is_ours).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_under_load_nobody_is_refused_or_reset_or_answered_wrongly() {
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "2s");
    let quotas = [("small", 100), ("middle", 300), ("large", 600)];
    let keys = quotas.map(|(app, quota)| Meter::table(&mut scene, app, quota));
    let mut world = scene.start().await;
    let load = Load::on(&world);
    let mut callers = JoinSet::new();
    for number in 0..2 {
        callers.spawn(load.clone().keep_alive(format!("keep-{number}")));
        callers.spawn(load.clone().anew(format!("anew-{number}")));
        callers.spawn(load.clone().streams(format!("streams-{number}")));
        callers.spawn(load.clone().outward(format!("outward-{number}")));
        callers.spawn(load.clone().pipe());
    }
    let meters: Vec<Meter> = (quotas.iter().zip(&keys))
        .map(|((app, quota), key)| {
            let (load, line, app) = (load.clone(), key.line(), (*app).to_owned());
            Meter { load, app, quota: *quota, line, passed: Arc::default(), refused: Arc::default() }
        })
        .collect();
    for meter in &meters {
        callers.spawn(meter.clone().run(""));
        callers.spawn(meter.clone().run("connection: close\r\n"));
    }
    let begun = Instant::now();

    for time in 1..=TIMES {
        let former = world.take_over();
        let taken = async {
            ended(former).await;
            world.log_with("\"took_over\":true").await;
        };
        tokio::select! {
            () = taken => {}
            // A caller that fails says so at once.
            Some(failed) = callers.join_next() => panic!("time {time}: {failed:?}"),
        }
    }
    let elapsed = begun.elapsed();
    for meter in &meters {
        eventually("every quota is used up", async || {
            (meter.refused.load(Ordering::Relaxed) > 0).then_some(())
        })
        .await;
    }
    load.over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }

    let (answered, echoed) = (load.answered.load(Ordering::Relaxed), load.echoed.load(Ordering::Relaxed));
    eprintln!("{answered} answers and {echoed} echoes, {TIMES} times in {elapsed:?}");
    assert!(answered > 100 * TIMES && echoed > 10 * TIMES, "too little load: {answered} and {echoed}");
    let seen = service.seen();
    let (metered, plain): (Vec<&str>, Vec<&str>) =
        seen.iter().map(Seen::path).partition(|path| path.starts_with("/metered-"));
    let mut once = plain.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((plain.len(), once.len()), (answered, answered), "each request was made once");
    for Meter { app, quota, passed, .. } in &meters {
        let path = format!("/metered-{app}");
        let served = metered.iter().filter(|other| **other == path).count();
        assert_eq!((served, passed.load(Ordering::Relaxed)), (*quota, *quota), "{app}");
    }
    assert_eq!(processes(&world), [world.pid()]);
    let verified = postern(world.path()).args(["audit", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    // Usage went from one to the next, all of it and none of it twice.
    for Meter { app, quota, .. } in &meters {
        eventually("usage is added up", async || {
            (usage(&world, app) == u64::try_from(*quota).unwrap()).then_some(())
        })
        .await;
    }
}

/// Calls of an app that were let pass, as operators are told.
fn usage(world: &World, app: &str) -> u64 {
    let told = postern(world.path()).args(["usage", "--app", app, "--json"]).output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let rows = told.as_array().unwrap().iter().filter(|row| row["status"] == "2xx");
    rows.map(|row| row["calls"].as_u64().unwrap()).sum()
}

/// Everything about an agent that must be as before when nobody has taken over from it.
async fn expect_alive(world: &World, talk: &mut Talk<Tls>) {
    let answer = talk.get("/after", "").await;
    assert_eq!((&*answer.text(), answer.header("connection")), ("/after", None), "{answer:?}");
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
    assert_eq!(world.health("/ready").await.unwrap().0, 200);
    // The CA is its own again.
    let renewed = postern(world.path()).args(["cert", "renew", "caller"]).output().unwrap();
    assert!(renewed.status.success(), "{renewed:?}");
}

#[tokio::test]
async fn an_heir_that_cannot_start_leaves_everything_as_it_was() {
    let service = mirror().await;
    let mut world = scene(&service, echo().await, "2s").start().await;
    let identity = world.identity("caller");
    let mut talk = world.talk(Some(&identity)).await;
    expect_alive(&world, &mut talk).await;
    let good = std::fs::read_to_string(world.path().join("postern.toml")).unwrap();
    // One that is wrong from the first look, and one whose new door is taken by somebody else.
    let taken = std::net::TcpListener::bind((world.ip, 8500)).unwrap();
    let more = format!("{good}\n[[listener]]\nid = \"more\"\naddress = \"{}:8500\"\n", world.ip);
    for bad in [good.replace("[metrics]", "[metricks]"), more.clone()] {
        write(&world.path().join("postern.toml"), &bad);

        let former = world.take_over();
        let failed = world.ended().await;
        drop(world.put_back(former));

        assert_eq!(failed.code(), Some(1));
        write(&world.path().join("postern.toml"), &good);
        expect_alive(&world, &mut talk).await;
    }
    drop(taken);

    // The same with nothing in the way.
    write(&world.path().join("postern.toml"), &more);
    let former = world.take_over();
    until_dismissed(&mut talk).await;
    drop(talk);
    ended(former).await;
    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    assert!(TcpStream::connect((world.ip, 8500)).await.is_ok());
}

/// What an heir says and hears, word for word.
struct Pretender(Courier);

impl Pretender {
    /// Asks for everything, and gets it.
    fn claim(world: &World) -> Self {
        let courier = Courier::to(&world.path().join("run/hand-over.sock")).unwrap().unwrap();
        courier.be_patient(support::PATIENCE).unwrap();
        let state_dir = world.path().join("state").canonicalize().unwrap();
        let claim = json!({ "Claim": { "dialect": 1, "version": "0", "state_dir": state_dir } });
        courier.send(&claim, &[]).unwrap();
        let pretender = Self(courier);
        let (mut places, mut open) = (Vec::new(), 0);
        loop {
            match pretender.hear() {
                (Value::String(word), 1) if word == "Lock" => break,
                (told, count) => {
                    places.extend(told["Sockets"].as_array().unwrap().iter().cloned());
                    open += count;
                }
            }
        }
        let port = format!("tcp {}:8443", world.ip);
        assert_eq!(places.iter().filter(|place| **place == port.as_str()).count(), 2, "{places:?}");
        assert!(places.iter().any(|place| place.as_str().unwrap().ends_with("run/admin.sock")), "{places:?}");
        assert_eq!(places.len(), open);
        pretender
    }

    fn say(&self, word: &str) {
        self.0.send(&json!(word), &[]).unwrap();
    }

    /// The next message, and how many descriptors came with it.
    fn hear(&self) -> (Value, usize) {
        let (told, open) = self.0.receive().unwrap();
        (told, open.len())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_heir_that_dies_at_any_point_leaves_everything_as_it_was() {
    const QUOTA: usize = 40;
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "2s");
    let key = Meter::table(&mut scene, "metered", QUOTA);
    let mut world = scene.start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    let mut metered = world.talk(None).await;
    let mut passed = 0;
    let mut pass = async |times: usize| {
        for _ in 0..times {
            let answer = metered.get("/metered", &key.line()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            passed += 1;
        }
        passed
    };
    expect_alive(&world, &mut talk).await;
    pass(3).await;

    for last in ["Claim", "Ready", "Counting"] {
        let pretender = tokio::task::block_in_place(|| {
            let pretender = Pretender::claim(&world);
            if last == "Claim" {
                return pretender;
            }
            pretender.say("Ready");
            let (told, open) = pretender.hear();
            assert_eq!((told["Yours"].as_array().map(Vec::len), open), (Some(2), 1), "{told}");
            if last == "Counting" {
                pretender.say("Counting");
                while pretender.hear() != (json!("Go"), 0) {}
            }
            pretender
        });
        // All that time callers are served, also those that are counted, though the heir does not answer when it is asked.
        pass(3).await;
        assert_eq!(talk.get("/meanwhile", "").await.text(), "/meanwhile");
        drop(pretender);

        world.log_with("the other agent does not take over").await;
        expect_alive(&world, &mut talk).await;
        pass(3).await;
        write(&world.path().join("log"), "");
    }

    // Nothing of what was counted meanwhile is lost: not by the agent, and not by the next one either.
    let so_far = pass(0).await;
    world.signal("TERM");
    assert!(world.ended().await.success());
    world.restart().await;
    let mut metered = world.talk(None).await;
    for _ in so_far..QUOTA {
        assert_eq!(metered.get("/metered", &key.line()).await.status, 200);
    }
    assert_eq!(metered.get("/metered", &key.line()).await.status, 429);
}

/// A scene in which an agent needs two seconds before it can let callers in: an issuer of tokens whose web server takes no notice.
fn slow_scene(service: &Service, echo: SocketAddr) -> (Scene, std::net::TcpListener) {
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = scene(service, echo, "2s");
    scene.config(&format!(
        "[[issuer]]\nissuer = \"https://id.test\"\naudience = [\"a\"]\nalgorithms = [\"ES256\"]\njwks_url = \"http://{}/keys\"\n",
        web.local_addr().unwrap()
    ));
    (scene, web)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_heir_that_is_killed_leaves_callers_unharmed() {
    let service = mirror().await;
    let (scene, _web) = slow_scene(&service, echo().await);
    let mut world = scene.start().await;
    let load = Load::on(&world);
    let mut callers = JoinSet::new();
    callers.spawn(load.clone().keep_alive("keep".to_owned()));
    callers.spawn(load.clone().anew("anew".to_owned()));
    callers.spawn(load.clone().streams("streams".to_owned()));

    for pause in [0, 0, 300, 600, 900] {
        let former = world.take_over();
        world.log_with("another agent takes over").await;
        sleep(Duration::from_millis(pause)).await;
        let mut heir = world.put_back(former);
        heir.kill().unwrap();
        heir.wait().unwrap();
        world.log_with("this one goes on").await;
        assert!(!world.log().contains("\"took_over\":true"), "it was too late");
        write(&world.path().join("log"), "");
    }
    load.over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }

    assert!(load.answered.load(Ordering::Relaxed) > 100);
    assert_eq!(processes(&world), [world.pid()]);
}

#[tokio::test]
async fn a_stranger_in_the_same_place_gets_nothing() {
    let service = mirror().await;
    let world = scene(&service, echo().await, "2s").start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    expect_alive(&world, &mut talk).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let cases = [
        (
            json!({ "Claim": { "dialect": 1, "version": "0", "state_dir": elsewhere.path() } }),
            "its state directory is",
        ),
        (
            json!({ "Claim": { "dialect": 9, "version": "0", "state_dir": world.path().join("state") } }),
            "hands over in another manner",
        ),
    ];
    for (claim, why) in cases {
        let courier = Courier::to(&world.path().join("run/hand-over.sock")).unwrap().unwrap();
        courier.send(&claim, &[]).unwrap();

        let (refused, open) = courier.receive::<Value>().unwrap();

        assert!(refused["Refused"].as_str().unwrap().contains(why), "{refused}");
        assert!(open.is_empty());
        assert!(courier.receive::<Value>().is_err(), "it is hung up");
    }
    expect_alive(&world, &mut talk).await;
}

#[tokio::test]
async fn sigusr2_starts_the_program_on_disk_which_takes_over() {
    let service = mirror().await;
    let mut world = scene(&service, echo().await, "2s").start().await;
    let identity = world.identity("caller");
    let former = world.pid();
    let mut talk = world.talk(Some(&identity)).await;
    assert_eq!(talk.get("/a", "").await.header("connection"), None);

    world.signal("USR2");
    world.log_with("\"took_over\":true").await;
    until_dismissed(&mut talk).await;
    assert!(world.ended().await.success());

    let [heir] = processes(&world)[..] else { panic!("{:?}", processes(&world)) };
    assert_ne!(heir, former);
    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    end_all(&world).await;
}

/// Ends every agent of `world`, also one that was started by another.
async fn end_all(world: &World) {
    for pid in processes(world) {
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    eventually("all agents end", async || processes(world).is_empty().then_some(())).await;
}

#[tokio::test]
async fn who_has_nothing_more_to_ask_of_the_former_agent_goes_in_the_second_half() {
    let service = mirror().await;
    let mut world = scene(&service, echo().await, "3s").start().await;
    let identity = world.identity("caller");
    let mut idle = world.talk(Some(&identity)).await;
    assert_eq!(idle.get("/before", "").await.header("connection"), None);

    let former = world.take_over();
    world.log_with("another agent has taken over").await;
    let begun = Instant::now();

    assert!(idle.is_closed().await);
    let took = begun.elapsed().as_millis();
    assert!((1000..3000).contains(&took), "{took} ms");
    // As a caller does that was told goodbye; one that stays is waited for, at times until the end of the drain.
    drop(idle);
    ended(former).await;
    assert!(!world.log().contains("connections cut"), "it was closed and not cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agents_that_serve_at_the_same_time_count_as_one() {
    const QUOTA: usize = 10;
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "20s");
    let key = Meter::table(&mut scene, "metered", QUOTA);
    let mut world = scene.start().await;
    let line = key.line();
    let mut passed = 0;
    let mut ask = async |talk: &mut Talk<Tls>| {
        let answer = talk.get("/metered", &line).await;
        passed += usize::from(answer.status == 200);
        (answer.status, answer.header("connection") == Some("close"))
    };
    let mut talks = [const { Vec::new() }; 3];
    let mut former = Vec::new();
    for (generation, talks) in talks.iter_mut().enumerate() {
        for _ in 0..3 {
            let mut talk = world.talk(None).await;
            // Whoever is only connected may be with the former one still.
            assert_eq!(talk.get("/", "").await.status, 401);
            talks.push(talk);
        }
        if generation < 2 {
            let mut witness = world.talk(Some(&world.identity("caller"))).await;
            former.push(world.take_over());
            until_dismissed(&mut witness).await;
        }
    }
    assert_eq!(processes(&world).len(), 3);

    // One after the other, and the former agents have one answer left for each of their connections.
    for round in 0..3 {
        for (generation, talks) in talks.iter_mut().enumerate() {
            let (status, closes) = ask(&mut talks[round]).await;
            assert_eq!((status, closes), (200, generation < 2), "round {round}, agent {generation}");
        }
    }
    let mut last = world.talk(None).await;
    assert_eq!([ask(&mut last).await.0, ask(&mut last).await.0], [200, 429]);
    assert_eq!(passed, QUOTA);
    drop((talks, last));
    for former in former {
        ended(former).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_is_used_once_whichever_agent_it_meets() {
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "20s");
    let key = SigningKey::ed25519("ed");
    scene.app("signer", &format!("accepts = [[\"signature\"]]\n{}{GRANT}", key.table()));
    let mut world = scene.start().await;
    let sign = || lines(&key.sign("GET", "/signed", &[]));
    let ask = async |talk: &mut Talk<Tls>, signed: &str| {
        let answer = talk.get("/signed", signed).await;
        (answer.status, answer.code())
    };
    let (fine, replayed) = ((200, String::new()), (401, "replayed".to_owned()));
    // Signatures are of whole seconds, and those of the second of the start may have come in before it.
    sleep(Duration::from_millis(1100)).await;
    let mut early = world.talk(None).await;
    let mut witness = world.talk(Some(&world.identity("caller"))).await;
    let [before, unused, late] = [sign(), sign(), sign()];
    assert_eq!(ask(&mut early, &before).await, fine);
    assert_eq!(ask(&mut early, &before).await, replayed);

    let former = world.take_over();
    until_dismissed(&mut witness).await;
    let mut talk = world.talk(None).await;

    assert_eq!(ask(&mut talk, &before).await, replayed, "what the former agent was shown");
    assert_eq!(ask(&mut talk, &unused).await, fine, "what was signed before the start of this one");
    assert_eq!(ask(&mut early, &late).await, fine, "the former agent asks this one");
    assert_eq!(ask(&mut talk, &late).await, replayed);
    drop((early, talk));
    ended(former).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_end_while_it_hands_over_ends_and_its_heir_with_it() {
    let service = mirror().await;
    let (scene, _web) = slow_scene(&service, echo().await);
    let mut world = scene.start().await;
    let mut former = world.take_over();
    world.log_with("another agent takes over").await;
    // One that hangs.
    world.signal("STOP");
    assert!(!world.log().contains("\"took_over\":true"), "it was too late");

    let pid = rustix::process::Pid::from_child(&former);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();

    let status = eventually("the former agent ends", async || former.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
    assert_eq!(world.ended().await.code(), None, "it was killed");
    assert!(world.log().contains("this one goes on"));
}

#[tokio::test]
async fn the_service_manager_is_told_who_the_main_process_is_and_that_it_is_alive() {
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "1s");
    let path = scene.path().join("notify.sock");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    scene.variable("NOTIFY_SOCKET", path.to_str().unwrap()).variable("WATCHDOG_USEC", "400000");
    let mut world = scene.start().await;
    let heard = async || {
        let mut text = [0; 4096];
        let length = soon("a word to the service manager", manager.recv(&mut text)).await.unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let until = async |word: &str| {
        eventually(word, async || {
            heard().await.lines().find(|line| line.starts_with(word)).map(str::to_owned)
        })
        .await
    };

    until("READY=1").await;
    until("WATCHDOG=1").await;
    until("WATCHDOG=1").await;
    world.signal("USR2");
    let main = until("MAINPID=").await;
    assert!(world.ended().await.success());
    assert_eq!(main, format!("MAINPID={}", processes(&world)[0]));
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::ZERO, manager.readable()).await {
        if manager.try_recv(&mut [0; 4096]).is_err() {
            break;
        }
    }
    until("WATCHDOG=1").await;
    end_all(&world).await;
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A field line that HPACK does not compress (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let [name_length, value_length] = [name, value].map(|text| u8::try_from(text.len()).unwrap());
    [&[0, name_length], name.as_bytes(), &[value_length], value.as_bytes()].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A GET for `path` as a stream of its own.
fn get(stream: u8, path: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// The next frame: its kind, its flags, its stream and its payload; none when the connection was closed.
async fn next_frame(tls: &mut Tls) -> Option<(u8, u8, u8, Vec<u8>)> {
    soon("a frame", async {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        tls.read_exact(&mut payload).await.unwrap();
        Some((head[3], head[4], head[8], payload))
    })
    .await
}

/// A service that answers `/slow` after a second, and everything else at once.
async fn slow() -> Service {
    Service::answering(|seen: &Seen| {
        let answer = Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n".to_vec());
        match seen.path() {
            "/slow" => vec![Act::ReadBody, Act::Pause(Duration::from_secs(1)), answer],
            "/never" => vec![Act::ReadBody, Act::Pause(Duration::from_secs(60)), answer],
            _ => vec![Act::ReadBody, answer],
        }
    })
    .await
}

/// > A server that is attempting to gracefully shut down a connection SHOULD send an initial GOAWAY frame with the last stream
/// > identifier set to 2^31-1 and a NO_ERROR code. […] After allowing time for any in-flight stream creation (at least one
/// > round-trip time), the server MAY send another GOAWAY frame with an updated last stream identifier. — RFC 9113 §6.8
#[tokio::test]
async fn goaway_comes_in_two_steps_and_streams_between_them_are_answered() {
    for by in ["TERM", "an heir"] {
        let service = slow().await;
        let mut world = scene(&service, echo().await, "5s").start().await;
        let mut tls = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
        let opening =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[]), get(1, "/slow")];
        tls.write_all(&opening.concat()).await.unwrap();
        eventually("the service is asked", async || (!service.seen().is_empty()).then_some(())).await;

        let former = if by == "TERM" {
            world.signal("TERM");
            None
        } else {
            Some(world.take_over())
        };
        let (mut farewells, mut answered) = (Vec::new(), Vec::new());
        while let Some((kind, flags, stream, payload)) = next_frame(&mut tls).await {
            match kind {
                SETTINGS if flags & ACK == 0 => tls.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap(),
                PING if flags & ACK == 0 => {
                    // What the caller has sent before it could know is answered as well.
                    let late = [get(3, "/late"), frame(PING, ACK, 0, &payload)];
                    tls.write_all(&late.concat()).await.unwrap();
                }
                GOAWAY => farewells.push((payload[..4].to_vec(), payload[4..8].to_vec())),
                HEADERS | DATA if flags & END_STREAM != 0 => answered.push(stream),
                _ => {}
            }
            tls.flush().await.unwrap();
        }

        let no_error = vec![0; 4];
        let steps = [(vec![0x7f, 0xff, 0xff, 0xff], no_error.clone()), (vec![0, 0, 0, 3], no_error)];
        assert_eq!(farewells, steps, "{by}");
        answered.sort_unstable();
        assert_eq!(answered, [1, 3], "{by}");
        match former {
            Some(former) => ended(former).await,
            None => assert!(world.ended().await.success()),
        }
    }
}

#[tokio::test]
async fn http1_connections_are_closed_with_the_answer_that_says_so() {
    let service = slow().await;
    let mut world = scene(&service, echo().await, "5s").start().await;
    let identity = world.identity("caller");
    let mut idle = world.talk(Some(&identity)).await;
    let mut busy = world.talk(Some(&identity)).await;
    for talk in [&mut idle, &mut busy] {
        assert_eq!(talk.get("/before", "").await.header("connection"), None);
    }
    busy.send("GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    eventually("the service is asked", async || (service.seen().len() == 3).then_some(())).await;

    let begun = Instant::now();
    world.signal("TERM");

    assert!(idle.is_closed().await);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "who asks for nothing goes first: {:?}",
        begun.elapsed()
    );
    let last = busy.answer().await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    assert!(world.ended().await.success());
    assert!(begun.elapsed() < Duration::from_secs(4), "nobody waits for the deadline: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_or_at_the_second_word() {
    for words in [1, 2] {
        let service = slow().await;
        let drain = if words == 1 { "1s" } else { "30s" };
        let mut world = scene(&service, echo().await, drain).start().await;
        let mut talk = world.talk(Some(&world.identity("caller"))).await;
        talk.send("GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        eventually("the service is asked", async || (!service.seen().is_empty()).then_some(())).await;

        let begun = Instant::now();
        world.signal("TERM");
        world.log_with("\"stopping\"").await;
        if words == 1 {
            sleep(Duration::from_millis(500)).await;
            assert!(TcpStream::connect(world.address()).await.is_err(), "nobody new is taken in");
        } else {
            world.signal("TERM");
        }

        assert!(world.ended().await.success());
        let (least, most) = if words == 1 { (1000, 5000) } else { (0, 5000) };
        let took = begun.elapsed().as_millis();
        assert!((least..most).contains(&took), "{words}: {took} ms");
        assert!(talk.rest().await.is_empty(), "an answer that never came is not made up");
        assert!(world.log().contains("connections cut at the end of the drain"));
    }
}

/// Binds sockets as a service manager does, and becomes the agent (sd_listen_fds(3)).
const MANAGER: &str = r#"exec python3 -c '
import os, socket, sys
wanted = [place.split("=") for place in os.environ["SOCKETS"].split()]
sockets = []
for name, place in wanted:
    if place.startswith("/"):
        one = socket.socket(socket.AF_UNIX)
        one.bind(place)
    else:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, port = place.rsplit(":", 1)
        one.bind((host, int(port)))
    one.listen(64)
    sockets.append(one)
parked = [os.dup(one.fileno()) for one in sockets]
for one in sockets:
    one.close()
high = [os.dup2(fd, 100 + at) for at, fd in enumerate(parked)]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at, inheritable=True)
    os.close(fd)
os.environ["LISTEN_FDS"] = str(len(high))
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in wanted)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[1], sys.argv[1:])
' "$@""#;

#[tokio::test]
async fn sockets_of_the_service_manager_are_used_and_handed_on() {
    let service = mirror().await;
    let mut scene = scene(&service, echo().await, "2s");
    // By their addresses, whatever they are called, and one by its name alone.
    scene.amend_config("[metrics]\naddress = \"{ip}:9464\"", "[metrics]\naddress = \"{ip}:9465\"");
    let ip = scene.ip;
    let sockets = format!("web={ip}:8443 postern.socket={ip}:8444 self={ip}:15001 metrics={ip}:9464");
    scene.variable("SOCKETS", &sockets).run_by(MANAGER);
    let mut world = scene.start().await;
    let identity = world.identity("caller");
    let load = Load::on(&world);
    let inode = listening(&world);

    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    assert!(TcpStream::connect((ip, 9465)).await.is_err(), "the socket stands in for the address");
    let mut pipe = dial(load.raw, &load.roots, Some(&identity), "").await.unwrap();
    pipe.write_all(b"x").await.unwrap();
    let mut heard = [0];
    soon("an echo", pipe.read_exact(&mut heard)).await.unwrap();
    drop(pipe);
    let mut out = Talk::new(TcpStream::connect(load.outbound).await.unwrap());
    assert_eq!(out.get("/out", "").await.text(), "/out");
    drop(out);

    // The heir gets the manager's sockets by way of the former agent.
    world.signal("USR2");
    world.log_with("\"took_over\":true").await;
    assert!(world.ended().await.success());
    assert_eq!(world.try_get(Some(&identity), "").await.unwrap().status, 200);
    assert_eq!(listening(&world), inode, "the very same socket");
    end_all(&world).await;
}

/// The inodes of the sockets that listen on the agent's port.
fn listening(world: &World) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let [a, b, c, d] = world.ip.octets();
    let place = format!("{:08X}:{:04X}", u32::from_le_bytes([a, b, c, d]), 8443);
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.len() > 9 && row[1] == place && row[3] == "0A");
    rows.map(|row| row[9].to_owned()).collect()
}

#[tokio::test]
async fn sockets_of_the_service_manager_must_fit_the_configuration() {
    let cases = [
        ("web={ip}:8443 other={ip}:8600", "nothing is configured for: other (tcp {ip}:8600)"),
        ("web={ip}:8600", "but none for the listener inbound"),
    ];
    for (sockets, why) in cases {
        let service = mirror().await;
        let mut scene = Scene::guarding(service.address);
        let ip = scene.ip.to_string();
        scene.variable("SOCKETS", &sockets.replace("{ip}", &ip)).run_by(MANAGER);
        scene.write();

        let (path, mut child) = (scene.path().to_owned(), scene.launch());
        let status = eventually("the agent gives up", async || child.try_wait().unwrap()).await;

        assert_eq!(status.code(), Some(1));
        let log = std::fs::read_to_string(path.join("log")).unwrap();
        assert!(log.contains(&why.replace("{ip}", &ip)), "{log}");
    }
}
