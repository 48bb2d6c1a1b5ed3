//! Follows an issuing authority whose root signs elsewhere: asks for its successor, installs that, and makes do until then.
//!
//! At half of its life the request for the next one is made ready, and the agent says so until a certificate for it is
//! installed. Meanwhile the active authority goes on. When a leaf would outlive it, the leaf ends with it, which is shorter than
//! was configured: each is logged, and status and metrics count them, but the host does not go dark before it must.
//!
//! An authority under a root that is not known to everyone waits for those who lag and for `distribute`, until the leaves of
//! the present one would be shorter than half of what they should be. Then it takes over whoever lags, for otherwise
//! everybody would be left without.

use std::sync::Arc;
use std::time::Duration;

use super::{Ending, IssuanceError, Means, Mode, Rotator, Settings, try_out};
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::id::{AuthorityId, WorkloadId};
use crate::issuance::change::{Change, Run, Verb};
use crate::issuance::feed::Awaiting;
use crate::issuance::subordinate::{
    InstallOrder, Installed, Placement, Reach, Wanted, drop_spent, place, ready_request,
};
use crate::pki::{Hierarchy, Level, Lifetimes, Profile, Slot, SystemRng};
use crate::store::AuthorityDir;

/// Installs what was signed elsewhere while no agent runs.
///
/// # Errors
/// It is of no use, or could not be stored; nothing was changed then.
pub fn install_at_rest(
    directory: AuthorityDir,
    settings: &Settings,
    order: &InstallOrder,
    clock: Arc<dyn Clock>,
) -> Result<Installed, IssuanceError> {
    let now = clock.now();
    if let Some(stored) = directory.load()? {
        let means = Means { clock, rng: Box::new(SystemRng) };
        let (mut rotator, _) = Rotator::idle(settings.clone(), directory, stored.hierarchy, means, 0)?;
        return rotator.install(order, now);
    }
    let Placement { next, id, level, slot } = place(&directory, None, settings, order, now)?;
    if let Some(first) = &next {
        try_out(settings, None, first, now)?;
        if order.run == Run::Real {
            for error in directory.commit(first)?.untidy {
                tracing::warn!(error = %Causes(&error), "state directory left untidy");
            }
            drop_spent(&directory, first)?;
        }
    }
    Ok(Installed { id, level, slot, waits_for: Vec::new() })
}

impl Rotator {
    /// Installs what was signed elsewhere, and lets it sign unless somebody would be left behind.
    pub(super) fn install(
        &mut self,
        order: &InstallOrder,
        now: Timestamp,
    ) -> Result<Installed, IssuanceError> {
        let place = place(&self.directory, Some(&self.hierarchy), &self.settings, order, now)?;
        let Placement { next, id, level, mut slot } = place;
        let next = next.unwrap_or_else(|| self.hierarchy.clone());
        try_out(&self.settings, Some(&self.hierarchy), &next, now)?;
        if order.run == Run::Real {
            self.adopt(next.clone(), now)?;
            drop_spent(&self.directory, &self.hierarchy)?;
        }
        let mut waits_for = Vec::new();
        if slot == Slot::Prepared && order.reach == Reach::Active {
            let (level, id) = signs_next(&next, &id);
            waits_for = self.waits_for_in(&next, level, now);
            if waits_for.is_empty() || self.is_expired(now) {
                let active = self.activated(&next, level, &id, self.directory.keys(), now)?;
                slot = Slot::Active;
                if order.run == Run::Real {
                    self.adopt(active, now)?;
                    self.renew_all(self.holders.keys().cloned().collect(), now);
                } else {
                    try_out(&self.settings, Some(&next), &active, now)?;
                }
            }
        }
        Ok(Installed { id, level, slot, waits_for })
    }

    /// What has to be known before `next` can go on.
    fn waits_for_in(&self, next: &Hierarchy, level: Level, now: Timestamp) -> Vec<String> {
        if next.sequence() == self.hierarchy.sequence() {
            return self.waits_for(level, now);
        }
        vec!["everyone who has to load the new root first".to_owned()]
    }

    /// Whether the next issuing authority can be made here.
    pub(super) fn makes_its_own(&self) -> bool {
        self.hierarchy.roots().active.key().is_some() && self.hierarchy.prepared_pair().is_none()
    }

    /// Goes one step further where the next issuing authority has to be signed elsewhere.
    pub(super) fn succeed(&mut self, now: Timestamp) -> Result<(), IssuanceError> {
        let Some(prepared) = self.hierarchy.issuing().prepared.clone() else {
            return self.ask_for_signature(now);
        };
        if now + self.settings.longest_leaf() > prepared.life().not_after {
            self.adopt(self.hierarchy.discard(Level::Issuing, prepared.id())?, now)?;
            return self.ask_for_signature(now);
        }
        let (level, id) = signs_next(&self.hierarchy, prepared.id());
        let waits_for = self.waits_for(level, now);
        if level == Level::Root && !waits_for.is_empty() {
            if !self.is_at_its_last(now) {
                return Ok(());
            }
            let left_behind = waits_for.join(", ");
            tracing::error!(authority = %id, left_behind, "the issuing authority is about to end; the next one takes over now");
        }
        self.adopt(self.activated(&self.hierarchy, level, &id, self.directory.keys(), now)?, now)?;
        self.renew_all(self.holders.keys().cloned().collect(), now);
        Ok(())
    }

    fn ask_for_signature(&mut self, now: Timestamp) -> Result<(), IssuanceError> {
        let active = &self.hierarchy.issuing().active;
        if self.asked_for.as_ref() == Some(active.id()) {
            return Ok(());
        }
        if self.settings.mode == Mode::Subordinate {
            ready_request(&self.directory, Some(&self.hierarchy), &self.settings, Wanted::Same, Run::Real)?;
        }
        let not_after = active.life().not_after;
        tracing::warn!(authority = %active.id(), %not_after, %now, "the next issuing authority waits for a signature: `postern ca csr`");
        self.asked_for = Some(active.id().clone());
        Ok(())
    }

    /// Replaces the active authority if it cannot sign for as long as a leaf lives, and says whether it stays. Where it cannot
    /// be replaced, it stays as long as it lives.
    pub(super) fn keep_or_replace_active(&mut self, now: Timestamp) -> Result<bool, IssuanceError> {
        if !self.active_cannot_serve(now) {
            return Ok(true);
        }
        let former = self.hierarchy.issuing().active.id().clone();
        if self.makes_its_own() {
            self.replace_active(now)?;
        } else {
            self.succeed(now)?;
            self.expect_unexpired(now)?;
        }
        Ok(self.hierarchy.issuing().active.id() == &former)
    }

    /// What is to be signed of `profile`: a leaf must not outlive its authority, which cannot always be replaced in time.
    pub(super) fn within_authority(&self, profile: &Profile, now: Timestamp) -> (Profile, Ending) {
        let left = self.hierarchy.issuing().active.life().not_after.since(now);
        if self.makes_its_own() || profile.ttl <= left || left < SHORTEST {
            return (profile.clone(), Ending::Profile);
        }
        (Profile { ttl: left, ..profile.clone() }, Ending::Authority)
    }

    /// Whether leaves of these settings fit the authority that is there, where that is not made to fit them.
    pub(super) fn check_leaves(&self, settings: &Settings) -> Result<(), IssuanceError> {
        if self.makes_its_own() {
            return Ok(());
        }
        let life = self.hierarchy.issuing().active.life();
        settings.workloads.iter().try_for_each(|(workload, profile)| {
            Lifetimes::check_leaf(profile.ttl, life.not_after.since(life.issued_at))
                .map_err(|source| IssuanceError::Lifetimes { workload: Some(workload.clone()), source })
        })
    }

    pub(super) fn expect_unexpired(&self, now: Timestamp) -> Result<(), IssuanceError> {
        let active = &self.hierarchy.issuing().active;
        if self.makes_its_own() || !self.is_expired(now) {
            return Ok(());
        }
        Err(IssuanceError::Expired { id: active.id().clone(), not_after: active.life().not_after })
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        now + SHORTEST > self.hierarchy.issuing().active.life().not_after
    }

    /// Whether leaves would be shorter than half of what they should be.
    fn is_at_its_last(&self, now: Timestamp) -> bool {
        self.hierarchy.issuing().active.life().not_after.since(now) < self.settings.longest_leaf() / 2
    }

    /// Since when the next issuing authority waits for a signature, if it does.
    pub(super) fn awaiting(&self, now: Timestamp) -> Option<Awaiting> {
        let (since, until) = (self.rotation.renewal.due(), self.hierarchy.issuing().active.life().not_after);
        let waits = !self.makes_its_own() && self.hierarchy.issuing().prepared.is_none() && now >= since;
        waits.then_some(Awaiting { since, until })
    }

    /// Whose certificates end with the authority.
    pub(super) fn shortened(&self) -> Vec<WorkloadId> {
        let shortened = self.holders.iter().filter(|(_, holder)| holder.ending == Ending::Authority);
        shortened.map(|(workload, _)| workload.clone()).collect()
    }

    /// Whether the root ends before another issuing authority of the present length would.
    pub(super) fn root_ends_too_soon(&self, now: Timestamp) -> bool {
        let life = self.hierarchy.issuing().active.life();
        now + life.not_after.since(life.issued_at) > self.hierarchy.roots().active.life().not_after
    }

    /// On which level a change takes place: an authority under a prepared root is activated together with that.
    pub(super) fn both_together(&self, change: &Change) -> (Level, Verb) {
        let pair = self.hierarchy.prepared_pair().filter(|_| change.level == Level::Issuing);
        let issuing = self.hierarchy.issuing().prepared.as_ref();
        match (&change.verb, pair) {
            (Verb::Activate(id), Some(root))
                if id.as_ref().is_none_or(|id| issuing.is_some_and(|issuing| issuing.id() == id)) =>
            {
                (Level::Root, Verb::Activate(Some(root.id().clone())))
            }
            (Verb::Rotate, Some(_)) => (Level::Root, Verb::Rotate),
            (verb, _) => (change.level, verb.clone()),
        }
    }
}

/// What has to be activated so that the prepared authority `id` signs.
fn signs_next(hierarchy: &Hierarchy, id: &AuthorityId) -> (Level, AuthorityId) {
    match hierarchy.prepared_pair() {
        Some(root) => (Level::Root, root.id().clone()),
        None => (Level::Issuing, id.clone()),
    }
}

/// No leaf lives shorter.
const SHORTEST: Duration = Duration::from_secs(1);
