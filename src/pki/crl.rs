//! Draws up certificate revocation lists: what an authority says of those certificates under it that it takes back.
//!
//! > Each CRL has a particular scope. … A complete CRL lists all unexpired certificates, within its scope, that have been
//! > revoked. — RFC 5280 §5
//!
//! A list knows nothing but serial numbers, so whoever draws it up must know which ones a revoked key or identity has: see
//! [`IssuedLeaf`]. A serial number whose issuer is not known goes into every list. That harms nobody, since serial numbers
//! here are 128 random bits and no other certificate has the same, while leaving it out might let a stolen one pass.
//!
//! > An entry MUST NOT be removed from the CRL until it appears on one regularly scheduled CRL issued beyond the revoked
//! > certificate's validity period. — RFC 5280 §3.3

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::SpiffeId;
use crate::pki::authority::{Authority, AuthorityError};
use crate::pki::hierarchy::Hierarchy;
use crate::pki::marks::Marks;
use crate::pki::revocation::{Revocation, Revocations, Revoked};
use crate::pki::svid::X509Svid;

/// A leaf that was issued here, as far as a revocation list needs to know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedLeaf {
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of its public key with the algorithm.
    pub spki_sha256: [u8; 32],
    /// Who the holder is.
    pub spiffe_id: SpiffeId,
    /// Who signed it.
    pub authority: AuthorityId,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

impl IssuedLeaf {
    /// What is to be remembered of `svid`; nothing if its leaf cannot be read.
    #[must_use]
    pub fn of(svid: &X509Svid) -> Option<Self> {
        let marks = Marks::of(svid.chain.first()?)?;
        Some(Self {
            serial: marks.serial,
            spki_sha256: marks.spki_sha256,
            spiffe_id: svid.spiffe_id.clone(),
            authority: svid.authority.clone(),
            not_after: svid.not_after,
        })
    }
}

/// What one list says of one certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CrlEntry {
    /// Since when it is revoked.
    pub at: Timestamp,
    /// Why, if that is one of the reasons that the standard knows.
    reason: Option<RevocationReason>,
}

impl CrlEntry {
    fn of(revocation: &Revocation) -> Self {
        Self { at: revocation.at, reason: reason_code(&revocation.reason) }
    }
}

/// The entries of each authority's list, by serial number.
pub type CrlEntries = BTreeMap<AuthorityId, BTreeMap<String, CrlEntry>>;

/// A number that never falls, and the span for which the lists of one drawing speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CrlEdition {
    /// RFC 5280 §5.2.3.
    pub number: u64,
    /// From when on.
    pub this_update: Timestamp,
    /// When the next ones are there at the latest.
    pub next_update: Timestamp,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// An entry cannot be read.
    #[error("the revoked serial number {0:?} cannot be read")]
    Malformed(String),
    /// It cannot be signed.
    #[error("cannot sign the revocation list")]
    Sign(#[source] rcgen::Error),
    /// The authority's key is not here.
    #[error(transparent)]
    Signer(#[from] AuthorityError),
}

/// What the list of each authority in `hierarchy` has to say. An entry stays for `kept` beyond the end of its certificate.
#[must_use]
pub fn crl_entries<'a>(
    hierarchy: &Hierarchy,
    leaves: impl IntoIterator<Item = &'a IssuedLeaf>,
    revocations: &Revocations,
    kept: Duration,
    now: Timestamp,
) -> CrlEntries {
    let mut lists: CrlEntries =
        hierarchy.iter().map(|(_, authority)| (authority.id().clone(), BTreeMap::new())).collect();
    let mut known = std::collections::BTreeSet::new();
    let mut enter = |issuer: &AuthorityId, serial: &str, not_after: Timestamp, revocation: &Revocation| {
        if now <= not_after + kept
            && let Some(list) = lists.get_mut(issuer)
        {
            list.entry(serial.to_owned()).or_insert_with(|| CrlEntry::of(revocation));
        }
    };
    if revocations.is_empty() {
        return lists;
    }
    for leaf in leaves {
        known.insert(leaf.serial.clone());
        if let Some(revocation) = revocations.about_leaf(&leaf.serial, &leaf.spki_sha256, &leaf.spiffe_id) {
            enter(&leaf.authority, &leaf.serial, leaf.not_after, revocation);
        }
    }
    for (_, authority) in hierarchy.iter() {
        let marks = authority.marks();
        if let Some(revocation) = revocations.about_certificate(&marks.serial, &marks.spki_sha256) {
            let signer = hierarchy.roots().iter().find(|(_, root)| authority.is_signed_by(root));
            let signer = signer.map_or_else(|| authority.id(), |(_, root)| root.id());
            enter(signer, &marks.serial, authority.life().not_after, revocation);
        }
        known.insert(marks.serial.clone());
    }
    for (revoked, revocation) in revocations.iter() {
        let Revoked::Serial(serial) = revoked else { continue };
        if known.contains(serial) {
            continue;
        }
        for (_, authority) in hierarchy.iter() {
            // What was there to be revoked lives for a third of its issuer's life at most.
            let life = authority.life();
            let gone = revocation.at + life.not_after.since(life.issued_at) / 3;
            enter(authority.id(), serial, gone, revocation);
        }
    }
    lists
}

/// The list of `authority` in this edition.
///
/// # Errors
/// It cannot be signed.
pub fn draw_up_crl(
    authority: &Authority,
    entries: &BTreeMap<String, CrlEntry>,
    edition: &CrlEdition,
) -> Result<CertificateRevocationListDer<'static>, CrlError> {
    let mut revoked_certs = Vec::with_capacity(entries.len());
    for (serial, entry) in entries {
        let number = HEXLOWER.decode(serial.as_bytes());
        let number = number.map_err(|_| CrlError::Malformed(serial.clone()))?;
        revoked_certs.push(RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: entry.at.to_whole_second().to_offset_date_time(),
            reason_code: entry.reason,
            invalidity_date: None,
        });
    }
    let params = CertificateRevocationListParams {
        this_update: edition.this_update.to_whole_second().to_offset_date_time(),
        next_update: edition.next_update.to_whole_second().to_offset_date_time(),
        crl_number: SerialNumber::from(edition.number),
        issuing_distribution_point: None,
        revoked_certs,
        // The list has to name the key as the certificate does, whoever made that: OpenSSL looks for it by this name.
        key_identifier_method: authority
            .marks()
            .key_id
            .clone()
            .map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
    };
    Ok(params.signed_by(authority.issuer()?).map_err(CrlError::Sign)?.into())
}

/// The code of a reason that is given in the standard's own words, however they are joined: `keyCompromise`,
/// `key-compromise`, `Key compromise`. What else an operator writes is for people; `certificateHold` and `removeFromCRL` are
/// about revocations that are not meant to last.
fn reason_code(reason: &str) -> Option<RevocationReason> {
    let (_, words) = reason.split_once(": ").unwrap_or(("", reason));
    let joined: String = words.chars().filter(char::is_ascii_alphabetic).collect();
    match joined.to_ascii_lowercase().as_str() {
        "affiliationchanged" => Some(RevocationReason::AffiliationChanged),
        "cacompromise" => Some(RevocationReason::CaCompromise),
        "cessationofoperation" => Some(RevocationReason::CessationOfOperation),
        "keycompromise" => Some(RevocationReason::KeyCompromise),
        "privilegewithdrawn" => Some(RevocationReason::PrivilegeWithdrawn),
        "superseded" => Some(RevocationReason::Superseded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_reasons_are_known_however_they_are_written() {
        for words in
            ["keyCompromise", "key-compromise", "Key compromise", "issuing authority 0a: key compromise"]
        {
            assert_eq!(reason_code(words), Some(RevocationReason::KeyCompromise), "{words}");
        }
        for words in ["the laptop was stolen", "", "certificateHold", "key compromise, perhaps"] {
            assert_eq!(reason_code(words), None, "{words}");
        }
    }
}
