//! Asks the kernel who owns the other end of a local TCP connection.
//!
//! One `SOCK_DIAG_BY_FAMILY` request for exactly one socket, named from *its* side. Three answers look like success and
//! are not, so they are told apart here:
//!
//! - a socket that nobody holds any more (orphaned, `TIME_WAIT`, half open) comes back with inode 0, and sometimes with
//!   uid 0, which is root to whoever does not look twice;
//! - when the connection is gone but its port is listened on, the kernel answers with the *listener*;
//! - a socket that is still connecting belongs to somebody who took over the port of a caller that left.
//!
//! An IPv4 question also finds the IPv6 sockets that speak IPv4 through mapped addresses; they answer in their own
//! family, so addresses are compared in canonical form.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Why the kernel did not name an owner.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The netlink socket refused to work.
    #[error("cannot {step} the socket diagnostics of the kernel")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The answer is none that this file understands.
    #[error("the kernel's answer about the connection makes no sense")]
    Malformed,
    /// Nothing that is alive stands at that end.
    #[error("the caller's end of the connection is gone")]
    NoSocket,
}

/// Who made a socket, and which one it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    /// Never zero.
    pub(super) inode: u32,
    pub(super) uid: u32,
}

/// Who owns the socket whose own address is `own` and that is connected to `other`.
///
/// It does not block: the kernel answers while the question is being sent.
pub(super) fn owner(own: SocketAddr, other: SocketAddr) -> Result<Owner, DiagError> {
    let connection = Connection::new(own, other);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
    .map_err(|source| DiagError::Kernel { step: "open", source: source.into() })?;
    rustix::net::send(&socket, &connection.request(), SendFlags::empty())
        .map_err(|source| DiagError::Kernel { step: "ask", source: source.into() })?;

    let mut buffer = [0; ANSWER_ROOM];
    let (_, length, sender) = rustix::net::recvfrom(&socket, &mut buffer, RecvFlags::DONTWAIT)
        .map_err(|source| DiagError::Kernel { step: "read", source: source.into() })?;
    let from_kernel = sender
        .and_then(|address| SocketAddrNetlink::try_from(address).ok())
        .is_some_and(|address| address.pid() == 0);
    if !from_kernel {
        return Err(DiagError::Malformed);
    }
    connection.read_answer(buffer.get(..length).ok_or(DiagError::Malformed)?)
}

/// A TCP connection as one of its ends sees it, in canonical addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Connection {
    own: (IpAddr, u16),
    other: (IpAddr, u16),
}

impl Connection {
    fn new(own: SocketAddr, other: SocketAddr) -> Self {
        Self { own: (own.ip().to_canonical(), own.port()), other: (other.ip().to_canonical(), other.port()) }
    }

    /// `nlmsghdr` and `inet_diag_req_v2` (linux/inet_diag.h), in the byte order of this machine but for ports.
    fn request(&self) -> Vec<u8> {
        let family = if self.own.0.is_ipv4() { FAMILY_INET } else { FAMILY_INET6 };
        let mut message = Vec::with_capacity(72);
        message.extend_from_slice(&REQUEST_LENGTH.to_ne_bytes());
        message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.extend_from_slice(&SEQUENCE.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&[family, PROTOCOL_TCP, 0, 0]);
        message.extend_from_slice(&ANY_STATE.to_ne_bytes());
        message.extend_from_slice(&self.own.1.to_be_bytes());
        message.extend_from_slice(&self.other.1.to_be_bytes());
        message.extend_from_slice(&padded(self.own.0));
        message.extend_from_slice(&padded(self.other.0));
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&NO_COOKIE);
        message
    }

    /// Accepts only a living socket with exactly these two ends.
    fn read_answer(&self, answer: &[u8]) -> Result<Owner, DiagError> {
        let mut answer = Bytes(answer);
        let _length = answer.u32()?;
        let kind = answer.u16()?;
        let _flags = answer.u16()?;
        let sequence = answer.u32()?;
        let _port = answer.u32()?;
        if sequence != SEQUENCE {
            return Err(DiagError::Malformed);
        }
        match kind {
            NLMSG_ERROR => Err(refusal(answer.u32()?)),
            SOCK_DIAG_BY_FAMILY => self.read_socket(answer),
            _ => Err(DiagError::Malformed),
        }
    }

    /// `inet_diag_msg` (linux/inet_diag.h).
    fn read_socket(&self, mut body: Bytes<'_>) -> Result<Owner, DiagError> {
        let [family, state, _timer, _retransmissions] = body.array()?;
        let own_port = u16::from_be_bytes(body.array()?);
        let other_port = u16::from_be_bytes(body.array()?);
        let own = address(family, body.array()?)?;
        let other = address(family, body.array()?)?;
        let _interface_and_cookie: [u8; 12] = body.array()?;
        let _expires_and_queues: [u8; 12] = body.array()?;
        let uid = body.u32()?;
        let inode = body.u32()?;

        let found = Self { own: (own, own_port), other: (other, other_port) };
        if found == *self && inode != 0 && CONNECTED_STATES.contains(&state) {
            Ok(Owner { inode, uid })
        } else {
            Err(DiagError::NoSocket)
        }
    }
}

fn refusal(negated_errno: u32) -> DiagError {
    let errno = 0_i32.wrapping_sub(i32::from_ne_bytes(negated_errno.to_ne_bytes()));
    if errno == rustix::io::Errno::NOENT.raw_os_error() {
        DiagError::NoSocket
    } else {
        DiagError::Kernel { step: "ask", source: io::Error::from_raw_os_error(errno) }
    }
}

fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(family: u8, octets: [u8; 16]) -> Result<IpAddr, DiagError> {
    let [a, b, c, d, ..] = octets;
    match family {
        FAMILY_INET => Ok(Ipv4Addr::new(a, b, c, d).into()),
        FAMILY_INET6 => Ok(Ipv6Addr::from(octets).to_canonical()),
        _ => Err(DiagError::Malformed),
    }
}

/// What is left to read of an answer.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DiagError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DiagError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, DiagError> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, DiagError> {
        self.array().map(u32::from_ne_bytes)
    }
}

/// Room for the answer and the attributes behind it, of which none was asked for (today at most 60 bytes).
const ANSWER_ROOM: usize = 4096;
const ANY_STATE: u32 = u32::MAX;
/// `ESTABLISHED`, `FIN_WAIT1`, `FIN_WAIT2` and `CLOSE_WAIT` (net/tcp_states.h): there was a handshake, and while the
/// inode is not zero some process holds this end.
const CONNECTED_STATES: [u8; 4] = [1, 4, 5, 8];
const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NO_COOKIE: [u8; 8] = [0xff; 8];
const PROTOCOL_TCP: u8 = 6;
const REQUEST_LENGTH: u32 = 72;
const SEQUENCE: u32 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// What the kernel said (6.18) of the socket 127.0.0.1:40000 → 127.0.0.1:40001, but for `state` and `inode`.
    fn answer(family: u8, state: u8, own: IpAddr, inode: u32) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend_from_slice(&88_u32.to_ne_bytes());
        message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend_from_slice(&0_u16.to_ne_bytes());
        message.extend_from_slice(&SEQUENCE.to_ne_bytes());
        message.extend_from_slice(&4711_u32.to_ne_bytes());
        message.extend_from_slice(&[family, state, 0, 0]);
        message.extend_from_slice(&40000_u16.to_be_bytes());
        message.extend_from_slice(&40001_u16.to_be_bytes());
        message.extend_from_slice(&padded(own));
        message.extend_from_slice(&padded(own));
        message.extend_from_slice(&[0; 24]);
        message.extend_from_slice(&1000_u32.to_ne_bytes());
        message.extend_from_slice(&inode.to_ne_bytes());
        message
    }

    fn asked() -> Connection {
        Connection::new("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:40001".parse().unwrap())
    }

    #[test]
    fn a_connected_socket_names_its_owner() {
        let loopback = "127.0.0.1".parse().unwrap();

        let owner = asked().read_answer(&answer(FAMILY_INET, 1, loopback, 77)).unwrap();

        assert_eq!(owner, Owner { inode: 77, uid: 1000 });
    }

    #[test]
    fn a_socket_of_the_other_family_answers_in_mapped_addresses() {
        let mapped = "::ffff:127.0.0.1".parse().unwrap();

        assert!(asked().read_answer(&answer(FAMILY_INET6, 1, mapped, 77)).is_ok());
    }

    #[test]
    fn a_listener_an_orphan_a_newcomer_and_a_stranger_own_nothing() {
        let loopback = "127.0.0.1".parse().unwrap();
        let listener = answer(FAMILY_INET, 10, loopback, 77);
        let orphan = answer(FAMILY_INET, 5, loopback, 0);
        let time_wait = answer(FAMILY_INET, 6, loopback, 0);
        let connecting = answer(FAMILY_INET, 2, loopback, 77);
        let stranger = answer(FAMILY_INET, 1, "127.0.0.2".parse().unwrap(), 77);

        for message in [listener, orphan, time_wait, connecting, stranger] {
            assert!(matches!(asked().read_answer(&message), Err(DiagError::NoSocket)));
        }
    }

    #[test]
    fn no_truncated_answer_is_understood() {
        let whole = answer(FAMILY_INET, 1, "127.0.0.1".parse().unwrap(), 77);

        for length in 0..whole.len() {
            assert!(matches!(asked().read_answer(&whole[..length]), Err(DiagError::Malformed)));
        }
    }

    #[test]
    fn the_kernel_finds_a_real_connection_by_its_own_end_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let inode_of = |stream: &TcpStream| {
            let file = std::fs::File::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()));
            u32::try_from(file.metadata().unwrap().ino()).unwrap()
        };

        let of_client = owner(server.peer_addr().unwrap(), server.local_addr().unwrap()).unwrap();
        let of_server = owner(server.local_addr().unwrap(), server.peer_addr().unwrap()).unwrap();

        assert_eq!(of_client.inode, inode_of(&client));
        assert_eq!(of_server.inode, inode_of(&server));
        assert_eq!(of_client.uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_port_that_is_only_listened_on_owns_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = "127.0.0.1:1".parse().unwrap();

        let answer = owner(listener.local_addr().unwrap(), nobody);

        assert!(matches!(answer, Err(DiagError::NoSocket)));
    }
}
