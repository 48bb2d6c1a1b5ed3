//! With the root kept elsewhere: requests that go there, what is signed where it is, and what comes back.
//!
//! ```text
//! here: ca csr ─▶ there: ca sign ─▶ here: ca install ─▶ prepared ─▶ active
//! ```
//!
//! **Invariant:** there is one key that waits, and only a certificate for it is taken. Once that key signs, the request is
//! spent, whether or not it was cleared away.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::causes::Causes;
use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::issuance::change::Run;
use crate::issuance::rotator::{IssuanceError, Mode, Settings};
use crate::pki::{
    Authority, AuthorityError, ChainError, Hierarchy, HierarchyError, Level, Lifetimes, SignedAuthority,
    SignedChain, SigningRequest, Slot, Slots, judge_root,
};
use crate::store::{AuthorityDir, Pending};

/// Which request is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// One with a fresh key; the former one is void then.
    Anew,
    /// The one that waits, or the first.
    Same,
}

/// The request for the next issuing authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadyRequest {
    /// The request (PKCS#10) as DER; `None` if one would have been made, but was only rehearsed.
    pub request: Option<Vec<u8>>,
    /// Whether its key was made just now.
    pub is_new: bool,
}

/// A request that is to be signed here.
#[derive(Clone, Debug)]
pub struct SignOrder {
    /// The request (PKCS#10) as DER.
    pub request: Vec<u8>,
    /// How long the authority is to live; as long as one of this host's own if nothing is said.
    pub ttl: Option<Duration>,
    /// Whether it is meant.
    pub run: Run,
}

/// What was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The issuing certificate, then the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate's serial number in lower-case hexadecimal.
    pub serial: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// What is to be installed, and how far.
#[derive(Clone, Debug)]
pub struct InstallOrder {
    /// What came back.
    pub chain: SignedChain,
    /// How far it goes.
    pub reach: Reach,
    /// Whether it is meant.
    pub run: Run,
}

/// How far an installation goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// The authority signs at once, unless somebody does not know its root yet.
    Active,
    /// The authority waits until it is due or activated.
    Prepared,
    /// Only a root is made known.
    Root,
}

/// What was installed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installed {
    /// The issuing authority, or the root if it was only about that.
    pub id: AuthorityId,
    /// On which level.
    pub level: Level,
    /// In which slot it is now.
    pub slot: Slot,
    /// Who has to know it before it signs, one phrase each.
    pub waits_for: Vec<String>,
}

/// What an installation comes to before anything is activated.
pub(super) struct Placement {
    /// `None` if everything was in its place.
    pub(super) next: Option<Hierarchy>,
    pub(super) id: AuthorityId,
    pub(super) level: Level,
    pub(super) slot: Slot,
}

/// The request that waits here, if its key does not sign already.
pub(super) fn pending(
    directory: &AuthorityDir,
    hierarchy: Option<&Hierarchy>,
) -> Result<Option<Pending>, IssuanceError> {
    let spent = |pending: &Pending| {
        let key = pending.key.public_key_info();
        let mut known = hierarchy.into_iter().flat_map(|hierarchy| hierarchy.issuing().iter());
        known.any(|(_, authority)| authority.key().is_some_and(|known| known.public_key_info() == key))
    };
    Ok(directory.pending()?.filter(|pending| !spent(pending)))
}

/// Clears away a request whose key signs already.
pub(super) fn drop_spent(directory: &AuthorityDir, hierarchy: &Hierarchy) -> Result<(), IssuanceError> {
    match pending(directory, Some(hierarchy)) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Ok(directory.drop_pending()?),
        // It does not stand in the way; whoever needs it is told.
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "the request that waits here is of no use");
            Ok(())
        }
    }
}

/// The request for the next issuing authority, with a key that is made if none waits.
pub fn ready_request(
    directory: &AuthorityDir,
    hierarchy: Option<&Hierarchy>,
    settings: &Settings,
    wanted: Wanted,
    run: Run,
) -> Result<ReadyRequest, IssuanceError> {
    expect_subordinate(settings)?;
    if wanted == Wanted::Same
        && let Some(pending) = pending(directory, hierarchy)?
    {
        return Ok(ReadyRequest { request: Some(pending.request), is_new: false });
    }
    if run == Run::Rehearsal {
        return Ok(ReadyRequest { request: None, is_new: true });
    }
    let key = directory.keys().generate(settings.algorithm).map_err(AuthorityError::from);
    let key = key.map_err(IssuanceError::Request)?;
    let request = SigningRequest::make(&key, &settings.domain).map_err(IssuanceError::Request)?;
    directory.keep_pending(&request, &key)?;
    tracing::info!(path = %directory.request_path().display(), "request for the next issuing authority made");
    Ok(ReadyRequest { request: Some(request), is_new: true })
}

/// Signs a request with the active root of `hierarchy`.
pub fn sign(
    hierarchy: &Hierarchy,
    settings: &Settings,
    order: &SignOrder,
    now: Timestamp,
) -> Result<Signed, IssuanceError> {
    let request = SigningRequest::parse(&order.request, hierarchy.domain())?;
    let (root, ttl) = (&hierarchy.roots().active, order.ttl.unwrap_or(settings.issuing_ttl));
    let signed = request.sign(root, hierarchy.domain(), ttl, settings.backdate, now);
    let SignedAuthority { certificate, serial, not_after } = signed.map_err(IssuanceError::Sign)?;
    if order.run == Run::Real {
        let (spki_sha256, root) = (request.spki_sha256(), root.id());
        tracing::info!(serial, %not_after, %root, spki_sha256, "issuing authority signed for another host");
    }
    Ok(Signed { chain: vec![certificate, root.certificate().clone()], serial, not_after })
}

/// Where everything of an installation belongs, next to what is there `before`.
pub(super) fn place(
    directory: &AuthorityDir,
    before: Option<&Hierarchy>,
    settings: &Settings,
    order: &InstallOrder,
    now: Timestamp,
) -> Result<Placement, IssuanceError> {
    expect_subordinate(settings)?;
    if order.reach == Reach::Root {
        return place_root(directory, before, settings, order, now);
    }
    let installed = before.and_then(|before| find_certificate(before, order.chain.certificates.first()?));
    if let Some((slot, id)) = installed {
        return Ok(Placement { next: None, id, level: Level::Issuing, slot });
    }
    let pending = pending(directory, before)?.ok_or(IssuanceError::NoRequest)?;
    let known = before.map(|before| before.bundle().roots).unwrap_or_default();
    let judged = order.chain.judge(pending.key, &settings.domain, &known, now)?;
    let (issuing, root) = (judged.issuing, judged.root);
    Lifetimes::check_leaf(settings.longest_leaf(), issuing.life().not_after.since(now))
        .map_err(|source| IssuanceError::Lifetimes { workload: None, source })?;
    let id = issuing.id().clone();
    let (next, slot) = match before {
        Some(before) => (below(before, issuing, root)?, Slot::Prepared),
        None => {
            let (roots, issuing) = (Slots::of(root.into()), Slots::of(issuing.into()));
            (Hierarchy::assemble(settings.domain.clone(), roots, issuing, 1)?, Slot::Active)
        }
    };
    Ok(Placement { next: Some(next), id, level: Level::Issuing, slot })
}

/// The authority in the prepared slot, and its root there, too, if nobody knows that one.
fn below(before: &Hierarchy, issuing: Authority, root: Authority) -> Result<Hierarchy, HierarchyError> {
    match before.roots().iter().find(|(_, known)| known.id() == root.id()) {
        Some((Slot::Active | Slot::Prepared, _)) => before.prepare(issuing),
        Some((Slot::Retired, root)) => {
            Err(HierarchyError::UnderRetiredRoot { id: issuing.id().clone(), root: root.id().clone() })
        }
        None => {
            if let Some(prepared) = &before.issuing().prepared {
                return Err(HierarchyError::AlreadyPrepared(prepared.id().clone()));
            }
            before.prepare(root)?.prepare(issuing)
        }
    }
}

fn place_root(
    directory: &AuthorityDir,
    before: Option<&Hierarchy>,
    settings: &Settings,
    order: &InstallOrder,
    now: Timestamp,
) -> Result<Placement, IssuanceError> {
    let path = directory.path();
    let before = before.ok_or_else(|| IssuanceError::NotInstalled { path: path.to_owned() })?;
    let given = order.chain.certificates.iter().chain(&order.chain.roots);
    let roots = given.map(|root| judge_root(root.clone(), &settings.domain, now));
    let roots = roots.collect::<Result<Vec<_>, _>>()?;
    let slot_of = |root: &Authority| {
        before.roots().iter().find(|(_, known)| known.id() == root.id()).map(|(slot, _)| slot)
    };
    let known = roots.iter().find_map(|root| Some((slot_of(root)?, root.id().clone())));
    let mut strangers = roots.into_iter().filter(|root| slot_of(root).is_none());
    match (strangers.next(), strangers.next(), known) {
        (Some(root), None, _) => {
            let id = root.id().clone();
            let next = Some(before.prepare(root)?);
            Ok(Placement { next, id, level: Level::Root, slot: Slot::Prepared })
        }
        (None, _, Some((slot, id))) => Ok(Placement { next: None, id, level: Level::Root, slot }),
        (Some(_), Some(_), _) => Err(IssuanceError::ManyRoots),
        (None, _, None) => Err(ChainError::Empty.into()),
    }
}

fn find_certificate(hierarchy: &Hierarchy, certificate: &CertificateDer<'_>) -> Option<(Slot, AuthorityId)> {
    let mut all = hierarchy.issuing().iter();
    let found = all.find(|(_, authority)| authority.certificate() == certificate);
    found.map(|(slot, authority)| (slot, authority.id().clone()))
}

fn expect_subordinate(settings: &Settings) -> Result<(), IssuanceError> {
    match settings.mode {
        Mode::Standalone => Err(IssuanceError::NotSubordinate),
        Mode::Subordinate => Ok(()),
    }
}
