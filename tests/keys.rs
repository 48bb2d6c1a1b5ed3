//! Where the keys of the authorities are: in plain files, under a passphrase, or on a token; an agent lives with each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scene, World, eventually, write};

const PASSPHRASE: &str = "eleven blue herons over the weir";
const PIN: &str = "48151623";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn postern(folder: &Path, words: &str) -> Outcome {
    outcome(support::world::postern(folder).args(words.split_whitespace()))
}

fn does(folder: &Path, words: &str) -> String {
    let outcome = postern(folder, words);
    assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
    outcome.out
}

fn refuses(folder: &Path, words: &str) -> String {
    let outcome = postern(folder, words);
    assert_eq!(outcome.code, 1, "{words}: {outcome:?}");
    outcome.err
}

/// A file for the agent's eyes only.
fn secret(folder: &Path, name: &str, text: &str) {
    write(&folder.join(name), text);
    fs::set_permissions(folder.join(name), Permissions::from_mode(0o600)).unwrap();
}

/// A guarded agent with `authority` as its section on the authorities.
fn scene(authority: &str) -> Scene {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config(authority);
    scene
}

/// What tells the keys of two moments apart: every file of every authority.
fn key_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for authority in fs::read_dir(folder.join("state/authorities")).unwrap() {
        for file in fs::read_dir(authority.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("key.") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files.sort();
    files
}

fn kinds(folder: &Path) -> Vec<&'static str> {
    let kind = |text: &str| match text.lines().next().unwrap() {
        "-----BEGIN PRIVATE KEY-----" => "plain",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----" => "encrypted",
        _ => "token",
    };
    let mut kinds: Vec<&str> = key_files(folder).iter().map(|(_, text)| kind(text)).collect();
    kinds.sort_unstable();
    kinds
}

/// Every file below `folder` that holds `text`, but for `except`.
fn holding(folder: &Path, text: &str, except: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !except.contains(&path.file_name().unwrap().to_str().unwrap()) {
                let bytes = fs::read(&path).unwrap();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// Serves a request, is restarted, serves another, is rolled over on both levels and serves a third.
async fn lives(world: &mut World) {
    let served = async |world: &World, when: &str| {
        let answer = world.try_get(Some(&world.identity("caller")), "").await.unwrap();
        assert_eq!(answer.status, 200, "{when}: {answer:?}");
    };
    served(world, "at first").await;
    let before = key_files(world.path());
    world.restart().await;
    served(world, "after a restart").await;
    assert_eq!(key_files(world.path()), before, "a restart leaves the keys alone");
    for words in ["ca rotate", "ca rotate --root --force"] {
        let folder = world.path().to_owned();
        tokio::task::spawn_blocking(move || does(&folder, words)).await.unwrap();
        served(world, words).await;
    }
    assert_eq!(key_files(world.path()).len(), 5);
    let all = key_files(world.path());
    assert!(before.iter().all(|one| all.contains(one)), "a roll-over leaves the keys from before alone");
    world.restart().await;
    served(world, "after a roll-over and a restart").await;
    assert_eq!(key_files(world.path()), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_with_plain_keys() {
    let mut world = scene("").start().await;

    lives(&mut world).await;

    assert_eq!(kinds(world.path()), ["plain"; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_with_keys_under_a_passphrase_and_never_tells_it() {
    for settings in ["passphrase_file = \"words\"", "passphrase_credential = \"words\""] {
        let scene = scene(&format!("[authority]\n{settings}\n"));
        let place = if settings.contains("file") { "words" } else { "credentials/words" };
        secret(scene.path(), place, &format!("{PASSPHRASE}\n"));
        let mut world = scene.start().await;

        lives(&mut world).await;

        assert_eq!(kinds(world.path()), ["encrypted"; 5], "{settings}");
        assert_eq!(holding(world.path(), PASSPHRASE, &[]), [world.path().join(place)], "{settings}");
    }
}

#[test]
fn a_passphrase_that_comes_changes_and_goes_is_carried_over_by_a_rekey() {
    let scene = scene("[authority]\n# passphrase\n");
    let folder = scene.path();
    scene.init_ca();
    let config = fs::read_to_string(folder.join("postern.toml")).unwrap();
    let says = |line: &str| write(&folder.join("postern.toml"), &config.replace("# passphrase", line));
    assert_eq!(kinds(folder), ["plain", "plain"]);
    let status = does(folder, "ca status --json");

    secret(folder, "words", PASSPHRASE);
    says("passphrase_file = \"words\"");
    let error = refuses(folder, "ca status");
    assert!(error.contains("key.pem is not encrypted") && error.contains("postern ca rekey"), "{error}");
    does(folder, "ca rekey");
    assert_eq!(kinds(folder), ["encrypted", "encrypted"]);
    assert_eq!(does(folder, "ca status --json"), status);

    secret(folder, "other", "twelve red kites");
    says("passphrase_file = \"other\"");
    let error = refuses(folder, "ca status");
    assert!(error.contains("does not open") && error.contains("--former-passphrase-file"), "{error}");
    assert!(refuses(folder, "ca rekey").contains("does not open"));
    does(
        folder,
        "ca rekey --former-passphrase-file {}".replace("{}", folder.join("words").to_str().unwrap()).as_str(),
    );
    assert_eq!(does(folder, "ca status --json"), status);

    says("");
    let error = refuses(folder, "ca status");
    assert!(error.contains("is encrypted and no passphrase is configured"), "{error}");
    does(
        folder,
        "ca rekey --former-passphrase-file {}".replace("{}", folder.join("other").to_str().unwrap()).as_str(),
    );
    assert_eq!(kinds(folder), ["plain", "plain"]);
    assert_eq!(does(folder, "ca status --json"), status);
    assert!(postern(folder, "ca rekey").err.contains("0 key files written anew"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_not_rewritten_under_a_running_agent() {
    let world = scene("").start().await;

    let folder = world.path().to_owned();
    let error = tokio::task::spawn_blocking(move || refuses(&folder, "ca rekey")).await.unwrap();

    assert!(error.contains("an agent is running on these keys: stop it first"), "{error}");
}

#[test]
fn a_passphrase_that_is_none_is_refused_before_anything_is_made() {
    let scene = scene("[authority]\npassphrase_file = \"words\"\n");
    scene.write();
    let folder = scene.path();

    assert!(refuses(folder, "ca init").contains("/words"), "it is not there");
    secret(folder, "words", "\n");
    assert!(refuses(folder, "ca init").contains("words is empty"));
    secret(folder, "words", "one\ntwo\n");
    assert!(refuses(folder, "ca init").contains("on one line"));
    secret(folder, "words", PASSPHRASE);
    fs::set_permissions(folder.join("words"), Permissions::from_mode(0o644)).unwrap();
    let error = refuses(folder, "ca init");
    assert!(error.contains("has mode 0644") && !error.contains(PASSPHRASE), "{error}");
    assert!(!folder.join("state/authorities").exists());

    fs::set_permissions(folder.join("words"), Permissions::from_mode(0o600)).unwrap();
    does(folder, "ca init");
    assert_eq!(kinds(folder), ["encrypted", "encrypted"]);
}

#[test]
fn openssl_opens_what_an_operator_has_on_disk() {
    let scene = scene("[authority]\npassphrase_file = \"words\"\nkey = \"p384\"\n");
    secret(scene.path(), "words", PASSPHRASE);
    scene.init_ca();

    for (path, _) in key_files(scene.path()) {
        let mut command = Command::new("openssl");
        command.arg("pkcs8").arg("-in").arg(&path).arg("-passin");
        let key = outcome(command.arg(format!("file:{}", scene.path().join("words").display())));
        assert!(key.out.starts_with("-----BEGIN PRIVATE KEY-----"), "{key:?}");
        let mut command = Command::new("openssl");
        let wrong = outcome(command.arg("pkcs8").arg("-in").arg(&path).args(["-passin", "pass:x"]));
        assert_ne!(wrong.code, 0);
    }
}

// On a token.

/// Whether there is a module to talk to; it is installed if that can be done.
fn has_token_module() -> bool {
    let complete =
        || Path::new(MODULE).exists() && Command::new("softhsm2-util").arg("--version").output().is_ok();
    if !complete() && rustix::process::geteuid().is_root() {
        let mut command = Command::new("apt-get");
        drop(command.args(["install", "-qq", "-y", "softhsm2"]).output());
    }
    let found = complete();
    if !found {
        println!("skipped: softhsm2 is not installed");
    }
    found
}

fn softhsm(folder: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("softhsm2-util");
    command.env("SOFTHSM2_CONF", folder.join("softhsm2.conf")).args(arguments);
    outcome(&mut command)
}

fn make_token(folder: &Path) {
    let tokens = folder.join("tokens");
    fs::create_dir_all(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    write(&folder.join("softhsm2.conf"), &text);
    let made =
        softhsm(folder, &["--init-token", "--free", "--label", "ca", "--so-pin", "98765432", "--pin", PIN]);
    assert_eq!(made.code, 0, "{made:?}");
    secret(folder, "pin", &format!("{PIN}\n"));
}

fn token_section(more: &str) -> String {
    format!(
        "[authority]\nkeys = \"pkcs11\"\n{more}\n[authority.pkcs11]\nmodule = \"{MODULE}\"\ntoken = \"ca\"\npin_file = \"pin\"\n"
    )
}

/// An agent that is to keep its keys on a token of its own.
fn token_scene(more: &str) -> Scene {
    let scene = scene(&token_section(more));
    make_token(scene.path());
    scene
}

/// How many private keys and public keys are on the token. SoftHSM keeps each object in a file of its own.
fn objects(folder: &Path) -> usize {
    let mut count = 0;
    for token in fs::read_dir(folder.join("tokens")).unwrap() {
        let files = fs::read_dir(token.unwrap().path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        count += names.filter(|name| name.ends_with(".object") && name != "token.object").count();
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_with_keys_on_a_token_and_never_tells_the_pin() {
    if !has_token_module() {
        return;
    }
    for key in ["p256", "p384", "ed25519"] {
        let mut world = token_scene(&format!("key = \"{key}\"\n")).start().await;

        lives(&mut world).await;

        assert_eq!(kinds(world.path()), ["token"; 5], "{key}");
        assert_eq!(objects(world.path()), 10, "{key}");
        assert_eq!(holding(world.path(), PIN, &[]), [world.path().join("pin")], "{key}");
        assert_eq!(holding(&world.path().join("state"), "PRIVATE KEY", &[]), Vec::<PathBuf>::new(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_move_from_files_to_a_token_with_their_authorities() {
    if !has_token_module() {
        return;
    }
    let scene = scene("[authority]\n# keys\n");
    make_token(scene.path());
    scene.init_ca();
    let folder = scene.path().to_owned();
    let config = fs::read_to_string(folder.join("postern.toml")).unwrap();
    write(&folder.join("postern.toml"), &config.replace("[authority]\n", &token_section("")));

    does(&folder, "ca rotate");
    assert_eq!(kinds(&folder), ["plain", "plain", "token"]);
    does(&folder, "ca rotate --root --force");
    assert_eq!(kinds(&folder), ["plain", "plain", "token", "token", "token"]);

    // A passphrase is for files alone.
    let with_words =
        format!("passphrase_file = \"words\"\n{}", token_section("").replace("[authority]\n", ""));
    secret(&folder, "words", PASSPHRASE);
    write(
        &folder.join("postern.toml"),
        &config.replace("[authority]\n", &format!("[authority]\n{with_words}")),
    );
    let rekeyed = postern(&folder, "ca rekey").err;
    assert!(
        rekeyed.contains("2 key files written anew") && rekeyed.contains("3 keys on the token"),
        "{rekeyed}"
    );
    assert_eq!(kinds(&folder), ["encrypted", "encrypted", "token", "token", "token"]);
    does(&folder, "ca status");
    write(&folder.join("postern.toml"), &config.replace("[authority]\n", &token_section("")));
    let words = folder.join("words").display().to_string();
    does(&folder, &format!("ca rekey --former-passphrase-file {words}"));

    // And back: the token stays configured for as long as something is on it.
    write(
        &folder.join("postern.toml"),
        &config.replace("[authority]\n", &token_section("").replace("\"pkcs11\"", "\"files\"")),
    );
    does(&folder, "ca rotate");
    assert_eq!(kinds(&folder).iter().filter(|kind| **kind == "plain").count(), 3);
    write(&folder.join("postern.toml"), &config);
    let error = refuses(&folder, "ca status");
    assert!(error.contains("names a key on a token and no token is configured"), "{error}");
}

#[test]
fn what_is_missing_of_a_token_is_named() {
    if !has_token_module() {
        return;
    }
    let scene = token_scene("");
    let folder = scene.path();
    scene.init_ca();
    let config = fs::read_to_string(folder.join("postern.toml")).unwrap();
    let says = |from: &str, to: &str| {
        assert!(config.contains(from));
        write(&folder.join("postern.toml"), &config.replace(from, to));
        refuses(folder, "ca status")
    };
    does(folder, "ca status");

    let error = says(MODULE, "/nonexistent/module.so");
    assert!(error.contains("the PKCS#11 module /nonexistent/module.so cannot be used"), "{error}");
    let error = says("token = \"ca\"", "token = \"cb\"");
    assert!(error.contains("there is no token \"cb\"") && error.contains("knows \"ca\""), "{error}");
    let error = says("pin_file = \"pin\"", "pin_file = \"nip\"");
    assert!(
        error.contains("the PIN of the token \"ca\" cannot be read") && error.contains("/nip"),
        "{error}"
    );
    write(&folder.join("postern.toml"), &config);
    secret(folder, "pin", "11111111");
    let error = refuses(folder, "ca status");
    assert!(error.contains("the token \"ca\" refuses the PIN") && !error.contains("11111111"), "{error}");
    secret(folder, "pin", PIN);
    fs::set_permissions(folder.join("pin"), Permissions::from_mode(0o640)).unwrap();
    assert!(refuses(folder, "ca status").contains("has mode 0640"));
    secret(folder, "pin", PIN);
    does(folder, "ca status");

    // The keys of one authority in the place of another's, a key that is gone, and a reference that was edited.
    let files = key_files(folder);
    let [(first, one), (second, other)] = files.as_slice() else { panic!("{files:?}") };
    write(first, other);
    assert!(refuses(folder, "ca status").contains("the key does not belong to the certificate"));
    let fingerprint = |text: &str| text.lines().last().unwrap().to_owned();
    write(first, &one.replace(&fingerprint(one), &fingerprint(other)));
    assert!(refuses(folder, "ca status").contains("is not the one that"), "{one}");
    write(first, &one.replace("label = \"postern-", "label = \"postern-0"));
    assert!(refuses(folder, "ca status").contains("the token \"ca\" has no key labelled \"postern-0"));
    write(first, "version = 2\n");
    assert!(refuses(folder, "ca status").contains("key.toml is damaged"));
    write(first, one);
    write(second, other);
    does(folder, "ca status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_authorities_that_are_gone_are_destroyed_and_no_others() {
    if !has_token_module() {
        return;
    }
    let scene = token_scene("");
    let folder = scene.path().to_owned();
    // Somebody else's key, whose label looks like one of ours.
    let mut foreign = Command::new("openssl");
    foreign.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
    assert_eq!(outcome(foreign.arg(folder.join("foreign.pem"))).code, 0);
    let path = folder.join("foreign.pem").display().to_string();
    let import = [
        "--import",
        &path,
        "--token",
        "ca",
        "--pin",
        PIN,
        "--label",
        "postern-of-another-host",
        "--id",
        "aa",
    ];
    assert_eq!(softhsm(&folder, &import).code, 0);
    assert_eq!(objects(&folder), 2);

    scene.init_ca();
    assert_eq!(objects(&folder), 6);
    does(&folder, "ca prepare");
    assert_eq!(objects(&folder), 8);
    does(&folder, "ca discard");
    assert_eq!(objects(&folder), 6);
    does(&folder, "ca prepare --dry-run");
    does(&folder, "ca rotate --dry-run");
    assert_eq!(objects(&folder), 6, "what is only tried out leaves nothing on the token");

    // An object that a crash has left: it is in the journal, and nothing names it.
    does(&folder, "ca prepare");
    let before = key_files(&folder);
    let prepared = postern(&folder, "ca prepare").out.trim().to_owned();
    let manifest = fs::read_to_string(folder.join("state/authorities.toml")).unwrap();
    let entry = manifest.split("[[").find(|entry| entry.contains(&prepared)).unwrap();
    let without = manifest.replace(&format!("[[{entry}"), "");
    // The checksum stands in comments, and a file without it is one from before there were any.
    let without: Vec<&str> =
        without.lines().filter(|line| !line.contains("checksum") && !line.contains("sha256:")).collect();
    write(&folder.join("state/authorities.toml"), &without.join("\n"));
    assert_eq!(before.len(), 3);
    does(&folder, "ca rotate");
    assert_eq!(objects(&folder), 8, "root, former and present issuing authority, and the other host's");
    let journal = fs::read_to_string(folder.join("state/token-keys")).unwrap();
    assert_eq!(journal.lines().count(), 3, "{journal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_goes_away_holds_up_issuing_until_it_is_back() {
    if !has_token_module() {
        return;
    }
    let mut scene = token_scene("root_ttl = \"600s\"\nissuing_ttl = \"120s\"\ndistribute = \"1s\"\n");
    scene.config("[leaf]\nttl = \"6s\"\n");
    let world = scene.start().await;
    let folder = world.path().to_owned();
    let generation =
        async || world.status().await.workloads.iter().map(|one| one.serial.clone()).collect::<Vec<_>>();
    let first = generation().await;
    eventually("a renewal with the token", async || (generation().await != first).then_some(())).await;

    let command = async |words: &'static str| {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || does(&folder, words)).await.unwrap();
    };
    command("ca prepare").await;
    assert_eq!(objects(&folder), 6);

    let token = fs::read_dir(folder.join("tokens")).unwrap().next().unwrap().unwrap().path();
    fs::rename(&token, folder.join("away")).unwrap();
    let log = world.log_with("identity not renewed").await;
    assert!(log.contains("the authority's key did not sign the certificate: there is no token"), "{log}");
    command("ca discard").await;
    assert!(world.log().contains("state directory left untidy"));
    fs::rename(folder.join("away"), &token).unwrap();

    let held = generation().await;
    eventually("a renewal when it is back", async || (generation().await != held).then_some(())).await;
    assert_eq!(objects(&folder), 6, "the discarded key could not be destroyed");
    command("ca prepare").await;
    assert_eq!(objects(&folder), 6, "it was destroyed with the next commit");
    let answer = world.try_get(Some(&world.identity("caller")), "").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_that_was_refused_is_overcome_by_another_and_never_told() {
    if !has_token_module() {
        return;
    }
    let mut scene = token_scene("root_ttl = \"600s\"\nissuing_ttl = \"120s\"\ndistribute = \"1s\"\n");
    scene.config("[leaf]\nttl = \"6s\"\n");
    let world = scene.start().await;
    let folder = world.path().to_owned();
    let token = fs::read_dir(folder.join("tokens")).unwrap().next().unwrap().unwrap().path();

    // It has to log in again, and finds another PIN.
    secret(&folder, "pin", "22222222");
    fs::rename(&token, folder.join("away")).unwrap();
    world.log_with("identity not renewed").await;
    fs::rename(folder.join("away"), &token).unwrap();
    let log = world.log_with("refuses the PIN; it is not tried again until another one is there").await;
    assert!(!log.contains("22222222") && !log.contains(PIN));

    secret(&folder, "pin", PIN);
    let serial = async || world.status().await.workloads[0].serial.clone();
    let held = serial().await;
    eventually("a renewal with the right one", async || (serial().await != held).then_some(())).await;
}

#[test]
fn settings_that_contradict_themselves_are_refused_where_they_stand() {
    let scene = scene("[authority]\n# more\n");
    scene.write();
    let folder = scene.path();
    let config = fs::read_to_string(folder.join("postern.toml")).unwrap();
    let check = |more: &str| {
        write(&folder.join("postern.toml"), &config.replace("# more", more));
        postern(folder, "check")
    };
    assert_eq!(check("").code, 0);
    assert_eq!(check("passphrase_file = \"words\"").code, 0);
    assert_eq!(check("passphrase_credential = \"ca.words\"").code, 0);

    for (more, said) in [
        (
            "passphrase_file = \"a\"\npassphrase_credential = \"b\"",
            "`passphrase_file` and `passphrase_credential` exclude",
        ),
        ("passphrase_credential = \"../b\"", "expected the name of a systemd credential"),
        ("keys = \"pkcs11\"", "keys on a token need [authority.pkcs11]"),
        ("keys = \"tpm\"", "authority.keys"),
        ("[authority.pkcs11]\nmodule = \"m.so\"\ntoken = \"ca\"", "expected `pin_file` or `pin_credential`"),
        ("[authority.pkcs11]\nmodule = \"m.so\"\npin_file = \"pin\"", "token"),
        ("[authority.pkcs11]\nmodule = \"m.so\"\ntoken = \"ca\"\npin_file = \"pin\"\npin = \"1\"", "pin"),
    ] {
        let outcome = check(more);
        assert!(outcome.code == 1 && outcome.out.contains(said), "{more}: {outcome:?}");
    }
}
