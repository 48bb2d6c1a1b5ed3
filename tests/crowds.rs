//! Callers that are slow or many: each bound holds, what is beyond it is told and counted, and nobody beside them notices.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test may panic, and tells its figures")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use support::caller::dial;
use support::{Act, H2cService, Identity, Scene, Service, Tls, World, eventually, ok};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

async fn world(limits: &str) -> (World, Service) {
    let service = Service::answering(|_| ok()).await;
    let mut scene = Scene::guarding(service.address);
    scene.config(&format!("[limits]\n{limits}\n"));
    (scene.start().await, service)
}

async fn handshakes(world: &World, code: &str) -> f64 {
    let name = format!("postern_handshakes_total{{code=\"{code}\"}}");
    world.metric(&name).await.unwrap_or_default()
}

async fn cuts(world: &World, code: &str) -> f64 {
    let name = format!("postern_connections_cut_total{{code=\"{code}\"}}");
    world.metric(&name).await.unwrap_or_default()
}

/// Waits until the other side has hung up.
async fn hung_up(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut page = vec![0; 512];
    while matches!(stream.read(&mut page).await, Ok(1..)) {}
}

/// How long requests took, on one connection, while `work` went on.
async fn times_beside(world: &World, least: usize, work: impl Future<Output = ()>) -> Vec<Duration> {
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    let done = Cell::new(false);
    let asking = async {
        let mut times = Vec::new();
        while !done.get() || times.len() < least {
            let begun = Instant::now();
            assert_eq!(talk.get("/a", "").await.status, 200);
            times.push(begun.elapsed());
            sleep(Duration::from_millis(2)).await;
        }
        times.sort_unstable();
        times
    };
    let ((), times) = tokio::join!(
        async {
            work.await;
            done.set(true);
        },
        asking
    );
    times
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times.get((times.len() - 1) * percent / 100).copied().unwrap()
}

/// Callers of each of four kinds.
const OF_EACH_KIND: usize = 500;

#[tokio::test]
async fn slow_callers_of_every_kind_are_gone_after_their_time_and_nobody_beside_them_notices() {
    let (world, _service) = world(
        "handshake = \"3s\"\nhead = \"3s\"\nidle = \"6s\"\nstall = \"3s\"\nbody_rate = \"500B\"\nbody_window = \"3s\"",
    )
    .await;
    let caller = world.identity("caller");
    let calm = times_beside(&world, 300, async {}).await;

    let ways = Arc::new(Ways {
        address: world.address(),
        roots: world.roots(),
        caller,
        dialling: Semaphore::new(32),
    });
    let gone = Cell::new(0);
    let crowd = async {
        let begun = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..OF_EACH_KIND {
            all.spawn(slow_handshake(ways.address));
            all.spawn(slow_head(Arc::clone(&ways)));
            all.spawn(slow_body(Arc::clone(&ways)));
            all.spawn(no_window(Arc::clone(&ways)));
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
            gone.set(gone.get() + 1);
        }
        println!("{} slow callers were gone after {:?}", gone.get(), begun.elapsed());
    };
    let busy = times_beside(&world, 300, crowd).await;

    assert_eq!(gone.get(), 4 * OF_EACH_KIND);
    println!(
        "calm: p50 {:?} p99 {:?}; beside {} slow callers: p50 {:?} p99 {:?}",
        percentile(&calm, 50),
        percentile(&calm, 99),
        4 * OF_EACH_KIND,
        percentile(&busy, 50),
        percentile(&busy, 99)
    );
    // Lenient: the machine is busy with their handshakes, on our side and theirs.
    let bound = percentile(&calm, 99) * 20 + Duration::from_millis(200);
    assert!(percentile(&busy, 99) < bound, "{:?}", percentile(&busy, 99));
    let all = f64::from(u32::try_from(OF_EACH_KIND).unwrap());
    assert!(handshakes(&world, "timeout").await >= all);
    assert!(cuts(&world, "slow-body").await >= all);
    eventually("their connections are gone", async || {
        world.metric("postern_connections").await.filter(|open| *open == 0.0)
    })
    .await;
}

/// How slow callers get in.
struct Ways {
    address: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    caller: Identity,
    /// So many handshakes at a time, so that they are in time themselves.
    dialling: Semaphore,
}

impl Ways {
    /// A connection, with the first bytes said.
    async fn dial(&self, protocol: &str, first: &[u8]) -> Tls {
        let _turn = self.dialling.acquire().await.unwrap();
        let mut io = dial(self.address, &self.roots, Some(&self.caller), protocol).await.unwrap();
        io.write_all(first).await.unwrap();
        io.flush().await.unwrap();
        io
    }
}

/// Half a ClientHello.
async fn slow_handshake(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
    hung_up(&mut stream).await;
}

/// A byte of a head each now and then.
async fn slow_head(ways: Arc<Ways>) {
    drip(ways.dial("http/1.1", b"GET /a HTTP/1.1\r\nhost: localhost\r\na: ").await).await;
}

/// A byte of a body each now and then.
async fn slow_body(ways: Arc<Ways>) {
    let head = b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    drip(ways.dial("http/1.1", head).await).await;
}

/// A request over HTTP/2 whose answer has a window of nothing.
async fn no_window(ways: Arc<Ways>) {
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0".as_slice();
    let head = b"\x82\x87\x04\x02/a\x01\x09localhost".as_slice();
    let frame = [&[0, 0, u8::try_from(head.len()).unwrap(), 1, 5, 0, 0, 0, 1], head].concat();
    hung_up(&mut ways.dial("h2", &[settings, &frame].concat()).await).await;
}

/// Sends a byte three times a second until the other side hangs up.
async fn drip(mut io: Tls) {
    let mut page = vec![0; 512];
    while io.write_all(b"x").await.is_ok() && io.flush().await.is_ok() {
        let read = tokio::time::timeout(Duration::from_millis(300), io.read(&mut page)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            return;
        }
    }
}

#[tokio::test]
async fn a_body_that_drips_gets_408_and_one_that_pauses_does_not() {
    let (world, _service) = world("body_rate = \"500B\"\nbody_window = \"2s\"").await;
    let caller = world.identity("caller");
    let head = "POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000\r\n\r\n";

    let mut patient = world.talk(Some(&caller)).await;
    patient.send(head).await;
    patient.send(vec![b'x'; 2000]).await;
    sleep(Duration::from_millis(1500)).await;
    patient.send(vec![b'x'; 2000]).await;
    assert_eq!(patient.answer().await.status, 200);

    let mut dripping = world.talk(Some(&caller)).await;
    dripping.send(head).await;
    let begun = Instant::now();
    let dripped = async {
        loop {
            drop(dripping.io.write_all(b"x").await);
            drop(dripping.io.flush().await);
            let mut page = [0; 4096];
            let read = tokio::time::timeout(Duration::from_millis(100), dripping.io.read(&mut page));
            if let Ok(Ok(count)) = read.await {
                return String::from_utf8_lossy(page.get(..count).unwrap()).into_owned();
            }
        }
    };
    let answer = dripped.await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("slow-body"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(cuts(&world, "slow-body").await, 1.0);
}

/// What comes of a body over HTTP/2 of which a byte is sent now and then.
async fn dripping_over_http2(world: &World) -> String {
    let mut io = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
    let head = b"\x83\x87\x04\x02/a\x01\x09localhost".as_slice();
    let opened = [&[0, 0, u8::try_from(head.len()).unwrap(), 1, 4, 0, 0, 0, 1], head].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice();
    io.write_all(&[preface, &opened].concat()).await.unwrap();
    let (begun, mut heard, mut page) = (Instant::now(), String::new(), vec![0; 4096]);
    while !heard.contains("\"code\"") && begun.elapsed() < support::PATIENCE {
        io.write_all(b"\0\0\x01\0\0\0\0\0\x01x").await.unwrap();
        io.flush().await.unwrap();
        let read = tokio::time::timeout(Duration::from_millis(100), io.read(&mut page)).await;
        if let Ok(Ok(count)) = read {
            heard.push_str(&String::from_utf8_lossy(page.get(..count).unwrap()));
        }
    }
    heard
}

#[tokio::test]
async fn a_body_that_drips_over_http2_is_cut_whatever_the_service_speaks() {
    let limits = "body_rate = \"500B\"\nbody_window = \"1s\"";
    let (world, _service) = world(limits).await;
    assert!(dripping_over_http2(&world).await.contains("slow-body"));
    assert_eq!(cuts(&world, "slow-body").await, 1.0);

    let h2c = H2cService::answering(|_, mut body, mut respond| async move {
        while let Some(Ok(data)) = body.data().await {
            drop(body.flow_control().release_capacity(data.len()));
        }
        drop(respond.send_response(http::Response::new(()), true));
    })
    .await;
    let mut scene = Scene::guarding(h2c.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nprotocol = \"h2c\"\n");
    scene.config(&format!("[limits]\n{limits}\n"));
    let world = scene.start().await;
    assert!(dripping_over_http2(&world).await.contains("slow-body"));
    assert_eq!(world.h2(Some(&world.identity("caller"))).await.get("/a", &[]).await.status, 200);
}

#[tokio::test]
async fn one_source_gets_so_many_connections_and_no_more() {
    let (world, _service) = world("source_connections = 5").await;
    let caller = world.identity("caller");
    let mut open = Vec::new();
    // Each of two threads counts for itself.
    for _ in 0..40 {
        if let Ok(mut talk) = world.dial(Some(&caller), "http/1.1").await.map(support::Talk::new)
            && talk.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok()
            && talk.try_answer(false).await.is_ok()
        {
            open.push(talk);
        }
    }

    assert_eq!(open.len(), 10);
    assert_eq!(handshakes(&world, "too-many-from-source").await, 30.0);
    open.truncate(0);
    eventually("there is room again", async || world.try_get(Some(&caller), "").await.ok()).await;
}

#[tokio::test]
async fn one_app_gets_so_many_connections_and_others_are_served() {
    let (world, _service) = world("app_connections = 3").await;
    let (caller, stranger) = (world.identity("caller"), world.identity("stranger"));
    let mut open = Vec::new();
    for _ in 0..30 {
        let Ok(io) = world.dial(Some(&caller), "http/1.1").await else { continue };
        let mut talk = support::Talk::new(io);
        if talk.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok()
            && talk.try_answer(false).await.is_ok()
        {
            open.push(talk);
        }
    }

    assert_eq!(open.len(), 6);
    assert_eq!(handshakes(&world, "too-many-of-app").await, 24.0);
    assert_eq!(world.talk(Some(&stranger)).await.get("/a", "").await.status, 403);
}

#[tokio::test]
async fn handshakes_wait_for_their_turn_but_not_for_ever() {
    let (world, _service) = world("handshakes = 2\nhandshake = \"2s\"").await;
    let caller = world.identity("caller");
    assert_eq!(world.try_get(Some(&caller), "").await.unwrap().status, 200);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(world.address()).await.unwrap());
    }

    eventually("those that wait are given up", async || {
        let (waited, held) =
            (handshakes(&world, "too-many-handshakes").await, handshakes(&world, "timeout").await);
        (waited + held >= 20.0 && held >= 2.0 && waited >= 2.0).then_some(())
    })
    .await;
    eventually("there is room again", async || world.try_get(Some(&caller), "").await.ok()).await;
}

#[tokio::test]
async fn a_connection_that_has_grown_old_is_replaced_without_a_broken_request() {
    let (world, _service) = world("max_age = \"2s\"").await;
    let caller = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&caller)).await, world.h2(Some(&caller)).await);
    let first = talk.get("/a", "").await;
    assert_eq!((first.status, first.header("connection")), (200, None));
    assert_eq!(h2.get("/a", &[]).await.status, 200);

    sleep(Duration::from_millis(2300)).await;
    let last = talk.get("/a", "").await;

    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(talk.is_closed().await);
    h2.closed().await;
    assert_eq!(cuts(&world, "max-age").await, 2.0);
}

#[tokio::test]
async fn above_the_ceiling_of_memory_connections_and_then_requests_are_refused() {
    let (world, _service) = world("memory = \"2GiB\"").await;
    let caller = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&caller)).await, world.h2(Some(&caller)).await);
    assert_eq!(talk.get("/a", "").await.status, 200);
    assert_eq!(h2.get("/a", &[]).await.status, 200);

    let config = std::fs::read_to_string(world.path().join("postern.toml")).unwrap();
    support::write(&world.path().join("postern.toml"), &config.replace("\"2GiB\"", "\"1MiB\""));
    world.signal("HUP");
    let refused = eventually("requests are refused", async || {
        let answer = talk.get("/a", "").await;
        (answer.status == 503).then_some(answer)
    })
    .await;

    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("memory-ceiling", Some("1")));
    assert_eq!(h2.get("/a", &[]).await.status, 503);
    assert!(world.try_get(Some(&caller), "").await.is_err());
    assert!(handshakes(&world, "memory-ceiling").await >= 1.0);
    assert_eq!(world.metric("postern_memory_pressure").await, Some(2.0));
    support::write(&world.path().join("postern.toml"), &config);
    world.signal("HUP");
    eventually("there is room again", async || world.try_get(Some(&caller), "").await.ok()).await;
    assert_eq!(talk.get("/a", "").await.status, 200);
}

#[tokio::test]
async fn without_descriptors_callers_are_turned_away_and_the_agent_does_not_spin() {
    let service = Service::answering(|_| {
        vec![Act::ReadBody, Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]
    })
    .await;
    let mut scene = Scene::guarding(service.address);
    scene.run_by("ulimit -n 200; exec \"$@\"");
    let world = scene.start().await;
    let caller = world.identity("caller");
    assert_eq!(world.try_get(Some(&caller), "").await.unwrap().status, 200);
    let before = processor(&world);

    let mut crowd = Vec::new();
    for _ in 0..400 {
        crowd.push(TcpStream::connect(world.address()).await.unwrap());
    }
    // Those who were turned away hear of it.
    let mut turned_away = 0;
    sleep(Duration::from_secs(2)).await;
    for stream in &mut crowd {
        let mut page = [0; 16];
        let read = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut page)).await;
        turned_away += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }

    assert!(turned_away >= 100, "{turned_away}");
    assert!(processor(&world) - before < Duration::from_secs(1), "{:?}", processor(&world) - before);
    drop(crowd);
    eventually("there is room again", async || world.try_get(Some(&caller), "").await.ok()).await;
    assert!(handshakes(&world, "no-descriptors").await >= 1.0);
}

/// Processor time that the agent has used.
fn processor(world: &World) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
