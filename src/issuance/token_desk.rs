//! Orders to whoever keeps token keys and withdrawals, and the answer when they are in force.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError};

use tokio::sync::oneshot;

use crate::oauth::{KeyRules, UnknownKey, Withdrawal, WithdrawalError};

/// What can be ordered.
#[derive(Debug)]
pub enum TokenOrder {
    /// Follow other rules; without any, no key is made.
    Configure(Option<KeyRules>),
    /// Believe no token by this key any more, and sign by another.
    Kill {
        /// The `kid`.
        key: String,
        /// Told when it is in force.
        reply: TokenReply,
    },
    /// Write nothing more until it is said how it goes on: another process is about to keep them.
    Rest {
        /// Told when that is so.
        resting: oneshot::Sender<()>,
        /// Told when the other process has failed and this one goes on; dropped when it was replaced.
        resumed: Receiver<()>,
    },
    /// Take tokens back.
    Withdraw {
        /// Which.
        withdrawal: Withdrawal,
        /// Told when it is in force, and on the disk.
        reply: TokenReply,
    },
}

/// Where the outcome of an order goes.
pub type TokenReply = oneshot::Sender<Result<(), TokenOrderError>>;

/// Why an order was not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenOrderError {
    /// Too much is asked for at once.
    #[error("too many tokens are being taken back at the moment")]
    Busy,
    /// There is no room.
    #[error(transparent)]
    Full(#[from] WithdrawalError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// There is no such key.
    #[error(transparent)]
    Unknown(#[from] UnknownKey),
    /// It is in force, and a restart would forget it.
    #[error("it is in force until the agent restarts, but cannot be written down: {0}")]
    Unwritten(String),
}

/// The way to the keeper.
#[derive(Clone, Debug)]
pub struct TokenDesk(SyncSender<TokenOrder>);

/// Orders that may wait.
pub const TOKEN_ORDERS: usize = 1024;

impl TokenDesk {
    /// A desk whose orders go to `keeper`.
    #[must_use]
    pub const fn new(keeper: SyncSender<TokenOrder>) -> Self {
        Self(keeper)
    }

    /// Has other rules followed.
    ///
    /// # Errors
    /// It cannot be told now.
    pub fn configure(&self, rules: Option<KeyRules>) -> Result<(), TokenOrderError> {
        self.send(TokenOrder::Configure(rules))
    }

    /// Has a key killed, and waits until no thread believes it.
    ///
    /// # Errors
    /// There is no such key, or a restart would bring it back.
    pub async fn kill(&self, key: String) -> Result<(), TokenOrderError> {
        self.ask(|reply| TokenOrder::Kill { key, reply }).await
    }

    /// Has tokens taken back, and waits until no thread takes them.
    ///
    /// # Errors
    /// There is no room, or a restart would forget it.
    pub async fn withdraw(&self, withdrawal: Withdrawal) -> Result<(), TokenOrderError> {
        self.ask(|reply| TokenOrder::Withdraw { withdrawal, reply }).await
    }

    /// Has nothing written any more until `resumed` is told, or for good when it is dropped; waits until that is so.
    ///
    /// # Errors
    /// It cannot be told now.
    pub async fn rest(&self, resumed: Receiver<()>) -> Result<(), TokenOrderError> {
        let (resting, done) = oneshot::channel();
        self.send(TokenOrder::Rest { resting, resumed })?;
        done.await.map_err(|_| TokenOrderError::Stopping)
    }

    async fn ask(&self, order: impl FnOnce(TokenReply) -> TokenOrder) -> Result<(), TokenOrderError> {
        let (reply, done) = oneshot::channel();
        self.send(order(reply))?;
        done.await.map_err(|_| TokenOrderError::Stopping)?
    }

    fn send(&self, order: TokenOrder) -> Result<(), TokenOrderError> {
        self.0.try_send(order).map_err(|error| match error {
            TrySendError::Disconnected(_) => TokenOrderError::Stopping,
            TrySendError::Full(_) => TokenOrderError::Busy,
        })
    }
}
