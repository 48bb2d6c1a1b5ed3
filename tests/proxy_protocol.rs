//! The PROXY protocol: by whose word a connection is from somebody else, and what a service is told of a raw one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use support::caller::handshake;
use support::world::postern;
use support::{Identity, Scene, Service, Talk, Tls, World, eventually, soon, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 54321 443\r\n";

/// Version 2, from 192.0.2.8, with two additional fields.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x16\xc0\0\x02\x08\xc6\x33\x64\x01\xd4\x31\x01\xbb\x02\0\x04h.eu\x04\0\0";

const V2_IPV6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xd4\x31\x01\xbb";

/// A connection of the proxy's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// An agent whose listener believes `proxies`, in front of a service that answers 200.
fn scene(service: &Service, proxies: &str) -> Scene {
    let mut scene = Scene::guarding(service.address);
    scene.amend_config(
        "id = \"inbound\"\n",
        &format!("id = \"inbound\"\nproxy_protocol = {{ from = [{proxies}] }}\n"),
    );
    scene
}

/// A connection that begins with `header`, and then with TLS.
async fn by_way_of(header: &[u8], world: &World, identity: Option<&Identity>) -> io::Result<Talk<Tls>> {
    let mut stream = TcpStream::connect(world.address()).await?;
    stream.write_all(header).await?;
    Ok(Talk::new(handshake(stream, &world.roots(), identity, "http/1.1").await?))
}

#[tokio::test]
async fn the_proxy_says_who_a_connection_is_from() {
    let service = Service::start().await;
    let world = scene(&service, "\"127.0.0.1/32\", \"::1\"").start().await;
    let caller = world.identity("caller");

    for (header, address, logged) in [
        (V1, "192.0.2.7", "192.0.2.7:54321"),
        (V2, "192.0.2.8", "192.0.2.8:54321"),
        (V2_IPV6, "2001:db8::7", "[2001:db8::7]:54321"),
        (LOCAL, "127.0.0.1", "127.0.0.1:"),
        (UNKNOWN, "127.0.0.1", "127.0.0.1:"),
    ] {
        let mut talk = by_way_of(header, &world, Some(&caller)).await.unwrap();
        let answer = talk.get("/a", "x-forwarded-for: 9.9.9.9\r\n").await;
        assert_eq!(answer.status, 200, "{address}");
        assert_eq!(service.last().values("x-forwarded-for"), [address]);
        let event = world.access(answer.header("x-request-id").unwrap()).await;
        assert!(event["src.addr"].as_str().unwrap().starts_with(logged), "{event}");
    }
}

#[tokio::test]
async fn a_header_that_comes_one_byte_at_a_time_is_the_same_header() {
    let service = Service::start().await;
    let world = scene(&service, "\"127.0.0.1\"").start().await;
    for header in [V1, V2] {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in header {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let identity = world.identity("caller");
        let tls = handshake(stream, &world.roots(), Some(&identity), "http/1.1").await.unwrap();
        assert_eq!(Talk::new(tls).get("/a", "").await.status, 200);
    }
}

#[tokio::test]
async fn who_does_not_say_it_or_may_not_say_it_is_refused_and_counted() {
    let service = Service::start().await;
    let world = scene(&service, "\"127.0.0.1/32\"").start().await;
    let caller = world.identity("caller");
    assert_eq!(by_way_of(V1, &world, Some(&caller)).await.unwrap().get("/a", "").await.status, 200);

    // TLS at once, as if there were no such thing.
    assert!(by_way_of(b"", &world, Some(&caller)).await.is_err());
    // Twice: the second is where TLS should be.
    assert!(by_way_of(&[V1, V1].concat(), &world, Some(&caller)).await.is_err());
    for bad in [
        &b"PROXY TCP4 192.0.2.7 198.51.100.1 54321\r\n"[..],
        b"PROXY TCP4 192.0.2.7\n",
        b"GET / HTTP/1.1\r\n",
    ] {
        assert!(by_way_of(bad, &world, Some(&caller)).await.is_err(), "{}", bad.escape_ascii());
    }
    let elsewhere = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).unwrap();
        let mut stream = socket.connect(world.address()).await?;
        stream.write_all(V1).await?;
        handshake(stream, &world.roots(), Some(&caller), "http/1.1").await
    };
    assert!(elsewhere.await.is_err());

    for (code, count) in [("bad-proxy-header", 4.0), ("not-a-proxy", 1.0), ("tls-error", 1.0)] {
        eventually(code, async || {
            let metric = world.metric(&format!("postern_handshakes_total{{code=\"{code}\"}}")).await;
            (metric == Some(count)).then_some(())
        })
        .await;
    }
    world.log_with("its PROXY header cannot be read").await;
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_of_by_the_address_that_is_named() {
    let service = Service::start().await;
    let world = scene(&service, "\"127.0.0.1/32\"").start().await;
    let foreign = Identity::of_another_ca("spiffe://postern.test/caller");

    for header in [V1, V2_IPV6] {
        let answer = async {
            let mut talk = by_way_of(header, &world, Some(&foreign)).await?;
            talk.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
            talk.try_answer(false).await
        };
        assert!(answer.await.is_err());
    }
    // What comes by way of the proxy and is no TLS at all is told of in the same way.
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    stream.write_all(&[V2, b"GET / HTTP/1.1\r\n\r\n"].concat()).await.unwrap();

    for (peer, check) in [
        ("192.0.2.7:54321", "unknown-issuer"),
        ("[2001:db8::7]:54321", "unknown-issuer"),
        ("192.0.2.8:54321", "protocol"),
    ] {
        let log = world.log_with(&format!("\"peer\":\"{peer}\"")).await;
        let event = log.lines().find(|line| line.contains(peer)).unwrap();
        assert!(event.contains("handshake failed") && event.contains(check), "{event}");
    }
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let service = Service::start().await;
    let mut scene = scene(&service, "\"127.0.0.1/32\"");
    scene.config("[limits]\nhandshake = \"1s\"\n");
    let world = scene.start().await;
    let begun = Instant::now();

    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    stream.write_all(&V2[..20]).await.unwrap();
    let mut heard = Vec::new();
    soon("the end", stream.read_to_end(&mut heard)).await.unwrap();

    assert!(heard.is_empty() && begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    eventually("it is counted", async || {
        (world.metric("postern_handshakes_total{code=\"timeout\"}").await == Some(1.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bindings_throttle_and_bounds_go_by_the_address_that_is_named() {
    let service = Service::start().await;
    let mut scene = scene(&service, "\"127.0.0.1/32\"");
    let key = scene.key();
    let table = format!("{}from = [\"192.0.2.7\"]\n", key.table());
    scene.app("bound", &format!("accepts = [[\"api_key\"]]\n{table}{}", support::world::GRANT));
    scene.config("[limits]\nsource_connections = 2\nfailed_keys = \"1/h\"\nfailed_keys_burst = 0\n");
    let world = scene.start().await;
    let ask = async |header: &[u8], line: &str| {
        by_way_of(header, &world, None).await.unwrap().get("/a", line).await
    };

    assert_eq!(ask(V1, &key.line()).await.status, 200);
    assert_eq!(ask(V2, &key.line()).await.code(), "binding-failed");
    let wrong = "x-api-key: pstn_sk_00000000000000000000000000000000000000000000000000000000000\r\n";
    assert_eq!(ask(V2, wrong).await.status, 401);
    assert_eq!(ask(V2, wrong).await.code(), "rate-limited", "it has failed before");
    assert_eq!(ask(V1, &key.line()).await.status, 200, "and somebody else has not");

    // Two threads, two each: a fifth connection from one source finds no place, whichever thread it comes to.
    let mut open = Vec::new();
    for _ in 0..12 {
        open.extend(by_way_of(V2_IPV6, &world, None).await);
    }
    assert!((2..=4).contains(&open.len()), "{}", open.len());
    assert_eq!(ask(V1, &key.line()).await.status, 200);
}

/// What a raw service was sent first on each of its connections; it says `hello` and hangs up.
async fn noting() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (noted, notes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut sent = Vec::new();
            while !sent.ends_with(b"over") && stream.read_buf(&mut sent).await.unwrap() > 0 {}
            noted.send(sent).unwrap();
            stream.write_all(b"hello").await.unwrap();
        }
    });
    (address, notes)
}

/// An agent with a raw listener to `service`, which is told who comes.
fn raw_scene(service: impl ToString, keys: &str) -> Scene {
    let mut scene = Scene::guarding("builtin:whoami");
    scene
        .config(&format!(
            "[[listener]]\nid = \"raw\"\naddress = \"{{ip}}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n{keys}\n"
        ))
        .service("echo", &service.to_string(), "send_proxy = \"v2\"")
        .amend_registry(
            "[[product.operation]]\nservice = \"orders\"\n",
            "[[product.operation]]\nservice = \"echo\"\n[[product.operation]]\nservice = \"orders\"\n",
        );
    scene
}

/// A header of version 2, read by somebody who has only read the specification: the block's beginning, and all fields.
struct Told<'a> {
    command: u8,
    family: u8,
    addresses: &'a [u8],
    fields: Vec<(u8, &'a [u8])>,
    rest: &'a [u8],
}

fn told(bytes: &[u8]) -> Told<'_> {
    assert_eq!(&bytes[..12], b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A");
    let length = usize::from(bytes[14]) * 256 + usize::from(bytes[15]);
    let (block, rest) = bytes[16..].split_at(length);
    let (addresses, fields) = block.split_at(if bytes[13] == 0x11 { 12 } else { 36 });
    Told { command: bytes[12], family: bytes[13], addresses, fields: fields_of(fields), rest }
}

fn fields_of(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let end = 3 + usize::from(bytes[1]) * 256 + usize::from(bytes[2]);
        fields.push((bytes[0], &bytes[3..end]));
        bytes = &bytes[end..];
    }
    fields
}

#[tokio::test]
async fn a_service_is_told_who_a_raw_connection_is_from() {
    let (address, mut notes) = noting().await;
    let world = raw_scene(address, "proxy_protocol = { from = [\"127.0.0.1\"] }").start().await;
    let caller = world.identity("caller");

    for (header, family, source) in [
        (V1, 0x11, &[192, 0, 2, 7][..]),
        (V2_IPV6, 0x21, &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
    ] {
        let mut stream = TcpStream::connect((world.ip, 8444)).await.unwrap();
        stream.write_all(header).await.unwrap();
        let mut tls = handshake(stream, &world.roots(), Some(&caller), "").await.unwrap();
        tls.write_all(b"payload, over").await.unwrap();
        assert_eq!(Talk::new(tls).rest().await, b"hello");

        let noted = soon("a connection", notes.recv()).await.unwrap();
        let told = told(&noted);
        assert_eq!((told.command, told.family), (0x21, family));
        assert!(told.addresses.starts_with(source));
        let ports = [54321_u16.to_be_bytes(), 8444_u16.to_be_bytes()].concat();
        assert!(told.addresses.ends_with(&ports), "{:?}", told.addresses);
        assert_eq!(told.rest, b"payload, over");
        let field = |kind: u8| told.fields.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value);
        assert_eq!(field(0x02), Some(&b"localhost"[..]), "the name that was asked for");
        assert_eq!(field(0xE0), Some(&b"spiffe://postern.test/caller"[..]));
        let ssl = field(0x20).unwrap();
        // TLS, with a certificate on this connection and in this session, which was verified.
        assert_eq!(ssl[..5], [0x07, 0, 0, 0, 0]);
        assert_eq!(fields_of(&ssl[5..])[0], (0x21, &b"TLSv1.3"[..]));
    }
    let event = world.log_with("\"protocol\":\"tcp\"").await;
    assert!(event.contains("\"received\":13"), "the header is not the caller's: {event}");
}

#[tokio::test]
async fn a_service_that_is_told_who_comes_is_none_for_http() {
    let (address, _notes) = noting().await;
    let mut scene = raw_scene(address, "");
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nbase_path = \"/orders\"\n");
    let world = scene.start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    assert_eq!(talk.get("/orders/a", "").await.status, 200);
    assert_eq!(talk.get("/a", "").await.code(), "no-such-service");
}

#[tokio::test]
async fn what_would_mislead_cannot_be_configured() {
    let listener = "[[listener]]\nid = \"inbound\"\naddress = \"127.0.0.1:8443\"\n";
    let raw =
        "[[listener]]\nid = \"raw\"\naddress = \"127.0.0.1:8444\"\nprotocol = \"tcp\"\nservice = \"a\"\n";
    let service = "[[service]]\nid = \"a\"\nendpoint = \"127.0.0.1:9\"\nsend_proxy = \"v2\"\n";
    let check = |text: &str| {
        let mut scene = Scene::new();
        scene.config(text);
        scene.write();
        write(&scene.path().join("registry/apps.toml"), "");
        let output = postern(scene.path()).arg("check").output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.success(), text)
    };
    let good = format!("{listener}proxy_protocol = {{ from = [\"10.0.0.0/8\"] }}\n{raw}{service}");
    let (fine, text) = check(&good);
    assert!(fine, "{text}");
    for (text, told) in [
        (format!("{listener}{service}"), "`send_proxy` is for services that a tcp listener leads to"),
        (format!("{raw}{service}hosts = [\"a.test\"]\n"), "`hosts` and `base_path` mean nothing for it"),
        (format!("{listener}proxy_protocol = {{ from = [] }}\n"), "an empty list means nobody"),
        (format!("{listener}proxy_protocol = {{}}\n"), "the key is missing"),
        (format!("{listener}proxy_protocol = {{ from = [\"10.0.0.1/8\"] }}\n"), "the network is 10.0.0.0/8"),
    ] {
        let (fine, output) = check(&text);
        assert!(!fine && output.contains(told), "{text}: {output}");
    }
}

/// Debian's HAProxy, running.
struct Haproxy {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const HAPROXY: &str = "/usr/sbin/haproxy";

/// Why there is no HAProxy to be had, if there is none.
fn no_haproxy() -> Option<&'static str> {
    if Path::new(HAPROXY).exists() {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        return Some("haproxy is not installed");
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "-qq", "-y", "haproxy"]).stdout(Stdio::null()).stderr(Stdio::null());
    let installed = install.status().is_ok_and(|status| status.success()) && Path::new(HAPROXY).exists();
    (!installed).then_some("haproxy cannot be installed")
}

impl Haproxy {
    /// HAProxy with these sections, which listens at `ports`.
    async fn start(sections: &str, ports: &[u16]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("configuration");
        let defaults = "global\n    nbthread 1\ndefaults\n    timeout connect 5s\n    timeout server 60s\n    timeout client 60s\n";
        write(&file, &format!("{defaults}{sections}"));
        let mut command = Command::new(HAPROXY);
        command.args(["-db", "-q", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let haproxy = Self { child: command.spawn().unwrap(), _folder: folder };
        for port in ports {
            eventually("haproxy", async || TcpStream::connect(("127.0.0.1", *port)).await.ok()).await;
        }
        haproxy
    }
}

/// Ports that are free now.
fn free<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|number| held[number].local_addr().unwrap().port())
}

#[tokio::test]
async fn haproxy_is_understood_and_understands() {
    if let Some(reason) = no_haproxy() {
        return println!("skipped: {reason}");
    }
    let [first, second, checked, reader] = free();
    // It reads what we send, and says what it has read.
    let reading = format!(
        "frontend reader\n    mode http\n    bind 127.0.0.1:{reader} accept-proxy\n    \
         http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst_port] %[fc_pp_authority]\"\n"
    );
    let service = Service::start().await;
    let mut scene = raw_scene(format!("127.0.0.1:{reader}"), "");
    let keys = "proxy_protocol = { from = [\"127.0.0.1/32\"] }\n";
    scene.config(&format!(
        "[[listener]]\nid = \"proxied\"\naddress = \"{{ip}}:8445\"\n{keys}\n[[service]]\nid = \"web\"\nendpoint = \"{}\"\n\
         hosts = [\"localhost\"]\n",
        service.address
    ));
    scene.amend_registry("service = \"orders\"\n", "service = \"*\"\n");
    let world = scene.start().await;
    // And passes on to us what comes to it from another of its own, which says that it comes from elsewhere.
    let ip = world.ip;
    let passing = format!(
        "listen v1\n    mode tcp\n    bind 127.0.0.1:{first} accept-proxy\n    server agent {ip}:8445 send-proxy\n\
         listen v2\n    mode tcp\n    bind 127.0.0.1:{second} accept-proxy\n    \
         server agent {ip}:8445 send-proxy-v2 proxy-v2-options crc32c,authority\n\
         listen checked\n    mode tcp\n    bind 127.0.0.1:{checked}\n    \
         server agent {ip}:8445 send-proxy-v2 check check-send-proxy inter 200ms\n"
    );
    let _haproxy = Haproxy::start(&format!("{reading}{passing}"), &[first, second, checked, reader]).await;
    let caller = world.identity("caller");

    for port in [first, second] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(V1).await.unwrap();
        let tls = handshake(stream, &world.roots(), Some(&caller), "http/1.1").await.unwrap();
        assert_eq!(Talk::new(tls).get("/a", "").await.status, 200);
        assert_eq!(service.last().values("x-forwarded-for"), ["192.0.2.7"]);
    }
    // It goes on to pass connections on, so it has found us well.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stream = TcpStream::connect(("127.0.0.1", checked)).await.unwrap();
    let tls = handshake(stream, &world.roots(), Some(&caller), "http/1.1").await.unwrap();
    assert_eq!(Talk::new(tls).get("/a", "").await.status, 200);

    let raw = TcpStream::connect((ip, 8444)).await.unwrap();
    let port = raw.local_addr().unwrap().port();
    let mut talk = Talk::new(handshake(raw, &world.roots(), Some(&caller), "").await.unwrap());
    assert_eq!(talk.get("/a", "").await.text(), format!("127.0.0.1 {port} 8444 localhost"));
    assert_eq!(json!(world.metric("postern_handshakes_total{code=\"bad-proxy-header\"}").await), json!(null));
}
