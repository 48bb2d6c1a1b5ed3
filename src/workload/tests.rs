//! Files as their readers see them, while they are being replaced.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::secret::Secret;
use crate::store::pem;
use crate::workload::acl::Reader;
use crate::workload::files::{DeliverError, FileMode, InvalidMode, Material, Settings, deliver};

/// A fresh identity, as it is issued anew for each generation.
pub(super) fn identity(generation: u64) -> Material {
    let made = rcgen::generate_simple_self_signed(vec![format!("generation-{generation}.test")]).unwrap();
    let certificate = made.cert.der().clone();
    Material {
        key: Arc::new(Secret::new(made.signing_key.serialize_der())),
        chain: vec![certificate.clone()],
        roots: vec![certificate],
        sequence: 1,
        generation,
    }
}

pub(super) fn settings(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        owner: None,
        group: None,
        mode: FileMode::OWNER,
        readers: Vec::new(),
        reload: None,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    names.sort();
    names
}

fn generations(directory: &Path) -> Vec<String> {
    names(directory)
        .iter()
        .filter_map(|name| name.split_once('-'))
        .map(|(first, _)| first.to_owned())
        .collect()
}

#[test]
fn a_delivery_holds_the_identity_whole_and_apart() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(&root.path().join("run/ledger"));
    let material = identity(7);

    deliver(&settings, &material).unwrap();

    let current = settings.directory.join("current");
    let read = |name: &str| fs::read(current.join(name)).unwrap();
    assert_eq!(
        names(&current),
        ["bundle.pem", "chain.pem", "credential-bundle.pem", "generation", "key.pem"]
    );
    assert_eq!(pem::private_key(&read("key.pem")).unwrap(), *material.key);
    assert_eq!(pem::certificates(&read("chain.pem")).unwrap(), material.chain);
    assert_eq!(pem::certificates(&read("bundle.pem")).unwrap(), material.roots);
    assert_eq!(read("credential-bundle.pem"), [read("key.pem"), read("chain.pem")].concat());
    assert_eq!(read("generation"), b"7\n");
}

#[test]
fn owner_group_and_mode_are_as_stated_on_everything_delivered() {
    let root = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (owner, group) = if is_root { (65534, 65534) } else { (uid, gid) };
    let settings = Settings {
        owner: Some(owner),
        group: Some(group),
        mode: FileMode::new(0o640).unwrap(),
        ..settings(&root.path().join("ledger"))
    };

    deliver(&settings, &identity(1)).unwrap();

    let current = settings.directory.join("current").canonicalize().unwrap();
    let expect = |path: &Path, mode| {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (owner, group), "{}", path.display());
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{}", path.display());
    };
    expect(&settings.directory, 0o750);
    expect(&current, 0o750);
    for name in names(&current) {
        expect(&current.join(name), 0o640);
    }
}

/// Whether a process of that user can read the file.
fn can_read(uid: u32, path: &Path) -> bool {
    use std::os::unix::process::CommandExt as _;

    let mut command = std::process::Command::new("cat");
    command
        .arg(path)
        .uid(uid)
        .gid(uid)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn further_readers_are_let_in_and_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let readers = vec![Reader::User(60_011), Reader::Group(60_012)];
    let settings = Settings { owner: Some(60_010), readers, ..settings(&root.path().join("ledger")) };

    for generation in [1, 2] {
        deliver(&settings, &identity(generation)).unwrap();

        let current = settings.directory.join("current");
        for name in names(&current) {
            for uid in [60_010, 60_011, 60_012] {
                assert!(can_read(uid, &current.join(&name)), "{uid} reads {name}");
            }
            assert!(!can_read(60_013, &current.join(&name)), "{name}");
            let mode = fs::metadata(current.join(&name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o640, "the group's bits are the mask of the list");
        }
    }
}

#[test]
fn a_key_is_never_open_to_everybody() {
    assert_eq!(FileMode::new(0o644), Err(InvalidMode::OpenToAll(0o644)));
    assert_eq!(FileMode::new(0o601), Err(InvalidMode::OpenToAll(0o601)));
    assert_eq!(FileMode::new(0o700), Err(InvalidMode::Unsuitable(0o700)));
    assert_eq!(FileMode::new(0o040), Err(InvalidMode::Unsuitable(0o040)));
    assert_eq!(FileMode::new(0o4600), Err(InvalidMode::Unsuitable(0o4600)));
    for mode in [0o400, 0o440, 0o600, 0o640, 0o660] {
        assert!(FileMode::new(mode).is_ok());
    }
}

#[test]
fn a_directory_open_to_everybody_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();

    let result = deliver(&settings(root.path()), &identity(1));

    assert!(matches!(result, Err(DeliverError::OpenToAll { .. })));
    assert_eq!(names(root.path()), [""; 0]);
}

#[test]
fn a_key_that_is_not_the_certificates_is_not_delivered() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());
    deliver(&settings, &identity(1)).unwrap();

    let mixed = Material { key: identity(2).key, ..identity(3) };

    assert!(matches!(deliver(&settings, &mixed), Err(DeliverError::Mismatch(_))));
    assert_eq!(fs::read(root.path().join("current/generation")).unwrap(), b"1\n");
}

#[test]
fn the_delivery_before_the_current_one_stays_and_older_ones_go() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());

    for generation in 1..=3 {
        deliver(&settings, &identity(generation)).unwrap();
    }
    assert_eq!(generations(root.path()), ["2", "3"]);

    // Nothing hangs on the order of the numbers.
    deliver(&settings, &identity(1)).unwrap();
    assert_eq!(generations(root.path()), ["1", "3"]);
    assert_eq!(fs::read(root.path().join("current/generation")).unwrap(), b"1\n");
}

#[test]
fn what_a_crash_left_goes_and_what_others_put_there_stays() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path(".postern-9-00000000")).unwrap();
    fs::File::create(path(".postern-9-00000000/key.pem")).unwrap();
    std::os::unix::fs::symlink("9-00000000", path(".postern-11111111")).unwrap();
    fs::create_dir(path("9-22222222")).unwrap();
    fs::create_dir(path("2026-notes")).unwrap();
    fs::File::create(path("README")).unwrap();

    deliver(&settings(root.path()), &identity(1)).unwrap();

    let names = names(root.path());
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.iter().any(|name| name == "2026-notes") && names.iter().any(|name| name == "README"));
}

#[test]
fn a_link_planted_in_the_directory_leads_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::File::create(elsewhere.path().join("precious")).unwrap();
    let path = |name: &str| root.path().join(name);
    std::os::unix::fs::symlink(elsewhere.path(), path("9-33333333")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), path("current")).unwrap();

    deliver(&settings(root.path()), &identity(1)).unwrap();

    assert_eq!(names(elsewhere.path()), ["precious"]);
    assert_eq!(generations(root.path()), ["1"]);
}

#[test]
fn one_delivery_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let held = fs::File::open(root.path()).unwrap();
    held.lock().unwrap();

    assert!(matches!(deliver(&settings(root.path()), &identity(1)), Err(DeliverError::Busy { .. })));
    drop(held);
    deliver(&settings(root.path()), &identity(1)).unwrap();
}

/// Reads until it succeeds: whoever was overtaken twice between resolving and opening looks again.
fn read_again_if_overtaken<T>(read: impl Fn() -> io::Result<T>) -> T {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            result => return result.unwrap(),
        }
    }
}

/// Set when dropped, so that the writer also stops when a reader panics.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn ten_thousand_readers_never_see_a_key_without_its_certificate() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(root.path());
    let identities = (1..=8).map(identity).collect::<Vec<_>>();
    let belongs = |key: &[u8], chain: &[u8]| {
        let (key, chain) = (pem::private_key(key).unwrap(), pem::certificates(chain).unwrap());
        identities.iter().any(|identity| *identity.key == key && identity.chain == chain)
    };
    deliver(&settings, identities.first().unwrap()).unwrap();
    let finished = AtomicBool::new(false);

    let swaps = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let endless = identities.iter().cycle();
            let delivered = endless.take_while(|_| !finished.load(Ordering::Relaxed));
            delivered.map(|identity| deliver(&settings, identity).unwrap()).count()
        });
        let reading = Finished(&finished);
        let current = root.path().join("current");
        for _ in 0..10_000 {
            let whole = read_again_if_overtaken(|| fs::read(current.join("credential-bundle.pem")));
            let end = whole.windows(11).position(|text| text == b"-----BEGIN ").unwrap();
            assert_eq!(end, 0);
            let chain = whole.windows(27).position(|text| text == b"-----BEGIN CERTIFICATE-----").unwrap();
            assert!(belongs(&whole[..chain], &whole[chain..]));

            let (key, chain) = read_again_if_overtaken(|| {
                let resolved = current.canonicalize()?;
                Ok((fs::read(resolved.join("key.pem"))?, fs::read(resolved.join("chain.pem"))?))
            });
            assert!(belongs(&key, &chain));
        }
        drop(reading);
        writer.join().unwrap()
    });

    assert!(swaps > 1, "only {swaps} swaps");
}
