//! The way out: the kernel says who calls, each caller goes on under its own identity, and only to whom it was meant for.
//!
//! Processes of other users are needed, which only root can start; without root these tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{Act, Answer, Scene, Service, Talk, World, eventually, soon, write};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

/// Users that need not exist: the kernel knows numbers only.
const WEB: u32 = 60_001;
const BATCH: u32 = 60_002;
const BRIEF: u32 = 60_003;
const NOBODY: u32 = 60_009;

/// Whether other users' processes can be started here.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
        {
            println!("skipped: only root can start processes of other users");
        }
    }
    is_root
}

/// Two agents of two trust domains, each of which believes the other's identities.
struct Pair {
    near: World,
    far: World,
    _echo: Service,
}

impl Pair {
    async fn start() -> Self {
        let echo = Service::echoing("hello ").await;
        let mut far = Scene::of("far.test");
        far.config("[[trust]]\ndomain = \"near.test\"\nbundle = \"other.pem\"\n")
            .listener("inbound", "")
            .config("[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n")
            .service("whoami", "builtin:whoami", "")
            .service("echo", &echo.address.to_string(), "");
        far.registry(
            "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"whoami\"\n[[product.operation]]\nservice = \"whoami\"\n\
             methods = [\"*\"]\npath = \"/**\"\n\n[[product]]\nid = \"raw\"\n[[product.operation]]\nservice = \"echo\"\n",
        );
        for (app, products) in [("web", &["whoami", "raw"][..]), ("batch", &["whoami"]), ("brief", &["raw"])]
        {
            far.app(app, &format!("[[app.certificate]]\nuri = \"spiffe://near.test/{app}\"\n"));
            for product in products {
                far.registry(&format!("[[app.grant]]\nproduct = \"{product}\"\n"));
            }
        }

        let mut near = Scene::of("near.test");
        near.config("[[trust]]\ndomain = \"far.test\"\nbundle = \"other.pem\"\n");
        for (id, uid, ttl) in [("web", WEB, "1h"), ("batch", BATCH, "1h"), ("brief", BRIEF, "3s")] {
            near.config(&format!(
                "[[workload]]\nid = \"{id}\"\nttl = \"{ttl}\"\nmatch = {{ uid = {uid} }}\n"
            ));
        }
        let remotes = [
            ("far", 8443, "http", "agent", 15001),
            ("imposter", 8443, "http", "somebody-else", 15002),
            ("raw", 8444, "tcp", "agent", 15003),
        ];
        for (id, port, protocol, spiffe_id, listen) in remotes {
            near.config(&format!(
                "[[remote]]\nid = \"{id}\"\naddress = \"{}:{port}\"\nprotocol = \"{protocol}\"\nlisten = \"{{ip}}:{listen}\"\n\
                 socket = \"{id}.sock\"\nspiffe_ids = [\"spiffe://far.test/{spiffe_id}\"]\n",
                far.ip
            ));
        }

        write(&near.path().join("other.pem"), &far.init_ca());
        write(&far.path().join("other.pem"), &near.init_ca());
        // Other users must get as far as the socket.
        std::fs::set_permissions(near.path(), Permissions::from_mode(0o755)).unwrap();
        Self { far: far.start().await, near: near.start().await, _echo: echo }
    }

    /// What a process of `uid` hears that connects to a port, or to a socket by its file name, and sends `text`.
    async fn hears(&self, uid: u32, place: &str, text: &str) -> String {
        let place = match place.parse::<u16>() {
            Ok(port) => format!("{}:{port}", self.near.ip),
            Err(_) => self.near.path().join("run").join(place).display().to_string(),
        };
        // Members of the agent's group may open its sockets.
        let mut child = Command::new("python3")
            .args(["-I", "-c", CLIENT, &place])
            .uid(uid)
            .gid(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
        drop(stdin);
        let output = soon("a client", child.wait_with_output()).await.unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    async fn asks(&self, uid: u32, place: &str) -> Option<Answer> {
        let heard =
            self.hears(uid, place, "GET /a HTTP/1.1\r\nhost: far.test\r\nconnection: close\r\n\r\n").await;
        if heard.is_empty() {
            return None;
        }
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(heard.as_bytes()).await.unwrap();
        drop(theirs);
        Some(Talk::new(ours).answer().await)
    }
}

/// Connects, sends its input and prints what comes back until the other side hangs up.
const CLIENT: &str = "
import socket, sys
place = sys.argv[1]
if place.startswith('/'):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(place)
else:
    host, port = place.split(':')
    peer = socket.create_connection((host, int(port)))
peer.settimeout(9)
try:
    peer.sendall(sys.stdin.buffer.read())
    while data := peer.recv(65536):
        sys.stdout.buffer.write(data)
except (BrokenPipeError, ConnectionResetError):
    pass
";

#[tokio::test]
async fn each_user_is_known_by_an_identity_of_its_own_at_the_far_end() {
    if !is_root() {
        return;
    }
    let pair = Pair::start().await;

    for place in ["15001", "far.sock"] {
        for (uid, app) in [(WEB, "web"), (BATCH, "batch")] {
            let answer = pair.asks(uid, place).await.unwrap();
            assert_eq!(answer.status, 200, "{place}: {answer:?}");
            assert_eq!(answer.json()["spiffe_id"], format!("spiffe://near.test/{app}"), "{place}");
            assert_eq!(answer.json()["app"], app, "{place}");
            let event = pair.near.access(answer.header("x-request-id").unwrap()).await;
            assert_eq!((&event["direction"], &event["door"]), (&"out".into(), &"far".into()));
        }
    }
}

#[tokio::test]
async fn a_user_who_is_no_workload_gets_nothing_and_the_log_says_why() {
    if !is_root() {
        return;
    }
    let pair = Pair::start().await;
    assert_eq!(pair.asks(WEB, "15001").await.unwrap().status, 200);

    for place in ["15001", "far.sock", "15003", "raw.sock"] {
        assert!(pair.asks(NOBODY, place).await.is_none(), "{place}");
    }

    let log = pair.near.log_with("local caller refused").await;
    assert!(log.contains(&format!("uid {NOBODY}: the caller is no workload; nearest is")), "{log}");
    assert!(log.contains(&format!("uid is {NOBODY}, not 6000")), "{log}");
    assert_eq!(pair.near.metric("postern_outbound_total{code=\"not-attested\"}").await, Some(4.0));
    assert!(!pair.far.log().contains("near.test/agent"), "nobody goes out as the agent");
}

#[tokio::test]
async fn a_remote_that_is_somebody_else_is_refused() {
    if !is_root() {
        return;
    }
    let pair = Pair::start().await;
    assert_eq!(pair.asks(WEB, "15001").await.unwrap().status, 200);

    for place in ["15002", "imposter.sock"] {
        let answer = pair.asks(WEB, place).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream-unavailable"), "{place}");
    }

    let log = pair.near.log_with("upstream cannot be reached").await;
    assert!(log.contains("spiffe://far.test/agent"), "the log names who answered instead: {log}");
    assert_eq!(pair.far.metric("postern_requests_total{code=\"allowed\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_raw_connection_ends_when_the_remotes_certificate_is_revoked() {
    if !is_root() {
        return;
    }
    let pair = Pair::start().await;
    let connection = pair.hears(WEB, "15003", "world");
    let revoking = async {
        eventually("the connection is there", async || {
            (pair.near.metric("postern_connections").await == Some(1.0)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut revoke = support::world::postern(pair.near.path());
        assert!(
            revoke.args(["cert", "revoke", "spiffe://far.test/agent"]).output().unwrap().status.success()
        );
        Instant::now()
    };

    let (heard, begun) = tokio::join!(connection, revoking);

    assert_eq!(heard, "hello world");
    assert!(begun.elapsed() < Duration::from_secs(1), "cut after {:?}", begun.elapsed());
    assert_eq!(pair.near.metric("postern_connections_cut_total{code=\"revoked\"}").await, Some(1.0));
}

#[tokio::test]
async fn raw_connections_reach_whom_they_may_and_end_with_their_certificate() {
    if !is_root() {
        return;
    }
    let pair = Pair::start().await;
    let begun = Instant::now();

    // The connection is never closed by either end, so that only the certificate's end ends it.
    for place in ["15003", "raw.sock"] {
        assert_eq!(pair.hears(BRIEF, place, "world").await, "hello world", "{place}");
    }
    assert_eq!(pair.hears(BATCH, "15003", "world").await, "", "no grant");

    assert!(begun.elapsed() < Duration::from_secs(8), "three seconds each at most: {:?}", begun.elapsed());
    pair.far.log_with("not-entitled").await;
    // Both agents end it at the same instant; whoever comes second only sees the other's end.
    eventually("one of the agents says why it ended", async || {
        let logs = [pair.near.log(), pair.far.log()];
        logs.iter().any(|log| log.contains("certificate-expired")).then_some(())
    })
    .await;
}

/// Two agents of which the near one lets whoever runs this test out, by HTTP to `/long` and by a raw connection.
struct Neighbours {
    near: World,
    far: World,
    _services: [Service; 2],
}

impl Neighbours {
    async fn start() -> Self {
        Self::with("", None).await
    }

    /// The far agent is told `keys` besides, and reached by way of `by`, if it is given.
    async fn with(keys: &str, by: Option<&Gate>) -> Self {
        let long = |_: &support::Seen| {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec();
            vec![
                Act::ReadBody,
                Act::Send(head),
                Act::Pause(Duration::from_secs(30)),
                Act::Send(b"late\n".to_vec()),
            ]
        };
        let services = [Service::answering(long).await, Service::echoing("hello ").await];
        let mut far = Scene::of("far.test");
        far.config("[[trust]]\ndomain = \"near.test\"\nbundle = \"other.pem\"\n")
            .config(keys)
            .listener("inbound", "")
            .config("[[listener]]\nid = \"raw\"\naddress = \"{ip}:8444\"\nprotocol = \"tcp\"\nservice = \"echo\"\n")
            .service("long", &services[0].address.to_string(), "")
            .service("echo", &services[1].address.to_string(), "hosts = [\"echo.test\"]")
            .registry(
                "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"all\"\n[[product.operation]]\nservice = \"long\"\n\
                 methods = [\"*\"]\npath = \"/**\"\n[[product.operation]]\nservice = \"echo\"\n",
            )
            .app("web", "[[app.certificate]]\nuri = \"spiffe://near.test/web\"\n[[app.grant]]\nproduct = \"all\"\n");
        let mut near = Scene::of("near.test");
        let uid = rustix::process::geteuid().as_raw();
        near.config("[[trust]]\ndomain = \"far.test\"\nbundle = \"other.pem\"\n")
            .config(&format!("[[workload]]\nid = \"web\"\nmatch = {{ uid = {uid} }}\n"));
        for (id, port, protocol, listen) in
            [("long", 8443, "http", 15001), ("raw", 8444, "tcp", 15002), ("shared", 8443, "h2", 15003)]
        {
            let address = by.map_or_else(|| format!("{}:{port}", far.ip), |gate| gate.address.to_string());
            near.config(&format!(
                "[[remote]]\nid = \"{id}\"\naddress = \"{address}\"\nprotocol = \"{protocol}\"\nlisten = \"{{ip}}:{listen}\"\n\
                 spiffe_ids = [\"spiffe://far.test/agent\"]\n"
            ));
        }
        write(&near.path().join("other.pem"), &far.init_ca());
        write(&far.path().join("other.pem"), &near.init_ca());
        Self { far: far.start().await, near: near.start().await, _services: services }
    }

    /// Connections that are in the middle of something: an answer that has begun, and a raw one.
    async fn under_way(&self) -> [Talk<TcpStream>; 2] {
        let mut answer = Talk::new(TcpStream::connect((self.near.ip, 15001)).await.unwrap());
        answer.send("GET /long HTTP/1.1\r\nhost: far.test\r\n\r\n").await;
        let mut begun = [0; 15];
        soon("the head of an answer", answer.io.read_exact(&mut begun)).await.unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200 OK");
        let mut raw = Talk::new(TcpStream::connect((self.near.ip, 15002)).await.unwrap());
        let mut greeting = [0; 6];
        soon("a greeting", raw.io.read_exact(&mut greeting)).await.unwrap();
        [answer, raw]
    }
}

#[tokio::test]
async fn a_connection_out_ends_when_either_certificate_under_it_is_revoked_here() {
    for revoked in ["spiffe://far.test/agent", "spiffe://near.test/web"] {
        let pair = Neighbours::start().await;
        let talks = pair.under_way().await;
        let mut revoke = support::world::postern(pair.near.path());
        assert!(revoke.args(["cert", "revoke", revoked]).output().unwrap().status.success());
        let begun = Instant::now();

        for mut talk in talks {
            talk.rest().await;
        }

        assert!(begun.elapsed() < Duration::from_secs(1), "{revoked}: cut after {:?}", begun.elapsed());
        assert_eq!(pair.near.metric("postern_connections_cut_total{code=\"revoked\"}").await, Some(2.0));
        drop(pair.far);
    }
}

/// Answers that have begun over a shared connection: to a caller of HTTP/1.1, and to one of HTTP/2.
async fn sharing(pair: &Neighbours) -> (Talk<TcpStream>, h2::RecvStream) {
    let place = (pair.near.ip, 15003);
    let mut talk = Talk::new(TcpStream::connect(place).await.unwrap());
    talk.send("GET /long HTTP/1.1\r\nhost: far.test\r\n\r\n").await;
    let mut begun = [0; 15];
    soon("the head of an answer", talk.io.read_exact(&mut begun)).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    let stream = TcpStream::connect(place).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = http::Request::get("http://far.test/long").body(()).unwrap();
    let (answer, _) = sender.send_request(ask, true).unwrap();
    let answer = soon("the head of an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    (talk, answer.into_body())
}

#[tokio::test]
async fn a_shared_connection_out_ends_when_either_certificate_under_it_is_revoked_here() {
    for revoked in ["spiffe://far.test/agent", "spiffe://near.test/web"] {
        let pair = Neighbours::start().await;
        let (mut talk, mut body) = sharing(&pair).await;
        let mut revoke = support::world::postern(pair.near.path());
        assert!(revoke.args(["cert", "revoke", revoked]).output().unwrap().status.success());
        let begun = Instant::now();

        talk.rest().await;
        assert!(soon("a reset", body.data()).await.unwrap().is_err(), "the answer must not look whole");

        assert!(begun.elapsed() < Duration::from_secs(1), "{revoked}: cut after {:?}", begun.elapsed());
        let cut = pair.near.metric("postern_connections_cut_total{code=\"revoked\"}").await;
        assert!(cut >= Some(1.0), "{cut:?}");
        drop(pair.far);
    }
}

#[tokio::test]
async fn a_shared_answer_from_outside_ends_with_the_remotes_certificate() {
    let pair = Neighbours::with("[leaf]\nttl = \"4s\"\n", None).await;
    let begun = Instant::now();
    let (mut talk, mut body) = sharing(&pair).await;

    talk.rest().await;
    assert!(soon("a reset", body.data()).await.unwrap().is_err(), "the answer must not look whole");

    assert!(begun.elapsed() < Duration::from_secs(7), "cut after {:?}", begun.elapsed());
    let cut = pair.near.metric("postern_connections_cut_total{code=\"certificate-expired\"}").await;
    assert!(cut >= Some(1.0), "{cut:?}");
}

#[tokio::test]
async fn an_answer_from_outside_ends_with_the_remotes_certificate() {
    let pair = Neighbours::with("[leaf]\nttl = \"4s\"\n", None).await;
    let mut talk = Talk::new(TcpStream::connect((pair.near.ip, 15001)).await.unwrap());
    let begun = Instant::now();
    talk.send("GET /long HTTP/1.1\r\nhost: far.test\r\n\r\n").await;

    let heard = talk.rest().await;

    assert!(String::from_utf8(heard).unwrap().starts_with("HTTP/1.1 200 OK"));
    assert!(begun.elapsed() < Duration::from_secs(7), "cut after {:?}", begun.elapsed());
    let cut = pair.near.metric("postern_connections_cut_total{code=\"certificate-expired\"}").await;
    assert_eq!(cut, Some(1.0));
}

#[tokio::test]
async fn a_workload_whose_identity_is_revoked_here_does_not_get_out_any_more() {
    let pair = Neighbours::start().await;
    drop(pair.under_way().await);
    let mut revoke = support::world::postern(pair.near.path());
    assert!(revoke.args(["cert", "revoke", "spiffe://near.test/web"]).output().unwrap().status.success());
    pair.near.log_with("a certificate of this host is revoked").await;

    let mut talk = Talk::new(TcpStream::connect((pair.near.ip, 15001)).await.unwrap());
    let answer = talk.get("/long", "").await;
    let mut raw = Talk::new(TcpStream::connect((pair.near.ip, 15002)).await.unwrap());

    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(raw.rest().await, b"");
    let refused = pair.near.metric("postern_outbound_total{code=\"no-identity\"}").await;
    assert_eq!(refused, Some(2.0));
}

/// A way to one address that is closed at first.
struct Gate {
    address: std::net::SocketAddr,
    /// Connections that have come to it.
    waiting: Arc<AtomicUsize>,
    open: watch::Sender<Option<std::net::SocketAddr>>,
}

impl Gate {
    async fn closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(None);
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    let to = opened.wait_for(Option::is_some).await.map(|to| *to).ok().flatten();
                    let mut far = TcpStream::connect(to.unwrap()).await.unwrap();
                    // Whoever hangs up has had enough.
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                });
            }
        });
        Self { address, waiting, open }
    }
}

#[tokio::test]
async fn a_remote_that_is_revoked_while_it_is_dialled_gets_no_request() {
    let gate = Gate::closed().await;
    let pair = Neighbours::with("", Some(&gate)).await;
    let mut talk = Talk::new(TcpStream::connect((pair.near.ip, 15001)).await.unwrap());
    talk.send("GET /long HTTP/1.1\r\nhost: far.test\r\n\r\n").await;
    eventually("the remote is dialled", async || (gate.waiting.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    let mut revoke = support::world::postern(pair.near.path());
    assert!(revoke.args(["cert", "revoke", "spiffe://far.test/agent"]).output().unwrap().status.success());
    pair.near.log_with("\"revoked\":1").await;

    gate.open.send_replace(Some((pair.far.ip, 8443).into()));
    let answer = talk.answer().await;

    assert_eq!(answer.status, 502, "{}", answer.text());
}
