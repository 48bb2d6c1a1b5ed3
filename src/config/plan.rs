//! What must be done to go from one configuration to another, or why it cannot be done without a restart.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::id::ListenerId;
use crate::proxy::Door;

use super::settings::Config;

/// One step from the old configuration to the new.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A door that is not wanted any more, or moves elsewhere.
    Close(Door),
    /// What the CA issues, or for whom.
    Issuance,
    /// A door on TCP that is new, or has moved.
    OpenTcp(Door, SocketAddr),
    /// A door on a Unix socket that is new, or has moved.
    OpenUnix(Door, PathBuf),
    /// A listener that has another name at the same address.
    Rename(ListenerId, ListenerId),
    /// Which files are delivered, and to whom.
    Workloads,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Close(door) => write!(f, "{door} is closed"),
            Self::Issuance => f.write_str("what is issued, and for whom, follows the new settings"),
            Self::OpenTcp(door, address) => write!(f, "{door} is open on {address}"),
            Self::OpenUnix(door, path) => write!(f, "{door} is open at {}", path.display()),
            Self::Rename(from, to) => write!(f, "the listener {from} is called {to}"),
            Self::Workloads => f.write_str("files and callers of workloads follow the new settings"),
        }
    }
}

/// A key that is read at start only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} cannot change while the agent runs: restart it")]
pub struct NeedsRestart(pub &'static str);

/// The steps from `old` to `new`. What each request is judged by needs no step: it is published with the next snapshot.
///
/// # Errors
/// Every key whose change needs a restart.
pub fn plan(old: &Config, new: &Config) -> Result<Vec<Change>, Vec<NeedsRestart>> {
    let fixed = [
        ("trust_domain", old.issuance.domain == new.issuance.domain),
        ("state_dir", old.state_dir == new.state_dir),
        ("authority.keys", old.keys.custody == new.keys.custody),
        ("authority.passphrase", old.keys.passphrase == new.keys.passphrase),
        ("authority.pkcs11", old.keys.token == new.keys.token),
        ("runtime_dir", old.runtime_dir == new.runtime_dir),
        ("threads", old.threads == new.threads),
        ("log", old.log == new.log),
        ("admin", (&old.admin_socket, &old.admin_roles) == (&new.admin_socket, &new.admin_roles)),
        ("audit", old.audit == new.audit),
        ("metrics", old.metrics == new.metrics),
        ("otlp", old.otlp == new.otlp),
        ("token.socket", token_socket(old) == token_socket(new)),
        ("usage", old.usage == new.usage),
        ("explain", old.remember == new.remember),
        ("quickstart", old.quickstart == new.quickstart),
        ("core_dumps", old.core_dumps == new.core_dumps),
    ];
    let stuck: Vec<NeedsRestart> =
        fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| NeedsRestart(key)).collect();
    if !stuck.is_empty() {
        return Err(stuck);
    }
    let mut changes = Vec::new();
    if old.issuance != new.issuance {
        changes.push(Change::Issuance);
    }
    if old.workloads != new.workloads {
        changes.push(Change::Workloads);
    }
    let (before, after) = (doors(old), doors(new));
    let mut gone: Vec<_> = before.iter().filter(|door| !after.contains(door)).collect();
    let mut added: Vec<_> = after.iter().filter(|door| !before.contains(door)).cloned().collect();
    let renames = renames(&gone, &added);
    gone.retain(|(door, _)| !renames.iter().any(|(from, _)| *door == Door::Inbound(from.clone())));
    added.retain(|(door, _)| !renames.iter().any(|(_, to)| *door == Door::Inbound(to.clone())));
    changes.extend(gone.into_iter().map(|(door, _)| Change::Close(door.clone())));
    changes.extend(renames.into_iter().map(|(from, to)| Change::Rename(from, to)));
    changes.extend(added.into_iter().map(|(door, place)| match place {
        Place::Tcp(address) => Change::OpenTcp(door, address),
        Place::Unix(path) => Change::OpenUnix(door, path),
    }));
    Ok(changes)
}

/// Where local workloads get tokens, and at which path.
fn token_socket(config: &Config) -> Option<(&PathBuf, &str)> {
    let tokens = config.tokens.as_ref()?;
    Some((tokens.socket.as_ref()?, &tokens.path))
}

/// The listeners among `gone` at whose address one of another name is `added`, with that name.
fn renames(gone: &[&(Door, Place)], added: &[(Door, Place)]) -> Vec<(ListenerId, ListenerId)> {
    let heir = |(door, place): &&(Door, Place)| {
        let Door::Inbound(from) = door else { return None };
        added.iter().find_map(|(door, other)| match door {
            Door::Inbound(to) if other == place => Some((from.clone(), to.clone())),
            Door::Inbound(_) | Door::OutboundTcp(_) | Door::OutboundUnix(_) => None,
        })
    };
    gone.iter().filter_map(heir).collect()
}

#[derive(Clone, Eq, PartialEq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// All doors with their places.
fn doors(config: &Config) -> Vec<(Door, Place)> {
    let listeners = config
        .listeners
        .iter()
        .map(|listener| (Door::Inbound(listener.id.clone()), Place::Tcp(listener.address)));
    let remotes = config.remotes.iter().flat_map(|remote| {
        let tcp = remote.listen.map(|address| (Door::OutboundTcp(remote.id.clone()), Place::Tcp(address)));
        let unix =
            remote.socket.clone().map(|path| (Door::OutboundUnix(remote.id.clone()), Place::Unix(path)));
        tcp.into_iter().chain(unix)
    });
    listeners.chain(remotes).collect()
}

/// The steps that open every door of `config`.
pub fn all_doors(config: &Config) -> Vec<Change> {
    doors(config)
        .into_iter()
        .map(|(door, place)| match place {
            Place::Tcp(address) => Change::OpenTcp(door, address),
            Place::Unix(path) => Change::OpenUnix(door, path),
        })
        .collect()
}
