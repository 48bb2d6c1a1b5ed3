//! A session remembers who somebody was; a door asks who it is now.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock, Timestamp};
use postern::store::pem;
use support::Outcome::{Full, Refused, Resumed};
use support::resumer::{Wardrobe, half_a_hello};
use support::world::{GRANT, Key, postern};
use support::{ForeignCa, H2, Identity, Resumer, Scene, Service, Talk, VERSIONS, World, eventually, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a connection may take to open.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// So long before its certificate ends, an HTTP/2 connection says that it takes no more; an idle one is closed then.
const NOTICE: Duration = Duration::from_secs(1);

/// An agent whose doors speak TLS 1.2 as well: one that takes what comes, one for certificates only, one for raw bytes. It
/// believes whoever stands in the file `other.pem` about the trust domain `other.test`.
struct Doors {
    world: World,
    key: Key,
    _service: Service,
    _echo: Service,
}

impl Doors {
    async fn trusting(foreign: &str) -> Self {
        let (service, echo) = (Service::start().await, Service::echoing("hello ").await);
        let mut scene = Scene::guarding(service.address);
        let door = |id: &str, port: u16, keys: &str| {
            format!(
                "[[listener]]\nid = \"{id}\"\naddress = \"{{ip}}:{port}\"\noldest_tls = \"1.2\"\n{keys}\n"
            )
        };
        scene
            .config(&door("open", 8444, ""))
            .config(&door("strict", 8445, "accepts = [[\"mtls\"]]"))
            .config(&door("raw", 8446, "protocol = \"tcp\"\nservice = \"echo\""))
            .service("echo", &echo.address.to_string(), "hosts = [\"echo.test\"]")
            .config("[limits]\nhandshake = \"1s\"\n")
            .config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\n");
        let key = scene.app_with_key("by-key");
        scene.app("foreign", "[[app.certificate]]\nuri = \"spiffe://other.test/caller\"\n").registry(GRANT);
        scene.registry("[[product]]\nid = \"raw\"\n[[product.operation]]\nservice = \"echo\"\n");
        scene.app("both", "[[app.certificate]]\nuri = \"spiffe://postern.test/both\"\n").registry(GRANT);
        scene.registry("[[app.grant]]\nproduct = \"raw\"\n");
        write(&scene.path().join("other.pem"), foreign);
        Self { world: scene.start().await, key, _service: service, _echo: echo }
    }

    async fn open() -> Self {
        Self::trusting(&ForeignCa::root("nobody in particular").pem()).await
    }

    fn address(&self, port: u16) -> SocketAddr {
        (self.world.ip, port).into()
    }

    /// A caller for each version, named.
    fn callers(&self, identity: Option<&Identity>) -> [(&'static str, Resumer); 2] {
        let bundle = std::fs::read(self.world.path().join("state/bundle.pem")).unwrap();
        let roots = pem::certificates(&bundle).unwrap();
        VERSIONS.map(|(name, version)| (name, Resumer::new(version, &roots, identity)))
    }

    /// Callers that were served twice at the open door, the second time in the session of the first.
    async fn regulars(&self, identity: &Identity) -> [(&'static str, Resumer); 2] {
        let callers = self.callers(Some(identity));
        for (version, caller) in &callers {
            assert_eq!(caller.call(self.address(8444)).await, Full(200), "{version}");
            assert_eq!(caller.call(self.address(8444)).await, Resumed(200), "{version}");
        }
        callers
    }

    /// A leaf of this host that is good for at least `ttl`, and for less than a second more.
    async fn leaf(&self, name: &str, ttl: Duration) -> Identity {
        let folder = self.world.issuing_folder().await;
        let id = format!("spiffe://postern.test/{name}");
        Identity::issued(&id, ttl + Duration::from_secs(1), &folder)
    }
}

async fn until(moment: Timestamp) {
    tokio::time::sleep(moment.since(SystemClock.now())).await;
}

/// How long it takes until the other side closes; nothing may come before.
async fn closed_after(stream: &mut TcpStream, begun: Instant) -> Duration {
    let mut said = Vec::new();
    // A reset is an end, too.
    drop(support::soon("the end", stream.read_to_end(&mut said)).await);
    assert!(said.is_empty(), "it answered: {said:?}");
    begun.elapsed()
}

#[tokio::test]
async fn a_session_ends_with_the_certificate_however_often_it_was_resumed() {
    let doors = Doors::open().await;
    let leaf = doors.leaf("caller", Duration::from_secs(2)).await;
    let callers = doors.regulars(&leaf).await;
    for (version, caller) in &callers {
        for _ in 0..20 {
            assert_eq!(caller.call(doors.address(8444)).await, Resumed(200), "{version}");
        }
    }

    until(leaf.subject().not_after).await;

    for (version, caller) in &callers {
        for _ in 0..4 {
            assert_eq!(caller.call(doors.address(8444)).await, Refused, "{version}, in its session");
        }
    }
    for (version, caller) in doors.callers(Some(&leaf)) {
        assert_eq!(caller.call(doors.address(8444)).await, Refused, "{version}, from scratch");
    }
    doors.regulars(&doors.world.identity("caller")).await;
}

#[tokio::test]
async fn a_caller_that_renewed_in_time_is_not_held_to_an_old_session() {
    let doors = Doors::open().await;
    let leaf = doors.leaf("caller", Duration::from_secs(2)).await;
    let wardrobe = Wardrobe::with(&leaf);
    let callers = doors.callers(None).map(|(version, caller)| (version, caller.dressed_from(&wardrobe)));
    for (version, caller) in &callers {
        assert_eq!(caller.call(doors.address(8444)).await, Full(200), "{version}");
        assert_eq!(caller.call(doors.address(8444)).await, Resumed(200), "{version}");
    }

    wardrobe.replace(&doors.world.identity("caller"));
    until(leaf.subject().not_after).await;

    for (version, caller) in &callers {
        assert_eq!(caller.call(doors.address(8444)).await, Full(200), "{version}");
        assert_eq!(caller.call(doors.address(8444)).await, Resumed(200), "{version}");
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_whatever_it_carries() {
    let doors = Doors::open().await;
    let leaf = doors.leaf("both", NOTICE * 2).await;
    let mut ends = tokio::task::JoinSet::new();
    for (version, caller) in doors.callers(Some(&leaf)) {
        let http1 = caller.offering(&[b"http/1.1"]).dial(doors.address(8444)).await.unwrap();
        let mut http1 = Talk::new(http1);
        assert_eq!(http1.get("/a", "").await.status, 200, "{version}");
        let http2 = H2::new(caller.offering(&[b"h2"]).dial(doors.address(8444)).await.unwrap()).await;
        assert_eq!(http2.get("/a", &[]).await.status, 200, "{version}");
        let mut raw = caller.dial(doors.address(8446)).await.unwrap();
        let mut greeting = [0; 6];
        raw.read_exact(&mut greeting).await.unwrap();
        ends.spawn(async move {
            assert!(http1.is_closed().await);
            (format!("HTTP/1.1 over {version}"), Duration::ZERO, SystemClock.now())
        });
        ends.spawn(async move {
            http2.closed().await;
            (format!("HTTP/2 over {version}"), NOTICE, SystemClock.now())
        });
        ends.spawn(async move {
            assert!(Talk::new(raw).is_closed().await);
            (format!("raw bytes over {version}"), Duration::ZERO, SystemClock.now())
        });
    }

    let not_after = leaf.subject().not_after;
    for (what, notice, ended) in ends.join_all().await {
        let early = not_after.since(ended);
        assert!(early <= notice, "{what}: cut {early:?} before the certificate's end");
        let late = ended.since(not_after);
        assert!(late < Duration::from_secs(1), "{what}: cut {late:?} after the certificate's end");
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_the_root_behind_it() {
    let (old, new) = (ForeignCa::root("the old root"), ForeignCa::root("the new root"));
    let doors = Doors::trusting(&(old.pem() + &new.pem())).await;
    let id = "spiffe://other.test/caller";
    let [before, after] = [&old, &new].map(|root| root.leaf(id, Duration::from_secs(60)));
    let (leaving, staying) = (doors.regulars(&before).await, doors.regulars(&after).await);

    write(&doors.world.path().join("other.pem"), &new.pem());

    refused_before_long(&doors, &leaving).await;
    for (version, caller) in &staying {
        assert_eq!(
            caller.call(doors.address(8444)).await,
            Full(200),
            "{version}: a new bundle, a new session"
        );
    }
}

#[tokio::test]
async fn a_session_does_not_survive_a_root_of_the_same_name_with_another_key() {
    let [old, new] = [(); 2].map(|()| ForeignCa::root("one and the same"));
    let doors = Doors::trusting(&old.pem()).await;
    let id = "spiffe://other.test/caller";
    let callers = doors.regulars(&old.leaf(id, Duration::from_secs(60))).await;

    write(&doors.world.path().join("other.pem"), &new.pem());

    refused_before_long(&doors, &callers).await;
    doors.regulars(&new.leaf(id, Duration::from_secs(60))).await;
}

#[tokio::test]
async fn a_session_does_not_survive_the_revocation_of_its_certificate() {
    let doors = Doors::open().await;
    let [leaf, other] =
        [doors.leaf("caller", HANDSHAKE * 60).await, doors.leaf("caller", HANDSHAKE * 60).await];
    let (callers, others) = (doors.regulars(&leaf).await, doors.regulars(&other).await);

    let serial = format!("serial:{}", leaf.subject().serial);
    let revoked = postern(doors.world.path()).args(["cert", "revoke", &serial]).output().unwrap();
    assert!(revoked.status.success());

    refused_before_long(&doors, &callers).await;
    for (version, caller) in &others {
        assert_eq!(caller.call(doors.address(8444)).await, Full(200), "{version}: another certificate");
    }
}

/// The callers are refused within a second, and remain so.
async fn refused_before_long(doors: &Doors, callers: &[(&str, Resumer)]) {
    let begun = Instant::now();
    for (version, caller) in callers {
        eventually("the caller is refused", async || {
            (caller.call(doors.address(8444)).await == Refused).then_some(())
        })
        .await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{version}: refused after {:?}", begun.elapsed());
        for _ in 0..3 {
            assert_eq!(caller.call(doors.address(8444)).await, Refused, "{version}");
        }
    }
}

#[tokio::test]
async fn a_session_opens_the_door_at_which_it_was_made_and_no_other() {
    let doors = Doors::open().await;
    let key = doors.key.line();
    for (version, caller) in doors.callers(Some(&doors.world.identity("caller"))) {
        assert_eq!(caller.call(doors.address(8444)).await, Full(200), "{version}");
        assert_eq!(caller.call(doors.address(8445)).await, Full(200), "{version}");
    }
    for (version, caller) in doors.callers(None) {
        assert_eq!(caller.ask(doors.address(8444), &key).await, Full(200), "{version}");
        assert_eq!(caller.ask(doors.address(8444), &key).await, Resumed(200), "{version}");

        assert_eq!(caller.ask(doors.address(8445), &key).await, Full(403), "{version}, with a key");
        assert_eq!(caller.call(doors.address(8445)).await, Resumed(401), "{version}, with nothing");
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let doors = Doors::open().await;
    doors.regulars(&doors.world.identity("caller")).await;
    let half = &half_a_hello();

    let silence = async {
        let mut stream = TcpStream::connect(doors.address(8444)).await.unwrap();
        closed_after(&mut stream, Instant::now()).await
    };
    let half_of_it = async {
        let mut stream = TcpStream::connect(doors.address(8444)).await.unwrap();
        let begun = Instant::now();
        stream.write_all(half).await.unwrap();
        closed_after(&mut stream, begun).await
    };
    let byte_by_byte = async {
        let mut stream = TcpStream::connect(doors.address(8444)).await.unwrap();
        let begun = Instant::now();
        for byte in half {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        closed_after(&mut stream, begun).await
    };
    let (silence, half, bytes) = tokio::join!(silence, half_of_it, byte_by_byte);

    for (what, span) in [("silence", silence), ("half a hello", half), ("byte by byte", bytes)] {
        let limit = HANDSHAKE.mul_f32(0.9)..HANDSHAKE * 2;
        assert!(limit.contains(&span), "{what}: closed after {span:?}");
    }
    let timeouts = doors.world.metric("postern_handshakes_total{code=\"timeout\"}").await;
    assert_eq!(timeouts, Some(3.0));
}

#[tokio::test]
async fn an_unknown_application_protocol_ends_the_handshake() {
    let doors = Doors::open().await;
    for (version, caller) in doors.callers(Some(&doors.world.identity("caller"))) {
        let longest = [b'x'; 255];
        for known in [&[&b"http/1.1"[..]][..], &[b"acme-tls/1", b"http/1.1"]] {
            let outcome = caller.offering(known).call(doors.address(8444)).await;
            assert!(matches!(outcome, Full(200) | Resumed(200)), "{version}: {outcome}");
        }
        for unknown in [&b"acme-tls/1"[..], b"http/1.0", b"h2c", b"HTTP/1.1", &longest] {
            let error = caller.offering(&[unknown]).dial(doors.address(8444)).await.unwrap_err();
            assert!(error.to_string().contains("NoApplicationProtocol"), "{version}: {error}");
        }
    }
}
