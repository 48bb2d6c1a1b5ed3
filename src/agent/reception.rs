//! Where operators, local workloads and whoever collects metrics are answered: opened, closed, and opened again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::inheritance::{self, Inheritance};
use super::steward::AgentSteward;
use super::supervise::AgentError;
use super::troubles::{Trouble, Troubles};
use crate::admin;
use crate::config::Config;
use crate::proxy::Socket;
use crate::store::disk;
use crate::store::socket_file::SocketError;

/// The sockets of the control plane, kept for as long as the process lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Controls(Arc<Mutex<Vec<(String, Socket)>>>);

impl Controls {
    /// Keeps another descriptor of `listener`, which was opened for `place`.
    pub(super) fn keep<S: From<std::os::fd::OwnedFd>>(
        &self,
        place: String,
        listener: &impl AsFd,
        kind: fn(S) -> Socket,
    ) -> io::Result<()> {
        let shared = listener.as_fd().try_clone_to_owned()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((place, kind(shared.into())));
        Ok(())
    }

    /// All of them, each with the place that it was opened for.
    ///
    /// # Errors
    /// The system gives no descriptors.
    pub(super) fn shared(&self) -> io::Result<Vec<(String, Socket)>> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().map(|(place, socket)| Ok((place.clone(), socket.share()?))).collect()
    }

    fn at(&self, place: &str) -> Option<io::Result<Socket>> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().find(|(other, _)| other == place).map(|(_, socket)| socket.share())
    }

    fn unix(&self, path: &Path) -> Option<io::Result<UnixListener>> {
        match self.at(&inheritance::unix(path))? {
            Ok(Socket::Unix(socket)) => Some(UnixListener::from_std(socket)),
            Ok(Socket::Tcp(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn tcp(&self, address: SocketAddr) -> Option<io::Result<TcpListener>> {
        match self.at(&health_place(address))? {
            Ok(Socket::Tcp(socket)) => Some(TcpListener::from_std(socket)),
            Ok(Socket::Unix(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn health_place(address: SocketAddr) -> String {
    inheritance::tcp(&"metrics", address)
}

/// Binds what `config` names, inherited sockets excepted. Where nothing can be written, the operators' socket is tried again later.
///
/// # Errors
/// A socket cannot be bound.
pub(super) async fn bind(config: &Config, inheritance: &mut Inheritance) -> Result<Controls, AgentError> {
    let controls = Controls::default();
    let keep_unix = |path: &Path, listener: &UnixListener| {
        controls.keep(inheritance::unix(path), listener, Socket::Unix).map_err(AgentError::Runtime)
    };
    let path = &config.admin_socket;
    let admin = match inherited_unix(inheritance, "admin", path) {
        Some(socket) => admin::take_over(socket, path),
        None => admin::bind(path),
    };
    match admin {
        Err(SocketError::Io { source, .. }) if disk::refuses_writing(&source) => {}
        outcome => keep_unix(path, &outcome?)?,
    }
    if let Some(path) = config.tokens.as_ref().and_then(|tokens| tokens.socket.as_ref()) {
        let listener = match inherited_unix(inheritance, "token", path) {
            Some(socket) => admin::take_over(socket, path)?,
            None => admin::bind_tokens(path)?,
        };
        keep_unix(path, &listener)?;
    }
    if let Some(address) = config.metrics {
        let place = health_place(address);
        let refused = |source| AgentError::Listen { address: address.to_string(), source };
        let listener = match inheritance.take("metrics", &place).and_then(|all| all.into_iter().next()) {
            Some(Socket::Tcp(socket)) => TcpListener::from_std(socket).map_err(refused)?,
            Some(Socket::Unix(_)) | None => TcpListener::bind(address).await.map_err(refused)?,
        };
        controls.keep(place, &listener, Socket::Tcp).map_err(AgentError::Runtime)?;
    }
    Ok(controls)
}

fn inherited_unix(
    inheritance: &mut Inheritance,
    name: &str,
    path: &Path,
) -> Option<std::os::unix::net::UnixListener> {
    let found = inheritance.take(name, &inheritance::unix(path))?;
    found.into_iter().find_map(|socket| match socket {
        Socket::Unix(socket) => Some(socket),
        Socket::Tcp(_) => None,
    })
}

/// Who answers at the sockets of the control plane.
pub(super) struct Reception {
    config: Arc<Config>,
    controls: Controls,
    steward: Arc<AgentSteward>,
    doorman: admin::Doorman,
    troubles: Arc<Troubles>,
    /// Whether those who answer now are to end.
    closing: watch::Sender<bool>,
}

impl Reception {
    /// Closed as yet.
    pub(super) fn new(
        config: &Arc<Config>,
        controls: Controls,
        steward: AgentSteward,
        doorman: admin::Doorman,
        troubles: &Arc<Troubles>,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            controls,
            steward: Arc::new(steward),
            doorman,
            troubles: Arc::clone(troubles),
            closing: watch::Sender::new(false),
        }
    }

    /// Has everybody answered from now on.
    ///
    /// # Errors
    /// The system gives no descriptors.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.closing = watch::Sender::new(false);
        let path = &self.config.admin_socket;
        tokio::spawn(answer_operators(
            self.controls.unix(path).transpose()?,
            path.clone(),
            self.controls.clone(),
            (Arc::clone(&self.steward), self.doorman.clone()),
            Arc::clone(&self.troubles),
            self.closing.subscribe(),
        ));
        if let Some(tokens) = &self.config.tokens
            && let Some(listener) = tokens.socket.as_ref().and_then(|path| self.controls.unix(path))
        {
            let path = format!("{}/token", tokens.path);
            let closed = told(self.closing.subscribe());
            tokio::spawn(admin::serve_tokens(listener?, path, Arc::clone(&self.steward), closed));
        }
        if let Some(listener) = self.config.metrics.and_then(|address| self.controls.tcp(address)) {
            let closed = told(self.closing.subscribe());
            tokio::spawn(admin::serve_health(listener?, Arc::clone(&self.steward), closed));
        }
        Ok(())
    }

    /// Answers who is being answered, and nobody else: the sockets live on, and whoever comes waits there.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// The sockets, for an heir.
    pub(super) const fn controls(&self) -> &Controls {
        &self.controls
    }
}

/// Answers at the operators' socket, which may have to be tried again and again where nothing can be written.
async fn answer_operators(
    bound: Option<UnixListener>,
    path: PathBuf,
    controls: Controls,
    (steward, doorman): (Arc<AgentSteward>, admin::Doorman),
    troubles: Arc<Troubles>,
    closing: watch::Receiver<bool>,
) {
    let listener = match bound {
        Some(listener) => listener,
        None => {
            let told_why =
                format!("nobody can be answered at {}: nothing can be written there", path.display());
            tracing::error!(path = %path.display(), "the operators' socket cannot be opened; it is tried again");
            troubles.note(Trouble::Admin, told_why);
            tokio::select! {
                () = told(closing.clone()) => return,
                listener = bind_at_last(&path, &controls) => listener,
            }
        }
    };
    troubles.clear(Trouble::Admin);
    admin::serve(listener, steward, doorman, told(closing)).await;
}

async fn bind_at_last(path: &Path, controls: &Controls) -> UnixListener {
    loop {
        tokio::time::sleep(TRY_AGAIN).await;
        drop(path.parent().map(super::supervise::make_folder));
        if let Ok(listener) = admin::bind(path) {
            if let Err(error) = controls.keep(inheritance::unix(path), &listener, Socket::Unix) {
                tracing::warn!(%error, "the operators' socket cannot be handed over");
            }
            return listener;
        }
    }
}

/// What could not be done at the start for want of a disk is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Done when `state` is true, or nobody is there to say so.
pub(super) async fn told(mut state: watch::Receiver<bool>) {
    drop(state.wait_for(|is| *is).await);
}
