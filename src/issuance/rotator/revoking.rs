//! Revokes authorities: first another one takes over where it must, then what is revoked is written down.
//!
//! An issuing authority that is revoked stays where it is until all that it signed has expired, since its list needs its key; it
//! never signs anything else again. A root goes out of the trust bundle at once, with all below it, because a root is believed
//! for being in the bundle and for nothing else.
//!
//! **Invariant:** each step is stored before the next one, and asking again goes on where it stopped.

use std::sync::Arc;
use std::time::Duration;

use super::{IssuanceError, Rotator, try_out};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::issuance::change::{AuthorityRevocation, Changed, Insistence, Run};
use crate::pki::{Authority, Hierarchy, Level, Revocation, Revoked, Slot};
use crate::store::revocation_file;

/// After a failure to replace what is revoked the next attempt waits this long.
const PAUSE: Duration = Duration::from_secs(5);

impl Rotator {
    /// Revokes an authority with all below it, or only tries it out.
    pub(super) fn revoke_authority(
        &mut self,
        order: &AuthorityRevocation,
        now: Timestamp,
    ) -> Result<Changed, IssuanceError> {
        let AuthorityRevocation { level, ref id, insistence, run, .. } = *order;
        let slots = self.hierarchy.slots(level);
        let Some((slot, authority)) = slots.iter().find(|(_, authority)| authority.id() == id) else {
            if self.was_revoked(level, id) {
                return Ok(Changed { id: id.clone(), left_behind: Vec::new() });
            }
            return Err(IssuanceError::UnknownAuthority { level, id: id.clone() });
        };
        let authority = Arc::clone(authority);
        let mut left_behind = Vec::new();
        if run == Run::Rehearsal {
            if slot == Slot::Active {
                let next = self.plan_rotation(level, now)?.next;
                try_out(&self.settings, Some(&self.hierarchy), &next, now)?;
                left_behind = self.waits_for(level, now);
            }
            return Ok(Changed { id: id.clone(), left_behind });
        }
        if slot == Slot::Active {
            left_behind = self.take_over(level, insistence, now)?;
        }
        self.write_down(order, &authority, now)?;
        if let Some(next) = self.without_revoked(level, id)? {
            self.adopt(next, now)?;
        }
        tracing::warn!(authority = %id, level = level.as_str(), reason = order.reason, "authority revoked");
        Ok(Changed { id: id.clone(), left_behind })
    }

    /// Lets the next authority of a level sign, and issues everything anew under it.
    fn take_over(
        &mut self,
        level: Level,
        insistence: Insistence,
        now: Timestamp,
    ) -> Result<Vec<String>, IssuanceError> {
        let level = level.max(self.level_to_replace(now));
        let next = self.prepared_for_use(level, now)?;
        let plan = self.plan_activation(level, next, insistence, self.directory.keys(), now)?;
        self.adopt(plan.next, now)?;
        self.renew_all(self.holders.keys().cloned().collect(), now);
        Ok(plan.changed.left_behind)
    }

    /// Writes down that `authority` is revoked; with a root, also all that it has signed, for those who still have it.
    fn write_down(
        &mut self,
        order: &AuthorityRevocation,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(), IssuanceError> {
        let below = self.hierarchy.issuing().iter().filter(|(_, below)| below.is_signed_by(authority));
        let below = below.map(|(_, below)| &**below).filter(|_| order.level == Level::Root);
        let targets: Vec<&Authority> = std::iter::once(authority).chain(below).collect();
        let revocations = revocation_file::update(self.directory.path(), |list| {
            targets.iter().fold(list, |list, target| {
                let reason = format!("{}{}", mark(target.level(), target.id()), order.reason);
                let revocation = Revocation { at: now.to_whole_second(), reason };
                match Revoked::serial_of(target.certificate()) {
                    Some(revoked) => list.with(revoked, revocation),
                    None => list,
                }
            })
        })?;
        self.revocations = Arc::new(revocations);
        self.lists.is_touched = true;
        Ok(())
    }

    /// The authorities without one that has no place among them any more.
    fn without_revoked(&self, level: Level, id: &AuthorityId) -> Result<Option<Hierarchy>, IssuanceError> {
        let slots = self.hierarchy.slots(level);
        if slots.prepared.as_ref().is_some_and(|prepared| prepared.id() == id) {
            return Ok(Some(self.hierarchy.discard(level, id)?));
        }
        Ok(match level {
            Level::Issuing => None,
            Level::Root => Some(self.hierarchy.drop_early(level, id)?),
        })
    }

    /// Goes by what is revoked now. If that cannot be read, what was revoked stays so.
    pub(super) fn read_revocations(&mut self) {
        match revocation_file::load(self.directory.path()) {
            Ok(revocations) => {
                self.revocations = Arc::new(revocations);
                self.lists.is_touched = true;
            }
            Err(error) => tracing::error!(error = %Causes(&error), "what is revoked cannot be read"),
        }
    }

    /// Whether an authority that is not there any more was revoked by its name.
    fn was_revoked(&self, level: Level, id: &AuthorityId) -> bool {
        let mark = mark(level, id);
        self.revocations.iter().any(|(_, revocation)| revocation.reason.starts_with(&mark))
    }

    /// Whether an authority may sign, or sign again.
    pub(super) fn expect_not_revoked(&self, level: Level, id: &AuthorityId) -> Result<(), IssuanceError> {
        let of_that_name = self.hierarchy.slots(level).iter().find(|(_, authority)| authority.id() == id);
        let Some((_, authority)) = of_that_name else { return Ok(()) };
        let above = self.hierarchy.roots().iter().find(|(_, root)| authority.is_signed_by(root));
        let of = |authority: &Authority| self.revocations.of_authority(authority);
        match of(authority).or_else(|| above.and_then(|(_, root)| of(root))) {
            Some(revoked) => Err(IssuanceError::Revoked { id: id.clone(), revoked }),
            None => Ok(()),
        }
    }

    /// Replaces what signs if it was revoked like any certificate: nobody believes what it signed, so nobody is waited for.
    pub(super) fn replace_revoked(&mut self, now: Timestamp) {
        let levels = [Level::Root, Level::Issuing].into_iter();
        let mut revoked = levels
            .filter(|level| self.revocations.of_authority(&self.hierarchy.slots(*level).active).is_some());
        let Some(level) = revoked.next() else { return };
        if self.replacing_failed.is_some_and(|failed| failed <= now && now < failed + PAUSE) {
            return;
        }
        match self.take_over(level, Insistence::Force, now) {
            Ok(left_behind) => {
                let (level, left_behind) = (level.as_str(), left_behind.join(", "));
                tracing::error!(
                    level,
                    left_behind,
                    "the authority that signs is revoked; the next one took over"
                );
                self.replacing_failed = None;
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "the authority that signs is revoked, and not replaced");
                self.replacing_failed = Some(now);
            }
        }
    }
}

/// How the reason begins when an authority is revoked by its name.
fn mark(level: Level, id: &AuthorityId) -> String {
    format!("{level} {id}: ")
}
