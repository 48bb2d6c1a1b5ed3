//! What this host has revoked: `<state>/revocations.toml`, written by the command line and followed by the agent.
//!
//! ```toml
//! [[revoked]]
//! what = "serial:0abc"            # or "spki:…", or a SPIFFE ID
//! at = 2026-01-01T00:00:00Z
//! reason = "the laptop was stolen"
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::pki::{Revocation, Revocations, Revoked};
use crate::store::atomic_file::{self, AtomicError};
use crate::store::seal::{self, BrokenSeal};
use crate::toml_text::{Document, Problem, Value};

/// Why the revocations cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The system refused something.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase that the path completes.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be. Nothing is believed revoked or not revoked on its word.
    #[error("{}", Lines(.0))]
    Malformed(Vec<Problem>),
    /// It was changed since it was written.
    #[error("{} is damaged", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BrokenSeal,
    },
    /// It could not be written.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Where the revocations of `state` stand.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join("revocations.toml")
}

/// The revocations in `state`; none if there is no file.
///
/// # Errors
/// They cannot be read in full.
pub fn load(state: &Path) -> Result<Revocations, RevocationError> {
    let path = path(state);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Revocations::default()),
        text => text.map_err(|source| RevocationError::Io { step: "read", path: path.clone(), source })?,
    };
    let revocations = parse(&path, &text).map_err(RevocationError::Malformed)?;
    seal::check(&text).map_err(|source| RevocationError::Seal { path, source })?;
    Ok(revocations)
}

/// Writes the revocations of `state` as `change` makes them of the present ones. Two writers wait for each other.
///
/// # Errors
/// The present ones cannot be read, or the new ones not written; then nothing is changed.
pub fn update(
    state: &Path,
    change: impl FnOnce(Revocations) -> Revocations,
) -> Result<Revocations, RevocationError> {
    let fail = |step| {
        let path = state.to_owned();
        move |source| RevocationError::Io { step, path, source }
    };
    let folder = File::open(state).map_err(fail("open"))?;
    folder.lock().map_err(fail("lock"))?;
    let revocations = change(load(state)?);
    atomic_file::replace(&path(state), seal::sealed(&render(&revocations)).as_bytes(), 0o644)?;
    Ok(revocations)
}

fn parse(path: &Path, text: &str) -> Result<Revocations, Vec<Problem>> {
    let document = Document::parse(path, text)?;
    let mut root = document.root();
    let mut revocations = Revocations::default();
    for mut entry in root.tables("revoked") {
        let what: Option<Revoked> = entry.required("what", Value::parse);
        let at = entry.required("at", Value::timestamp);
        let reason = entry.required("reason", Value::text);
        entry.finish();
        if let (Some(what), Some(at), Some(reason)) = (what, at, reason) {
            revocations = revocations.with(what, Revocation { at, reason: reason.to_owned() });
        }
    }
    root.finish();
    match document.into_problems() {
        problems if problems.is_empty() => Ok(revocations),
        problems => Err(problems),
    }
}

fn render(revocations: &Revocations) -> String {
    let mut text = String::from(
        "# What this host has revoked; written by `postern cert revoke`, followed within a second.\n",
    );
    for (what, Revocation { at, reason }) in revocations.iter() {
        let reason = toml::Value::String(reason.clone());
        text.push_str(&format!("\n[[revoked]]\nwhat = \"{what}\"\nat = {at}\nreason = {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn what_is_written_is_read_again() {
        let state = tempfile::tempdir().unwrap();
        let revoked: Revoked = "spiffe://postern.test/a".parse().unwrap();
        let because = Revocation { at: Timestamp::FLOOR, reason: "a \"quoted\"\nreason".to_owned() };

        assert!(load(state.path()).unwrap().is_empty());
        let written = update(state.path(), |list| list.with(revoked.clone(), because)).unwrap();

        assert_eq!(load(state.path()).unwrap(), written);
        assert_eq!(written.iter().len(), 1);
        assert!(update(state.path(), |list| list.without(&revoked)).unwrap().is_empty());
    }

    #[test]
    fn a_malformed_list_is_no_list() {
        let state = tempfile::tempdir().unwrap();
        atomic_file::replace(&path(state.path()), b"[[revoked]]\nwhat = \"serial:xyz\"\n", 0o644).unwrap();

        let error = load(state.path()).unwrap_err();

        assert!(error.to_string().contains("revocations.toml:2:"), "{error}");
        assert!(error.to_string().contains("the key is missing"), "{error}");
    }
}
