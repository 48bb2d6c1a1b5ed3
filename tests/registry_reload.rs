//! Edits of the registry, however they are made: in force within a second on connections that live on, or not at all.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use support::world::Key;
use support::{Scene, Service, Talk, Tls, World, eventually, write};
use tokio::time::Instant;

/// An edit must be in force after this time.
const IN_FORCE: Duration = Duration::from_secs(1);

/// Asks every 10 ms, on one connection, until the answer has `status` and `code`; how long that took since `begun`.
async fn until(talk: &mut Talk<Tls>, line: &str, expected: (u16, &str), begun: Instant) -> Duration {
    loop {
        let answer = talk.get("/a", line).await;
        if (answer.status, answer.code().as_str()) == expected {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < IN_FORCE, "expected {expected:?}, still {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Replaces `path` by a rename.
fn mv(path: &Path, text: &str) {
    let next = path.with_extension("next");
    write(&next, text);
    fs::rename(next, path).unwrap();
}

/// Points the link at `path` to `target`, in one step.
fn swap(path: &Path, target: &str) {
    let next = path.with_file_name("next");
    symlink(target, &next).unwrap();
    fs::rename(next, path).unwrap();
}

/// An agent whose registry was laid out by `prepare`, and a key that is good there.
async fn guarded(prepare: impl FnOnce(&Path)) -> (World, Service, Key) {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    let key = scene.app_with_key("by-key");
    prepare(scene.path());
    (scene.start().await, service, key)
}

/// The registry of `world` with the key's credential revoked.
fn without_key(world: &World, key: &Key) -> String {
    let id = format!("id = \"{}\"\n", key.id);
    assert!(world.registry().contains(&id));
    world.registry().replace(&id, &format!("{id}status = \"revoked\"\n"))
}

/// Makes two edits, the second of which takes back the first, and sees both in force in time.
async fn there_and_back(how: &str, world: &World, key: &Key, edit: impl Fn(u8, &str)) {
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);

    let begun = Instant::now();
    edit(2, &without_key(world, key));
    let there = until(&mut talk, &key.line(), (401, "credential-revoked"), begun).await;
    let begun = Instant::now();
    edit(3, world.registry());
    let back = until(&mut talk, &key.line(), (200, ""), begun).await;

    #[expect(clippy::print_stdout, reason = "the figures are wanted")]
    {
        println!("{how}: in force after {} ms, and back after {} ms", there.as_millis(), back.as_millis());
    }
}

#[tokio::test]
async fn a_file_that_is_moved_over_another_is_in_force_within_a_second() {
    let (world, _service, key) = guarded(|_| {}).await;
    let path = world.path().join("registry/apps.toml");

    there_and_back("mv", &world, &key, |_, text| mv(&path, text)).await;
}

#[tokio::test]
async fn a_write_in_place_is_in_force_within_a_second() {
    let (world, _service, key) = guarded(|_| {}).await;
    let path = world.path().join("registry/apps.toml");

    there_and_back("write in place", &world, &key, |_, text| write(&path, text)).await;
}

#[tokio::test]
async fn a_folder_that_is_swapped_by_its_link_is_in_force_within_a_second() {
    let prepare = |folder: &Path| {
        fs::create_dir(folder.join("v1")).unwrap();
        symlink("v1", folder.join("registry")).unwrap();
    };
    let (world, _service, key) = guarded(prepare).await;

    there_and_back("link to the folder", &world, &key, |version, text| {
        write(&world.path().join(format!("v{version}/apps.toml")), text);
        swap(&world.path().join("registry"), &format!("v{version}"));
    })
    .await;
}

#[tokio::test]
async fn a_mounted_volume_that_is_swapped_within_is_in_force_within_a_second() {
    let prepare = |folder: &Path| {
        fs::create_dir_all(folder.join("registry/..v1")).unwrap();
        symlink("..v1", folder.join("registry/..data")).unwrap();
        symlink("..data/apps.toml", folder.join("registry/apps.toml")).unwrap();
    };
    let (world, _service, key) = guarded(prepare).await;

    there_and_back("..data", &world, &key, |version, text| {
        write(&world.path().join(format!("registry/..v{version}/apps.toml")), text);
        swap(&world.path().join("registry/..data"), &format!("..v{version}"));
    })
    .await;
}

#[tokio::test]
async fn a_file_that_comes_or_goes_is_in_force_within_a_second() {
    let (world, _service, key) = guarded(|_| {}).await;
    let (caller, path) = (world.identity("caller"), world.path().join("registry/more.toml"));
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    let stranger = world.identity("nobody");
    let mut new = world.talk(Some(&stranger)).await;
    assert_eq!(new.get("/a", "").await.code(), "unmapped-certificate");

    let begun = Instant::now();
    write(
        &path,
        "[[app]]\nid = \"new\"\ndeveloper = \"team\"\n[[app.certificate]]\nuri = \"spiffe://postern.test/nobody\"\n\
         [[app.grant]]\nproduct = \"orders\"\n",
    );
    until(&mut new, "", (200, ""), begun).await;
    let begun = Instant::now();
    fs::remove_file(&path).unwrap();
    until(&mut new, "", (403, "unmapped-certificate"), begun).await;

    assert_eq!(world.talk(Some(&caller)).await.get("/a", "").await.status, 200);
}

#[tokio::test]
async fn a_revocation_at_any_level_ends_the_use_of_live_connections() {
    let (world, service, key) = guarded(|_| {}).await;
    let path = world.path().join("registry/apps.toml");
    let (identity, key_line) = (world.identity("caller"), key.line());
    let (mut by_certificate, mut by_key) = (world.talk(Some(&identity)).await, world.talk(None).await);
    let h2 = world.h2(Some(&identity)).await;
    let edits = [
        ("id = \"team\"\n", "id = \"team\"\nstatus = \"inactive\"\n", "developer-inactive", true, true),
        ("id = \"caller\"\n", "id = \"caller\"\nstatus = \"revoked\"\n", "app-revoked", true, false),
        ("id = \"by-key\"\n", "id = \"by-key\"\nstatus = \"revoked\"\n", "app-revoked", false, true),
        (
            "id = \"caller-svid\"\n",
            "id = \"caller-svid\"\nstatus = \"revoked\"\n",
            "credential-revoked",
            true,
            false,
        ),
        (
            "product = \"orders\"\n",
            "product = \"orders\"\nstatus = \"revoked\"\n",
            "grant-revoked",
            true,
            true,
        ),
        (
            "product = \"orders\"\n",
            "product = \"orders\"\nstatus = \"pending\"\n",
            "grant-pending",
            true,
            true,
        ),
        (
            "product = \"orders\"\n",
            "product = \"orders\"\nexpires = 2026-01-02T00:00:00Z\n",
            "grant-expired",
            true,
            true,
        ),
        ("path = \"/**\"\n", "path = \"/b\"\n", "not-entitled", true, true),
    ];

    for (from, to, code, hits_certificate, hits_key) in edits {
        assert!(world.registry().contains(from), "{from}");
        assert_eq!(h2.get("/a", &[]).await.status, 200);
        let status = if code.starts_with("credential") { 401 } else { 403 };
        let begun = Instant::now();
        mv(&path, &world.registry().replace(from, to));
        if hits_certificate {
            until(&mut by_certificate, "", (status, code), begun).await;
            assert_eq!(h2.get("/a", &[]).await.code(), code);
        }
        if hits_key {
            until(&mut by_key, &key_line, (status, code), begun).await;
        }
        let begun = Instant::now();
        mv(&path, world.registry());
        until(&mut by_certificate, "", (200, ""), begun).await;
        until(&mut by_key, &key_line, (200, ""), begun).await;
    }
    assert!(service.seen().len() > 8);
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_is_told_until_it_is_mended() {
    let (world, _service, key) = guarded(|_| {}).await;
    let path = world.path().join("registry/apps.toml");
    let mut talk = world.talk(None).await;
    let version = world.status().await.registry.version;
    assert_eq!(world.metric("postern_registry_current").await, Some(1.0));
    let broken = world.registry().replace("developer = \"team\"", "developr = \"team\"")
        + "\n[[app]]\nid = \"by-key\"\ndeveloper = \"taem\"\n";
    write(&path, &broken);

    let status = eventually("the broken edit is told", async || {
        Some(world.status().await).filter(|status| !status.registry.current)
    })
    .await;

    let told = status.registry.last_error.unwrap();
    let line = broken.lines().position(|line| line.starts_with("developr")).unwrap() + 1;
    assert!(told.contains(&format!("apps.toml:{line}:")), "{told}");
    assert!(told.contains("did you mean `developer`?"), "{told}");
    assert!(told.contains("team"), "{told}");
    assert!(told.lines().count() >= 3, "all errors at once: {told}");
    assert_eq!(status.registry.version, version);
    assert!(status.ready.ready, "it can still serve");
    assert!(status.degraded.iter().any(|reason| reason.contains("registry")), "{:?}", status.degraded);
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    assert_eq!(world.metric("postern_registry_current").await, Some(0.0));
    assert!(world.metric("postern_reloads_total{result=\"rejected\"}").await >= Some(1.0));
    assert!(world.log().contains("the last good one stays in force"));

    let begun = Instant::now();
    mv(&path, &without_key(&world, &key));
    until(&mut talk, &key.line(), (401, "credential-revoked"), begun).await;
    eventually("the mended registry is told", async || world.status().await.registry.current.then_some(()))
        .await;
    assert_eq!(world.status().await.registry.last_error, None);
    assert_eq!(world.metric("postern_registry_current").await, Some(1.0));
    assert_eq!(world.metric("postern_reloads_total{result=\"applied\"}").await, Some(1.0));
}

#[tokio::test]
async fn taking_back_a_broken_edit_mends_it_too() {
    let (world, _service, key) = guarded(|_| {}).await;
    let path = world.path().join("registry/apps.toml");
    write(&path, "[[app]\n");
    eventually("the broken edit is told", async || (!world.status().await.registry.current).then_some(()))
        .await;

    write(&path, world.registry());

    eventually("it is mended", async || world.status().await.registry.current.then_some(())).await;
    assert_eq!(world.metric("postern_registry_current").await, Some(1.0));
    assert_eq!(world.talk(None).await.get("/a", &key.line()).await.status, 200);
}

/// What is taken out of the registry is refused; that its folder is gone is an accident, such as a file system that is not
/// mounted, and turns nobody away, but is told.
#[tokio::test]
async fn a_registry_whose_folder_is_gone_stays_as_it_was_and_is_told() {
    let (world, _service, key) = guarded(|_| {}).await;
    let mut talk = world.talk(None).await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);

    fs::rename(world.path().join("registry"), world.path().join("elsewhere")).unwrap();
    eventually("it is told", async || (!world.status().await.registry.current).then_some(())).await;
    world.signal("HUP");
    world.log_with("the configuration on disk cannot be put into force").await;
    assert_eq!(talk.get("/a", &key.line()).await.status, 200);
    assert_eq!(world.metric("postern_registry_current").await, Some(0.0));

    fs::rename(world.path().join("elsewhere"), world.path().join("registry")).unwrap();
    eventually("it is mended", async || world.status().await.registry.current.then_some(())).await;
    let begun = Instant::now();
    fs::remove_file(world.path().join("registry/apps.toml")).unwrap();
    until(&mut talk, &key.line(), (401, "invalid-credential"), begun).await;
}
