//! Messages between two processes of one user, with open files and sockets in them (`SCM_RIGHTS`, unix(7)).
//!
//! Each message is one JSON value, and what is open goes along with it; bounds are kept, so neither is taken for the other's.
//!
//! **Invariant:** nobody else's word is taken: the kernel says which user is at the other end, and another one is not listened to.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

/// So many descriptors go with one message; the kernel would take 253.
pub const MOST_OPEN: usize = 64;

/// A message is no longer than this, in bytes: it has to fit into the kernel's buffer.
const LONGEST: usize = 128 * 1024;

/// Why a message was not sent, or not understood.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// The other side is gone.
    #[error("the other process has hung up")]
    HungUp,
    /// The system refused something.
    #[error("cannot {step} the other process")]
    Io {
        /// What was attempted, as a verb phrase that the other process completes.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no message of this kind, or cannot be written as one.
    #[error("a message is not as expected")]
    Json(#[from] serde_json::Error),
    /// The message does not fit.
    #[error("a message has more than {LONGEST} bytes or {MOST_OPEN} descriptors")]
    TooLong,
    /// Another user.
    #[error("the other process belongs to user {uid}, this one to user {own}")]
    Stranger {
        /// Whose it is.
        uid: u32,
        /// Whose this process is.
        own: u32,
    },
}

impl CourierError {
    /// Whether only nothing came within the time for which [`Courier::be_patient`] is.
    #[must_use]
    pub fn is_impatience(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Courier {
    socket: Socket,
    pid: i32,
}

impl Courier {
    /// Goes to whoever listens at `path`; nobody if there is none.
    ///
    /// # Errors
    /// The system refuses, or somebody of another user listens there.
    pub fn to(path: &Path) -> Result<Option<Self>, CourierError> {
        let reached = Socket::new(Domain::UNIX, Type::SEQPACKET, None)
            .and_then(|socket| socket.connect(&SockAddr::unix(path)?).map(|()| socket));
        match reached {
            Ok(socket) => Self::over(socket.into()).map(Some),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(source) => Err(CourierError::Io { step: "reach", source }),
        }
    }

    /// Speaks over `socket`, which blocks from now on.
    ///
    /// # Errors
    /// The other end belongs to another user, or the kernel does not say to whom.
    pub fn over(socket: OwnedFd) -> Result<Self, CourierError> {
        let fail = |source: io::Error| CourierError::Io { step: "speak with", source };
        let peer = rustix::net::sockopt::socket_peercred(&socket).map_err(|error| fail(error.into()))?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid.as_raw() != own {
            return Err(CourierError::Stranger { uid: peer.uid.as_raw(), own });
        }
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).map_err(fail)?;
        Ok(Self { socket, pid: peer.pid.as_raw_nonzero().get() })
    }

    /// The process at the other end.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// [`Self::receive`] waits so long from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn be_patient(&self, patience: Duration) -> Result<(), CourierError> {
        let set = self.socket.set_read_timeout(Some(patience));
        set.map_err(|source| CourierError::Io { step: "wait for", source })
    }

    /// Ends the conversation for both sides, whoever waits.
    pub fn hang_up(&self) {
        // Whoever has gone already does not mind.
        drop(self.socket.shutdown(std::net::Shutdown::Both));
    }

    /// Sends `message`, and with it the descriptors `open`.
    ///
    /// # Errors
    /// It was not sent.
    pub fn send(&self, message: &impl Serialize, open: &[BorrowedFd<'_>]) -> Result<(), CourierError> {
        let text = serde_json::to_vec(message)?;
        if text.len() > LONGEST || open.len() > MOST_OPEN {
            return Err(CourierError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_OPEN))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !open.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(open)) {
            return Err(CourierError::TooLong);
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                    return Err(CourierError::HungUp);
                }
                outcome => {
                    let sent = outcome.map(drop);
                    return sent.map_err(|error| CourierError::Io {
                        step: "send a message to",
                        source: error.into(),
                    });
                }
            }
        }
    }

    /// The next message, and what came with it.
    ///
    /// # Errors
    /// None came, or not one of these.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), CourierError> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_OPEN))];
        let (received, open) = loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut text)];
            match recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Err(CourierError::HungUp),
                Err(error) => {
                    return Err(CourierError::Io { step: "hear from", source: error.into() });
                }
                Ok(received) => {
                    let mut open = Vec::new();
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                            open.extend(descriptors);
                        }
                    }
                    break (received, open);
                }
            }
        };
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(CourierError::TooLong);
        }
        match text.get(..received.bytes) {
            None | Some([]) => Err(CourierError::HungUp),
            Some(text) => Ok((serde_json::from_slice(text)?, open)),
        }
    }
}

impl AsFd for Courier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::store::socket_file;

    fn pair(folder: &Path) -> (Courier, Courier) {
        let path = folder.join("hand-over.sock");
        let listener = socket_file::listen_for_messages(&path).unwrap();
        let one = Courier::to(&path).unwrap().unwrap();
        listener.set_nonblocking(false).unwrap();
        let two = Courier::over(listener.accept().unwrap().0.into()).unwrap();
        (one, two)
    }

    #[test]
    fn what_is_open_here_is_open_there() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = pair(folder.path());
        let path = folder.path().join("file");
        let mut file = File::options().create_new(true).append(true).open(&path).unwrap();

        one.send(&"first", &[]).unwrap();
        one.send(&"second", &[file.as_fd(), file.as_fd()]).unwrap();
        let (first, none): (String, _) = two.receive().unwrap();
        let (second, mut both): (String, _) = two.receive().unwrap();

        assert_eq!((&*first, none.len(), &*second, both.len()), ("first", 0, "second", 2));
        file.write_all(b"here ").unwrap();
        drop(file);
        File::from(both.remove(0)).write_all(b"there").unwrap();
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "here there");
        assert_eq!(two.pid(), i32::try_from(std::process::id()).unwrap());
    }

    #[test]
    fn who_has_gone_is_told_from_who_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = pair(folder.path());

        two.be_patient(Duration::from_millis(20)).unwrap();
        assert!(matches!(two.receive::<String>(), Err(CourierError::Io { .. })));
        drop(one);
        assert!(matches!(two.receive::<String>(), Err(CourierError::HungUp)));
        assert!(matches!(two.send(&"anybody?", &[]), Err(CourierError::HungUp)));
    }

    #[test]
    fn nobody_is_reached_where_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();

        assert!(Courier::to(&folder.path().join("nobody.sock")).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = pair(folder.path());

        assert!(matches!(one.send(&"x".repeat(LONGEST), &[]), Err(CourierError::TooLong)));
        one.send(&"x".repeat(LONGEST - 2), &[]).unwrap();
        assert_eq!(two.receive::<String>().unwrap().0.len(), LONGEST - 2);
    }
}
