//! The CA of this host, through the agent where one runs, and otherwise directly under the state directory's lock.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use crate::admin::{Client, ClientError, Desk, Status};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::issuance::{Mode, Rotator};
use crate::pki::Hierarchy;
use crate::store::AuthorityDir;

/// How the CA can be reached.
#[derive(Debug)]
pub(super) enum LocalCa {
    /// Nobody else uses it.
    Idle(AuthorityDir),
    /// An agent does.
    Running(Client, Box<Status>),
}

impl LocalCa {
    /// Finds out who has the CA of `config`.
    pub(super) async fn reach(config: &Config) -> anyhow::Result<Self> {
        let client = Client::new(&config.admin_socket);
        match client.status().await {
            Ok(status) => Ok(Self::Running(client, Box::new(status))),
            Err(ClientError::NotRunning(_)) => {
                Ok(Self::Idle(AuthorityDir::open_keeping(&config.state_dir, &config.keys)?))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The stored CA, if there is one.
pub(super) fn stored(directory: &AuthorityDir) -> anyhow::Result<Option<Hierarchy>> {
    Ok(directory.load()?.map(|stored| stored.hierarchy))
}

/// What there is not yet, and how it is made; goes on from "there is".
pub(super) const fn none_yet(config: &Config) -> &'static str {
    match config.issuance.mode {
        Mode::Standalone => "no CA yet: make it with `postern ca init`, or start the agent",
        Mode::Subordinate => {
            "no issuing authority yet: `postern ca csr > request.pem`, have it signed where the root is (`postern ca sign \
             request.pem > chain.pem`), then `postern ca install chain.pem`"
        }
    }
}

/// Does `work` at the desk of a CA that is there and that nobody else uses.
pub(super) async fn at_desk<T>(
    config: &Config,
    directory: AuthorityDir,
    work: impl AsyncFnOnce(&Desk) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if stored(&directory)?.is_none() {
        bail!("there is {}", none_yet(config));
    }
    open_desk(config, directory, work).await
}

/// Does `work` at the desk of a CA that nobody else uses; it is made if it is not there.
pub(super) async fn open_desk<T>(
    config: &Config,
    directory: AuthorityDir,
    work: impl AsyncFnOnce(&Desk) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Rotator::start(config.issuance.clone(), directory, Arc::new(SystemClock));
    let (rotator, feed) = started.context("cannot use the CA")?;
    let (sender, receiver) = mpsc::channel(1);
    let desk = Desk::new(sender, feed);
    tokio::select! {
        outcome = work(&desk) => outcome,
        () = rotator.run(receiver, std::future::pending()) => bail!("the CA went away"),
    }
}
