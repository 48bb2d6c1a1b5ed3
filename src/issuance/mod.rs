//! Keeps every local identity fresh, and hands the whole of them to everyone at once.

mod acknowledgements;
mod change;
mod feed;
mod second_opinion;
mod subordinate;
mod token_desk;
mod rotator;

pub use acknowledgements::{Acknowledgements, Consumer, Laggard};
pub use change::{AuthorityRevocation, Change, Changed, Insistence, Run, Verb};
pub use feed::{AuthorityView, Awaiting, Feed, HierarchyView, Issued, RenewalView, authority_views};
pub use rotator::{Command, IssuanceError, Mode, Reply, Rotator, Settings, install_at_rest};
pub use second_opinion::SecondOpinionError;
pub use subordinate::{
    InstallOrder, Installed, Reach, ReadyRequest, SignOrder, Signed, Wanted, ready_request, sign,
};
pub use token_desk::{TOKEN_ORDERS, TokenDesk, TokenOrder, TokenOrderError, TokenReply};

#[cfg(test)]
mod tests;
