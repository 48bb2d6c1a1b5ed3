//! One agent: what it is told, the process, and the ways to it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use aws_lc_rs::rand::SystemRandom;
use postern::admin::{Client, Status};
use postern::credential::{ApiKey, ClientSecret, Peppers, Signer, SigningSecret};
use postern::store::{pem, pepper_file};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::caller::dial;
use super::{Answer, H2, Identity, SigningKey, Talk, Tls, eventually, write};

/// A configuration and a registry that are being put together.
pub(crate) struct Scene {
    folder: TempDir,
    /// This agent's own loopback address, so that ports need not be searched for.
    pub(crate) ip: Ipv4Addr,
    config: String,
    registry: String,
    peppers: Option<Peppers>,
    environment: Environment,
}

/// What surrounds the agent.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    /// Variables, besides those of the test.
    variables: Vec<(String, String)>,
    /// A program that runs the agent, and its arguments before the agent's own.
    wrapper: Vec<String>,
}

/// A key for callers, and how the registry knows it.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) hash: String,
}

impl Key {
    /// The field line that presents it.
    pub(crate) fn line(&self) -> String {
        format!("x-api-key: {}\r\n", self.text)
    }

    /// The table of a client secret that stands behind an `[[app]]`.
    pub(crate) fn secret_table(&self) -> String {
        format!("[[app.client_secret]]\nid = \"{}\"\nhash = \"{}\"\n", self.id, self.hash)
    }

    /// The table that stands behind an `[[app]]`.
    pub(crate) fn table(&self) -> String {
        format!("[[app.api_key]]\nid = \"{}\"\nhash = \"{}\"\n", self.id, self.hash)
    }
}

/// Agents of this process so far.
static AGENTS: AtomicU8 = AtomicU8::new(1);

impl Scene {
    /// An agent of the trust domain `postern.test` without doors.
    pub(crate) fn new() -> Self {
        Self::of("postern.test")
    }

    /// An agent of some trust domain without doors.
    pub(crate) fn of(domain: &str) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let number = AGENTS.fetch_add(1, Ordering::Relaxed);
        let config = format!(
            "trust_domain = \"{domain}\"\nstate_dir = \"state\"\nruntime_dir = \"run\"\nregistry = [\"registry\"]\n\
             threads = 2\n\n[log]\nformat = \"json\"\n\n[agent]\ndns = [\"localhost\"]\n\n\
             [metrics]\naddress = \"{{ip}}:9464\"\n\n"
        );
        Self {
            folder: tempfile::tempdir().unwrap(),
            ip: Ipv4Addr::new(127, high.max(1), low, number),
            config,
            registry: String::new(),
            peppers: None,
            environment: Environment::default(),
        }
    }

    /// Puts a variable into the agent's environment.
    pub(crate) fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the agent run by a shell script, in the agent's folder and a mount namespace of its own, that ends in `exec "$@"`.
    pub(crate) fn behind_mounts(&mut self, script: &str) -> &mut Self {
        let wrapper = ["unshare", "-m", "sh", "-ec", script, "sh"];
        self.environment.wrapper = wrapper.map(str::to_owned).to_vec();
        self
    }

    /// Has the agent run by a shell script that ends in `exec "$@"`, with further arguments or without.
    pub(crate) fn run_by(&mut self, script: &str) -> &mut Self {
        self.environment.wrapper = ["sh", "-ec", script, "sh"].map(str::to_owned).to_vec();
        self
    }

    /// An agent with one listener that guards `endpoint` as the service `orders`; the workload and app `caller` may use it by
    /// certificate, the workload and app `stranger` was granted nothing, and nobody knows the workload `nobody`.
    pub(crate) fn guarding(endpoint: impl ToString) -> Self {
        let mut scene = Self::new();
        scene.listener("inbound", "").service("orders", &endpoint.to_string(), "");
        for workload in ["caller", "stranger", "nobody"] {
            scene.workload(workload, "");
        }
        scene.registry(
            "[[developer]]\nid = \"team\"\n\n[[product]]\nid = \"orders\"\nscopes = [\"orders:read\"]\n\n\
             [[product.operation]]\nservice = \"orders\"\nmethods = [\"*\"]\npath = \"/**\"\n\n",
        );
        scene.app(
            "caller",
            "[[app.certificate]]\nid = \"caller-svid\"\nuri = \"spiffe://postern.test/caller\"\n",
        );
        scene.registry(GRANT);
        scene.app("stranger", "[[app.certificate]]\nuri = \"spiffe://postern.test/stranger\"\n");
        scene
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Appends to the configuration; `{ip}` stands for the agent's address and `{dir}` for its folder.
    pub(crate) fn config(&mut self, text: &str) -> &mut Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Puts other text in place of some that stands in the configuration.
    pub(crate) fn amend_config(&mut self, from: &str, to: &str) -> &mut Self {
        assert!(self.config.contains(from), "{}", self.config);
        self.config = self.config.replacen(from, to, 1);
        self
    }

    /// Puts other text in place of some that stands in the registry.
    pub(crate) fn amend_registry(&mut self, from: &str, to: &str) -> &mut Self {
        assert!(self.registry.contains(from), "{}", self.registry);
        self.registry = self.registry.replacen(from, to, 1);
        self
    }

    pub(crate) fn listener(&mut self, id: &str, keys: &str) -> &mut Self {
        self.config(&format!("[[listener]]\nid = \"{id}\"\naddress = \"{{ip}}:8443\"\n{keys}\n"))
    }

    pub(crate) fn service(&mut self, id: &str, endpoint: &str, keys: &str) -> &mut Self {
        self.config(&format!("[[service]]\nid = \"{id}\"\nendpoint = \"{endpoint}\"\n{keys}\n"))
    }

    /// A workload whose files go to `files/<id>`.
    pub(crate) fn workload(&mut self, id: &str, keys: &str) -> &mut Self {
        self.config(&format!(
            "[[workload]]\nid = \"{id}\"\n{keys}\n[workload.files]\ndirectory = \"files/{id}\"\n"
        ))
    }

    /// Appends to the registry.
    pub(crate) fn registry(&mut self, text: &str) -> &mut Self {
        self.registry.push_str(text);
        self.registry.push('\n');
        self
    }

    /// Appends an app of the developer `team`.
    pub(crate) fn app(&mut self, id: &str, tables: &str) -> &mut Self {
        self.registry(&format!("[[app]]\nid = \"{id}\"\ndeveloper = \"team\"\n{tables}"))
    }

    /// Appends an app that may use `orders` by a key.
    pub(crate) fn app_with_key(&mut self, id: &str) -> Key {
        let key = self.key();
        self.app(id, &format!("accepts = [[\"api_key\"]]\n{}{GRANT}", key.table()));
        key
    }

    /// A fresh client secret, hashed under the agent's pepper.
    pub(crate) fn client_secret(&mut self) -> Key {
        let peppers = self.peppers();
        let secret = ClientSecret::generate(&SystemRandom::new()).unwrap();
        let version = peppers.newest().unwrap().to_owned();
        let hash = peppers.hash(&version, secret.text().expose_secret()).unwrap();
        let hash = format!("hmac-sha256:{version}:{}", data_encoding::HEXLOWER.encode(&hash));
        let text = String::from_utf8(secret.text().expose_secret().to_vec()).unwrap();
        Key { id: secret.id().to_owned(), text, hash }
    }

    fn peppers(&mut self) -> &Peppers {
        let state = self.folder.path().join("state");
        self.peppers.get_or_insert_with(|| {
            Peppers::new(pepper_file::load_or_create(&state, &SystemRandom::new()).unwrap())
        })
    }

    /// A fresh secret for signatures, sealed under the agent's pepper.
    pub(crate) fn shared_secret(&mut self) -> (SigningKey, SigningSecret) {
        let secret = SigningSecret::generate(&SystemRandom::new()).unwrap();
        let peppers = self.peppers();
        let version = peppers.newest().unwrap();
        let sealed = peppers.seal(version, secret.id(), secret.text().expose_secret()).unwrap();
        let sealed = data_encoding::BASE64URL_NOPAD.encode(&sealed);
        let on_file = format!("algorithm = \"hmac-sha256\"\nsecret = \"aes-256-gcm:{version}:{sealed}\"\n");
        (SigningKey { id: secret.id().to_owned(), signer: Signer::shared(&secret), on_file }, secret)
    }

    /// A fresh key, hashed under the agent's pepper.
    pub(crate) fn key(&mut self) -> Key {
        let random = SystemRandom::new();
        let peppers = self.peppers();
        let key = ApiKey::generate(&random).unwrap();
        let version = peppers.newest().unwrap().to_owned();
        let hash = peppers.hash(&version, key.text().expose_secret()).unwrap();
        let hash = format!("hmac-sha256:{version}:{}", data_encoding::HEXLOWER.encode(&hash));
        let text = String::from_utf8(key.text().expose_secret().to_vec()).unwrap();
        Key { id: key.id().to_owned(), text, hash }
    }

    /// Writes configuration and registry down.
    pub(crate) fn write(&self) {
        let text = self.config.replace("{ip}", &self.ip.to_string());
        let text = text.replace("{dir}", &self.path().display().to_string());
        write(&self.path().join("postern.toml"), &text);
        write(&self.path().join("registry/apps.toml"), &self.registry);
    }

    /// Makes the CA ahead of the start, so that others can be told whom to trust; its roots as PEM.
    pub(crate) fn init_ca(&self) -> String {
        self.write();
        let mut init = postern(self.path());
        init.envs(self.environment.variables.iter().cloned());
        assert!(init.args(["ca", "init"]).output().unwrap().status.success());
        std::fs::read_to_string(self.path().join("state/bundle.pem")).unwrap()
    }

    /// Starts an agent that may not want to run.
    pub(crate) fn launch(&self) -> Child {
        run(self.path(), &self.environment)
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) async fn start(self) -> World {
        self.write();
        let Self { folder, ip, registry, environment, .. } = self;
        let child = run(folder.path(), &environment);
        let mut world = World { folder, ip, registry, environment, child };
        world.until_ready().await;
        world
    }
}

/// What lets an app use `orders`.
pub(crate) const GRANT: &str = "[[app.grant]]\nproduct = \"orders\"\n\n";

/// The command `postern` with the configuration in `folder`.
pub(crate) fn postern(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.arg("--config").arg(folder.join("postern.toml"));
    // Only read where a scenario has a token or hands credentials over.
    command.env("SOFTHSM2_CONF", folder.join("softhsm2.conf"));
    command.env("CREDENTIALS_DIRECTORY", folder.join("credentials"));
    command
}

/// Runs the agent in `folder`, with its log in the file `log`.
pub(crate) fn run(folder: &Path, environment: &Environment) -> Child {
    run_with(folder, environment, &[])
}

/// Runs the agent in `folder` with further arguments.
fn run_with(folder: &Path, environment: &Environment, arguments: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let agent = postern(folder);
    let mut command = match environment.wrapper.as_slice() {
        [] => postern(folder),
        [program, arguments @ ..] => {
            let mut wrapper = Command::new(program);
            wrapper.args(arguments).arg(agent.get_program()).args(agent.get_args()).current_dir(folder);
            wrapper
        }
    };
    command
        .arg("run")
        .args(arguments)
        .envs(environment.variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A running agent; it is killed when it is dropped, and its log is shown if the test has failed.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) ip: Ipv4Addr,
    registry: String,
    environment: Environment,
    child: Child,
}

impl World {
    async fn until_ready(&mut self) {
        eventually("the agent is ready", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the agent ended with {status}");
            }
            let (status, _) = self.health("/ready").await?;
            (status == 200).then_some(())
        })
        .await;
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (self.ip, 8443).into()
    }

    pub(crate) fn files(&self, workload: &str) -> PathBuf {
        self.path().join("files").join(workload)
    }

    /// What was delivered to `workload`.
    pub(crate) fn identity(&self, workload: &str) -> Identity {
        Identity::delivered(&self.files(workload))
    }

    /// The folder of the issuing authority that signs now.
    pub(crate) async fn issuing_folder(&self) -> PathBuf {
        let status = self.status().await;
        let active = |authority: &&postern::admin::AuthorityStatus| {
            authority.level == "issuing" && authority.slot == "active"
        };
        let id = status.authorities.iter().find(active).unwrap().id.to_string();
        self.path().join("state/authorities").join(id)
    }

    /// The registry as it was written at the start.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    pub(crate) fn admin(&self) -> Client {
        Client::new(&self.path().join("run/admin.sock"))
    }

    pub(crate) async fn status(&self) -> Status {
        self.admin().status().await.unwrap()
    }

    /// What the agent has told on stderr so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// The log, once it holds `text`.
    pub(crate) async fn log_with(&self, text: &str) -> String {
        let what = format!("{text:?} in the log");
        eventually(&what, async || Some(self.log()).filter(|log| log.contains(text))).await
    }

    /// The access-log event of the request with this id.
    pub(crate) async fn access(&self, request_id: &str) -> serde_json::Value {
        let log = self.log_with(&format!("\"request.id\":\"{request_id}\"")).await;
        let line = log.lines().find(|line| line.contains(&format!("\"request.id\":\"{request_id}\"")));
        serde_json::from_str(line.unwrap()).unwrap()
    }

    /// Asks the health port; none when nobody listens there.
    pub(crate) async fn health(&self, path: &str) -> Option<(u16, String)> {
        let stream = TcpStream::connect((self.ip, 9464)).await.ok()?;
        let mut talk = Talk::new(stream);
        talk.try_send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await.ok()?;
        let answer = talk.try_answer(false).await.ok()?;
        Some((answer.status, answer.text()))
    }

    /// The value of a metric, named with its labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.health("/metrics").await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// A TLS connection to the listener.
    pub(crate) async fn dial(&self, identity: Option<&Identity>, protocol: &str) -> io::Result<Tls> {
        dial(self.address(), &self.roots(), identity, protocol).await
    }

    /// Whom callers believe.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let bundle = std::fs::read(self.path().join("state/bundle.pem")).unwrap();
        pem::certificates(&bundle).unwrap()
    }

    /// An HTTP/1 conversation with the listener.
    pub(crate) async fn talk(&self, identity: Option<&Identity>) -> Talk<Tls> {
        Talk::new(self.dial(identity, "http/1.1").await.unwrap())
    }

    /// An HTTP/2 connection to the listener.
    pub(crate) async fn h2(&self, identity: Option<&Identity>) -> H2 {
        H2::new(self.dial(identity, "h2").await.unwrap()).await
    }

    /// Tries a whole request; in TLS 1.3 a refused certificate shows on the first read.
    pub(crate) async fn try_get(&self, identity: Option<&Identity>, lines: &str) -> io::Result<Answer> {
        let mut talk = Talk::new(self.dial(identity, "http/1.1").await?);
        talk.try_send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n")).await?;
        talk.try_answer(false).await
    }

    /// The agent's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the agent a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = match name {
            "HUP" => rustix::process::Signal::HUP,
            "INT" => rustix::process::Signal::INT,
            "STOP" => rustix::process::Signal::STOP,
            "TERM" => rustix::process::Signal::TERM,
            "USR2" => rustix::process::Signal::USR2,
            other => panic!("no signal {other}"),
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the agent has ended of its own accord.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the agent ends", async || self.child.try_wait().unwrap()).await
    }

    /// Has another process take over; the former one, which goes on until its connections have ended.
    pub(crate) fn take_over(&mut self) -> Child {
        let heir = run_with(self.folder.path(), &self.environment, &["--take-over"]);
        std::mem::replace(&mut self.child, heir)
    }

    /// Puts a process back that goes on after all; the one that it was to be followed by.
    pub(crate) const fn put_back(&mut self, former: Child) -> Child {
        std::mem::replace(&mut self.child, former)
    }

    /// Kills the agent and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(self.folder.path(), &self.environment);
        self.until_ready().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // An agent that has ended already is what was wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}", self.log());
        }
    }
}
