//! Trailers of services that speak HTTP/1: what is listed passes behind a body, either way, and nothing else does.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;
use support::h2c::read;
use support::world::postern;
use support::{Scene, Talk, Tls, World, soon, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A service that answers every request with `answer`; each that it gets, byte for byte.
async fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (noted, notes) = mpsc::unbounded_channel();
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (noted, answer) = (noted.clone(), answer.clone());
            tokio::spawn(async move {
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|count| count > 0) {
                    if is_whole(&String::from_utf8_lossy(&got)) {
                        noted.send(String::from_utf8(std::mem::take(&mut got)).unwrap()).unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            });
        }
    });
    (address, notes)
}

/// Whether a request has come to its end: it has no body, or one in chunks, or one of five bytes.
fn is_whole(got: &str) -> bool {
    let Some((head, behind)) = got.split_once("\r\n\r\n") else { return false };
    if head.contains("transfer-encoding: chunked") {
        behind.contains("\r\n0\r\n") && behind.ends_with("\r\n\r\n")
    } else {
        behind.len() == if head.contains("content-length: 5") { 5 } else { 0 }
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nTrailer: X-Sum, X-Other, Set-Cookie\r\n\r\n\
    5\r\nhello\r\n0\r\nX-Sum: 2\r\nX-Other: 2\r\nSet-Cookie: a=b\r\nX-Postern-App: root\r\nContent-Length: 9\r\nx-note:\tof two words \r\n\r\n";

/// An agent before `service`, which lists two names.
fn scene(service: SocketAddr) -> Scene {
    let mut scene = Scene::guarding(service);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\ntrailers = [\"X-Sum\", \"x-note\"]\n");
    scene
}

fn post(more: &str, trailers: &str) -> String {
    format!(
        "POST /a HTTP/1.1\r\nhost: localhost\r\n{more}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
    )
}

/// An answer in chunks, byte for byte: its head, and what follows.
async fn heard(talk: &mut Talk<Tls>, request: &str) -> (String, String) {
    talk.send(request).await;
    let mut answer = Vec::new();
    while !is_whole(&String::from_utf8_lossy(&answer).to_ascii_lowercase()) {
        assert_ne!(soon("an answer", talk.io.read_buf(&mut answer)).await.unwrap(), 0);
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase() + "\r\n", body.to_owned())
}

async fn caller(world: &World) -> Talk<Tls> {
    world.talk(Some(&world.identity("caller"))).await
}

#[tokio::test]
async fn what_is_listed_passes_either_way_and_nothing_else_does() {
    let (service, mut notes) = answering(ANSWER).await;
    let world = scene(service).start().await;
    let mut talk = caller(&world).await;
    let request = post(
        "TE: trailers\r\nConnection: TE\r\nTrailer: x-other, X-Sum\r\n",
        "X-Sum: 1\r\nx-other: 1\r\nX-Postern-App: admin\r\nContent-Length: 3\r\nX_Sum: 7\r\nX-NOTE:  seen \r\nx-note: pstn_sk_a\r\n",
    );

    // Twice, for what is behind the trailers is the next request.
    for _ in 0..2 {
        let (head, body) = heard(&mut talk, &request).await;

        let seen = soon("a request", notes.recv()).await.unwrap();
        assert!(seen.contains("trailer: x-sum\r\n") && !seen.contains("x-other"), "{seen}");
        assert!(seen.contains("te: trailers\r\nconnection: TE\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-note: seen\r\n\r\n"), "{seen}");
        assert_eq!(seen.matches("x-postern-app: ").count(), 1, "{seen}");
        assert!(head.contains("trailer: x-sum\r\n") && !head.contains("x-other"), "{head}");
        assert_eq!(body, "5\r\nhello\r\n0\r\nx-sum: 2\r\nx-note: of two words\r\n\r\n");
    }
}

#[tokio::test]
async fn a_caller_that_does_not_take_trailers_gets_none_and_nobody_says_that_it_does() {
    let (service, mut notes) = answering(ANSWER).await;
    let world = scene(service).start().await;
    let mut talk = caller(&world).await;

    let (head, body) = heard(&mut talk, &post("TE: gzip\r\n", "x-sum: 1\r\n")).await;

    assert!(!head.contains("trailer"), "{head}");
    assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
    let seen = notes.recv().await.unwrap();
    assert!(!seen.contains("te:") && !seen.contains("connection:"), "{seen}");
    assert!(seen.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{seen}");

    // One of HTTP/1.0 knows no chunks to which they could belong.
    talk.send("GET /a HTTP/1.0\r\nhost: localhost\r\nte: trailers\r\n\r\n").await;
    let answer = String::from_utf8(talk.rest().await).unwrap();
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.contains("x-sum"), "{answer}");
}

#[tokio::test]
async fn callers_of_http2_send_and_get_what_is_listed() {
    let (service, mut notes) = answering(ANSWER).await;
    let world = scene(service).start().await;
    let tls = world.dial(Some(&world.identity("caller")), "h2").await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let fields = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    };
    let ask = async |length: bool| {
        let mut request = http::Request::post("https://localhost/a").header("te", "trailers");
        if length {
            request = request.header("content-length", 5);
        }
        let (answer, mut stream) = sender.clone().send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let trailers =
            [("x-sum", "1"), ("x-other", "1"), ("x-postern-app", "admin"), ("x-note", "pstn_sk_a")];
        stream.send_trailers(fields(&trailers)).unwrap();
        let (head, mut body) = soon("an answer", answer).await.unwrap().into_parts();
        (head, soon("the body", read(&mut body)).await.unwrap())
    };

    let (head, (body, trailers)) = ask(false).await;
    assert_eq!((head.status.as_u16(), body.as_slice()), (200, &b"hello"[..]));
    assert_eq!(head.headers["trailer"], "x-sum");
    assert_eq!(trailers, Some(fields(&[("x-sum", "2"), ("x-note", "of two words")])));
    let seen = notes.recv().await.unwrap();
    assert!(seen.contains("te: trailers\r\n"), "{seen}");
    assert!(seen.ends_with("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), "{seen}");

    // A body of known length has no chunks behind which they could stand.
    let (_, (body, _)) = ask(true).await;
    assert_eq!(body, b"hello");
    assert!(notes.recv().await.unwrap().ends_with("\r\n\r\nhello"));
}

#[tokio::test]
async fn without_a_list_none_pass() {
    let (service, mut notes) = answering(ANSWER).await;
    let world = Scene::guarding(service).start().await;
    let mut talk = caller(&world).await;

    let (head, body) =
        heard(&mut talk, &post("te: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n", "x-sum: 1\r\n")).await;

    assert!(!head.contains("trailer"), "{head}");
    assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
    let seen = notes.recv().await.unwrap();
    assert!(!seen.contains("te:") && !seen.contains("trailer"), "{seen}");
    assert!(seen.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_secret_is_no_less_looked_for_behind_a_body_than_in_it() {
    let mut scene = Scene::guarding("127.0.0.1:9");
    let key = scene.app_with_key("leaky");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: {}\r\n\r\n",
        key.text
    );
    let (service, _notes) = answering(answer).await;
    scene.amend_config("127.0.0.1:9", &service.to_string());
    scene.amend_config(
        "id = \"orders\"\n",
        "id = \"orders\"\ntrailers = [\"x-sum\"]\nwatch_responses = \"block\"\n",
    );
    let world = scene.start().await;
    let mut talk = caller(&world).await;

    talk.send("GET /a HTTP/1.1\r\nhost: localhost\r\nte: trailers\r\n\r\n").await;
    let heard = String::from_utf8(talk.rest().await).unwrap();
    assert!(!heard.contains("x-sum") && !heard.ends_with("0\r\n\r\n"), "it must not look whole: {heard}");
    world.log_with("key.leaked").await;
    let answer = world.h2(Some(&world.identity("caller"))).await;
    let request = http::Request::get("https://localhost/a").body(()).unwrap();
    assert!(answer.ask(request, None, None).await.is_err(), "the stream is reset");
}

#[tokio::test]
async fn more_than_is_read_of_trailers_is_refused() {
    let (service, _notes) = answering(ANSWER).await;
    let world = scene(service).start().await;
    let mut talk = caller(&world).await;
    let line = |length: usize| format!("x-sum: {}\r\n", "a".repeat(length));
    assert!(heard(&mut talk, &post("", &line(3000))).await.0.starts_with("http/1.1 200"));

    let answer = talk.ask(&post("", &[line(3000), line(3000)].concat())).await;

    assert_eq!((answer.status, answer.code().as_str()), (400, "bad-body"));
}

#[test]
fn what_would_mislead_cannot_be_listed() {
    let check = |keys: &str| {
        let mut scene = Scene::new();
        scene.config(&format!(
            "[[listener]]\nid = \"inbound\"\naddress = \"127.0.0.1:8443\"\n[[service]]\nid = \"a\"\n{keys}\n"
        ));
        scene.write();
        write(&scene.path().join("registry/apps.toml"), "");
        let output = postern(scene.path()).arg("check").output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&told).into_owned())
    };
    let here = "endpoint = \"127.0.0.1:9\"\n";
    assert!(check(&format!("{here}trailers = [\"x-sum\", \"grpc-status\"]")).0);

    for (keys, told) in [
        (format!("{here}trailers = [\"x-postern-app\"]"), "it never passes as a trailer"),
        (format!("{here}trailers = [\"X_Forwarded_For\"]"), "it never passes as a trailer"),
        (format!("{here}trailers = [\"content-type\"]"), "it never passes as a trailer"),
        (format!("{here}trailers = [\"x sum\"]"), "expected the name of a field"),
        (format!("{here}trailers = [\"x-our-key\"]\n[api_key]\nheader = \"X-Our-Key\""), "carries API keys"),
        (format!("{here}trailers = [\"x-sum\"]\nprotocol = \"h2c\""), "for services that speak http/1.1"),
        ("endpoint = \"builtin:whoami\"\ntrailers = [\"x-sum\"]".to_owned(), "knows no trailers"),
    ] {
        let (fine, output) = check(&keys);
        assert!(!fine && output.contains(told), "{keys}: {output}");
    }
}
