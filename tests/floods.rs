//! Callers that cost more than they bring: each flood ends its connection, costs little memory and time, and nobody beside it
//! notices.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, and tells its figures"
)]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::cell::Cell;
use std::time::Duration;

use support::{Act, H2, Scene, Service, Tls, World, eventually, ok};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET https://localhost/a`, by the static table alone.
const GET: &[u8] = b"\x82\x87\x04\x02/a\x01\x09localhost";
/// The same as a POST.
const POST: &[u8] = b"\x83\x87\x04\x02/a\x01\x09localhost";

fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// A caller that writes frames as it likes.
struct Raw {
    io: Tls,
}

/// What the other side has said.
#[derive(Debug, Default)]
struct Heard {
    /// The code of its GOAWAY, the last one that names an error.
    goaway: Option<u32>,
    resets: Vec<(u32, u32)>,
    /// Streams that were answered.
    answered: Vec<u32>,
    closed: bool,
}

impl Raw {
    async fn new(world: &World, settings: &[u8]) -> Self {
        let mut io = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        io.flush().await.unwrap();
        Self { io }
    }

    /// Writes `begin`, then up to `most` pieces; reads what comes meanwhile, until the connection ends or `quiet` has passed with
    /// everything written.
    async fn flood(self, begin: &[u8], most: u32, quiet: Duration, piece: impl Fn(u32) -> Vec<u8>) -> Heard {
        let (mut from, mut to) = tokio::io::split(self.io);
        let writing = async {
            if to.write_all(begin).await.is_err() {
                return;
            }
            for first in (0..most).step_by(50) {
                let some: Vec<u8> = (first..(first + 50).min(most)).flat_map(&piece).collect();
                if to.write_all(&some).await.is_err() {
                    return;
                }
            }
            drop(to.flush().await);
            tokio::time::sleep(quiet).await;
        };
        let mut bytes = Vec::new();
        let reading = async {
            let mut page = vec![0; 16 * 1024];
            loop {
                match from.read(&mut page).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend_from_slice(page.get(..count).unwrap()),
                }
            }
        };
        let patience = Duration::from_secs(60);
        let closed = tokio::time::timeout(patience, async {
            tokio::select! {
                // Whoever writes into a connection that has ended is told so, and may still read why.
                () = async { writing.await; } => false,
                () = reading => true,
            }
        });
        let mut closed = closed.await.expect("a flood comes to its end");
        if !closed {
            let mut page = vec![0; 16 * 1024];
            while let Ok(read) = tokio::time::timeout(Duration::from_millis(200), from.read(&mut page)).await
            {
                match read {
                    Ok(0) | Err(_) => {
                        closed = true;
                        break;
                    }
                    Ok(count) => bytes.extend_from_slice(page.get(..count).unwrap()),
                }
            }
        }
        Heard { closed, ..heard(&bytes) }
    }
}

fn heard(mut bytes: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    while bytes.len() >= 9 {
        let length = usize::try_from(number(&[0, bytes[0], bytes[1], bytes[2]])).unwrap();
        let (kind, stream) = (bytes[3], number(&bytes[5..9]) & 0x7fff_ffff);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        match kind {
            HEADERS => heard.answered.push(stream),
            RST_STREAM => heard.resets.push((stream, number(payload))),
            7 if number(&payload[4..8]) != 0 || heard.goaway.is_none() => {
                heard.goaway = Some(number(&payload[4..8]));
            }
            _ => {}
        }
        bytes = &bytes[9 + length..];
    }
    heard
}

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const CALM: u32 = 0xb;

async fn world(keys: &str) -> (World, Service) {
    let service = Service::answering(|seen| if seen.path() == "/a" { ok() } else { vec![Act::Echo] }).await;
    let mut scene = Scene::guarding(service.address);
    scene.config(&format!("[limits]\n{keys}\n"));
    (scene.start().await, service)
}

/// What the agent uses.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// In KiB.
    memory: u64,
    processor: Duration,
}

fn usage(world: &World) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Usage { memory, processor: Duration::from_millis(ticks * 10) }
}

/// Asks over and over on a connection of its own while `work` goes on, and some times more; all requests must be answered. How
/// long the slowest one took is told.
async fn beside<T>(live: &H2, work: impl Future<Output = T>) -> (T, Duration) {
    let done = Cell::new(false);
    let asking = async {
        let mut slowest = Duration::ZERO;
        for asked in 0.. {
            if done.get() && asked >= 5 {
                break;
            }
            let begun = Instant::now();
            assert_eq!(live.get("/a", &[]).await.status, 200);
            slowest = slowest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        slowest
    };
    tokio::join!(
        async {
            let outcome = work.await;
            done.set(true);
            outcome
        },
        asking
    )
}

/// A flood: its name, how it begins, one piece of it, and what it is counted as.
type Flood = (&'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>, &'static str);

const FLOODS: &[Flood] = &[
    ("PING", Vec::new, |_| frame(PING, 0, 0, &[0; 8]), "h2-control-flood"),
    ("PING that answers nothing", Vec::new, |_| frame(PING, 1, 0, &[0; 8]), "h2-control-flood"),
    ("SETTINGS", Vec::new, |_| frame(SETTINGS, 0, 0, &[]), "h2-control-flood"),
    ("PRIORITY", Vec::new, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), "h2-control-flood"),
    ("PRIORITY of many", Vec::new, |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1]), "h2-control-flood"),
    ("windows by one", Vec::new, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), "h2-control-flood"),
    ("unknown frames", Vec::new, |_| frame(0xee, 0, 0, b"whatever"), "h2-control-flood"),
    ("empty DATA", || frame(HEADERS, END_HEADERS, 1, POST), |_| frame(DATA, 0, 1, &[]), "h2-calm"),
    (
        "CONTINUATION",
        || frame(HEADERS, END_STREAM, 1, GET),
        |_| frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"),
        "h2-calm",
    ),
    (
        "rapid reset",
        Vec::new,
        |n| {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
            [request, frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat()
        },
        "h2-calm",
    ),
    (
        "made to reset, by a window of nothing",
        Vec::new,
        |n| {
            let request = frame(HEADERS, END_HEADERS, stream(n), POST);
            [request, frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat()
        },
        "h2-protocol-error",
    ),
    (
        "made to reset, by a window that is too large",
        Vec::new,
        |n| {
            let request = frame(HEADERS, END_HEADERS, stream(n), POST);
            [request, frame(WINDOW_UPDATE, 0, stream(n), &[0x7f, 0xff, 0xff, 0xff])].concat()
        },
        "h2-calm",
    ),
    (
        "made to reset, by a malformed head",
        Vec::new,
        |n| {
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                stream(n),
                b"\x82\x87\x04\x02/a\x00\x0aconnection\x05close",
            )
        },
        "h2-calm",
    ),
];

#[tokio::test]
async fn each_flood_ends_its_connection_and_nobody_beside_it_notices() {
    let (world, _service) = world("").await;
    let live = world.h2(Some(&world.identity("caller"))).await;
    assert_eq!(live.get("/a", &[]).await.status, 200);
    let before = usage(&world);

    for (what, begin, piece, code) in FLOODS {
        let raw = Raw::new(&world, &[]).await;
        let begin = begin();
        let flooding = raw.flood(&begin, 100_000, Duration::from_secs(5), piece);
        let (heard, slowest) = beside(&live, flooding).await;
        assert!(heard.closed, "{what}: {heard:?}");
        // Where the caller wrote on, the last words may be lost to it.
        let reason = if *code == "h2-protocol-error" { 1 } else { CALM };
        assert!(heard.goaway.is_none_or(|code| code == reason), "{what}: {heard:?}");
        assert!(slowest < Duration::from_secs(1), "{what}: {slowest:?}");
        println!("{what}: {:?}, slowest beside it {slowest:?}, {:?}", heard.goaway, usage(&world));
    }

    let after = usage(&world);
    assert!(after.memory < before.memory + 32 * 1024, "{before:?} {after:?}");
    assert!(after.processor < before.processor + Duration::from_secs(10), "{before:?} {after:?}");
    let mut codes: Vec<&str> = FLOODS.iter().map(|(.., code)| *code).collect();
    codes.sort_unstable();
    for same in codes.chunk_by(|one, other| one == other) {
        let name = format!("postern_connections_cut_total{{code=\"{}\"}}", same[0]);
        let count = world.metric(&name).await.unwrap_or_default();
        assert!(
            count >= f64::from(u32::try_from(same.len()).unwrap()),
            "{name} is {count}, expected {}",
            same.len()
        );
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_while_they_are_served_are_bounded() {
    let service = Service::answering(|_| vec![Act::Pause(Duration::from_secs(30))]).await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[limits]\nh2_resets = \"1/s\"\nh2_resets_burst = 20\n");
    let world = scene.start().await;
    let mut raw = Raw::new(&world, &[]).await;

    for n in 0..20 {
        raw.io.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET)).await.unwrap();
        raw.io.flush().await.unwrap();
        let arrived = usize::try_from(n).unwrap() + 1;
        eventually("the service is asked", async || (service.seen().len() == arrived).then_some(())).await;
        raw.io.write_all(&frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])).await.unwrap();
    }
    let reset = |n| frame(RST_STREAM, 0, stream(n % 20), &[0, 0, 0, 8]);
    let heard = raw.flood(&[], 20, Duration::from_secs(5), reset).await;

    assert!(heard.closed && heard.goaway == Some(CALM), "{heard:?}");
    let count = world.metric("postern_connections_cut_total{code=\"h2-reset-flood\"}").await;
    assert_eq!(count, Some(1.0));
}

#[tokio::test]
async fn a_busy_client_is_no_flood() {
    let (world, _service) =
        world("h2_control = \"10/s\"\nh2_control_burst = 20\nh2_resets = \"10/s\"\nh2_resets_burst = 20")
            .await;
    let raw = Raw::new(&world, &[]).await;

    // As clients do that measure the way and open windows with each request.
    let heard = raw
        .flood(&[], 90, Duration::from_millis(500), |n| {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
            let (window, ping) = (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]), frame(PING, 0, 0, &[0; 8]));
            [request, window.clone(), window, ping].concat()
        })
        .await;

    assert!(!heard.closed, "{heard:?}");
    assert_eq!(heard.answered.len(), 90, "{heard:?}");
}

#[tokio::test]
async fn what_grows_when_it_is_unpacked_is_bounded() {
    let (world, service) = world("").await;
    let live = world.h2(Some(&world.identity("caller"))).await;
    assert_eq!(live.get("/a", &[]).await.status, 200);
    let before = usage(&world);
    // One entry of nearly the whole table, and then one byte for each time that it is meant.
    let bomb = |n: u32| {
        let head = [GET, b"\x40\x01a\x7f\xa1\x1e", &[b'b'; 4000], &vec![0xbe; 8000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &head)
    };

    let raw = Raw::new(&world, &[]).await;
    let (heard, slowest) = beside(&live, raw.flood(&[], 300, Duration::from_secs(1), bomb)).await;

    let after = usage(&world);
    println!("{heard:?} {slowest:?} {before:?} {after:?}");
    assert!(after.memory < before.memory + 32 * 1024, "{before:?} {after:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Nothing of it has reached the service.
    assert!(service.seen().iter().all(|seen| seen.values("a").is_empty()));
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let (world, _service) = world("h2_streams = 10").await;
    let live = world.h2(Some(&world.identity("caller"))).await;
    let raw = Raw::new(&world, &[]).await;

    let open =
        raw.flood(&[], 30, Duration::from_millis(500), |n| frame(HEADERS, END_HEADERS, stream(n), POST));
    let (heard, _) = beside(&live, open).await;

    let refused: Vec<u32> = heard.resets.iter().map(|(stream, _)| *stream).collect();
    assert_eq!(refused, (10..30).map(stream).collect::<Vec<_>>(), "{heard:?}");
    // REFUSED_STREAM, so that they may be asked again.
    assert!(heard.resets.iter().all(|(_, code)| *code == 7), "{heard:?}");
}

#[tokio::test]
async fn many_small_pieces_of_a_body_are_bounded() {
    // A service that takes nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut scene = Scene::guarding(silent.local_addr().unwrap());
    scene.config("[limits]\nstall = \"5s\"\n");
    let world = scene.start().await;
    let before = usage(&world);

    let raw = Raw::new(&world, &[]).await;
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let heard = raw.flood(&open, 500_000, Duration::from_secs(1), |_| frame(DATA, 0, 1, b"x")).await;

    let after = usage(&world);
    println!("{heard:?} {before:?} {after:?}");
    assert!(after.memory < before.memory + 32 * 1024, "{before:?} {after:?}");
    drop(silent);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let large = vec![b'x'; 1024 * 1024];
    let service = Service::answering(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len());
        vec![Act::Send([head.into_bytes(), large.clone()].concat())]
    })
    .await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[limits]\nstall = \"4s\"\nidle = \"8s\"\n");
    let world = scene.start().await;
    let before = usage(&world);

    // SETTINGS_INITIAL_WINDOW_SIZE = 0: no byte of a body may be sent.
    let raw = Raw::new(&world, &[0, 4, 0, 0, 0, 0]).await;
    let ask = |n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
    let begun = Instant::now();
    let heard = raw.flood(&[], 100, Duration::from_secs(30), ask).await;

    assert_eq!(heard.resets.len(), 100, "{heard:?}");
    assert!(heard.closed, "{heard:?}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let after = usage(&world);
    assert!(after.memory < before.memory + 32 * 1024, "{before:?} {after:?}");
    eventually("its connections are gone", async || {
        world.metric("postern_connections").await.filter(|open| *open == 0.0)
    })
    .await;
}
