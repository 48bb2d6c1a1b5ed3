//! The CA on disk: every authority in a directory of its own, and one small file that says which of them count.
//!
//! ```text
//! <state>/lock                                  held while an agent lives
//! <state>/authorities.toml                      the commit point: slots, trust domain, bundle sequence
//! <state>/authorities/<id>/certificate.pem      0644
//! <state>/authorities/<id>/key.pem              0600; or key.toml, which says where the key is, see `key_store.rs`; absent
//!                                               where a root signs on another host
//! <state>/authorities/<id>/above.pem            0644; what stands between it and its root, if anything does
//! <state>/authorities/.staged-<id>/…            on its way to becoming <id>
//! <state>/bundle.pem                            the roots, for others to trust
//! ```
//!
//! A commit writes the new authorities under their staged names, replaces `authorities.toml` in one step, and then gives the
//! directories their final names. A kill before that one step leaves the old state (staged directories mean nothing by
//! themselves), a kill after it leaves the new one, and the next start finishes the renames.
//!
//! A state directory that cannot be written (read-only, or full) does not keep the agent from serving what it holds: the lock
//! is then taken on what is there, an interrupted commit is read where it lies, and what is left undone is told and done later.
//!
//! **Invariant:** no new CA beside an old one. Only a state directory without any trace of a CA counts as a first start; every
//! other gap is an error that says what is there and what to do.

mod pending;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::TrustDomain;
use crate::pki::{
    Authority, AuthorityError, Hierarchy, HierarchyError, KeyPair, KeySource, Level, Retired, Slots,
};
use crate::secret::Secret;
use crate::store::atomic_file::{self, AtomicError, Gate};
use crate::store::key_store::{KEY, KeyFile, KeySettings, KeyStore, KeyStoreError, REFERENCE};
use crate::store::pem::{self, PemError};
use crate::store::sealed_key::SealError;
use crate::store::{disk, seal};

pub use pending::Pending;

/// The state directory, locked for this process for as long as the value lives.
pub struct AuthorityDir {
    state: PathBuf,
    lock: Mutex<Lock>,
    gate: Box<Gate<'static>>,
    keys: KeyStore,
}

/// What keeps other agents away.
enum Lock {
    /// The lock file. Whoever writes holds it.
    Full(File),
    /// Only the directory of the authorities, for the lock file could not be made. Enough to read.
    Reading(File),
}

/// What [`AuthorityDir::load`] found.
#[derive(Debug)]
pub struct StoredHierarchy {
    /// The CA.
    pub hierarchy: Hierarchy,
    /// Entries of `authorities/` that no slot names: left by a crash, removed at the next commit.
    pub orphans: Vec<String>,
    /// What could not be tidied up. The CA is whole all the same; the next commit tries again.
    pub untidy: Vec<StoreError>,
}

/// A commit that holds.
#[derive(Debug, Default)]
#[must_use]
pub struct Committed {
    /// What failed after the commit point. The new state holds all the same, and the next start or commit tidies up.
    pub untidy: Vec<StoreError>,
}

/// What [`AuthorityDir::rekey`] came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rekeyed {
    /// How many key files were written anew.
    pub written: usize,
    /// How many were as they should be.
    pub kept: usize,
    /// How many keys are on a token and have no file.
    pub on_token: usize,
}

/// Why the CA cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An authority's files are no authority.
    #[error("{} holds no usable authority: restore {} from a backup", path.display(), path.display())]
    Authority {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: AuthorityError,
    },
    /// The authorities do not form a hierarchy.
    #[error("{} does not describe a CA: restore it and authorities/ from one backup", path.display())]
    Hierarchy {
        /// `authorities.toml`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: HierarchyError,
    },
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
    /// A key cannot be kept or had.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// Another process holds the lock.
    #[error("{} is locked: another agent{holder} uses this state directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who, as far as the file says.
        holder: String,
    },
    /// There is something of a CA, but not the file that makes it one.
    #[error(
        "{} is missing, yet there are {found}: restore it from a backup, or move these away to start over with a new CA \
         (every certificate issued so far is then worthless)",
        path.display()
    )]
    Lost {
        /// `authorities.toml`.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// `authorities.toml` cannot be understood.
    #[error("{} is damaged: {reason}; restore it from a backup", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An authority that `authorities.toml` names is not there.
    #[error("{} is missing, but authorities.toml names it: restore it from a backup", path.display())]
    Missing {
        /// Its directory or file.
        path: PathBuf,
    },
    /// There is no CA.
    #[error("there is no CA in {}", .0.display())]
    NoCa(PathBuf),
    /// A file holds no PEM of the right kind.
    #[error("{} is damaged: restore it from a backup", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
    /// A key that others can read.
    #[error(
        "{} has mode {mode:04o}, so others may have read this key: `chmod 600` it if you are sure that nobody did, else start \
         over with a new CA",
        path.display()
    )]
    Permissive {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The request that waits for its certificate cannot be used.
    #[error("{} is of no use, because {reason}: make another with `postern ca csr --new`", path.display())]
    Request {
        /// The request.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] AtomicError),
    /// A key could not be put under the passphrase.
    #[error("the key of {id} cannot be encrypted")]
    Seal {
        /// Whose key.
        id: AuthorityId,
        /// Why not.
        #[source]
        source: SealError,
    },
}

impl AuthorityDir {
    /// Takes `state` for this process, making the directory if it is not there.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        Self::open_with(state, Box::new(|_| Ok(())))
    }

    /// [`Self::open`] with the keys kept as `settings` say.
    ///
    /// # Errors
    /// As for [`Self::open`], or the passphrase or the token cannot be used.
    pub fn open_keeping(state: &Path, settings: &KeySettings) -> Result<Self, StoreError> {
        let directory = Self::open(state)?;
        let keys = KeyStore::open(state, settings)?;
        Ok(Self { keys, ..directory })
    }

    /// [`Self::open_keeping`] under a lock that its owner, who writes no more, has lent.
    ///
    /// # Errors
    /// As for [`Self::open_keeping`].
    pub fn open_lent(state: &Path, settings: &KeySettings, lock: File) -> Result<Self, StoreError> {
        let path = state.join(LOCK);
        match sign_lock(&lock) {
            Err(error) if disk::refuses_writing(&error) => {}
            outcome => outcome.map_err(io_error("write the lock", &path))?,
        }
        let keys = KeyStore::open(state, settings)?;
        let gate: Box<Gate<'static>> = Box::new(|_| Ok(()));
        Ok(Self { state: state.to_owned(), lock: Mutex::new(Lock::Full(lock)), gate, keys })
    }

    /// The lock for another process that is to become the owner: it is free only when both have let go of it.
    ///
    /// # Errors
    /// It cannot be written, or the system gives no descriptor.
    pub fn lend_lock(&self) -> Result<File, StoreError> {
        self.lock_for_writing()?;
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (Lock::Full(lock) | Lock::Reading(lock)) = &*held;
        lock.try_clone().map_err(io_error("lend the lock", &self.state.join(LOCK)))
    }

    /// Writes down in the lock that it is this process's, after it was lent in vain.
    pub fn sign_lock(&self) {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (Lock::Full(lock) | Lock::Reading(lock)) = &*held;
        if let Err(error) = sign_lock(lock) {
            tracing::debug!(%error, "the lock cannot be signed");
        }
    }

    /// This directory with its keys in `keys`; for tests.
    #[cfg(test)]
    pub(super) fn keeping(self, keys: KeyStore) -> Self {
        Self { keys, ..self }
    }

    /// [`Self::open`], asking `gate` before every step that changes the disk; for tests.
    pub(crate) fn open_with(state: &Path, gate: Box<Gate<'static>>) -> Result<Self, StoreError> {
        // Some file systems refuse to make what is there, because they cannot be written, before they say that it is there.
        if !state.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(state)
                .map_err(io_error("make the state directory", state))?;
        }
        let lock = Mutex::new(lock(state)?);
        Ok(Self { state: state.to_owned(), lock, gate, keys: KeyStore::plain(state) })
    }

    /// The state directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.state
    }

    /// Where the keys of new authorities come from.
    #[must_use]
    pub fn keys(&self) -> &dyn KeySource {
        &self.keys
    }

    /// The CA that was committed last; `None` at the very first start.
    ///
    /// Finishes what a crash may have interrupted after its commit point, if the directory can be written.
    pub fn load(&self) -> Result<Option<StoredHierarchy>, StoreError> {
        let path = self.manifest_path();
        if !is_there(&path)? {
            return self.expect_nothing(&path).map(|()| None);
        }
        let (manifest, manifest_text) = Manifest::read(&path)?;
        let mut untidy = Vec::new();
        let mut roots = Vec::with_capacity(manifest.root.len());
        for entry in &manifest.root {
            roots.push(self.load_authority(entry, Level::Root, &mut untidy)?);
        }
        let mut issuing = Vec::with_capacity(manifest.issuing.len());
        for entry in &manifest.issuing {
            issuing.push(self.load_authority(entry, Level::Issuing, &mut untidy)?);
        }
        let roots = slots(&path, &manifest.root, &roots)?;
        let issuing = slots(&path, &manifest.issuing, &issuing)?;
        let hierarchy =
            Hierarchy::assemble(manifest.trust_domain(&path)?, roots, issuing, manifest.bundle_sequence)
                .map_err(|source| StoreError::Hierarchy { path: path.clone(), source })?;
        // Last, for whatever else is wrong says more.
        check_seal(&path, &manifest_text)?;
        untidy.extend(self.publish_bundle(&hierarchy).err());
        let orphans = self.orphans(&hierarchy)?;
        Ok(Some(StoredHierarchy { hierarchy, orphans, untidy }))
    }

    /// Makes `hierarchy` the state of the disk: after an error the former one holds, or the new one if only forcing it to the
    /// disk failed; committing again is always right.
    pub fn commit(&self, hierarchy: &Hierarchy) -> Result<Committed, StoreError> {
        self.lock_for_writing()?;
        self.make_directory(&self.authorities_path())?;
        atomic_file::sync_directory(&self.state, &*self.gate)
            .map_err(io_error("force to the disk", &self.state))?;
        for (_, authority) in hierarchy.iter() {
            self.stage(authority)?;
        }
        let text = Manifest::of(hierarchy).to_text(&self.manifest_path())?;
        atomic_file::replace_in_steps(&self.manifest_path(), text.as_bytes(), 0o600, &*self.gate)?;

        let mut committed = Committed::default();
        for (_, authority) in hierarchy.iter() {
            committed.untidy.extend(self.settle(authority.id()).err());
        }
        committed.untidy.extend(self.publish_bundle(hierarchy).err());
        committed.untidy.extend(self.remove_orphans(hierarchy).err());
        // Only after the directories: a reference that is still there keeps its key.
        let used: Vec<&KeyPair> = hierarchy.iter().filter_map(|(_, authority)| authority.key()).collect();
        committed.untidy.extend(self.keys.tidy(&used).map_err(StoreError::from).err());
        Ok(committed)
    }

    /// Whoever could only lock for reading, because the directory could not be written, takes the lock itself now.
    fn lock_for_writing(&self) -> Result<(), StoreError> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Lock::Reading(_) = &*held {
            *held = Lock::Full(lock_file(&self.state)?);
        }
        Ok(())
    }

    /// Where the files of an authority are that was committed: under its final name, or under the staged one if that cannot
    /// be changed now.
    fn find(&self, id: &AuthorityId, untidy: &mut Vec<StoreError>) -> Result<PathBuf, StoreError> {
        let error = match self.settle(id) {
            Ok(settled) => return Ok(settled),
            Err(error) => error,
        };
        untidy.push(error);
        let settled = self.authorities_path().join(id.as_str());
        Ok(if is_there(&settled)? { settled } else { self.staged_path(id) })
    }

    /// Writes every key file anew that is not as the settings say: under the configured passphrase, or plain if there is none.
    /// Files that are encrypted otherwise open with `former`.
    ///
    /// Before the first file is written, every one has been read. Each is replaced whole; a kill in between leaves some as they
    /// were, which this call, made again, finishes.
    ///
    /// # Errors
    /// A key cannot be read or `authorities.toml` is damaged, and nothing was changed; or the system refused something.
    pub fn rekey(&self, former: Option<&Secret>) -> Result<Rekeyed, StoreError> {
        self.lock_for_writing()?;
        let path = self.manifest_path();
        if !is_there(&path)? {
            self.expect_nothing(&path)?;
            return Err(StoreError::NoCa(self.state.clone()));
        }
        let (manifest, manifest_text) = Manifest::read(&path)?;
        // What it does not list is taken away below, so it has to be whole.
        check_seal(&path, &manifest_text)?;
        let mut rekeyed = Rekeyed { written: 0, kept: 0, on_token: 0 };
        let mut listed = BTreeSet::new();
        let mut anew = Vec::new();
        for entry in manifest.root.iter().chain(&manifest.issuing) {
            let id: AuthorityId = entry.parse("id", &entry.id, &path)?;
            let created = entry.parse("created", &entry.created, &path)?;
            let directory = self.settle(&id)?;
            listed.insert(entry.id.as_str());
            if !is_there(&directory)? {
                return Err(StoreError::Missing { path: directory });
            }
            if entry.key == Some(KeyWord::Elsewhere) {
                continue;
            }
            if is_there(&directory.join(REFERENCE))? {
                rekeyed.on_token += 1;
                continue;
            }
            let (path, key, text) = self.rewritten(&directory, former)?;
            read_with_key(&directory, key, created)?;
            match text {
                Some(text) => anew.push((path, text)),
                None => rekeyed.kept += 1,
            }
        }
        for directory in self.requested()? {
            if !is_there(&directory.join(KEY))? {
                continue;
            }
            let (path, _, text) = self.rewritten(&directory, former)?;
            match text {
                Some(text) => anew.push((path, text)),
                None => rekeyed.kept += 1,
            }
        }
        rekeyed.written = anew.len();
        for (path, text) in &anew {
            atomic_file::replace_in_steps(path, text.expose_secret(), 0o600, &*self.gate)?;
        }
        for directory in self.requested()? {
            self.remove_temporaries(&directory, &[KEY])?;
        }
        // What lies about may hold a key in its former form.
        for name in self.entries()? {
            let directory = self.authorities_path().join(&name);
            if listed.contains(name.as_str()) {
                self.remove_temporaries(&directory, &[KEY])?;
            } else {
                self.remove(&directory)?;
            }
        }
        Ok(rekeyed)
    }

    /// The key file in `directory`, the key in it, and what it should hold instead.
    fn rewritten(
        &self,
        directory: &Path,
        former: Option<&Secret>,
    ) -> Result<(PathBuf, KeyPair, Option<Secret>), StoreError> {
        let path = directory.join(KEY);
        let bytes = read_private(&path)?;
        let outcome = self.keys.rewritten(&path, &bytes, former)?;
        let (key, text) = outcome.map_err(|source| StoreError::Pem { path: path.clone(), source })?;
        Ok((path, key, text))
    }

    /// Writes an authority under its staged name, unless it is there already.
    fn stage(&self, authority: &Authority) -> Result<(), StoreError> {
        let settled = self.authorities_path().join(authority.id().as_str());
        let staged = self.staged_path(authority.id());
        let certificate = pem::certificate_to_pem(authority.certificate());
        let above: String = authority.above().iter().map(pem::certificate_to_pem).collect();
        let key = authority.key().map(|key| self.key_file(authority.id(), key)).transpose()?;
        let holds = |directory: &Path| {
            fs::read(directory.join(CERTIFICATE)).is_ok_and(|found| found == certificate.as_bytes())
                && fs::read(directory.join(ABOVE)).unwrap_or_default() == above.as_bytes()
                && key.as_ref().is_none_or(|key| {
                    fs::read(directory.join(key.name)).is_ok_and(|found| Secret::new(found) == key.content)
                })
        };
        if holds(&settled) {
            return Ok(());
        }
        if holds(&staged) {
            // It may be all that there is of an authority that was committed, so it is not written anew.
            let key = key.as_ref().map(|key| key.name);
            let above = (!above.is_empty()).then_some(ABOVE);
            for file in key.into_iter().chain(above).chain([CERTIFICATE]).map(|name| staged.join(name)) {
                atomic_file::sync_file(&file, &*self.gate).map_err(io_error("force to the disk", &file))?;
            }
        } else {
            self.remove(&staged)?;
            self.make_directory(&staged)?;
            if let Some(key) = &key {
                self.write_key(&staged, key)?;
            }
            if !above.is_empty() {
                atomic_file::create_in_steps(&staged.join(ABOVE), above.as_bytes(), 0o644, &*self.gate)?;
            }
            let path = staged.join(CERTIFICATE);
            atomic_file::create_in_steps(&path, certificate.as_bytes(), 0o644, &*self.gate)?;
        }
        for directory in [&staged, &self.authorities_path()] {
            atomic_file::sync_directory(directory, &*self.gate)
                .map_err(io_error("force to the disk", directory))?;
        }
        // Only now: what has the final name and other content is damaged, or was never committed.
        self.remove(&settled)
    }

    fn write_key(&self, directory: &Path, key: &KeyFile) -> Result<(), StoreError> {
        let path = directory.join(key.name);
        Ok(atomic_file::create_in_steps(&path, key.content.expose_secret(), 0o600, &*self.gate)?)
    }

    /// Gives a staged authority that was committed its final name.
    fn settle(&self, id: &AuthorityId) -> Result<PathBuf, StoreError> {
        let settled = self.authorities_path().join(id.as_str());
        let staged = self.staged_path(id);
        if !is_there(&settled)? && is_there(&staged)? {
            (self.gate)("rename directory")
                .and_then(|()| fs::rename(&staged, &settled))
                .map_err(io_error("give its final name to", &staged))?;
            let authorities = self.authorities_path();
            atomic_file::sync_directory(&authorities, &*self.gate)
                .map_err(io_error("force to the disk", &authorities))?;
        }
        Ok(settled)
    }

    fn load_authority(
        &self,
        entry: &Entry,
        wanted: Level,
        untidy: &mut Vec<StoreError>,
    ) -> Result<Arc<Authority>, StoreError> {
        let manifest = self.manifest_path();
        let id: AuthorityId = entry.parse("id", &entry.id, &manifest)?;
        let created = entry.parse("created", &entry.created, &manifest)?;
        let directory = self.find(&id, untidy)?;
        if !is_there(&directory)? {
            return Err(StoreError::Missing { path: directory });
        }
        let authority = match entry.key {
            Some(KeyWord::Elsewhere) => read_elsewhere(&directory, created)?,
            None => read_with_key(&directory, self.read_key(&directory)?, created)?,
        };
        if *authority.id() != id {
            let reason = format!("{} holds the authority {}", directory.display(), authority.id());
            return Err(StoreError::Manifest { path: manifest, reason });
        }
        if authority.level() != wanted {
            let reason = format!("it lists {id} as {wanted}, which is a {}", authority.level());
            return Err(StoreError::Manifest { path: manifest, reason });
        }
        Ok(Arc::new(authority))
    }

    /// What is to stand in a directory for `key`.
    fn key_file(&self, id: &AuthorityId, key: &KeyPair) -> Result<KeyFile, StoreError> {
        self.keys.file_of(key).map_err(|source| StoreError::Seal { id: id.clone(), source })
    }

    /// The key that stands in `directory`, wherever it is kept.
    fn read_key(&self, directory: &Path) -> Result<KeyPair, StoreError> {
        let reference = directory.join(REFERENCE);
        if is_there(&reference)? {
            return Ok(self.keys.read_reference(&reference, &read_file(&reference)?)?);
        }
        let path = directory.join(KEY);
        let key = self.keys.read_file(&path, &read_private(&path)?)?;
        key.map_err(|source| StoreError::Pem { path, source })
    }

    /// Without a manifest there must be no trace of a CA. Staged directories alone are none: nothing was ever committed.
    fn expect_nothing(&self, manifest: &Path) -> Result<(), StoreError> {
        let mut found: Vec<String> = self
            .entries()?
            .into_iter()
            .filter(|name| !is_temporary(name))
            .map(|name| format!("{AUTHORITIES}/{name}"))
            .collect();
        if is_there(&self.state.join(BUNDLE))? {
            found.push(BUNDLE.to_owned());
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(StoreError::Lost { path: manifest.to_owned(), found: found.join(", ") })
    }

    fn publish_bundle(&self, hierarchy: &Hierarchy) -> Result<(), StoreError> {
        let path = self.state.join(BUNDLE);
        let text: String = hierarchy.bundle().roots.iter().map(pem::certificate_to_pem).collect();
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        Ok(atomic_file::replace_in_steps(&path, text.as_bytes(), 0o644, &*self.gate)?)
    }

    fn orphans(&self, hierarchy: &Hierarchy) -> Result<Vec<String>, StoreError> {
        let listed: BTreeSet<&str> = hierarchy.iter().map(|(_, authority)| authority.id().as_str()).collect();
        let mut orphans = self.entries()?;
        orphans.retain(|name| !listed.contains(name.as_str()));
        let mut left = Vec::with_capacity(orphans.len());
        for name in orphans {
            // What could not be given its final name yet is all that there is of an authority that counts.
            let id = name.strip_prefix(STAGED).filter(|id| listed.contains(id));
            let awaited = match id {
                Some(id) => !is_there(&self.authorities_path().join(id))?,
                None => false,
            };
            if !awaited {
                left.push(name);
            }
        }
        Ok(left)
    }

    fn remove_orphans(&self, hierarchy: &Hierarchy) -> Result<(), StoreError> {
        for name in self.orphans(hierarchy)? {
            self.remove(&self.authorities_path().join(name))?;
        }
        self.remove_temporaries(&self.state, &[MANIFEST, BUNDLE, "crl.pem", "issued.journal"])
    }

    /// Removes what was on its way to becoming one of `files` in `directory` when the process was killed.
    fn remove_temporaries(&self, directory: &Path, files: &[&str]) -> Result<(), StoreError> {
        for name in names_in(directory)? {
            if files.iter().any(|file| name.starts_with(&format!(".{file}."))) {
                let path = directory.join(name);
                (self.gate)("remove temporary")
                    .and_then(|()| fs::remove_file(&path))
                    .map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    fn remove(&self, directory: &Path) -> Result<(), StoreError> {
        if is_there(directory)? {
            (self.gate)("remove directory")
                .and_then(|()| fs::remove_dir_all(directory))
                .map_err(io_error("remove", directory))?;
        }
        Ok(())
    }

    fn make_directory(&self, path: &Path) -> Result<(), StoreError> {
        if is_there(path)? {
            return Ok(());
        }
        (self.gate)("make directory")
            .and_then(|()| DirBuilder::new().mode(0o700).create(path))
            .map_err(io_error("make", path))
    }

    /// The names in `authorities/`; none if it is not there.
    fn entries(&self) -> Result<Vec<String>, StoreError> {
        let path = self.authorities_path();
        if !is_there(&path)? {
            return Ok(Vec::new());
        }
        names_in(&path)
    }

    fn authorities_path(&self) -> PathBuf {
        self.state.join(AUTHORITIES)
    }

    fn manifest_path(&self) -> PathBuf {
        self.state.join(MANIFEST)
    }

    fn staged_path(&self, id: &AuthorityId) -> PathBuf {
        self.authorities_path().join(format!("{STAGED}{id}"))
    }
}

impl std::fmt::Debug for AuthorityDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityDir").field("state", &self.state).finish_non_exhaustive()
    }
}

const ABOVE: &str = "above.pem";
const AUTHORITIES: &str = "authorities";
const BUNDLE: &str = "bundle.pem";
const CERTIFICATE: &str = "certificate.pem";
const LOCK: &str = "lock";
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);
const MANIFEST: &str = "authorities.toml";
const STAGED: &str = ".staged-";

/// The format of `authorities.toml` that this program writes and reads.
const VERSION: u32 = 1;

const HEADER: &str = "# Written by postern; says which of the directories in authorities/ count, and for what.\n\
                      # The order is of no importance. Do not edit: a wrong line stops the agent from starting.\n\n";

/// `authorities.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    trust_domain: String,
    bundle_sequence: u64,
    root: Vec<Entry>,
    issuing: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    slot: SlotWord,
    created: String,
    /// Absent where the key is here, as it mostly is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<KeyWord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum KeyWord {
    Elsewhere,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum SlotWord {
    Active,
    Prepared,
    Retired,
}

impl Manifest {
    fn of(hierarchy: &Hierarchy) -> Self {
        Self {
            version: VERSION,
            trust_domain: hierarchy.domain().as_str().to_owned(),
            bundle_sequence: hierarchy.sequence(),
            root: entries_of(hierarchy.roots()),
            issuing: entries_of(hierarchy.issuing()),
        }
    }

    /// The manifest, and its text.
    fn read(path: &Path) -> Result<(Self, String), StoreError> {
        let damaged = |reason: String| StoreError::Manifest { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
        let manifest: Self = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if manifest.version != VERSION {
            return Err(damaged(format!("it has version {}, this agent knows {VERSION}", manifest.version)));
        }
        Ok((manifest, text))
    }

    fn to_text(&self, path: &Path) -> Result<String, StoreError> {
        let failed = |error: toml::ser::Error| StoreError::Manifest {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        Ok(seal::sealed(&format!("{HEADER}{}", toml::to_string(self).map_err(failed)?)))
    }

    fn trust_domain(&self, path: &Path) -> Result<TrustDomain, StoreError> {
        self.trust_domain.parse().map_err(|_| StoreError::Manifest {
            path: path.to_owned(),
            reason: format!("{:?} is no trust domain", self.trust_domain),
        })
    }
}

impl Entry {
    fn parse<T: std::str::FromStr>(&self, key: &str, text: &str, path: &Path) -> Result<T, StoreError> {
        text.parse().map_err(|_| StoreError::Manifest {
            path: path.to_owned(),
            reason: format!("the {key} {text:?} of {} is malformed", self.id),
        })
    }
}

fn check_seal(manifest: &Path, text: &str) -> Result<(), StoreError> {
    seal::check(text)
        .map_err(|broken| StoreError::Manifest { path: manifest.to_owned(), reason: broken.to_string() })
}

fn entries_of(slots: &Slots) -> Vec<Entry> {
    let entry = |authority: &Authority, slot, until: Option<Timestamp>| Entry {
        id: authority.id().as_str().to_owned(),
        slot,
        created: authority.life().issued_at.to_string(),
        key: authority.key().is_none().then_some(KeyWord::Elsewhere),
        until: until.map(|until| until.to_string()),
    };
    let prepared = slots.prepared.iter().map(|prepared| entry(prepared, SlotWord::Prepared, None));
    let retired =
        slots.retired.iter().map(|retired| entry(&retired.authority, SlotWord::Retired, Some(retired.until)));
    std::iter::once(entry(&slots.active, SlotWord::Active, None)).chain(prepared).chain(retired).collect()
}

fn slots(path: &Path, entries: &[Entry], authorities: &[Arc<Authority>]) -> Result<Slots, StoreError> {
    let damaged = |reason: &str| StoreError::Manifest { path: path.to_owned(), reason: reason.to_owned() };
    let (mut active, mut prepared, mut retired) = (None, None, Vec::new());
    let mut seen = BTreeSet::new();
    for (entry, authority) in entries.iter().zip(authorities) {
        if !seen.insert(&entry.id) {
            return Err(damaged("it lists an authority twice"));
        }
        let authority = Arc::clone(authority);
        let former = match (entry.slot, &entry.until) {
            (SlotWord::Active, None) => active.replace(authority),
            (SlotWord::Prepared, None) => prepared.replace(authority),
            (SlotWord::Retired, Some(until)) => {
                retired.push(Retired { authority, until: entry.parse("until", until, path)? });
                None
            }
            (SlotWord::Active | SlotWord::Prepared, Some(_)) | (SlotWord::Retired, None) => {
                return Err(damaged("`until` belongs to retired authorities, and only to them"));
            }
        };
        if former.is_some() {
            return Err(damaged("it has two authorities in one slot"));
        }
    }
    let active = active.ok_or_else(|| damaged("it names no active authority"))?;
    Ok(Slots { prepared, active, retired })
}

/// The root in `directory`, whose key is on another host.
fn read_elsewhere(directory: &Path, created: Timestamp) -> Result<Authority, StoreError> {
    Authority::elsewhere(read_certificate(directory)?, created)
        .map_err(|source| StoreError::Authority { path: directory.to_owned(), source })
}

/// The authority in `directory`, whose key is `key`.
fn read_with_key(directory: &Path, key: KeyPair, created: Timestamp) -> Result<Authority, StoreError> {
    let certificate = read_certificate(directory)?;
    let above_path = directory.join(ABOVE);
    let above = if is_there(&above_path)? { read_certificates(&above_path)? } else { Vec::new() };
    Authority::with_key(certificate, key, created)
        .and_then(|authority| if above.is_empty() { Ok(authority) } else { authority.below(above) })
        .map_err(|source| StoreError::Authority { path: directory.to_owned(), source })
}

fn read_certificate(directory: &Path) -> Result<CertificateDer<'static>, StoreError> {
    let certificate_path = directory.join(CERTIFICATE);
    let certificates = read_certificates(&certificate_path)?;
    let [certificate] = certificates.as_slice() else {
        let source =
            PemError::Malformed(format!("it has {} certificates instead of one", certificates.len()));
        return Err(StoreError::Pem { path: certificate_path, source });
    };
    Ok(certificate.clone())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    pem::certificates(&read_file(path)?).map_err(|source| StoreError::Pem { path: path.to_owned(), source })
}

/// The content of a file that nobody else may read.
fn read_private(path: &Path) -> Result<Secret, StoreError> {
    let bytes = Secret::new(read_file(path)?);
    let mode = fs::metadata(path).map_err(io_error("read", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Permissive { path: path.to_owned(), mode });
    }
    Ok(bytes)
}

fn read_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    if !is_there(path)? {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    fs::read(path).map_err(io_error("read", path))
}

/// Whether anything has that name, be it a link to nowhere.
fn is_there(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", path)(error)),
    }
}

fn names_in(directory: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        names.push(entry.map_err(io_error("list", directory))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(STAGED)
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { step, path, source }
}

/// Keeps other agents away from `state`: by the lock file, or where it can neither be written nor made, by what is there.
fn lock(state: &Path) -> Result<Lock, StoreError> {
    let refused = match lock_file(state) {
        Err(StoreError::Io { step, path, source }) if disk::refuses_writing(&source) => {
            StoreError::Io { step, path, source }
        }
        outcome => return outcome.map(Lock::Full),
    };
    // A lock needs no right to write.
    let path = state.join(LOCK);
    if let Ok(lock) = File::open(&path) {
        return held(lock, &path).map(Lock::Full);
    }
    let path = state.join(AUTHORITIES);
    // Without it there is nothing to serve, and what was refused is what has to be told.
    let Ok(authorities) = File::open(&path) else { return Err(refused) };
    held(authorities, &path).map(Lock::Reading)
}

/// Makes the lock file, takes it and writes down whose it is.
fn lock_file(state: &Path) -> Result<File, StoreError> {
    let path = state.join(LOCK);
    let mut options = File::options();
    let lock = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open the lock", &path))?;
    let lock = held(lock, &path)?;
    match sign_lock(&lock) {
        // Whose it is only helps whoever comes second.
        Err(error) if disk::refuses_writing(&error) => Ok(lock),
        outcome => outcome.map(|()| lock).map_err(io_error("write the lock", &path)),
    }
}

fn held(lock: File, path: &Path) -> Result<File, StoreError> {
    match take(&lock) {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Locked { holder: holder_of(&lock), path: path.to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(io_error("lock", path)(source)),
    }
}

/// Locks, waiting a moment for a holder that is just going away: an agent that is being restarted, or its child between
/// fork and exec, which shares the lock for that long.
fn take(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            outcome => return outcome,
        }
    }
    lock.try_lock()
}

/// Who holds the lock, for the error of whoever does not get it.
fn holder_of(lock: &File) -> String {
    match io::read_to_string(lock) {
        Ok(text) if text.trim().parse::<u32>().is_ok() => format!(" (process {})", text.trim()),
        Ok(_) | Err(_) => String::new(),
    }
}

fn sign_lock(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    // Whoever had it before has left the position behind.
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}
