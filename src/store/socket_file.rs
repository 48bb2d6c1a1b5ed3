//! Unix sockets as files: opened for owner and group alone, in the place of what a dead agent left behind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
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
    /// Somebody answers there.
    #[error("another agent listens on {}", .0.display())]
    InUse(PathBuf),
    /// A file that is no socket.
    #[error("{} exists and is no socket: move it away, or configure another path", .0.display())]
    NoSocket(PathBuf),
}

/// Listens at `path` for owner and group (0660), without blocking.
///
/// The socket never stands there under wider permissions, and nobody finds it before it listens.
///
/// # Errors
/// Somebody else uses the path, or the system refuses.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    listen_as(path, Type::STREAM, 0o660)
}

/// [`listen`] for messages whose bounds are kept (`SOCK_SEQPACKET`), and for the owner alone (0600).
///
/// # Errors
/// As for [`listen`].
pub fn listen_for_messages(path: &Path) -> Result<UnixListener, SocketError> {
    listen_as(path, Type::SEQPACKET, 0o600)
}

fn listen_as(path: &Path, sort: Type, mode: u32) -> Result<UnixListener, SocketError> {
    expect_free(path, sort)?;
    let mut name = std::ffi::OsString::from(path);
    name.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(name);
    drop(fs::remove_file(&staged));
    let opened = open(&staged, sort, mode).and_then(|socket| fs::rename(&staged, path).map(|()| socket));
    let refused = |source| SocketError::Io { step: "listen on the socket", path: path.to_owned(), source };
    opened.inspect_err(|_| drop(fs::remove_file(&staged))).map(Into::into).map_err(refused)
}

fn open(path: &Path, sort: Type, mode: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, sort, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

const BACKLOG: i32 = 1024;

fn expect_free(path: &Path, sort: Type) -> Result<(), SocketError> {
    let io_error = |source| SocketError::Io { step: "look at", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => (),
    }
    match Socket::new(Domain::UNIX, sort, None).and_then(|socket| socket.connect(&SockAddr::unix(path)?)) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(io_error(error)),
    }
}
