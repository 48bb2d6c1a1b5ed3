//! The whole CA: which authorities there are, which slot each is in, and how they may move.
//!
//! ```text
//! prepare ─▶ prepared ─ activate ─▶ active ─ (the next one is activated) ─▶ retired ─ drop ─▶ gone
//! ```
//!
//! Both levels move alike. A prepared root is already in the trust bundle, so that it is known before anything is signed under
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
        let life = next.life();
        if now < life.not_before || now > life.not_after {
            let (id, not_before, not_after) = (id.clone(), life.not_before, life.not_after);
            return Err(HierarchyError::NotValid { id, not_before, not_after, now });
        }
        let until = until.min(self.active.life().not_after);
        let mut retired = self.retired.clone();
        retired.push(Retired { authority: Arc::clone(&self.active), until });
        Ok(Self { prepared: None, active: next, retired })
    }

    fn drop_retired(&self, id: &AuthorityId, now: Timestamp) -> Result<Self, HierarchyError> {
        let found = self.retired.iter().find(|retired| retired.authority.id() == id);
        match found {
            None => Err(HierarchyError::NotRetired(id.clone())),
            Some(retired) if now <= retired.until => {
                Err(HierarchyError::StillInUse { id: id.clone(), until: retired.until })
            }
            Some(_) => {
                let retired =
                    self.retired.iter().filter(|retired| retired.authority.id() != id).cloned().collect();
                Ok(Self { retired, ..self.clone() })
            }
        }
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
        root: &AuthorityPlan,
        issuing: &AuthorityPlan,
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

    /// What others must trust: all roots, also the prepared and the retired ones.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        let roots = self.roots.iter().map(|(_, root)| root.certificate().clone()).collect();
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

    /// Makes an issuing authority under the active root and prepares it.
    pub fn prepare_issuing(&self, plan: &AuthorityPlan, now: Timestamp) -> Result<Self, HierarchyError> {
        self.prepare(Authority::make_issuing(&self.roots.active, &self.domain, plan, now)?)
    }

    /// Throws the prepared authority away.
    pub fn discard(&self, level: Level, id: &AuthorityId) -> Result<Self, HierarchyError> {
        self.with(level, self.slots(level).discard(id)?)
    }

    /// Lets the prepared authority sign from now on. What the former one signed expires at `until` at the latest.
    pub fn activate(
        &self,
        level: Level,
        id: &AuthorityId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Self, HierarchyError> {
        self.with(level, self.slots(level).activate(id, until, now)?)
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

    /// Forgets every retired issuing authority whose time has come; `None` if there is none.
    #[must_use]
    pub fn drop_drained(&self, now: Timestamp) -> Option<Self> {
        let drained = |retired: &Retired| now > retired.until;
        if !self.issuing.retired.iter().any(drained) {
            return None;
        }
        let mut next = self.clone();
        next.issuing.retired.retain(|retired| !drained(retired));
        Some(next)
    }

    fn slots(&self, level: Level) -> &Slots {
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

fn expect_level(authority: &Authority, wanted: Level) -> Result<(), HierarchyError> {
    let found = authority.level();
    if found == wanted {
        Ok(())
    } else {
        Err(HierarchyError::WrongLevel { id: authority.id().clone(), found, wanted })
    }
}
