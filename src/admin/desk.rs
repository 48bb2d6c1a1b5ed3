//! Asks the owner of the local CA, and waits for what it says.

use tokio::sync::{mpsc, oneshot};

use crate::admin::{
    AuthorityRequest, InstalledStatus, IssuedCertificate, Order, SignedAuthorityStatus, StewardError,
};
use crate::id::WorkloadId;
use crate::issuance::{
    AuthorityRevocation, Change, Changed, Command, Feed, InstallOrder, Reply, Run, Settings, SignOrder,
    Wanted,
};

/// The CA as the front door sees it, whether it belongs to a running agent or only to this one command.
#[derive(Clone, Debug)]
pub struct Desk {
    commands: mpsc::Sender<Command>,
    feed: Feed,
}

impl Desk {
    /// A desk whose orders go to `commands` and whose results come by `feed`.
    #[must_use]
    pub const fn new(commands: mpsc::Sender<Command>, feed: Feed) -> Self {
        Self { commands, feed }
    }

    /// What is issued.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Moves an authority from slot to slot.
    ///
    /// # Errors
    /// It cannot move there, somebody would be left behind, or the change could not be stored.
    pub async fn change_authority(&self, change: Change) -> Result<Changed, StewardError> {
        self.ask(|reply| Command::Change { change, reply }).await
    }

    /// Revokes an authority with all below it.
    ///
    /// # Errors
    /// There is none of that name, somebody would be left behind, or it could not be stored.
    pub async fn revoke_authority(&self, order: AuthorityRevocation) -> Result<Changed, StewardError> {
        self.ask(|reply| Command::Revoke { order, reply }).await
    }

    /// Issues a workload's identity anew.
    ///
    /// # Errors
    /// There is no such workload, or it could not be issued.
    pub async fn renew(&self, workload: WorkloadId) -> Result<(), StewardError> {
        self.ask(|reply| Command::IssueNow { workload, reply }).await.map(drop)
    }

    /// Makes the request for the next issuing authority ready.
    ///
    /// # Errors
    /// This host makes its issuing authorities itself, or the request could not be stored.
    pub async fn request(&self, wanted: Wanted, run: Run) -> Result<AuthorityRequest, StewardError> {
        Ok(self.ask(|reply| Command::Request { wanted, run, reply }).await?.into())
    }

    /// Signs the issuing authority of another host.
    ///
    /// # Errors
    /// The request is of no use, or the root cannot sign for so long.
    pub async fn sign(&self, order: SignOrder) -> Result<SignedAuthorityStatus, StewardError> {
        let order = Box::new(order);
        Ok(self.ask(|reply| Command::Sign { order, reply }).await?.into())
    }

    /// Installs what was signed elsewhere.
    ///
    /// # Errors
    /// It is of no use here, or could not be stored.
    pub async fn install(&self, order: InstallOrder) -> Result<InstalledStatus, StewardError> {
        let order = Box::new(order);
        Ok(self.ask(|reply| Command::Install { order, reply }).await?.into())
    }

    /// Hands out a certificate by what `settings` say.
    ///
    /// # Errors
    /// The order makes no sense, or it could not be issued.
    pub async fn issue(&self, order: &Order, settings: &Settings) -> Result<IssuedCertificate, StewardError> {
        let profile = Box::new(order.profile(settings)?);
        let svid = self.ask(|reply| Command::IssueOnce { profile, reply }).await?;
        Ok(IssuedCertificate::of(&svid, &self.feed.borrow().bundle))
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StewardError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || StewardError::Failed("the agent is stopping".to_owned());
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        Ok(answer.await.map_err(|_| stopping())??)
    }
}
