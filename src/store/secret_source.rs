//! Where a passphrase or a PIN is read from: a file for the agent's eyes only, or a credential that systemd hands over.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Where a secret is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SecretSource {
    /// The credential of that name, which the service manager puts into `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// A file.
    File(PathBuf),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nothing is in it.
    #[error("{} is empty: write the secret into it", .0.display())]
    Empty(PathBuf),
    /// No service manager has handed anything over.
    #[error(
        "there is no credential {0:?}, for $CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit with \
         `LoadCredential={0}:…`; elsewhere set it by hand, or name a file instead"
    )]
    NoCredentials(String),
    /// It has more than one line, or is too long; what reads its first line only would take it for another.
    #[error("{} must hold the secret on one line of at most {MOST} bytes, and nothing else", .0.display())]
    Malformed(PathBuf),
    /// Others can read it.
    #[error(
        "{} has mode {mode:04o}, so others may have read it: `chmod 600` it if you are sure that nobody did, else change the \
         secret",
        path.display()
    )]
    Permissive {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// No passphrase is that long; a wrong path may lead to something that is.
const MOST: u64 = 1024;

impl SecretSource {
    /// The secret, without the one newline at its end that editors write.
    ///
    /// # Errors
    /// It is not there, is empty, has several lines, or others can read it.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            // Its permissions are the service manager's: an access list for the unit's user, which looks like a group's right.
            Self::Credential(name) => read(&credential(name)?),
            Self::File(path) => {
                let mode = fs::metadata(path).map_err(unreadable(path))?.permissions().mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(SecretError::Permissive { path: path.clone(), mode });
                }
                read(path)
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "systemd names the directory of credentials nowhere else, see systemd.exec(5)"
)]
fn credential(name: &str) -> Result<PathBuf, SecretError> {
    let directory = std::env::var("CREDENTIALS_DIRECTORY").ok().filter(|directory| !directory.is_empty());
    let directory = directory.ok_or_else(|| SecretError::NoCredentials(name.to_owned()))?;
    Ok(Path::new(&directory).join(name))
}

fn read(path: &Path) -> Result<Secret, SecretError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MOST).unwrap_or_default() + 1));
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable(path))?;
    let too_long = u64::try_from(bytes.len()).is_ok_and(|length| length > MOST);
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if too_long || line.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
        return Err(SecretError::Malformed(path.to_owned()));
    }
    if line.is_empty() {
        return Err(SecretError::Empty(path.to_owned()));
    }
    Ok(Secret::new(line.to_vec()))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Read { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::atomic_file;

    fn read_file(bytes: &[u8], mode: u32) -> Result<Secret, SecretError> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("passphrase");
        atomic_file::replace(&path, bytes, mode).unwrap();
        SecretSource::File(path).read()
    }

    #[test]
    fn one_newline_at_the_end_does_not_count() {
        for bytes in [&b"correct horse"[..], b"correct horse\n"] {
            assert_eq!(read_file(bytes, 0o600).unwrap(), Secret::new(b"correct horse".to_vec()));
        }
        assert_eq!(read_file(b" x ", 0o400).unwrap(), Secret::new(b" x ".to_vec()));
    }

    #[test]
    fn an_empty_secret_is_none() {
        for bytes in [&b""[..], b"\n"] {
            assert!(matches!(read_file(bytes, 0o600), Err(SecretError::Empty(_))));
        }
    }

    #[test]
    fn several_lines_are_refused() {
        for bytes in [&b"a\nb\n"[..], b"a\n\n", b"a\r\n", b"a\0", &[b'a'; 1025]] {
            assert!(matches!(read_file(bytes, 0o600), Err(SecretError::Malformed(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620] {
            let error = read_file(b"correct horse", mode).unwrap_err();
            assert!(error.to_string().contains(&format!("has mode {mode:04o}")), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = SecretSource::File("/nonexistent/passphrase".into()).read().unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/passphrase");
    }
}
