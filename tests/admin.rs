//! Operators ask over a Unix socket, orchestrators over plain HTTP, and both get an answer whatever they send.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use postern::admin::{
    AuthorityRequest, AuthorityStatus, Client, ClientError, ConfigStatus, Deed, Doorman, Entitled,
    Explanation, InstalledStatus, IssuedCertificate, Operation, Order, Origin, Question, Readiness,
    RegistryStatus, Reloaded, RenewalStatus, Roles, SecretText, SignedAuthorityStatus, Status, Steward,
    StewardError, TokenKeyStatus, UsageWanted, WithdrawOrder, Withdrawn, WorkloadStatus, bind, serve,
    serve_health,
};
use postern::clock::{SystemClock, Timestamp};
use postern::id::{AuthorityId, WorkloadId};
use postern::issuance::{
    AuthorityRevocation, Change, Changed, Insistence, InstallOrder, Reach, Run, SignOrder, Verb, Wanted,
};
use postern::oauth::{Fault, Form, Minted};
use postern::pki::{Level, SignedChain};
use postern::secret::Secret;
use postern::telemetry::{AuditLog, AuditSettings, ROTATE_AT, UsageRow};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// An agent that writes down what it is asked.
#[derive(Default)]
struct Scribe {
    asked: Mutex<Vec<String>>,
    reasons: Mutex<Vec<String>>,
}

impl Scribe {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn renewal() -> RenewalStatus {
    let at = Timestamp::FLOOR;
    RenewalStatus { next_rotation_at: at, last_success: at, last_failure: None, overdue: false }
}

fn authority(slot: &str) -> AuthorityStatus {
    AuthorityStatus {
        level: "issuing".into(),
        slot: slot.into(),
        id: format!("{slot}-one").parse().unwrap(),
        algorithm: "p256".into(),
        created_at: Timestamp::FLOOR,
        not_before: Timestamp::FLOOR,
        not_after: Timestamp::FLOOR,
        drained_at: None,
        revoked: false,
    }
}

impl Steward for Scribe {
    fn status(&self) -> Status {
        let at = Timestamp::FLOOR;
        Status {
            keys: postern::admin::KeysStatus::default(),
            version: "0.0.0".into(),
            pid: 7,
            started_at: at,
            trust_domain: "postern.test".into(),
            ready: self.readiness(),
            degraded: Vec::new(),
            config: ConfigStatus { path: PathBuf::from("postern.toml"), loaded_at: at, last_error: None },
            registry: RegistryStatus {
                version: "0123456789ab".into(),
                apps: 1,
                developers: 1,
                products: 1,
                credentials: 1,
                loaded_at: at,
                current: true,
                last_error: None,
            },
            bundle_sequence: 1,
            authorities: vec![authority("active")],
            rotation: renewal(),
            roll_over: None,
            limits: Default::default(),
            detections: Vec::new(),
            workloads: vec![WorkloadStatus {
                id: "billing".parse().unwrap(),
                spiffe_id: "spiffe://postern.test/billing".into(),
                serial: "0a".into(),
                authority: "active-one".parse().unwrap(),
                not_after: at,
                renewal: renewal(),
                delivery: None,
            }],
            listeners: Vec::new(),
            services: Vec::new(),
            remotes: Vec::new(),
        }
    }

    fn credential_uses(&self) -> std::collections::BTreeMap<postern::id::CredentialId, Timestamp> {
        self.note("uses");
        std::collections::BTreeMap::new()
    }

    fn readiness(&self) -> Readiness {
        Readiness::unless(self.reasons.lock().unwrap().clone())
    }

    fn metrics(&self) -> String {
        "postern_requests_total 1\n# EOF\n".into()
    }

    fn bundle_pem(&self) -> String {
        "-----BEGIN CERTIFICATE-----\n".into()
    }

    fn assertion_keys(&self) -> String {
        "{}".to_owned()
    }

    fn crl_pem(&self) -> String {
        "-----BEGIN X509 CRL-----\n".into()
    }

    fn explain(&self, question: Question) -> Result<Explanation, StewardError> {
        let key = question.api_key.map(|key| key.secret().expose_secret().to_vec()).unwrap_or_default();
        self.note(format!("explain {}", String::from_utf8(key).unwrap()));
        Err(StewardError::Unknown("there is no listener x".into()))
    }

    fn who_can(&self, deed: &Deed) -> Result<Entitled, StewardError> {
        Err(StewardError::Unknown(format!("there is no service {}", deed.service)))
    }

    fn usage(&self, _: &UsageWanted) -> Vec<UsageRow> {
        Vec::new()
    }

    async fn recall(&self, request_id: String) -> Result<Explanation, StewardError> {
        Err(StewardError::Unknown(format!("no request {request_id}")))
    }

    async fn reload(&self) -> Result<Reloaded, StewardError> {
        self.note("reload");
        Ok(Reloaded { changes: vec!["the registry is new".into()] })
    }

    async fn change_authority(&self, change: Change) -> Result<Changed, StewardError> {
        self.note(format!("{change:?}"));
        if change.verb == Verb::Activate(None) {
            return Err(StewardError::Behind("it waits for the files of web".into()));
        }
        Ok(Changed { id: "next".parse().unwrap(), left_behind: vec!["web".into()] })
    }

    async fn revoke_authority(&self, order: AuthorityRevocation) -> Result<Changed, StewardError> {
        self.note(format!("{order:?}"));
        if order.insistence == Insistence::Heed {
            return Err(StewardError::Behind("it waits for the files of web".into()));
        }
        Ok(Changed { id: order.id, left_behind: vec!["web".into()] })
    }

    async fn renew(&self, workload: WorkloadId) -> Result<(), StewardError> {
        self.note(format!("renew {workload}"));
        if workload.to_string() == "slow" {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn request(&self, wanted: Wanted, run: Run) -> Result<AuthorityRequest, StewardError> {
        self.note(format!("request {wanted:?} {run:?}"));
        Ok(AuthorityRequest { request_pem: None, is_new: true })
    }

    async fn sign(&self, order: SignOrder) -> Result<SignedAuthorityStatus, StewardError> {
        self.note(format!("sign {:?} {:?} {:?}", order.request, order.ttl, order.run));
        Err(StewardError::Invalid("the request is not signed".into()))
    }

    async fn install(&self, order: InstallOrder) -> Result<InstalledStatus, StewardError> {
        self.note(format!("install {:?} {:?} {:?}", order.chain, order.reach, order.run));
        Ok(InstalledStatus {
            id: "next".parse().unwrap(),
            level: "issuing".into(),
            slot: "prepared".into(),
            waits_for: vec!["web".into()],
        })
    }

    fn token_keys(&self) -> Result<Vec<TokenKeyStatus>, StewardError> {
        Ok(vec![TokenKeyStatus {
            id: "kid".into(),
            algorithm: "ES256".into(),
            slot: "active".into(),
            created: Some(Timestamp::FLOOR),
            until: None,
        }])
    }

    async fn kill_token_key(&self, key: String) -> Result<(), StewardError> {
        self.note(format!("kill {key}"));
        Ok(())
    }

    async fn withdraw_tokens(&self, order: WithdrawOrder) -> Result<Withdrawn, StewardError> {
        self.note(format!("{order:?}"));
        Ok(Withdrawn { what: "It is taken back.".into() })
    }

    fn mint(&self, _: &std::os::unix::net::UnixStream, form: &Form) -> Result<Minted, Fault> {
        self.note(format!("mint {form:?}"));
        Err(Fault::UNAVAILABLE)
    }

    async fn issue(&self, order: Order) -> Result<IssuedCertificate, StewardError> {
        self.note(format!("{order:?}"));
        Err(StewardError::Invalid("not of this trust domain".into()))
    }
}

/// A served agent; dropped with its runtime.
struct World {
    directory: TempDir,
    scribe: Arc<Scribe>,
    client: Client,
}

impl World {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let scribe = Arc::new(Scribe::default());
        let listener = bind(&socket).unwrap();
        let folder = directory.path().join("audit");
        let audit = Arc::new(AuditLog::new(AuditSettings { folder, rotate_at: ROTATE_AT, key: None }));
        let doorman = Doorman { roles: Roles::default(), audit, clock: Arc::new(SystemClock) };
        tokio::spawn(serve(listener, Arc::clone(&scribe), doorman, std::future::pending()));
        Self { client: Client::new(&socket), directory, scribe }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        // The agent may hang up on a request that is too long before it has read all of it.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        while stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {}
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn whoever_hangs_up_is_written_down_all_the_same() {
    let world = World::start();
    world.client.renew(&"billing".parse().unwrap()).await.unwrap();
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let request = "POST /v1/workloads/slow/renew HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    while !world.scribe.asked().contains(&"renew slow".to_owned()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    drop(stream);

    let folder = world.directory.path().join("audit");
    let log = AuditLog::new(AuditSettings { folder, rotate_at: ROTATE_AT, key: None });
    let targets = || {
        let records = log.records(|_| true).unwrap();
        records.into_iter().map(|record| record.event.target).collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if targets().len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(targets(), ["workload:billing", "workload:slow"]);
}

async fn health(scribe: &Arc<Scribe>, request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_health(listener, Arc::clone(scribe), std::future::pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_replaces_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");

    let listener = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    assert!(bind(&path).unwrap_err().to_string().starts_with("another agent listens on "));
    drop(listener);
    drop(bind(&path).unwrap());

    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::File::create(&path).unwrap();

    assert!(bind(&path).unwrap_err().to_string().contains("is no socket"));
    assert!(path.exists());
}

#[tokio::test]
async fn what_the_agent_says_arrives() {
    let world = World::start();

    assert_eq!(world.client.status().await.unwrap(), world.scribe.status());
    assert_eq!(world.client.reload().await.unwrap().changes, ["the registry is new"]);
    assert_eq!(world.client.renew(&"billing".parse().unwrap()).await.unwrap().serial, "0a");
    assert!(world.client.bundle_pem().await.unwrap().starts_with("-----BEGIN"));
    assert_eq!(world.scribe.asked(), ["reload", "renew billing"]);
}

#[tokio::test]
async fn a_change_of_an_authority_arrives_as_it_was_meant() {
    let world = World::start();
    let id: AuthorityId = "0123456789abcdef".parse().unwrap();

    for level in [Level::Issuing, Level::Root] {
        for verb in [
            Verb::Prepare,
            Verb::Rotate,
            Verb::Activate(Some(id.clone())),
            Verb::Discard(None),
            Verb::RollBack(None),
            Verb::Retire(id.clone()),
        ] {
            let change =
                Change { insistence: Insistence::Force, run: Run::Rehearsal, ..Change::new(level, verb) };
            let moved = world.client.change_authority(&change).await.unwrap();
            assert_eq!(
                (moved.id.as_str(), moved.left_behind.as_slice()),
                ("next", ["web".to_owned()].as_slice())
            );
            assert_eq!(world.scribe.asked().last().unwrap(), &format!("{change:?}"));
        }
    }
    let error = world.client.change_authority(&Change::new(Level::Root, Verb::Activate(None))).await;
    let Err(ClientError::Unwilling { code, detail }) = error else { panic!("{error:?}") };
    assert_eq!((code.as_str(), detail.as_str()), ("left-behind", "it waits for the files of web"));
}

#[tokio::test]
async fn what_concerns_a_root_elsewhere_arrives_as_it_was_meant() {
    let world = World::start();
    let chain = SignedChain { certificates: vec![vec![1, 2].into()], roots: vec![vec![3].into()] };
    let ttl = Some(std::time::Duration::from_secs(60));

    let request = world.client.request(Wanted::Anew, Run::Rehearsal).await.unwrap();
    assert_eq!(request, AuthorityRequest { request_pem: None, is_new: true });
    let order = SignOrder { request: vec![7, 8], ttl, run: Run::Real };
    let error = world.client.sign(&order).await.unwrap_err();
    assert!(matches!(error, ClientError::Unwilling { code, .. } if code == "invalid"));
    let order = InstallOrder { chain: chain.clone(), reach: Reach::Prepared, run: Run::Rehearsal };
    let installed = world.client.install(&order).await.unwrap();
    assert_eq!(installed.waits_for, ["web"]);

    let expected = [
        "request Anew Rehearsal".to_owned(),
        "sign [7, 8] Some(60s) Real".to_owned(),
        format!("install {chain:?} Prepared Rehearsal"),
    ];
    assert_eq!(world.scribe.asked(), expected);
}

#[tokio::test]
async fn a_revocation_of_an_authority_arrives_as_it_was_meant() {
    let world = World::start();
    let order = AuthorityRevocation {
        level: Level::Root,
        id: "0123456789abcdef".parse().unwrap(),
        reason: "the key was \"copied\"".into(),
        insistence: Insistence::Force,
        run: Run::Rehearsal,
    };

    let moved = world.client.revoke_authority(&order).await.unwrap();
    assert_eq!((moved.id, moved.left_behind), (order.id.clone(), vec!["web".to_owned()]));
    assert_eq!(world.scribe.asked(), [format!("{order:?}")]);
    assert!(world.client.crl_pem().await.unwrap().starts_with("-----BEGIN X509 CRL"));
    let heeding = AuthorityRevocation { insistence: Insistence::Heed, ..order };
    let error = world.client.revoke_authority(&heeding).await;
    assert!(matches!(error, Err(ClientError::Unwilling { code, .. }) if code == "left-behind"));
}

#[tokio::test]
async fn a_no_says_why() {
    let world = World::start();
    let question = Question {
        listener: Some("x".parse().unwrap()),
        operation: Operation::Tcp { service: None },
        certificate: None,
        origin: Origin::default(),
        api_key: Some(SecretText::new(Secret::new(b"a key".to_vec()))),
        fields: Vec::new(),
    };

    let error = world.client.explain(&question).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no listener x");
    assert_eq!(world.scribe.asked(), ["explain a key"]);
    let order =
        Order::Profile { spiffe_id: "spiffe://other/x".into(), dns: Vec::new(), ttl_seconds: Some(60) };
    let error = world.client.issue(&order).await.unwrap_err();
    assert!(matches!(error, ClientError::Unwilling { code, .. } if code == "invalid"));
}

#[tokio::test]
async fn without_an_agent_the_client_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");

    assert!(matches!(Client::new(&path).status().await.unwrap_err(), ClientError::NotRunning(_)));
    drop(bind(&path).unwrap());
    assert!(matches!(Client::new(&path).status().await.unwrap_err(), ClientError::NotRunning(_)));
}

#[tokio::test]
async fn nonsense_is_answered_and_changes_nothing() {
    let world = World::start();
    let oversized = "x".repeat(70_000);
    let requests = [
        ("GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "404"),
        ("GET /v1/reload HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405"),
        ("DELETE /v1/status HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405"),
        ("POST /v1/explain HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}".to_owned(), "422"),
        (format!("POST /v1/explain HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n{oversized}"), "400"),
        ("\x16\x03\x01 hello\r\n\r\n".to_owned(), "400"),
        (format!("GET /{oversized} HTTP/1.1\r\nhost: x\r\n\r\n"), "431"),
    ];

    for (request, status) in requests {
        let answer = world.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{:.40}: {answer}", request);
    }
    assert_eq!(world.scribe.asked(), [""; 0]);
}

#[tokio::test]
async fn health_is_told_in_plain_http() {
    let scribe = Arc::new(Scribe::default());

    assert!(health(&scribe, "GET /live").await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(health(&scribe, "GET /ready").await.ends_with("\r\n\r\nready\n"));
    let metrics = health(&scribe, "GET /metrics").await;
    assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(metrics.ends_with("# EOF\n"));
    let lists = health(&scribe, "GET /crl").await;
    assert!(lists.contains("content-type: application/x-pem-file\r\n"), "{lists}");
    assert!(lists.ends_with("-----BEGIN X509 CRL-----\n"), "{lists}");
    assert!(health(&scribe, "HEAD /live").await.ends_with("\r\n\r\n"));
    assert!(health(&scribe, "POST /live").await.starts_with("HTTP/1.1 405 "));
    assert!(health(&scribe, "GET /").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn an_agent_that_is_not_ready_says_why() {
    let scribe = Arc::new(Scribe::default());
    scribe.reasons.lock().unwrap().push("the identity of billing is overdue".into());

    let answer = health(&scribe, "GET /ready").await;

    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnot ready\nthe identity of billing is overdue\n"), "{answer}");
}
