//! The CA on disk: killed at every step, damaged in every way, read by OpenSSL.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::pki::{
    AuthorityPlan, Hierarchy, KeyAlgorithm, KeyPair, Level, LocalKeys, Profile, SignedChain, SigningRequest,
    Slots, issue,
};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    "2026-11-22T05:21:00Z".parse().unwrap()
}

fn plan(ttl: Duration) -> AuthorityPlan<'static> {
    AuthorityPlan {
        keys: &LocalKeys,
        algorithm: KeyAlgorithm::EcdsaP256,
        ttl,
        backdate: Duration::from_secs(300),
    }
}

fn new_ca() -> Hierarchy {
    Hierarchy::create("postern.test".parse().unwrap(), &plan(HOUR * 8760), &plan(HOUR * 168), now()).unwrap()
}

fn rotated(hierarchy: &Hierarchy) -> Hierarchy {
    let prepared = hierarchy.prepare_issuing(&plan(HOUR * 168), now()).unwrap();
    let id = prepared.issuing().prepared.as_ref().unwrap().id().clone();
    prepared.activate_issuing(&id, now() + HOUR, now()).unwrap()
}

/// All that tells one state from another.
fn summary(hierarchy: &Hierarchy) -> String {
    let list: Vec<String> = hierarchy
        .iter()
        .map(|(slot, authority)| format!("{slot} {} {}", authority.id(), authority.life().not_after))
        .collect();
    let until: Vec<String> = [hierarchy.roots(), hierarchy.issuing()]
        .iter()
        .flat_map(|slots| &slots.retired)
        .map(|retired| retired.until.to_string())
        .collect();
    format!("{} {} {list:?} {until:?}", hierarchy.domain(), hierarchy.sequence())
}

fn load(state: &Path) -> Result<Option<String>, StoreError> {
    let stored = AuthorityDir::open(state).unwrap().load()?;
    Ok(stored.map(|stored| summary(&stored.hierarchy)))
}

fn commit(state: &Path, hierarchy: &Hierarchy) {
    let committed = AuthorityDir::open(state).unwrap().commit(hierarchy).unwrap();
    assert!(committed.untidy.is_empty(), "{committed:?}");
}

/// A state directory with a committed CA.
fn with_ca() -> (tempfile::TempDir, Hierarchy) {
    let state = tempfile::tempdir().unwrap();
    let hierarchy = new_ca();
    commit(state.path(), &hierarchy);
    (state, hierarchy)
}

/// From the step `last` on nothing changes on the disk any more, as if the process had been killed before it.
fn killed_before(last: usize) -> (Box<atomic_file::Gate<'static>>, Arc<AtomicUsize>) {
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&steps);
    let gate = move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) < last { Ok(()) } else { Err(io::Error::other("killed")) }
    };
    (Box::new(gate), steps)
}

fn kill_at_every_step(before: Option<&Hierarchy>, after: &Hierarchy) -> usize {
    let old = before.map(summary);
    let new = Some(summary(after));
    let mut seen_new = false;
    for last in 0.. {
        let state = tempfile::tempdir().unwrap();
        if let Some(before) = before {
            commit(state.path(), before);
        }
        let (gate, steps) = killed_before(last);
        let outcome = AuthorityDir::open_with(state.path(), gate).unwrap().commit(after);
        let finished = steps.load(Ordering::Relaxed) <= last;

        let found = load(state.path()).unwrap();
        assert!(found == old || found == new, "killed before step {last}: {found:?}");
        assert!(!seen_new || found == new, "step {last} took back what an earlier one had committed");
        seen_new = found == new;
        assert!(outcome.is_err() || seen_new, "committed at step {last}, but the old state is there");
        assert_eq!(load(state.path()).unwrap(), found, "the second start finds the same");

        // Whatever was left lying about, the next commit works and clears it up.
        commit(state.path(), after);
        assert_eq!(load(state.path()).unwrap(), new);
        assert_eq!(names(&state.path().join("authorities")), listed(after), "killed before step {last}");
        assert_eq!(names(state.path()), ["authorities", "authorities.toml", "bundle.pem", "lock"]);
        if finished {
            return last;
        }
    }
    unreachable!()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn listed(hierarchy: &Hierarchy) -> Vec<String> {
    let mut names: Vec<String> = hierarchy.iter().map(|(_, authority)| authority.id().to_string()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_first_commit_survives_a_kill_at_every_step() {
    assert!(kill_at_every_step(None, &new_ca()) > 30);
}

#[test]
fn preparing_survives_a_kill_at_every_step() {
    let before = new_ca();
    let after = before.prepare_issuing(&plan(HOUR * 168), now()).unwrap();

    assert!(kill_at_every_step(Some(&before), &after) > 15);
}

#[test]
fn activating_survives_a_kill_at_every_step() {
    let before = new_ca().prepare_issuing(&plan(HOUR * 168), now()).unwrap();
    let id = before.issuing().prepared.as_ref().unwrap().id().clone();
    let after = before.activate_issuing(&id, now() + HOUR, now()).unwrap();

    assert!(kill_at_every_step(Some(&before), &after) > 5);
}

/// A CA whose root was replaced: before, with the next root prepared, and after.
fn new_root() -> [Hierarchy; 3] {
    let before = new_ca();
    let prepared = before.prepare_root(&plan(HOUR * 8760), now() + HOUR).unwrap();
    let id = prepared.roots().prepared.as_ref().unwrap().id().clone();
    let active = prepared.activate_root(&id, &plan(HOUR * 168), now() + HOUR * 2, now() + HOUR).unwrap();
    [before, prepared, active]
}

#[test]
fn every_move_of_a_root_survives_a_kill_at_every_step() {
    let [before, prepared, active] = new_root();
    let (old, new) = (before.roots().active.id(), active.roots().active.id());
    let later = now() + HOUR;
    let back = active.roll_back_root(old, &plan(HOUR * 168), now() + HOUR * 2, later).unwrap();

    for (name, from, to) in [
        ("prepare", &before, &prepared),
        ("discard", &prepared, &prepared.discard(Level::Root, new).unwrap()),
        ("activate", &prepared, &active),
        ("roll back", &active, &back),
        ("retire early", &active, &active.drop_early(Level::Root, old).unwrap()),
        ("drop when drained", &active, &active.drop_drained(now() + HOUR * 3).unwrap()),
    ] {
        assert!(kill_at_every_step(Some(from), to) > 5, "{name}");
    }
}

#[test]
fn rolling_back_an_issuing_authority_survives_a_kill_at_every_step() {
    let before = rotated(&new_ca());
    let former = before.issuing().retired[0].authority.id();
    let after = before.roll_back_issuing(former, now() + HOUR, now()).unwrap();

    assert!(kill_at_every_step(Some(&before), &after) > 5);
}

#[test]
fn dropping_survives_a_kill_at_every_step() {
    let before = rotated(&new_ca());
    let after = before.drop_drained(now() + HOUR * 2).unwrap();

    assert!(kill_at_every_step(Some(&before), &after) > 5);
}

#[test]
fn a_start_that_finishes_an_interrupted_commit_survives_a_kill_at_every_step() {
    let hierarchy = new_ca();
    let committed = (0..).find(|last| {
        let state = tempfile::tempdir().unwrap();
        let (gate, _) = killed_before(*last);
        AuthorityDir::open_with(state.path(), gate).unwrap().commit(&hierarchy).is_ok()
    });

    for last in 0.. {
        let state = tempfile::tempdir().unwrap();
        let (gate, _) = killed_before(committed.unwrap());
        let untidy = AuthorityDir::open_with(state.path(), gate).unwrap().commit(&hierarchy).unwrap().untidy;
        assert!(!untidy.is_empty());

        let (gate, steps) = killed_before(last);
        drop(AuthorityDir::open_with(state.path(), gate).unwrap().load());

        assert_eq!(load(state.path()).unwrap(), Some(summary(&hierarchy)), "killed before step {last}");
        assert_eq!(names(&state.path().join("authorities")), listed(&hierarchy));
        if steps.load(Ordering::Relaxed) <= last {
            assert!(last > 5);
            return;
        }
    }
}

#[test]
fn what_was_committed_is_loaded_again() {
    let state = tempfile::tempdir().unwrap();
    let hierarchy = rotated(&rotated(&new_ca())).prepare_issuing(&plan(HOUR * 168), now()).unwrap();

    commit(state.path(), &hierarchy);

    assert_eq!(load(state.path()).unwrap(), Some(summary(&hierarchy)));
}

#[test]
fn keys_are_for_the_agent_alone() {
    let (state, hierarchy) = with_ca();
    let authorities = state.path().join("authorities");

    assert_eq!(mode(&authorities), 0o700);
    for id in listed(&hierarchy) {
        assert_eq!(mode(&authorities.join(&id)), 0o700);
        assert_eq!(mode(&authorities.join(&id).join("key.pem")), 0o600);
    }
    assert_eq!(mode(&state.path().join("bundle.pem")), 0o644);
    assert_eq!(mode(&state.path().join("authorities.toml")), 0o600);
}

#[test]
fn a_fresh_state_directory_is_private() {
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("var/postern");

    assert!(AuthorityDir::open(&state).unwrap().load().unwrap().is_none());

    assert_eq!(mode(&state), 0o700);
}

#[test]
fn other_things_in_the_state_directory_are_no_ca() {
    let state = tempfile::tempdir().unwrap();
    fs::create_dir(state.path().join("run")).unwrap();
    for name in ["README.md", "peppers.toml", "lock"] {
        atomic_file::replace(&state.path().join(name), b"text", 0o600).unwrap();
    }

    assert_eq!(load(state.path()).unwrap(), None);
}

#[test]
fn two_agents_cannot_share_a_state_directory() {
    let state = tempfile::tempdir().unwrap();
    let first = AuthorityDir::open(state.path()).unwrap();

    let error = AuthorityDir::open(state.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(error.to_string().contains(&state.path().join("lock").display().to_string()), "{error}");

    drop(first);
    drop(AuthorityDir::open(state.path()).unwrap());
}

#[test]
fn a_lost_manifest_never_leads_to_a_new_ca() {
    let (state, _) = with_ca();
    fs::remove_file(state.path().join("authorities.toml")).unwrap();

    let error = load(state.path()).unwrap_err();
    assert!(matches!(error, StoreError::Lost { .. }));
    assert!(error.to_string().contains("authorities.toml is missing, yet there are authorities/"), "{error}");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");

    fs::remove_dir_all(state.path().join("authorities")).unwrap();
    let error = load(state.path()).unwrap_err();
    assert!(error.to_string().contains("yet there are bundle.pem"), "{error}");

    fs::remove_file(state.path().join("bundle.pem")).unwrap();
    assert_eq!(load(state.path()).unwrap(), None, "everything was moved away: a first start");
}

#[test]
fn a_manifest_that_leads_nowhere_is_not_a_first_start() {
    let state = tempfile::tempdir().unwrap();
    symlink("/nonexistent/authorities.toml", state.path().join("authorities.toml")).unwrap();

    assert!(matches!(load(state.path()), Err(StoreError::Io { step: "read", .. })));
}

/// Damages a committed CA and tells what the agent says of it.
fn says_after(damage: impl FnOnce(&Path, &Path)) -> String {
    let (state, hierarchy) = with_ca();
    let active = state.path().join("authorities").join(hierarchy.issuing().active.id().as_str());
    damage(state.path(), &active);

    let error = load(state.path()).unwrap_err();

    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    assert!(text.contains(&state.path().display().to_string()), "it says where: {text}");
    let manifest = fs::read(state.path().join("authorities.toml")).unwrap_or_default();
    drop(load(state.path()));
    assert_eq!(
        fs::read(state.path().join("authorities.toml")).unwrap_or_default(),
        manifest,
        "nothing is touched"
    );
    text
}

fn overwrite(path: &Path, bytes: &[u8]) {
    atomic_file::replace(path, bytes, 0o600).unwrap();
}

#[test]
fn damage_is_named_and_never_repaired_by_a_new_ca() {
    let text = says_after(|_, active| fs::remove_dir_all(active).unwrap());
    assert!(text.contains("is missing, but authorities.toml names it"), "{text}");

    for file in ["key.pem", "certificate.pem"] {
        let text = says_after(|_, active| fs::remove_file(active.join(file)).unwrap());
        assert!(text.contains(&format!("{file} is missing")), "{text}");
        let text = says_after(|_, active| overwrite(&active.join(file), b""));
        assert!(text.contains(&format!("{file} is damaged")) && text.contains("found none"), "{text}");
        let text = says_after(|_, active| {
            let whole = fs::read(active.join(file)).unwrap();
            overwrite(&active.join(file), &whole[..whole.len() / 2]);
        });
        assert!(text.contains(&format!("{file} is damaged")), "{text}");
    }

    let text = says_after(|state, _| overwrite(&state.join("authorities.toml"), b""));
    assert!(text.contains("authorities.toml is damaged: missing field `version`"), "{text}");
    let text = says_after(|state, _| overwrite(&state.join("authorities.toml"), b"\xff"));
    assert!(text.contains("it is not UTF-8"), "{text}");
}

fn says_after_edit(from: &str, to: &str) -> String {
    says_after(|state, _| {
        let path = state.join("authorities.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        overwrite(&path, text.replacen(from, to, 1).as_bytes());
    })
}

#[test]
fn a_manifest_is_read_strictly() {
    assert!(says_after_edit("version = 1", "version = 2").contains("it has version 2, this agent knows 1"));
    assert!(says_after_edit("version = 1", "version = 1\nvolume = 1").contains("unknown field `volume`"));
    assert!(
        says_after_edit("slot = \"active\"", "slot = \"prepared\"").contains("it names no active authority")
    );
    assert!(
        says_after_edit("slot = \"active\"", "slot = \"retired\"").contains("`until` belongs to retired")
    );
    assert!(says_after_edit("slot = \"active\"", "slot = \"idle\"").contains("unknown variant `idle`"));
    assert!(says_after_edit("created = \"2026", "created = \"20x6").contains("the created \"20x6"));
    assert!(says_after_edit("postern.test", "Postern.Test").contains("\"Postern.Test\" is no trust domain"));
    assert!(says_after_edit("id = \"", "id = \"../../etc/").contains("is malformed"));
}

#[test]
fn a_key_that_does_not_belong_to_its_certificate_is_refused() {
    let text = says_after(|state, active| {
        let other = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let key = pem::key_to_pem(&other.to_pkcs8_der().unwrap());
        assert!(state.is_dir());
        overwrite(&active.join("key.pem"), key.expose_secret());
    });

    assert!(text.contains("the key does not belong to the certificate"), "{text}");
}

#[test]
fn authorities_that_changed_places_are_noticed() {
    let (state, hierarchy) = with_ca();
    let of = |id: &crate::id::AuthorityId| state.path().join("authorities").join(id.as_str());
    let (root, issuing) = (of(hierarchy.roots().active.id()), of(hierarchy.issuing().active.id()));
    fs::rename(&root, state.path().join("aside")).unwrap();
    fs::rename(&issuing, &root).unwrap();
    fs::rename(state.path().join("aside"), &issuing).unwrap();

    assert!(matches!(load(state.path()), Err(StoreError::Manifest { .. })));
}

#[test]
fn an_issuing_authority_of_another_ca_is_refused() {
    let (state, hierarchy) = with_ca();
    let other = new_ca();
    commit(state.path(), &other);
    let manifest = state.path().join("authorities.toml");
    let foreign = fs::read_to_string(&manifest).unwrap();
    let root = |hierarchy: &Hierarchy| hierarchy.roots().active.id().to_string();
    commit(state.path(), &hierarchy);
    let directory = AuthorityDir::open(state.path()).unwrap();
    drop(directory.commit(&other).unwrap());
    drop(directory);
    // The other CA's issuing authority under this CA's root.
    let (aside, _) = with_ca();
    commit(aside.path(), &hierarchy);
    let authorities = state.path().join("authorities");
    fs::rename(aside.path().join("authorities").join(root(&hierarchy)), authorities.join(root(&hierarchy)))
        .unwrap();
    overwrite(&manifest, foreign.replace(&root(&other), &root(&hierarchy)).as_bytes());

    let error = load(state.path()).unwrap_err();

    assert!(matches!(error, StoreError::Hierarchy { .. }), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    for mode in [0o640, 0o604, 0o644, 0o660] {
        let text = says_after(|_, active| {
            fs::set_permissions(active.join("key.pem"), Permissions::from_mode(mode)).unwrap();
        });
        assert!(text.contains(&format!("key.pem has mode {mode:04o}")), "{text}");
    }
}

#[test]
fn a_stray_directory_is_reported_and_removed_by_the_next_commit() {
    let (state, hierarchy) = with_ca();
    let stray = state.path().join("authorities/0123456789abcdef");
    fs::create_dir(&stray).unwrap();

    let directory = AuthorityDir::open(state.path()).unwrap();
    let stored = directory.load().unwrap().unwrap();
    assert_eq!(stored.orphans, ["0123456789abcdef"]);
    assert!(stray.exists());

    assert!(directory.commit(&rotated(&hierarchy)).unwrap().untidy.is_empty());
    assert!(!stray.exists());
}

#[test]
fn a_commit_heals_what_was_damaged_while_the_agent_ran() {
    let (state, hierarchy) = with_ca();
    let key = state.path().join("authorities").join(hierarchy.issuing().active.id().as_str()).join("key.pem");
    overwrite(&key, b"");

    commit(state.path(), &hierarchy);

    assert_eq!(load(state.path()).unwrap(), Some(summary(&hierarchy)));
}

#[test]
fn an_authority_that_could_not_be_given_its_name_is_not_thrown_away() {
    let (place, before) = with_ca();
    let refused =
        |step| if step == "rename directory" { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    let next = before.prepare_issuing(&plan(HOUR * 168), now()).unwrap();

    let directory = AuthorityDir::open_with(place.path(), Box::new(refused)).unwrap();
    let untidy = directory.commit(&next).unwrap().untidy;
    assert!(
        matches!(untidy.as_slice(), [StoreError::Io { step: "give its final name to", .. }]),
        "{untidy:?}"
    );
    // Nothing can be renamed at the next start either.
    let stored = directory.load().unwrap().unwrap();
    assert_eq!((stored.untidy.len(), stored.orphans.len()), (1, 0));
    assert_eq!(summary(&stored.hierarchy), summary(&next));
    // Neither does trying again endanger it: killed at any step, it is still there.
    for last in 0.. {
        let copy = tempfile::tempdir().unwrap();
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(place.path().join("."))
                .arg(copy.path())
                .status()
                .unwrap()
                .success()
        );
        let (gate, steps) = killed_before(last);
        drop(AuthorityDir::open_with(copy.path(), gate).unwrap().commit(&next));
        assert_eq!(load(copy.path()).unwrap(), Some(summary(&next)), "killed before step {last}");
        if steps.load(Ordering::Relaxed) <= last {
            break;
        }
    }
    drop(directory);

    let healed = AuthorityDir::open(place.path()).unwrap().load().unwrap().unwrap();
    assert!(healed.untidy.is_empty());
    assert_eq!(summary(&healed.hierarchy), summary(&next));
}

#[test]
fn a_lost_bundle_is_written_again() {
    let (state, _) = with_ca();
    let path = state.path().join("bundle.pem");
    let bundle = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();

    load(state.path()).unwrap();

    assert_eq!(fs::read(&path).unwrap(), bundle);
}

// A second opinion.

fn openssl(arguments: &[&str], directory: &Path) -> Option<String> {
    let output = match Command::new("openssl").args(arguments).current_dir(directory).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    Some(text)
}

#[test]
fn openssl_believes_what_is_issued_and_reads_the_keys() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
        let state = tempfile::tempdir().unwrap();
        let plan = |ttl| AuthorityPlan { algorithm, ..plan(ttl) };
        let domain = "postern.test".parse().unwrap();
        let hierarchy = Hierarchy::create(domain, &plan(HOUR * 8760), &plan(HOUR * 168), now()).unwrap();
        commit(state.path(), &hierarchy);
        let profile = Profile {
            spiffe_id: "spiffe://postern.test/orders".parse().unwrap(),
            dns: vec!["orders.postern.test".to_owned()],
            ttl: HOUR,
            backdate: Duration::from_secs(300),
            algorithm,
        };
        let svid = issue(&hierarchy.issuing().active, &profile, now()).unwrap();
        let path = |name| state.path().join(name);
        overwrite(&path("leaf.pem"), pem::certificate_to_pem(&svid.chain[0]).as_bytes());
        overwrite(&path("issuing.pem"), pem::certificate_to_pem(&svid.chain[1]).as_bytes());
        overwrite(&path("key.pem"), pem::key_to_pem(&svid.key).expose_secret());
        let at = now().unix().to_string();

        for purpose in ["sslclient", "sslserver"] {
            let verdict = openssl(
                &[
                    "verify",
                    "-x509_strict",
                    "-attime",
                    &at,
                    "-purpose",
                    purpose,
                    "-CAfile",
                    "bundle.pem",
                    "-untrusted",
                    "issuing.pem",
                    "leaf.pem",
                ],
                state.path(),
            );
            let Some(verdict) = verdict else { return };
            assert!(verdict.contains("leaf.pem: OK"), "{verdict}");
        }
        let key = openssl(&["pkey", "-in", "key.pem", "-pubout"], state.path()).unwrap();
        let certificate = openssl(&["x509", "-in", "leaf.pem", "-noout", "-pubkey"], state.path()).unwrap();
        assert_eq!(key, certificate);
        let root = format!("authorities/{}/certificate.pem", hierarchy.roots().active.id());
        openssl(&["verify", "-x509_strict", "-attime", &at, "-CAfile", "bundle.pem", &root], state.path())
            .unwrap();
    }
}

/// A CA of which only the issuing authorities are here, with one certificate between them and the root.
fn below_a_foreign_root() -> Hierarchy {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};

    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = now().to_offset_date_time();
        params.not_after = (now() + HOUR * 8760).to_offset_date_time();
        params
    };
    let [root_key, middle_key] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let root = params("root").self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(params("root"), root_key);
    let middle = params("middle").signed_by(&middle_key, &root_issuer).unwrap();
    let mut issuing = params("issuing");
    issuing.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuing = issuing.signed_by(&key, &Issuer::new(params("middle"), middle_key)).unwrap();

    let chain = SignedChain {
        certificates: vec![issuing.der().clone(), middle.der().clone(), root.der().clone()],
        roots: Vec::new(),
    };
    let domain: crate::identity::TrustDomain = "postern.test".parse().unwrap();
    let judged = chain.judge(key, &domain, &[], now()).unwrap();
    Hierarchy::assemble(domain, Slots::of(judged.root.into()), Slots::of(judged.issuing.into()), 1).unwrap()
}

#[test]
fn an_authority_below_a_foreign_root_survives_a_kill_at_every_step() {
    let hierarchy = below_a_foreign_root();

    assert!(kill_at_every_step(None, &hierarchy) > 30);
}

#[test]
fn what_stands_above_an_authority_is_loaded_with_it_and_missed_without() {
    let state = tempfile::tempdir().unwrap();
    let hierarchy = below_a_foreign_root();
    commit(state.path(), &hierarchy);
    let issuing = state.path().join("authorities").join(hierarchy.issuing().active.id().as_str());
    let root = state.path().join("authorities").join(hierarchy.roots().active.id().as_str());

    let loaded = AuthorityDir::open(state.path()).unwrap().load().unwrap().unwrap().hierarchy;
    assert_eq!(loaded.issuing().active.above(), hierarchy.issuing().active.above());
    assert_eq!(loaded.issuing().active.above().len(), 1);
    assert!(loaded.roots().active.key().is_none());
    assert_eq!(names(&root), ["certificate.pem"]);
    assert_eq!(names(&issuing), ["above.pem", "certificate.pem", "key.pem"]);

    fs::remove_file(issuing.join("above.pem")).unwrap();
    let error = load(state.path()).unwrap_err();
    assert!(matches!(error, StoreError::Hierarchy { .. }), "{error}");
}

#[test]
fn a_key_that_was_lost_is_not_taken_for_one_that_is_elsewhere() {
    let (state, hierarchy) = with_ca();
    let root = state.path().join("authorities").join(hierarchy.roots().active.id().as_str());
    fs::remove_file(root.join("key.pem")).unwrap();

    assert!(matches!(load(state.path()), Err(StoreError::Missing { .. })));
}

fn request() -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let request = SigningRequest::make(&key, &"postern.test".parse().unwrap()).unwrap();
    (request, key)
}

/// The request that waits, if its key is there as well.
fn waiting(state: &Path) -> Option<Vec<u8>> {
    let pending = AuthorityDir::open(state).unwrap().pending().unwrap()?;
    let domain = "postern.test".parse().unwrap();
    let request = SigningRequest::parse(&pending.request, &domain).unwrap();
    let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pending.key.public_key_info());
    assert_eq!(request.spki_sha256(), data_encoding::HEXLOWER.encode(spki.as_ref()));
    Some(pending.request)
}

#[test]
fn a_request_and_its_key_survive_a_kill_at_every_step() {
    let (old, old_key) = request();
    let (new, new_key) = request();
    for before in [None, Some(&old)] {
        let mut seen_new = false;
        for last in 0.. {
            let state = tempfile::tempdir().unwrap();
            if let Some(before) = before {
                AuthorityDir::open(state.path()).unwrap().keep_pending(before, &old_key).unwrap();
            }
            let (gate, steps) = killed_before(last);
            let outcome = AuthorityDir::open_with(state.path(), gate).unwrap().keep_pending(&new, &new_key);

            let found = waiting(state.path());
            assert!(found.as_ref() == before || found.as_ref() == Some(&new), "killed before step {last}");
            assert!(!seen_new || found.as_ref() == Some(&new), "step {last} took back what was kept");
            seen_new = found.as_ref() == Some(&new);
            assert!(outcome.is_err() || seen_new);

            AuthorityDir::open(state.path()).unwrap().keep_pending(&new, &new_key).unwrap();
            assert_eq!(waiting(state.path()).as_ref(), Some(&new));
            assert_eq!(names(&state.path().join("requested")).len(), 1, "killed before step {last}");
            if steps.load(Ordering::Relaxed) <= last {
                assert!(last > 12);
                break;
            }
        }
    }
}

#[test]
fn forgetting_a_request_survives_a_kill_at_every_step() {
    let (request, key) = request();
    for last in 0.. {
        let state = tempfile::tempdir().unwrap();
        AuthorityDir::open(state.path()).unwrap().keep_pending(&request, &key).unwrap();
        let (gate, steps) = killed_before(last);
        let outcome = AuthorityDir::open_with(state.path(), gate).unwrap().drop_pending();

        let found = waiting(state.path());
        assert!(found.is_none() || found.as_ref() == Some(&request));
        assert!(outcome.is_err() || found.is_none());

        AuthorityDir::open(state.path()).unwrap().drop_pending().unwrap();
        assert_eq!(names(state.path()), ["lock"], "killed before step {last}");
        if steps.load(Ordering::Relaxed) <= last {
            assert!(last > 2);
            return;
        }
    }
}

#[test]
fn the_key_that_waits_is_for_the_agent_alone_and_its_loss_is_named() {
    let state = tempfile::tempdir().unwrap();
    let (request, key) = request();
    AuthorityDir::open(state.path()).unwrap().keep_pending(&request, &key).unwrap();
    let requested = state.path().join("requested");
    let directory = requested.join(&names(&requested)[0]);

    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("key.pem")), 0o600);
    assert_eq!(mode(&state.path().join("request.pem")), 0o644);
    assert_eq!(load(state.path()).unwrap(), None, "a request alone is no CA");

    fs::remove_dir_all(&directory).unwrap();
    let error = AuthorityDir::open(state.path()).unwrap().pending().unwrap_err().to_string();
    assert!(error.contains("its key is gone") && error.ends_with("`postern ca csr --new`"), "{error}");
    overwrite(&state.path().join("request.pem"), b"nonsense");
    let error = AuthorityDir::open(state.path()).unwrap().pending().unwrap_err().to_string();
    assert!(error.contains("line 1 stands outside of any PEM block"), "{error}");
}

// Keys under a passphrase.

fn sealed(state: &Path, passphrase: &str) -> AuthorityDir {
    AuthorityDir::open(state).unwrap().keeping(KeyStore::sealed_quickly(state, passphrase))
}

fn sealed_and_killed(state: &Path, passphrase: &str, last: usize) -> (AuthorityDir, Arc<AtomicUsize>) {
    let (gate, steps) = killed_before(last);
    let keys = KeyStore::sealed_quickly(state, passphrase);
    (AuthorityDir::open_with(state, gate).unwrap().keeping(keys), steps)
}

fn secret(text: &str) -> crate::secret::Secret {
    crate::secret::Secret::new(text.as_bytes().to_vec())
}

/// A state directory with a committed CA whose keys are under "old words".
fn with_sealed_ca() -> (tempfile::TempDir, Hierarchy) {
    let state = tempfile::tempdir().unwrap();
    let hierarchy = new_ca();
    assert!(sealed(state.path(), "old words").commit(&hierarchy).unwrap().untidy.is_empty());
    (state, hierarchy)
}

fn key_texts(state: &Path, hierarchy: &Hierarchy) -> Vec<String> {
    let path = |id: &str| state.join("authorities").join(id).join("key.pem");
    listed(hierarchy).iter().map(|id| fs::read_to_string(path(id)).unwrap()).collect()
}

fn loads(directory: &AuthorityDir) -> Result<String, String> {
    match directory.load() {
        Ok(stored) => Ok(summary(&stored.unwrap().hierarchy)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn keys_under_a_passphrase_are_encrypted_and_read_again() {
    let (state, hierarchy) = with_sealed_ca();

    for text in key_texts(state.path(), &hierarchy) {
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");
    }
    assert_eq!(loads(&sealed(state.path(), "old words")), Ok(summary(&hierarchy)));
}

#[test]
fn a_commit_leaves_an_encrypted_key_that_is_stored_as_it_is() {
    let (state, hierarchy) = with_sealed_ca();
    let before = key_texts(state.path(), &hierarchy);

    let directory = sealed(state.path(), "old words");
    directory.load().unwrap();
    assert!(directory.commit(&hierarchy).unwrap().untidy.is_empty());

    assert_eq!(key_texts(state.path(), &hierarchy), before);
}

#[test]
fn every_mismatch_of_key_and_passphrase_says_which_file_and_what_to_do() {
    let (encrypted, _) = with_sealed_ca();
    let (plain, _) = with_ca();
    assert!(loads(&sealed(encrypted.path(), "old words")).is_ok());

    let wrong = loads(&sealed(encrypted.path(), "new words")).unwrap_err();
    assert!(
        wrong.contains("the configured passphrase does not open") && wrong.contains("/key.pem"),
        "{wrong}"
    );
    assert!(wrong.contains("rekey --former-passphrase-file"), "{wrong}");
    let missing = loads(&AuthorityDir::open(encrypted.path()).unwrap()).unwrap_err();
    assert!(missing.contains("/key.pem is encrypted and no passphrase is configured"), "{missing}");
    let bare = loads(&sealed(plain.path(), "old words")).unwrap_err();
    assert!(bare.contains("/key.pem is not encrypted, although a passphrase is configured"), "{bare}");
}

#[test]
fn an_encrypted_ca_survives_a_kill_at_every_step_of_a_rotation() {
    let before = new_ca();
    let after = rotated(&before);
    let (old, new) = (summary(&before), summary(&after));
    for last in 0.. {
        let state = tempfile::tempdir().unwrap();
        drop(sealed(state.path(), "old words").commit(&before).unwrap());
        let (directory, steps) = sealed_and_killed(state.path(), "old words", last);
        directory.load().unwrap();
        let start = steps.load(Ordering::Relaxed);
        let outcome = directory.commit(&after);
        drop(directory);

        let found = loads(&sealed(state.path(), "old words")).unwrap();
        assert!(found == old || found == new, "killed before step {last}: {found}");
        assert!(outcome.is_err() || found == new);
        if steps.load(Ordering::Relaxed) <= last {
            assert!(last > start + 10);
            return;
        }
    }
}

/// Kills a change of all keys at every step, and finishes it each time.
fn rekey_at_every_step(from: Option<&str>, to: Option<&str>) -> usize {
    let hierarchy = rotated(&new_ca());
    let opened = |state: &Path, passphrase: Option<&str>| match passphrase {
        Some(passphrase) => sealed(state, passphrase),
        None => AuthorityDir::open(state).unwrap(),
    };
    let former = from.map(secret);
    for last in 0.. {
        let state = tempfile::tempdir().unwrap();
        drop(opened(state.path(), from).commit(&hierarchy).unwrap());
        let (gate, steps) = killed_before(last);
        let directory = AuthorityDir::open_with(state.path(), gate).unwrap();
        let directory = match to {
            Some(passphrase) => directory.keeping(KeyStore::sealed_quickly(state.path(), passphrase)),
            None => directory,
        };
        let outcome = directory.rekey(former.as_ref());
        drop(directory);

        let again = opened(state.path(), to).rekey(former.as_ref()).unwrap();
        assert_eq!(again.written + again.kept, 3);
        assert!(outcome.is_err() || again.written == 0, "killed before step {last}: {again:?}");
        assert_eq!(loads(&opened(state.path(), to)), Ok(summary(&hierarchy)), "killed before step {last}");
        assert_eq!(names(&state.path().join("authorities")), listed(&hierarchy));
        for id in listed(&hierarchy) {
            let directory = state.path().join("authorities").join(id);
            assert_eq!(names(&directory), ["certificate.pem", "key.pem"], "killed before step {last}");
            assert_eq!(mode(&directory.join("key.pem")), 0o600);
        }
        for text in key_texts(state.path(), &hierarchy) {
            assert_eq!(text.contains("ENCRYPTED"), to.is_some());
        }
        if steps.load(Ordering::Relaxed) <= last {
            return last;
        }
    }
    unreachable!()
}

#[test]
fn every_change_of_the_passphrase_survives_a_kill_at_every_step() {
    for (from, to) in
        [(None, Some("new words")), (Some("old words"), Some("new words")), (Some("old words"), None)]
    {
        assert!(rekey_at_every_step(from, to) > 20, "{from:?} to {to:?}");
    }
}

#[test]
fn nothing_is_rewritten_unless_every_key_can_be_read() {
    let (state, hierarchy) = with_sealed_ca();
    let before = key_texts(state.path(), &hierarchy);

    let wrong = sealed(state.path(), "new words").rekey(Some(&secret("other words"))).unwrap_err();
    assert!(wrong.to_string().contains("does not open"), "{wrong}");
    assert!(sealed(state.path(), "new words").rekey(None).is_err());
    let damaged = state.path().join("authorities").join(&listed(&hierarchy)[1]).join("key.pem");
    overwrite(&damaged, b"-----BEGIN");
    assert!(sealed(state.path(), "new words").rekey(Some(&secret("old words"))).is_err());
    overwrite(&damaged, before[1].as_bytes());

    assert_eq!(key_texts(state.path(), &hierarchy), before);
    let done = sealed(state.path(), "new words").rekey(Some(&secret("old words"))).unwrap();
    assert_eq!((done.written, done.kept), (2, 0));
}

#[test]
fn a_change_of_the_passphrase_leaves_no_key_in_its_former_form() {
    let (state, hierarchy) = with_ca();
    let authorities = state.path().join("authorities");
    let active = authorities.join(hierarchy.issuing().active.id().as_str());
    fs::create_dir(authorities.join(".staged-0123456789abcdef")).unwrap();
    fs::copy(active.join("key.pem"), authorities.join(".staged-0123456789abcdef/key.pem")).unwrap();
    fs::copy(active.join("key.pem"), active.join(".key.pem.abcdef")).unwrap();

    sealed(state.path(), "new words").rekey(None).unwrap();

    assert_eq!(names(&authorities), listed(&hierarchy));
    assert_eq!(names(&active), ["certificate.pem", "key.pem"]);
}

#[test]
fn there_is_nothing_to_rekey_without_a_ca() {
    let state = tempfile::tempdir().unwrap();

    assert!(matches!(AuthorityDir::open(state.path()).unwrap().rekey(None), Err(StoreError::NoCa(_))));
}

#[test]
fn openssl_opens_our_keys_and_we_open_its() {
    let (state, hierarchy) = with_sealed_ca();
    // Of one file OpenSSL takes the first line for the one and the second for the other.
    for name in ["words", "words-out"] {
        overwrite(&state.path().join(name), b"old words");
    }
    for id in listed(&hierarchy) {
        let path = format!("authorities/{id}/key.pem");
        let certificate = format!("authorities/{id}/certificate.pem");
        let Some(key) = openssl(&["pkey", "-in", &path, "-passin", "file:words", "-pubout"], state.path())
        else {
            return;
        };
        assert_eq!(key, openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"], state.path()).unwrap());
        // By its defaults, by another hash, and by scrypt.
        for options in [&[][..], &["-v2prf", "hmacWithSHA512"], &["-v2", "aes-128-cbc"], &["-scrypt"]] {
            let mut arguments =
                vec!["pkcs8", "-topk8", "-in", &path, "-passin", "file:words", "-out", "theirs.pem"];
            arguments.extend(["-passout", "file:words-out"]);
            arguments.extend(options);
            openssl(&arguments, state.path()).unwrap();
            fs::copy(state.path().join("theirs.pem"), state.path().join(&path)).unwrap();
            assert_eq!(loads(&sealed(state.path(), "old words")), Ok(summary(&hierarchy)), "{options:?}");
        }
    }
}

#[test]
fn a_key_that_waits_is_kept_as_the_settings_say_and_rekeyed_with_the_rest() {
    let (state, _) = with_sealed_ca();
    let (request, key) = request();
    let waits = |directory: &AuthorityDir| {
        directory.pending().map(|pending| pending.map(|pending| pending.key.public_key_info()))
    };
    sealed(state.path(), "old words").keep_pending(&request, &key).unwrap();
    let requested = state.path().join("requested");
    let path = requested.join(&names(&requested)[0]).join("key.pem");

    assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert_eq!(waits(&sealed(state.path(), "old words")).unwrap(), Some(key.public_key_info()));
    assert!(waits(&sealed(state.path(), "new words")).is_err());

    let former = crate::secret::Secret::new(b"old words".to_vec());
    sealed(state.path(), "new words").rekey(Some(&former)).unwrap();

    assert_eq!(waits(&sealed(state.path(), "new words")).unwrap(), Some(key.public_key_info()));
    assert!(waits(&sealed(state.path(), "old words")).is_err());
}
