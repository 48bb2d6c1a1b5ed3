//! Revocation lists that others publish: read strictly, believed by their signature, and asked about every chain.
//!
//! A list is its issuer's word if the name, the key identifier and the signature are those of a root of the trust domain, or
//! of an authority in the chain that is being verified. What was found is remembered with the list, so that a chain that is
//! known costs no signature.
//!
//! **Invariant:** a domain with lists is never less strict for what is missing. A chain is good only if each authority in it
//! has a current list, save one: an authority that was made after the lists cannot be in them. It is vouched for by the root's
//! list, which must be current, so that rolling an authority over does not cut anybody off.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use webpki::OwnedCertRevocationList;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::pki::authority::signature_holds_over;
use crate::pki::marks::{Marks, significant};
use crate::pki::revocation::Revoked;
use crate::pki::verified::{Link, Verified};
use crate::pki::verifier::VerifyError;

/// Why a list is not read, or not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCrl {
    /// A list that is older than the one before it.
    #[error("the list of {issuer} is older than the one in force (its number or its thisUpdate has fallen)")]
    Backwards {
        /// Whose.
        issuer: String,
    },
    /// Only what has changed since another list.
    #[error("the list of {issuer} is a delta list, which says only what has changed")]
    Delta {
        /// Whose.
        issuer: String,
    },
    /// Also about certificates that somebody else has issued.
    #[error("the list of {issuer} is an indirect list, which speaks for other issuers, too")]
    Indirect {
        /// Whose.
        issuer: String,
    },
    /// It is no list, or not one of version 2 with all that belongs to it.
    #[error("it is no revocation list of version 2 that can be read: {0}")]
    Malformed(String),
    /// It does not speak of all certificates of its issuer.
    #[error(
        "the list of {issuer} covers only a part of what its issuer has signed (issuingDistributionPoint)"
    )]
    Partial {
        /// Whose.
        issuer: String,
    },
    /// It goes by a root's name, but that one did not sign it.
    #[error("the list of {issuer} was not signed by the root of that name, or that root may not sign lists")]
    Unsigned {
        /// Whose it says it is.
        issuer: String,
    },
    /// It has a critical extension that nobody here knows.
    #[error("the list of {issuer} has a critical extension that is not understood")]
    UnknownExtension {
        /// Whose.
        issuer: String,
    },
}

/// One list.
#[derive(Debug)]
pub struct ForeignCrl {
    issuer: Vec<u8>,
    name: String,
    key_id: Option<Vec<u8>>,
    number: Option<Vec<u8>>,
    this_update: Timestamp,
    next_update: Timestamp,
    revoked: HashSet<Box<[u8]>>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    /// By authority: whether this is its list.
    signers: RwLock<BTreeMap<[u8; 32], Signer>>,
}

/// Whether an authority has signed a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Signer {
    /// It bears its name and key, but not its signature.
    Forged,
    /// It is somebody else's.
    Other,
    /// It has.
    Proven,
}

/// More authorities than this are not remembered with one list.
const SIGNERS: usize = 64;

impl ForeignCrl {
    /// A list as it is encoded.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(der: &[u8]) -> Result<Self, InvalidCrl> {
        let malformed = |error: &dyn fmt::Display| InvalidCrl::Malformed(error.to_string());
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|error| malformed(&error))?;
        let issuer = list.issuer().to_string();
        // The stricter reader has the first word; it also reads every entry to its end.
        OwnedCertRevocationList::from_der(der).map_err(|error| reason(&error, &issuer))?;
        let signed = list.tbs_cert_list.as_ref();
        if !rest.is_empty() || Some(signed.len()) != content(der).and_then(element_length) {
            return Err(malformed(&"bytes that belong to nothing"));
        }
        let (mut key_id, mut number) = (None, None);
        for extension in list.extensions() {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "the stricter reader knows which others may be there"
            )]
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::CRLNumber(found) => number = Some(found.to_bytes_be()),
                ParsedExtension::IssuingDistributionPoint(point) if point.indirect_crl => {
                    return Err(InvalidCrl::Indirect { issuer });
                }
                ParsedExtension::IssuingDistributionPoint(_) => return Err(InvalidCrl::Partial { issuer }),
                _ => (),
            }
        }
        let next_update = list.next_update().ok_or_else(|| malformed(&"it has no nextUpdate"))?;
        Ok(Self {
            issuer: list.issuer().as_raw().to_vec(),
            name: issuer,
            key_id,
            number,
            this_update: Timestamp::from_unix(list.last_update().timestamp()),
            next_update: Timestamp::from_unix(next_update.timestamp()),
            revoked: list
                .iter_revoked_certificates()
                .map(|entry| significant(entry.raw_serial()).into())
                .collect(),
            signed: signed.to_vec(),
            signature: list.signature_value.data.to_vec(),
            signers: RwLock::default(),
        })
    }

    /// Its number, if it has one that is no larger than ours are.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let bytes = significant(self.number.as_ref()?);
        (bytes.len() <= 8).then(|| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    /// Whether this is the list of the authority with that certificate.
    fn signer(&self, authority: &[u8; 32], certificate: &CertificateDer<'_>) -> Signer {
        let known = self.signers.read().unwrap_or_else(PoisonError::into_inner).get(authority).copied();
        if let Some(known) = known {
            return known;
        }
        let found = self.find_signer(certificate);
        let mut signers = self.signers.write().unwrap_or_else(PoisonError::into_inner);
        if signers.len() >= SIGNERS {
            signers.clear();
        }
        signers.insert(*authority, found);
        found
    }

    fn find_signer(&self, certificate: &CertificateDer<'_>) -> Signer {
        let Some(marks) = Marks::of(certificate).filter(|marks| marks.subject == self.issuer) else {
            return Signer::Other;
        };
        let same_key = match (&self.key_id, &marks.key_id) {
            (Some(named), Some(own)) if named != own => return Signer::Other,
            (Some(_), Some(_)) => true,
            _ => false,
        };
        match signature_holds_over(&self.signed, &self.signature, certificate) {
            true if marks.may_sign_lists => Signer::Proven,
            // Without a key identifier it may be that of a namesake.
            false if !same_key => Signer::Other,
            true | false => Signer::Forged,
        }
    }

    /// Whether it speaks for `now`.
    fn is_current(&self, now: Timestamp) -> bool {
        (self.this_update..=self.next_update).contains(&now)
    }

    fn is_of_same_issuer(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.key_id == other.key_id
    }

    fn is_older_than(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(own), Some(others)) if own != others => {
                let [own, others] = [own, others].map(|number| significant(number));
                (own.len(), own) < (others.len(), others)
            }
            _ => self.this_update < other.this_update,
        }
    }
}

/// The lists of one file that take the place of `former`: the newest of each issuer, and a former one that is gone from the
/// file for as long as it speaks, so that half a file does not give back what was revoked.
///
/// # Errors
/// A list that is older than the former one of its issuer.
pub fn succeed(
    former: &[Arc<ForeignCrl>],
    found: Vec<ForeignCrl>,
    now: Timestamp,
) -> Result<Vec<Arc<ForeignCrl>>, InvalidCrl> {
    let mut lists: Vec<Arc<ForeignCrl>> = Vec::with_capacity(found.len());
    for list in found {
        if let Some(before) = former.iter().find(|before| before.is_of_same_issuer(&list)) {
            if list.is_older_than(before) {
                return Err(InvalidCrl::Backwards { issuer: list.name });
            }
            if list.signed == before.signed && list.signature == before.signature {
                lists.push(Arc::clone(before));
                continue;
            }
        }
        match lists.iter_mut().find(|other| other.is_of_same_issuer(&list)) {
            Some(other) if other.is_older_than(&list) => *other = Arc::new(list),
            Some(_) => (),
            None => lists.push(Arc::new(list)),
        }
    }
    let gone = former.iter().filter(|before| now <= before.next_update);
    let gone: Vec<_> =
        gone.filter(|before| lists.iter().all(|list| !list.is_of_same_issuer(before))).cloned().collect();
    lists.extend(gone);
    Ok(lists)
}

/// Whether each list of `lists` that goes by the name of one of `roots` was signed by it.
///
/// # Errors
/// The first that was not.
pub fn check_roots(lists: &[Arc<ForeignCrl>], roots: &[CertificateDer<'static>]) -> Result<(), InvalidCrl> {
    for list in lists {
        let words = roots.iter().filter_map(|root| {
            let marks = Marks::of(root)?;
            (marks.subject == list.issuer).then(|| list.signer(&marks.authority, root))
        });
        let words: Vec<Signer> = words.collect();
        if !words.is_empty() && !words.contains(&Signer::Proven) {
            return Err(InvalidCrl::Unsigned { issuer: list.name.clone() });
        }
    }
    Ok(())
}

/// What becomes of a chain when no current list speaks of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StaleCrls {
    /// It is believed, unless an old list has it.
    Accept,
    /// It is refused.
    #[default]
    Refuse,
}

/// The lists of all trust domains that have some.
#[derive(Debug, Default)]
pub struct CrlSet(BTreeMap<TrustDomain, Lists>);

#[derive(Debug)]
struct Lists {
    stale: StaleCrls,
    lists: Vec<Arc<ForeignCrl>>,
}

impl CrlSet {
    /// The set with more lists for `domain`. Where two files speak for one domain, the stricter word about stale lists counts.
    #[must_use]
    pub fn with(mut self, domain: &TrustDomain, lists: Vec<Arc<ForeignCrl>>, stale: StaleCrls) -> Self {
        let entry = self.0.entry(domain.clone()).or_insert(Lists { stale, lists: Vec::new() });
        if stale == StaleCrls::Refuse {
            entry.stale = stale;
        }
        entry.lists.extend(lists);
        self
    }

    /// Whether no domain has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both hold the very same lists.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |one: &Lists, two: &Lists| {
            one.stale == two.stale
                && one.lists.len() == two.lists.len()
                && one.lists.iter().zip(&two.lists).all(|(one, two)| Arc::ptr_eq(one, two))
        };
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((one, own), (two, others))| one == two && same(own, others))
    }

    /// By trust domain: when the first of its lists ceases to speak, and one sentence about each that does not speak for `now`.
    pub fn standing(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (&TrustDomain, Option<Timestamp>, Vec<String>)> {
        self.0.iter().map(move |(domain, Lists { stale, lists })| {
            let fate = match stale {
                StaleCrls::Accept => "accepted all the same",
                StaleCrls::Refuse => "refused",
            };
            let mute = lists.iter().filter(|list| !list.is_current(now));
            let mute = mute.map(|list| {
                let ForeignCrl { name, this_update, next_update, .. } = &**list;
                format!(
                    "the revocation list of {name} speaks from {this_update} to {next_update} only: certificates of \
                     {domain} that it should speak of are {fate}"
                )
            });
            (domain, lists.iter().map(|list| list.next_update).min(), mute.collect())
        })
    }

    /// Whether the lists speak against a chain that ends at `root`.
    pub(super) fn check(
        &self,
        domain: &TrustDomain,
        verified: &Verified,
        root: &Link,
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let Some(Lists { stale, lists }) = self.0.get(domain) else { return Ok(()) };
        let links = &verified.intermediates;
        let serials = std::iter::once(&verified.subject.serial).chain(links.iter().map(|link| &link.serial));
        let issuers = links.iter().map(|link| (link, true)).chain([(root, false)]);
        let mut doubt = None;
        let root_list = latest(lists, root)?;
        for (serial, (issuer, is_below)) in serials.zip(issuers) {
            let Some(list) = latest(lists, issuer)? else {
                let vouched = root_list.filter(|list| is_below && list.is_current(now));
                if !vouched.is_some_and(|list| is_made_after(issuer, list)) {
                    doubt = Some(VerifyError::NoCrl { issuer: name_of(&issuer.certificate) });
                }
                continue;
            };
            let number = HEXLOWER.decode(serial.as_bytes()).unwrap_or_default();
            if list.revoked.contains(number.as_slice()) {
                return Err(VerifyError::Revoked(Revoked::Serial(serial.clone())));
            }
            if !list.is_current(now) {
                let (this_update, next_update) = (list.this_update, list.next_update);
                doubt = Some(VerifyError::StaleCrl { issuer: list.name.clone(), this_update, next_update });
            }
        }
        match doubt {
            Some(doubt) if *stale == StaleCrls::Refuse => Err(doubt),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether an authority is younger than a list, which therefore cannot know it.
fn is_made_after(authority: &Link, list: &ForeignCrl) -> bool {
    authority.not_before + LONGEST_BACKDATE > list.this_update
}

/// Validity begins no longer than this before a certificate is made.
const LONGEST_BACKDATE: Duration = Duration::from_secs(3600);

/// The last word of an issuer.
fn latest<'l>(lists: &'l [Arc<ForeignCrl>], issuer: &Link) -> Result<Option<&'l ForeignCrl>, VerifyError> {
    let mut latest: Option<&ForeignCrl> = None;
    for list in lists {
        match list.signer(&issuer.authority, &issuer.certificate) {
            Signer::Forged => return Err(VerifyError::ForgedCrl { issuer: list.name.clone() }),
            Signer::Other => (),
            Signer::Proven if latest.is_some_and(|latest| list.is_older_than(latest)) => (),
            Signer::Proven => latest = Some(list),
        }
    }
    Ok(latest)
}

fn name_of(certificate: &CertificateDer<'_>) -> String {
    Marks::of(certificate).map(|marks| marks.name).unwrap_or_default()
}

fn reason(error: &webpki::Error, issuer: &str) -> InvalidCrl {
    let issuer = issuer.to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are reported as they are named")]
    match error {
        webpki::Error::UnsupportedDeltaCrl => InvalidCrl::Delta { issuer },
        webpki::Error::UnsupportedIndirectCrl => InvalidCrl::Indirect { issuer },
        webpki::Error::UnsupportedCriticalExtension => InvalidCrl::UnknownExtension { issuer },
        other => InvalidCrl::Malformed(format!("{other:?}")),
    }
}

/// What an element of DER holds.
fn content(der: &[u8]) -> Option<&[u8]> {
    der.get(header_length(der)?..)
}

/// How long the element at the beginning of `der` is.
fn element_length(der: &[u8]) -> Option<usize> {
    let header = header_length(der)?;
    let first = usize::from(*der.get(1)?);
    let length = if header == 2 {
        first
    } else {
        der.get(2..header)?
            .iter()
            .try_fold(0_usize, |sum, &byte| sum.checked_mul(256)?.checked_add(byte.into()))?
    };
    header.checked_add(length)
}

fn header_length(der: &[u8]) -> Option<usize> {
    let first = usize::from(*der.get(1)?);
    Some(if first < 0x80 { 2 } else { 2 + (first & 0x7f) })
}
