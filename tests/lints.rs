//! What others say of the certificates that are issued here: pkilint, OpenSSL and GnuTLS.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a skipped test must not look like one that ran")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use postern::clock::{Clock as _, SystemClock};
use postern::pki::{
    AuthorityPlan, DEFAULT_BACKDATE, Hierarchy, KeyAlgorithm, Lifetimes, LocalKeys, Profile, issue,
};
use postern::store::{atomic_file, pem};

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
    let svid = issue(&ca.issuing().active, &profile, now).unwrap();

    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: String| {
        atomic_file::replace(&folder.join(name), text.as_bytes(), 0o644).unwrap();
    };
    let (roots, mut chain) = (ca.bundle().roots, svid.chain.iter().map(pem::certificate_to_pem));
    let [root, leaf, issuing] =
        [roots.first().map(pem::certificate_to_pem), chain.next(), chain.next()].map(Option::unwrap);
    write("chain.pem", [leaf.as_str(), &issuing, &root].concat());
    write("root.pem", root);
    write("issuing.pem", issuing);
    write("leaf.pem", leaf);
}

fn run(command: &mut Command) -> Option<Output> {
    command.output().ok()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// A Python that has pkilint, made on first use.
fn python_with_pkilint() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pkilint");
    let python = folder.join("bin/python");
    let has_it = |python: &Path| {
        run(Command::new(python).args(["-c", "import pkilint"])).is_some_and(|output| output.status.success())
    };
    if has_it(&python) {
        return Ok(python);
    }
    let (mut make, mut install) = (Command::new("python3"), Command::new(&python));
    make.args(["-m", "venv"]).arg(&folder);
    install.args("-m pip install --quiet --timeout 15 --retries 1 pkilint".split(' '));
    for step in [&mut make, &mut install] {
        let output = run(step).ok_or("python3 is not installed")?;
        if !output.status.success() {
            return Err(format!("pkilint cannot be installed from PyPI: {}", text(&output)));
        }
    }
    Ok(python)
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
fn gnutls_accepts_every_chain() {
    let is_there = || run(Command::new("certtool").arg("--version")).is_some();
    if !is_there() && rustix::process::geteuid().is_root() {
        run(Command::new("apt-get").args(["install", "-qq", "-y", "gnutls-bin"]));
    }
    if !is_there() {
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
