//! Several files of the registry written as one: who reads it sees all of them as they were, or all as they are to be.
//!
//! The new texts are put into one journal first, in one step, and from that instant on readers take them from there; then the
//! files themselves follow, and the journal goes. Whoever dies in between leaves the journal, and the next edit finishes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::atomic_file::{self, AtomicError};
use crate::store::registry_edit::EditError;

/// What a file of the registry is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileChange {
    /// The file.
    pub path: PathBuf,
    /// What it says so far; nothing if there is none yet.
    pub former: Option<String>,
    /// What it is to say.
    pub text: String,
}

/// The new texts of files that may still have the former ones.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    /// The folder, in its plain form: not everybody has the same way to it.
    folder: PathBuf,
    name: String,
    text: String,
}

impl Journal {
    /// Where the journal of a registry lies, if there is one.
    pub(super) fn path(folders: &[PathBuf]) -> Option<PathBuf> {
        folders.first().map(|first| first.join(NAME))
    }

    /// The journal that lies in the first of `folders`; an empty one if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(super) fn read(folders: &[PathBuf]) -> io::Result<Self> {
        let Some(path) = Self::path(folders) else { return Ok(Self::default()) };
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes?,
        };
        Ok(Self { entries: serde_json::from_slice(&bytes)? })
    }

    /// The files of `folder` that have a text here, by the way that leads through `folder`.
    pub(super) fn of_folder(&self, folder: &Path) -> Vec<(PathBuf, &str)> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let Ok(plain) = fs::canonicalize(folder) else { return Vec::new() };
        let own = self.entries.iter().filter(|entry| entry.folder == plain && is_file_name(&entry.name));
        own.map(|entry| (folder.join(&entry.name), &*entry.text)).collect()
    }
}

/// Nobody is led out of the folder by a journal.
fn is_file_name(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.') && !name.contains('/')
}

/// Finishes what somebody has begun who did not come to its end. Only who holds the lock may.
///
/// # Errors
/// A file cannot be written; the journal stays, and readers go by it.
pub(super) fn finish(folders: &[PathBuf]) -> Result<(), EditError> {
    let Some(path) = Journal::path(folders) else { return Ok(()) };
    let failed = |step| {
        let path = path.clone();
        move |source| EditError::Io { step, path, source }
    };
    let journal = Journal::read(folders).map_err(failed("read"))?;
    if journal.entries.is_empty() {
        return Ok(());
    }
    for folder in folders {
        for (file, text) in journal.of_folder(folder) {
            put(&file, text)?;
        }
    }
    fs::remove_file(&path).map_err(failed("remove"))
}

/// Writes all `files`, of which each lies in one of `folders`. Only who holds the lock may.
///
/// # Errors
/// One of them cannot be written; then all are as they were, or the journal stands and all are read as they are to be.
pub(super) fn write(folders: &[PathBuf], files: &[FileChange]) -> Result<(), EditError> {
    let (Some(path), [_, _, ..]) = (Journal::path(folders), files) else {
        return files.iter().try_for_each(|file| Ok(put(&file.path, &file.text)?));
    };
    let failed = |source| EditError::Io { step: "write", path: path.clone(), source };
    let entries = files.iter().map(Entry::of).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let journal = serde_json::to_vec(&entries).map_err(|error| failed(error.into()))?;
    atomic_file::create_alike(&path, &journal)?;
    for (number, file) in files.iter().enumerate() {
        if let Err(error) = put(&file.path, &file.text) {
            let done = files.iter().take(number + 1);
            if done.into_iter().try_for_each(put_back).is_ok() {
                drop(fs::remove_file(&path));
            }
            return Err(error.into());
        }
    }
    fs::remove_file(&path).map_err(|source| EditError::Io { step: "remove", path, source })
}

impl Entry {
    fn of(file: &FileChange) -> io::Result<Self> {
        let folder = fs::canonicalize(file.path.parent().unwrap_or_else(|| Path::new(".")))?;
        let name = file.path.file_name().and_then(|name| name.to_str());
        let name = name.filter(|name| is_file_name(name)).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { folder, name: name.to_owned(), text: file.text.clone() })
    }
}

fn put(path: &Path, text: &str) -> Result<(), AtomicError> {
    if path.exists() {
        atomic_file::replace_alike(path, text.as_bytes())
    } else {
        atomic_file::create_alike(path, text.as_bytes())
    }
}

fn put_back(file: &FileChange) -> Result<(), EditError> {
    match &file.former {
        Some(former) if fs::read_to_string(&file.path).is_ok_and(|text| text == *former) => Ok(()),
        Some(former) => Ok(put(&file.path, former)?),
        None if file.path.exists() => fs::remove_file(&file.path).map_err(|source| EditError::Io {
            step: "remove",
            path: file.path.clone(),
            source,
        }),
        None => Ok(()),
    }
}

/// It does not end in `.toml`, so no reader takes it for a file of the registry.
const NAME: &str = ".apply.journal";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::registry::Change;
    use crate::store::registry_dir::{self, Shelf};

    fn texts(folders: &[PathBuf]) -> Vec<String> {
        registry_dir::read(folders).unwrap().into_iter().map(|source| source.text).collect()
    }

    /// A registry in two folders, and what is to become of it.
    fn world() -> (tempfile::TempDir, Vec<PathBuf>, Vec<FileChange>) {
        let place = tempfile::tempdir().unwrap();
        let folders = vec![place.path().join("one"), place.path().join("two")];
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        for folder in &folders {
            atomic_file::replace(&folder.join("a.toml"), b"old", 0o640).unwrap();
        }
        let change = |path: PathBuf, former: Option<&str>| FileChange {
            path,
            former: former.map(str::to_owned),
            text: "new".to_owned(),
        };
        let files = vec![
            change(folders[0].join("a.toml"), Some("old")),
            change(folders[0].join("b.toml"), None),
            change(folders[1].join("a.toml"), Some("old")),
        ];
        (place, folders, files)
    }

    fn journal(folders: &[PathBuf], files: &[FileChange]) {
        let entries: Vec<_> = files.iter().map(|file| Entry::of(file).unwrap()).collect();
        let bytes = serde_json::to_vec(&entries).unwrap();
        atomic_file::replace(&Journal::path(folders).unwrap(), &bytes, 0o640).unwrap();
    }

    #[test]
    fn all_files_are_written_and_no_journal_stays() {
        let (_place, folders, files) = world();

        write(&folders, &files).unwrap();

        assert_eq!(texts(&folders), ["new", "new", "new"]);
        assert_eq!(fs::read_dir(&folders[0]).unwrap().count(), 2);
    }

    #[test]
    fn from_the_journal_on_readers_see_all_that_is_new_and_the_next_edit_finishes_it() {
        let (_place, folders, files) = world();
        let now = SystemClock.now();
        let (_, shelf) = Shelf::new(folders.clone()).look(now).unwrap();

        journal(&folders, &files);

        assert_eq!(texts(&folders), ["new", "new", "new"]);
        let (changes, _) = shelf.look(now).unwrap();
        let said = changes.iter().filter(|change| matches!(change, Change::Says(one) if one.text == "new"));
        assert_eq!((said.count(), changes.len()), (3, 3));
        assert_eq!(fs::read_to_string(folders[1].join("a.toml")).unwrap(), "old");

        finish(&folders).unwrap();

        assert_eq!(fs::read_to_string(folders[1].join("a.toml")).unwrap(), "new");
        assert!(!Journal::path(&folders).unwrap().exists());
        assert_eq!(texts(&folders), ["new", "new", "new"]);
    }

    #[test]
    fn if_one_file_cannot_be_written_all_are_as_they_were() {
        let (_place, folders, mut files) = world();
        let barred = folders[1].join("b.toml");
        fs::create_dir(&barred).unwrap();
        files.push(FileChange { path: barred.clone(), former: None, text: "new".to_owned() });

        assert!(write(&folders, &files).is_err());

        fs::remove_dir(&barred).unwrap();
        // A folder in the way could not be put back either, so it was the journal that stayed, or all is as before.
        let stayed = Journal::path(&folders).unwrap().exists();
        assert_eq!(texts(&folders).iter().all(|text| text == "new"), stayed);
        assert_eq!(texts(&folders).iter().all(|text| text == "old"), !stayed);
    }

    #[test]
    fn a_journal_leads_nowhere_out_of_the_registry() {
        let (place, folders, files) = world();
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let text = serde_json::json!([
            { "folder": elsewhere, "name": "a.toml", "text": "new" },
            { "folder": folders[0].canonicalize().unwrap(), "name": "../elsewhere/b.toml", "text": "new" },
        ]);
        atomic_file::replace(&Journal::path(&folders).unwrap(), text.to_string().as_bytes(), 0o640).unwrap();

        finish(&folders).unwrap();

        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(files.len(), 3);
        assert_eq!(texts(&folders), ["old", "old"]);
    }
}
