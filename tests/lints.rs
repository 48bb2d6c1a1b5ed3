//! What others say of the certificates that are issued here: pkilint, OpenSSL and GnuTLS.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

#[path = "support/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock, Timestamp};
use postern::id::AuthorityId;
use postern::pki::{
    Authority, AuthorityPlan, CrlEdition, DEFAULT_BACKDATE, Hierarchy, IssuedLeaf, KeyAlgorithm, Lifetimes,
    LocalKeys, Profile, Revocation, Revocations, Revoked, X509Svid, crl_entries, draw_up_crl, issue,
};
use postern::store::{atomic_file, pem};
use python::python_with;
use rustls::pki_types::CertificateDer;

/// A hierarchy and a leaf of it for each kind of key, in a folder of its own.
fn chains(within: &Path) -> Vec<PathBuf> {
    let kinds = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];
    let names: [&[&str]; 2] = [&[], &["localhost", "web.example.com", "a_b.example.com"]];
    let mut folders = Vec::new();
    for kind in kinds {
        for dns in names {
            let folder = within.join(format!("{kind}-{}-names", dns.len()));
            write_chain(&folder, kind, dns);
            folders.push(folder);
        }
    }
    folders
}

fn write_chain(folder: &Path, algorithm: KeyAlgorithm, dns: &[&str]) {
    let (now, lifetimes) = (SystemClock.now(), Lifetimes::default());
    let plan = |ttl: Duration| AuthorityPlan { keys: &LocalKeys, algorithm, ttl, backdate: DEFAULT_BACKDATE };
    let domain = "postern.test".parse().unwrap();
    let ca = Hierarchy::create(domain, &plan(lifetimes.root), &plan(lifetimes.issuing), now).unwrap();
    let profile = Profile {
        spiffe_id: "spiffe://postern.test/ns/shop/sa/web".parse().unwrap(),
        dns: dns.iter().map(ToString::to_string).collect(),
        ttl: lifetimes.leaf,
        backdate: DEFAULT_BACKDATE,
        algorithm,
    };
    let svid = [0, 1].map(|_| issue(&ca.issuing().active, &profile, now).unwrap());

    let crls = crls(&ca, &svid, now);
    let empty = crl_entries(&ca, &[], &Revocations::default(), DAY, now);

    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| {
        atomic_file::replace(&folder.join(name), text.as_bytes(), 0o644).unwrap();
    };
    let (roots, mut chain) = (ca.bundle().roots, svid[0].chain.iter().map(pem::certificate_to_pem));
    let [root, leaf, issuing] =
        [roots.first().map(pem::certificate_to_pem), chain.next(), chain.next()].map(Option::unwrap);
    let [root_crl, issuing_crl] = [ca.roots(), ca.issuing()].map(|slots| crls[slots.active.id()].clone());
    let edition = CrlEdition { number: 1, this_update: now - DEFAULT_BACKDATE, next_update: now + DAY };
    let nobody = draw_up_crl(&ca.roots().active, &empty[ca.roots().active.id()], &edition).unwrap();
    write("crl.pem", [root_crl.as_str(), &issuing_crl].concat());
    write("root-crl.pem", root_crl);
    write("issuing-crl.pem", issuing_crl);
    write("empty-crl.pem", pem::crl_to_pem(&nobody));
    write("revoked.pem", pem::certificate_to_pem(&revoked_leaf(&svid)));
    write("chain.pem", [leaf.as_str(), &issuing, &root].concat());
    write("root.pem", root);
    write("issuing.pem", issuing);
    write("leaf.pem", leaf);
}

const DAY: Duration = Duration::from_secs(86_400);

/// The leaf that the lists have revoked.
fn revoked_leaf(svid: &[X509Svid; 2]) -> CertificateDer<'static> {
    svid[1].chain[0].clone()
}

/// The lists of both authorities, in which the second leaf is revoked by its holder's key, and a certificate that nobody knows.
fn crls(ca: &Hierarchy, svid: &[X509Svid; 2], now: Timestamp) -> BTreeMap<AuthorityId, String> {
    let leaves: Vec<IssuedLeaf> = svid.iter().map(|svid| IssuedLeaf::of(svid).unwrap()).collect();
    let because = |reason: &str| Revocation { at: now, reason: reason.to_owned() };
    let list = Revocations::default()
        .with(Revoked::Spki(leaves[1].spki_sha256), because("key compromise"))
        .with("serial:0abc".parse().unwrap(), because("nobody knows"));
    let edition = CrlEdition { number: 1 << 40, this_update: now - DEFAULT_BACKDATE, next_update: now + DAY };
    let entries = crl_entries(ca, &leaves, &list, DAY, now);
    let draw = |(_, authority): (_, &Arc<Authority>)| {
        let list = draw_up_crl(authority, &entries[authority.id()], &edition).unwrap();
        (authority.id().clone(), pem::crl_to_pem(&list))
    };
    ca.iter().map(draw).collect()
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// A Python that has pkilint, made on first use.
fn python_with_pkilint() -> Result<PathBuf, String> {
    python_with("pkilint", "pkilint", &["pkilint"])
}

#[test]
fn pkilint_finds_nothing_wrong() {
    let python = match python_with_pkilint() {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lints.py");

    let output = run(Command::new(python).arg(script).args(chains(folder.path()))).unwrap();

    println!("{}", text(&output));
    assert!(output.status.success());
}

#[test]
fn openssl_accepts_every_chain_at_its_strictest() {
    if run(Command::new("openssl").arg("version")).is_none() {
        return println!("skipped: openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let verify = |folder: &Path, purpose: &str, subject: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(folder).args(["verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose]);
        run(command.args(["-CAfile", "root.pem", "-untrusted", "issuing.pem", subject])).unwrap()
    };

    for chain in chains(folder.path()) {
        for (purpose, subject) in [
            ("sslclient", "leaf.pem"),
            ("sslserver", "leaf.pem"),
            ("any", "issuing.pem"),
            ("any", "root.pem"),
        ] {
            let output = verify(&chain, purpose, subject);
            assert!(output.status.success(), "{}: {}", chain.display(), text(&output));
        }
        atomic_file::replace(&chain.join("root.pem"), &std::fs::read(chain.join("leaf.pem")).unwrap(), 0o644)
            .unwrap();
        assert!(
            !verify(&chain, "sslclient", "issuing.pem").status.success(),
            "it refuses under another root"
        );
    }
}

#[test]
fn openssl_heeds_every_list_at_its_strictest() {
    if run(Command::new("openssl").arg("version")).is_none() {
        return println!("skipped: openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let verify = |folder: &Path, subject: &str, lists: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(folder).args(["verify", "-x509_strict", "-crl_check_all", "-CRLfile", lists]);
        run(command.args(["-CAfile", "root.pem", "-untrusted", "issuing.pem", subject])).unwrap()
    };

    for chain in chains(folder.path()) {
        let good = verify(&chain, "leaf.pem", "crl.pem");
        assert!(good.status.success(), "{}: {}", chain.display(), text(&good));
        for (subject, lists, why) in [
            ("revoked.pem", "crl.pem", "certificate revoked"),
            ("leaf.pem", "root-crl.pem", "unable to get certificate CRL"),
        ] {
            let refused = verify(&chain, subject, lists);
            assert!(!refused.status.success() && text(&refused).contains(why), "{}", text(&refused));
        }
    }
}

#[test]
fn gnutls_heeds_every_list() {
    if !certtool_is_there() {
        return println!("skipped: certtool (Debian's gnutls-bin) is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let certtool =
        |chain: &Path, words: &[&str]| run(Command::new("certtool").current_dir(chain).args(words)).unwrap();

    for chain in &chains(folder.path()) {
        for (list, ca) in [("root-crl.pem", "root.pem"), ("issuing-crl.pem", "issuing.pem")] {
            let other = if ca == "root.pem" { "issuing.pem" } else { "root.pem" };
            let verify =
                |ca| certtool(chain, &["--verify-crl", "--load-ca-certificate", ca, "--infile", list]);
            let output = verify(ca);
            assert!(output.status.success() && text(&output).contains("Verified"), "{}", text(&output));
            let output = verify(other);
            assert!(!text(&output).contains("Verification output: Verified"), "{}", text(&output));
        }
        let read = |name: &str| std::fs::read_to_string(chain.join(name)).unwrap();
        for (leaf, is_good) in [("leaf.pem", true), ("revoked.pem", false)] {
            let whole = [read(leaf), read("issuing.pem"), read("root.pem")].concat();
            atomic_file::replace(&chain.join("whole.pem"), whole.as_bytes(), 0o644).unwrap();
            let words = ["--verify", "--load-ca-certificate", "root.pem", "--load-crl", "crl.pem"];
            let output = certtool(chain, &[&words[..], &["--infile", "whole.pem"]].concat());
            assert_eq!(output.status.success(), is_good, "{leaf}: {}", text(&output));
        }
    }
}

#[test]
fn webpki_heeds_every_list() {
    let folder = tempfile::tempdir().unwrap();
    for chain in chains(folder.path()) {
        let read = |name: &str| std::fs::read(chain.join(name)).unwrap();
        let certificate = |name: &str| pem::certificates(&read(name)).unwrap().remove(0);
        let lists: Vec<webpki::CertRevocationList<'_>> = pem::crls(&read("crl.pem"))
            .unwrap()
            .iter()
            .map(|list| webpki::OwnedCertRevocationList::from_der(list).unwrap().into())
            .collect();
        let lists: Vec<_> = lists.iter().collect();
        let options = webpki::RevocationOptionsBuilder::new(&lists).unwrap().build();
        let (root, issuing) = (certificate("root.pem"), certificate("issuing.pem"));
        let verify = |leaf: &str| {
            let leaf = certificate(leaf);
            let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
            let now = u64::try_from(SystemClock.now().unix()).unwrap();
            leaf.verify_for_usage(
                rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
                &[webpki::anchor_from_trusted_cert(&root).unwrap()],
                std::slice::from_ref(&issuing),
                rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now)),
                webpki::KeyUsage::client_auth(),
                Some(options),
                None,
            )
            .map(drop)
        };

        verify("leaf.pem").unwrap();
        assert_eq!(verify("revoked.pem"), Err(webpki::Error::CertRevoked));
    }
}

fn certtool_is_there() -> bool {
    let is_there = || run(Command::new("certtool").arg("--version")).is_some();
    if !is_there() && rustix::process::geteuid().is_root() {
        run(Command::new("apt-get").args(["install", "-qq", "-y", "gnutls-bin"]));
    }
    is_there()
}

#[test]
fn gnutls_accepts_every_chain() {
    if !certtool_is_there() {
        return println!("skipped: certtool (Debian's gnutls-bin) is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let verify = |chain: &Path, ca: &str| {
        let mut command = Command::new("certtool");
        command.current_dir(chain).args([
            "--verify",
            "--verify-profile",
            "high",
            "--load-ca-certificate",
            ca,
        ]);
        run(command.args(["--infile", "chain.pem"])).unwrap()
    };
    let chains = chains(folder.path());

    for chain in &chains {
        let output = verify(chain, "root.pem");
        assert!(output.status.success(), "{}: {}", chain.display(), text(&output));
        assert!(!verify(chain, "leaf.pem").status.success(), "it refuses under another root");
    }
}
