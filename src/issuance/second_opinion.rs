//! Has OpenSSL judge what our own verifier has believed, before anybody hears of a new authority.
//!
//! Most of those who will be shown our certificates verify them with OpenSSL, and at its strictest it finds what webpki lets
//! pass. The certificates are handed over in memory, so that a full or read-only disk does not stand in the way.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::pki::{Trial, TrustBundle};
use crate::store::pem;

/// OpenSSL does not believe what it was shown.
#[derive(Debug, thiserror::Error)]
#[error("a leaf of the new authority {authority} would not be believed by {}: {said}", program.display())]
pub struct SecondOpinionError {
    /// Which authority.
    pub authority: AuthorityId,
    /// Who was asked.
    pub program: PathBuf,
    /// What it said, on one line.
    pub said: String,
}

/// Asks `program` whether each of `trials` is believed under `bundle` at `now`, for either end of a connection.
///
/// Who cannot be asked, or does not answer in time, is no reason against an authority; that is told in the log.
///
/// # Errors
/// It was asked, and says no.
pub(super) fn ask(
    program: &Path,
    trials: &[Trial],
    bundle: &TrustBundle,
    now: Timestamp,
) -> Result<(), SecondOpinionError> {
    for trial in trials {
        for purpose in ["sslclient", "sslserver"] {
            match verdict(program, trial, bundle, purpose, now) {
                Ok(Verdict::Believed) => (),
                Ok(Verdict::Refused(said)) => {
                    let (authority, program) = (trial.authority.clone(), program.to_owned());
                    return Err(SecondOpinionError { authority, program, said });
                }
                Err(error) => {
                    tracing::warn!(program = %program.display(), %error, "no second opinion on a new authority");
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

enum Verdict {
    Believed,
    Refused(String),
}

fn verdict(
    program: &Path,
    trial: &Trial,
    bundle: &TrustBundle,
    purpose: &str,
    now: Timestamp,
) -> io::Result<Verdict> {
    let (leaf, above) = trial.chain.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let [roots, above, leaf] = [
        in_memory(c"roots", &bundle.roots)?,
        in_memory(c"intermediates", above)?,
        in_memory(c"leaf", std::slice::from_ref(leaf))?,
    ];
    let moment = now.unix().to_string();
    let mut child = Command::new(program)
        .args(["verify", "-x509_strict", "-check_ss_sig", "-no-CApath", "-no-CAstore"])
        .args(["-purpose", purpose, "-attime", &moment])
        .args(["-CAfile", &name_of(&roots), "-untrusted", &name_of(&above), &name_of(&leaf)])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    for _ in 0..ATTEMPTS {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            if let Some(stderr) = child.stderr.take() {
                stderr.take(LONGEST_ANSWER).read_to_string(&mut said)?;
            }
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            return Ok(if status.success() { Verdict::Believed } else { Verdict::Refused(said) });
        }
        std::thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Err(io::ErrorKind::TimedOut.into())
}

/// A file without a name. The child inherits it, and so may another one that is started at this moment: it holds nothing but
/// certificates that are thrown away.
fn in_memory(name: &std::ffi::CStr, certificates: &[CertificateDer<'_>]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::empty())?);
    for certificate in certificates {
        file.write_all(pem::certificate_to_pem(certificate).as_bytes())?;
    }
    Ok(file)
}

fn name_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// It takes some ten milliseconds.
const PAUSE: Duration = Duration::from_millis(5);
const ATTEMPTS: u32 = 1000;
const LONGEST_ANSWER: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{AuthorityPlan, Hierarchy, KeyAlgorithm, LocalKeys, preflight};

    const OPENSSL: &str = "/usr/bin/openssl";

    fn now() -> Timestamp {
        "2031-05-06T07:08:09Z".parse().unwrap()
    }

    fn new_ca() -> Hierarchy {
        let plan = |hours| AuthorityPlan {
            keys: &LocalKeys,
            algorithm: KeyAlgorithm::EcdsaP256,
            ttl: Duration::from_secs(3600) * hours,
            backdate: Duration::from_secs(300),
        };
        Hierarchy::create("postern.test".parse().unwrap(), &plan(90), &plan(9), now()).unwrap()
    }

    #[test]
    fn what_is_sound_is_believed_at_the_moment_that_was_meant() {
        let ca = new_ca();
        let trials = preflight(None, &ca, now()).unwrap();
        assert_eq!(trials.len(), 2, "a root and an issuing authority");

        ask(Path::new(OPENSSL), &trials, &ca.bundle(), now()).unwrap();
    }

    #[test]
    fn a_no_counts_and_is_quoted() {
        if !Path::new(OPENSSL).exists() {
            return;
        }
        let (ca, other) = (new_ca(), new_ca());
        let trials = preflight(None, &ca, now()).unwrap();

        let error = ask(Path::new(OPENSSL), &trials, &other.bundle(), now()).unwrap_err();

        assert!(error.said.contains("unable to get local issuer certificate"), "{error}");
        let late =
            ask(Path::new(OPENSSL), &trials, &ca.bundle(), now() + Duration::from_secs(60)).unwrap_err();
        assert!(late.said.contains("certificate has expired"), "{late}");
    }

    #[test]
    fn who_cannot_be_asked_has_no_say() {
        let (ca, other) = (new_ca(), new_ca());
        let trials = preflight(None, &ca, now()).unwrap();

        ask(Path::new("/nowhere/openssl"), &trials, &other.bundle(), now()).unwrap();
    }
}
