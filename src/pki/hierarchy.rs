//! The whole CA: which authorities there are, which slot each is in, and how they may move.
//!
//! ```text
//! prepare ─▶ prepared ─ activate ─▶ active ─ (the next one is activated) ─▶ retired ─ drop ─▶ gone
//!                                     ▲                                       │
//!                                     ╰────────────── roll back ──────────────╯
//! ```
//!
//! Both levels move alike. A root that takes over brings its issuing authority along: what is signed from then on leads to it,
//! and the former root has nothing left to sign. If the root signs elsewhere, that is one that was signed there before. A prepared root is already in the trust bundle, so that it is known before anything is signed under
//! it; a retired one stays there until nothing that it signed is valid any more.
//!
//! **Invariant:** a hierarchy is a value. A transition returns another one and leaves the first as it was, so what could not
//! be stored never happened.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::TrustDomain;
use crate::pki::authority::{Authority, AuthorityError, AuthorityPlan, Level};
use crate::pki::bundle::TrustBundle;

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Slot {
    /// It signs.
    Active,
    /// It is made known, and will sign.
    Prepared,
    /// It signs no more; what it signed is still valid.
    Retired,
}

impl Slot {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Prepared => "prepared",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An authority that signs no more.
#[derive(Clone, Debug)]
pub struct Retired {
    /// Which one.
    pub authority: Arc<Authority>,
    /// When the last certificate that it signed has expired.
    pub until: Timestamp,
}

/// The authorities of one level.
#[derive(Clone, Debug)]
pub struct Slots {
    /// The next one, if it was made already.
    pub prepared: Option<Arc<Authority>>,
    /// The one that signs.
    pub active: Arc<Authority>,
    /// Former ones, the latest last.
    pub retired: Vec<Retired>,
}

impl Slots {
    /// Only an active authority.
    #[must_use]
    pub const fn of(active: Arc<Authority>) -> Self {
        Self { prepared: None, active, retired: Vec::new() }
    }

    /// All authorities with their slots: the active one, the prepared one, the retired ones from the latest on.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Arc<Authority>)> {
        std::iter::once((Slot::Active, &self.active))
            .chain(self.prepared.iter().map(|authority| (Slot::Prepared, authority)))
            .chain(self.retired.iter().rev().map(|retired| (Slot::Retired, &retired.authority)))
    }

    fn prepare(&self, authority: Arc<Authority>) -> Result<Self, HierarchyError> {
        match &self.prepared {
            Some(prepared) => Err(HierarchyError::AlreadyPrepared(prepared.id().clone())),
            None => Ok(Self { prepared: Some(authority), ..self.clone() }),
        }
    }

    fn discard(&self, id: &AuthorityId) -> Result<Self, HierarchyError> {
        self.expect_prepared(id)?;
        Ok(Self { prepared: None, ..self.clone() })
    }

    fn activate(&self, id: &AuthorityId, until: Timestamp, now: Timestamp) -> Result<Self, HierarchyError> {
        let next = self.expect_prepared(id)?;
        expect_valid(&next, now)?;
        let mut retired = self.retired.clone();
        retired.push(self.retiring(until));
        Ok(Self { prepared: None, active: next, retired })
    }

    /// Lets a retired authority sign again, and retires the one that did so since; what that one signed expires at `until`.
    fn reactivate(&self, id: &AuthorityId, until: Timestamp, now: Timestamp) -> Result<Self, HierarchyError> {
        let former = self.retired(id)?;
        expect_valid(&former.authority, now)?;
        let active = Arc::clone(&former.authority);
        let mut next = Self { active, ..self.clone() };
        next.retired.retain(|retired| retired.authority.id() != id);
        next.retired.push(self.retiring(until));
        Ok(next)
    }

    fn retiring(&self, until: Timestamp) -> Retired {
        Retired { authority: Arc::clone(&self.active), until: until.min(self.active.life().not_after) }
    }

    fn retired(&self, id: &AuthorityId) -> Result<&Retired, HierarchyError> {
        let found = self.retired.iter().find(|retired| retired.authority.id() == id);
        found.ok_or_else(|| HierarchyError::NotRetired(id.clone()))
    }

    /// Whether the active authority is one that was gone back to: a younger one has signed in the meantime.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        let made = self.active.life().issued_at;
        self.retired.iter().any(|retired| retired.authority.life().issued_at > made)
    }

    fn drop_retired(&self, id: &AuthorityId, now: Timestamp) -> Result<Self, HierarchyError> {
        let retired = self.retired(id)?;
        if now <= retired.until {
            return Err(HierarchyError::StillInUse { id: id.clone(), until: retired.until });
        }
        Ok(self.without(id))
    }

    fn without(&self, id: &AuthorityId) -> Self {
        let mut next = self.clone();
        next.retired.retain(|retired| retired.authority.id() != id);
        next
    }

    fn expect_prepared(&self, id: &AuthorityId) -> Result<Arc<Authority>, HierarchyError> {
        match &self.prepared {
            Some(prepared) if prepared.id() == id => Ok(Arc::clone(prepared)),
            Some(_) | None => Err(HierarchyError::NotPrepared(id.clone())),
        }
    }
}

/// Why an authority cannot move.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// There is a prepared one.
    #[error("{0} is prepared already: activate or discard it first")]
    AlreadyPrepared(AuthorityId),
    /// The new authority could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A root that signs elsewhere, and nothing here that it has signed.
    #[error(
        "no issuing authority under the root {0} is here, and its key is elsewhere: have one signed there (`postern ca csr` \
         here, `postern ca sign` there, `postern ca install` here)"
    )]
    NothingUnder(AuthorityId),
    /// It is not the prepared one.
    #[error("{0} is not prepared")]
    NotPrepared(AuthorityId),
    /// It is not a retired one.
    #[error("{0} is not retired")]
    NotRetired(AuthorityId),
    /// It is not valid now.
    #[error("{id} is valid from {not_before} to {not_after}, and the clock says {now}")]
    NotValid {
        /// Which one.
        id: AuthorityId,
        /// From when on it is valid.
        not_before: Timestamp,
        /// Until when it is valid.
        not_after: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// Something that it signed is still valid.
    #[error("what {id} signed is valid until {until}")]
    StillInUse {
        /// Which one.
        id: AuthorityId,
        /// How long.
        until: Timestamp,
    },
    /// It stands under a root that is not active yet.
    #[error("{id} stands under the prepared root {root}: activate that, and both sign")]
    UnderPreparedRoot {
        /// Which one.
        id: AuthorityId,
        /// Its root.
        root: AuthorityId,
    },
    /// It stands under a root that does not sign any more.
    #[error(
        "{id} stands under the retired root {root}: roll the root back, and it gets an issuing authority"
    )]
    UnderRetiredRoot {
        /// Which one.
        id: AuthorityId,
        /// Its root.
        root: AuthorityId,
    },
    /// It is signed by none of the roots.
    #[error("{0} is signed by none of the roots")]
    Unrooted(AuthorityId),
    /// It stands on the wrong level.
    #[error("{id} is of the wrong kind: a {found} where a {wanted} belongs")]
    WrongLevel {
        /// Which one.
        id: AuthorityId,
        /// What it is.
        found: Level,
        /// What it should be.
        wanted: Level,
    },
}

/// All authorities of one trust domain on this host.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    domain: TrustDomain,
    roots: Slots,
    issuing: Slots,
    sequence: u64,
}

impl Hierarchy {
    /// A new CA: a root and an issuing authority under it.
    pub fn create(
        domain: TrustDomain,
        root: &AuthorityPlan<'_>,
        issuing: &AuthorityPlan<'_>,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let root = Authority::make_root(&domain, root, now)?;
        let issuing = Authority::make_issuing(&root, &domain, issuing, now)?;
        Self::assemble(domain, Slots::of(Arc::new(root)), Slots::of(Arc::new(issuing)), 1)
    }

    /// A CA from its parts: each on its level, and every issuing authority signed by one of the roots.
    pub fn assemble(
        domain: TrustDomain,
        roots: Slots,
        issuing: Slots,
        sequence: u64,
    ) -> Result<Self, HierarchyError> {
        for (wanted, slots) in [(Level::Root, &roots), (Level::Issuing, &issuing)] {
            for (_, authority) in slots.iter() {
                expect_level(authority, wanted)?;
            }
        }
        let hierarchy = Self { domain, roots, issuing, sequence };
        for (_, authority) in hierarchy.issuing.iter() {
            hierarchy.expect_rooted(authority)?;
        }
        Ok(hierarchy)
    }

    /// Whose CA this is.
    #[must_use]
    pub const fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots.
    #[must_use]
    pub const fn roots(&self) -> &Slots {
        &self.roots
    }

    /// The issuing authorities.
    #[must_use]
    pub const fn issuing(&self) -> &Slots {
        &self.issuing
    }

    /// Grows with each change of the trust bundle.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What others must trust: all roots, also the prepared and the retired ones, the oldest first in whatever slot it is.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        let mut roots: Vec<&Arc<Authority>> = self.roots.iter().map(|(_, root)| root).collect();
        roots.sort_by_key(|root| (root.life().issued_at, root.id().clone()));
        let roots = roots.into_iter().map(|root| root.certificate().clone()).collect();
        TrustBundle { domain: self.domain.clone(), sequence: self.sequence, roots }
    }

    /// All authorities, roots first.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Arc<Authority>)> {
        self.roots.iter().chain(self.issuing.iter())
    }

    /// Puts a new authority into the prepared slot of its level.
    pub fn prepare(&self, authority: Authority) -> Result<Self, HierarchyError> {
        if authority.level() == Level::Issuing {
            self.expect_rooted(&authority)?;
        }
        let level = authority.level();
        self.with(level, self.slots(level).prepare(Arc::new(authority))?)
    }

    /// Makes a root and prepares it, so that it is in the bundle.
    pub fn prepare_root(&self, plan: &AuthorityPlan<'_>, now: Timestamp) -> Result<Self, HierarchyError> {
        self.prepare(Authority::make_root(&self.domain, plan, now)?)
    }

    /// Makes an issuing authority under the active root and prepares it.
    pub fn prepare_issuing(&self, plan: &AuthorityPlan<'_>, now: Timestamp) -> Result<Self, HierarchyError> {
        self.prepare(Authority::make_issuing(&self.roots.active, &self.domain, plan, now)?)
    }

    /// Throws the prepared authority away; with a root also what was prepared under it.
    pub fn discard(&self, level: Level, id: &AuthorityId) -> Result<Self, HierarchyError> {
        let mut next = self.with(level, self.slots(level).discard(id)?)?;
        let rooted = |authority: &Arc<Authority>| next.expect_rooted(authority).is_ok();
        next.issuing.prepared = next.issuing.prepared.clone().filter(rooted);
        Ok(next)
    }

    /// The root that an authority stands under, and its slot.
    #[must_use]
    pub fn root_of(&self, authority: &Authority) -> Option<(Slot, &Arc<Authority>)> {
        self.roots.iter().find(|(_, root)| authority.is_signed_by(root))
    }

    /// The prepared root, if what is prepared to sign leaves stands under it: both can only be activated together.
    #[must_use]
    pub fn prepared_pair(&self) -> Option<&Arc<Authority>> {
        let (root, issuing) = (self.roots.prepared.as_ref()?, self.issuing.prepared.as_ref()?);
        issuing.is_signed_by(root).then_some(root)
    }

    /// Lets the prepared issuing authority sign from now on. What the former one signed expires at `until` at the latest.
    pub fn activate_issuing(
        &self,
        id: &AuthorityId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        if let Some(root) = self.prepared_pair() {
            let (id, root) = (id.clone(), root.id().clone());
            return Err(HierarchyError::UnderPreparedRoot { id, root });
        }
        Ok(Self { issuing: self.issuing.activate(id, until, now)?, ..self.clone() })
    }

    /// Lets the prepared root sign from now on, and in the same step an issuing authority under it: a new one, or the prepared
    /// one if the root signs elsewhere. What the former issuing authority signed expires at `until` at the latest.
    pub fn activate_root(
        &self,
        id: &AuthorityId,
        issuing: &AuthorityPlan<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let roots = self.roots.activate(id, self.root_drained(until), now)?;
        self.under(roots, issuing, until, now)
    }

    /// Lets a retired issuing authority under the active root sign again, and retires the present one.
    pub fn roll_back_issuing(
        &self,
        id: &AuthorityId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let authority = &self.issuing.retired(id)?.authority;
        if !authority.is_signed_by(&self.roots.active) {
            let root = self.roots.iter().find(|(_, root)| authority.is_signed_by(root));
            let root = root.map_or_else(|| id.clone(), |(_, root)| root.id().clone());
            return Err(HierarchyError::UnderRetiredRoot { id: id.clone(), root });
        }
        Ok(Self { issuing: self.issuing.reactivate(id, until, now)?, ..self.clone() })
    }

    /// Lets a retired root sign again, with an issuing authority under it, and retires the present one. If the root signs
    /// elsewhere, its issuing authority is the latest that is here.
    pub fn roll_back_root(
        &self,
        id: &AuthorityId,
        issuing: &AuthorityPlan<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let roots = self.roots.reactivate(id, self.root_drained(until), now)?;
        self.under(roots, issuing, until, now)
    }

    /// These roots, and an issuing authority under the active one of them.
    fn under(
        &self,
        roots: Slots,
        plan: &AuthorityPlan<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let active = match roots.active.key() {
            Some(_) => Arc::new(Authority::make_issuing(&roots.active, &self.domain, plan, now)?),
            None => self.latest_under(&roots.active, now)?,
        };
        let mut retired = self.issuing.retired.clone();
        retired.retain(|retired| retired.authority.id() != active.id());
        retired.push(self.issuing.retiring(until));
        let issuing = Slots { prepared: None, active, retired };
        Ok(Self { issuing, ..self.with(Level::Root, roots)? })
    }

    /// What has been signed by a root that signs elsewhere: the prepared authority, else the latest that is retired.
    fn latest_under(&self, root: &Authority, now: Timestamp) -> Result<Arc<Authority>, HierarchyError> {
        let retired = self.issuing.retired.iter().rev().map(|retired| &retired.authority);
        let mut candidates = self.issuing.prepared.iter().chain(retired);
        let found = candidates.find(|authority| authority.is_signed_by(root));
        let found = found.ok_or_else(|| HierarchyError::NothingUnder(root.id().clone()))?;
        expect_valid(found, now)?;
        Ok(Arc::clone(found))
    }

    /// When the last leaf under the active root has expired, if those of the active issuing authority have at `until`.
    fn root_drained(&self, until: Timestamp) -> Timestamp {
        let below = self.issuing.retired.iter();
        let below = below.filter(|retired| retired.authority.is_signed_by(&self.roots.active));
        below.map(|retired| retired.until).fold(until, Timestamp::max)
    }

    /// Forgets a retired authority, if nothing that it signed is valid any more.
    pub fn drop_retired(
        &self,
        level: Level,
        id: &AuthorityId,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        let next = self.with(level, self.slots(level).drop_retired(id, now)?)?;
        for (_, authority) in next.issuing.iter() {
            next.expect_rooted(authority)?;
        }
        Ok(next)
    }

    /// Forgets a retired authority although something that it signed may be valid; with a root all that it signed goes, too.
    pub fn drop_early(&self, level: Level, id: &AuthorityId) -> Result<Self, HierarchyError> {
        let authority = &self.slots(level).retired(id)?.authority;
        let mut next = self.with(level, self.slots(level).without(id))?;
        if level == Level::Root {
            next.issuing.retired.retain(|retired| !retired.authority.is_signed_by(authority));
        }
        Ok(next)
    }

    /// Forgets every retired authority whose time has come; `None` if there is none.
    #[must_use]
    pub fn drop_drained(&self, now: Timestamp) -> Option<Self> {
        let drained = |retired: &Retired| now > retired.until;
        let mut issuing = self.issuing.clone();
        issuing.retired.retain(|retired| !drained(retired));
        let mut roots = self.roots.clone();
        roots.retired.retain(|root| {
            !drained(root) || issuing.iter().any(|(_, authority)| authority.is_signed_by(&root.authority))
        });
        let dropped = |before: &Slots, after: &Slots| before.retired.len() != after.retired.len();
        if !dropped(&self.issuing, &issuing) && !dropped(&self.roots, &roots) {
            return None;
        }
        let next = self.with(Level::Root, roots).ok()?;
        Some(Self { issuing, ..next })
    }

    /// The authorities of one level.
    #[must_use]
    pub const fn slots(&self, level: Level) -> &Slots {
        match level {
            Level::Issuing => &self.issuing,
            Level::Root => &self.roots,
        }
    }

    fn with(&self, level: Level, slots: Slots) -> Result<Self, HierarchyError> {
        let mut next = self.clone();
        match level {
            Level::Issuing => next.issuing = slots,
            Level::Root => {
                next.roots = slots;
                let set = |hierarchy: &Self| {
                    hierarchy.roots.iter().map(|(_, root)| root.id().clone()).collect::<BTreeSet<_>>()
                };
                if set(&next) != set(self) {
                    next.sequence = self.sequence.saturating_add(1);
                }
            }
        }
        Ok(next)
    }

    fn expect_rooted(&self, authority: &Authority) -> Result<(), HierarchyError> {
        if self.roots.iter().any(|(_, root)| authority.is_signed_by(root)) {
            Ok(())
        } else {
            Err(HierarchyError::Unrooted(authority.id().clone()))
        }
    }
}

fn expect_valid(authority: &Authority, now: Timestamp) -> Result<(), HierarchyError> {
    let (id, life) = (authority.id().clone(), authority.life());
    if now < life.not_before || now > life.not_after {
        let (not_before, not_after) = (life.not_before, life.not_after);
        return Err(HierarchyError::NotValid { id, not_before, not_after, now });
    }
    Ok(())
}

fn expect_level(authority: &Authority, wanted: Level) -> Result<(), HierarchyError> {
    let found = authority.level();
    if found == wanted {
        Ok(())
    } else {
        Err(HierarchyError::WrongLevel { id: authority.id().clone(), found, wanted })
    }
}
