//! Requests that two programs could read in two ways: each is refused, and nothing of it reaches the service.

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use bytes::Bytes;
use support::{Act, H2, Scene, Service, World};

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
