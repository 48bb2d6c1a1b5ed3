//! Who changed what is written down, by the command line and by the agent, and whoever touches that is found out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use serde_json::Value;
use support::world::postern;
use support::{Scene, World, eventually, write};

fn run(folder: &Path, words: &str) -> (i32, String, String) {
    let output = postern(folder).args(words.split_whitespace()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn does(folder: &Path, words: &str) -> String {
    let (code, out, err) = run(folder, words);
    assert_eq!(code, 0, "{words}: {out}{err}");
    out
}

fn records(folder: &Path) -> Vec<Value> {
    serde_json::from_str(&does(folder, "audit show --json")).unwrap()
}

fn place_with_edits() -> Scene {
    let scene = Scene::new();
    scene.write();
    for id in ["one", "two", "three"] {
        does(scene.path(), &format!("developer create {id}"));
    }
    scene
}

#[test]
fn a_log_that_was_touched_is_found_out() {
    let scene = place_with_edits();
    let at = scene.path();
    let printed = does(at, "audit verify");
    let hash = printed.rsplit_once(' ').unwrap().1.trim().to_owned();
    assert!(hash.starts_with("sha256:"), "{printed}");
    does(at, &format!("audit verify --expect {hash}"));

    let path = at.join("state/audit/log.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (how, touched) in [
        ("changed", text.replace("developer:two", "developer:2wo")),
        ("removed", format!("{}\n{}\n", lines[0], lines[2])),
        ("reordered", format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2])),
        ("cut", format!("{}\n{}\n", lines[0], lines[1])),
    ] {
        write(&path, &touched);
        let (code, out, _) = run(at, "audit verify");
        assert_eq!(code, 3, "{how}: {out}");
        assert!(out.contains("NOT AS IT WAS WRITTEN"), "{how}: {out}");
    }
    write(&path, &text);
    does(at, "audit verify");
}

#[test]
fn a_log_that_was_written_anew_is_found_out_by_a_hash_that_was_kept_elsewhere() {
    let scene = place_with_edits();
    let at = scene.path();
    let report: Value = serde_json::from_str(&does(at, "audit verify --json")).unwrap();
    let hash = report["head"]["hash"].as_str().unwrap().to_owned();
    does(at, "developer deactivate one");
    assert!(does(at, &format!("audit verify --expect {hash}")).contains("and 1 after it"));

    fs::remove_dir_all(at.join("state/audit")).unwrap();
    does(at, "developer deactivate two");

    does(at, "audit verify");
    let (code, out, _) = run(at, &format!("audit verify --expect {hash}"));
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("the log was cut or written anew"), "{out}");
}

#[test]
fn with_a_key_nobody_else_can_make_a_record() {
    let mut scene = Scene::new();
    scene.config("[audit]\nkey_file = \"audit-key\"\nrotate_at = \"1KiB\"\n");
    scene.write();
    let at = scene.path();
    write(&at.join("audit-key"), "one that nobody knows\n");
    fs::set_permissions(at.join("audit-key"), Permissions::from_mode(0o600)).unwrap();
    for id in ["one", "two", "three", "four", "five"] {
        does(at, &format!("developer create {id}"));
    }
    let report: Value = serde_json::from_str(&does(at, "audit verify --json")).unwrap();
    assert_eq!((&report["records"], &report["keyed"]), (&Value::from(5), &Value::from(5)));
    assert!(fs::read_dir(at.join("state/audit")).unwrap().count() > 2, "files were put aside");

    write(&at.join("audit-key"), "another\n");

    let (code, out, _) = run(at, "audit verify");
    assert_eq!(code, 3, "{out}");
}

#[test]
fn a_revocation_that_fails_is_not_left_in_the_log_as_done() {
    let scene = Scene::new();
    scene.write();
    let at = scene.path();
    does(at, "cert revoke serial:0abc");
    let told = |records: &[Value]| records.last().map(|last| (last["verb"].clone(), last["outcome"].clone()));
    assert_eq!(told(&records(at)), Some(("cert.revoke".into(), "done".into())));
    write(&at.join("state/revocations.toml"), "nonsense\n");

    assert_eq!(run(at, "cert revoke serial:0def").0, 1);

    assert_eq!(told(&records(at)), Some(("cert.revoke".into(), "failed".into())));
}

/// The agent's records, once there is one of this verb and target.
async fn record(world: &World, verb: &str, target: &str) -> Value {
    let at = world.path().to_owned();
    eventually(&format!("a record of {verb} {target}"), async || {
        let at = at.clone();
        let all = tokio::task::spawn_blocking(move || records(&at)).await.unwrap();
        all.into_iter().rev().find(|one| one["verb"] == *verb && one["target"] == *target)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_writes_down_what_it_takes_over_and_what_it_is_told() {
    let world = Scene::guarding("builtin:whoami").start().await;

    write(&world.path().join("registry/more.toml"), "[[developer]]\nid = \"more\"\n");
    let taken = record(&world, "registry.reload", "registry").await;
    assert_eq!((&taken["actor"], &taken["outcome"]), (&Value::from("agent"), &Value::from("done")));
    assert_eq!(taken["detail"], "developers: 1 added (more)");
    assert_eq!(taken["after"], *world.status().await.registry.version);

    write(&world.path().join("registry/more.toml"), "[[nonsense]]\n");
    eventually("a refused registry in the log", async || {
        let last = record(&world, "registry.reload", "registry").await;
        (last["outcome"] == "failed").then_some(())
    })
    .await;

    write(&world.path().join("registry/more.toml"), "[[developer]]\nid = \"more\"\n");
    let at = world.path().to_owned();
    tokio::task::spawn_blocking(move || {
        does(&at, "cert revoke serial:0abc --reason gone");
        does(&at, "key pepper add");
    })
    .await
    .unwrap();
    world.signal("HUP");
    let revoked = record(&world, "trust.reload", "revocations").await;
    assert_eq!(
        (&revoked["before"], &revoked["after"]),
        (&Value::from("0 revoked"), &Value::from("1 revoked"))
    );
    assert_eq!(record(&world, "pepper.follow", "peppers").await["after"], "p1, p2");
    assert_eq!(record(&world, "config.reload", "config").await["outcome"], "done");

    let at = world.path().to_owned();
    tokio::task::spawn_blocking(move || does(&at, "ca rotate")).await.unwrap();
    let told = record(&world, "ca.rotate", "authority:issuing").await;
    assert_eq!(told["uid"], rustix::process::getuid().as_raw());
    let active = world
        .status()
        .await
        .authorities
        .into_iter()
        .find(|one| one.level == "issuing" && one.slot == "active");
    let followed = record(&world, "ca.follow", &format!("authority:{}", active.unwrap().id)).await;
    assert_eq!(followed["after"], "issuing active");
    let at = world.path().to_owned();
    tokio::task::spawn_blocking(move || does(&at, "audit verify")).await.unwrap();
}

/// A user of this host who is not root.
const STRANGER: u32 = 60_077;

/// What `words` come to for somebody else.
async fn as_stranger(world: &World, words: &'static str) -> (i32, String) {
    let at = world.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let mut command = postern(&at);
        let output = command.args(words.split_whitespace()).uid(STRANGER).gid(STRANGER).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), text)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_not_the_role_is_refused_and_that_is_written_down() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    for (roles, status, renewal, rotation) in [
        ("", 0, 1, 1),
        ("viewers = [\"uid:60099\"]\n", 1, 1, 1),
        ("viewers = [\"uid:60077\"]\n", 0, 1, 1),
        ("editors = [\"gid:60077\"]\n", 0, 0, 1),
        ("operators = [\"uid:60077\"]\n", 0, 0, 0),
    ] {
        let mut scene = Scene::guarding("builtin:whoami");
        scene.config(&format!("[admin]\n{roles}"));
        let world = scene.start().await;
        // They must get as far as the socket, and to the configuration that says where it is.
        for (path, mode) in [(".", 0o755), ("run", 0o755), ("run/admin.sock", 0o666)] {
            fs::set_permissions(world.path().join(path), Permissions::from_mode(mode)).unwrap();
        }

        for (words, expected) in [("status", status), ("cert renew caller", renewal), ("ca rotate", rotation)]
        {
            let (code, err) = as_stranger(&world, words).await;
            assert_eq!(code, expected, "{roles:?} {words}: {err}");
            if expected != 0 {
                assert!(err.contains("only "), "{roles:?} {words}: {err}");
            }
        }
        if renewal == 1 {
            let refused = record(&world, "cert.renew", "workload:caller").await;
            assert_eq!(
                (&refused["outcome"], &refused["uid"]),
                (&Value::from("refused"), &Value::from(STRANGER))
            );
        }
    }
}
