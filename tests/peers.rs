//! What Debian's nginx and HAProxy make of sessions that should have ended, beside what Postern does.
//!
//! The same callers with the same certificates go to all three. What they met is kept in `golden/resumption-peers.txt`, so that
//! a change on their side is noticed; on ours, no cell may ever be wrong.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock};
use postern::store::pem;
use rustls::pki_types::CertificateDer;
use support::resumer::half_a_hello;
use support::world::{GRANT, postern};
use support::{
    ForeignCa, Identity, Outcome, Resumer, Scene, Service, Talk, Tls, VERSIONS, World, eventually, write,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

/// Whom everybody trusts, and who comes.
struct Cast {
    root: ForeignCa,
    /// Root before and after: another name and key, or the same name and another key.
    replaced: [ForeignCa; 2],
    rekeyed: [ForeignCa; 2],
    good: Identity,
    brief: Identity,
    revoked: Identity,
    of_replaced: Identity,
    of_rekeyed: Identity,
    stranger: Identity,
}

impl Cast {
    fn new() -> Self {
        let hour = Duration::from_secs(3600);
        let root = ForeignCa::root("the root");
        let replaced = ["the old root", "the new root"].map(ForeignCa::root);
        let rekeyed = ["one and the same"; 2].map(ForeignCa::root);
        Self {
            good: root.leaf("spiffe://other.test/caller", hour),
            brief: root.leaf("spiffe://other.test/caller", Duration::from_secs(4)),
            revoked: root.leaf("spiffe://other.test/caller", hour),
            of_replaced: replaced[0].leaf("spiffe://replaced.test/caller", hour),
            of_rekeyed: rekeyed[0].leaf("spiffe://rekeyed.test/caller", hour),
            stranger: ForeignCa::root("nobody").leaf("spiffe://other.test/caller", hour),
            root,
            replaced,
            rekeyed,
        }
    }

    /// A certificate for the servers, with its key, as they want it.
    fn server_pem(&self) -> String {
        let identity = self.root.leaf("spiffe://other.test/server", Duration::from_secs(3600));
        let key = rcgen::KeyPair::try_from(identity.key.secret_der()).unwrap();
        identity.chain_pem() + &key.serialize_pem()
    }

    fn write_before(&self, folder: &Path) {
        for (name, text) in [
            ("server.pem", self.server_pem()),
            ("root.pem", self.root.pem()),
            ("replaced.pem", self.replaced[0].pem()),
            ("rekeyed.pem", self.rekeyed[0].pem()),
            ("crl.pem", self.root.crl(&[])),
        ] {
            write(&folder.join(name), &text);
        }
    }

    /// What changes while the sessions are kept.
    fn after(&self) -> [(&'static str, String); 3] {
        [
            ("replaced.pem", self.replaced[1].pem()),
            ("rekeyed.pem", self.rekeyed[1].pem()),
            ("crl.pem", self.root.crl(&[self.revoked.subject().serial])),
        ]
    }
}

/// A door of a server, by what it asks of certificates.
#[derive(Clone, Copy, Debug)]
enum Door {
    /// None need be shown.
    Open,
    /// Any may be shown.
    Lenient,
    /// One must be shown.
    Strict,
    /// One must be shown, under a root that is about to be replaced.
    Replaced,
    /// One must be shown, under a root that is about to get a new key.
    Rekeyed,
    /// One must be shown that is not on a list.
    Listed,
    /// One must be shown, and before long.
    Hasty,
}

const DOORS: [Door; 7] =
    [Door::Open, Door::Lenient, Door::Strict, Door::Replaced, Door::Rekeyed, Door::Listed, Door::Hasty];

impl Door {
    const fn port(self) -> u16 {
        match self {
            Self::Open => 8444,
            Self::Lenient => 8445,
            Self::Strict => 8446,
            Self::Replaced => 8447,
            Self::Rekeyed => 8448,
            Self::Listed => 8449,
            Self::Hasty => 8450,
        }
    }
}

/// One of the three, running.
struct Server {
    name: &'static str,
    ip: Ipv4Addr,
    folder: TempDir,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may be gone already.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        drop(self.child.wait());
    }
}

impl Server {
    async fn start(name: &'static str, cast: &Cast, number: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, number);
        cast.write_before(folder.path());
        let file = folder.path().join("configuration");
        let text = match name {
            "nginx" => nginx_configuration(ip),
            _ => haproxy_configuration(ip),
        };
        write(&file, &text.replace("{dir}", &folder.path().display().to_string()));
        let mut command = match name {
            "nginx" => Command::new("/usr/sbin/nginx"),
            _ => Command::new("/usr/sbin/haproxy"),
        };
        match name {
            "nginx" => command.arg("-e").arg(folder.path().join("log")).arg("-c").arg(&file),
            _ => command.args(["-db", "-q", "-f"]).arg(&file),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        eventually(name, async || TcpStream::connect((ip, Door::Hasty.port())).await.ok()).await;
        Self { name, ip, folder, child }
    }

    /// Puts new roots and a new list into force without a restart, each in its own way.
    async fn change(&self, cast: &Cast) {
        for (name, text) in cast.after() {
            let path = self.folder.path().join(name);
            write(&path, &text);
            if self.name == "haproxy" {
                let kind = if name == "crl.pem" { "crl-file" } else { "ca-file" };
                let payload = text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                let path = path.display();
                self.tell(&format!("set ssl {kind} {path} <<\n{payload}\n\n")).await;
                let answer = self.tell(&format!("commit ssl {kind} {path}\n")).await;
                assert!(answer.contains("Success"), "{answer}");
            }
        }
        if self.name == "nginx" {
            let before = self.children();
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
            // The former worker accepts for a moment beside the new one.
            eventually("the former worker is gone", async || {
                let now = self.children();
                (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
            })
            .await;
        }
    }

    fn children(&self) -> Vec<String> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    async fn tell(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.folder.path().join("admin.sock")).await.unwrap();
        socket.write_all(command.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn nginx_configuration(ip: Ipv4Addr) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let servers: String = DOORS
        .iter()
        .map(|door| {
            let keys = match door {
                Door::Open => "ssl_verify_client optional; ssl_client_certificate {dir}/root.pem;",
                Door::Lenient => "ssl_verify_client optional_no_ca; ssl_client_certificate {dir}/root.pem;",
                Door::Strict | Door::Hasty => "ssl_verify_client on; ssl_client_certificate {dir}/root.pem;",
                Door::Replaced => "ssl_verify_client on; ssl_client_certificate {dir}/replaced.pem;",
                Door::Rekeyed => "ssl_verify_client on; ssl_client_certificate {dir}/rekeyed.pem;",
                Door::Listed => {
                    "ssl_verify_client on; ssl_client_certificate {dir}/root.pem; ssl_crl {dir}/crl.pem;"
                }
            };
            let port = door.port();
            format!(
                "server {{ listen {ip}:{port} ssl http2; {keys} location / {{ return 200 \"ok\\n\"; }} }}\n"
            )
        })
        .collect();
    format!(
        "{user}\ndaemon off;\nworker_processes 1;\npid {{dir}}/pid;\nevents {{}}\n\
         http {{\naccess_log off;\nclient_header_timeout 1s;\nkeepalive_timeout 60s;\n\
         client_body_temp_path {{dir}}/body;\nproxy_temp_path {{dir}}/proxy;\nfastcgi_temp_path {{dir}}/fastcgi;\n\
         scgi_temp_path {{dir}}/scgi;\nuwsgi_temp_path {{dir}}/uwsgi;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\nssl_certificate {{dir}}/server.pem;\nssl_certificate_key {{dir}}/server.pem;\n\
         ssl_session_cache shared:sessions:1m;\nssl_session_tickets off;\n{servers}}}\n"
    )
}

fn haproxy_configuration(ip: Ipv4Addr) -> String {
    let bind = |door: Door| {
        let keys = match door {
            Door::Open => "ca-file {dir}/root.pem verify optional",
            Door::Lenient => "ca-file {dir}/root.pem verify optional ca-ignore-err all crt-ignore-err all",
            Door::Strict | Door::Hasty => "ca-file {dir}/root.pem verify required",
            Door::Replaced => "ca-file {dir}/replaced.pem verify required",
            Door::Rekeyed => "ca-file {dir}/rekeyed.pem verify required",
            Door::Listed => "ca-file {dir}/root.pem crl-file {dir}/crl.pem verify required",
        };
        let port = door.port();
        format!("    bind {ip}:{port} ssl crt {{dir}}/server.pem no-tls-tickets alpn h2,http/1.1 {keys}\n")
    };
    let patient: String = DOORS.into_iter().filter(|door| !matches!(door, Door::Hasty)).map(bind).collect();
    let answer = "http-request return status 200 content-type text/plain string ok";
    // A handshake may take as long as a client may be idle.
    let hasty = bind(Door::Hasty);
    format!(
        "global\n    nbthread 1\n    stats socket {{dir}}/admin.sock level admin\n\
         \x20   ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n    mode http\n    timeout connect 60s\n    timeout server 60s\n    timeout client 60s\n\
         frontend patient\n{patient}    {answer}\n\
         frontend hasty\n    timeout client 1s\n{hasty}    {answer}\n"
    )
}

/// An agent with doors that come as near to theirs as its own may. It has no lenient one.
struct Agent {
    world: World,
    key_line: String,
    _service: Service,
}

impl Agent {
    async fn start(cast: &Cast) -> Self {
        let service = Service::start().await;
        let mut scene = Scene::guarding(service.address);
        for door in DOORS {
            let accepts =
                if matches!(door, Door::Strict | Door::Hasty) { "accepts = [[\"mtls\"]]" } else { "" };
            let port = door.port();
            scene.config(&format!(
                "[[listener]]\nid = \"door-{port}\"\naddress = \"{{ip}}:{port}\"\noldest_tls = \"1.2\"\n{accepts}\n"
            ));
        }
        scene.config("[limits]\nhandshake = \"1s\"\n");
        let domains = [("other", "root"), ("replaced", "replaced"), ("rekeyed", "rekeyed")];
        let mut rules = String::new();
        for (domain, file) in domains {
            scene.config(&format!("[[trust]]\ndomain = \"{domain}.test\"\nbundle = \"{file}.pem\"\n"));
            rules.push_str(&format!("[[app.certificate]]\nuri = \"spiffe://{domain}.test/caller\"\n"));
        }
        let key_line = scene.app_with_key("by-key").line();
        scene.app("foreign", &rules).registry(GRANT);
        cast.write_before(scene.path());
        Self { world: scene.start().await, key_line, _service: service }
    }

    fn change(&self, cast: &Cast) {
        for (name, text) in cast.after() {
            write(&self.world.path().join(name), &text);
        }
        let serial = format!("serial:{}", cast.revoked.subject().serial);
        let revoked = postern(self.world.path()).args(["cert", "revoke", &serial]).output().unwrap();
        assert!(revoked.status.success());
    }
}

/// What is met, row by row, in the order of the table.
type Column = BTreeMap<usize, String>;

const ROWS: [&str; 14] = [
    "valid certificate, from scratch",
    "valid certificate, resumed",
    "the same, for the 20th time",
    "expired certificate, resumed",
    "expired certificate, from scratch",
    "expired certificate, connection kept alive",
    "root replaced, resumed",
    "root with a new key under its old name, resumed",
    "revoked certificate, resumed",
    "revoked certificate, from scratch",
    "no certificate, resumed at a door that asks for one",
    "unverified certificate, resumed at a strict door",
    "half a hello, then silence, limit 1 s",
    "application protocol that nobody knows",
];

/// A caller without sessions.
type Make = dyn Fn(Option<&Identity>) -> Resumer;

/// The cells of one server and version while they are being found out.
struct Trial<'a> {
    cast: &'a Cast,
    what: String,
    ip: Ipv4Addr,
    key_line: &'a str,
    make: Box<Make>,
    brief: Resumer,
    replaced: Resumer,
    rekeyed: Resumer,
    revoked: Resumer,
    kept: Talk<Tls>,
    cells: Column,
}

/// Whether an outcome is what a caller who may come in should meet.
fn come_in(outcome: Outcome) -> String {
    match outcome {
        Outcome::Full(200) | Outcome::Resumed(200) => outcome.to_string(),
        Outcome::Full(_) | Outcome::Refused | Outcome::Resumed(_) => format!("{outcome} !"),
    }
}

/// Whether an outcome is what a caller who must stay outside should meet.
fn stay_out(outcome: Outcome) -> String {
    match outcome {
        Outcome::Full(200..=399) | Outcome::Resumed(200..=399) => format!("{outcome} !"),
        Outcome::Full(_) | Outcome::Refused | Outcome::Resumed(_) => outcome.to_string(),
    }
}

impl<'a> Trial<'a> {
    /// Makes all sessions while everything is well.
    async fn begin(
        what: String,
        ip: Ipv4Addr,
        key_line: &'a str,
        cast: &'a Cast,
        make: impl Fn(Option<&Identity>) -> Resumer + 'static,
    ) -> Self {
        let at = |door: Door| SocketAddr::from((ip, door.port()));
        let good = make(Some(&cast.good));
        let mut cells = Column::new();
        cells.insert(0, come_in(good.call(at(Door::Strict)).await));
        cells.insert(1, come_in(good.call(at(Door::Strict)).await));
        let [brief, replaced, rekeyed, revoked] =
            [&cast.brief, &cast.of_replaced, &cast.of_rekeyed, &cast.revoked]
                .map(|identity| make(Some(identity)));
        for _ in 0..19 {
            brief.call(at(Door::Strict)).await;
        }
        cells.insert(2, come_in(brief.call(at(Door::Strict)).await));
        for (caller, door) in
            [(&replaced, Door::Replaced), (&rekeyed, Door::Rekeyed), (&revoked, Door::Listed)]
        {
            assert_eq!(caller.call(at(door)).await, Outcome::Full(200), "{what}: {door:?}");
            assert_eq!(caller.call(at(door)).await, Outcome::Resumed(200), "{what}: {door:?}");
        }
        let kept = make(Some(&cast.brief)).offering(&[b"http/1.1"]).dial(at(Door::Strict)).await.unwrap();
        let mut kept = Talk::new(kept);
        assert_eq!(kept.get("/a", "").await.status, 200, "{what}");
        Self {
            cast,
            what,
            ip,
            key_line,
            make: Box::new(make),
            brief,
            replaced,
            rekeyed,
            revoked,
            kept,
            cells,
        }
    }

    fn at(&self, door: Door) -> SocketAddr {
        (self.ip, door.port()).into()
    }

    /// Sessions from one door at another, and handshakes that are no handshakes.
    async fn strangers(&mut self) {
        let nameless = (self.make)(None);
        let first = nameless.ask(self.at(Door::Open), self.key_line).await;
        assert_eq!(first, Outcome::Full(200), "{}: the open door", self.what);
        self.cells.insert(10, stay_out(nameless.ask(self.at(Door::Strict), self.key_line).await));

        let stranger = (self.make)(Some(&self.cast.stranger));
        let first = stranger.call(self.at(Door::Lenient)).await;
        let lenient = !self.what.starts_with("Postern");
        assert_eq!(first == Outcome::Full(200), lenient, "{}: the lenient door: {first}", self.what);
        self.cells.insert(11, stay_out(stranger.call(self.at(Door::Strict)).await));

        let odd = (self.make)(Some(&self.cast.good)).offering(&[b"acme-tls/1"]);
        self.cells.insert(13, stay_out(odd.call(self.at(Door::Strict)).await));
    }

    /// After everything has changed.
    async fn changed(&mut self) {
        let cells = [
            (6, &self.replaced, &self.cast.of_replaced, Door::Replaced),
            (7, &self.rekeyed, &self.cast.of_rekeyed, Door::Rekeyed),
            (8, &self.revoked, &self.cast.revoked, Door::Listed),
        ];
        for (row, caller, identity, door) in cells {
            // Without a session the change shows; so it is in force.
            let from_scratch = eventually(&format!("{}: {door:?}", self.what), async || {
                let outcome = (self.make)(Some(identity)).call(self.at(door)).await;
                (outcome != Outcome::Full(200)).then_some(outcome)
            })
            .await;
            self.cells.insert(row, stay_out(caller.call(self.at(door)).await));
            if row == 8 {
                self.cells.insert(9, stay_out(from_scratch));
            }
        }
    }

    /// After the brief certificate has expired.
    async fn expired(&mut self) {
        self.cells.insert(3, stay_out(self.brief.call(self.at(Door::Strict)).await));
        let anew = (self.make)(Some(&self.cast.brief));
        self.cells.insert(4, stay_out(anew.call(self.at(Door::Strict)).await));
        let sent = self.kept.try_send("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let answer = if sent.is_ok() { self.kept.try_answer(false).await.ok() } else { None };
        let kept = answer.map_or_else(|| "closed".to_owned(), |answer| format!("{} !", answer.status));
        self.cells.insert(5, kept);
    }
}

fn table(versions: &str, columns: &[(String, Column)]) -> String {
    let mut text = format!(
        "Made with {versions}.\n\nWhat callers meet. The peers keep sessions themselves (tickets off); new roots and revocation lists come by a\n\
         reload (nginx) or by its runtime commands (HAProxy). A mark ! stands where it should have been otherwise.\n\n"
    );
    text.push_str(&format!("{:53}", ""));
    for (name, _) in columns {
        text.push_str(&format!("{name:19}"));
    }
    text.truncate(text.trim_end().len());
    for (number, row) in ROWS.iter().enumerate() {
        text.push_str(&format!("\n{row:53}"));
        for (_, column) in columns {
            text.push_str(&format!("{:19}", column[&number]));
        }
        text.truncate(text.trim_end().len());
    }
    text.push('\n');
    text
}

/// The versions of the peers, or none if one of them is absent.
fn versions() -> Option<String> {
    let nginx = Command::new("/usr/sbin/nginx").arg("-v").output().ok()?;
    let haproxy = Command::new("/usr/sbin/haproxy").arg("-v").output().ok()?;
    let nginx = String::from_utf8(nginx.stderr).unwrap();
    let haproxy = String::from_utf8(haproxy.stdout).unwrap();
    let nginx = nginx.trim().rsplit('/').next()?.to_owned();
    let haproxy = haproxy.split_whitespace().nth(2)?.to_owned();
    Some(format!("nginx {nginx} and HAProxy {haproxy}"))
}

#[tokio::test]
async fn sessions_that_should_have_ended_are_met_otherwise_elsewhere() {
    let Some(versions) = versions() else {
        println!("skipped: nginx and haproxy are not both installed");
        return;
    };
    let early = Cast::new();
    let (agent, nginx, haproxy) = (
        Agent::start(&early).await,
        Server::start("nginx", &early, 201).await,
        Server::start("haproxy", &early, 202).await,
    );
    // The brief certificate is made when all is ready for it.
    let brief = early.root.leaf("spiffe://other.test/caller", Duration::from_secs(4));
    let cast = Cast { brief, ..early };
    let bundle = std::fs::read(agent.world.path().join("state/bundle.pem")).unwrap();
    let mut roots: Vec<CertificateDer<'static>> = pem::certificates(&bundle).unwrap();
    roots.push(cast.root.certificate().clone());
    let places = [("Postern", agent.world.ip), ("nginx", nginx.ip), ("HAProxy", haproxy.ip)];

    let mut trials = Vec::new();
    for (server, ip) in places {
        for (name, version) in VERSIONS {
            let (what, roots) = (format!("{server} {}", &name[4..]), roots.clone());
            let make = move |identity: Option<&Identity>| Resumer::new(version, &roots, identity);
            trials.push(Trial::begin(what, ip, &agent.key_line, &cast, make).await);
        }
    }
    assert!(SystemClock.now() < cast.brief.subject().not_after, "too slow for the brief certificate");
    let mut hellos = JoinSet::new();
    for (number, trial) in trials.iter_mut().enumerate() {
        let address = trial.at(Door::Hasty);
        hellos.spawn(async move { (number, outcome_of_half_a_hello(address).await) });
        trial.strangers().await;
    }
    for (number, outcome) in hellos.join_all().await {
        trials[number].cells.insert(12, outcome);
    }
    tokio::time::sleep(cast.brief.subject().not_after.since(SystemClock.now())).await;
    for trial in &mut trials {
        trial.expired().await;
    }
    agent.change(&cast);
    nginx.change(&cast).await;
    haproxy.change(&cast).await;
    for trial in &mut trials {
        trial.changed().await;
    }

    let columns: Vec<_> = trials.into_iter().map(|trial| (trial.what, trial.cells)).collect();
    let found = table(&versions, &columns);
    println!("{found}");
    for (what, column) in &columns {
        if what.starts_with("Postern") {
            assert!(column.values().all(|cell| !cell.contains('!')), "{what}: {column:?}");
        }
    }
    compare(&found);
}

/// Holds the table against the one that is kept; made by other versions, it may differ.
fn compare(found: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/resumption-peers.txt");
    let golden = std::fs::read_to_string(&kept).unwrap_or_default();
    if golden == found {
        return;
    }
    let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resumption-peers.txt");
    write(&new, found);
    let told = format!("{} differs from {}, which was kept:\n{golden}", new.display(), kept.display());
    assert!(golden.lines().next() != found.lines().next(), "{told}");
    println!("notice: made with other versions, {told}");
}

/// How the server takes half a greeting.
async fn outcome_of_half_a_hello(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&half_a_hello()).await.unwrap();
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut said)).await;
    if end.is_ok() { "closed".to_owned() } else { "open !".to_owned() }
}
