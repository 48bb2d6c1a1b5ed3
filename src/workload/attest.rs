//! Who is calling: the kernel's word on the process at the other end of a local connection.
//!
//! Over a Unix socket the kernel wrote down who connected (`SO_PEERCRED`) and gives a handle to that very process
//! (`SO_PEERPIDFD`, Linux 6.5). Over loopback TCP it is asked for the owner of the caller's socket, and, only where a
//! workload is recognised by more than its user, for the processes that hold it.
//!
//! **Invariant:** nothing that the caller sends is believed, and a doubt is an error, never a weaker [`Caller`].
//!
//! # What this does not prove
//!
//! - **The user is the boundary.** Processes of one user can trace one another, hand each other open sockets, or connect
//!   first and `exec` the expected program afterwards. Executable, unit and cgroup tell honest programs of one user
//!   apart; they keep out nobody who already runs code as that user.
//! - A TCP socket belongs to the user who *made* it. A descriptor that nobody has open at the moment of the walk
//!   (in flight through a Unix socket, registered with `io_uring`) or that a thread keeps in a table of its own has no
//!   holder here; without any holder the caller is refused, but a second holder of that sort is not seen.
//! - Before Linux 6.5 there is no `SO_PEERPIDFD`: if the process that connected to a Unix socket ended before
//!   [`attest_unix`] was called, and its number went to a new process of the *same* user and group, the new one is
//!   described. With [`Depth::Ids`], and over TCP, there is no such window.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use crate::workload::process::{self, Description, Executable, Process, ProcessError};
use crate::workload::sock_diag::{self, DiagError};

/// What the kernel says about whoever is at the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group; over TCP known at [`Depth::Process`] only.
    pub gid: Option<u32>,
    /// The process, for the log: it may have ended by now. Over TCP known at [`Depth::Process`] only.
    pub pid: Option<u32>,
    /// What it runs; `None` also when the agent may not know.
    pub executable: Option<Executable>,
    /// Its path in the cgroup v2 hierarchy.
    pub cgroup: Option<String>,
    /// The systemd unit that its cgroup belongs to.
    pub unit: Option<String>,
}

/// How much is to be found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Depth {
    /// Who: the user and whatever else comes at the same price. Never blocks.
    Ids,
    /// Also what: executable, cgroup and unit. Reads `/proc`, over TCP all of it.
    Process,
}

/// Why a caller stays unknown, and must be refused.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It is not the group that connected any more.
    #[error("process {pid} was gid {connected} when it connected and is gid {now}")]
    ChangedGroup {
        /// The process.
        pid: u32,
        /// The group that connected.
        connected: u32,
        /// The effective group now.
        now: u32,
    },
    /// It is not the user that connected any more.
    #[error("process {pid} was uid {connected} when it connected and is uid {now}")]
    ChangedUser {
        /// The process.
        pid: u32,
        /// The owner of the connection.
        connected: u32,
        /// The effective user now.
        now: u32,
    },
    /// The socket does not know its peer.
    #[error("cannot read the peer of the Unix socket")]
    Credentials(#[source] io::Error),
    /// Several processes hold the connection and are not the same program.
    #[error("processes {first} and {second} both hold the connection and are not the same program")]
    Disagreement {
        /// The one with the lowest number.
        first: u32,
        /// One that differs from it.
        second: u32,
    },
    /// The other end of a TCP connection could not be found.
    #[error(transparent)]
    Diag(#[from] DiagError),
    /// No process that the agent can see has the socket open.
    #[error("no process that can be looked into holds the connection of uid {uid}")]
    NoHolder {
        /// The owner of the connection.
        uid: u32,
    },
    /// Only callers on this host can be known, and only by a loopback address.
    #[error("{peer} to {local} is no loopback connection")]
    NotLoopback {
        /// The caller's address.
        peer: SocketAddr,
        /// The address that was called.
        local: SocketAddr,
    },
    /// Its number means nothing here.
    #[error("the caller is in another pid namespace")]
    OtherNamespace,
    /// The process could not be described.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Who connected this Unix socket.
///
/// It takes less than a microsecond at [`Depth::Ids`] and some tens of them at [`Depth::Process`]. Any handle on the
/// socket will do, a tokio `UnixStream` among others.
pub fn attest_unix(socket: &impl AsFd, depth: Depth) -> Result<Caller, AttestError> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)
        .map_err(|errno| AttestError::Credentials(errno.into()))?;
    let pid = match u32::try_from(credentials.pid()) {
        Ok(0) | Err(_) => return Err(AttestError::OtherNamespace),
        Ok(pid) => pid,
    };
    match depth {
        Depth::Ids => Ok(Caller {
            uid: credentials.uid(),
            gid: Some(credentials.gid()),
            pid: Some(pid),
            executable: None,
            cgroup: None,
            unit: None,
        }),
        Depth::Process => {
            let description = open_peer(socket, pid)?.describe()?;
            let (connected, now) = (credentials.gid(), description.gid);
            if now != connected {
                return Err(AttestError::ChangedGroup { pid, connected, now });
            }
            described(pid, description, credentials.uid())
        }
    }
}

/// Who is at `peer`, given that this agent accepted a TCP connection from there on `local`.
///
/// **It blocks at [`Depth::Process`]**, for the time it takes to look at every open file on the host, and a little
/// longer while a holder forks: call it through `spawn_blocking`. At [`Depth::Ids`] it takes about ten microseconds.
pub fn attest_loopback(peer: SocketAddr, local: SocketAddr, depth: Depth) -> Result<Caller, AttestError> {
    if !(is_loopback(peer) && is_loopback(local)) {
        return Err(AttestError::NotLoopback { peer, local });
    }
    let owner = sock_diag::owner(peer, local)?;
    match depth {
        Depth::Ids => {
            Ok(Caller { uid: owner.uid, gid: None, pid: None, executable: None, cgroup: None, unit: None })
        }
        Depth::Process => {
            let (pid, description) = sole_holder(owner)?;
            described(pid, description, owner.uid)
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The process that connected, not the one that has its number now.
fn open_peer(socket: &impl AsFd, pid: u32) -> Result<Process, AttestError> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(Process::new(pid, pidfd)),
        // The kernels from 6.5 on have both words for a peer that was reaped.
        Err(Errno::EINVAL | Errno::ESRCH) => Err(ProcessError::Ended { pid }.into()),
        Err(Errno::ENOPROTOOPT) => Ok(Process::open(pid)?),
        Err(errno) => Err(AttestError::Credentials(errno.into())),
    }
}

/// A process on its way from `fork` to `exec` holds a copy of everything for a moment, so a disagreement must last.
fn sole_holder(owner: sock_diag::Owner) -> Result<(u32, Description), AttestError> {
    let mut verdict = agreed(owner.uid, process::holders(owner.inode)?);
    for pause in PAUSES {
        if !matches!(verdict, Err(AttestError::Disagreement { .. })) {
            break;
        }
        std::thread::sleep(pause);
        verdict = agreed(owner.uid, process::holders(owner.inode)?);
    }
    verdict
}

fn agreed(uid: u32, holders: Vec<(u32, Description)>) -> Result<(u32, Description), AttestError> {
    let mut holders = holders.into_iter();
    let (first, description) = holders.next().ok_or(AttestError::NoHolder { uid })?;
    match holders.find(|(_, other)| *other != description) {
        Some((second, _)) => Err(AttestError::Disagreement { first, second }),
        None => Ok((first, description)),
    }
}

fn described(pid: u32, description: Description, connected: u32) -> Result<Caller, AttestError> {
    let Description { uid, gid, executable, cgroup, unit } = description;
    if uid != connected {
        return Err(AttestError::ChangedUser { pid, connected, now: uid });
    }
    Ok(Caller { uid, gid: Some(gid), pid: Some(pid), executable, cgroup, unit })
}

const PAUSES: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8)];

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const NOBODY: u32 = 65534;

    /// A child that is ended when the test ends.
    struct Running(Child);

    impl Running {
        fn start(command: &mut Command) -> Self {
            Self(command.stdout(Stdio::null()).spawn().unwrap())
        }

        /// A perl script, since perl is on every Debian; under another user when that is asked for and possible.
        fn perl(script: &str, argument: &str, uid: Option<u32>) -> Option<Self> {
            let mut command = Command::new("/usr/bin/perl");
            command
                .args(["-MIO::Socket::INET", "-MIO::Socket::UNIX", "-e", script, argument])
                .current_dir("/");
            if let Some(uid) = uid {
                command.uid(uid).gid(uid);
            }
            Some(Self::start(command.stdin(Stdio::null())))
        }

        fn end(mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
            std::mem::forget(self);
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    const TCP_CLIENT: &str = "my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0]) or exit 1; sleep 60;";
    const UNIX_CLIENT: &str = "my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1; sleep 60;";

    fn tcp_pair(address: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(address).ok()?;
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Some((client, server))
    }

    fn attest(server: &TcpStream, depth: Depth) -> Result<Caller, AttestError> {
        attest_loopback(server.peer_addr().unwrap(), server.local_addr().unwrap(), depth)
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn own() -> Caller {
        let executable = std::env::current_exe().unwrap().canonicalize().unwrap();
        let description = Process::open(std::process::id()).unwrap().describe().unwrap();
        Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: Some(rustix::process::getegid().as_raw()),
            pid: Some(std::process::id()),
            executable: Some(Executable::Present(executable)),
            cgroup: description.cgroup,
            unit: description.unit,
        }
    }

    #[test]
    fn a_caller_over_loopback_is_known_in_both_families() {
        for address in ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0"] {
            let Some((_client, server)) = tcp_pair(address) else { continue };

            let ids = attest(&server, Depth::Ids).unwrap();
            let process = attest(&server, Depth::Process).unwrap();

            assert_eq!(ids.uid, own().uid);
            assert_eq!(ids.pid, None);
            assert_eq!(process, own());
        }
    }

    #[test]
    fn an_ipv4_caller_of_an_ipv6_listener_is_known() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let _plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert!(peer.is_ipv6());
        assert_eq!(attest(&server, Depth::Process).unwrap(), own());

        let _mapped = TcpStream::connect(("::ffff:127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(attest(&server, Depth::Process).unwrap(), own());
    }

    #[test]
    fn only_loopback_is_attested() {
        let outside = "192.0.2.1:40000".parse().unwrap();
        let mapped_outside = "[::ffff:192.0.2.1]:40000".parse().unwrap();
        let inside = "127.0.0.1:15001".parse().unwrap();

        for (peer, local) in [(outside, inside), (inside, outside), (mapped_outside, inside)] {
            let answer = attest_loopback(peer, local, Depth::Ids);

            assert!(matches!(answer, Err(AttestError::NotLoopback { .. })));
        }
    }

    #[test]
    fn a_caller_that_hung_up_is_nobody_and_not_root() {
        let (client, server) = tcp_pair("127.0.0.1:0").unwrap();
        drop(client);

        for depth in [Depth::Ids, Depth::Process] {
            assert!(matches!(attest(&server, depth), Err(AttestError::Diag(DiagError::NoSocket))));
        }
    }

    #[test]
    fn a_caller_that_only_stopped_sending_is_still_known() {
        let (client, server) = tcp_pair("127.0.0.1:0").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        (&server).read_to_end(&mut rest).unwrap();

        assert_eq!(attest(&server, Depth::Process).unwrap(), own());
    }

    #[test]
    fn a_caller_of_another_user_is_that_user() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let uid = is_root().then_some(NOBODY);
        let Some(child) = Running::perl(TCP_CLIENT, &address, uid) else { return };
        let (server, _) = listener.accept().unwrap();

        let ids = attest(&server, Depth::Ids).unwrap();
        let process = attest(&server, Depth::Process).unwrap();

        assert_eq!(ids.uid, uid.unwrap_or_else(|| own().uid));
        assert_eq!(process.uid, ids.uid);
        assert_eq!(process.pid, Some(child.0.id()));
        assert_ne!(process.executable, own().executable);
    }

    #[test]
    fn two_different_programs_with_one_connection_are_refused() {
        let (client, server) = tcp_pair("127.0.0.1:0").unwrap();
        let inherited = Stdio::from(OwnedFd::from(client.try_clone().unwrap()));
        let child = Running::start(Command::new("sleep").arg("60").stdin(inherited));

        let both = attest(&server, Depth::Process);
        let by_user = attest(&server, Depth::Ids).unwrap();
        drop(client);
        let alone = attest(&server, Depth::Process).unwrap();
        child.end();
        let nobody = attest(&server, Depth::Process);

        assert!(matches!(both, Err(AttestError::Disagreement { .. })));
        assert_eq!(by_user.uid, own().uid);
        assert_ne!(alone.executable, own().executable);
        assert!(matches!(nobody, Err(AttestError::Diag(DiagError::NoSocket))));
    }

    #[test]
    fn two_processes_of_one_program_with_one_connection_agree() {
        let (client, server) = tcp_pair("127.0.0.1:0").unwrap();
        let copy = client.try_clone().unwrap();
        let first = Running::start(Command::new("sleep").arg("60").stdin(Stdio::from(OwnedFd::from(copy))));
        let second =
            Running::start(Command::new("sleep").arg("60").stdin(Stdio::from(OwnedFd::from(client))));

        let caller = attest(&server, Depth::Process).unwrap();

        assert_eq!(caller.pid, Some(first.0.id().min(second.0.id())));
    }

    #[test]
    fn a_holder_of_another_user_than_the_owner_is_refused() {
        if !is_root() {
            return;
        }
        let (client, server) = tcp_pair("127.0.0.1:0").unwrap();
        let inherited = Stdio::from(OwnedFd::from(client));
        let _child = Running::start(Command::new("sleep").arg("60").uid(NOBODY).stdin(inherited));

        let answer = attest(&server, Depth::Process);

        assert!(matches!(answer, Err(AttestError::ChangedUser { connected: 0, now: NOBODY, .. })));
    }

    #[test]
    fn a_caller_over_a_unix_socket_is_known() {
        let (_client, server) = UnixStream::pair().unwrap();

        let ids = attest_unix(&server, Depth::Ids).unwrap();
        let process = attest_unix(&server, Depth::Process).unwrap();

        assert_eq!((ids.uid, ids.gid, ids.pid), (own().uid, own().gid, own().pid));
        assert_eq!(ids.executable, None);
        assert_eq!(process, own());
    }

    #[tokio::test]
    async fn a_tokio_socket_is_as_good() {
        let (_client, server) = tokio::net::UnixStream::pair().unwrap();

        assert_eq!(attest_unix(&server, Depth::Process).unwrap(), own());
    }

    #[test]
    fn a_socket_of_another_sort_has_no_peer() {
        let (_client, server) = tcp_pair("127.0.0.1:0").unwrap();

        assert!(attest_unix(&server, Depth::Ids).is_err());
    }

    #[test]
    fn a_unix_caller_of_another_user_is_known_until_it_ends() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), std::fs::Permissions::clone(&open)).unwrap();
        std::fs::set_permissions(&path, open).unwrap();
        let uid = is_root().then_some(NOBODY);
        let Some(child) = Running::perl(UNIX_CLIENT, path.to_str().unwrap(), uid) else { return };
        let (server, _) = listener.accept().unwrap();

        let alive = attest_unix(&server, Depth::Process).unwrap();
        let pid = child.0.id();
        child.end();
        let ended = attest_unix(&server, Depth::Process);
        let ids = attest_unix(&server, Depth::Ids).unwrap();

        assert_eq!(alive.uid, uid.unwrap_or_else(|| own().uid));
        assert_eq!(alive.pid, Some(pid));
        assert!(matches!(ended, Err(AttestError::Process(ProcessError::Ended { .. }))));
        assert_eq!(ids.uid, alive.uid);
    }

    #[test]
    fn without_a_peer_pidfd_the_number_is_opened() {
        let pid = std::process::id();

        let description = Process::open(pid).unwrap().describe().unwrap();

        assert_eq!(described(pid, description.clone(), description.uid).unwrap(), own());
        assert!(described(pid, description, NOBODY - 1).is_err());
    }
}
