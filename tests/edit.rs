//! Developers, apps, products, grants and keys are edited from the command line: whole, written down, and in force at once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock, Timestamp};
use serde_json::Value;
use support::world::{GRANT, postern};
use support::{Answer, Scene, Service, Talk, Tls, World};
use tokio::time::Instant;

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

fn run(folder: &Path, words: &[&str]) -> Outcome {
    outcome(postern(folder).args(words))
}

/// What a command prints that does as it is told.
fn does(folder: &Path, words: &str) -> String {
    let outcome = run(folder, &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{words}: {outcome:?}");
    outcome.out
}

/// What a command says that does not.
fn refuses(folder: &Path, words: &str) -> String {
    let outcome = run(folder, &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(outcome.code, 1, "{words}: {outcome:?}");
    outcome.err
}

fn json(folder: &Path, words: &str) -> Value {
    serde_json::from_str(&does(folder, words)).unwrap()
}

/// The audit log's records.
fn records(folder: &Path) -> Vec<Value> {
    json(folder, "audit show --json").as_array().unwrap().clone()
}

/// A place with an empty registry and no agent.
fn place() -> Scene {
    let scene = Scene::new();
    scene.write();
    scene
}

#[test]
fn from_nothing_to_a_granted_app_and_back() {
    let scene = place();
    let at = scene.path();

    does(at, "developer create team");
    does(at, "app create ledger --developer team");
    does(at, "product create orders --scope orders:read");
    does(at, "product add-operation orders --service orders --method GET --path /orders/**");
    does(at, "grant add ledger orders --expires 90d --pending");
    let key = does(at, "key create --app ledger --expires 30d");
    let id = json(at, "key list --json")[0]["id"].as_str().unwrap().to_owned();
    assert!(key.starts_with(&format!("pstn_sk_{id}_")));
    assert_eq!(json(at, "grant list --json")[0]["status"], "pending");
    does(at, "grant approve ledger orders");
    let app = json(at, "app show ledger --json");
    assert_eq!(app["grants"][0]["status"], "approved");
    assert_eq!(app["credentials"][0]["id"].as_str(), Some(&*id));
    let product = json(at, "product show orders --json");
    assert_eq!(product["operations"][0]["path"], "/orders/**");
    assert_eq!(product["granted_to"][0], "ledger");
    assert_eq!(json(at, "developer list --json")[0]["apps"][0], "ledger");
    for words in [
        "developer list",
        "developer show team",
        "app list",
        "app show ledger",
        "product list",
        "product show orders",
    ] {
        assert!(!does(at, words).is_empty(), "{words}");
    }

    assert!(refuses(at, "developer delete team").contains("is in use by app ledger"));
    assert!(refuses(at, "app delete ledger").contains(&format!("is in use by credential {id}")));
    assert!(refuses(at, "product delete orders").contains("is in use by the grant of app ledger"));
    does(at, "developer deactivate team");
    does(at, "app revoke ledger");
    does(at, &format!("key revoke {id}"));
    assert!(refuses(at, &format!("key approve {id}")).contains("that for good"));
    does(at, &format!("key delete {id}"));
    does(at, "grant remove ledger orders");
    does(at, "app delete ledger");
    does(at, "product delete orders");
    does(at, "developer delete team");
    assert_eq!(json(at, "app list --json"), Value::Array(Vec::new()));

    let told: Vec<String> = records(at)
        .iter()
        .map(|one| format!("{} {} {}", one["verb"], one["target"], one["outcome"]).replace('"', ""))
        .collect();
    assert_eq!(told.first().unwrap(), "developer.create developer:team done");
    assert_eq!(told.iter().filter(|one| one.ends_with("refused")).count(), 4, "{told:?}");
    assert_eq!(told.iter().filter(|one| one.ends_with("done")).count(), 15, "{told:?}");
    does(at, "audit verify");
}

#[test]
fn a_grant_that_is_added_is_as_its_product_wants_it_or_as_the_command_says() {
    let scene = place();
    let at = scene.path();
    does(at, "developer create team");
    does(at, "app create ledger --developer team");
    let text = "[[product]]\nid = \"orders\"\n[[product]]\nid = \"wages\"\napproval = \"manual\"\n";
    support::write(&at.join("registry/products.toml"), text);
    let status = |words: &str| {
        let told = does(at, &format!("grant add ledger {words}"));
        let on_file = json(at, "grant list --json")[0]["status"].as_str().unwrap().to_owned();
        assert!(told.contains(&format!("({on_file})")), "{told}");
        does(at, &format!("grant remove ledger {}", words.split(' ').next().unwrap()));
        on_file
    };

    assert_eq!(status("orders"), "approved");
    assert_eq!(status("orders --pending"), "pending");
    assert_eq!(status("wages"), "pending");
    assert_eq!(status("wages --approved"), "approved");
}

#[test]
fn an_edit_is_written_down_with_who_and_why_and_from_what_to_what() {
    let scene = place();
    let at = scene.path();
    does(at, "developer create team");

    let words =
        ["developer", "deactivate", "team", "--reason", "left us; key pstn_sk_x_leaked was in a chat"];
    let mut command = postern(at);
    let done = outcome(command.args(words).env("SUDO_UID", "1234"));

    assert_eq!(done.code, 0, "{done:?}");
    let record = records(at).pop().unwrap();
    assert_eq!(record["verb"], "developer.deactivate");
    assert_eq!(record["target"], "developer:team");
    assert_eq!((&record["before"], &record["after"]), (&Value::from("active"), &Value::from("inactive")));
    assert_eq!(record["reason"], "left us; key pstn_… was in a chat");
    let uid = rustix::process::getuid();
    assert_eq!(record["uid"], uid.as_raw());
    if uid.is_root() {
        assert_eq!((&record["actor"], &record["sudo_uid"]), (&Value::from("root"), &Value::from(1234)));
    }
    assert_eq!(record["registry"].as_str().unwrap().len(), 12);
    assert_eq!(json(at, "audit show --json --target nobody"), Value::Array(Vec::new()));
    assert_eq!(json(at, "audit show --json --since 1h --target team").as_array().unwrap().len(), 2);
}

#[test]
fn a_dry_run_shows_what_would_change_and_changes_nothing() {
    let scene = place();
    let at = scene.path();
    does(at, "developer create team");
    let before = fs::read_to_string(at.join("registry/developers.toml")).unwrap();

    let shown = does(at, "developer deactivate team --dry-run");

    assert!(shown.contains("\n id = \"team\"\n+status = \"inactive\"\n"), "{shown}");
    assert_eq!(fs::read_to_string(at.join("registry/developers.toml")).unwrap(), before);
    assert_eq!(records(at).len(), 1);
    let shown = does(at, "app create ledger --developer team --file new.toml --dry-run");
    assert!(shown.contains("+[[app]]\n"), "{shown}");
    assert!(!at.join("registry/new.toml").exists());
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let scene = place();
    let at = scene.path();
    does(at, "developer create team");
    let before = fs::read_to_string(at.join("registry/developers.toml")).unwrap();
    fs::remove_dir_all(at.join("state/audit")).unwrap();
    support::write(&at.join("state/audit"), "in the way");

    let told = refuses(at, "developer deactivate team");

    assert!(told.contains("nothing was changed, for it cannot be written into the audit log"), "{told}");
    assert_eq!(fs::read_to_string(at.join("registry/developers.toml")).unwrap(), before);
}

#[test]
fn edits_at_the_same_time_all_take_place_and_are_all_written_down() {
    let scene = place();
    let at = scene.path();
    does(at, "developer create team");

    std::thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || does(at, &format!("app create a{number} --developer team")));
        }
    });

    assert_eq!(json(at, "app list --json").as_array().unwrap().len(), 6);
    assert_eq!(records(at).len(), 7);
    does(at, "audit verify");
}

/// An edit must be in force after this time.
const IN_FORCE: Duration = Duration::from_secs(1);

/// Asks every 10 ms, on one connection, until the answer has `status` and `code`.
async fn until(talk: &mut Talk<Tls>, line: &str, expected: (u16, &str), begun: Instant) -> Duration {
    loop {
        let answer: Answer = talk.get("/a", line).await;
        if (answer.status, answer.code().as_str()) == expected {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < IN_FORCE, "expected {expected:?}, still {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn obey(world: &World, words: String) {
    let at = world.path().to_owned();
    tokio::task::spawn_blocking(move || does(&at, &words)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_revoked_is_refused_within_a_second_on_a_live_connection() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let other = scene.key();
    scene.registry("[[developer]]\nid = \"other-team\"\n");
    scene.registry(&format!(
        "[[app]]\nid = \"other\"\ndeveloper = \"other-team\"\naccepts = [[\"api_key\"]]\n{}{GRANT}",
        other.table()
    ));
    let world = scene.start().await;
    let mut by_key = world.talk(None).await;
    let mut by_other = world.talk(None).await;
    let caller = world.identity("caller");
    let mut by_certificate = world.talk(Some(&caller)).await;
    for (talk, line) in
        [(&mut by_key, key.line()), (&mut by_other, other.line()), (&mut by_certificate, String::new())]
    {
        assert_eq!(talk.get("/a", &line).await.status, 200);
    }

    for (words, back, refused) in [
        ("grant revoke other orders", Some("grant approve other orders"), (403, "grant-revoked")),
        ("app revoke other", Some("app approve other"), (403, "app-revoked")),
        (
            "developer deactivate other-team",
            Some("developer activate other-team"),
            (403, "developer-inactive"),
        ),
        (&*format!("key revoke {}", other.id), None, (401, "credential-revoked")),
    ] {
        obey(&world, words.to_owned()).await;
        let begun = Instant::now();
        let took = until(&mut by_other, &other.line(), refused, begun).await;
        assert!(took < IN_FORCE, "{words}: {took:?}");
        if let Some(back) = back {
            obey(&world, back.to_owned()).await;
            until(&mut by_other, &other.line(), (200, ""), Instant::now()).await;
        }
    }
    obey(&world, "key revoke caller-svid".to_owned()).await;
    until(&mut by_certificate, "", (401, "credential-revoked"), Instant::now()).await;
    assert_eq!(by_key.get("/a", &key.line()).await.status, 200, "nobody else is concerned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_shown_beside_a_certificate_counts_as_used() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let (key, unused) = (scene.key(), scene.key());
    let certificate = "uri = \"spiffe://postern.test/caller\"\n";
    scene.amend_registry(certificate, &format!("{certificate}{}{}", key.table(), unused.table()));
    let world = scene.start().await;
    let caller = world.identity("caller");

    assert_eq!(world.talk(Some(&caller)).await.get("/a", &key.line()).await.status, 200);

    let used = support::eventually("the key is used", async || {
        let keys = json(world.path(), "key list --json");
        let used = keys.as_array().unwrap().iter().filter(|one| one["last_used"].is_string());
        let ids: Vec<_> = used.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        (!ids.is_empty()).then_some(ids)
    })
    .await;
    assert_eq!(used, [key.id]);
}

/// Puts a file into a folder of the scene, whole.
fn drop_in(world: &World, name: &str, text: &str) {
    let (new, place) = (world.path().join("revoked.d/.new"), world.path().join("revoked.d").join(name));
    support::write(&new, text);
    fs::rename(new, place).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_revokes_is_refused_within_a_second_and_after_a_restart() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("state_dir", "revocations = [\"revoked.d\"]\nstate_dir");
    fs::create_dir(scene.path().join("revoked.d")).unwrap();
    let (key, spared) = (scene.app_with_key("by-key"), scene.app_with_key("spared"));
    let mut world = scene.start().await;
    let caller = world.identity("caller");
    let mut by_key = world.talk(None).await;
    let mut by_certificate = world.talk(Some(&caller)).await;
    assert_eq!(by_key.get("/a", &key.line()).await.status, 200);
    assert_eq!(by_certificate.get("/a", "").await.status, 200);
    let refused = (401, "credential-revoked");

    drop_in(&world, "one.toml", &format!("[[revoked]]\ncredential = \"{}\"\nreason = \"seen\"\n", key.id));
    until(&mut by_key, &key.line(), refused, Instant::now()).await;
    drop_in(&world, "two.toml", "[[revoked]]\napp = \"caller\"\n");
    until(&mut by_certificate, "", refused, Instant::now()).await;

    // A file that is broken, or a folder that is gone, lifts nothing, is told, and holds up no other file.
    drop_in(&world, "one.toml", "[[revoked]]\ncredentail = \"x\"\n");
    world.log_with("did you mean `credential`?").await;
    assert_eq!(by_key.get("/a", &key.line()).await.code(), refused.1);
    drop_in(&world, "three.toml", &format!("[[revoked]]\ncredential = \"{}\"\n", spared.id));
    until(&mut by_key, &spared.line(), refused, Instant::now()).await;
    fs::rename(world.path().join("revoked.d"), world.path().join("elsewhere")).unwrap();
    world.log_with("revoked.d: cannot be read").await;
    assert_eq!(by_key.get("/a", &spared.line()).await.code(), refused.1);
    fs::rename(world.path().join("elsewhere"), world.path().join("revoked.d")).unwrap();
    drop_in(&world, "one.toml", &format!("[[revoked]]\ncredential = \"{}\"\n", key.id));

    // Nor does an edit of the registry.
    obey(&world, "app approve caller".to_owned()).await;
    assert_eq!(by_certificate.get("/a", "").await.code(), refused.1);
    does(world.path(), "check");

    world.restart().await;
    let mut by_key = world.talk(None).await;
    assert_eq!(by_key.get("/a", &key.line()).await.code(), refused.1);
    fs::remove_file(world.path().join("revoked.d/three.toml")).unwrap();
    until(&mut by_key, &spared.line(), (200, ""), Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_changes_its_key_in_the_middle_of_a_rotation_sees_no_failure() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    let mut asked = 0;
    let old_line = key.line();
    let at = world.path().to_owned();
    let id = key.id.clone();
    let rotating = tokio::task::spawn_blocking(move || does(&at, &format!("key rotate {id} --grace 3s")));

    while !rotating.is_finished() {
        let answer = talk.get("/a", &old_line).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        asked += 1;
    }
    let fresh = rotating.await.unwrap().trim().to_owned();
    let fresh_line = format!("x-api-key: {fresh}\r\n");
    // The next one is good as soon as it was handed out, or within a second of it.
    let mut other = world.talk(None).await;
    until(&mut other, &fresh_line, (200, ""), Instant::now()).await;
    for _ in 0..20 {
        let answer = talk.get("/a", &old_line).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for _ in 0..20 {
        assert_eq!(talk.get("/a", &fresh_line).await.status, 200);
    }
    assert!(asked > 0);

    // And the former one ends hard, on a connection that it has used all the time.
    let begun = Instant::now();
    loop {
        let answer = talk.get("/a", &key.line()).await;
        if answer.status == 401 {
            assert_eq!(answer.code(), "credential-revoked");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(talk.get("/a", &fresh_line).await.status, 200);
    let keys = {
        let at = world.path().to_owned();
        tokio::task::spawn_blocking(move || json(&at, "key list --json")).await.unwrap()
    };
    let old = keys.as_array().unwrap().iter().find(|one| one["id"] == *key.id).unwrap().clone();
    assert_eq!(old["status"], "retiring");
    assert!(old["retire_at"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_use_of_a_retiring_key_is_counted_told_and_dated() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    let metric = "postern_credential_retiring_uses_total{app=\"by-key\"}";
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    assert_eq!(world.metric(metric).await, None, "it is not retiring yet");

    obey(&world, format!("key rotate {} --grace 1h", key.id)).await;
    support::eventually("the rotation is in force", async || {
        (world.status().await.keys.retiring_count == 1).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    }

    assert_eq!(world.metric(metric).await, Some(3.0));
    let retiring = support::eventually("its use is dated", async || {
        world.status().await.keys.retiring.into_iter().find(|one| one.last_used.is_some())
    })
    .await;
    assert_eq!((retiring.id.as_str(), retiring.app.as_str()), (&*key.id, "by-key"));
    // At most once a second each, so the first use after the rotation may go unheard.
    support::eventually("the log warns of it", async || {
        assert_eq!(talk.get("/a", &key.line()).await.status, 200);
        world.log().contains("that another has taken the place of").then_some(())
    })
    .await;
    let at = world.path().to_owned();
    let (keys, page) =
        tokio::task::spawn_blocking(move || (json(&at, "key list --json"), does(&at, "status")))
            .await
            .unwrap();
    let dated = keys.as_array().unwrap().iter().filter(|one| one["last_used"].is_string()).count();
    assert_eq!(dated, 1, "{keys}");
    assert!(page.contains("RETIRING  the key"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_handed_out_in_a_file_is_replaced_by_age_and_its_reader_never_fails() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.app("by-file", &format!("accepts = [[\"api_key\"]]\n{GRANT}"));
    scene.config("[keys]\n[[keys.deliver]]\napp = \"by-file\"\nfile = \"handed/key\"\nevery = \"4s\"\ngrace = \"3s\"\n");
    fs::create_dir(scene.path().join("handed")).unwrap();
    let world = scene.start().await;
    let file = world.path().join("handed/key");
    support::eventually("the first key", async || file.exists().then_some(())).await;
    let mut talk = world.talk(None).await;

    let mut keys = std::collections::BTreeSet::new();
    let begun = Instant::now();
    while keys.len() < 3 {
        let key = fs::read_to_string(&file).unwrap();
        let answer = talk.get("/a", &format!("x-api-key: {}\r\n", key.trim())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        keys.insert(key);
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", keys.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (first, at) = (keys.pop_first().unwrap(), world.path().to_owned());
    let records = tokio::task::spawn_blocking(move || records(&at)).await.unwrap();
    let made =
        |verb: &str| records.iter().filter(|one| one["verb"] == verb && one["actor"] == "agent").count();
    assert_eq!(made("key.create"), 1);
    assert!(made("key.rotate") >= 2);
    let audit = fs::read_to_string(world.path().join("state/audit/log.jsonl")).unwrap();
    assert!(!audit.contains(first.trim()) && !world.log().contains(first.trim()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_made_elsewhere_works_without_ever_having_been_shown_here() {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.app("migrant", &format!("accepts = [[\"api_key\"]]\n{GRANT}"));
    let world = scene.start().await;
    let (by_hash, by_file) = ("vJ8sQ2mZx7LkP0wRtYb3NcHd5uFgAe9i", "3f2504e0-4f89-41d3-9a0c-0305e82c3301");
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, by_hash.as_bytes());
    let sha256 = data_encoding::HEXLOWER.encode(sha256.as_ref());
    let at = world.path().to_owned();
    let digits = sha256.clone();
    tokio::task::spawn_blocking(move || {
        does(&at, &format!("key import --app migrant --id kong-7 --hash sha256:{digits}"));
        let file = at.join("former-key");
        support::write(&file, by_file);
        does(&at, &format!("key import --app migrant --id tyk-1 --file {}", file.display()));

        support::write(&file, "secret123");
        let told = refuses(&at, &format!("key import --app migrant --id weak --file {}", file.display()));
        assert!(told.contains("it is no stronger than"), "{told}");
        let told = refuses(&at, &format!("key import --app migrant --id again --hash sha256:{digits}"));
        assert!(told.contains("is on file already, under another name"), "{told}");
        let registry = fs::read_to_string(at.join("registry/apps.toml")).unwrap();
        assert!(!registry.contains(&digits) && !registry.contains(by_file), "{registry}");
        assert!(registry.contains("hmac-sha256-of-sha256:p1:"), "{registry}");
    })
    .await
    .unwrap();

    let mut talk = world.talk(None).await;
    let line = |key: &str| format!("x-api-key: {key}\r\n");
    for key in [by_hash, by_file] {
        until(&mut talk, &line(key), (200, ""), Instant::now()).await;
    }
    for wrong in ["vJ8sQ2mZx7LkP0wRtYb3NcHd5uFgAe9j", &sha256, "short"] {
        let answer = talk.get("/a", &line(wrong)).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid-credential"), "{wrong}");
    }
    obey(&world, "key revoke kong-7".to_owned()).await;
    until(&mut talk, &line(by_hash), (401, "credential-revoked"), Instant::now()).await;
    obey(&world, "key rotate tyk-1 --grace 1h".to_owned()).await;
    assert_eq!(talk.get("/a", &line(by_file)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peppers_are_replaced_while_keys_under_the_former_go_on() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    let world = scene.start().await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    let at = world.path().to_owned();
    let id = key.id.clone();

    let fresh = tokio::task::spawn_blocking(move || {
        assert_eq!(does(&at, "key pepper add"), "p2\n");
        let told = refuses(&at, "key pepper remove p1");
        assert!(told.contains("1 keys that are not revoked rest on it"), "{told}");
        assert!(refuses(&at, "key pepper remove p7").contains("there is no pepper p7"));
        does(&at, &format!("key rotate {id} --grace 3s"))
    })
    .await
    .unwrap();
    let line = format!("x-api-key: {}\r\n", fresh.trim());
    until(&mut talk, &line, (200, ""), Instant::now()).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200, "the former one goes on");

    obey(&world, format!("key revoke {}", key.id)).await;
    obey(&world, "key pepper remove p1".to_owned()).await;
    support::eventually("the former pepper is gone", async || {
        let answer = talk.get("/a", &key.line()).await;
        (answer.code() == "invalid-credential").then_some(())
    })
    .await;
    assert_eq!(talk.get("/a", &line).await.status, 200);
    let at = world.path().to_owned();
    let peppers = tokio::task::spawn_blocking(move || json(&at, "key pepper list --json")).await.unwrap();
    assert_eq!(peppers, serde_json::json!([{ "version": "p2", "newest": true, "keys": 1 }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_older_than_its_app_or_else_the_configuration_says_is_told_and_works() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.config("[keys]\nmax_age = \"365d\"\n");
    let recently = SystemClock.now().unix() - 60 * 86_400;
    let recently = Timestamp::from_unix(recently).to_string();
    let mut app = |id: &str, says: &str, created: &str| {
        let key = scene.key();
        let key_table = format!("{}created = {created}\n", key.table());
        scene.app(id, &format!("{says}accepts = [[\"api_key\"]]\n{key_table}\n{GRANT}"));
        key
    };
    let old = app("old", "", "2020-01-01T00:00:00Z");
    let patient = app("patient", "key_max_age = \"30000d\"\n", "2020-01-01T00:00:00Z");
    let strict = app("strict", "key_max_age = \"30d\"\n", &recently);
    let young = app("young", "", &recently);
    let world = scene.start().await;

    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &old.line()).await.status, 200);
    let told = does(world.path(), "check");
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("is older than")).collect();
    assert_eq!(lines.len(), 2, "{told}");
    let says = |key: &str, app: &str, what: &str| {
        let line = format!("warning: the key {key} of {app} is older than {what}; rotate it with ");
        assert!(lines.iter().any(|told| told.starts_with(&line)), "{line}{told}");
    };
    says(&old.id, "old", "[keys] max_age");
    says(&strict.id, "strict", "its app's key_max_age");
    let status = does(world.path(), "status");
    let line = status.lines().find(|line| line.starts_with("OLD")).unwrap();
    assert!(
        line.contains(&old.id)
            && line.contains(&strict.id)
            && line.contains("2 keys older than they may become")
    );
    assert!(!line.contains(&patient.id) && !line.contains(&young.id), "{line}");
    assert_eq!(world.metric("postern_keys_overdue").await, Some(2.0));
}
