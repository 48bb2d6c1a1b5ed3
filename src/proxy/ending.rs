//! Whether an HTTP/1 connection is to end, and how much of a hurry there is.

use std::cell::Cell;

use super::context::Signal;

/// How a connection is to end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Wish {
    /// When nothing is under way.
    AtOnce,
    /// With the next request, so that nobody writes into a connection that is just being closed.
    AtNext,
    /// When its ends want it to.
    #[default]
    Not,
}

/// Whether a connection is to end, as both of its halves know it.
#[derive(Debug, Default)]
pub(super) struct Ending(Cell<Wish>);

impl Ending {
    /// Whether no further request is to be expected.
    pub(super) fn is_wished(&self) -> bool {
        self.0.get() != Wish::Not
    }

    /// Whether it is to end in this manner.
    pub(super) fn is(&self, wish: Wish) -> bool {
        self.0.get() == wish
    }

    /// It is to end in this manner.
    pub(super) fn set(&self, wish: Wish) {
        self.0.set(wish);
    }

    /// Does as everybody was told.
    pub(super) fn heed(&self, signal: &Signal) {
        if signal.draining && !self.is(Wish::AtOnce) {
            self.set(if signal.heir { Wish::AtNext } else { Wish::AtOnce });
        }
    }
}
