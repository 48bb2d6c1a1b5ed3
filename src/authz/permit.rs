//! Proof that the gate said yes, and that it was paid for.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::Terms;
use crate::clock::Timestamp;
use crate::credential::token::Token;
use crate::limit::{Seat, Statement};

/// Only the gate makes one, and nothing is forwarded without it.
#[derive(Debug)]
#[must_use]
pub struct Permit<'s> {
    terms: Terms<'s>,
    statement: Statement<'s>,
    seat: Option<Seat>,
    token: Option<Arc<Token>>,
}

impl<'s> Permit<'s> {
    pub(super) const fn issue(
        terms: Terms<'s>,
        statement: Statement<'s>,
        seat: Option<Seat>,
        token: Option<Arc<Token>>,
    ) -> Self {
        Self { terms, statement, seat, token }
    }

    /// The terms of the yes.
    #[must_use]
    pub const fn terms(&self) -> &Terms<'s> {
        &self.terms
    }

    /// The access token that the caller has proven, of an app or of a user.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// How the limits stand that were charged.
    #[must_use]
    pub const fn statement(&self) -> &Statement<'s> {
        &self.statement
    }

    /// Notes that the service has answered after `delay`.
    pub fn answered(&self, delay: Duration, now: Timestamp) {
        if let Some(seat) = &self.seat {
            seat.answered(delay, now);
        }
    }
}
