//! What is revoked is cut off within a second, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a measured figure is worth reading")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use postern::store::pem;
use support::world::{GRANT, postern};
use support::{ForeignCa, H2, Identity, Resumer, Scene, Service, Talk, Tls, World, soon, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Callers at once.
const FLEET: usize = 5000;

/// How many of them dial at the same time.
const ABREAST: usize = 20;

const HOUR: Duration = Duration::from_secs(3600);

/// An agent that lets in everybody of `other.test`, whose identities two issuing authorities sign.
struct Fleet {
    world: World,
    north: ForeignCa,
    south: ForeignCa,
    _service: Service,
    _echo: Service,
}

impl Fleet {
    async fn start() -> Self {
        let root = ForeignCa::root("root of the fleet");
        let (north, south) = (root.issuing("north"), root.issuing("south"));
        let (service, echo) = (Service::start().await, Service::echoing("hello ").await);
        let mut scene = Scene::guarding(service.address);
        scene
            .config("[[listener]]\nid = \"raw\"\naddress = \"{ip}:8446\"\nprotocol = \"tcp\"\nservice = \"echo\"\n")
            .service("echo", &echo.address.to_string(), "hosts = [\"echo.test\"]")
            .config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\n")
            .registry("[[product]]\nid = \"raw\"\n[[product.operation]]\nservice = \"echo\"\n")
            .app("fleet", "[[app.certificate]]\nuri = \"spiffe://other.test/fleet/**\"\n")
            .registry(GRANT)
            .registry("[[app.grant]]\nproduct = \"raw\"\n");
        write(&scene.path().join("other.pem"), &root.pem());
        Self { world: scene.start().await, north, south, _service: service, _echo: echo }
    }

    /// An HTTP/1 connection that has been used.
    async fn http1(&self, identity: &Identity) -> Talk<Tls> {
        let mut talk = self.world.talk(Some(identity)).await;
        assert_eq!(talk.get("/a", "").await.status, 200);
        talk
    }

    /// An HTTP/2 connection that has been used.
    async fn http2(&self, identity: &Identity) -> H2 {
        let http2 = self.world.h2(Some(identity)).await;
        assert_eq!(http2.get("/a", &[]).await.status, 200);
        http2
    }

    /// A caller with this certificate.
    fn caller(&self, identity: &Identity) -> Resumer {
        let bundle = std::fs::read(self.world.path().join("state/bundle.pem")).unwrap();
        Resumer::new(&rustls::version::TLS13, &pem::certificates(&bundle).unwrap(), Some(identity))
    }

    /// A raw connection that has been used.
    async fn raw(&self, identity: &Identity) -> Tls {
        let mut raw = self.caller(identity).dial((self.world.ip, 8446).into()).await.unwrap();
        let mut greeting = [0; 6];
        raw.read_exact(&mut greeting).await.unwrap();
        raw
    }

    /// Revokes by the command that operators use.
    fn revoke(&self, what: &str) -> Instant {
        let revoked = postern(self.world.path()).args(["cert", "revoke", what]).output().unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        Instant::now()
    }
}

/// A leaf of `authority` for the ship of that number.
fn ship(authority: &ForeignCa, number: usize) -> Identity {
    authority.leaf(&format!("spiffe://other.test/fleet/{number}"), HOUR)
}

fn serial(identity: &Identity) -> String {
    format!("serial:{}", identity.subject().serial)
}

async fn echoes(raw: &mut Tls) -> bool {
    let mut answer = [0; 4];
    raw.write_all(b"ping").await.is_ok() && raw.read_exact(&mut answer).await.is_ok() && answer == *b"ping"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_five_thousand_live_connections_is_cut_and_no_other() {
    let fleet = Arc::new(Fleet::start().await);
    let mut dialling = JoinSet::new();
    for first in 0..ABREAST {
        let fleet = Arc::clone(&fleet);
        dialling.spawn(async move {
            let mut talks = Vec::new();
            for number in (first..FLEET).step_by(ABREAST) {
                let identity = ship(&fleet.north, number);
                talks.push((fleet.http1(&identity).await, serial(&identity)));
            }
            talks
        });
    }
    let mut talks: Vec<_> = dialling.join_all().await.into_iter().flatten().collect();
    assert_eq!(talks.len(), FLEET);

    let (mut victim, serial) = talks.swap_remove(FLEET / 2);
    let begun = fleet.revoke(&serial);

    assert!(victim.is_closed().await);
    let after = begun.elapsed();
    assert!(after < Duration::from_secs(1), "cut after {after:?}");
    println!("one of {FLEET} connections was cut after {after:?}");
    for (talk, _) in &mut talks {
        assert_eq!(talk.get("/a", "").await.status, 200);
    }
    assert_eq!(fleet.world.metric("postern_connections_cut_total{code=\"revoked\"}").await, Some(1.0));
    let log = fleet.world.log_with("connection cut").await;
    assert!(log.contains(&format!("{serial} is revoked")), "the log says which");
}

#[tokio::test]
async fn every_kind_of_connection_is_cut() {
    let fleet = Fleet::start().await;
    let [victim, other] = [1, 2].map(|number| ship(&fleet.north, number));
    let (mut http1, http2, raw) =
        (fleet.http1(&victim).await, fleet.http2(&victim).await, fleet.raw(&victim).await);
    let (mut other1, other2, mut other_raw) =
        (fleet.http1(&other).await, fleet.http2(&other).await, fleet.raw(&other).await);

    let begun = fleet.revoke(&serial(&victim));

    let (mut raw, mut ends) = (Talk::new(raw), JoinSet::new());
    ends.spawn(async move { assert!(http1.is_closed().await) });
    ends.spawn(async move { http2.closed().await });
    ends.spawn(async move { assert!(raw.is_closed().await) });
    ends.join_all().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    assert_eq!(other1.get("/a", "").await.status, 200);
    assert_eq!(other2.get("/a", &[]).await.status, 200);
    assert!(echoes(&mut other_raw).await);
    assert!(fleet.world.try_get(Some(&victim), "").await.is_err());
}

#[tokio::test]
async fn an_issuing_authority_takes_along_what_it_has_signed() {
    let fleet = Fleet::start().await;
    let (mut north, mut south) = (Vec::new(), Vec::new());
    for number in 0..20 {
        north.push(fleet.http1(&ship(&fleet.north, number)).await);
        south.push(fleet.http1(&ship(&fleet.south, number)).await);
    }
    let raw = fleet.raw(&ship(&fleet.north, 20)).await;

    let begun = fleet.revoke(&format!("serial:{}", fleet.north.serial));

    let mut ends = JoinSet::new();
    for mut talk in north {
        ends.spawn(async move { assert!(talk.is_closed().await) });
    }
    ends.spawn(async move { assert!(Talk::new(raw).is_closed().await) });
    ends.join_all().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    for talk in &mut south {
        assert_eq!(talk.get("/a", "").await.status, 200);
    }
    assert!(fleet.world.try_get(Some(&ship(&fleet.north, 21)), "").await.is_err());
    assert_eq!(fleet.world.try_get(Some(&ship(&fleet.south, 21)), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_revocation_during_the_handshake_is_not_missed() {
    let fleet = Fleet::start().await;
    let identity = ship(&fleet.north, 1);
    let mut swift = fleet.http1(&identity).await;
    let mut slow = TcpStream::connect(fleet.world.address()).await.unwrap();
    let mut tls =
        rustls::ClientConnection::new(fleet.caller(&identity).config, "localhost".try_into().unwrap());
    let tls = tls.as_mut().unwrap();
    send_pending(tls, &mut slow).await;
    while tls.is_handshaking() {
        receive(tls, &mut slow).await;
    }

    fleet.revoke(&serial(&identity));
    assert!(swift.is_closed().await);

    tls.writer().write_all(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    send_pending(tls, &mut slow).await;
    while receive(tls, &mut slow).await {}
    assert_eq!(tls.process_new_packets().unwrap().plaintext_bytes_to_read(), 0);
    assert_eq!(fleet.world.metric("postern_requests_total{code=\"allowed\"}").await, Some(1.0));
}

/// Sends what a handshake has ready.
async fn send_pending(tls: &mut rustls::ClientConnection, to: &mut TcpStream) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    to.write_all(&bytes).await.unwrap();
}

/// Takes in what has come; false at the end.
async fn receive(tls: &mut rustls::ClientConnection, from: &mut TcpStream) -> bool {
    let mut bytes = Vec::with_capacity(4096);
    let read = soon("some bytes, or the end", from.read_buf(&mut bytes)).await;
    let mut unread = bytes.as_slice();
    while !unread.is_empty() {
        tls.read_tls(&mut unread).unwrap();
        tls.process_new_packets().unwrap();
    }
    read.is_ok_and(|count| count > 0)
}
