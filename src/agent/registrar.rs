//! Keeps what is on file in step with its files: a change of one file is a reading of one file, wherever that is enough.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::registry::{Change, Library, Snapshot};
use crate::store::registry_dir::{RegistryReadError, Shelf};
use crate::toml_text::Problem;

/// Why the registry on disk is not the one in force.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be read.
    #[error("the registry cannot be read")]
    Read(#[from] RegistryReadError),
    /// It is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

/// The registry, and the files as they were when it was read.
pub(super) struct Registrar {
    shelf: Shelf,
    library: Library,
}

impl Registrar {
    /// Reads and understands all files.
    ///
    /// # Errors
    /// They cannot be read, or everything that is wrong with them.
    pub(super) fn open(folders: &[PathBuf], now: Timestamp) -> Result<Self, RegistryError> {
        Self::read(Shelf::new(folders.to_vec()), now)
    }

    /// The same at other folders; one that was there before is missed.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(super) fn reopen(&self, folders: &[PathBuf], now: Timestamp) -> Result<Self, RegistryError> {
        Self::read(self.shelf.anew(folders.to_vec()), now)
    }

    fn read(shelf: Shelf, now: Timestamp) -> Result<Self, RegistryError> {
        let (changes, shelf) = shelf.look(now)?;
        let sources: Vec<_> = changes
            .into_iter()
            .filter_map(|change| match change {
                Change::Gone(_) => None,
                Change::Says(source) => Some(source),
            })
            .collect();
        let library = Library::read(&sources).map_err(RegistryError::Wrong)?;
        Ok(Self { shelf, library })
    }

    /// Reads what has changed since, and everything only if that is not enough.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was understood before stays, and what has changed since then is looked at next time.
    pub(super) fn follow(&mut self, now: Timestamp) -> Result<(), RegistryError> {
        let (changes, shelf) = self.shelf.look(now)?;
        if changes.is_empty() || self.library.amend(&changes) {
            self.shelf = shelf;
        } else {
            *self = self.reopen(self.shelf.folders(), now)?;
        }
        Ok(())
    }

    /// All that is on file.
    pub(super) const fn snapshot(&self) -> &Arc<Snapshot> {
        self.library.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::atomic_file::replace;

    const SHARED: &str = "[[developer]]\nid = 'team'\n[[product]]\nid = 'orders'\n";

    fn app(name: &str) -> String {
        format!("[[app]]\nid = '{name}'\ndeveloper = 'team'\n[[app.grant]]\nproduct = 'orders'\n")
    }

    fn later(seconds: u64) -> Timestamp {
        use crate::clock::{Clock as _, SystemClock};

        SystemClock.now() + Duration::from_secs(seconds)
    }

    #[test]
    fn the_registry_follows_its_files_one_by_one_and_all_together() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| replace(&place.path().join(name), text.as_bytes(), 0o644).unwrap();
        put("a.toml", SHARED);
        put("b.toml", &app("one"));
        let mut registrar = Registrar::open(&[place.path().to_owned()], later(10)).unwrap();
        let product = Arc::clone(registrar.snapshot().product("orders").unwrap());

        put("b.toml", &app("two"));
        registrar.follow(later(10)).unwrap();

        assert!(registrar.snapshot().app("one").is_none() && registrar.snapshot().app("two").is_some());
        assert!(
            Arc::ptr_eq(&product, registrar.snapshot().product("orders").unwrap()),
            "only one file was read"
        );

        put("a.toml", &SHARED.replace("team'", "team'\nstatus = 'inactive'"));
        registrar.follow(later(10)).unwrap();

        let developer = &registrar.snapshot().app("two").unwrap().developer;
        assert_eq!(developer.status, crate::registry::DeveloperStatus::Inactive);
    }

    #[test]
    fn a_bad_edit_keeps_the_last_good_registry_until_it_is_mended() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| replace(&place.path().join(name), text.as_bytes(), 0o644).unwrap();
        put("a.toml", SHARED);
        let mut registrar = Registrar::open(&[place.path().to_owned()], later(10)).unwrap();

        put("b.toml", &app("one").replace("orders", "ordres"));
        let error = registrar.follow(later(10)).unwrap_err();
        assert!(error.to_string().contains("did you mean `orders`?"), "{error}");
        put("c.toml", &app("two"));
        assert!(registrar.follow(later(10)).is_err());
        assert_eq!(registrar.snapshot().counts().apps, 0);

        put("b.toml", &app("one"));
        registrar.follow(later(10)).unwrap();
        assert_eq!(registrar.snapshot().counts().apps, 2);
    }
}
