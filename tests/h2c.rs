//! Services that speak HTTP/2 in plaintext: bodies and trailers both ways at once, resets that keep their meaning, connections
//! that are shared, and what a slow reader may hold up.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Request, Response};
use support::h2c::{echo, read, send};
use support::world::Key;
use support::{H2cService, Scene, Service, Tls, World, eventually, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// An agent in front of `service`; a silence of a second is too long.
async fn before(service: &H2cService) -> World {
    scene(service).0.start().await
}

fn scene(service: &H2cService) -> (Scene, Key) {
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nprotocol = \"h2c\"\n");
    scene.config("[limits]\nstall = \"1s\"\n");
    let key = scene.app_with_key("by-key");
    (scene, key)
}

/// A caller's HTTP/2 connection, with all that `h2` can do.
async fn caller(world: &World) -> SendRequest<Bytes> {
    let tls = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("https://localhost{path}")).body(()).unwrap()
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

/// Opens a stream; what comes of it, and where its body goes.
fn open(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    sender.clone().send_request(request, false).unwrap()
}

#[tokio::test]
async fn a_service_gets_heads_bodies_and_trailers_and_so_does_its_caller() {
    let service = H2cService::echoing().await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    let mut request = post("/a?b=c");
    *request.headers_mut() = fields(&[("te", "trailers"), ("x-postern-app", "root"), ("x-mine", "1")]);
    let (answer, mut stream) = open(&sender, request);
    assert!(send(&mut stream, Bytes::from_static(b"hello")).await);
    stream
        .send_trailers(fields(&[
            ("x-sum", "5"),
            ("x-postern-app", "root"),
            ("x-forwarded-client-cert", "By=x"),
            ("authorization", "Bearer x"),
        ]))
        .unwrap();
    let (parts, mut body) = soon("an answer", answer).await.unwrap().into_parts();

    assert_eq!(parts.status, 200);
    assert!(parts.headers.contains_key("x-request-id"));
    let (bytes, trailers) = soon("the body", read(&mut body)).await.unwrap();
    assert_eq!((bytes.as_slice(), trailers), (b"hello".as_slice(), Some(fields(&[("x-sum", "5")]))));
    let seen = service.seen().pop().unwrap();
    assert_eq!(seen.uri.to_string(), "http://localhost/a?b=c");
    assert_eq!(
        (&seen.headers["te"], &seen.headers["x-mine"]),
        (&"trailers".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(seen.headers.get_all("x-postern-app").iter().collect::<Vec<_>>(), ["caller"]);
    let event = world.access(parts.headers["x-request-id"].to_str().unwrap()).await;
    assert_eq!((&event["received"], &event["sent"]), (&5.into(), &5.into()), "{event}");
}

#[tokio::test]
async fn callers_of_http1_are_served_as_by_any_other_service() {
    let service = H2cService::answering(|head, body, mut respond| async move {
        let bare = |status: u16| Response::builder().status(status);
        match head.uri.path() {
            "/none" => drop(respond.send_response(bare(204).body(()).unwrap(), true)),
            "/empty" => drop(respond.send_response(bare(200).body(()).unwrap(), true)),
            "/long" => {
                let response = bare(200).header("content-length", 7).body(()).unwrap();
                drop(respond.send_response(response, true));
            }
            "/asks" => {
                respond.send_informational(bare(100).body(()).unwrap()).unwrap();
                echo(body, respond).await;
            }
            _ => echo(body, respond).await,
        }
    })
    .await;
    let world = before(&service).await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    let answer = talk.ask("POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let chunked = "POST /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nhel\r\n2\r\nlo\r\n0\r\nx-sum: 1\r\n\r\n";
    let answer = talk.ask(chunked).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let answer = talk.get("/a", "").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""), "a request without a body has ended");
    let answer = talk.get("/none", "").await;
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    let answer = talk.get("/empty", "").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
    talk.send("HEAD /long HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(talk.answer_to_head().await.header("content-length"), Some("7"));
    talk.send("POST /asks HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    assert_eq!(talk.answer().await.status, 100);
    talk.send("ok").await;
    assert_eq!(talk.answer().await.text(), "ok");

    let body = vec![b'x'; 3_000_000];
    let head = format!("POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let (mut read, mut write) = tokio::io::split(talk.io);
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&body).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    let mut answer = Vec::new();
    soon("a large answer", async {
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            assert!(read.read_buf(&mut answer).await.unwrap() > 0);
        }
    })
    .await;
    sending.await.unwrap();
    assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), 3_000_000 + count(&answer[..300], b'x'));
    assert_eq!(service.connections(), 1, "all of them share one connection");
}

/// How often `byte` stands in the head of an answer.
fn count(bytes: &[u8], byte: u8) -> usize {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    bytes[..end].iter().filter(|found| **found == byte).count()
}

#[tokio::test]
async fn an_answer_may_begin_before_the_request_ends_and_both_go_on() {
    let service = H2cService::echoing().await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    let (answer, mut stream) = open(&sender, post("/talk"));
    let mut body = soon("the head", answer).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        assert!(send(&mut stream, Bytes::from_static(word.as_bytes())).await);
        let heard = soon(word, body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(heard.len()).unwrap();
        assert_eq!(heard, word.as_bytes());
    }
    stream.send_data(Bytes::new(), true).unwrap();

    assert_eq!(soon("the end", read(&mut body)).await.unwrap().0, b"");
}

#[tokio::test]
async fn an_answer_that_ends_early_is_whole_although_the_request_is_not() {
    let service = H2cService::answering(|_, body, mut respond| async move {
        respond.send_response(Response::builder().status(413).body(()).unwrap(), true).unwrap();
        drop(body);
    })
    .await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    let (answer, _stream) = open(&sender, post("/a"));

    assert_eq!(soon("an answer", answer).await.unwrap().status(), 413);
}

#[tokio::test]
async fn interim_answers_pass() {
    let service = H2cService::answering(|_, body, mut respond| async move {
        let hint = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        respond.send_informational(hint).unwrap();
        echo(body, respond).await;
    })
    .await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    let (mut answer, mut stream) = open(&sender, post("/a"));
    let hint =
        soon("a hint", std::future::poll_fn(|cx| answer.poll_informational(cx))).await.unwrap().unwrap();
    stream.send_data(Bytes::new(), true).unwrap();

    assert_eq!((hint.status().as_u16(), &hint.headers()["link"]), (103, &"</a.css>".parse().unwrap()));
    assert_eq!(soon("an answer", answer).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reset_keeps_its_meaning_in_both_directions() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let service = H2cService::answering(move |head, mut body, mut respond| {
        let told = told.clone();
        async move {
            let reason = match head.uri.path() {
                "/cancel" | "/cancel-late" => Reason::CANCEL,
                "/calm" | "/calm-late" => Reason::ENHANCE_YOUR_CALM,
                "/refuse" => Reason::REFUSED_STREAM,
                "/protocol" => Reason::PROTOCOL_ERROR,
                _ => {
                    let why = body.data().await.unwrap().unwrap_err();
                    return told.send(why.reason()).unwrap();
                }
            };
            if head.uri.path().ends_with("-late") {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                assert!(send(&mut stream, Bytes::from_static(b"x")).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            respond.send_reset(reason);
        }
    })
    .await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    for (path, reason) in [
        ("/cancel", Reason::CANCEL),
        ("/calm", Reason::ENHANCE_YOUR_CALM),
        ("/refuse", Reason::REFUSED_STREAM),
        ("/protocol", Reason::INTERNAL_ERROR),
    ] {
        let (answer, _stream) = open(&sender, post(path));
        assert_eq!(soon(path, answer).await.unwrap_err().reason(), Some(reason), "{path}");
    }
    for (path, reason) in [("/cancel-late", Reason::CANCEL), ("/calm-late", Reason::ENHANCE_YOUR_CALM)] {
        let (answer, _stream) = open(&sender, post(path));
        let mut body = soon(path, answer).await.unwrap().into_body();
        assert_eq!(soon(path, read(&mut body)).await.unwrap_err().reason(), Some(reason), "{path}");
    }
    for reason in [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM] {
        let (_answer, mut stream) = open(&sender, post("/wait"));
        eventually("the request is there", async || {
            service.seen().iter().any(|head| head.uri.path() == "/wait").then_some(())
        })
        .await;
        stream.send_reset(reason);
        assert_eq!(soon("a reset", heard.recv()).await, Some(Some(reason)));
    }
    assert_eq!(service.connections(), 1, "a stream's end is not the connection's");
}

/// A service that sends or takes as much as it can, and counts it.
async fn greedy(moved: &Arc<AtomicUsize>) -> H2cService {
    let moved = Arc::clone(moved);
    H2cService::answering(move |head, body, mut respond| {
        let moved = Arc::clone(&moved);
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            if head.uri.path() == "/deaf" {
                // Takes nothing, and stays.
                tokio::time::sleep(Duration::from_secs(600)).await;
                return drop(body);
            }
            while send(&mut stream, Bytes::from(vec![0; 16 * 1024])).await {
                moved.fetch_add(16 * 1024, Ordering::Relaxed);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_sender_and_nobody_else() {
    let moved = Arc::default();
    let service = greedy(&moved).await;
    let (mut scene, _) = scene(&service);
    scene.amend_config("stall = \"1s\"", "stall = \"60s\"");
    let world = scene.start().await;
    let sender = caller(&world).await;

    let (answer, _stream) = open(&sender, post("/flood"));
    let _unread = soon("the head", answer).await.unwrap().into_body();
    let mut before = 0;
    eventually("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = moved.load(Ordering::Relaxed);
        (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
    })
    .await;
    assert!(before < 2 * 1024 * 1024, "{before} bytes are held for somebody who reads none");

    let (answer, mut stream) = open(&sender, post("/deaf"));
    soon("the head", answer).await.unwrap();
    let mut sent = 0;
    let stuck = async {
        while send(&mut stream, Bytes::from(vec![0; 16 * 1024])).await {
            sent += 16 * 1024;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), stuck).await.is_err());
    assert!(sent > 0 && sent < 2 * 1024 * 1024, "{sent} bytes are held for a service that reads none");

    let other = caller(&world).await;
    let (answer, _stream) = open(&other, post("/flood"));
    let mut body = soon("the head", answer).await.unwrap().into_body();
    let mut got = 0;
    soon("the other caller", async {
        while got < 4 * 1024 * 1024 {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            got += data.len();
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_moves_in_one_direction_only_is_not_cut_and_a_silent_one_is() {
    let service = H2cService::answering(|head, mut body, mut respond| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        match head.uri.path() {
            "/drip" => {
                for _ in 0..8 {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    assert!(send(&mut stream, Bytes::from_static(b".")).await);
                }
                stream.send_data(Bytes::new(), true).unwrap();
            }
            "/listen" => {
                let (bytes, _) = read(&mut body).await.unwrap();
                stream.send_data(bytes.len().to_string().into(), true).unwrap();
            }
            _ => tokio::time::sleep(Duration::from_secs(600)).await,
        }
    })
    .await;
    let world = before(&service).await;
    let sender = caller(&world).await;

    let (answer, _stream) = open(&sender, post("/drip"));
    let mut body = soon("the head", answer).await.unwrap().into_body();
    assert_eq!(soon("the drops", read(&mut body)).await.unwrap().0, b"........");

    let (answer, mut stream) = open(&sender, post("/listen"));
    let mut body = soon("the head", answer).await.unwrap().into_body();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(send(&mut stream, Bytes::from_static(b".")).await);
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(soon("the sum", read(&mut body)).await.unwrap().0, b"8");

    let (answer, _stream) = open(&sender, post("/silent"));
    let mut body = soon("the head", answer).await.unwrap().into_body();
    let cut = soon("the cut", read(&mut body)).await.unwrap_err();
    assert_eq!(cut.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn requests_share_a_connection_and_another_is_made_when_it_says_goodbye() {
    let service = H2cService::answering(|head, body, respond| async move {
        if head.uri.path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        echo(body, respond).await;
    })
    .await;
    let (mut scene, _) = scene(&service);
    scene.amend_config("threads = 2", "threads = 1");
    let world = scene.start().await;
    let h2 = world.h2(Some(&world.identity("caller"))).await;

    let all: Vec<_> = (0..40)
        .map(|_| {
            let h2 = h2.clone();
            tokio::spawn(async move { h2.get("/slow", &[]).await.status })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(service.connections(), 1);

    let all: Vec<_> = (0..100)
        .map(|_| {
            let h2 = h2.clone();
            tokio::spawn(async move { h2.get("/slow", &[]).await.status })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(service.connections(), 2, "64 streams are as many as one connection has");

    assert_eq!(h2.get("/goodbye", &[]).await.status, 200);
    for _ in 0..4 {
        assert_eq!(h2.get("/a", &[]).await.status, 200);
    }
    assert!(service.connections() <= 4, "{}", service.connections());
}

#[tokio::test]
async fn a_service_that_is_not_there_or_speaks_something_else_is_the_services_fault() {
    let other = Service::start().await;
    let mut scene = Scene::guarding(other.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nprotocol = \"h2c\"\n");
    scene.config("[limits]\nconnect = \"1s\"\nstall = \"1s\"\n");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    scene.service("gone", &gone.to_string(), "base_path = \"/gone\"\nprotocol = \"h2c\"\n");
    let silent_at = silent.local_addr().unwrap().to_string();
    scene.service("silent", &silent_at, "base_path = \"/silent\"\nprotocol = \"h2c\"\n");
    scene.amend_registry("service = \"orders\"", "service = \"gone\"\nmethods = [\"*\"]\npath = \"/**\"\n\n\
        [[product.operation]]\nservice = \"silent\"\nmethods = [\"*\"]\npath = \"/**\"\n\n[[product.operation]]\nservice = \"orders\"");
    let world = scene.start().await;
    let identity = world.identity("caller");
    let (h2, mut talk) = (world.h2(Some(&identity)).await, world.talk(Some(&identity)).await);

    for (path, status, code) in [
        ("/gone", 502, "upstream-unavailable"),
        ("/a", 502, "bad-gateway"),
        ("/silent", 504, "upstream-timeout"),
    ] {
        for answer in [h2.get(path, &[]).await, talk.get(path, "").await] {
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {answer:?}");
        }
    }
}

/// A gRPC call by a raw caller, and what it is told.
async fn call(sender: &SendRequest<Bytes>, path: &str) -> (HeaderMap, RecvStream) {
    let mut request = post(path);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    let (answer, _) = open(sender, request);
    let (parts, body) = soon("an answer", answer).await.unwrap().into_parts();
    assert_eq!(parts.status, 200, "{parts:?}");
    (parts.headers, body)
}

#[tokio::test]
async fn a_call_that_is_refused_is_told_so_as_grpc() {
    let service = H2cService::echoing().await;
    let (mut scene, _) = scene(&service);
    scene.amend_registry("path = \"/**\"", "path = \"/shop.Orders/List\"");
    let world = scene.start().await;
    let nobody = world.dial(None, "h2").await.unwrap();
    let (anonymous, connection) = h2::client::handshake::<Tls>(nobody).await.unwrap();
    tokio::spawn(connection);
    let known = caller(&world).await;

    let (fine, _) = call(&known, "/shop.Orders/List").await;
    assert!(!fine.contains_key("grpc-status"), "{fine:?}");
    let cases = [
        (&anonymous, "/shop.Orders/List", "16", "missing-credential"),
        (&known, "/shop.Orders/Delete", "7", "not-entitled"),
        (&known, "/shop.orders/List", "7", "not-entitled"),
        (&known, "/shop.Orders/L%69st", "13", "bad-path"),
    ];
    for (sender, path, status, code) in cases {
        let (told, body) = call(sender, path).await;
        let field = |name: &str| told[name].to_str().unwrap().to_owned();
        assert_eq!(
            (field("grpc-status").as_str(), field("x-postern-code").as_str()),
            (status, code),
            "{path}"
        );
        assert_eq!(field("content-type"), "application/grpc");
        assert!(!field("grpc-message").is_empty() && told.contains_key("x-request-id"));
        assert!(body.is_end_stream(), "{path}: trailers only");
    }
    assert_eq!(service.seen().len(), 1, "refused calls must not reach the service");
    // The same refusal as anybody else hears it.
    let plain = world.talk(None).await.get("/shop.Orders/List", "").await;
    assert_eq!((plain.status, plain.code().as_str()), (401, "missing-credential"));
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

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Sends raw frames and returns what comes back, frame by frame, until a stream has ended or was reset.
async fn raw(world: &World, frames: &[Vec<u8>]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut tls = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
    let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    tls.write_all(&[opening, frames.concat()].concat()).await.unwrap();
    let mut heard = Vec::new();
    soon("frames", async {
        loop {
            let mut head = [0; 9];
            if tls.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            tls.read_exact(&mut payload).await.unwrap();
            let ended = head[3] == HEADERS && head[4] & END_STREAM != 0;
            let (kind, flags) = (head[3], head[4]);
            heard.push((kind, flags, payload));
            if ended || kind == RST_STREAM || kind == GOAWAY || kind == 0 && flags & END_STREAM != 0 {
                return;
            }
        }
    })
    .await;
    heard
}

const ASK: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/a")];

/// > A client MUST NOT use the :protocol pseudo-header field unless it has received SETTINGS_ENABLE_CONNECT_PROTOCOL.
/// > — RFC 8441 §4, in other words
#[tokio::test]
async fn extended_connect_is_neither_announced_nor_served() {
    let service = H2cService::echoing().await;
    let world = before(&service).await;
    let fine = raw(&world, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&ASK))]).await;
    assert!(!fine.iter().any(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY)), "{fine:?}");

    let settings = fine.iter().filter(|(kind, flags, _)| *kind == SETTINGS && *flags == 0);
    let announced: Vec<_> =
        settings.flat_map(|(_, _, payload)| payload.chunks(6).map(<[u8]>::to_vec)).collect();
    assert!(
        !announced.is_empty() && !announced.iter().any(|setting| setting[..2] == [0, 8]),
        "{announced:?}"
    );
    let fields = [&[(":method", "CONNECT"), (":protocol", "websocket")], &ASK[1..]].concat();
    let heard = raw(&world, &[frame(HEADERS, END_HEADERS, 1, &block(&fields))]).await;
    assert!(heard.iter().any(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY)), "{heard:?}");
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn pseudo_headers_in_trailers_never_reach_a_service() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let service = H2cService::answering(move |_, mut body, mut respond| {
        let told = told.clone();
        async move {
            told.send(read(&mut body).await.ok().and_then(|(_, trailers)| trailers)).unwrap();
            drop(respond.send_response(Response::new(()), true));
        }
    })
    .await;
    let world = before(&service).await;
    let ask = frame(HEADERS, END_HEADERS, 1, &block(&ASK));

    let good = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "1")]));
    raw(&world, &[ask.clone(), good]).await;
    assert_eq!(soon("trailers", heard.recv()).await.unwrap(), Some(fields(&[("x-sum", "1")])));

    let bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/b"), ("x-sum", "1")]));
    raw(&world, &[ask, bad]).await;
    if let Ok(Some(trailers)) = tokio::time::timeout(Duration::from_secs(1), heard.recv()).await {
        assert!(trailers.is_none_or(|trailers| trailers == fields(&[("x-sum", "1")])));
    }
    assert!(service.seen().iter().all(|head| head.uri.path() == "/a"));
}

/// A caller of HTTP/1.1 is told, and the service is not asked without end.
#[tokio::test]
async fn a_request_whose_stream_is_reset_each_time_is_asked_once_more_and_no_oftener() {
    let service = H2cService::answering(|head, body, mut respond| async move {
        if head.uri.path() == "/good" {
            echo(body, respond).await;
        } else {
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let world = before(&service).await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;
    assert_eq!(talk.get("/good", "").await.status, 200);

    let answer = soon("an answer", talk.get("/bad", "")).await;

    assert_eq!((answer.status, answer.code()), (502, "bad-gateway".into()));
    assert_eq!(service.seen().len(), 3);
}
