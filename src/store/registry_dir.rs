//! The registry's files: every `*.toml` in its folders, links followed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::registry::{Change, Source};
use crate::store::registry_journal::Journal;

/// Why the registry cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be read", path.display())]
pub struct RegistryReadError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads all files, sorted by name within each folder. A folder that is not there holds nothing. Files that are being written
/// together are read as they are to be, all of them.
///
/// # Errors
/// The first file or folder that cannot be read.
pub fn read(folders: &[PathBuf]) -> Result<Vec<Source>, RegistryReadError> {
    let journal = journal(folders)?;
    let mut sources = Vec::new();
    for folder in folders {
        let failed = |source| RegistryReadError { path: folder.clone(), source };
        for (path, text) in files(folder, &journal).map_err(failed)? {
            let text = text.map_or_else(|| std::fs::read_to_string(&path), |text| Ok(text.to_owned()));
            let text = text.map_err(|source| RegistryReadError { path: path.clone(), source })?;
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

fn journal(folders: &[PathBuf]) -> Result<Journal, RegistryReadError> {
    Journal::read(folders)
        .map_err(|source| RegistryReadError { path: Journal::path(folders).unwrap_or_default(), source })
}

/// The files of a folder, with the text of those that have it in the journal.
fn files<'j>(folder: &Path, journal: &'j Journal) -> io::Result<BTreeMap<PathBuf, Option<&'j str>>> {
    let mut files: BTreeMap<_, _> = toml_files(folder)?.into_iter().map(|path| (path, None)).collect();
    files.extend(journal.of_folder(folder).into_iter().map(|(path, text)| (path, Some(text))));
    Ok(files)
}

/// The files as they were when they were last read, to tell which have changed since.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    folders: Vec<PathBuf>,
    /// Those of them that were there.
    found: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// Tells a file from another, and from itself at another time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
    written: (i64, i64),
}

impl Shelf {
    /// Nothing has been read of `folders` yet.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, ..Self::default() }
    }

    /// The same place, of which nothing has been read yet, at other `folders`: one that was there before is missed here, too.
    #[must_use]
    pub fn anew(&self, folders: Vec<PathBuf>) -> Self {
        let found = self.found.iter().filter(|folder| folders.contains(folder)).cloned().collect();
        Self { folders, found, stamps: BTreeMap::new() }
    }

    /// Where the files lie.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// What has changed since this shelf was made, and the shelf as it is now. A file that was changed so shortly before that
    /// it may change again unnoticed counts as changed next time, too.
    ///
    /// A folder that was never there holds nothing. One that was there and is gone has not become empty: a file system that is not
    /// mounted, or a copy that is being replaced, must not turn everybody away.
    ///
    /// # Errors
    /// The first file or folder that cannot be read, or that is gone.
    pub fn look(&self, now: Timestamp) -> Result<(Vec<Change>, Self), RegistryReadError> {
        let mut looks = 1;
        loop {
            let before = self.stamps_now()?;
            let (changes, shelf) = self.look_once(now)?;
            // Files that are written together may have been so between the reading of one and of the next.
            if changes.is_empty() || looks == MOST_LOOKS || self.stamps_now()? == before {
                return Ok((changes, shelf));
            }
            looks += 1;
        }
    }

    /// The files as they are at this moment.
    fn stamps_now(&self) -> Result<BTreeMap<PathBuf, Option<Stamp>>, RegistryReadError> {
        let mut stamps = BTreeMap::new();
        for folder in &self.folders {
            let failed = |source| RegistryReadError { path: folder.clone(), source };
            stamps.extend(toml_files(folder).map_err(failed)?.into_iter().map(|path| {
                let stamp = Stamp::of(&path).ok();
                (path, stamp)
            }));
        }
        Ok(stamps)
    }

    fn look_once(&self, now: Timestamp) -> Result<(Vec<Change>, Self), RegistryReadError> {
        let mut changes = Vec::new();
        let mut stamps = BTreeMap::new();
        let mut found = BTreeSet::new();
        let journal = journal(&self.folders)?;
        for folder in &self.folders {
            let failed = |source| RegistryReadError { path: folder.clone(), source };
            match folder.metadata() {
                Ok(_) => drop(found.insert(folder.clone())),
                Err(error) if self.found.contains(folder) => return Err(failed(error)),
                // What cannot be read is told below.
                Err(_) => {}
            }
            for (path, text) in files(folder, &journal).map_err(failed)? {
                if let Some(text) = text {
                    // The file itself may not be there yet, so it is looked at again next time.
                    changes.push(Change::Says(Source { path: path.clone(), text: text.to_owned() }));
                    stamps.insert(path, None);
                    continue;
                }
                let failed = |source| RegistryReadError { path: path.clone(), source };
                let stamp = Stamp::of(&path).map_err(failed)?;
                if self.stamps.get(&path) != Some(&Some(stamp)) {
                    let text = std::fs::read_to_string(&path).map_err(failed)?;
                    changes.push(Change::Says(Source { path: path.clone(), text }));
                }
                stamps.insert(path, Some(stamp).filter(|stamp| stamp.has_settled(now)));
            }
        }
        let gone = self.stamps.keys().filter(|path| !stamps.contains_key(*path));
        changes.extend(gone.cloned().map(Change::Gone));
        Ok((changes, Self { folders: self.folders.clone(), found, stamps }))
    }
}

/// Who writes without end is read as he stands.
const MOST_LOOKS: usize = 5;

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
            written: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// Whether a further change would leave another stamp: file systems tell times apart by some milliseconds only.
    fn has_settled(&self, now: Timestamp) -> bool {
        let (seconds, _) = self.changed;
        now.unix() > seconds.saturating_add(1)
    }
}

fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match listed(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        files => files,
    }
}

/// The `*.toml` files in `folder`, in the order of their names, without hidden ones.
///
/// # Errors
/// The folder is not there or cannot be read.
pub(super) fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let visible = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".toml") && !name.starts_with('.')
    };
    let mut files: Vec<_> = paths.into_iter().filter(visible).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::store::atomic_file::replace;

    #[test]
    fn every_toml_file_is_read_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "notes.md", ".hidden.toml"] {
            replace(&place.path().join(name), name.as_bytes(), 0o644).unwrap();
        }

        let sources = read(&[place.path().to_owned(), place.path().join("absent")]).unwrap();

        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["a.toml", "b.toml"]);
    }

    #[test]
    fn only_what_has_changed_is_read_again() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| replace(&place.path().join(name), text.as_bytes(), 0o644).unwrap();
        let names = |changes: &[Change]| {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let told = changes.iter().map(|change| match change {
                Change::Gone(path) => format!("-{}", name(path)),
                Change::Says(source) => format!("{}={}", name(&source.path), source.text),
            });
            told.collect::<Vec<_>>()
        };
        let now = SystemClock.now();
        let settled = now + Duration::from_secs(10);
        put("a.toml", "1");
        put("b.toml", "1");

        let (changes, shelf) = Shelf::new(vec![place.path().to_owned()]).look(settled).unwrap();
        assert_eq!(names(&changes), ["a.toml=1", "b.toml=1"]);
        assert!(shelf.look(settled).unwrap().0.is_empty());

        put("b.toml", "2");
        std::fs::remove_file(place.path().join("a.toml")).unwrap();
        let (changes, shelf) = shelf.look(now).unwrap();
        assert_eq!(names(&changes), ["b.toml=2", "-a.toml"]);
        // It may have changed once more without another time on it.
        assert_eq!(names(&shelf.look(settled).unwrap().0), ["b.toml=2"]);
    }

    #[test]
    fn a_folder_that_was_there_is_missed_and_one_that_never_was_is_not() {
        let place = tempfile::tempdir().unwrap();
        let (here, never) = (place.path().join("here"), place.path().join("never"));
        std::fs::create_dir(&here).unwrap();
        replace(&here.join("a.toml"), b"1", 0o644).unwrap();
        let now = SystemClock.now();
        let folders = vec![here.clone(), never];
        let (changes, shelf) = Shelf::new(folders.clone()).look(now).unwrap();
        assert_eq!(changes.len(), 1);

        std::fs::rename(&here, place.path().join("elsewhere")).unwrap();

        let error = shelf.look(now).unwrap_err();
        assert!(error.to_string().ends_with("here: cannot be read"), "{error}");
        assert!(shelf.anew(folders.clone()).look(now).is_err());
        assert!(shelf.anew(folders[1..].to_vec()).look(now).is_ok(), "it is not asked for any more");
        assert!(Shelf::new(folders).look(now).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", place.path().join("a.toml")).unwrap();

        let error = read(&[place.path().to_owned()]).unwrap_err();

        assert!(error.to_string().ends_with("a.toml: cannot be read"), "{error}");
    }
}
