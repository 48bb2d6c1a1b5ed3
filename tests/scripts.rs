//! The operators' scripts, each run as an operator runs it: again, in rehearsal, and wrongly.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scene, World};

/// All that operators are given for the CA and its certificates.
const ALL: [&str; 13] = [
    "ca-activate",
    "ca-csr",
    "ca-init",
    "ca-install",
    "ca-prepare",
    "ca-retire",
    "ca-revoke",
    "ca-rollback",
    "ca-rotate",
    "ca-sign",
    "ca-status",
    "cert-issue",
    "cert-revoke",
];

/// How a script ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

fn run(script: &str, arguments: &[&str]) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let output =
        Command::new(path).args(arguments).env("POSTERN", env!("CARGO_BIN_EXE_postern")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Outcome { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The configuration of one host.
struct Host(PathBuf);

impl Host {
    fn of(scene: &Scene) -> Self {
        scene.write();
        Self(scene.path().join("postern.toml"))
    }

    fn run(&self, script: &str, words: &str) -> Outcome {
        let config = self.0.to_str().unwrap();
        run(
            script,
            &[&["--config", config], words.split_whitespace().collect::<Vec<_>>().as_slice()].concat(),
        )
    }

    /// What a script prints that must succeed.
    fn does(&self, script: &str, words: &str) -> String {
        let outcome = self.run(script, words);
        assert_eq!(outcome.code, 0, "{script} {words}: {outcome:?}");
        outcome.out.trim().to_owned()
    }

    /// The first authority of a level in a slot.
    fn authority(&self, level: &str, slot: &str) -> String {
        let status: serde_json::Value = serde_json::from_str(&self.does("ca-status", "--json")).unwrap();
        let authorities = status["authorities"].as_array().unwrap();
        let found = authorities.iter().find(|one| one["level"] == level && one["slot"] == slot);
        found.map(|one| one["id"].as_str().unwrap().to_owned()).unwrap_or_default()
    }
}

#[test]
fn every_script_says_what_it_is_for_and_refuses_what_it_does_not_know() {
    for script in ALL {
        let help = run(script, &["--help"]);
        assert_eq!(help.code, 0, "{script}: {help:?}");
        assert!(
            help.out.contains(&format!("Usage: scripts/{script}")) && help.out.contains("Exit code"),
            "{script}"
        );

        let wrong = run(script, &["--frobnicate"]);
        assert_eq!(wrong.code, 2, "{script}: {wrong:?}");
        assert!(wrong.err.contains(&format!("scripts/{script}: unknown argument")), "{script}: {wrong:?}");
    }
}

#[test]
fn a_rehearsal_of_the_first_step_makes_nothing() {
    let scene = Scene::guarding("builtin:whoami");
    let host = Host::of(&scene);

    let rehearsed = host.run("ca-init", "--dry-run");
    assert!(rehearsed.code == 0 && rehearsed.err.contains("would be made"), "{rehearsed:?}");
    assert!(!scene.path().join("state").exists());
    assert_eq!(host.run("ca-status", "").code, 3, "there is no CA");

    host.does("ca-init", "");
    let first = host.authority("root", "active");
    host.does("ca-init", "");
    host.does("ca-init", "--dry-run");
    assert_eq!(host.authority("root", "active"), first, "there is one CA, however often it is asked for");
}

/// Every step twice: what was done already is no failure, so a script that was interrupted is simply run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_over_goes_step_by_step_and_each_step_can_be_repeated() {
    let scene = Scene::guarding("builtin:whoami");
    let host = Host::of(&scene);
    let world = scene.start().await;
    let first = host.authority("issuing", "active");

    host.does("ca-prepare", "--dry-run");
    assert_eq!(host.authority("issuing", "prepared"), "");
    let next = host.does("ca-prepare", "");
    assert_eq!(host.does("ca-prepare", ""), next);
    assert_eq!(host.authority("issuing", "prepared"), next);

    host.does("ca-activate", "--dry-run");
    assert_eq!(host.authority("issuing", "active"), first);
    assert_eq!(host.does("ca-activate", &next), next);
    assert_eq!(host.does("ca-activate", &next), next);
    assert_eq!(host.authority("issuing", "active"), next);

    host.does("ca-rollback", &format!("--dry-run {first}"));
    assert_eq!(host.authority("issuing", "active"), next);
    host.does("ca-rollback", &first);
    host.does("ca-rollback", &first);
    assert_eq!(host.authority("issuing", "active"), first);

    assert_eq!(host.run("ca-retire", &next).code, 3, "what it signed is still valid");
    host.does("ca-retire", &format!("--force {next}"));
    host.does("ca-retire", &format!("--force {next}"));
    assert_eq!(host.authority("issuing", "retired"), "");

    // A rotation that was cut short after its first step goes on with what it had made.
    let prepared = host.does("ca-prepare", "");
    host.does("ca-rotate", "--dry-run");
    host.does("ca-rotate", "");
    assert_eq!(host.authority("issuing", "active"), prepared);

    host.does("ca-revoke", &format!("--dry-run {prepared}"));
    assert_eq!(host.authority("issuing", "active"), prepared);
    host.does("ca-revoke", &prepared);
    host.does("ca-revoke", &prepared);
    assert_ne!(host.authority("issuing", "active"), prepared);
    let refused = host.run("ca-rollback", &prepared);
    assert!(refused.code == 1 && refused.err.contains("revoked"), "{refused:?}");
    serves(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_issued_and_revoked() {
    let scene = Scene::guarding("builtin:whoami");
    let host = Host::of(&scene);
    let world = scene.start().await;
    let out = world.path().join("taken");
    let folder = out.to_str().unwrap();

    host.does("cert-issue", &format!("--dry-run --out {folder} caller"));
    assert!(!out.exists());
    host.does("cert-issue", &format!("--out {folder} caller"));
    assert_eq!(
        host.run("cert-issue", &format!("--out {folder} caller")).code,
        1,
        "nothing is replaced unasked"
    );
    host.does("cert-issue", &format!("--force --out {folder} caller"));

    let chain = out.join("chain.pem");
    let words = format!("--certificate {}", chain.display());
    host.does("cert-revoke", &format!("--dry-run {words}"));
    assert!(!world.path().join("state/revocations.toml").exists());
    host.does("cert-revoke", &words);
    let again = host.run("cert-revoke", &words);
    assert!(again.code == 0 && again.err.contains("was revoked before"), "{again:?}");
    serves(&world).await;
}

/// The agent lets its caller in.
async fn serves(world: &World) {
    let answer = world.try_get(Some(&world.identity("caller")), "").await.unwrap();
    assert_eq!(answer.status, 200);
}
