//! The command line as an operator types it, without a running agent.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const CONFIG: &str = r#"
trust_domain = "postern.test"
state_dir = "state"
runtime_dir = "run"
registry = ["registry"]

[[workload]]
id = "web"
spiffe_id = "spiffe://postern.test/web"
"#;

const REGISTRY: &str = r#"# Who may call.
[[developer]]
id = "team"

[[app]]
id = "ledger"
developer = "team"
"#;

/// A folder with a configuration and a registry.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(world.path("registry")).unwrap();
        world.write("postern.toml", CONFIG);
        world.write("registry/apps.toml", REGISTRY);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "nobody reads the file while it is written")]
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn postern(&self, words: &str) -> Answer {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = self.command(&words).output().unwrap();
        Answer::of(&output)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.current_dir(self.folder.path()).args(["--config", "postern.toml"]).args(words);
        command
    }
}

#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_sound_configuration_is_fine() {
    let world = World::new();

    let answer = world.postern("check");
    assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{answer:?}");
    assert_eq!(answer.out, "postern.toml: fine; registry: 1 app, 0 products, 1 developer, 0 credentials\n");
    assert_eq!(
        world.postern("check --json").json(),
        serde_json::json!({ "ok": true, "problems": [], "warnings": [] })
    );
    assert_eq!(world.postern("check --strict").code, 0);
}

#[test]
fn what_is_allowed_and_hardly_meant_fails_a_strict_check_only() {
    let world = World::new();
    let product = "[[product]]\nid = 'orders'\n[[product.operation]]\nservice = 'odrers'\nmethods = ['GET']\npath = '/orders'\n";
    world.write("registry/products.toml", product);

    let answer = world.postern("check");
    assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{answer:?}");
    assert_eq!(
        answer.out,
        "warning: product-unreachable: product.orders: no app that may call has a grant to it that is in force or pending\n\
         warning: service-unknown: product.orders.operation[1].service: the configuration has no service `odrers`\n\
         postern.toml: fine but for 2 warnings; registry: 1 app, 1 product, 1 developer, 0 credentials\n"
    );
    let strict = world.postern("check --strict");
    assert_eq!((strict.code, strict.err.as_str()), (1, "postern: 2 warnings\n"), "{strict:?}");
    assert!(answer.out.starts_with(&strict.out) && !strict.out.contains("fine"), "{strict:?}");
    let json = world.postern("check --json");
    assert_eq!((json.code, &json.json()["ok"]), (0, &serde_json::json!(true)));
    assert_eq!(
        json.json()["warnings"][1],
        serde_json::json!({
            "lint": "service-unknown",
            "key": "product.orders.operation[1].service",
            "message": "the configuration has no service `odrers`",
        })
    );
    assert_eq!(world.postern("check --json --strict").json()["ok"], false);
    // What an agent guards is not known from a configuration that cannot be read.
    world.write("postern.toml", &format!("thraeds = 4\n{CONFIG}"));
    let broken = world.postern("check");
    assert_eq!((broken.code, broken.err.as_str()), (1, "postern: 1 problem, 1 warning\n"), "{broken:?}");
    assert!(broken.out.contains("thraeds") && !broken.out.contains("service-unknown"), "{broken:?}");
}

#[test]
fn every_problem_of_both_is_told_at_once() {
    let world = World::new();
    world.write("postern.toml", &format!("thraeds = 4\n{CONFIG}"));
    world.write("registry/apps.toml", &REGISTRY.replace("\"team\"\n\n", "\"taem\"\n\n"));

    let answer = world.postern("check");
    assert_eq!((answer.code, answer.err.as_str()), (1, "postern: 2 problems\n"), "{answer:?}");
    assert!(
        answer.out.contains("postern.toml:1:1: thraeds: unknown key, did you mean `threads`?"),
        "{answer:?}"
    );
    assert!(answer.out.contains("apps.toml:7:13: app.ledger.developer: "), "{answer:?}");
    let json = world.postern("check --json");
    assert_eq!((json.code, json.json()["problems"][0]["key"].as_str()), (1, Some("thraeds")));
}

#[test]
fn a_missing_configuration_is_named() {
    let world = World::new();

    for words in ["run", "check", "status", "ca status", "key list"] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        let command = command.current_dir(world.folder.path()).args(["--config", "none.toml"]).args(&words);
        let answer = Answer::of(&command.output().unwrap());
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(format!("{}{}", answer.out, answer.err).contains("none.toml: cannot be read"), "{answer:?}");
    }
}

#[test]
fn a_key_is_made_shown_once_listed_and_revoked() {
    let world = World::new();

    let made = world.postern("key create --app ledger --expires 90d");
    assert_eq!(made.code, 0, "{made:?}");
    let key = made.out.trim();
    assert!(key.starts_with("pstn_sk_") && key.len() == 70 && made.out.lines().count() == 1, "{made:?}");
    assert!(!made.err.contains(key));
    let id = &key[8..20];
    let registry = world.read("registry/apps.toml");
    assert!(registry.starts_with(REGISTRY) && registry.contains(id) && !registry.contains(&key[21..]));
    assert_eq!(mode_of(&world.path("state/peppers.toml")), 0o600);

    let listed = world.postern("key list --json").json();
    assert_eq!((listed[0]["id"].as_str(), listed[0]["status"].as_str()), (Some(id), Some("approved")));
    assert!(world.postern("key list").out.contains("(in 8"));

    assert_eq!(world.postern(&format!("key revoke {id}")).code, 0);
    assert!(world.postern(&format!("key revoke {id}")).out.contains("was revoked before"));
    assert_eq!(world.postern("key list --json").json()[0]["status"], "revoked");
}

#[test]
fn a_key_can_go_to_a_file_that_is_never_overwritten() {
    let world = World::new();

    let made = world.postern("key create --app ledger --out key");
    assert_eq!((made.code, made.out.as_str()), (0, ""), "{made:?}");
    assert_eq!(mode_of(&world.path("key")), 0o600);
    let key = world.read("key");

    assert_eq!(world.postern("key create --app ledger --out key").code, 1);
    assert_eq!(world.read("key"), key);
    let unknown = world.postern("key create --app legder --out other");
    assert!(
        unknown.err.contains("no app called `legder` in the registry, did you mean `ledger`?"),
        "{unknown:?}"
    );
    assert!(!world.path("other").exists());
    assert_eq!(world.postern("key list --json").json().as_array().unwrap().len(), 1);
}

#[test]
fn lost_peppers_are_not_made_anew_beside_keys() {
    let world = World::new();
    world.postern("key create --app ledger");
    fs::remove_file(world.path("state/peppers.toml")).unwrap();

    let answer = world.postern("key create --app ledger");

    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("peppers.toml is missing"), "{answer:?}");
}

#[test]
fn the_ca_is_made_once_and_rotated_without_an_agent() {
    let world = World::new();

    assert_eq!(world.postern("ca status").code, 3);
    assert_eq!(world.postern("ca bundle").code, 3);
    assert!(world.postern("ca rotate").err.contains("there is no CA yet"));
    assert_eq!(world.postern("ca init").code, 0);
    let bundle = world.postern("ca bundle").out;
    let again = world.postern("ca init");
    assert!(again.code == 0 && again.err.contains("already"), "{again:?}");

    let rotated = world.postern("ca rotate");
    assert_eq!(rotated.code, 0, "{rotated:?}");
    let slots = |world: &World| {
        let json = world.postern("ca status --json").json();
        let slots = json["authorities"].as_array().unwrap().iter();
        slots.map(|one| one["slot"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(slots(&world), ["active", "active", "retired"]);
    let prepared = world.postern("ca prepare").out;
    assert_eq!(slots(&world), ["active", "active", "prepared", "retired"]);
    assert_eq!(world.postern("ca activate").out, prepared);
    assert_eq!(slots(&world), ["active", "active", "retired", "retired"]);
    assert!(world.postern("ca discard").err.contains("no issuing authority is prepared"));
    assert_eq!(world.postern("ca bundle").out, bundle);
}

#[test]
fn a_root_is_rolled_over_and_back_without_an_agent_only_by_force() {
    let world = World::new();
    assert_eq!(world.postern("ca init").code, 0);
    let active = || {
        let json = world.postern("ca status --json").json();
        json["authorities"][0]["id"].as_str().unwrap().to_owned()
    };
    let (first, bundle) = (active(), world.postern("ca bundle").out);

    let rehearsed = world.postern("ca rotate --root --dry-run");
    assert!(rehearsed.code == 0 && rehearsed.err.contains("nothing was changed"), "{rehearsed:?}");
    assert_eq!(world.postern("ca bundle").out, bundle);

    let refused = world.postern("ca rotate --root");
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("waits for the agent, which is not running, other hosts"), "{refused:?}");
    let both = world.postern("ca bundle").out;
    assert!(both.len() > bundle.len() && both.contains(&bundle), "the next root is made known");
    let prepared = world.postern("ca prepare --root");
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let forced = world.postern("ca activate --root --force");
    assert!(forced.code == 0 && forced.err.contains("Left behind: other hosts"), "{forced:?}");
    assert_eq!((format!("{}\n", active()), &forced.out), (prepared.out.clone(), &prepared.out));

    assert_eq!(world.postern("ca rollback --root").out, format!("{first}\n"));
    assert_eq!(active(), first);
    let next = prepared.out.trim();
    assert_eq!(world.postern(&format!("ca retire --root {next}")).code, 3);
    assert_eq!(world.postern(&format!("ca retire --root {next} --force")).code, 0);
    assert_eq!(world.postern(&format!("ca retire --root {next}")).code, 0, "gone already");
    assert_eq!(world.postern("ca bundle").out, bundle);
    assert_eq!(world.postern("ca rollback --root").code, 1);
}

#[test]
fn a_certificate_is_written_and_never_over_another() {
    let world = World::new();
    world.postern("ca init");

    let made = world.postern("cert issue web --out a");
    assert_eq!(made.code, 0, "{made:?}");
    assert_eq!(made.out, "a/key.pem\na/chain.pem\na/bundle.pem\n");
    assert_eq!((mode_of(&world.path("a")), mode_of(&world.path("a/key.pem"))), (0o700, 0o600));
    assert_eq!(world.read("a/chain.pem").matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(world.read("a/bundle.pem"), world.postern("ca bundle").out);

    let key = world.read("a/key.pem");
    assert!(world.postern("cert issue web --out a").err.contains("a/key.pem exists"));
    assert_eq!(world.read("a/key.pem"), key);
    assert_eq!(world.postern("cert issue web --out a --force").code, 0);
    assert_ne!(world.read("a/key.pem"), key);
}

#[test]
fn without_an_agent_what_is_revoked_is_in_the_published_lists_at_once() {
    let world = World::new();
    world.postern("ca init");
    let rehearsed = world.postern("cert issue web --out a --dry-run");
    assert!(rehearsed.code == 0 && !world.path("a").exists(), "{rehearsed:?}");
    world.postern("cert issue web --out a");
    let refuses = || {
        let lists = world.read("state/crl.pem");
        let lists = postern::store::pem::crls(lists.as_bytes()).unwrap();
        let entries = lists.iter().map(|list| {
            let (_, list) = x509_parser::parse_x509_crl(list).unwrap();
            list.iter_revoked_certificates().map(|entry| entry.raw_serial_as_string()).collect::<Vec<_>>()
        });
        entries.collect::<Vec<_>>().concat()
    };
    assert_eq!(refuses(), [""; 0]);

    let rehearsed = world.postern("cert revoke --certificate a/chain.pem --dry-run");
    assert!(rehearsed.code == 0 && rehearsed.err.contains("nothing was changed"), "{rehearsed:?}");
    assert_eq!((refuses().len(), world.path("state/revocations.toml").exists()), (0, false));
    let revoked = world.postern("cert revoke --certificate a/chain.pem --reason superseded");
    assert_eq!(revoked.code, 0, "{revoked:?}");

    let serial = refuses().concat().replace(':', "");
    assert!(revoked.err.contains(&format!("serial:{serial} is revoked")), "{serial}: {revoked:?}");
    assert_eq!(world.postern("ca crl").out, world.read("state/crl.pem"));
    let unreadable = world.postern("cert revoke --certificate a/key.pem");
    assert_eq!(unreadable.code, 1, "{unreadable:?}");
    world.postern(&format!("cert unrevoke serial:{serial}"));
    assert_eq!(refuses(), [""; 0]);
}

#[test]
fn without_an_agent_an_authority_is_revoked_and_cannot_come_back() {
    let world = World::new();
    world.postern("ca init");
    let authority = |level: &str| {
        let json = world.postern("ca status --json").json();
        let all = json["authorities"].as_array().unwrap().clone();
        let found = all.iter().find(|one| one["level"] == level && one["slot"] == "active");
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let (root, issuing) = (authority("root"), authority("issuing"));

    let revoked = world.postern(&format!("ca revoke {issuing}"));
    assert_eq!((revoked.code, revoked.out.as_str()), (0, format!("{issuing}\n").as_str()), "{revoked:?}");
    assert_ne!(authority("issuing"), issuing);
    assert!(world.postern("ca status").out.contains("retired, REVOKED"));
    assert_eq!(world.postern("ca rollback").code, 1);

    assert_eq!(world.postern(&format!("ca revoke --root {root}")).code, 3);
    let forced = world.postern(&format!("ca revoke --root --force {root}"));
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(world.read("state/bundle.pem").matches("BEGIN CERTIFICATE").count(), 1);
    assert_ne!(authority("root"), root);
    assert_eq!(world.postern(&format!("ca revoke --root {root}")).code, 0, "it is done already");
    assert_eq!(world.postern("ca revoke 0123456789abcdef").code, 1);
}

#[test]
fn certificates_are_for_our_own_and_fit_their_authority() {
    let world = World::new();
    world.postern("ca init");

    let ours = "cert issue --spiffe-id spiffe://postern.test/guest --dns guest.test --ttl 10m --out b";
    assert_eq!(world.postern(ours).code, 0);
    for (words, reason) in [
        ("cert issue wbe --out c", "there is no workload wbe"),
        ("cert issue --spiffe-id spiffe://other.test/guest --out c", "not of the trust domain postern.test"),
        (
            "cert issue --spiffe-id spiffe://postern.test/guest --ttl 30d --out c",
            "a leaf that lives 30 d needs",
        ),
    ] {
        let answer = world.postern(words);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.err.contains(reason), "{answer:?}");
    }
    assert!(!world.path("c").exists());
}

#[test]
fn without_an_agent_that_is_said() {
    let world = World::new();

    for words in ["status", "explain --path /x", "cert list", "cert renew web"] {
        let answer = world.postern(words);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.err.starts_with("postern: no agent is running: nobody listens on "), "{answer:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let mut child = world
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    drop(child.stdout.take());
    let answer = Answer::of(&child.wait_with_output().unwrap());

    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
}

#[test]
fn wrong_usage_is_told_apart() {
    let world = World::new();

    assert_eq!(world.postern("sing").code, 2);
    assert_eq!(world.postern("--help").code, 0);
    assert_eq!(world.postern("ca").code, 2);
}
