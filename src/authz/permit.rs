//! Proof that the gate said yes.

use crate::authz::Terms;

/// Only the gate makes one, and nothing is forwarded without it.
#[derive(Debug)]
#[must_use]
pub struct Permit<'s>(Terms<'s>);

impl<'s> Permit<'s> {
    pub(super) const fn issue(terms: Terms<'s>) -> Self {
        Self(terms)
    }

    /// The terms of the yes.
    #[must_use]
    pub const fn terms(&self) -> &Terms<'s> {
        &self.0
    }
}
