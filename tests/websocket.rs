//! Other protocols on a connection that began as HTTP/1.1: nothing goes through before the service has agreed, and what goes
//! through ends with all that it rests on.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::world::postern;
use support::{
    Act, Identity, Scene, Seen, Service, Talk, Tls, World, eventually, ok, python_with, soon, write,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

const WISH: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n";

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: xyz\r\n\r\n";

/// A service that goes over to whatever it is asked for at `/a`, and echoes from then on; it answers 200 to everything else.
async fn switching() -> Service {
    Service::answering(|seen: &Seen| {
        if seen.path() != "/a" || seen.values("upgrade").is_empty() {
            return ok();
        }
        // From here on, whatever comes is "a body": the service reads it as it comes, and says it back.
        vec![Act::Send(AGREED.as_bytes().to_vec()), Act::EchoRaw]
    })
    .await
}

/// An agent in front of such a service, which is told `keys` besides.
async fn guarded(keys: &str) -> (World, Service) {
    let service = switching().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\"]\n").config(keys);
    (scene.start().await, service)
}

/// Opens a tunnel and says `hello` through it.
async fn tunnelled(world: &World, identity: &Identity, lines: &str) -> Talk<Tls> {
    let mut talk = world.talk(Some(identity)).await;
    let answer = talk.get("/a", &format!("{WISH}{lines}")).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(says(&mut talk, b"hello").await, b"hello");
    talk
}

/// Sends `bytes` through a tunnel and reads as many.
async fn says(talk: &mut Talk<Tls>, bytes: &[u8]) -> Vec<u8> {
    talk.send(bytes).await;
    let mut heard = vec![0; bytes.len()];
    soon("an echo", talk.io.read_exact(&mut heard)).await.unwrap();
    heard
}

#[tokio::test]
async fn a_listed_protocol_is_tunnelled_once_the_service_agrees() {
    let (world, service) = guarded("").await;
    let caller = world.identity("caller");

    let mut talk = world.talk(Some(&caller)).await;
    let answer = talk.get("/a", WISH).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("xyz"));
    assert_eq!(says(&mut talk, b"GET /b HTTP/1.1\r\n\r\n").await, b"GET /b HTTP/1.1\r\n\r\n");
    soon("a goodbye", talk.io.shutdown()).await.unwrap();
    assert!(talk.is_closed().await);

    let seen = service.last();
    assert_eq!(seen.values("connection"), ["Upgrade"]);
    assert_eq!(seen.values("upgrade"), ["websocket"]);
    assert_eq!(seen.values("sec-websocket-key"), ["abc"]);
    assert_eq!(seen.values("x-postern-app"), ["caller"]);
    assert_eq!(service.seen().len(), 1, "what looks like a request in a tunnel is none");
    let event = world.access(answer.header("x-request-id").unwrap()).await;
    assert_eq!((&event["status"], &event["decision"]), (&json!(101), &json!("allowed")), "{event}");
    assert_eq!((&event["received"], &event["sent"]), (&json!(19), &json!(19)), "{event}");
}

#[tokio::test]
async fn what_was_sent_ahead_is_the_tunnels_when_there_is_one() {
    let (world, service) = guarded("").await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    talk.send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{WISH}\r\nGET /b")).await;
    assert_eq!(talk.answer().await.status, 101);
    let mut heard = [0; 6];
    soon("an echo", talk.io.read_exact(&mut heard)).await.unwrap();

    assert_eq!(&heard, b"GET /b");
    assert_eq!(service.seen().len(), 1);
}

/// CVE-2026-2833: bytes behind the head went through before anybody had agreed.
#[tokio::test]
async fn what_was_sent_ahead_is_the_next_request_when_the_service_does_not_agree() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\"]\n");
    let world = scene.start().await;
    let mut talk = world.talk(Some(&world.identity("caller"))).await;

    let smuggled = "GET /b HTTP/1.1\r\nhost: localhost\r\nx-postern-app: admin\r\n\r\n";
    talk.send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{WISH}\r\n{smuggled}")).await;
    assert_eq!(talk.answer().await.status, 200);
    assert_eq!(talk.answer().await.status, 200);

    let seen = service.seen();
    assert_eq!(seen.iter().map(Seen::path).collect::<Vec<_>>(), ["/a", "/b"]);
    assert_eq!(seen[0].values("upgrade"), ["websocket"], "it was asked");
    assert_eq!(seen[1].values("x-postern-app"), ["caller"], "the second went through the gate");
    assert_eq!(talk.get("/c", "").await.status, 200, "and the connection goes on");
}

#[tokio::test]
async fn any_other_wish_ends_at_this_hop() {
    let (world, service) =
        guarded("[[service]]\nid = \"plain\"\nhosts = [\"plain.test\"]\nendpoint = \"127.0.0.1:9\"\n").await;
    let caller = world.identity("caller");

    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: chat\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Upgrade: websocket\r\n",
    ] {
        let mut talk = world.talk(Some(&caller)).await;
        assert_eq!(talk.get("/a", lines).await.status, 200, "{lines}");
        assert_eq!(talk.get("/a", "").await.status, 200, "{lines}");
        for seen in service.seen() {
            assert!(seen.values("upgrade").is_empty() && seen.values("connection").is_empty(), "{seen:?}");
            assert!(seen.values("http2-settings").is_empty(), "{seen:?}");
        }
    }
    let mut old = world.talk(Some(&caller)).await;
    old.send(format!("GET /a HTTP/1.0\r\nhost: localhost\r\n{WISH}\r\n")).await;
    assert_eq!(old.answer().await.status, 200);
    assert!(service.last().values("upgrade").is_empty());
}

#[tokio::test]
async fn a_wish_that_leaves_doubt_is_refused_and_reaches_nobody() {
    let (world, service) = guarded("").await;
    let caller = world.identity("caller");
    drop(tunnelled(&world, &caller, "").await);

    for (method, lines) in [
        ("GET", "Upgrade: websocket\r\n"),
        ("GET", "Upgrade: h2c\r\n"),
        ("GET", "Content-Length: 3\r\n"),
        ("GET", "Content-Length: 0\r\n"),
        ("GET", "Transfer-Encoding: chunked\r\n"),
        ("POST", ""),
    ] {
        let mut talk = world.talk(Some(&caller)).await;
        let answer = talk.ask(&format!("{method} /a HTTP/1.1\r\nhost: localhost\r\n{WISH}{lines}\r\n")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad-upgrade"), "{method} {lines}");
    }
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn who_may_not_come_in_opens_no_tunnel() {
    let (world, service) = guarded("").await;
    drop(tunnelled(&world, &world.identity("caller"), "").await);

    let stranger = world.identity("stranger");
    assert_eq!(world.talk(Some(&stranger)).await.get("/a", WISH).await.code(), "not-entitled");
    assert_eq!(world.talk(None).await.get("/a", WISH).await.code(), "missing-credential");

    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn a_service_that_goes_over_to_something_else_is_not_followed() {
    for (lines, answer) in [
        // Nobody asked.
        ("", AGREED),
        (WISH, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        (WISH, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n\r\n"),
        (WISH, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n\r\n"),
        (WISH, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n"),
    ] {
        let service = Service::answering(|_| vec![Act::Send(answer.as_bytes().to_vec()), Act::EchoRaw]).await;
        let mut scene = Scene::guarding(service.address);
        scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\"]\n");
        let world = scene.start().await;
        let mut talk = world.talk(Some(&world.identity("caller"))).await;

        let answered = talk.get("/a", lines).await;

        assert_eq!((answered.status, answered.code().as_str()), (502, "bad-gateway"), "{answer}");
    }
}

#[tokio::test]
async fn a_tunnel_ends_with_what_it_rests_on() {
    // What is done, and the code by which the tunnel ends.
    type Ending = (&'static str, fn(&World), &'static str);
    let endings: [Ending; 4] = [
        (
            "the certificate is revoked",
            |world| {
                let mut revoke = postern(world.path());
                revoke.args(["cert", "revoke", "spiffe://postern.test/caller"]);
                assert!(revoke.output().unwrap().status.success());
            },
            "revoked",
        ),
        (
            "the grant is gone",
            |world| {
                let without = world.registry().replacen(support::world::GRANT, "", 1);
                write(&world.path().join("registry/apps.toml"), &without);
            },
            "not-entitled",
        ),
        (
            "the protocol is not listed any more",
            |world| amend(world, "upgrades = [\"websocket\"]", "upgrades = [\"chat\"]"),
            "upgrade-not-allowed",
        ),
        (
            "another service answers there",
            |world| {
                let other = "id = \"other\"\nbase_path = \"/a\"\nendpoint = \"127.0.0.1:9\"\nupgrades = [\"websocket\"]";
                amend(world, "[[service]]", &format!("[[service]]\n{other}\n\n[[service]]"));
                let registry = world.registry().replacen("service = \"orders\"", "service = \"*\"", 1);
                write(&world.path().join("registry/apps.toml"), &registry);
            },
            "no-such-service",
        ),
    ];
    for (what, end, code) in endings {
        let (world, _service) = guarded("").await;
        let mut talk = tunnelled(&world, &world.identity("caller"), "x-request-id: the-tunnel\r\n").await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(says(&mut talk, b"still here").await, b"still here", "{what}");

        end(&world);
        if code == "upgrade-not-allowed" || code == "no-such-service" {
            world.signal("HUP");
        }

        assert!(talk.is_closed().await, "{what}");
        let event = world.access("the-tunnel").await;
        assert_eq!((&event["status"], &event["decision"]), (&json!(101), &json!(code)), "{what}: {event}");
        let cut = format!("postern_connections_cut_total{{code=\"{code}\"}}");
        assert_eq!(world.metric(&cut).await, Some(1.0), "{what}");
    }
}

/// Puts other text in place of some that stands in the configuration of a running agent.
fn amend(world: &World, from: &str, to: &str) {
    let file = world.path().join("postern.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    write(&file, &text.replacen(from, to, 1));
}

#[tokio::test]
async fn a_tunnel_ends_with_its_certificate() {
    let (world, _service) = guarded("").await;
    let span = Duration::from_secs(3);
    let caller = Identity::issued("spiffe://postern.test/caller", span, &world.issuing_folder().await);
    let begun = Instant::now();

    let mut talk = tunnelled(&world, &caller, "x-request-id: the-tunnel\r\n").await;
    assert!(talk.is_closed().await);

    assert!(begun.elapsed() < span + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(world.access("the-tunnel").await["decision"], "certificate-expired");
}

#[tokio::test]
async fn a_tunnel_by_a_key_ends_with_the_key() {
    let service = switching().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\"]\n");
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &format!("{WISH}{}", key.line())).await.status, 101);
    assert_eq!(says(&mut talk, b"hello").await, b"hello");
    assert!(service.last().values("x-api-key").is_empty());

    let id = format!("id = \"{}\"\n", key.id);
    let revoked = world.registry().replacen(&id, &format!("{id}status = \"revoked\"\n"), 1);
    write(&world.path().join("registry/apps.toml"), &revoked);

    assert!(talk.is_closed().await);
    assert_eq!(world.metric("postern_connections_cut_total{code=\"credential-revoked\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_a_drain_ends_every_tunnel() {
    let (world, _service) = guarded("[limits]\nidle = \"1s\"\n").await;
    let mut talk = tunnelled(&world, &world.identity("caller"), "x-request-id: the-tunnel\r\n").await;
    assert!(talk.is_closed().await);
    assert_eq!(world.access("the-tunnel").await["decision"], "idle-timeout");

    let (mut world, _service) = guarded("[limits]\ndrain = \"2s\"\n").await;
    let mut talk = tunnelled(&world, &world.identity("caller"), "x-request-id: the-tunnel\r\n").await;
    world.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(says(&mut talk, b"still here").await, b"still here");
    assert!(talk.is_closed().await);
    assert!(world.ended().await.success());
    assert_eq!(world.access("the-tunnel").await["decision"], "agent-stopped");
}

#[tokio::test]
async fn a_tunnel_holds_its_place_at_the_service() {
    let service = switching().await;
    let mut scene = Scene::guarding(service.address);
    let keys = "upgrades = [\"websocket\"]\nconcurrency = { minimum = 1, maximum = 1 }\n";
    scene.amend_config("id = \"orders\"\n", &format!("id = \"orders\"\n{keys}"));
    let world = scene.start().await;
    let caller = world.identity("caller");
    let mut talk = tunnelled(&world, &caller, "").await;

    assert_eq!(world.talk(Some(&caller)).await.get("/b", "").await.status, 503);
    soon("a goodbye", talk.io.shutdown()).await.unwrap();
    assert!(talk.is_closed().await);

    eventually("the place is free again", async || {
        (world.talk(Some(&caller)).await.get("/b", "").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_tunnelled_safely_cannot_be_configured() {
    for (keys, told) in [
        ("upgrades = [\"h2c\"]", "HTTP in a tunnel would pass the gate unseen"),
        ("upgrades = [\"TLS/1.0\"]", "TLS is the listener's own business"),
        ("upgrades = [\"web socket\"]", "expected the name of a protocol"),
        ("upgrades = [\"websocket\"]\nwatch_responses = \"report\"", "exclude each other"),
    ] {
        let mut scene = Scene::guarding("127.0.0.1:9");
        let check = |scene: &Scene| {
            scene.write();
            postern(scene.path()).arg("check").output().unwrap()
        };
        scene.amend_config("id = \"orders\"\n", "id = \"orders\"\n#\n");
        assert!(check(&scene).status.success());
        scene.amend_config("#\n", &format!("{keys}\n"));

        let output = check(&scene);

        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(told), "{keys}: {text}");
    }
}

/// A Python that has websockets, made on first use.
fn python_with_websockets() -> Result<PathBuf, String> {
    python_with("websockets", "websockets.asyncio.client", &["websockets>=15,<17"])
}

/// The script with these arguments.
fn script(python: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/websocket.py")).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What the client makes of `url`.
async fn talks(python: &Path, arguments: &[&str]) -> Value {
    let mut talk = script(python, &[&["talk"], arguments].concat());
    let output = tokio::time::timeout(Duration::from_secs(60), talk.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A client and a server that know nothing of an agent, in through a listener and out through a local port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_package_websockets_talks_through_both_doors() {
    let python = match python_with_websockets() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let mut server = script(&python, &["serve"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = soon("the server's port", lines.next_line()).await.unwrap().unwrap();
    // The client compares the host's name, so the listener is at localhost.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let [inbound, outbound] = [free(), free()];
    let uid = rustix::process::geteuid().as_raw();
    let mut scene = Scene::guarding(format!("127.0.0.1:{port}"));
    scene
        .amend_config("address = \"{ip}:8443\"", &format!("address = \"127.0.0.1:{inbound}\""))
        .amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\"]\n")
        .amend_config("id = \"caller\"\n", &format!("id = \"caller\"\nmatch = {{ uid = {uid} }}\n"))
        .config(&format!(
            "[[remote]]\nid = \"self\"\naddress = \"127.0.0.1:{inbound}\"\nlisten = \"127.0.0.1:{outbound}\"\n\
             upgrades = [\"websocket\"]\nspiffe_ids = [\"spiffe://postern.test/agent\"]\n"
        ));
    let world = scene.start().await;
    let caller = world.files("caller").join("current");
    let file = |path: PathBuf| path.to_str().unwrap().to_owned();
    let bundle = file(world.path().join("state/bundle.pem"));
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| file(caller.join(name)));

    let url = format!("wss://localhost:{inbound}");
    let direct = talks(&python, &[&url, &bundle, &chain, &key]).await;
    let by_port = talks(&python, &[&format!("ws://127.0.0.1:{outbound}")]).await;

    let well = json!({ "results": vec![json!([true, true, true, true, 1000]); 8], "refused": 403 });
    assert_eq!(direct, well);
    assert_eq!(by_port, well);
}

#[tokio::test]
async fn a_way_out_tunnels_what_its_remote_lists_and_ends_with_it() {
    let service = switching().await;
    let mut scene = Scene::guarding(service.address);
    let uid = rustix::process::geteuid().as_raw();
    scene
        .amend_config("id = \"orders\"\n", "id = \"orders\"\nupgrades = [\"websocket\", \"chat\"]\n")
        .amend_config("id = \"caller\"\n", &format!("id = \"caller\"\nmatch = {{ uid = {uid} }}\n"))
        .config(
            "[[remote]]\nid = \"self\"\naddress = \"{ip}:8443\"\nlisten = \"{ip}:15001\"\n\
             upgrades = [\"websocket\"]\nspiffe_ids = [\"spiffe://postern.test/agent\"]\n",
        );
    let world = scene.start().await;
    let dial = async || Talk::new(TcpStream::connect((world.ip, 15001)).await.unwrap());

    let mut other = dial().await;
    assert_eq!(other.get("/a", "connection: upgrade\r\nupgrade: chat\r\n").await.status, 200);
    let mut talk = dial().await;
    assert_eq!(talk.get("/a", WISH).await.status, 101);
    talk.send("hello").await;
    let mut heard = [0; 5];
    soon("an echo", talk.io.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");

    let mut revoke = postern(world.path());
    revoke.args(["cert", "revoke", "spiffe://postern.test/agent"]);
    assert!(revoke.output().unwrap().status.success());
    let begun = Instant::now();
    talk.rest().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
