//! Sockets that others have opened for this process: the service manager, or the agent that it takes over from.
//!
//! **Invariant:** a socket is used for the place that it was opened for, or not at all. What the service manager has passed must
//! be wanted, and then it must have passed every listener: half of each would hide a mistake in the unit.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::proxy::{Door, Socket};

/// Why inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    /// Some listener has none.
    #[error("the service manager has passed sockets ({}), but none for the listener {listener}: add its address to the socket unit, or name it so (FileDescriptorName=)", found.join(", "))]
    Missing {
        /// Which listener.
        listener: String,
        /// What was passed.
        found: Vec<String>,
    },
    /// It does not listen.
    #[error("the socket {0} that was passed does not listen")]
    NotListening(String),
    /// Nobody wants it.
    #[error("the service manager has passed sockets that nothing is configured for: {}", .0.join(", "))]
    Unwanted(Vec<String>),
    /// It is of another kind.
    #[error("the descriptor {number} that was passed is no stream socket of TCP or Unix")]
    Unusable {
        /// Counted from 3, as sd_listen_fds(3) does.
        number: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Sockets by the place that they were opened for.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    sockets: Vec<Heirloom>,
    /// Whether the service manager has passed any.
    by_manager: bool,
    missing: Option<String>,
}

#[derive(Debug)]
struct Heirloom {
    /// What the unit calls it.
    name: Option<String>,
    place: String,
    socket: Socket,
}

/// The place of a TCP door. One whose port was chosen by the system is known by its name alone.
pub(super) fn tcp(door: &impl std::fmt::Display, address: SocketAddr) -> String {
    if address.port() == 0 { format!("tcp {address} for {door}") } else { format!("tcp {address}") }
}

/// The place of a Unix socket.
pub(super) fn unix(path: &Path) -> String {
    format!("unix {}", path.display())
}

impl Inheritance {
    /// What the service manager has passed (sd_listen_fds(3)): `LISTEN_FDS`, named by `LISTEN_FDNAMES`.
    ///
    /// # Errors
    /// Something was passed that is no listening stream socket.
    #[expect(
        clippy::disallowed_methods,
        reason = "the service manager says it nowhere else, see sd_listen_fds(3)"
    )]
    pub(super) fn from_manager() -> Result<Self, InheritanceError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut names = names.split(':').map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
        let mut sockets = Vec::new();
        for at in 0..passed.len() {
            let unusable = |source| InheritanceError::Unusable { number: at + 3, source };
            let socket = match passed.take_tcp_listener(at) {
                Ok(Some(socket)) => Socket::Tcp(socket),
                Ok(None) | Err(_) => match passed.take_unix_listener(at).map_err(unusable)? {
                    Some(socket) => Socket::Unix(socket),
                    None => continue,
                },
            };
            let (place, socket) = checked(socket).map_err(unusable)?;
            let Some(socket) = socket else { return Err(InheritanceError::NotListening(place)) };
            sockets.push(Heirloom { name: names.next().flatten(), place, socket });
        }
        Ok(Self { by_manager: !sockets.is_empty(), sockets, missing: None })
    }

    /// Adds a socket for `place` from another agent.
    ///
    /// # Errors
    /// It is no stream socket that listens.
    pub(super) fn add(&mut self, place: String, descriptor: OwnedFd) -> Result<(), InheritanceError> {
        let is_unix = place.starts_with("unix ");
        let socket = if is_unix { Socket::Unix(descriptor.into()) } else { Socket::Tcp(descriptor.into()) };
        match checked(socket) {
            Ok((_, Some(socket))) => {
                self.sockets.push(Heirloom { name: None, place, socket });
                Ok(())
            }
            Ok((_, None)) | Err(_) => Err(InheritanceError::NotListening(place)),
        }
    }

    /// The sockets for a door of the data plane, if there are any.
    pub(super) fn take_door(&mut self, door: &Door, place: &str) -> Option<Vec<Socket>> {
        let name = match door {
            Door::Inbound(listener) => listener.as_str(),
            Door::OutboundTcp(remote) | Door::OutboundUnix(remote) => remote.as_str(),
        };
        let found = self.take(name, place);
        if let (Door::Inbound(listener), None, true) = (door, &found, self.by_manager) {
            self.missing.get_or_insert_with(|| listener.to_string());
        }
        found
    }

    /// The sockets that are called `name` or were opened for `place`, if there are any.
    pub(super) fn take(&mut self, name: &str, place: &str) -> Option<Vec<Socket>> {
        let is_it = |one: &Heirloom| one.place == place || one.name.as_deref() == Some(name);
        let (found, rest) = std::mem::take(&mut self.sockets).into_iter().partition::<Vec<_>, _>(is_it);
        self.sockets = rest;
        (!found.is_empty()).then(|| found.into_iter().map(|one| one.socket).collect())
    }

    /// Says what is wrong with what the service manager has passed. What another agent had and this one does not want is closed.
    ///
    /// # Errors
    /// Too much was passed, or too little.
    pub(super) fn settle(self) -> Result<(), InheritanceError> {
        let left: BTreeSet<String> = self.sockets.iter().map(Heirloom::to_string).collect();
        let left: Vec<String> = left.into_iter().collect();
        if let Some(listener) = self.missing {
            let found = if left.is_empty() { vec!["all of them are for others".to_owned()] } else { left };
            return Err(InheritanceError::Missing { listener, found });
        }
        match (left.is_empty(), self.by_manager) {
            (true, _) => Ok(()),
            (false, true) => Err(InheritanceError::Unwanted(left)),
            (false, false) => {
                tracing::info!(
                    sockets = left.join(", "),
                    "sockets of the former agent are not wanted any more"
                );
                Ok(())
            }
        }
    }
}

impl std::fmt::Display for Heirloom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.place),
            None => f.write_str(&self.place),
        }
    }
}

/// Where the socket listens, and the socket if it does; it does not block from now on.
fn checked(socket: Socket) -> io::Result<(String, Option<Socket>)> {
    let (place, listens) = {
        let view = SockRef::from(&socket);
        view.set_nonblocking(true)?;
        let address = view.local_addr()?;
        let place = address.as_socket().map(|address| format!("tcp {address}"));
        let place = place.or_else(|| address.as_pathname().map(unix));
        (place.unwrap_or_else(|| "without an address".to_owned()), view.is_listener()?)
    };
    Ok((place, listens.then_some(socket)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn inbound(id: &str) -> Door {
        Door::Inbound(id.parse().unwrap())
    }

    fn passed(name: Option<&str>) -> (Inheritance, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (place, socket) = checked(Socket::Tcp(socket)).unwrap();
        let heirloom = Heirloom { name: name.map(str::to_owned), place, socket: socket.unwrap() };
        (Inheritance { sockets: vec![heirloom], by_manager: true, missing: None }, address)
    }

    #[test]
    fn a_socket_is_found_by_its_address_or_by_its_name() {
        let elsewhere = "127.0.0.1:1".parse().unwrap();

        let (mut inheritance, address) = passed(None);
        assert_eq!(inheritance.take_door(&inbound("web"), &tcp(&"web", address)).unwrap().len(), 1);
        inheritance.settle().unwrap();
        let (mut inheritance, _) = passed(Some("web"));
        assert_eq!(inheritance.take_door(&inbound("web"), &tcp(&"web", elsewhere)).unwrap().len(), 1);
        inheritance.settle().unwrap();
    }

    #[test]
    fn what_was_passed_must_be_wanted_and_complete() {
        let (inheritance, address) = passed(Some("other"));
        let told = inheritance.settle().unwrap_err().to_string();
        assert!(told.ends_with(&format!("nothing is configured for: other (tcp {address})")), "{told}");

        let (mut inheritance, address) = passed(None);
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(inheritance.take_door(&inbound("web"), &tcp(&"web", elsewhere)).is_none());
        let told = inheritance.settle().unwrap_err().to_string();
        assert!(told.contains(&format!("(tcp {address}), but none for the listener web")), "{told}");
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let mut inheritance = Inheritance::default();

        let refused = inheritance.add("tcp 127.0.0.1:8443".into(), socket.into());

        assert_eq!(
            refused.unwrap_err().to_string(),
            "the socket tcp 127.0.0.1:8443 that was passed does not listen"
        );
    }
}
