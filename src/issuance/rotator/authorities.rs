//! Moves authorities: on command, and of their own accord at half of their lives.
//!
//! ```text
//! prepare ─▶ distribute ─▶ acknowledged by everyone who counts ─▶ activate ─▶ drain ─▶ retire
//! ```
//!
//! Only a root has to be distributed, because an issuing authority travels with each leaf. A root that is due is prepared, and
//! signs once everyone who counts on this host has loaded it and others have had time to fetch it. An issuing authority that is
//! due replaces its predecessor at once: whoever does not know its root could not believe the predecessor's leaves either. An
//! operator's change is refused on both levels while somebody lags, unless it is insisted on.
//!
//! **Invariant:** one exception to waiting. When the active root is too old to sign another issuing authority, the next one
//! takes over whoever lags, for otherwise everybody would be left without.

use super::{DROP_PAUSE, IssuanceError, Mode, Rotator, TIDY_PAUSE, Tracked, Untidy, try_out};
use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::issuance::change::{Change, Changed, Insistence, Run, Verb};
use crate::issuance::feed::HierarchyView;
use crate::pki::{Hierarchy, HierarchyError, KeySource, Level, LocalKeys, Renewal, Slot, Step};

/// What a change comes to.
pub(super) struct Plan {
    pub(super) next: Hierarchy,
    pub(super) changed: Changed,
}

impl Rotator {
    /// Does what an operator asked for, or only tries it out.
    pub(super) fn change(&mut self, change: &Change, now: Timestamp) -> Result<Changed, IssuanceError> {
        if let Some(id) = self.done_already(change) {
            return Ok(Changed { id, left_behind: Vec::new() });
        }
        let Change { insistence, run, .. } = *change;
        let (level, verb) = self.both_together(change);
        // What is only tried out must leave nothing behind, wherever keys are kept.
        let keys: &dyn KeySource = match run {
            Run::Real => self.directory.keys(),
            Run::Rehearsal => &LocalKeys,
        };
        let plan = match (&verb, run) {
            (Verb::Rotate, Run::Real) => {
                let id = self.prepared_for_use(level, now)?;
                self.plan_activation(level, id, insistence, self.directory.keys(), now)?
            }
            (Verb::Rotate, Run::Rehearsal) => self.plan_rotation(level, now)?,
            (verb, _) => self.plan(level, verb, insistence, keys, now)?,
        };
        match run {
            Run::Rehearsal => try_out(&self.settings, Some(&self.hierarchy), &plan.next, now)?,
            Run::Real => {
                let signer = self.hierarchy.issuing().active.id().clone();
                self.adopt(plan.next, now)?;
                for left_behind in &plan.changed.left_behind {
                    tracing::warn!(authority = %plan.changed.id, left_behind, "somebody is left behind by force");
                }
                if self.hierarchy.issuing().active.id() != &signer {
                    self.renew_all(self.holders.keys().cloned().collect(), now);
                }
            }
        }
        Ok(plan.changed)
    }

    /// The authority that stands already where it is to be brought.
    fn done_already(&self, change: &Change) -> Option<AuthorityId> {
        let slots = self.hierarchy.slots(change.level);
        match &change.verb {
            Verb::Activate(Some(id)) | Verb::RollBack(Some(id)) if slots.active.id() == id => {
                Some(id.clone())
            }
            Verb::Prepare => slots.prepared.as_ref().map(|prepared| prepared.id().clone()),
            Verb::Discard(Some(id)) | Verb::Retire(id)
                if slots.iter().all(|(_, authority)| authority.id() != id) =>
            {
                Some(id.clone())
            }
            Verb::Activate(_) | Verb::Discard(_) | Verb::Retire(_) | Verb::RollBack(_) | Verb::Rotate => None,
        }
    }

    fn plan(
        &self,
        level: Level,
        verb: &Verb,
        insistence: Insistence,
        keys: &dyn KeySource,
        now: Timestamp,
    ) -> Result<Plan, IssuanceError> {
        match verb {
            Verb::Activate(id) => {
                let id = self.named_or_prepared(level, id.as_ref())?;
                self.plan_activation(level, id, insistence, keys, now)
            }
            Verb::Discard(id) => {
                let id = self.named_or_prepared(level, id.as_ref())?;
                Ok(Plan::of(self.hierarchy.discard(level, &id)?, id))
            }
            Verb::Prepare => {
                let next = self.prepared(&self.hierarchy, level, keys, now)?;
                let id = prepared_in(&next, level)?;
                Ok(Plan::of(next, id))
            }
            Verb::Retire(id) => self.plan_retirement(level, id, insistence, now),
            Verb::RollBack(id) => self.plan_roll_back(level, id.as_ref(), keys, now),
            Verb::Rotate => self.plan_rotation(level, now),
        }
    }

    pub(super) fn plan_activation(
        &self,
        level: Level,
        id: AuthorityId,
        insistence: Insistence,
        keys: &dyn KeySource,
        now: Timestamp,
    ) -> Result<Plan, IssuanceError> {
        self.expect_not_revoked(level, &id)?;
        let next = self.activated(&self.hierarchy, level, &id, keys, now)?;
        let waits_for = self.waits_for(level, now);
        if insistence == Insistence::Heed && !waits_for.is_empty() {
            return Err(IssuanceError::NotAcknowledged { id, waits_for });
        }
        Ok(Plan { next, changed: Changed { id, left_behind: waits_for } })
    }

    /// Preparing and activating in one, as it would be if nobody lagged.
    pub(super) fn plan_rotation(&self, level: Level, now: Timestamp) -> Result<Plan, IssuanceError> {
        let prepared = match &self.hierarchy.slots(level).prepared {
            Some(_) => self.hierarchy.clone(),
            None => self.prepared(&self.hierarchy, level, &LocalKeys, now)?,
        };
        let id = prepared_in(&prepared, level)?;
        Ok(Plan::of(self.activated(&prepared, level, &id, &LocalKeys, now)?, id))
    }

    fn plan_retirement(
        &self,
        level: Level,
        id: &AuthorityId,
        insistence: Insistence,
        now: Timestamp,
    ) -> Result<Plan, IssuanceError> {
        let next = self.hierarchy.drop_early(level, id)?;
        let retired = self.hierarchy.slots(level).retired.iter();
        let still_used = retired.filter(|retired| retired.authority.id() == id && now <= retired.until);
        let Some(until) = still_used.map(|retired| retired.until).next() else {
            return Ok(Plan::of(next, id.clone()));
        };
        if insistence == Insistence::Heed {
            return Err(HierarchyError::StillInUse { id: id.clone(), until }.into());
        }
        let left_behind = vec![match level {
            Level::Issuing => format!(
                "what {id} signed is believed until {until} all the same; to end it earlier, revoke the authority"
            ),
            Level::Root => format!(
                "whoever still shows a certificate under {id} is refused from now on; the last one ends at {until}"
            ),
        }];
        Ok(Plan { next, changed: Changed { id: id.clone(), left_behind } })
    }

    fn plan_roll_back(
        &self,
        level: Level,
        id: Option<&AuthorityId>,
        keys: &dyn KeySource,
        now: Timestamp,
    ) -> Result<Plan, IssuanceError> {
        let latest =
            || self.hierarchy.slots(level).retired.last().map(|retired| retired.authority.id().clone());
        let id = id.cloned().or_else(latest);
        let id = id.ok_or(IssuanceError::Nothing { level, slot: Slot::Retired })?;
        self.expect_not_revoked(level, &id)?;
        let until = self.last_leaf;
        let next = match level {
            Level::Issuing => self.hierarchy.roll_back_issuing(&id, until, now)?,
            Level::Root => {
                self.hierarchy.roll_back_root(&id, &self.settings.issuing_plan(keys), until, now)?
            }
        };
        let not_after = next.issuing().active.life().not_after;
        if now + self.settings.longest_leaf() > not_after {
            return Err(IssuanceError::TooOld { id, not_after });
        }
        Ok(Plan::of(next, id))
    }

    fn named_or_prepared(
        &self,
        level: Level,
        named: Option<&AuthorityId>,
    ) -> Result<AuthorityId, IssuanceError> {
        named.map_or_else(|| prepared_in(&self.hierarchy, level), |id| Ok(id.clone()))
    }

    /// Who has to know the authority that is to be activated and does not, one phrase each.
    pub(super) fn waits_for(&self, level: Level, now: Timestamp) -> Vec<String> {
        let sequence = match level {
            Level::Issuing => self.known_with,
            Level::Root => self.hierarchy.sequence(),
        };
        let mut waits_for: Vec<String> = match (&self.acknowledged, level) {
            (Some(acknowledged), _) => {
                acknowledged.borrow().laggards(sequence).iter().map(ToString::to_string).collect()
            }
            (None, Level::Root) => vec!["the agent, which is not running".to_owned()],
            (None, Level::Issuing) => Vec::new(),
        };
        let prepared = self.hierarchy.roots().prepared.as_ref().filter(|_| level == Level::Root);
        if let Some(at) = prepared.map(|root| root.life().issued_at + self.settings.distribute)
            && now < at
        {
            waits_for.push(format!("other hosts, which have until {at} to fetch the bundle"));
        }
        waits_for
    }

    /// How the authorities stand.
    pub(super) fn view(&self, now: Timestamp) -> HierarchyView {
        let distribute = self.settings.distribute;
        // The time that others have is no delay.
        let mut roll_over = self.roll_over.view(now - distribute);
        if self.settings.mode == Mode::Subordinate {
            roll_over.overdue = self.root_ends_too_soon(now);
        }
        HierarchyView {
            awaiting: self.awaiting(now),
            shortened: self.shortened(),
            untidy: self.untidy.as_ref().map(|untidy| untidy.why.clone()),
            ..HierarchyView::of(
                &self.hierarchy,
                &self.revocations,
                self.rotation.view(now),
                roll_over,
                distribute,
            )
        }
    }

    /// Goes one step further with a root that is due. A failure is noted and followed by another attempt.
    pub(super) fn roll_root_over(&mut self, now: Timestamp) {
        let roots = self.hierarchy.roots();
        let unborn = now < roots.active.life().not_before;
        // Where the root is kept elsewhere none is made here; what is installed under the next one brings it along.
        if unborn
            || self.settings.mode == Mode::Subordinate
            || roots.is_rolled_back()
            || self.roll_over.step(now) == Step::Wait
        {
            return;
        }
        match self.next_step_of_root(now) {
            Ok(()) => self.roll_over.failure = None,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "root not rolled over");
                self.roll_over.fail(&error, now, self.means.rng.as_mut());
            }
        }
    }

    fn next_step_of_root(&mut self, now: Timestamp) -> Result<(), IssuanceError> {
        let id = self.prepared_for_use(Level::Root, now)?;
        if !self.waits_for(Level::Root, now).is_empty() {
            return Ok(());
        }
        let keys = self.directory.keys();
        self.adopt(self.activated(&self.hierarchy, Level::Root, &id, keys, now)?, now)?;
        self.renew_all(self.holders.keys().cloned().collect(), now);
        Ok(())
    }

    /// Replaces the issuing authority of its own accord: a failure is noted and followed by another attempt.
    pub(super) fn rotate_or_retry(&mut self, now: Timestamp) {
        if let Err(error) = self.rotate(now) {
            tracing::warn!(error = %Causes(&error), "issuing authority not rotated");
            self.rotation.fail(&error, now, self.means.rng.as_mut());
        }
    }

    /// Replaces the issuing authority and issues everything anew under the next one.
    pub(super) fn rotate(&mut self, now: Timestamp) -> Result<(), IssuanceError> {
        if !self.makes_its_own() {
            return self.succeed(now);
        }
        self.replace_active(now)?;
        self.renew_all(self.holders.keys().cloned().collect(), now);
        Ok(())
    }

    /// Prepares (unless that was done) and activates the next issuing authority, under a new root if it must be.
    pub(super) fn replace_active(&mut self, now: Timestamp) -> Result<(), IssuanceError> {
        let level = self.level_to_replace(now);
        let id = self.prepared_for_use(level, now)?;
        if level == Level::Root {
            let left_behind = self.waits_for(level, now).join(", ");
            tracing::error!(authority = %id, left_behind, "the root is too old to sign; the next one takes over now");
        }
        let keys = self.directory.keys();
        self.adopt(self.activated(&self.hierarchy, level, &id, keys, now)?, now)
    }

    /// The level on which the next authority has to be, so that there is an issuing authority that lives as long as it is to.
    pub(super) fn level_to_replace(&self, now: Timestamp) -> Level {
        let end = (now + self.settings.issuing_ttl).to_whole_second();
        if end > self.hierarchy.roots().active.life().not_after { Level::Root } else { Level::Issuing }
    }

    /// The prepared authority, a new one if there is none or if it is of no use any more.
    pub(super) fn prepared_for_use(
        &mut self,
        level: Level,
        now: Timestamp,
    ) -> Result<AuthorityId, IssuanceError> {
        if let Some(prepared) = &self.hierarchy.slots(level).prepared {
            let id = prepared.id().clone();
            // What was signed elsewhere cannot be made anew here.
            let is_only_one = !self.makes_its_own() || prepared.key().is_none();
            let is_sound = self.revocations.of_authority(prepared).is_none();
            let is_fresh = Renewal::of_authority(prepared.life()).handle_timeout(now) == Step::Wait;
            if is_only_one || is_sound && is_fresh {
                return Ok(id);
            }
            self.adopt(self.hierarchy.discard(level, &id)?, now)?;
        }
        let keys = self.directory.keys();
        self.adopt(self.prepared(&self.hierarchy, level, keys, now)?, now)?;
        prepared_in(&self.hierarchy, level)
    }

    fn prepared(
        &self,
        from: &Hierarchy,
        level: Level,
        keys: &dyn KeySource,
        now: Timestamp,
    ) -> Result<Hierarchy, IssuanceError> {
        match (level, self.settings.mode) {
            (Level::Issuing, _) => Ok(from.prepare_issuing(&self.settings.issuing_plan(keys), now)?),
            (Level::Root, Mode::Standalone) => Ok(from.prepare_root(&self.settings.root_plan(keys), now)?),
            (Level::Root, Mode::Subordinate) => Err(IssuanceError::RootElsewhere),
        }
    }

    pub(super) fn activated(
        &self,
        from: &Hierarchy,
        level: Level,
        id: &AuthorityId,
        keys: &dyn KeySource,
        now: Timestamp,
    ) -> Result<Hierarchy, HierarchyError> {
        let until = self.last_leaf.max(now + self.settings.longest_leaf());
        match level {
            Level::Issuing => from.activate_issuing(id, until, now),
            Level::Root => from.activate_root(id, &self.settings.issuing_plan(keys), until, now),
        }
    }

    /// Finishes what a commit, or the start, had to leave undone on the disk.
    pub(super) fn tidy_up(&mut self, now: Timestamp) {
        let Some(untidy) = &self.untidy else { return };
        // A clock that was set back must not put it off.
        if untidy.since <= now && now < untidy.since + TIDY_PAUSE {
            return;
        }
        let left = match self.directory.commit(&self.hierarchy) {
            Ok(committed) => committed.untidy,
            Err(error) => vec![error],
        };
        let why = left.first().map(|error| Causes(error).to_string());
        match why {
            None => {
                tracing::info!("state directory tidied up");
                self.untidy = None;
            }
            Some(why) => self.untidy = Some(Untidy { since: now, why }),
        }
    }

    pub(super) fn forget_drained(&mut self, now: Timestamp) {
        // No hurry and nothing to lose, so one attempt a minute is enough.
        let too_soon = self.drop_failed.is_some_and(|failed| failed <= now && now < failed + DROP_PAUSE);
        let Some(next) = self.hierarchy.drop_drained(now).filter(|_| !too_soon) else { return };
        match self.adopt(next, now) {
            Ok(()) => self.drop_failed = None,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "drained authority not dropped");
                self.drop_failed = Some(now);
            }
        }
    }

    /// Tries `next` out, stores it and, once that is done, goes by it.
    pub(super) fn adopt(&mut self, next: Hierarchy, now: Timestamp) -> Result<(), IssuanceError> {
        try_out(&self.settings, Some(&self.hierarchy), &next, now)?;
        let committed = self.directory.commit(&next)?;
        self.untidy = Untidy::of(&committed.untidy, now);
        let former = std::mem::replace(&mut self.hierarchy, next);
        self.lists.is_touched = true;
        let (roots, issuing) = (self.hierarchy.roots(), self.hierarchy.issuing());
        if former.issuing().active.id() != issuing.active.id() {
            self.rotation = Tracked::of_authority(&issuing.active);
            let again = former.issuing().retired.iter();
            let again = again.filter(|retired| retired.authority.id() == issuing.active.id());
            self.last_leaf = again.map(|retired| retired.until).fold(now, Timestamp::max);
        }
        if former.roots().active.id() != roots.active.id() {
            self.roll_over = Tracked::of_authority(&roots.active);
            self.known_with = self.hierarchy.sequence();
        }
        if former.sequence() != self.hierarchy.sequence() {
            self.generation = self.generation.saturating_add(1);
        }
        tell(&former, &self.hierarchy);
        Ok(())
    }
}

impl Plan {
    const fn of(next: Hierarchy, id: AuthorityId) -> Self {
        Self { next, changed: Changed { id, left_behind: Vec::new() } }
    }
}

fn prepared_in(hierarchy: &Hierarchy, level: Level) -> Result<AuthorityId, IssuanceError> {
    let prepared = hierarchy.slots(level).prepared.as_ref();
    let id = prepared.map(|prepared| prepared.id().clone());
    id.ok_or(IssuanceError::Nothing { level, slot: Slot::Prepared })
}

/// Logs what has moved.
fn tell(before: &Hierarchy, after: &Hierarchy) {
    for level in [Level::Root, Level::Issuing] {
        let (before, after) = (before.slots(level), after.slots(level));
        for (slot, authority) in after.iter() {
            let known = before.iter().any(|(was, found)| was == slot && found.id() == authority.id());
            if !known {
                tracing::info!(authority = %authority.id(), level = level.as_str(), slot = slot.as_str(), "authority moved");
            }
        }
        for (_, authority) in before.iter() {
            if after.iter().all(|(_, found)| found.id() != authority.id()) {
                tracing::info!(authority = %authority.id(), level = level.as_str(), "authority gone");
            }
        }
    }
}
