//! The CA on disk: every authority in a directory of its own, and one small file that says which of them count.
//!
//! ```text
//! <state>/lock                                  held while an agent lives
//! <state>/authorities.toml                      the commit point: slots, trust domain, bundle sequence
//! <state>/authorities/<id>/certificate.pem      0644
//! <state>/authorities/<id>/key.pem              0600
//! <state>/authorities/.staged-<id>/…            on its way to becoming <id>
//! <state>/bundle.pem                            the roots, for others to trust
//! ```
//!
//! A commit writes the new authorities under their staged names, replaces `authorities.toml` in one step, and then gives the
//! directories their final names. A kill before that one step leaves the old state (staged directories mean nothing by
//! themselves), a kill after it leaves the new one, and the next start finishes the renames.
//!
//! **Invariant:** no new CA beside an old one. Only a state directory without any trace of a CA counts as a first start; every
//! other gap is an error that says what is there and what to do.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::TrustDomain;
use crate::pki::{Authority, AuthorityError, Hierarchy, HierarchyError, Level, Retired, Slots};
use crate::secret::Secret;
use crate::store::atomic_file::{self, AtomicError, Gate};
use crate::store::pem::{self, PemError};

/// The state directory, locked for this process for as long as the value lives.
pub struct AuthorityDir {
    state: PathBuf,
    _lock: File,
    gate: Box<Gate<'static>>,
}

/// What [`AuthorityDir::load`] found.
#[derive(Debug)]
pub struct StoredHierarchy {
    /// The CA.
    pub hierarchy: Hierarchy,
    /// Entries of `authorities/` that no slot names: left by a crash, removed at the next commit.
    pub orphans: Vec<String>,
}

/// A commit that holds.
#[derive(Debug, Default)]
#[must_use]
pub struct Committed {
    /// What failed after the commit point. The new state holds all the same, and the next start or commit tidies up.
    pub untidy: Vec<StoreError>,
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
    /// A file could not be replaced.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

impl AuthorityDir {
    /// Takes `state` for this process, making the directory if it is not there.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        Self::open_with(state, Box::new(|_| Ok(())))
    }

    /// [`Self::open`], asking `gate` before every step that changes the disk; for tests.
    pub(crate) fn open_with(state: &Path, gate: Box<Gate<'static>>) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(io_error("make the state directory", state))?;
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
        take(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked { holder: holder_of(&lock), path: path.clone() },
            TryLockError::Error(source) => io_error("lock", &path)(source),
        })?;
        sign_lock(&lock).map_err(io_error("write the lock", &path))?;
        Ok(Self { state: state.to_owned(), _lock: lock, gate })
    }

    /// The state directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.state
    }

    /// The CA that was committed last; `None` at the very first start.
    ///
    /// Finishes what a crash may have interrupted after its commit point.
    pub fn load(&self) -> Result<Option<StoredHierarchy>, StoreError> {
        let path = self.manifest_path();
        if !is_there(&path)? {
            return self.expect_nothing(&path).map(|()| None);
        }
        let manifest = Manifest::read(&path)?;
        let mut roots = Vec::with_capacity(manifest.root.len());
        for entry in &manifest.root {
            roots.push(self.load_authority(entry, Level::Root)?);
        }
        let mut issuing = Vec::with_capacity(manifest.issuing.len());
        for entry in &manifest.issuing {
            issuing.push(self.load_authority(entry, Level::Issuing)?);
        }
        let roots = slots(&path, &manifest.root, &roots)?;
        let issuing = slots(&path, &manifest.issuing, &issuing)?;
        let hierarchy =
            Hierarchy::assemble(manifest.trust_domain(&path)?, roots, issuing, manifest.bundle_sequence)
                .map_err(|source| StoreError::Hierarchy { path, source })?;
        self.publish_bundle(&hierarchy)?;
        let orphans = self.orphans(&hierarchy)?;
        Ok(Some(StoredHierarchy { hierarchy, orphans }))
    }

    /// Makes `hierarchy` the state of the disk: after an error the former one holds, or the new one if only forcing it to the
    /// disk failed; committing again is always right.
    pub fn commit(&self, hierarchy: &Hierarchy) -> Result<Committed, StoreError> {
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
        Ok(committed)
    }

    /// Writes an authority under its staged name, unless it is there already.
    fn stage(&self, authority: &Authority) -> Result<(), StoreError> {
        let settled = self.authorities_path().join(authority.id().as_str());
        let staged = self.staged_path(authority.id());
        let certificate = pem::certificate_to_pem(authority.certificate());
        let key = pem::key_to_pem(&authority.key().to_pkcs8_der());
        let holds = |directory: &Path| {
            fs::read(directory.join(CERTIFICATE)).is_ok_and(|found| found == certificate.as_bytes())
                && fs::read(directory.join(KEY)).is_ok_and(|found| Secret::new(found) == key)
        };
        if holds(&settled) {
            return Ok(());
        }
        self.remove(&staged)?;
        self.make_directory(&staged)?;
        atomic_file::create_in_steps(&staged.join(KEY), key.expose_secret(), 0o600, &*self.gate)?;
        atomic_file::create_in_steps(&staged.join(CERTIFICATE), certificate.as_bytes(), 0o644, &*self.gate)?;
        for directory in [&staged, &self.authorities_path()] {
            atomic_file::sync_directory(directory, &*self.gate)
                .map_err(io_error("force to the disk", directory))?;
        }
        // Only now: what has the final name and other content is damaged, or was never committed.
        self.remove(&settled)
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

    fn load_authority(&self, entry: &Entry, wanted: Level) -> Result<Arc<Authority>, StoreError> {
        let manifest = self.manifest_path();
        let id: AuthorityId = entry.parse("id", &entry.id, &manifest)?;
        let created = entry.parse("created", &entry.created, &manifest)?;
        let directory = self.settle(&id)?;
        if !is_there(&directory)? {
            return Err(StoreError::Missing { path: directory });
        }
        let authority = read_authority(&directory, created)?;
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
        Ok(self.entries()?.into_iter().filter(|name| !listed.contains(name.as_str())).collect())
    }

    fn remove_orphans(&self, hierarchy: &Hierarchy) -> Result<(), StoreError> {
        for name in self.orphans(hierarchy)? {
            self.remove(&self.authorities_path().join(name))?;
        }
        for name in names_in(&self.state)? {
            if [MANIFEST, BUNDLE, "crl.pem", "issued.journal"]
                .iter()
                .any(|file| name.starts_with(&format!(".{file}.")))
            {
                let path = self.state.join(name);
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

const AUTHORITIES: &str = "authorities";
const BUNDLE: &str = "bundle.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
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

    fn read(path: &Path) -> Result<Self, StoreError> {
        let damaged = |reason: String| StoreError::Manifest { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
        let manifest: Self = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if manifest.version != VERSION {
            return Err(damaged(format!("it has version {}, this agent knows {VERSION}", manifest.version)));
        }
        Ok(manifest)
    }

    fn to_text(&self, path: &Path) -> Result<String, StoreError> {
        let failed = |error: toml::ser::Error| StoreError::Manifest {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        Ok(format!("{HEADER}{}", toml::to_string(self).map_err(failed)?))
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

fn entries_of(slots: &Slots) -> Vec<Entry> {
    let entry = |authority: &Authority, slot, until: Option<Timestamp>| Entry {
        id: authority.id().as_str().to_owned(),
        slot,
        created: authority.life().issued_at.to_string(),
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

fn read_authority(directory: &Path, created: Timestamp) -> Result<Authority, StoreError> {
    let certificate_path = directory.join(CERTIFICATE);
    let certificates = pem::certificates(&read_file(&certificate_path)?)
        .map_err(|source| StoreError::Pem { path: certificate_path.clone(), source })?;
    let [certificate] = certificates.as_slice() else {
        let source =
            PemError::Malformed(format!("it has {} certificates instead of one", certificates.len()));
        return Err(StoreError::Pem { path: certificate_path, source });
    };
    let key_path = directory.join(KEY);
    let key_bytes = Secret::new(read_file(&key_path)?);
    let mode = fs::metadata(&key_path).map_err(io_error("read", &key_path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Permissive { path: key_path, mode });
    }
    let key = pem::private_key(key_bytes.expose_secret())
        .map_err(|source| StoreError::Pem { path: key_path, source })?;
    Authority::load(certificate.clone(), &key, created)
        .map_err(|source| StoreError::Authority { path: directory.to_owned(), source })
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
    writeln!(lock, "{}", std::process::id())
}
