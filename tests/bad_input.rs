//! Files, flags, state and ports that are wrong: the agent says what, where and what was meant, and does not start.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::world::postern;
use support::{ForeignCa, Identity, Scene, World, write};
use tempfile::TempDir;

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    told: String,
}

/// Runs `command`, which must end of its own accord, and by its exit code.
async fn ended(mut command: Command) -> Ended {
    let mut output = tempfile::tempfile().unwrap();
    let [out, err] = [(); 2].map(|()| output.try_clone().unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    // Not by what fails the test itself: one that goes on would be left behind, at its port.
    let outcome = tokio::time::timeout(support::PATIENCE, async {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    if outcome.is_err() {
        child.kill().unwrap();
    }
    let mut told = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut told).unwrap();
    let ended = Ended { code: outcome.ok().and_then(|status| status.code()), told };
    assert!(!ended.told.contains("panicked"), "{}", ended.told);
    ended
}

/// The agent in `folder`, which must refuse to start; what it says.
async fn refusal(folder: &Path) -> String {
    let mut command = postern(folder);
    command.arg("run");
    let Ended { code, told } = ended(command).await;
    assert_eq!(code, Some(1), "{told}");
    told
}

/// The configuration and registry that the project ships, in a folder of their own.
struct Sample {
    folder: TempDir,
    config: String,
    registry: String,
}

impl Sample {
    fn new() -> Self {
        let shipped = |name: &str| {
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
        };
        let sample = Self {
            folder: tempfile::tempdir().unwrap(),
            config: shipped("postern.toml"),
            registry: shipped("registry/sample.toml"),
        };
        sample.write(&sample.config, &sample.registry);
        sample
    }

    fn write(&self, config: &str, registry: &str) {
        write(&self.folder().join("postern.toml"), config);
        write(&self.folder().join("registry/sample.toml"), registry);
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    async fn check(&self) -> Ended {
        let mut command = postern(&self.folder());
        command.arg("check");
        ended(command).await
    }
}

/// `text` with one line replaced, and the number of that line.
fn with_line(text: &str, line: &str, instead: &str) -> (String, usize) {
    let at = text.lines().position(|found| found.starts_with(line)).unwrap();
    let lines: Vec<&str> =
        text.lines().enumerate().map(|(number, old)| if number == at { instead } else { old }).collect();
    (lines.join("\n") + "\n", at + 1)
}

/// A line of the shipped configuration, what stands there instead, and what must be told beside its place.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("trust_domain =", "trust_domain = \"Postern.Test\"", &["trust_domain: "]),
    ("trust_domain =", "trust_domain = \"\"", &["trust_domain: "]),
    ("trust_domain =", "trust_domain = 7", &["trust_domain: "]),
    ("state_dir =", "state_dir = \"\"", &["state_dir: ", "path"]),
    ("registry =", "registry = \"registry\"", &["registry: "]),
    ("revocations =", "revocations = \"revoked.d\"", &["revocations: "]),
    ("threads =", "threads = -1", &["threads: "]),
    ("threads =", "threads = 0\nthreads = 1", &[]),
    ("quickstart =", "quickstart = \"no\"", &["quickstart: "]),
    ("core_dumps =", "core_dumps = 0", &["core_dumps: "]),
    ("quickstart =", "quikstart = true", &["quikstart: unknown key, did you mean `quickstart`?"]),
    ("[log]", "[logs]", &["logs: unknown", "did you mean `log`?"]),
    ("format =", "format = \"yaml\"", &["log.format: "]),
    ("mode = \"standalone\"", "mode = \"alone\"", &["authority.mode: ", "standalone"]),
    ("key = \"p256\"            #", "key = \"rsa\"", &["authority.key: ", "p256"]),
    ("root_ttl =", "root_ttl = \"365\"", &["authority.root_ttl: "]),
    ("root_ttl =", "root_ttl = 365", &["authority.root_ttl: "]),
    ("backdate = \"5m\"         #", "backdate = \"-5m\"", &["authority.backdate: "]),
    ("crl_ttl =", "crl_ttl = \"1s\"", &["authority.crl_ttl: ", "2s or more"]),
    (
        "second_opinion =",
        "second_opinion = \"openssl\"",
        &["authority.second_opinion: ", "whole path", "never"],
    ),
    (
        "spiffe_id = \"spiffe://postern.test/agent\"",
        "spiffe_id = \"spiffe://other.test/agent\"",
        &["agent.spiffe_id: ", "postern.test"],
    ),
    (
        "spiffe_id = \"spiffe://postern.test/agent\"",
        "spiffe_id = \"spiffe://postern.test/\"",
        &["agent.spiffe_id: "],
    ),
    ("mode = \"0600\" ", "readers = [\"postgres\"] ", &["files.readers", "`user:` or `group:`"]),
    ("mode = \"0600\" ", "readers = [\"user:no-such-user\"] ", &["files.readers", "there is no user called"]),
    ("dns = [\"localhost\"]", "dns = [\"local host\"]", &["agent.dns", "DNS name"]),
    ("dns = [\"localhost\"]", "dns = [\"127.0.0.1\"]", &["agent.dns", "DNS name", "number"]),
    ("address = \"127.0.0.1:9464\"", "address = \"localhost:9464\"", &["metrics.address: "]),
    ("header =", "header = \"x api key\"", &["api_key.header: "]),
    ("max_age = \"300s\"", "max_age = \"2d\"", &["signature.max_age: ", "at most 86400 seconds"]),
    ("skew =", "skew = \"1h\"", &["signature.skew: ", "at most 600 seconds"]),
    ("nonce =", "nonce = \"sometimes\"", &["signature.nonce: ", "`always` or `never` or `unsafe`"]),
    ("nonces =", "nonces = 10", &["signature.nonces: "]),
    ("cover =", "cover = [\"@method \"]", &["signature.cover", "header name"]),
    ("# tag =", "tag = \"a\\\"b\"", &["signature.tag: "]),
    ("handshake =", "handshake = \"0s\"", &["limits.handshake: ", "zero"]),
    ("head_size =", "head_size = \"32MB\"", &["limits.head_size: "]),
    ("h2_streams =", "h2_streams = 0", &["limits.h2_streams: "]),
    ("h2_control =", "h2_control = 100", &["limits.h2_control: "]),
    ("h2_resets_burst =", "h2_resets_burst = -1", &["limits.h2_resets_burst: "]),
    ("source_connections =", "source_connections = 0", &["limits.source_connections: "]),
    ("app_connections =", "app_connections = \"all\"", &["limits.app_connections: "]),
    ("handshakes =", "handshakes = 0", &["limits.handshakes: "]),
    ("max_age = \"1d\"", "max_age = \"0s\"", &["limits.max_age: ", "zero"]),
    ("body_rate =", "body_rate = 500", &["limits.body_rate: "]),
    ("body_window =", "body_window = \"0s\"", &["limits.body_window: ", "zero"]),
    ("memory =", "memory = \"120%\"", &["limits.memory: ", "80%"]),
    ("memory =", "memory = \"1TB\"", &["limits.memory: "]),
    ("failed_keys =", "failed_keys = \"10/m\"", &["limits.failed_keys: ", "10/min"]),
    ("failed_keys_burst =", "failed_keys_burst = -1", &["limits.failed_keys_burst: "]),
    ("id = \"sample\"", "id = \"\"", &["id: "]),
    ("id = \"sample\"", "id = \"agent\"", &[]),
    ("uid = 60001", "uid = \"web\"", &["workload.sample.match.uid: "]),
    ("uid = 60001", "user = \"nobody-has-this-name\"", &["workload.sample.match.user: ", "there is no user"]),
    ("mode = \"0600\"", "mode = \"0644\"", &["workload.sample.files.mode: "]),
    ("directory = \"../certs/sample\"", "directroy = \"../certs/sample\"", &["did you mean `directory`?"]),
    ("id = \"stranger\"", "id = \"sample\"", &[]),
    ("address = \"127.0.0.1:8443\"\nprotocol", "address = \"8443\"", &[]),
    (
        "accepts = [[\"mtls\"]",
        "accepts = [[\"mtl\"], [\"api_key\"]]",
        &["listener.inbound.accepts", "did you mean `mtls`?"],
    ),
    ("accepts = [[\"mtls\"]", "accepts = []", &["listener.inbound.accepts"]),
    ("workload = \"agent\"", "workload = \"agnet\"", &[]),
    ("oldest_tls =", "oldest_tls = \"1.1\"", &["listener.inbound.oldest_tls: "]),
    ("base_path =", "base_path = \"/a/../b\"", &["service.whoami.base_path: "]),
    ("endpoint =", "endpoint = \"192.0.2.1:80\"", &["service.whoami.endpoint: ", "loopback"]),
    (
        "# concurrency =",
        "concurrency = { minimum = 9, maximum = 3 }",
        &["service.whoami.concurrency: ", "greater than `maximum`"],
    ),
    ("# concurrency =", "concurrency = { minimum = 0 }", &["service.whoami.concurrency.minimum: "]),
    ("endpoint =", "endpoint = \"builtin:whoareyou\"", &["service.whoami.endpoint: ", "whoami"]),
    ("protocol = \"http/1.1\"", "protocol = \"h2\"", &["service.whoami.protocol: "]),
    (
        "protocol = \"http/1.1\"",
        "protocol = \"h2c\"",
        &["the built-in service is asked without a connection"],
    ),
    ("protocol = \"http\"       # HTTP/1.1; or", "protocol = \"h2c\"", &["remote.loopback.protocol: "]),
    ("spiffe_ids =", "spiffe_ids = []", &["remote.loopback.spiffe_ids: ", "nobody"]),
    ("listen =", "listen = \"0.0.0.0:15001\"", &["remote.loopback.listen: ", "loopback"]),
    ("[[service]]", "[[service]", &[]),
    ("[[service]]", "\u{0}", &[]),
];

#[tokio::test]
async fn every_mistake_in_the_configuration_is_told_with_its_place_and_key() {
    let sample = Sample::new();
    assert_eq!(sample.check().await.code, Some(0), "the shipped configuration is fine");

    for (line, instead, told) in WRONG {
        let Some(line) = line.split('\n').next() else { continue };
        let (config, number) = with_line(&sample.config, line, instead);
        sample.write(&config, &sample.registry);
        let text = refusal(&sample.folder()).await;
        if told.is_empty() {
            assert!(text.contains("postern.toml:"), "{instead}: {text}");
        } else {
            assert!(text.contains(&format!("postern.toml:{number}:")), "{instead} in line {number}: {text}");
        }
        assert!(told.iter().all(|word| text.contains(word)), "{instead}: {text}");
        assert_eq!(sample.check().await.code, Some(1), "{instead}: check says the same");
    }
}

#[tokio::test]
async fn lifetimes_that_do_not_fit_are_refused_with_the_arithmetic() {
    let sample = Sample::new();
    let (config, _) = with_line(&sample.config, "issuing_ttl =", "issuing_ttl = \"2h\"");
    sample.write(&config, &sample.registry);

    let text = refusal(&sample.folder()).await;

    assert!(text.contains("at least 3 × 1 h = 3 h") || text.contains("at least 3 × 1h = 3h"), "{text}");
}

#[tokio::test]
async fn what_is_decided_where_the_root_is_cannot_be_set_where_it_is_not() {
    let sample = Sample::new();
    let (config, _) = with_line(&sample.config, "mode = \"standalone\"", "mode = \"subordinate\"");
    sample.write(&config, &sample.registry);
    let text = refusal(&sample.folder()).await;
    for key in ["authority.root_ttl: ", "authority.issuing_ttl: ", "authority.backdate: "] {
        assert!(text.contains(key), "{text}");
    }
    assert_eq!(text.matches("is decided where the root is").count(), 3, "{text}");

    let lines = ["root_ttl =", "issuing_ttl =", "backdate = \"5m\"         #"];
    let config = lines.into_iter().fold(config, |config, line| with_line(&config, line, "").0);
    sample.write(&config, &sample.registry);
    assert_eq!(sample.check().await.code, Some(0));
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() {
    let sample = Sample::new();
    let mut config = sample.config.clone();
    for (line, instead) in [
        ("threads =", "threads = -1"),
        ("header =", "header = \"\""),
        ("idle =", "idel = \"60s\""),
        ("uid =", "uid = 5000000000"),
    ] {
        config = with_line(&config, line, instead).0;
    }
    let registry = sample
        .registry
        .replace("developer = ", "developr = ")
        .replace("methods = [\"*\"]", "methods = \"*\"");
    sample.write(&config, &sample.registry);

    let text = refusal(&sample.folder()).await;
    for key in ["threads", "api_key.header", "limits.idel", "workload.sample.match.uid"] {
        assert!(text.contains(&format!(" {key}: ")), "{key}: {text}");
    }
    sample.write(&config, &registry);
    let text = sample.check().await.told;
    assert!(text.contains("limits.idel") || text.contains("developr"), "{text}");

    sample.write(&sample.config, &registry);
    let text = refusal(&sample.folder()).await;
    assert_eq!(text.matches("developr: unknown key").count(), 2, "{text}");
    assert!(text.contains("sample.toml:") && text.contains("methods"), "{text}");
}

#[tokio::test]
async fn a_registry_that_is_wrong_at_the_start_is_told_with_place_and_meaning() {
    let sample = Sample::new();
    let cases: [(&str, &str, &[&str]); 10] = [
        ("developer = \"sample-team\"", "developer = \"sample-taem\"", &["did you mean `sample-team`?"]),
        ("product = \"whoami\"", "product = \"whoamI\"", &["whoami"]),
        ("status = \"approved\"", "status = \"aproved\"", &["app.sample.status: ", "approved"]),
        ("uri = \"spiffe://postern.test/sample\"", "uri = \"spiffe://postern.test/a//b\"", &["uri: "]),
        ("uri = \"spiffe://postern.test/stranger\"", "uri = \"spiffe://postern.test/sample\"", &[]),
        ("path = \"/**\"", "path = \"/**/a\"", &["path: "]),
        ("id = \"stranger\"", "id = \"sample\"", &["sample.toml:"]),
        ("[[app.grant]]", "[[app.grnat]]", &["did you mean `grant`?"]),
        ("quota =", "quota = { limit = 1, per = \"day\" }", &["product.whoami.quota.per: ", "1d"]),
        ("spike =", "spike = { rate = 100 }", &["product.whoami.spike.rate: "]),
    ];

    for (line, instead, told) in cases {
        let (registry, number) = with_line(&sample.registry, line, instead);
        sample.write(&sample.config, &registry);
        let text = refusal(&sample.folder()).await;
        assert!(text.contains("sample.toml:"), "{instead} in line {number}: {text}");
        assert!(told.iter().all(|word| text.contains(word)), "{instead}: {text}");
    }
}

#[tokio::test]
async fn wrong_usage_is_an_exit_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["run", "--frobnicate"][..],
        &["frobnicate"],
        &["run", "more"],
        &["ca"],
        &["ca", "rotate", "--timeout", "soon"],
        &["explain", "--spiffe-id", "nobody"],
        &["key", "create"],
    ] {
        let mut command = postern(folder.path());
        command.args(arguments);
        let Ended { code, told } = ended(command).await;
        assert_eq!(code, Some(2), "{arguments:?}: {told}");
        assert!(told.contains("--help") || told.contains("Usage"), "{arguments:?}: {told}");
    }
    for verb in ["run", "check"] {
        let mut command = postern(folder.path());
        command.arg(verb);
        let Ended { code, told } = ended(command).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("postern.toml: cannot be read"), "{told}");
    }
}

/// The folder of an agent that has run once and was stopped.
async fn has_run() -> (World, PathBuf) {
    let mut world = Scene::guarding("builtin:whoami").start().await;
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
    world.signal("TERM");
    assert!(world.ended().await.success());
    let state = world.path().join("state");
    (world, state)
}

#[tokio::test]
async fn a_ca_that_is_not_whole_is_never_made_anew() {
    let (world, state) = has_run().await;
    let only = |folder: &Path| fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let one = only(&state.join("authorities"));
    let other_key = Identity::of_another_ca("spiffe://postern.test/x");
    let other_key =
        postern::store::pem::key_to_pem(&postern::secret::Secret::new(other_key.key.secret_der().to_vec()));
    let other_key = String::from_utf8(other_key.expose_secret().to_vec()).unwrap();
    let damage: [(&str, PathBuf, Option<&str>); 8] = [
        ("the list is gone", state.join("authorities.toml"), None),
        ("the list is empty", state.join("authorities.toml"), Some("")),
        ("the list is nonsense", state.join("authorities.toml"), Some("[[[")),
        ("a key is gone", one.join("key.pem"), None),
        ("a key is empty", one.join("key.pem"), Some("")),
        (
            "a key is nonsense",
            one.join("key.pem"),
            Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ),
        ("a key of somebody else", one.join("key.pem"), Some(&other_key)),
        ("a certificate is gone", one.join("certificate.pem"), None),
    ];

    for (what, path, text) in damage {
        let (before, mode) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().permissions());
        match text {
            Some(text) => write(&path, text),
            None => fs::remove_file(&path).unwrap(),
        }
        let listed = fs::read_dir(state.join("authorities")).unwrap().count();
        let told = refusal(world.path()).await;
        assert!(told.contains("authorit"), "{what}: {told}");
        assert_eq!(
            fs::read_dir(state.join("authorities")).unwrap().count(),
            listed,
            "{what}: nothing is made"
        );
        assert_eq!(
            fs::read(&path).ok(),
            text.map(|text| text.as_bytes().to_vec()),
            "{what}: nothing is mended"
        );
        write(&path, std::str::from_utf8(&before).unwrap());
        fs::set_permissions(&path, mode).unwrap();
    }

    let moved = state.join("elsewhere");
    fs::rename(state.join("authorities"), &moved).unwrap();
    let told = refusal(world.path()).await;
    assert!(told.contains("authorities"), "all authorities are gone: {told}");
    fs::rename(&moved, state.join("authorities")).unwrap();

    let mut again = world;
    again.restart().await;
    assert_eq!(again.try_get(Some(&again.identity("caller")), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn peppers_that_are_lost_are_never_made_anew_under_keys_on_file() {
    let mut scene = Scene::guarding("builtin:whoami");
    let key = scene.app_with_key("by-key");
    let mut world = scene.start().await;
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);
    world.signal("TERM");
    assert!(world.ended().await.success());
    let (path, away) = (world.path().join("state/peppers.toml"), world.path().join("state/away"));
    fs::rename(&path, &away).unwrap();

    let told = refusal(world.path()).await;

    assert!(told.contains("peppers.toml is gone"), "{told}");
    assert!(!path.exists());
    fs::rename(&away, &path).unwrap();
    world.restart().await;
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);
}

#[tokio::test]
async fn nothing_is_made_for_a_registry_that_is_wrong_at_the_first_start() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.registry("[[app]]\n");
    scene.write();

    assert!(refusal(scene.path()).await.contains("apps.toml:"));

    assert_eq!(fs::read_dir(scene.path().join("state")).map_or(0, Iterator::count), 0);
}

#[tokio::test]
async fn a_ca_that_may_not_be_read_is_never_made_anew() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    let (world, state) = has_run().await;
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let list = fs::read(state.join("authorities.toml")).unwrap();

    let mut command = postern(world.path());
    command.arg("run").uid(60_001).gid(60_001);
    let Ended { code, told } = ended(command).await;

    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("state") && told.contains("denied"), "{told}");
    assert_eq!(fs::read(state.join("authorities.toml")).unwrap(), list);
}

#[tokio::test]
async fn a_state_directory_serves_one_agent() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let path = world.path().join("postern.toml");
    let config = fs::read_to_string(&path).unwrap();
    write(&path, &config.replace(&world.ip.to_string(), "127.0.0.9").replace("\"run\"", "\"other-run\""));

    let told = refusal(world.path()).await;

    assert!(told.contains("lock"), "{told}");
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    for (port, taken) in [(8443, "8443"), (9464, "9464")] {
        let scene = Scene::guarding("builtin:whoami");
        scene.write();
        let holder = std::net::TcpListener::bind((scene.ip, port)).unwrap();

        let told = refusal(scene.path()).await;

        assert!(told.contains(&format!("{}:{taken}", scene.ip)), "{told}");
        drop(holder);
        let world = scene.start().await;
        assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_port_of_another_agent_is_taken_too() {
    let world = Scene::guarding("builtin:whoami").start().await;
    let mut scene = Scene::new();
    scene.config(&format!("[[listener]]\nid = \"inbound\"\naddress = \"{}:8443\"\n", world.ip));
    scene.write();

    let told = refusal(scene.path()).await;

    assert!(told.contains(&world.address().to_string()), "{told}");
}

#[tokio::test]
async fn two_doors_do_not_share_an_address() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[listener]]\nid = \"second\"\naddress = \"{ip}:8443\"\n");
    scene.write();

    let told = refusal(scene.path()).await;

    assert!(told.contains("listener.second: the address") && told.contains("is taken, see"), "{told}");
}

#[tokio::test]
async fn a_bundle_that_is_none_is_named() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\n");
    scene.write();

    for text in [
        None,
        Some(""),
        Some("<html>not found</html>"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(text) = text {
            write(&scene.path().join("other.pem"), text);
        }
        let told = refusal(scene.path()).await;
        assert!(told.contains("other.pem") || told.contains("other.test"), "{text:?}: {told}");
    }
}

#[tokio::test]
async fn revocation_lists_that_are_none_are_named() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\ncrl = \"other-crl.pem\"\n");
    scene.write();
    let root = ForeignCa::root("their root");
    write(&scene.path().join("other.pem"), &root.pem());

    let whole = root.crl(&[]);
    for text in [None, Some(""), Some("<html>not found</html>"), Some(&whole[..whole.len() / 2])] {
        if let Some(text) = text {
            write(&scene.path().join("other-crl.pem"), text);
        }
        let told = refusal(scene.path()).await;
        assert!(told.contains("other-crl.pem"), "{text:?}: {told}");
    }
    write(&scene.path().join("other-crl.pem"), &whole);
    assert_eq!(scene.start().await.status().await.degraded, [""; 0]);
}

#[tokio::test]
async fn what_is_said_of_stale_lists_needs_lists() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[[trust]]\ndomain = \"other.test\"\nbundle = \"other.pem\"\nstale_crl = \"accept\"\n");
    scene.write();

    let told = refusal(scene.path()).await;

    assert!(told.contains("`stale_crl`") && told.contains("there is no `crl`"), "{told}");
}
