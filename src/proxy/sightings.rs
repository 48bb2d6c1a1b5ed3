//! Who still comes in with a certificate of an authority that signs no more.
//!
//! The thread that sees it says so over a channel of bounded length and goes on; what does not fit is seen again when the same
//! caller comes back or trust changes.

use tokio::sync::mpsc;

use super::snapshot::Snapshot;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::{SpiffeId, Subject};

/// A caller with a leaf of a retired authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// The authority that signed the leaf.
    pub authority: AuthorityId,
    /// Who shows it.
    pub spiffe_id: SpiffeId,
    /// When it was seen.
    pub at: Timestamp,
}

/// Where sightings are reported.
#[derive(Clone, Debug)]
pub struct Lookout(mpsc::Sender<Sighting>);

impl Lookout {
    /// A lookout, and the end where its reports arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Sighting>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    /// Reports the holder of `subject` if an authority signed it that is retired in `snapshot`.
    pub(super) fn look_at(&self, subject: &Subject, snapshot: &Snapshot, now: Timestamp) {
        // As a rule there is none, and this runs for every connection.
        if snapshot.retired.is_empty() {
            return;
        }
        if let Some(authority) = snapshot.retired.get(&subject.issuer) {
            let sighting =
                Sighting { authority: authority.clone(), spiffe_id: subject.spiffe_id.clone(), at: now };
            drop(self.0.try_send(sighting));
        }
    }
}

/// Reports that may wait.
const BACKLOG: usize = 256;
