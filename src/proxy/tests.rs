//! What a caller and a service see of each other when one of them misbehaves, in memory and on paused time.

use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use super::admission::Visitor;
use super::context::{Attestor, NotAttested, PlaneContext, Signal};
use super::http1::{self, Peer};
use super::http2;
use super::settings::{
    Endpoint, ErrorFormat, Limits, ListenerProtocol, ListenerSettings, OldestTls, ServiceProtocol,
    ServiceSettings,
};
use super::snapshot::{Listener, Routes, Snapshot};
use super::tcp;
use super::tls::verdict;
use super::worker::Worker;
use crate::clock::{ManualClock, Timestamp};
use crate::credential::{NonceMemory, Peppers, SignatureRules, SignatureTerms};
use crate::id::WorkloadId;
use crate::issuance::TokenDesk;
use crate::pki::{
    AuthorityPlan, BundleSet, DEFAULT_BACKDATE, Hierarchy, KeyAlgorithm, Life, LocalKeys, Profile,
    TrustBundle, Usage, Verified, Verifier, issue,
};
use crate::registry::{Source, parse};
use crate::telemetry::{AccessSink, LogFormat, LogWriter, Metrics};

const REGISTRY: &str = r#"
[[developer]]
id = "team"

[[app]]
id = "caller"
developer = "team"
  [[app.certificate]]
  uri = "spiffe://postern.test/caller"
  [[app.grant]]
  product = "all"

[[product]]
id = "all"
  [[product.operation]]
  service = "*"
  methods = ["*"]
  path = "/**"
  [[product.operation]]
  service = "*"
"#;

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Nobody;

impl Attestor for Nobody {
    fn attest_unix(&self, _: &std::os::unix::net::UnixStream) -> Result<WorkloadId, NotAttested> {
        Err(NotAttested(String::new()))
    }

    fn attest_loopback(&self, _: SocketAddr, _: SocketAddr) -> Result<WorkloadId, NotAttested> {
        Err(NotAttested(String::new()))
    }
}

/// One worker, one guarded service on a Unix socket, one app that may do everything.
struct World {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    service: UnixListener,
    log: Shared,
    writer: LogWriter,
    verified: Arc<Verified>,
    _signal: watch::Sender<Signal>,
    _directory: tempfile::TempDir,
}

/// Somebody's certificate, and who believes it.
fn caller() -> (Arc<Verifier>, Arc<Verified>) {
    const DAY: Duration = Duration::from_secs(86_400);

    let algorithm = KeyAlgorithm::EcdsaP256;
    let plan =
        |days| AuthorityPlan { keys: &LocalKeys, algorithm, ttl: DAY * days, backdate: DEFAULT_BACKDATE };
    let now = Timestamp::FLOOR;
    let hierarchy = Hierarchy::create("postern.test".parse().unwrap(), &plan(90), &plan(30), now).unwrap();
    let spiffe_id = "spiffe://postern.test/caller".parse().unwrap();
    let profile = Profile { spiffe_id, dns: Vec::new(), ttl: DAY, backdate: DEFAULT_BACKDATE, algorithm };
    let svid = issue(&hierarchy.issuing().active, &profile, now).unwrap();
    let bundles = BundleSet::from_iter([hierarchy.bundle()]);
    let verifier = Verifier::new(Arc::new(bundles), Arc::default()).unwrap();
    let verified = verifier.verify(&svid.chain, Usage::Client, now).unwrap();
    (Arc::new(verifier), Arc::new(verified))
}

/// What leads to another root now was proven over one that has gone.
#[test]
fn a_remembered_chain_is_proven_anew_when_it_no_longer_holds_the_old_way() {
    const DAY: Duration = Duration::from_secs(86_400);

    let algorithm = KeyAlgorithm::EcdsaP256;
    let plan =
        |days| AuthorityPlan { keys: &LocalKeys, algorithm, ttl: DAY * days, backdate: DEFAULT_BACKDATE };
    let now = Timestamp::FLOOR;
    let hierarchy = Hierarchy::create("postern.test".parse().unwrap(), &plan(90), &plan(30), now).unwrap();
    let spiffe_id = "spiffe://postern.test/caller".parse().unwrap();
    let profile = Profile { spiffe_id, dns: Vec::new(), ttl: DAY, backdate: DEFAULT_BACKDATE, algorithm };
    let issuing = &hierarchy.issuing().active;
    let chain = issue(issuing, &profile, now).unwrap().chain;
    let believing = |roots| {
        let bundle = TrustBundle { roots, ..hierarchy.bundle() };
        Verifier::new(Arc::new(BundleSet::from_iter([bundle])), Arc::default()).unwrap()
    };
    let narrow = believing(vec![issuing.certificate().clone()]);
    let wide = believing(hierarchy.bundle().roots);

    let before = verdict(&narrow, &chain, Usage::Client, now).unwrap();
    assert!(wide.confirm(&before, now).is_err(), "it rests on what is no root any more");
    let after = verdict(&wide, &chain, Usage::Client, now).unwrap();

    assert!(wide.confirm(&after, now).is_ok());
    assert!(verdict(&believing(Vec::new()), &chain, Usage::Client, now).is_err());
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("service");
        let listener = Arc::new(listener());
        let service = ServiceSettings {
            id: "service".parse().unwrap(),
            hosts: Vec::new(),
            base_path: "/".into(),
            endpoint: Endpoint::Unix(socket.clone()),
            protocol: ServiceProtocol::default(),
            accepts: None,
            concurrency: None,
            error_format: ErrorFormat::default(),
            upgrades: Arc::default(),
            send_proxy: Default::default(),
            trailers: Arc::default(),
            watch: super::settings::Watch::Off,
            client_cert: Default::default(),
            assertion: None,
        };
        let (verifier, verified) = caller();
        let source = Source { path: PathBuf::from("a.toml"), text: REGISTRY.into() };
        let snapshot = Snapshot {
            tokens: Arc::default(),
            registry: Arc::new(parse(&[source]).unwrap()),
            peppers: Arc::new(Peppers::default()),
            environment: None,
            verifier,
            routes: Arc::new(Routes::new([service])),
            listeners: std::iter::once((listener.settings.id.clone(), Arc::clone(&listener))).collect(),
            remotes: Default::default(),
            limits: Arc::new(Limits::default()),
            api_key_header: "x-api-key".into(),
            signatures: Arc::new(SignatureTerms::new(
                SignatureRules::default(),
                Arc::new(NonceMemory::new(1000, Timestamp::FLOOR)),
            )),
            retired: Arc::default(),
            ledger: Default::default(),
            throttle: Default::default(),
            inflight: Default::default(),
            office: None,
            assertion_keys: Default::default(),
        };
        let log = Shared::default();
        let (access, writer) = AccessSink::start(LogFormat::Text, Counter::default(), log.clone()).unwrap();
        let (lookout, _) = crate::proxy::Lookout::new();
        let context = PlaneContext {
            remember: 10,
            pressure: crate::proxy::Gauge::default(),
            usage: Arc::default(),
            records: AccessSink::none(),
            signs: crate::proxy::Signs::new(Default::default()).0,
            lookout,
            uses: crate::proxy::UseReports::new().0,
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
            clock: Arc::new(ManualClock::at(Timestamp::FLOOR)),
            attestor: Arc::new(Nobody),
            metrics: Arc::new(Metrics::new("0")),
            skews: Arc::default(),
            access,
            spans: crate::telemetry::SpanSink::none(),
            tokens: TokenDesk::new(std::sync::mpsc::sync_channel(1).0),
        };
        let (signal, heard) = watch::channel(Signal::default());
        Self {
            worker: Worker::new(&context, heard),
            listener,
            service: UnixListener::bind(socket).unwrap(),
            log,
            writer,
            verified,
            _signal: signal,
            _directory: directory,
        }
    }

    fn visitor(&self) -> Box<Visitor> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Box::new(Visitor::new(Arc::clone(&self.listener), peer, None, Some(Arc::clone(&self.verified))))
    }

    /// A caller's end of an HTTP/1 connection that rests on a certificate for `life`.
    fn http1(&self, life: Duration) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serving = http1::serve(
            Rc::clone(&self.worker),
            Peer::Visitor(self.visitor()),
            far,
            Some(Timestamp::FLOOR + life),
        );
        tokio::task::spawn_local(serving);
        near
    }

    /// A caller's end of an HTTP/1 connection, and whether the other end said goodbye.
    fn watched(&self) -> (DuplexStream, Rc<Cell<bool>>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let shut_down = Rc::new(Cell::new(false));
        let far = Watched { inner: far, shut_down: Rc::clone(&shut_down) };
        let visitor = Peer::Visitor(self.visitor());
        tokio::task::spawn_local(http1::serve(Rc::clone(&self.worker), visitor, far, None));
        (near, shut_down)
    }

    /// A caller's end of an HTTP/2 connection.
    async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::task::spawn_local(http2::serve(
            Rc::clone(&self.worker),
            Peer::Visitor(self.visitor()),
            far,
            None,
        ));
        let (caller, connection) = h2::client::handshake(near).await.unwrap();
        tokio::task::spawn_local(connection);
        caller
    }

    /// The service's end of the next connection, with a request head read from it.
    async fn asked(&self) -> UnixStream {
        let (mut stream, _) = self.service.accept().await.unwrap();
        read_head(&mut stream).await;
        stream
    }

    /// All that the access log says in the end.
    fn logged(self) -> String {
        let Self { worker, log, writer, .. } = self;
        drop(worker);
        drop(writer);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }
}

/// A stream that remembers whether it was shut down in good order, as TLS does by `close_notify`.
struct Watched {
    inner: DuplexStream,
    shut_down: Rc<Cell<bool>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.shut_down.set(true);
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

pub(super) fn listener() -> Listener {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    Listener {
        settings: ListenerSettings {
            id: "inbound".parse().unwrap(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            protocol: ListenerProtocol::Http,
            accepts: None,
            workload: "agent".parse().unwrap(),
            oldest_tls: OldestTls::V13,
            proxy_protocol: None,
        },
        own_id: "spiffe://postern.test/agent".parse().unwrap(),
        life: Life {
            not_before: Timestamp::FLOOR,
            issued_at: Timestamp::FLOOR,
            not_after: Timestamp::FLOOR + Duration::from_secs(3600),
        },
        tls: Arc::new(tls),
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    String::from_utf8(rest).unwrap()
}

const LONG: Duration = Duration::from_secs(3600);

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n";

fn request(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://h{path}")).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stalls_midway_is_cut_off_and_not_completed_by_ours() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http1(LONG);
            caller.write_all(GET).await.unwrap();
            let mut service = world.asked().await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await.unwrap();

            let answer = rest(&mut caller).await;

            assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_body_does_not_put_an_answer_into_the_one_that_has_begun() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http1(LONG);
            let head = b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
            caller.write_all(head).await.unwrap();
            let mut service = world.asked().await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await.unwrap();
            assert!(read_head(&mut caller).await.starts_with("HTTP/1.1 200"));

            caller.write_all(b"nonsense\r\n").await.unwrap();

            assert_eq!(rest(&mut caller).await, "hello");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_without_length_does_not_end_like_a_whole_one() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let (mut caller, shut_down) = world.watched();
            caller.write_all(b"GET /a HTTP/1.0\r\nhost: h\r\n\r\n").await.unwrap();
            let mut service = world.asked().await;
            service
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .await
                .unwrap();
            drop(service);

            assert!(rest(&mut caller).await.ends_with("hello"));

            assert!(!shut_down.get(), "a proper goodbye tells the caller that this was all");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_asked_after_the_certificate_has_ended_is_served() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http1(Duration::from_secs(5));
            let (begun, rest_of_it) = GET.split_at(10);
            caller.write_all(&[GET, begun].concat()).await.unwrap();
            let mut service = world.asked().await;
            sleep(Duration::from_millis(5100)).await;

            caller.write_all(rest_of_it).await.unwrap();
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst").await.unwrap();

            let mut again = [0; 16];
            let second = timeout(Duration::from_millis(500), service.read(&mut again)).await;
            assert!(!matches!(second, Ok(Ok(1..))), "a second request went up");
            assert!(rest(&mut caller).await.ends_with("first"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_answer_over_http2_is_reset_and_its_request_not_repeated() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http2().await;
            let (first, _) = caller.send_request(request("/a"), true).unwrap();
            let mut service = world.asked().await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            first.await.unwrap();

            let (second, _) = caller.send_request(request("/a"), true).unwrap();
            read_head(&mut service).await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await.unwrap();
            let mut body = second.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");

            assert!(body.data().await.unwrap().unwrap_err().is_reset());
            let repeated = timeout(Duration::from_secs(1), world.service.accept()).await;
            assert!(repeated.is_err(), "the request was sent again");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_silent_for_too_long_is_a_504_over_http2_as_over_http1() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http2().await;
            let (answer, _) = caller.send_request(request("/a"), true).unwrap();
            let _service = world.asked().await;

            assert_eq!(answer.await.unwrap().status(), 504);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_caller_resets_costs_the_service_nothing_more() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http2().await;
            for begun in [false, true] {
                let (answer, mut stream) = caller.send_request(request("/a"), true).unwrap();
                let mut service = world.asked().await;
                let mut body = None;
                if begun {
                    service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await.unwrap();
                    body = Some(answer.await.unwrap());
                } else {
                    drop(answer);
                }

                stream.send_reset(h2::Reason::CANCEL);

                let hung_up = timeout(Duration::from_secs(1), service.read_u8()).await;
                assert!(matches!(hung_up, Ok(Err(_))), "begun: {begun}");
                drop(body);
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_even_if_its_caller_answers_no_ping() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let (mut near, far) = tokio::io::duplex(64 * 1024);
            let begun = Instant::now();
            let serving = tokio::task::spawn_local(http2::serve(
                Rc::clone(&world.worker),
                Peer::Visitor(world.visitor()),
                far,
                None,
            ));
            near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();

            let served = timeout(LONG, serving).await;

            assert!(served.is_ok(), "still open");
            assert!(begun.elapsed() < Duration::from_secs(130), "{:?}", begun.elapsed());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_in_a_path_is_refused_and_not_logged() {
    let world = World::new();
    for path in ["/pstn_sk_0000000000A1_secret", "/%70stn%5Fsk_0000000000A1_secret"] {
        LocalSet::new()
            .run_until(async {
                let mut caller = world.http1(LONG);
                let head = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
                caller.write_all(head.as_bytes()).await.unwrap();
                let answer = rest(&mut caller).await;
                assert!(answer.contains("key-in-url"), "{answer}");
            })
            .await;
    }

    let logged = world.logged();

    assert_eq!(logged.matches("decision=key-in-url").count(), 2, "{logged}");
    assert!(!logged.contains("secret"), "{logged}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_is_logged_all_the_same() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http1(LONG);
            caller.write_all(GET).await.unwrap();
            let mut service = world.asked().await;
            service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await.unwrap();
            rest(&mut caller).await;
        })
        .await;

    let logged = world.logged();

    assert!(logged.contains("path=/a status=0 decision=broken-off"), "{logged}");
}

#[tokio::test(start_paused = true)]
async fn a_raw_connection_that_was_cut_on_one_side_does_not_look_closed_on_the_other() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let (mut caller, far) = tokio::io::duplex(1024);
            let shut_down = Rc::new(Cell::new(false));
            let far = Watched { inner: far, shut_down: Rc::clone(&shut_down) };
            let (worker, visitor) = (Rc::clone(&world.worker), world.visitor());
            tokio::task::spawn_local(async move {
                let arrival = tcp::Arrival {
                    until: None,
                    destination: visitor.peer,
                    tls: "TLSv1.3",
                    alpn: None,
                    resumed: false,
                };
                tcp::serve(&worker, &visitor, &"service".parse().unwrap(), far, &arrival).await;
            });
            let (service, _) = world.service.accept().await.unwrap();
            caller.write_all(b"unread").await.unwrap();
            service.readable().await.unwrap();

            // Unread bytes make a reset of it.
            drop(service);

            rest(&mut caller).await;
            assert!(!shut_down.get());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_caller_that_waits_to_be_asked_for_its_body_is_asked() {
    let world = World::new();
    LocalSet::new()
        .run_until(async {
            let mut caller = world.http2().await;
            let request = http::Request::post("https://h/a").header("expect", "100-continue");
            let (mut answer, mut body) = caller.send_request(request.body(()).unwrap(), false).unwrap();
            let mut service = world.asked().await;
            service.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();

            let asked =
                timeout(Duration::from_secs(1), std::future::poll_fn(|cx| answer.poll_informational(cx)));
            assert_eq!(asked.await.unwrap().unwrap().unwrap().status(), 100);

            body.send_data(Bytes::from_static(b"hi"), true).unwrap();
            let mut sent = [0; 12];
            service.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, b"2\r\nhi\r\n0\r\n\r\n");
            service.write_all(b"HTTP/1.1 204 Done\r\n\r\n").await.unwrap();
            assert_eq!(answer.await.unwrap().status(), 204);
        })
        .await;
}
