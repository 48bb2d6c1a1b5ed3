//! Requests that two programs could read in two ways: each is refused, and nothing of it reaches the service.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use bytes::Bytes;
use support::caller::handshake_for;
use support::{Act, H2, Scene, Service, Talk, World};

/// An agent whose caller may use `/public/**`, in front of a service that sends back what it gets.
async fn guarded() -> (World, Service) {
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let mut scene = Scene::new();
    scene.listener("inbound", "").service("orders", &service.address.to_string(), "").workload("caller", "");
    scene.registry(
        "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\n\n[[product.operation]]\nservice = \"orders\"\n\
         methods = [\"*\"]\npath = \"/public/**\"\n",
    );
    scene.app("caller", "[[app.certificate]]\nuri = \"spiffe://postern.test/caller\"\n");
    scene.registry(support::world::GRANT);
    (scene.start().await, service)
}

/// Heads and bodies of HTTP/1.1, and the status of each. What comes behind a refused one must never be read as a request.
const PROBES: &[(&str, &str, u16)] = &[
    (
        "length and chunks",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunks and length",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "an unknown coding",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked, identity",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "gzip, chunked",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "two codings",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "a coding with a tab",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("a list of lengths", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 4, 4\r\n\r\nabcd", 400),
    (
        "two equal lengths",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nabcd",
        400,
    ),
    (
        "two lengths",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ncontent-length: 0\r\n\r\nabcd",
        400,
    ),
    ("a signed length", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: +4\r\n\r\nabcd", 400),
    ("a negative length", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: -4\r\n\r\nabcd", 400),
    ("a length in hexadecimal", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 0x4\r\n\r\nabcd", 400),
    (
        "an endless length",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999999999999\r\n\r\nabcd",
        400,
    ),
    ("lines that end in LF", "GET /public/a HTTP/1.1\nhost: h\n\n", 400),
    ("one line that ends in LF", "GET /public/a HTTP/1.1\r\nhost: h\r\na: b\nc: d\r\n\r\n", 400),
    ("a folded field", "GET /public/a HTTP/1.1\r\nhost: h\r\na: b\r\n c\r\n\r\n", 400),
    ("a space before the colon", "GET /public/a HTTP/1.1\r\nhost: h\r\ncontent-length : 0\r\n\r\n", 400),
    ("a space before the first name", "GET /public/a HTTP/1.1\r\n host: h\r\n\r\n", 400),
    ("two hosts", "GET /public/a HTTP/1.1\r\nhost: h\r\nhost: i\r\n\r\n", 400),
    ("the same host twice", "GET /public/a HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n", 400),
    ("no host", "GET /public/a HTTP/1.1\r\n\r\n", 400),
    ("an empty host", "GET /public/a HTTP/1.1\r\nhost:\r\n\r\n", 400),
    ("a host with a user", "GET /public/a HTTP/1.1\r\nhost: u@h\r\n\r\n", 400),
    ("a list of hosts", "GET /public/a HTTP/1.1\r\nhost: h, i\r\n\r\n", 400),
    ("a target elsewhere", "GET https://i/public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a target of another kind", "GET file://h/public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a fragment", "GET /public/a#b HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a fragment behind a query", "GET /public/a?b#/../c HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("the target *", "GET * HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a target without a slash", "GET public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    (
        "an old version with chunks",
        "POST /public/a HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("NUL in a value", "GET /public/a HTTP/1.1\r\nhost: h\r\na: \0\r\n\r\n", 400),
    ("CR in a value", "GET /public/a HTTP/1.1\r\nhost: h\r\na: b\rc\r\n\r\n", 400),
    ("NUL in a name", "GET /public/a HTTP/1.1\r\nhost: h\r\na\0: b\r\n\r\n", 400),
    ("a line without a colon", "GET /public/a HTTP/1.1\r\nhost: h\r\nabc\r\n\r\n", 400),
    ("an empty first line", "\r\nGET /public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a method in lower case", "get /public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("two spaces", "GET  /public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("no version", "GET /public/a\r\nhost: h\r\n\r\n", 400),
    ("a future version", "GET /public/a HTTP/3.0\r\nhost: h\r\n\r\n", 505),
    ("HTTP/2 without having agreed on it", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("a tunnel", "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n", 405),
    ("an echo", "TRACE /public/a HTTP/1.1\r\nhost: h\r\n\r\n", 405),
    (
        "an extension with LF",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size that ends in LF",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size with a sign",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size with 0x",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "an endless size",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a chunk that is too long",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        400,
    ),
    (
        "a trailer without a name",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n: x\r\n\r\n",
        400,
    ),
    (
        "a coding named twice",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "a coding with a parameter",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("no coding", "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: \r\n\r\n0\r\n\r\n", 400),
    ("the coding identity", "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: identity\r\n\r\n", 400),
    (
        "a quoted coding",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "an unknown coding before chunks",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: cow\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("no length", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length:\r\n\r\nabcd", 400),
    ("a length in two words", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 1 2\r\n\r\nabcd", 400),
    ("a length with a point", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length: 4.0\r\n\r\nabcd", 400),
    ("a folded first field", "GET /public/a HTTP/1.1\r\n\thost: h\r\n\r\n", 400),
    ("a folded length", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length:\r\n 4\r\n\r\nabcd", 400),
    ("a tab before the colon", "POST /public/a HTTP/1.1\r\nhost: h\r\ncontent-length\t: 0\r\n\r\n", 400),
    ("a space within a name", "GET /public/a HTTP/1.1\r\nhost: h\r\na b: c\r\n\r\n", 400),
    ("no name", "GET /public/a HTTP/1.1\r\nhost: h\r\n: c\r\n\r\n", 400),
    ("DEL in a value", "GET /public/a HTTP/1.1\r\nhost: h\r\na: \x7f\r\n\r\n", 400),
    ("CR before CR LF", "GET /public/a HTTP/1.1\r\nhost: h\r\na: b\r\r\n\r\n", 400),
    ("CR instead of CR LF", "GET /public/a HTTP/1.1\r\nhost: h\ra: b\r\n\r\n", 400),
    ("a host with a path", "GET /public/a HTTP/1.1\r\nhost: h/i\r\n\r\n", 400),
    ("a host with a scheme", "GET /public/a HTTP/1.1\r\nhost: https://h\r\n\r\n", 400),
    ("a host with an empty port", "GET /public/a HTTP/1.1\r\nhost: h:\r\n\r\n", 400),
    ("a host with too large a port", "GET /public/a HTTP/1.1\r\nhost: h:65536\r\n\r\n", 400),
    ("a host of two words", "GET /public/a HTTP/1.1\r\nhost: h i\r\n\r\n", 400),
    ("a target in absolute form without a host", "GET https://h/public/a HTTP/1.1\r\n\r\n", 400),
    ("a target with a user", "GET https://u@h/public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a target without a path", "GET https://h HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a tab in the request line", "GET\t/public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a space behind the version", "GET /public/a HTTP/1.1 \r\nhost: h\r\n\r\n", 400),
    ("a version in lower case", "GET /public/a http/1.1\r\nhost: h\r\n\r\n", 505),
    ("a version with a leading zero", "GET /public/a HTTP/01.1\r\nhost: h\r\n\r\n", 505),
    ("a later minor version", "GET /public/a HTTP/1.2\r\nhost: h\r\n\r\n", 505),
    ("a method with a slash", "G/T /public/a HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    ("a tunnel with a body", "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\ncontent-length: 4\r\n\r\nabcd", 405),
    (
        "a tunnel with chunks",
        "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        405,
    ),
    (
        "no size",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size with a space behind it",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size with a space before it",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size that is none",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\ng\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a size that fits into 64 bits only by its low ones",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "an extension with CR",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "an extension with NUL",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1;a\0b\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "a chunk that ends in LF",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n",
        400,
    ),
    (
        "a chunk that ends in CR",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r0\r\n\r\n",
        400,
    ),
    (
        "a chunk that is too short",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nx\r\n0\r\n\r\n",
        400,
    ),
    (
        "trailers that end in LF",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\n\n",
        400,
    ),
    (
        "a last chunk that ends in LF",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\n\n",
        400,
    ),
    (
        "garbage behind the last chunk",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\ngarbage\r\n\r\n",
        400,
    ),
    (
        "a folded trailer",
        "POST /public/a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n c\r\n\r\n",
        400,
    ),
];

/// A request that would only be read by somebody who lost count.
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    assert_eq!(world.talk(Some(&caller)).await.get("/public/a", "").await.status, 200);

    for (what, probe, status) in PROBES {
        let mut talk = world.talk(Some(&caller)).await;
        talk.send(format!("{probe}{SMUGGLED}")).await;
        let answer = talk.try_answer(false).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, *status, "{what}: {answer:?}");
        assert!(talk.is_closed().await, "{what}");
    }

    let smuggled = service.seen().into_iter().filter(|seen| seen.path().contains("smuggled"));
    assert_eq!(smuggled.count(), 0);
    assert_eq!(world.talk(Some(&caller)).await.get("/public/a", "").await.status, 200);
}

#[tokio::test]
async fn no_alias_of_a_framing_field_reaches_the_service() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;
    let aliases = [
        "Content_Length: 9",
        "Content.Length: 9",
        "Transfer_Encoding: chunked",
        "transfer.encoding: chunked",
    ];

    for alias in aliases.into_iter().chain(["Host_: i", "HOST.: i"]) {
        let request =
            format!("POST /public/a HTTP/1.1\r\nhost: h\r\n{alias}\r\ncontent-length: 4\r\n\r\nabcd");
        assert_eq!(talk.ask(&request).await.text(), "abcd", "{alias}");
        let seen = service.last();
        assert_eq!((seen.values("content-length"), seen.values("host")), (vec!["4"], vec!["h"]), "{alias}");
        let lines = seen.head.to_ascii_lowercase().replace(['_', '.'], "-");
        assert_eq!(lines.matches("content-length").count(), 1, "{lines}");
        assert!(!lines.contains("transfer-encoding"), "{lines}");
    }
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order_and_seen_as_they_were_framed() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;
    let chunked = "transfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\nx: y\r\n\r\n";
    let sized = "content-length: 36\r\n\r\nGET /public/inside HTTP/1.1\r\nhost: h";
    let requests = format!(
        "POST /public/1 HTTP/1.1\r\nhost: h\r\n{chunked}GET /admin HTTP/1.1\r\nhost: h\r\n\r\n\
         POST /public/3 HTTP/1.1\r\nhost: h\r\n{sized}GET /public/4 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n\
         {SMUGGLED}"
    );

    talk.send(requests).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = talk.answer().await;
        answers.push((answer.status, answer.text()));
    }

    let inside = "GET /public/inside HTTP/1.1\r\nhost: h".to_owned();
    assert_eq!(answers[0], (200, "one".to_owned()));
    assert_eq!(answers[1].0, 403);
    assert_eq!(answers[2], (200, inside));
    assert_eq!(answers[3], (200, String::new()));
    assert!(talk.is_closed().await);
    let seen = service.seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path()).collect();
    assert_eq!(paths, ["/public/1", "/public/3", "/public/4"]);
}

#[tokio::test]
async fn a_head_has_its_bounds() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let most = "a: b\r\n".repeat(98);
    assert_eq!(world.talk(Some(&caller)).await.get("/public/a", &most).await.status, 200);

    let many = "a: b\r\n".repeat(105);
    let large = format!("a: {}\r\n", "b".repeat(40 * 1024));
    for lines in [many, large] {
        let mut talk = world.talk(Some(&caller)).await;
        assert_eq!(talk.get("/public/a", &lines).await.status, 431);
        assert!(talk.is_closed().await);
    }
    let endless = vec![b'a'; 64 * 1024];
    let mut talk = world.talk(Some(&caller)).await;
    drop(talk.try_send(&endless).await);
    assert_eq!(talk.answer().await.status, 431);
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_target_in_absolute_form_and_odd_but_plain_requests_are_served() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let mut talk = world.talk(Some(&caller)).await;

    for (request, head) in [
        ("GET https://localhost/public/a HTTP/1.1\r\nhost: localhost\r\n\r\n", "GET /public/a HTTP/1.1"),
        ("GET /public/%61?b=%2f HTTP/1.1\r\nHOST: localhost\r\n\r\n", "GET /public/a?b=%2f HTTP/1.1"),
        (
            "POST /public/a HTTP/1.1\r\nhost: localhost\r\nTransfer-Encoding: CHUNKED\r\n\r\n1;a=\"b\"\r\nx\r\n00\r\n\r\n",
            "POST /public/a HTTP/1.1",
        ),
    ] {
        assert_eq!(talk.ask(request).await.status, 200, "{request}");
        assert_eq!(service.last().head.lines().next(), Some(head));
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_beyond_the_grant() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let (mut talk, h2) = (world.talk(Some(&caller)).await, world.h2(Some(&caller)).await);
    assert_eq!(talk.get("/public/a", "").await.status, 200);
    assert_eq!(h2.get("/public/a", &[]).await.status, 200);

    let plain = ["/admin", "/ADMIN", "/", "/publicity", "/PUBLIC/a", "/%61dmin", "/public%20/a"];
    let odd = [
        "//admin",
        "/./admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2e/admin",
        "/public%2f..%2fadmin",
        "/public/..;/admin",
        "/public/..;a=b/admin",
        "/public/..\\admin",
        "/public/%5c..%5cadmin",
        "/%2561dmin",
        "/public/%252e%252e/admin",
        "/public//a",
        "/public/%00",
        "/public/%2",
        "/public/%zz",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%ff",
        "/public/..",
        "/public/.",
    ];
    for (path, status) in plain.iter().map(|path| (path, 403)).chain(odd.iter().map(|path| (path, 400))) {
        let one = talk.get(path, "").await;
        assert_eq!(one.status, status, "{path}: {one:?}");
        if let Ok(uri) = format!("https://localhost{path}").parse::<http::Uri>() {
            let request = http::Request::get(uri).body(()).unwrap();
            assert_eq!(h2.ask(request, None, None).await.unwrap().status, status, "{path} over HTTP/2");
        }
    }
    assert_eq!(service.seen().len(), 2);
}

/// The status, or none when the stream was reset.
async fn over_h2(h2: &H2, request: http::request::Builder) -> Option<u16> {
    h2.ask(request.body(()).ok()?, None, None).await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn http2_is_read_as_strictly() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let get = || http::Request::get("https://localhost/public/a");
    let relative = |uri: &'static str| http::Request::get(uri).version(http::Version::HTTP_11);
    let method = |name: &str| get().method(http::Method::from_bytes(name.as_bytes()).unwrap());

    let probes = [
        ("another host", get().header("host", "other")),
        ("two hosts", get().header("host", "localhost").header("host", "localhost")),
        ("no authority", relative("/public/a")),
        ("the scheme http", http::Request::get("http://localhost/public/a")),
        ("the scheme javascript", http::Request::get("javascript://localhost/public/a")),
        ("a user", http::Request::get("https://user@localhost/public/a")),
        ("an authority with a comma", http::Request::get("https://a,b/public/a")),
        ("the path *", relative("*").header("host", "localhost")),
        ("a method in lower case", method("get")),
        ("a leading space", get().header("a", " b")),
        ("a trailing space", get().header("a", "b ")),
        ("two lengths", get().header("content-length", "0").header("content-length", "0")),
        ("an echo", method("TRACE")),
        ("a tunnel", http::Request::connect("localhost:1")),
        ("a length without a body", get().header("content-length", "5")),
    ];
    let h2 = world.h2(Some(&caller)).await;
    assert_eq!(over_h2(&h2, get()).await, Some(200));
    for (what, probe) in probes {
        let h2 = world.h2(Some(&caller)).await;
        let status = over_h2(&h2, probe).await;
        assert!(matches!(status, None | Some(400 | 405)), "{what}: {status:?}");
    }
    let short = get().method("POST").header("content-length", "5").body(()).unwrap();
    assert!(h2.ask(short, Some(Bytes::from_static(b"four")), None).await.is_err());

    let begun = service.seen();
    assert!(begun.iter().skip(1).all(|seen| seen.values("content-length") == ["5"]), "{begun:?}");
    assert_eq!(over_h2(&world.h2(Some(&caller)).await, get()).await, Some(200));
}

#[tokio::test]
async fn many_large_fields_are_too_much_over_http2_too() {
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let large = "b".repeat(8 * 1024);
    let h2 = world.h2(Some(&caller)).await;
    assert_eq!(h2.get("/public/a", &[("a", &large)]).await.status, 200);

    let fields = [("a", large.as_str()); 6];
    let request =
        fields.iter().fold(http::Request::get("https://localhost/public/a"), |request, (name, value)| {
            request.header(*name, *value)
        });
    let status = over_h2(&h2, request).await;

    assert!(matches!(status, None | Some(431)), "{status:?}");
    let many = (0..105)
        .fold(http::Request::get("https://localhost/public/a"), |request, _| request.header("a", "b"));
    let status = over_h2(&world.h2(Some(&caller)).await, many).await;
    assert!(matches!(status, None | Some(431)), "{status:?}");
    assert_eq!(service.seen().len(), 1);
}

/// An agent before the services `red` and `blue`, each with a host of its own, and `shared`, which answers for every host.
async fn with_virtual_hosts() -> (World, Service) {
    let service = Service::answering(|_| vec![Act::Echo]).await;
    let endpoint = service.address.to_string();
    let mut scene = Scene::new();
    scene.amend_config("dns = [\"localhost\"]", "dns = [\"localhost\", \"red.test\", \"blue.test\"]");
    scene.listener("inbound", "").workload("caller", "");
    scene.service("red", &endpoint, "hosts = [\"red.test\"]");
    scene.service("blue", &endpoint, "hosts = [\"blue.test\"]\naccepts = [[\"mtls\"]]");
    scene.service("shared", &endpoint, "base_path = \"/shared\"");
    scene.registry("[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\n");
    for service in ["red", "blue", "shared"] {
        scene.registry(&format!(
            "[[product.operation]]\nservice = \"{service}\"\nmethods = [\"*\"]\npath = \"/**\"\n"
        ));
    }
    scene.app("caller", "[[app.certificate]]\nuri = \"spiffe://postern.test/caller\"\n");
    scene.registry(support::world::GRANT);
    (scene.start().await, service)
}

#[tokio::test]
async fn a_host_of_another_service_than_the_handshake_asked_for_is_misdirected() {
    let (world, service) = with_virtual_hosts().await;
    let caller = world.identity("caller");
    let dial = async |name, identity, protocol| {
        let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
        handshake_for(name, stream, &world.roots(), identity, protocol).await.unwrap()
    };
    // The name of the handshake, the host and the path of the request, and the status.
    let cases = [
        ("red.test", "red.test", "/a", 200),
        ("red.test", "RED.test:8443", "/a", 200),
        ("red.test", "blue.test", "/a", 421),
        ("blue.test", "red.test", "/a", 421),
        ("red.test", "other.test", "/a", 421),
        // One service answers for both names there.
        ("red.test", "blue.test", "/shared/a", 200),
        // No service has this name, so it has chosen none.
        ("localhost", "red.test", "/a", 200),
        ("localhost", "other.test", "/a", 404),
    ];
    let served = cases.iter().filter(|(.., status)| *status == 200).count();
    for (name, host, path, status) in cases {
        let mut talk = Talk::new(dial(name, Some(&caller), "http/1.1").await);
        let one = talk.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let h2 = H2::new(dial(name, Some(&caller), "h2").await).await;
        let request = http::Request::get(format!("https://{host}{path}")).body(()).unwrap();
        let two = h2.ask(request, None, None).await.unwrap();
        for answer in [one, two] {
            assert_eq!(answer.status, status, "{host} at {name}: {answer:?}");
            let code = if status == 421 { "misdirected-request" } else { "" };
            assert!(answer.code().starts_with(code), "{answer:?}");
        }
    }
    assert_eq!(service.seen().len(), 2 * served);

    // Who cannot say who it is does not learn what exists here.
    let mut talk = Talk::new(dial("red.test", None, "http/1.1").await);
    for host in ["blue.test", "other.test"] {
        let answer = talk.ask(&format!("GET /a HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "missing-credential"));
    }
}

/// Bytes of one HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Field lines, each a literal without indexing under a new name (RFC 7541 §6.2.2), so that anything can be said.
fn fields(lines: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    lines.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What comes of a request that h2's own client would not send: whether it is served.
async fn is_served(talk: &mut Talk<support::Tls>, frames: &[u8]) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    talk.send([PREFACE, &frame(4, 0, 0, &[]), frames, &frame(6, 0, 0, b"the ping")].concat()).await;
    // Whatever was sent has been dealt with when the answer and the pong are there, or the connection ends.
    let mut received = Vec::new();
    let (mut pong, mut answered) = (false, None);
    while !(pong && answered.is_some()) {
        let mut more = [0; 1024];
        let read = tokio::io::AsyncReadExt::read(&mut talk.io, &mut more);
        let count = support::soon("a frame", read).await.unwrap_or(0);
        received.extend_from_slice(&more[..count]);
        while received.len() >= 9 {
            let length = 9 + usize::from(received[1]) * 256 + usize::from(received[2]);
            if received.len() < length {
                break;
            }
            let whole: Vec<u8> = received.drain(..length).collect();
            match (whole[3], whole[4]) {
                // `:status: 200` is the eighth entry of the static table (RFC 7541 appendix A).
                (1, _) => answered = answered.or(Some(whole[9] == 0x88)),
                (3 | 7, _) => answered = answered.or(Some(false)),
                (6, 1) => pong = true,
                _ => (),
            }
        }
        if count == 0 {
            break;
        }
    }
    answered == Some(true)
}

#[tokio::test]
async fn what_no_client_of_http2_sends_is_refused_too() {
    const PLAIN: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "h"), (":path", "/public/a")];
    let (world, service) = guarded().await;
    let caller = world.identity("caller");
    let with = |name: &'static str, value: &'static str| {
        PLAIN.map(|(plain, own)| (plain, if plain == name { value } else { own })).to_vec()
    };
    let and = |more: &[(&'static str, &'static str)]| [&PLAIN, more].concat();
    let without = |name: &str| PLAIN.iter().copied().filter(|(plain, _)| *plain != name).collect::<Vec<_>>();
    let cases = [
        ("a path without a slash", with(":path", "public/a")),
        ("an empty path", with(":path", "")),
        ("a whole URI for a path", with(":path", "https://h/public/a")),
        ("a space in the path", with(":path", "/public/a b")),
        ("LF in the path", with(":path", "/public/a\nb")),
        ("NUL in the path", with(":path", "/public/a\0")),
        ("the path * with GET", with(":path", "*")),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("two paths", and(&[(":path", "/public/a")])),
        ("two authorities", and(&[(":authority", "h")])),
        ("two methods", and(&[(":method", "GET")])),
        ("two schemes", and(&[(":scheme", "https")])),
        ("a pseudo-header behind a field", [&[("a", "b")], PLAIN.as_slice()].concat()),
        ("an unknown pseudo-header", and(&[(":a", "b")])),
        ("a pseudo-header of answers", and(&[(":status", "200")])),
        ("a name in upper case", and(&[("A", "b")])),
        ("a name with a space", and(&[("a b", "c")])),
        ("a name with NUL", and(&[("a\0", "c")])),
        ("a name with a colon", and(&[("a:b", "c")])),
        ("an empty name", and(&[("", "c")])),
        ("connection", and(&[("connection", "close")])),
        ("keep-alive", and(&[("keep-alive", "1")])),
        ("proxy-connection", and(&[("proxy-connection", "close")])),
        ("transfer-encoding", and(&[("transfer-encoding", "chunked")])),
        ("upgrade", and(&[("upgrade", "websocket")])),
        ("te with more than trailers", and(&[("te", "gzip")])),
        ("CR LF in a value", and(&[("a", "b\r\nx: y")])),
        ("LF in a value", and(&[("a", "b\nx: y")])),
        ("NUL in a value", and(&[("a", "b\0")])),
        ("a space before a value", and(&[("a", " b")])),
        ("a space behind a value", and(&[("a", "b ")])),
        ("a length without a body", and(&[("content-length", "3")])),
        ("a signed length", and(&[("content-length", "+3")])),
        ("two lengths", and(&[("content-length", "0"), ("content-length", "1")])),
        ("a method with LF", with(":method", "GET\n")),
        ("a method in lower case", with(":method", "get")),
        ("the scheme http", with(":scheme", "http")),
        ("the scheme javascript", with(":scheme", "javascript")),
        ("a user in the authority", with(":authority", "u@h")),
        ("a comma in the authority", with(":authority", "h,i")),
        ("an empty authority", with(":authority", "")),
        ("a tunnel with a path", with(":method", "CONNECT")),
        (
            "an extended tunnel",
            [&[(":protocol", "websocket")], with(":method", "CONNECT").as_slice()].concat(),
        ),
        ("another host", and(&[("host", "i")])),
    ];

    let mut talk = Talk::new(world.dial(Some(&caller), "h2").await.unwrap());
    assert!(is_served(&mut talk, &frame(1, 5, 1, &fields(&PLAIN))).await);
    for (what, lines) in cases {
        let mut talk = Talk::new(world.dial(Some(&caller), "h2").await.unwrap());
        assert!(!is_served(&mut talk, &frame(1, 5, 1, &fields(&lines))).await, "{what}");
    }
    assert_eq!(service.seen().len(), 1, "{:?}", service.seen());

    // Trailers are dropped, whatever they say; what no trailer may be ends the stream.
    let post = fields(&with(":method", "POST"));
    for trailer in [":path", "content-length", "x-postern-app"] {
        let mut talk = Talk::new(world.dial(Some(&caller), "h2").await.unwrap());
        let trailers = frame(1, 5, 1, &fields(&[(trailer, "7")]));
        let request = [frame(1, 4, 1, &post), frame(0, 0, 1, b"abc"), trailers].concat();
        let served = is_served(&mut talk, &request).await;
        assert!(served == (trailer == "x-postern-app"), "{trailer}: {served}");
        let last = service.last();
        assert!(last.values(trailer).iter().all(|value| *value != "7"), "{}", last.head);
        assert!(!served || last.body == b"abc", "{trailer}");
    }
    // What h2 has cut off is neither decided on nor forwarded.
    let mut talk = Talk::new(world.dial(Some(&caller), "h2").await.unwrap());
    assert!(is_served(&mut talk, &frame(1, 5, 1, &fields(&with(":path", "/public/a#/../admin")))).await);
    assert_eq!(service.last().path(), "/public/a");
}
