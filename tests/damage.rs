//! A state directory that is damaged, full or read-only: damage is named and left alone, and what is whole is served.
//!
//! File systems are mounted in a mount namespace of their own, for which it takes root; without, those tests say so and pass.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postern::issuance::{Change, Verb};
use postern::pki::Level;
use postern::store::pem;
use support::world::postern;
use support::{Scene, Talk, World, eventually};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Another file system object has its name.
    Directory,
    /// One bit at this part of the content, in hundredths, is another.
    Flip(usize),
    /// So many hundredths of the content are left.
    Truncated(usize),
    /// The last byte is missing.
    Shortened,
}

impl Damage {
    const ALL: [Self; 12] = [
        Self::Directory,
        Self::Flip(0),
        Self::Flip(13),
        Self::Flip(37),
        Self::Flip(61),
        Self::Flip(85),
        Self::Flip(98),
        Self::Truncated(0),
        Self::Truncated(10),
        Self::Truncated(50),
        Self::Truncated(90),
        Self::Shortened,
    ];

    fn inflict(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Directory => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
                return;
            }
            Self::Flip(part) => {
                let at = bytes.len() * part / 100;
                *bytes.get_mut(at).unwrap() ^= 1;
            }
            Self::Truncated(part) => bytes.truncate(bytes.len() * part / 100),
            Self::Shortened => bytes.truncate(bytes.len() - 1),
        }
        // In place, so that the mode stays.
        File::options().write(true).truncate(true).open(path).unwrap().write_all(&bytes).unwrap();
    }
}

/// A folder whose agent has run, with every file that a state directory can hold, and its agent's address.
fn lived_in() -> (Scene, Vec<PathBuf>) {
    let mut scene = Scene::guarding("builtin:whoami");
    scene.app_with_key("by-key");
    scene.init_ca();
    for arguments in [&["ca", "rotate"][..], &["cert", "revoke", "serial:0abc"]] {
        assert!(postern(scene.path()).args(arguments).output().unwrap().status.success());
    }
    let state = scene.path().join("state");
    let mut files: Vec<PathBuf> =
        ["authorities.toml", "peppers.toml", "revocations.toml"].map(PathBuf::from).to_vec();
    for authority in fs::read_dir(state.join("authorities")).unwrap() {
        let folder = Path::new("authorities").join(authority.unwrap().file_name());
        files.extend(["key.pem", "certificate.pem"].map(|name| folder.join(name)));
    }
    assert_eq!(files.len(), 9, "a root and two issuing authorities: {files:?}");
    (scene, files)
}

fn copied(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// All that lies in a folder: names and bytes.
fn content(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
            }
            let bytes = fs::read(&path).ok();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// What an agent goes on writing, also one that does not start for another file's sake: who lives, what was issued, and what
/// is drawn up anew from the rest.
const LIVING: [&str; 5] = ["bundle.pem", "crl.pem", "issued.journal", "limits.journal", "lock"];

/// What an agent says that does not start, or nothing if it lives for so long that it must have read everything.
fn refusal(folder: &Path) -> Option<String> {
    let mut output = tempfile::tempfile().unwrap();
    let [out, err] = [(); 2].map(|()| output.try_clone().unwrap());
    let mut child = postern(folder).arg("run").stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    let mut text = String::new();
    for _ in 0..1000 {
        let ended = child.try_wait().unwrap();
        text.clear();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        let ready = text.contains("\"message\":\"ready\"");
        if ended.is_some() || ready {
            drop(child.kill());
            child.wait().unwrap();
            assert!(!text.contains("panicked"), "{text}");
            return (!ready).then_some(text);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("neither ready nor refused: {text}");
}

#[test]
fn damage_to_any_file_is_named_and_the_file_is_left_as_it_is() {
    let (scene, files) = lived_in();
    let (state, saved) = (scene.path().join("state"), scene.path().join("saved"));
    assert_eq!(refusal(scene.path()), None, "undamaged it starts");
    copied(&state, &saved);
    let (mut refused, mut harmless) = (0, Vec::new());

    for file in &files {
        for damage in Damage::ALL {
            copied(&saved, &state);
            damage.inflict(&state.join(file));
            let before = content(&state);

            let told = refusal(scene.path());

            let apart = |found: Vec<(PathBuf, Option<Vec<u8>>)>| -> Vec<_> {
                found
                    .into_iter()
                    .filter(|(path, _)| !LIVING.iter().any(|name| path.ends_with(name)))
                    .collect()
            };
            assert_eq!(apart(content(&state)), apart(before), "{damage:?} of {file:?}: nothing is mended");
            match told {
                Some(told) => {
                    // An authority is named by its directory where its files do not fit each other.
                    let name = file.file_name().unwrap().to_str().unwrap();
                    let folder =
                        file.parent().unwrap().file_name().and_then(|name| name.to_str()).unwrap_or(name);
                    assert!(told.contains(name) || told.contains(folder), "{damage:?} of {file:?}: {told}");
                    refused += 1;
                }
                None => harmless.push(format!("{damage:?} of {}", file.display())),
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "the figures are wanted")]
    {
        println!("{refused} cases of damage refused; without consequence: {harmless:?}");
    }
    // A missing line break at the end of a PEM file, or a changed one within it, changes nothing of what it says.
    assert!(harmless.iter().all(|case| case.contains(".pem")), "{harmless:?}");
    assert!(harmless.len() <= 12, "{harmless:?}");
}

#[test]
fn what_the_lock_file_holds_is_of_no_importance_but_it_must_be_a_file() {
    let (scene, _) = lived_in();
    let path = scene.path().join("state/lock");

    for damage in Damage::ALL {
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        support::write(&path, "12345\n");
        damage.inflict(&path);
        let told = refusal(scene.path());
        match damage {
            Damage::Directory => assert!(told.unwrap().contains("lock"), "{damage:?}"),
            Damage::Flip(_) | Damage::Shortened | Damage::Truncated(_) => {
                assert_eq!(told, None, "{damage:?}")
            }
        }
    }
}

#[test]
fn the_bundle_for_others_is_made_again_from_what_is_whole() {
    let (scene, _) = lived_in();
    let path = scene.path().join("state/bundle.pem");
    let whole = fs::read(&path).unwrap();

    for damage in Damage::ALL {
        if !matches!(damage, Damage::Directory) {
            damage.inflict(&path);
            assert_ne!(fs::read(&path).unwrap(), whole);
            assert_eq!(refusal(scene.path()), None, "{damage:?}");
            assert_eq!(fs::read(&path).unwrap(), whole, "{damage:?}");
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_way_of_the_bundle_is_told_and_nobody_is_left_without() {
    let (scene, _) = lived_in();
    let path = scene.path().join("state/bundle.pem");
    let whole = fs::read(&path).unwrap();
    Damage::Directory.inflict(&path);

    let world = scene.start().await;

    let degraded = world.status().await.degraded;
    assert!(degraded.iter().any(|reason| reason.contains("bundle.pem")), "{degraded:?}");
    fs::remove_dir(&path).unwrap();
    healthy(&world).await;
    assert_eq!(fs::read(&path).unwrap(), whole);
}

/// Whether file systems can be mounted here.
fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]
        {
            println!("skipped: nothing can be mounted in a namespace of its own");
        }
    }
    can
}

/// Does something in the mount namespace of the agent.
fn beside(world: &World, script: &str) {
    let pid = world.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid, "-m", "sh", "-ec", &format!("cd '{}'; {script}", world.path().display())]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn degraded_by(world: &World, what: &str) {
    eventually(&format!("degraded by {what:?}"), async || {
        world.status().await.degraded.iter().any(|reason| reason.contains(what)).then_some(())
    })
    .await;
}

async fn healthy(world: &World) {
    eventually("all is well", async || world.status().await.degraded.is_empty().then_some(())).await;
}

async fn serves(world: &World) {
    assert_eq!(world.try_get(Some(&world.identity("caller")), "").await.unwrap().status, 200);
}

#[tokio::test]
async fn on_a_full_disk_it_serves_and_issues_and_says_so_and_recovers() {
    if !can_mount() {
        return;
    }
    let mut scene = Scene::guarding("builtin:whoami");
    scene.config("[leaf]\nttl = \"3s\"\n\n[authority]\nissuing_ttl = \"14s\"\nroot_ttl = \"1h\"\n");
    scene.init_ca();
    scene.behind_mounts(
        "mkdir full; cp -a state saved; mount -t tmpfs -o size=512k tmpfs state; cp -a saved/. state; rm -f state/lock\n\
         dd if=/dev/zero of=state/filler bs=4k 2>&1 || true; exec \"$@\"",
    );
    let world = scene.start().await;
    let before = world.status().await;
    let first = world.identity("caller").subject().serial;

    degraded_by(&world, "cannot be written: the file system is full").await;
    let (_, ready) = world.health("/ready").await.unwrap();
    assert!(ready.starts_with("ready\ndegraded: "), "{ready}");
    assert_eq!(world.metric("postern_state_writable").await, Some(0.0));
    assert!(world.metric("postern_degraded").await >= Some(1.0));
    let told = world.admin().change_authority(&Change::new(Level::Issuing, Verb::Rotate)).await.unwrap_err();
    assert!(told.to_string().contains("No space left"), "{told}");
    degraded_by(&world, "the renewal of the issuing authority failed").await;
    serves(&world).await;
    assert_ne!(world.identity("caller").subject().serial, first, "leaves go on");
    let ids = |status: &postern::admin::Status| -> Vec<String> {
        status.authorities.iter().map(|authority| authority.id.to_string()).collect()
    };
    assert_eq!(ids(&world.status().await), ids(&before), "under the authority that is stored");

    beside(&world, "rm state/filler");

    healthy(&world).await;
    assert_ne!(ids(&world.status().await), ids(&before), "what was due is done");
    assert_eq!(world.metric("postern_state_writable").await, Some(1.0));
    serves(&world).await;
    assert!(world.log().contains("the state directory can be written again"));
}

#[tokio::test]
async fn on_a_read_only_disk_it_serves_what_an_interrupted_commit_left_and_finishes_it_later() {
    if !can_mount() {
        return;
    }
    let mut scene = Scene::guarding("builtin:whoami");
    scene.init_ca();
    scene.behind_mounts("mount --bind state state; mount -o remount,ro,bind state; exec \"$@\"");
    let state = scene.path().join("state");
    fs::remove_file(state.join("lock")).unwrap();
    fs::remove_file(state.join("bundle.pem")).unwrap();
    let folder = fs::read_dir(state.join("authorities")).unwrap().next().unwrap().unwrap();
    let staged = state.join("authorities").join(format!(".staged-{}", folder.file_name().display()));
    fs::rename(folder.path(), &staged).unwrap();

    let world = scene.start().await;

    degraded_by(&world, "cannot be written: Read-only file system").await;
    degraded_by(&world, "the CA on disk is whole").await;
    degraded_by(&world, "the peppers of API keys cannot be made").await;
    // The bundle for others is what is missing; the reader's own is there.
    let roots = fs::read(world.files("caller").join("current/bundle.pem")).unwrap();
    let roots = pem::certificates(&roots).unwrap();
    let identity = world.identity("caller");
    let tls = support::caller::dial(world.address(), &roots, Some(&identity), "http/1.1").await.unwrap();
    assert_eq!(Talk::new(tls).get("/a", "").await.status, 200);
    let told = world.admin().change_authority(&Change::new(Level::Issuing, Verb::Rotate)).await.unwrap_err();
    assert!(told.to_string().contains("Read-only file system"), "{told}");
    assert!(staged.exists());

    beside(&world, "mount -o remount,rw,bind state");

    healthy(&world).await;
    assert!(!staged.exists() && folder.path().exists() && state.join("lock").exists());
    serves(&world).await;
    world.admin().change_authority(&Change::new(Level::Issuing, Verb::Rotate)).await.unwrap();
    serves(&world).await;
}

#[tokio::test]
async fn a_first_start_without_a_place_for_a_ca_is_refused() {
    if !can_mount() {
        return;
    }
    for (mount, reason) in [
        ("mount -t tmpfs -o ro tmpfs state", "Read-only file system"),
        (
            "mount -t tmpfs -o size=4k tmpfs state; dd if=/dev/zero of=state/filler bs=4k 2>&1 || true",
            "No space left",
        ),
    ] {
        let scene = Scene::guarding("builtin:whoami");
        scene.write();
        fs::create_dir(scene.path().join("state")).unwrap();
        let agent = postern(scene.path());
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &format!("{mount}; exec \"$@\""), "sh"]).arg(agent.get_program());
        let output = command.args(agent.get_args()).arg("run").current_dir(scene.path()).output().unwrap();

        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(reason) && told.contains("state"), "{told}");
    }
}
