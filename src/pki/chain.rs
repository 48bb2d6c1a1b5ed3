//! Judges a chain that comes back for a request: whose key it is for, what it may do, and to which root it leads.
//!
//! **Invariant:** nothing is put in order or left out in silence. The chain is the issuing certificate, then at most one in
//! between, then the root unless that is known already; anything else is an error that says what was expected.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::pki::authority::{Authority, AuthorityError, Level};
use crate::pki::key::KeyPair;

/// What came back for a request.
#[derive(Clone, Debug)]
pub struct SignedChain {
    /// The issuing certificate first, the root last or not at all.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Roots that were given besides.
    pub roots: Vec<CertificateDer<'static>>,
}

/// A chain that holds.
#[derive(Debug)]
pub struct JudgedChain {
    /// The issuing authority, with its key.
    pub issuing: Authority,
    /// The root that it stands under.
    pub root: Authority,
}

/// Why a chain or a root cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It is not what it has to be.
    #[error("{what} cannot be used")]
    Authority {
        /// Which certificate.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: AuthorityError,
    },
    /// There is no certificate.
    #[error("the chain is empty")]
    Empty,
    /// It belongs to another trust domain.
    #[error("{what} is that of {found}, this host belongs to {}", expected.id_text())]
    Foreign {
        /// Which certificate.
        what: &'static str,
        /// What it says.
        found: String,
        /// Whose it should be.
        expected: TrustDomain,
    },
    /// It is for another key.
    #[error(
        "the first certificate is for another key than the one that waits here: sign the request that `postern ca csr` prints \
         now, and put the certificate for it first"
    )]
    ForeignKey,
    /// The issuing certificate may not be the last authority.
    #[error(
        "the issuing certificate must not sign other authorities: expected basicConstraints with pathLenConstraint 0, found {found}"
    )]
    PathLength {
        /// What it has.
        found: String,
    },
    /// It is not valid now.
    #[error("{what} is valid from {not_before} to {not_after}, and the clock says {now}")]
    NotValid {
        /// Which certificate.
        what: &'static str,
        /// From when on it is valid.
        not_before: Timestamp,
        /// Until when it is valid.
        not_after: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// What stands above it ends earlier.
    #[error("the issuing certificate is valid until {not_after}, but {what} only until {ends}")]
    Outlives {
        /// Until when it is valid.
        not_after: Timestamp,
        /// What stands above it.
        what: &'static str,
        /// Until when that is valid.
        ends: Timestamp,
    },
    /// Certificates in the wrong order.
    #[error(
        "the chain is out of order at number {position}: expected the issuing certificate, then the one that signed it if that \
         is not the root, then the root"
    )]
    OutOfOrder {
        /// Its place in the chain, counted from 1.
        position: usize,
    },
    /// Nobody knows the root.
    #[error(
        "the chain leads to no root: none that is known here or was given signed its last certificate; append the root to the \
         chain, or give it with --bundle"
    )]
    Rootless,
}

const ISSUING: &str = "the issuing certificate";
const MIDDLE: &str = "the certificate between it and the root";
const ROOT: &str = "the root";

impl SignedChain {
    /// What the chain comes to, if it is for `key` and leads to one of its own roots or of `known`.
    pub fn judge(
        &self,
        key: KeyPair,
        domain: &TrustDomain,
        known: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<JudgedChain, ChainError> {
        let first = self.certificates.first().ok_or(ChainError::Empty)?;
        let public_key = key.public_key_info();
        let holds_key =
            |certificate: &CertificateDer<'_>| facts(certificate).is_ok_and(|facts| facts.key == public_key);
        if !holds_key(first) {
            facts(first).map_err(|source| ChainError::Authority { what: ISSUING, source })?;
            let elsewhere = self.certificates.iter().position(holds_key);
            return Err(elsewhere.map_or(ChainError::ForeignKey, |_| ChainError::OutOfOrder { position: 1 }));
        }
        let authority = |source| ChainError::Authority { what: ISSUING, source };
        let issuing = Authority::assemble(first.clone(), key, now).map_err(authority)?;
        if issuing.level() == Level::Root {
            return Err(authority(AuthorityError::NoAuthority("it signed itself")));
        }
        check_issuing(first, domain)?;
        let (above, own_root) = self.split()?;
        let issuing = issuing.below(above.to_vec()).map_err(|source| {
            if let AuthorityError::Unlinked { position } = source {
                return ChainError::OutOfOrder { position: position + 1 };
            }
            let what = if matches!(source, AuthorityError::TooDeep { .. }) { ISSUING } else { MIDDLE };
            ChainError::Authority { what, source }
        })?;
        let root = self.root_of(&issuing, own_root, known, now)?;
        check_validity(ISSUING, &issuing, now)?;
        check_domain(ROOT, root.certificate(), domain)?;
        check_validity(ROOT, &root, now)?;
        within(&issuing, ROOT, root.life().not_after)?;
        for middle in issuing.above() {
            let facts = facts(middle).map_err(|source| ChainError::Authority { what: MIDDLE, source })?;
            check_moments(MIDDLE, facts.not_before, facts.not_after, now)?;
            within(&issuing, MIDDLE, facts.not_after)?;
        }
        Ok(JudgedChain { issuing, root })
    }

    /// What stands between the issuing certificate and the root, and the root if the chain has it.
    fn split(&self) -> Result<(&[CertificateDer<'static>], Option<&CertificateDer<'static>>), ChainError> {
        let rest = self.certificates.get(1..).unwrap_or_default();
        let is_root =
            |certificate: &CertificateDer<'_>| facts(certificate).is_ok_and(|facts| facts.self_issued);
        match rest.iter().position(is_root) {
            Some(place) if place + 1 < rest.len() => Err(ChainError::OutOfOrder { position: place + 2 }),
            Some(place) => Ok((rest.get(..place).unwrap_or_default(), rest.get(place))),
            None => Ok((rest, None)),
        }
    }

    fn root_of(
        &self,
        issuing: &Authority,
        own: Option<&CertificateDer<'static>>,
        known: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Authority, ChainError> {
        if let Some(own) = own {
            let root = root(own.clone(), now)?;
            let position = self.certificates.len();
            return if issuing.is_signed_by(&root) {
                Ok(root)
            } else {
                Err(ChainError::OutOfOrder { position })
            };
        }
        let given = self.roots.iter().map(|given| root(given.clone(), now)).collect::<Result<Vec<_>, _>>()?;
        let known = known.iter().filter_map(|known| root(known.clone(), now).ok());
        let mut candidates = given.into_iter().chain(known);
        candidates.find(|root| issuing.is_signed_by(root)).ok_or(ChainError::Rootless)
    }
}

/// A root of `domain` whose key is elsewhere, if it is one that can be believed now.
pub fn judge_root(
    certificate: CertificateDer<'static>,
    domain: &TrustDomain,
    now: Timestamp,
) -> Result<Authority, ChainError> {
    let root = root(certificate, now)?;
    check_domain(ROOT, root.certificate(), domain)?;
    check_validity(ROOT, &root, now)?;
    Ok(root)
}

fn root(certificate: CertificateDer<'static>, now: Timestamp) -> Result<Authority, ChainError> {
    Authority::elsewhere(certificate, now).map_err(|source| ChainError::Authority { what: ROOT, source })
}

/// What is asked of the certificate of an issuing authority beyond what is asked of every authority.
fn check_issuing(certificate: &CertificateDer<'_>, domain: &TrustDomain) -> Result<(), ChainError> {
    check_domain(ISSUING, certificate, domain)?;
    let facts = facts(certificate).map_err(|source| ChainError::Authority { what: ISSUING, source })?;
    match facts.path_length {
        Some(0) => Ok(()),
        found => {
            let found = found.map_or_else(|| "none".to_owned(), |depth| depth.to_string());
            Err(ChainError::PathLength { found })
        }
    }
}

/// > If a signing certificate carries a SPIFFE ID, it is that of its trust domain and has no path. — X509-SVID §3.2, §4.1
fn check_domain(
    what: &'static str,
    certificate: &CertificateDer<'_>,
    domain: &TrustDomain,
) -> Result<(), ChainError> {
    let facts = facts(certificate).map_err(|source| ChainError::Authority { what, source })?;
    match facts.uris.into_iter().find(|uri| *uri != domain.id_text()) {
        Some(found) => Err(ChainError::Foreign { what, found, expected: domain.clone() }),
        None => Ok(()),
    }
}

fn check_validity(what: &'static str, authority: &Authority, now: Timestamp) -> Result<(), ChainError> {
    check_moments(what, authority.life().not_before, authority.life().not_after, now)
}

fn check_moments(
    what: &'static str,
    not_before: Timestamp,
    not_after: Timestamp,
    now: Timestamp,
) -> Result<(), ChainError> {
    if now < not_before || now + MOMENT > not_after {
        return Err(ChainError::NotValid { what, not_before, not_after, now });
    }
    Ok(())
}

/// An issuing certificate that outlives what stands above it would make leaves that nobody believes.
fn within(issuing: &Authority, what: &'static str, ends: Timestamp) -> Result<(), ChainError> {
    let not_after = issuing.life().not_after;
    if not_after > ends { Err(ChainError::Outlives { not_after, what, ends }) } else { Ok(()) }
}

/// What ends within this is as good as expired.
const MOMENT: Duration = Duration::from_secs(1);

/// What is asked of a certificate here.
struct Facts {
    key: Vec<u8>,
    self_issued: bool,
    path_length: Option<u32>,
    uris: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, AuthorityError> {
    let malformed = |error: &dyn std::fmt::Display| AuthorityError::Malformed(error.to_string());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
    let constraints = parsed.basic_constraints().map_err(|error| malformed(&error))?;
    let names = parsed.subject_alternative_name().map_err(|error| malformed(&error))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let uris = names
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None });
    Ok(Facts {
        key: parsed.public_key().raw.to_vec(),
        self_issued: parsed.issuer().as_raw() == parsed.subject().as_raw(),
        path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
        uris: uris.collect(),
        not_before: Timestamp::from_unix(parsed.validity().not_before.timestamp()),
        not_after: Timestamp::from_unix(parsed.validity().not_after.timestamp()),
    })
}
