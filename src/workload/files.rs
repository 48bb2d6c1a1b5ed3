//! An identity as files: a fresh directory for each delivery, put in place by swapping one symbolic link.
//!
//! ```text
//! <directory>/current -> 17-9f3a61c0           swapped by rename
//! <directory>/17-9f3a61c0/credential-bundle.pem the key, then the chain: one open, one identity
//!                         key.pem chain.pem     the same, apart
//!                         bundle.pem            the roots to believe, of the same moment
//!                         generation            grows from one delivery to the next
//! ```
//!
//! **Invariants:** a delivery never changes after `current` has pointed to it, so whoever resolves `current` once has a
//! key, a chain and a bundle that belong together; owner, group, mode and further readers are right before anybody can open a file; the
//! delivery before the current one stays, for readers that are in the middle of it.
//!
//! The directory often belongs to the workload, and the agent is often root. So below it every step goes through open
//! descriptors and none follows a symbolic link: a workload that shuffles its directory about cannot make the agent
//! write, or hand over, a file elsewhere.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::id::WorkloadId;
use crate::issuance::Issued;
use crate::secret::Secret;
use crate::store::pem;
use crate::workload::acl::{self, Reader};
use crate::workload::reload::Reload;

/// Where one workload's identity goes, and who may read it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The directory that will hold `current`. Made if it is missing.
    pub directory: PathBuf,
    /// Who owns what is delivered; the agent's own user if absent.
    pub owner: Option<u32>,
    /// The group of what is delivered; the agent's own if absent.
    pub group: Option<u32>,
    /// The permissions of each file; directories get the matching ones.
    pub mode: FileMode,
    /// Who may read besides.
    pub readers: Vec<Reader>,
    /// How the reader is told, if it must be.
    pub reload: Option<Reload>,
}

/// Permission bits for files that hold a private key: the owner reads, a group may, nobody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileMode(u32);

/// Why permission bits do not suit a private key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidMode {
    /// Others than owner and group could open the key.
    #[error("mode {0:04o} opens a private key to everybody; use 0600, or 0640 with a group")]
    OpenToAll(u32),
    /// It has bits that mean nothing on a key, or its owner may not read it.
    #[error("mode {0:04o} is none for a key; use 0400, 0440, 0600 or 0640")]
    Unsuitable(u32),
}

impl FileMode {
    /// Owner only.
    pub const OWNER: Self = Self(0o600);

    /// Accepts `mode` if it suits a private key.
    pub const fn new(mode: u32) -> Result<Self, InvalidMode> {
        if mode & 0o007 != 0 {
            Err(InvalidMode::OpenToAll(mode))
        } else if mode & !0o660 != 0 || mode & 0o400 == 0 {
            Err(InvalidMode::Unsuitable(mode))
        } else {
            Ok(Self(mode))
        }
    }

    const fn of_files(self) -> Mode {
        Mode::from_raw_mode(self.0)
    }

    /// Who may read a file may go into its directory; nobody but the agent has business writing there.
    const fn of_directories(self) -> Mode {
        let readers = self.0 & 0o440;
        Mode::from_raw_mode(0o200 | readers | (readers >> 2))
    }
}

/// What is delivered: one identity and what it believes, of one moment.
#[derive(Clone, Debug)]
pub struct Material {
    /// The private key, PKCS#8.
    pub key: Arc<Secret>,
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the trust domain.
    pub roots: Vec<CertificateDer<'static>>,
    /// Which bundle the roots are.
    pub sequence: u64,
    /// Grows from one delivery to the next.
    pub generation: u64,
}

impl Material {
    /// What there is to deliver to one workload, if it has an identity.
    #[must_use]
    pub fn of(issued: &Issued, workload: &WorkloadId) -> Option<Self> {
        let svid = issued.svids.get(workload)?;
        Some(Self {
            key: Arc::clone(&svid.key),
            chain: svid.chain.clone(),
            roots: issued.bundle.roots.clone(),
            sequence: issued.bundle.sequence,
            generation: issued.generation,
        })
    }
}

/// Why nothing was delivered. What was there before is still there, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// Another delivery into the same directory is under way.
    #[error("another delivery holds {}", directory.display())]
    Busy {
        /// Where.
        directory: PathBuf,
    },
    /// What is there now is not what was written: somebody else writes there.
    #[error("{file} is not what was delivered; something else writes to {}", directory.display())]
    Changed {
        /// Where.
        directory: PathBuf,
        /// What differs.
        file: &'static str,
    },
    /// The key and the chain do not belong together.
    #[error("the key does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
    /// Everybody may write to the directory, and so replace what is in it.
    #[error("{} can be written to by everybody", directory.display())]
    OpenToAll {
        /// Which.
        directory: PathBuf,
    },
    /// The system refused.
    #[error("cannot {step} in {}", directory.display())]
    System {
        /// Where.
        directory: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The generation that was delivered last, by the name that `current` leads to. It may be the workload that wrote it, so it is
/// not opened, and its word is to be taken with a grain of salt.
#[must_use]
pub fn delivered_generation(settings: &Settings) -> Option<u64> {
    let name = fs::read_link(settings.directory.join("current")).ok()?;
    name.to_str().filter(|name| is_delivery(name))?.split_once('-')?.0.parse().ok()
}

/// Writes `material` and makes it current. Blocks, since it waits for the disk.
pub fn deliver(settings: &Settings, material: &Material) -> Result<(), DeliverError> {
    check_pair(material)?;
    let files = render(material);
    let target = Target::open(settings)?;
    target.sweep(&|name| name.starts_with(UNFINISHED));

    let former = target.current();
    let name = target.write_delivery(material.generation, &files)?;
    target.make_current(&name)?;
    target.check_current(&files)?;
    target.sweep(&|other| is_delivery(other) && other != name && former.as_deref() != Some(other));
    Ok(())
}

fn check_pair(material: &Material) -> Result<(), DeliverError> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(material.key.expose_secret()));
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .and_then(|key| CertifiedKey::new(material.chain.clone(), key).keys_match())
        .map_err(DeliverError::Mismatch)
}

fn render(material: &Material) -> [(&'static str, Secret); 5] {
    let key = pem::key_to_pem(&material.key);
    let text = |certificates: &[CertificateDer<'_>]| {
        certificates.iter().map(pem::certificate_to_pem).collect::<String>().into_bytes()
    };
    let chain = text(&material.chain);
    let both = [key.expose_secret(), chain.as_slice()].concat();
    [
        ("credential-bundle.pem", Secret::new(both)),
        ("key.pem", key),
        ("chain.pem", Secret::new(chain)),
        ("bundle.pem", Secret::new(text(&material.roots))),
        ("generation", Secret::new(format!("{}\n", material.generation).into_bytes())),
    ]
}

/// The directory of one workload, held open and locked.
struct Target<'a> {
    settings: &'a Settings,
    directory: OwnedFd,
}

impl<'a> Target<'a> {
    fn open(settings: &'a Settings) -> Result<Self, DeliverError> {
        let path = settings.directory.as_path();
        let fail = failure(path, "open the directory");
        let made = make_directory(path).map_err(failure(path, "make the directory"))?;
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(&fail)?;
        let target = Self { settings, directory };
        if let Made::Now = made {
            target.hand_over(&target.directory, settings.mode.of_directories())?;
        }
        let stat = rustix::fs::fstat(&target.directory).map_err(&fail)?;
        if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
            return Err(DeliverError::OpenToAll { directory: path.to_owned() });
        }
        match target.lock() {
            Ok(()) => Ok(target),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DeliverError::Busy { directory: path.to_owned() }),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Locks the directory, waiting a moment for a child of ours that is between fork and exec: it shares the lock of an
    /// earlier delivery for that long.
    fn lock(&self) -> rustix::io::Result<()> {
        for _ in 0..LOCK_ATTEMPTS {
            match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                outcome => return outcome,
            }
        }
        rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive)
    }

    /// The delivery that `current` points to, if it is one.
    fn current(&self) -> Option<String> {
        let link = rustix::fs::readlinkat(&self.directory, CURRENT, Vec::new()).ok()?;
        link.into_string().ok().filter(|name| is_delivery(name))
    }

    /// Writes a whole delivery under a name that nobody reads, then gives it its own, which it returns.
    fn write_delivery(&self, generation: u64, files: &[(&str, Secret)]) -> Result<String, DeliverError> {
        let fail = failure(&self.settings.directory, "write a delivery");
        let name = format!("{generation}-{}", self.random_suffix()?);
        let unfinished = format!("{UNFINISHED}{name}");
        rustix::fs::mkdirat(&self.directory, &unfinished, Mode::RWXU).map_err(&fail)?;
        let flags = DIRECTORY.union(OFlags::NOFOLLOW);
        let delivery =
            rustix::fs::openat(&self.directory, &unfinished, flags, Mode::empty()).map_err(&fail)?;
        for (file, content) in files {
            self.write_file(&delivery, file, content)?;
        }
        self.hand_over(&delivery, self.settings.mode.of_directories())?;
        rustix::fs::fsync(&delivery).map_err(&fail)?;
        rustix::fs::renameat(&self.directory, &unfinished, &self.directory, &name).map_err(&fail)?;
        Ok(name)
    }

    fn write_file(&self, delivery: &OwnedFd, name: &str, content: &Secret) -> Result<(), DeliverError> {
        let fail = failure(&self.settings.directory, "write a file of a delivery");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(delivery, name, flags, Mode::RUSR | Mode::WUSR).map_err(&fail)?;
        let mut file = File::from(file);
        let system = |source| DeliverError::System {
            directory: self.settings.directory.clone(),
            step: "write a file of a delivery",
            source,
        };
        file.write_all(content.expose_secret()).map_err(system)?;
        let file = OwnedFd::from(file);
        self.hand_over(&file, self.settings.mode.of_files())?;
        rustix::fs::fsync(&file).map_err(&fail)
    }

    /// Ownership first: the mode must never mean the wrong group.
    fn hand_over(&self, file: &OwnedFd, mode: Mode) -> Result<(), DeliverError> {
        let fail = failure(&self.settings.directory, "hand a file over to its owner, group and mode");
        let owner = self.settings.owner.map(Uid::from_raw);
        let group = self.settings.group.map(Gid::from_raw);
        rustix::fs::fchown(file, owner, group).map_err(&fail)?;
        rustix::fs::fchmod(file, mode).map_err(&fail)?;
        let fail = failure(&self.settings.directory, "let further readers in (access control lists)");
        acl::admit(file, mode, &self.settings.readers).map_err(fail)
    }

    fn make_current(&self, name: &str) -> Result<(), DeliverError> {
        let fail = failure(&self.settings.directory, "make a delivery current");
        let unfinished = format!("{UNFINISHED}{}", self.random_suffix()?);
        rustix::fs::symlinkat(name, &self.directory, &unfinished).map_err(&fail)?;
        rustix::fs::renameat(&self.directory, &unfinished, &self.directory, CURRENT).map_err(&fail)?;
        rustix::fs::fsync(&self.directory).map_err(&fail)
    }

    /// Reads everything again, the way a reader would.
    fn check_current(&self, files: &[(&'static str, Secret)]) -> Result<(), DeliverError> {
        let directory = &self.settings.directory;
        for (file, content) in files {
            let mut found = zeroize::Zeroizing::new(Vec::with_capacity(content.expose_secret().len()));
            let path = format!("{CURRENT}/{file}");
            rustix::fs::openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
                .and_then(|opened| File::from(opened).take(MAX_FILE).read_to_end(&mut found))
                .map_err(|source| DeliverError::System {
                    directory: directory.clone(),
                    step: "read again what was delivered",
                    source,
                })?;
            if found.as_slice() != content.expose_secret() {
                return Err(DeliverError::Changed { directory: directory.clone(), file });
            }
        }
        Ok(())
    }

    /// Removes what a crash or an earlier delivery left. It is no failure of a delivery when something stays.
    fn sweep(&self, is_litter: &dyn Fn(&str) -> bool) {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.directory) else { return };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        for name in names.filter(|name| is_litter(name)).collect::<Vec<_>>() {
            if let Err(errno) = self.remove(&name) {
                tracing::warn!(
                    directory = %self.settings.directory.display(),
                    name,
                    error = %io::Error::from(errno),
                    "an old delivery cannot be removed"
                );
            }
        }
    }

    fn remove(&self, name: &str) -> Result<(), rustix::io::Errno> {
        let flags = DIRECTORY.union(OFlags::NOFOLLOW);
        let delivery = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(delivery) => delivery,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
            }
            Err(errno) => return Err(errno),
        };
        let is_file = |file: &CStr| file != c"." && file != c"..";
        for file in rustix::fs::Dir::read_from(&delivery)?.flatten() {
            if is_file(file.file_name()) {
                rustix::fs::unlinkat(&delivery, file.file_name(), AtFlags::empty())?;
            }
        }
        rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR)
    }

    /// Eight hexadecimal digits, since an attempt that failed late leaves its generation's name in use.
    fn random_suffix(&self) -> Result<String, DeliverError> {
        let mut bytes = [0; 4];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| DeliverError::System {
            directory: self.settings.directory.clone(),
            step: "draw a name for a delivery",
            source: io::Error::other("no randomness"),
        })?;
        Ok(data_encoding::HEXLOWER.encode(&bytes))
    }
}

enum Made {
    Before,
    Now,
}

fn make_directory(path: &Path) -> Result<Made, rustix::io::Errno> {
    let missing =
        |error: io::Error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(missing)?;
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => Ok(Made::Now),
        Err(rustix::io::Errno::EXIST) => Ok(Made::Before),
        Err(errno) => Err(errno),
    }
}

fn failure(directory: &Path, step: &'static str) -> impl Fn(rustix::io::Errno) -> DeliverError {
    move |errno| DeliverError::System { directory: directory.to_owned(), step, source: errno.into() }
}

/// `<generation>-<eight hexadecimal digits>`; whatever else lies in the directory is not ours to remove.
fn is_delivery(name: &str) -> bool {
    name.split_once('-').is_some_and(|(generation, suffix)| {
        !generation.is_empty()
            && generation.bytes().all(|byte| byte.is_ascii_digit())
            && suffix.len() == 8
            && suffix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);
const CURRENT: &str = "current";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// More than any file of a delivery; stops a reader that was led to an endless one.
const MAX_FILE: u64 = 1 << 20;
const UNFINISHED: &str = ".postern-";
