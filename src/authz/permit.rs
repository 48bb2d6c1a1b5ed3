//! Proof that the gate said yes, and that it was paid for.

use std::sync::Arc;
use std::time::Duration;

use crate::authz::Terms;
use crate::clock::Timestamp;
use crate::credential::Principal;
use crate::credential::token::Token;
use crate::limit::{Seat, Statement};
use crate::registry::Credential;

/// Only the gate makes one, and nothing is forwarded without it.
#[derive(Debug)]
#[must_use]
pub struct Permit<'s> {
    terms: Terms<'s>,
    statement: Statement<'s>,
    seat: Option<Seat>,
    token: Option<Arc<Token>>,
    proven: [Option<&'s Credential>; 4],
}

impl<'s> Permit<'s> {
    pub(super) fn issue(
        terms: Terms<'s>,
        statement: Statement<'s>,
        seat: Option<Seat>,
        principal: &Principal<'s>,
    ) -> Self {
        let token = principal.token().cloned();
        Self { terms, statement, seat, token, proven: principal.proven() }
    }

    /// All credentials that the caller has proven, each once, the strongest first.
    pub fn credentials(&self) -> impl Iterator<Item = &'s Credential> {
        let proven = &self.proven;
        proven.iter().enumerate().filter_map(|(at, credential)| {
            let credential = (*credential)?;
            // A certificate, say, and a token that was asked for by it.
            let known = proven.iter().take(at).flatten().any(|earlier| earlier.id == credential.id);
            (!known).then_some(credential)
        })
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
