//! Keeps every local identity fresh, and hands the whole of them to everyone at once.

mod acknowledgements;
mod change;
mod feed;
mod second_opinion;
mod rotator;

pub use acknowledgements::{Acknowledgements, Consumer, Laggard};
pub use change::{AuthorityRevocation, Change, Changed, Insistence, Run, Verb};
pub use feed::{AuthorityView, Feed, HierarchyView, Issued, RenewalView, authority_views};
pub use rotator::{Command, IssuanceError, Reply, Rotator, Settings};
pub use second_opinion::SecondOpinionError;

#[cfg(test)]
mod tests;
