//! What was used, by the hour: `<state>/usage/2026-11-25T02.jsonl`, a file for each hour, replaced whole.
//!
//! Each line is a row with a checksum in front. A line whose checksum does not hold is damage: it is left out, and told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::UsageRow;
use crate::clock::Timestamp;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::checked_line;

/// Why an hour cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
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
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The rows, in the order of the files' names.
    pub rows: Vec<UsageRow>,
    /// What could not be read, one sentence each.
    pub damage: Vec<String>,
}

/// Reads all hours in `state`. What cannot be read is told and left out.
#[must_use]
pub fn read(state: &Path) -> Found {
    let mut found = Found::default();
    let folder = folder(state);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return found,
        Err(error) => {
            found.damage.push(format!("{} cannot be read: {error}", folder.display()));
            return found;
        }
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    for file in files {
        match fs::read(&file) {
            Ok(bytes) => {
                let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                let read = lines.map(checked_line::read::<UsageRow>);
                let (good, bad): (Vec<_>, Vec<_>) = read.partition(Option::is_some);
                found.rows.extend(good.into_iter().flatten());
                if !bad.is_empty() {
                    let (file, lines) = (file.display(), bad.len());
                    found
                        .damage
                        .push(format!("{file} is damaged, and what {lines} of its lines counted is lost"));
                }
            }
            Err(error) => found.damage.push(format!("{} cannot be read: {error}", file.display())),
        }
    }
    found
}

/// Puts `rows` in place of what is written of an hour; without any, its file is removed.
///
/// # Errors
/// The file is as it was.
pub fn write(state: &Path, hour: Timestamp, rows: &[UsageRow]) -> Result<(), UsageError> {
    let folder = folder(state);
    let path = folder.join(format!("{}.jsonl", name(hour)));
    if rows.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(UsageError::Io { step: "remove", path, source: error })
            }
            Ok(()) | Err(_) => Ok(()),
        };
    }
    make(&folder)?;
    let mut text = String::new();
    rows.iter().for_each(|row| checked_line::push(&mut text, row));
    Ok(atomic_file::replace(&path, text.as_bytes(), 0o600)?)
}

fn make(folder: &Path) -> Result<(), UsageError> {
    use std::os::unix::fs::DirBuilderExt as _;

    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(UsageError::Io { step: "make", path: folder.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("usage")
}

/// `2026-11-25T02`.
fn name(hour: Timestamp) -> String {
    hour.to_string().chars().take(13).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{UsageCount, UsageKey};

    fn rows() -> Vec<UsageRow> {
        let row = |app: &str, calls| UsageRow {
            hour: Timestamp::FLOOR,
            key: UsageKey { app: app.to_owned(), ..UsageKey::default() },
            count: UsageCount { calls, ..UsageCount::default() },
        };
        vec![row("a", 7), row("b", 8)]
    }

    #[test]
    fn what_was_written_is_read_and_an_empty_hour_is_gone() {
        let state = tempfile::tempdir().unwrap();
        assert!(read(state.path()).rows.is_empty());

        write(state.path(), Timestamp::FLOOR, &rows()).unwrap();

        let found = read(state.path());
        assert_eq!(found.rows, rows());
        assert!(found.damage.is_empty() && state.path().join("usage/2026-01-01T00.jsonl").is_file());
        write(state.path(), Timestamp::FLOOR, &[]).unwrap();
        assert!(read(state.path()).rows.is_empty());
        write(state.path(), Timestamp::FLOOR, &[]).unwrap();
    }

    #[test]
    fn a_damaged_line_is_left_out_and_told() {
        let state = tempfile::tempdir().unwrap();
        write(state.path(), Timestamp::FLOOR, &rows()).unwrap();
        let file = state.path().join("usage/2026-01-01T00.jsonl");
        let text = fs::read_to_string(&file).unwrap().replace("\"calls\":7", "\"calls\":9");
        atomic_file::replace(&file, text.as_bytes(), 0o600).unwrap();

        let found = read(state.path());

        assert_eq!(found.rows, rows()[1..]);
        assert!(found.damage[0].contains("what 1 of its lines counted is lost"), "{:?}", found.damage);
    }
}
