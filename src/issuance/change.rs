//! What an operator can have done to the authorities, and what came of it.

use crate::id::AuthorityId;
use crate::pki::Level;

/// One thing to do on one level.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// On which level.
    pub level: Level,
    /// What.
    pub verb: Verb,
    /// Whether somebody may be left behind.
    pub insistence: Insistence,
    /// Whether it is meant.
    pub run: Run,
}

impl Change {
    /// Does `verb` unless somebody would be left behind.
    #[must_use]
    pub const fn new(level: Level, verb: Verb) -> Self {
        Self { level, verb, insistence: Insistence::Heed, run: Run::Real }
    }
}

/// What is done. Where an authority can be left out, the only one that it could be is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Let the prepared authority sign.
    Activate(Option<AuthorityId>),
    /// Throw the prepared authority away.
    Discard(Option<AuthorityId>),
    /// Make the next authority, but do not use it yet.
    Prepare,
    /// Forget a retired authority before everything that it signed has expired.
    Retire(AuthorityId),
    /// Let a retired authority sign again, and retire the one that does now.
    RollBack(Option<AuthorityId>),
    /// Prepare (unless that was done) and activate.
    Rotate,
}

/// Whether somebody may be left behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Insistence {
    /// Yes: it is done, and they are named.
    Force,
    /// No: it is refused then.
    Heed,
}

/// Whether it is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Run {
    /// It is done.
    Real,
    /// It is tried out, and nothing is kept.
    Rehearsal,
}

/// What was done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Which authority it was about.
    pub id: AuthorityId,
    /// Who was left behind by force, one sentence each.
    pub left_behind: Vec<String>,
}

/// An authority that is to be revoked with all below it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityRevocation {
    /// On which level it stands.
    pub level: Level,
    /// Which one.
    pub id: AuthorityId,
    /// Why, in the operator's words.
    pub reason: String,
    /// Whether somebody may be left behind, should it be the one that signs.
    pub insistence: Insistence,
    /// Whether it is meant.
    pub run: Run,
}
