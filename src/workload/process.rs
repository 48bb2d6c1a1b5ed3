//! What a process is, read from `/proc` without ever mistaking one process for the next that got its number.
//!
//! **Invariant:** a [`Description`] is handed out only if a pidfd taken *before* the first read still refers to a
//! living process *after* the last one: a number is not given away while its process lives, so every read was of that
//! process.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, str};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Why a process could not be described.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is no longer there.
    #[error("process {pid} has ended")]
    Ended {
        /// The number it had.
        pid: u32,
    },
    /// Too many open files on this host to look through them all.
    #[error("more than {MAX_DESCRIPTORS} open files to search for the connection")]
    TooManyDescriptors,
    /// The system would not say.
    #[error("cannot read {what} of process {pid}")]
    Unreadable {
        /// Its number.
        pid: u32,
        /// What was to be read.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The file that a process runs.
///
/// `/proc/<pid>/exe` is a name as the *process* sees it, which is worth nothing by itself: an upgrade puts another file
/// under it, and a process in a mount namespace of its own can put anything there. So the name counts only when it
/// leads to the very same inode from here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Executable {
    /// The running file is the one with this name.
    Present(PathBuf),
    /// The running file had this name and was deleted or replaced since: an upgrade without a restart.
    Replaced(PathBuf),
    /// From here this name leads to another file, or nowhere: the process is in another mount namespace (a container),
    /// or the directory is closed to the agent.
    Unconfirmed(PathBuf),
}

impl fmt::Display for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(path) => write!(f, "{}", path.display()),
            Self::Replaced(path) => write!(f, "{} (replaced since it was started)", path.display()),
            Self::Unconfirmed(path) => {
                write!(f, "{} (another file than the one of that name here)", path.display())
            }
        }
    }
}

/// What one process was found to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Description {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) executable: Option<Executable>,
    pub(super) cgroup: Option<String>,
    pub(super) unit: Option<String>,
}

/// A process that cannot be confused with another.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that a pidfd refers to, and the number that belongs to it.
    pub(super) const fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Whatever process has the number `pid` now.
    pub(super) fn open(pid: u32) -> Result<Self, ProcessError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcessError::Ended { pid })?;
        match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(rustix::io::Errno::SRCH) => Err(ProcessError::Ended { pid }),
            Err(source) => Err(ProcessError::Unreadable { pid, what: "the pidfd", source: source.into() }),
        }
    }

    /// Reads who and what the process is.
    pub(super) fn describe(&self) -> Result<Description, ProcessError> {
        let description = read_description(self.pid);
        if self.is_alive()? { description } else { Err(ProcessError::Ended { pid: self.pid }) }
    }

    fn is_alive(&self) -> Result<bool, ProcessError> {
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = rustix::event::poll(&mut poll, Some(&at_once)).map_err(|source| {
            ProcessError::Unreadable { pid: self.pid, what: "the state", source: source.into() }
        })?;
        Ok(ended == 0)
    }
}

/// Every process that holds the socket `inode`, in ascending order of their numbers.
///
/// This walks over every open file on the host: it blocks, and takes some four milliseconds for each thousand of them.
/// Processes that the agent may not look into are passed over; so is one that lets go of the socket while it is being
/// read, as a child on its way from `fork` to `exec` does.
pub(super) fn holders(inode: u32) -> Result<Vec<(u32, Description)>, ProcessError> {
    let link = OsString::from(format!("socket:[{inode}]"));
    let mut budget = MAX_DESCRIPTORS;
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").map_err(|source| ProcessError::Unreadable {
        pid: std::process::id(),
        what: "the list of processes",
        source,
    })?;
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(descriptor) = find_descriptor(pid, &link, &mut budget)? else { continue };
        match describe_holder(pid, &descriptor, &link) {
            Ok(Some(description)) => found.push((pid, description)),
            Ok(None) | Err(ProcessError::Ended { .. }) => (),
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|(pid, _)| *pid);
    Ok(found)
}

fn find_descriptor(pid: u32, link: &OsString, budget: &mut u32) -> Result<Option<PathBuf>, ProcessError> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Ok(None) };
    for descriptor in descriptors.flatten() {
        *budget = budget.checked_sub(1).ok_or(ProcessError::TooManyDescriptors)?;
        let path = descriptor.path();
        if points_to(&path, link) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Looks at the descriptor again after everything else, so that what was read belongs to a process that held it.
fn describe_holder(
    pid: u32,
    descriptor: &Path,
    link: &OsString,
) -> Result<Option<Description>, ProcessError> {
    let description = Process::open(pid)?.describe()?;
    Ok(points_to(descriptor, link).then_some(description))
}

fn points_to(descriptor: &Path, link: &OsString) -> bool {
    fs::read_link(descriptor).is_ok_and(|target| target.as_os_str() == link)
}

fn read_description(pid: u32) -> Result<Description, ProcessError> {
    let unreadable = |what| move |source| ProcessError::Unreadable { pid, what, source };
    let nonsense = || io::Error::from(io::ErrorKind::InvalidData);

    let status = fs::read(format!("/proc/{pid}/status")).map_err(unreadable("the status"))?;
    let uid = effective(&status, b"Uid:").ok_or_else(nonsense).map_err(unreadable("the uid"))?;
    let gid = effective(&status, b"Gid:").ok_or_else(nonsense).map_err(unreadable("the gid"))?;
    let cgroups = fs::read(format!("/proc/{pid}/cgroup")).map_err(unreadable("the cgroup"))?;
    let cgroup = unified(&cgroups);
    let unit = cgroup.as_deref().and_then(unit).map(str::to_owned);
    let executable = read_executable(pid).map_err(unreadable("the executable"))?;
    Ok(Description { uid, gid, executable, cgroup, unit })
}

/// `None` when there is none (a kernel thread) and when the agent may not know: an executable needs the right to trace
/// the process, which an agent that is not root has over its own user's processes only, unless given `CAP_SYS_PTRACE`.
fn read_executable(pid: u32) -> io::Result<Option<Executable>> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let name = match fs::read_link(&link) {
        Ok(name) => name,
        Err(error) if is_withheld(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let running = match fs::metadata(&link) {
        Ok(running) => running,
        Err(error) if is_withheld(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(classify(name, |path| {
        fs::metadata(path).is_ok_and(|file| file.dev() == running.dev() && file.ino() == running.ino())
    })))
}

fn is_withheld(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// `name` is what the kernel calls the running file; `is_running` says whether a path leads to it from here.
fn classify(name: PathBuf, is_running: impl Fn(&Path) -> bool) -> Executable {
    if is_running(&name) {
        return Executable::Present(name);
    }
    match name.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(former) => Executable::Replaced(OsString::from_vec(former.to_vec()).into()),
        None => Executable::Unconfirmed(name),
    }
}

/// The second of the four numbers of a line like `Uid:\t1000\t1000\t1000\t1000`: real, effective, saved, file system.
fn effective(status: &[u8], key: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The path in the one hierarchy of cgroup v2.
fn unified(cgroups: &[u8]) -> Option<String> {
    let path = cgroups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    String::from_utf8(path.to_vec()).ok()
}

/// The systemd unit that a cgroup belongs to, by systemd's own rule: behind the slices, the first directory.
///
/// What lies deeper is the unit's own business: a user manager (`user@1000.service`) or a container may make any
/// directory there, also one called `ledger.service`.
fn unit(cgroup: &str) -> Option<&str> {
    let mut below = cgroup.strip_prefix('/')?.split('/').skip_while(|name| name.ends_with(".slice"));
    let name = below.next()?;
    let name = name.strip_prefix('_').unwrap_or(name);
    let (stem, suffix) = name.rsplit_once('.')?;
    (!stem.is_empty() && UNIT_SUFFIXES.contains(&suffix)).then_some(name)
}

const DELETED: &[u8] = b" (deleted)";
/// A walk costs some four microseconds for each open file, so this many are several seconds.
const MAX_DESCRIPTORS: u32 = 1 << 20;
/// The kinds of unit that have processes (systemd.unit(5), systemd.scope(5)).
const UNIT_SUFFIXES: [&str; 5] = ["mount", "scope", "service", "socket", "swap"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Tries again while the file is busy: a child that another test forks meanwhile holds it open for a moment.
    fn start(path: &Path) -> Child {
        loop {
            match Command::new(path).arg("60").stdin(Stdio::null()).spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    }

    #[test]
    fn this_process_describes_itself() {
        let description = Process::open(std::process::id()).unwrap().describe().unwrap();

        assert_eq!(description.uid, rustix::process::geteuid().as_raw());
        assert_eq!(description.gid, rustix::process::getegid().as_raw());
        let own = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert_eq!(description.executable, Some(Executable::Present(own)));
    }

    #[test]
    fn a_process_that_ended_is_not_described_even_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.describe().is_ok());

        child.kill().unwrap();
        while process.is_alive().unwrap() {
            std::thread::yield_now();
        }

        assert!(matches!(process.describe(), Err(ProcessError::Ended { .. })));
        child.wait().unwrap();
        assert!(matches!(process.describe(), Err(ProcessError::Ended { .. })));
        assert!(matches!(Process::open(0), Err(ProcessError::Ended { .. })));
    }

    #[test]
    fn an_upgraded_binary_is_not_the_one_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("ledger");
        let install = || {
            let fresh = directory.path().join("fresh");
            fs::copy("/bin/sleep", &fresh).unwrap();
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&fresh, &path).unwrap();
        };
        install();
        let mut child = start(&path);
        let executable = || Process::open(child.id()).unwrap().describe().unwrap().executable.unwrap();
        assert_eq!(executable(), Executable::Present(path.clone()));

        install();
        let upgraded = executable();
        fs::remove_file(&path).unwrap();
        let removed = executable();

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(upgraded, Executable::Replaced(path.clone()));
        assert_eq!(removed, Executable::Replaced(path));
    }

    #[test]
    fn a_name_counts_only_where_it_leads_to_the_running_file() {
        let named = |name: &str, is_running: bool| classify(PathBuf::from(name), |_| is_running);

        assert_eq!(named("/bin/a", true), Executable::Present("/bin/a".into()));
        assert_eq!(named("/bin/a (deleted)", true), Executable::Present("/bin/a (deleted)".into()));
        assert_eq!(named("/bin/a (deleted)", false), Executable::Replaced("/bin/a".into()));
        assert_eq!(named("/bin/a", false), Executable::Unconfirmed("/bin/a".into()));
    }

    #[test]
    fn the_unit_is_the_first_directory_behind_the_slices() {
        let table = [
            ("/system.slice/ledger.service", Some("ledger.service")),
            ("/system.slice/system-ledger.slice/ledger@eu.service", Some("ledger@eu.service")),
            ("/system.slice/ledger.service/payload/orders.service", Some("ledger.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/ledger.service",
                Some("user@1000.service"),
            ),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/system.slice/_cgroup.service", Some("cgroup.service")),
            ("/init.scope", Some("init.scope")),
            ("/", None),
            ("", None),
            ("/system.slice", None),
            ("/../ledger.service", None),
            ("/docker/ledger.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/ledger.service (deleted)", None),
            ("system.slice/ledger.service", None),
        ];

        for (cgroup, expected) in table {
            assert_eq!(unit(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn only_the_unified_hierarchy_names_the_cgroup() {
        let hybrid = b"1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n";

        assert_eq!(unified(hybrid).as_deref(), Some("/system.slice/b.service"));
        assert_eq!(unified(b"1:name=systemd:/system.slice/a.service\n"), None);
        assert_eq!(unified(b"10::/x\n0::/y\n").as_deref(), Some("/y"));
    }

    #[test]
    fn the_effective_number_is_read() {
        let status = b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";

        assert_eq!(effective(status, b"Uid:"), Some(2));
        assert_eq!(effective(status, b"Gid:"), Some(6));
        assert_eq!(effective(b"Name:\tx\n", b"Uid:"), None);
    }
}
