//! Says whom a certificate chain belongs to, or why nobody should believe it.
//!
//! > The trust bundle used for verification MUST be that of the trust domain in the leaf's SPIFFE ID. — X509-SVID §5
//!
//! Pooling all roots would let any trusted domain sign for any other; a domain without a bundle is simply unknown. What
//! webpki leaves to its caller (the leaf's key usage and SAN, an intermediate's key usage, revocations) is checked here, on
//! each path that webpki proves: one that is refused does not hide another that holds. The verdict is about `now` and
//! depends on nothing else, so the same question can be asked again of a resumed session.
//!
//! **Invariant:** the size of what an unknown peer sent is bounded before anything is parsed, and the trust domain is known
//! before any signature is computed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::clock::Timestamp;
use crate::identity::{InvalidName, InvalidSubject, Subject, TrustDomain};
use crate::pki::bundle::BundleSet;
use crate::pki::foreign_crl::CrlSet;
use crate::pki::revocation::{Revocations, Revoked};
use crate::pki::roots::{InvalidRoot, Objection, Root, Roots};
use crate::pki::signer::{InvalidSigner, Signer};
use crate::pki::verified::{Link, Verified};

/// No chain has more certificates: leaf, issuing authority, one in between, and a root that was sent needlessly.
pub const MAX_CERTIFICATES: usize = 4;

/// No chain has more bytes. Four RSA-4096 certificates with many names take about half of it.
pub const MAX_BYTES: usize = 16 * 1024;

/// Which end of a connection the certificate's holder is on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Usage {
    /// It called us.
    Client,
    /// We called it.
    Server,
}

/// Why a chain is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A certificate that was not signed by the one above it.
    #[error("a signature in the chain does not hold")]
    BadSignature,
    /// An intermediate that may not sign certificates.
    #[error("an intermediate certificate may not sign this: {0}")]
    BadIntermediate(InvalidSigner),
    /// Anything else that path validation finds.
    #[error("the chain is invalid: {0}")]
    Chain(webpki::Error),
    /// The clock has not been set, so nothing can be said of now.
    #[error("the clock says {0}, which is before this program was written")]
    ClockNotSet(Timestamp),
    /// A certificate of the chain has expired.
    #[error("a certificate of the chain expired {not_after}")]
    Expired {
        /// When.
        not_after: Timestamp,
    },
    /// A revocation list bears the name and the key of an authority in the chain, but not its signature.
    #[error("the revocation list of {issuer} at hand was not signed by it, or it may not sign lists")]
    ForgedCrl {
        /// Whose it says it is.
        issuer: String,
    },
    /// The leaf is no X509-SVID.
    #[error("the leaf is no X509-SVID")]
    InvalidSubject(#[from] InvalidSubject),
    /// No certificate at all.
    #[error("no certificate was presented")]
    NoCertificate,
    /// There are revocation lists of the trust domain, but none of an authority in the chain.
    #[error("there is no revocation list of {issuer}")]
    NoCrl {
        /// Which authority.
        issuer: String,
    },
    /// A certificate of the chain is not valid yet.
    #[error("a certificate of the chain is valid only from {not_before} on: is a clock wrong?")]
    NotYetValid {
        /// From when on it is.
        not_before: Timestamp,
    },
    /// A certificate of the chain, its key or its holder was revoked.
    #[error("{0} is revoked")]
    Revoked(Revoked),
    /// The root that the chain leads to has expired, so that it proves nothing.
    #[error("the root that the chain leads to expired {not_after}")]
    RootExpired {
        /// When.
        not_after: Timestamp,
    },
    /// The root that the chain leads to is not valid yet.
    #[error("the root that the chain leads to is valid only from {not_before} on: is a clock wrong?")]
    RootNotYetValid {
        /// From when on it is.
        not_before: Timestamp,
    },
    /// The root that the chain leads to is not for this end of a connection.
    #[error("the root's extended key usage does not allow this use")]
    RootUsage,
    /// The revocation list that should speak of the chain is too old, or not valid yet.
    #[error("the revocation list of {issuer} speaks from {this_update} to {next_update} only")]
    StaleCrl {
        /// Whose list.
        issuer: String,
        /// From when on it speaks.
        this_update: Timestamp,
        /// Until when it speaks.
        next_update: Timestamp,
    },
    /// More bytes than [`MAX_BYTES`].
    #[error("the chain has {0} bytes, more than {MAX_BYTES}")]
    TooLarge(usize),
    /// More certificates than [`MAX_CERTIFICATES`].
    #[error("the chain has {0} certificates, more than {MAX_CERTIFICATES}")]
    TooLong(usize),
    /// So many ways to combine the certificates that none was proven within webpki's budget of 100 signatures.
    #[error("proving the chain takes too much work")]
    TooMuchWork,
    /// No root of the leaf's trust domain signed it.
    #[error("the chain leads to no root of its trust domain {0}")]
    UnknownIssuer(TrustDomain),
    /// A trust domain without a bundle.
    #[error("the trust domain {0} is not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// A signature by an algorithm that is not relied on, such as one over SHA-1.
    #[error("a signature in the chain is by an algorithm that is not relied on")]
    UnsupportedSignature,
    /// The leaf is not for this end of a connection, or an intermediate's extended key usage keeps it from that.
    ///
    /// `anyExtendedKeyUsage` does not count (RFC 5280 §4.2.1.12 leaves that to us): who wants to be believed says for what.
    #[error("the leaf's extended key usage does not allow this use")]
    WrongUsage,
}

impl VerifyError {
    /// The check that failed, as a word for metrics and logs.
    #[must_use]
    pub const fn check(&self) -> &'static str {
        match self {
            Self::BadSignature => "signature",
            Self::BadIntermediate(_) => "intermediate",
            Self::Chain(_) => "chain",
            Self::ClockNotSet(_) => "clock",
            Self::Expired { .. } => "expired",
            Self::ForgedCrl { .. } | Self::NoCrl { .. } | Self::StaleCrl { .. } => "revocation-list",
            Self::InvalidSubject(_) => "subject",
            Self::NoCertificate => "no-certificate",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Revoked(_) => "revoked",
            Self::RootExpired { .. } | Self::RootNotYetValid { .. } | Self::RootUsage => "root",
            Self::TooLarge(_) | Self::TooLong(_) | Self::TooMuchWork => "too-much",
            Self::UnknownIssuer(_) => "unknown-issuer",
            Self::UnknownTrustDomain(_) => "unknown-trust-domain",
            Self::UnsupportedSignature => "signature-algorithm",
            Self::WrongUsage => "usage",
        }
    }
}

/// Verifies chains against the bundles that it was made with. Cheap to share, never changes.
#[derive(Debug)]
pub struct Verifier {
    bundles: Arc<BundleSet>,
    roots: BTreeMap<TrustDomain, Roots>,
    revocations: Arc<Revocations>,
    crls: Arc<CrlSet>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// A verifier that believes exactly `bundles`, and nothing that stands in `revocations`.
    pub fn new(bundles: Arc<BundleSet>, revocations: Arc<Revocations>) -> Result<Self, InvalidRoot> {
        let mut roots = BTreeMap::new();
        for bundle in bundles.iter() {
            roots.insert(bundle.domain.clone(), Roots::read(bundle)?);
        }
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Ok(Self { bundles, roots, revocations, crls: Arc::default(), algorithms })
    }

    /// The same verifier, which also asks the revocation lists of other trust domains.
    #[must_use]
    pub fn heeding(self, crls: Arc<CrlSet>) -> Self {
        Self { crls, ..self }
    }

    /// The revocation lists that are asked.
    #[must_use]
    pub const fn crls(&self) -> &Arc<CrlSet> {
        &self.crls
    }

    /// The bundles that are believed.
    #[must_use]
    pub const fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// What is not believed any more.
    #[must_use]
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The holder of `chain` (leaf first), if it is to be believed at `now`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: Timestamp,
    ) -> Result<Verified, VerifyError> {
        let (leaf, intermediates) = within_budget(chain)?;
        let time = unix_time(now)?;
        let subject = Subject::from_der(leaf)?;
        named_for(usage, &subject)?;
        let domain = subject.spiffe_id.trust_domain();
        let Some(roots) = self.roots.get(&domain) else {
            return Err(VerifyError::UnknownTrustDomain(domain));
        };
        let purpose = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| reason(error, &domain))?;
        let findings = RefCell::new(Findings::default());
        let judge = |path: &VerifiedPath<'_>| {
            findings.borrow_mut().note(proven(subject.clone(), path, roots, usage, now).and_then(
                |verified| {
                    // webpki counts whole seconds; the agent refuses what expired a moment ago as well.
                    self.confirm(&verified, now)?;
                    Ok(verified)
                },
            ))
        };
        let outcome = end_entity
            .verify_for_usage(
                self.algorithms.all,
                roots.anchors(),
                intermediates,
                time,
                purpose,
                None,
                Some(&judge),
            )
            .map(drop);
        findings.into_inner().verdict(outcome, &domain)
    }

    /// Whether a chain that was believed once, perhaps by another verifier, is to be believed at `now` by this one. Costs
    /// no signature.
    pub fn confirm(&self, verified: &Verified, now: Timestamp) -> Result<(), VerifyError> {
        unix_time(now)?;
        let domain = verified.subject.spiffe_id.trust_domain();
        let roots = self.roots.get(&domain);
        let root = roots.map(|roots| standing(roots.of_digest(verified.anchor), verified.depth, now));
        if now > verified.not_after {
            // That the root has ended is named, since it is no fault of the holder.
            return Err(match root {
                Some(Err(Some(ended @ Objection::Expired { .. }))) => objected(ended),
                _ => VerifyError::Expired { not_after: verified.not_after },
            });
        }
        if now < verified.not_before {
            return Err(VerifyError::NotYetValid { not_before: verified.not_before });
        }
        let root = match root {
            None => return Err(VerifyError::UnknownTrustDomain(domain)),
            Some(Err(None)) => return Err(VerifyError::UnknownIssuer(domain)),
            Some(Err(Some(objection))) => return Err(objected(objection)),
            Some(Ok(root)) => root,
        };
        let of_link = |link: &Link| self.revocations.of_certificate(&link.serial, &link.spki_sha256);
        let revoked = verified.intermediates.iter().chain([&root.signer.link]).find_map(of_link);
        if let Some(revoked) = revoked.or_else(|| self.revocations.of_leaf(&verified.subject)) {
            return Err(VerifyError::Revoked(revoked));
        }
        self.crls.check(&domain, verified, &root.signer.link, now)
    }
}

/// Whether the holder of a name like the subject's may be believed at all. A caller's name is for the rules on file to judge;
/// none speaks for a server, so a multi-valued one is refused at once.
fn named_for(usage: Usage, subject: &Subject) -> Result<(), InvalidSubject> {
    match usage {
        Usage::Server if subject.is_multi_valued() => Err(InvalidName::MultiValued.into()),
        Usage::Client | Usage::Server => Ok(()),
    }
}

/// What came of the paths that webpki proved and that were then looked at here: it goes on searching while it is told no.
#[derive(Default)]
struct Findings {
    taken: Option<Verified>,
    refused: Option<VerifyError>,
}

impl Findings {
    /// Keeps the answer on one path, and tells webpki whether to look for another.
    fn note(&mut self, answer: Result<Verified, VerifyError>) -> Result<(), webpki::Error> {
        match answer {
            Ok(verified) => {
                self.taken = Some(verified);
                Ok(())
            }
            Err(refused) => {
                if self.refused.as_ref().is_none_or(|known| weight(known) < weight(&refused)) {
                    self.refused = Some(refused);
                }
                // Any reason that does not end the search will do: what is reported stands above.
                Err(webpki::Error::UnknownIssuer)
            }
        }
    }

    /// Why a path was refused that is proven up to a root tells more than why others could not be proven.
    fn verdict(
        self,
        outcome: Result<(), webpki::Error>,
        domain: &TrustDomain,
    ) -> Result<Verified, VerifyError> {
        match (outcome, self.taken, self.refused) {
            (Ok(()), Some(verified), _) => Ok(verified),
            (Ok(()) | Err(_), _, Some(refused)) => Err(refused),
            (Err(error), _, None) => Err(reason(error, domain)),
            (Ok(()), None, None) => Err(VerifyError::UnknownIssuer(domain.clone())),
        }
    }
}

/// How much a reason tells an operator: that somebody took the chain back on purpose tells the most.
const fn weight(reason: &VerifyError) -> u8 {
    if matches!(reason, VerifyError::Revoked(_)) {
        2
    } else if matches!(
        reason,
        VerifyError::ForgedCrl { .. }
            | VerifyError::NoCrl { .. }
            | VerifyError::RootExpired { .. }
            | VerifyError::RootNotYetValid { .. }
            | VerifyError::StaleCrl { .. }
    ) {
        1
    } else {
        0
    }
}

fn within_budget<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > MAX_CERTIFICATES {
        return Err(VerifyError::TooLong(chain.len()));
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_BYTES {
        return Err(VerifyError::TooLarge(bytes));
    }
    Ok((leaf, intermediates))
}

fn unix_time(now: Timestamp) -> Result<UnixTime, VerifyError> {
    match u64::try_from(now.unix()) {
        Ok(seconds) if now >= Timestamp::FLOOR => {
            Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        }
        Ok(_) | Err(_) => Err(VerifyError::ClockNotSet(now)),
    }
}

/// What is remembered of a path that webpki has proven, if the certificates that sign in it may do so.
fn proven(
    subject: Subject,
    path: &VerifiedPath<'_>,
    roots: &Roots,
    usage: Usage,
    now: Timestamp,
) -> Result<Verified, VerifyError> {
    let (mut not_before, mut not_after) = (subject.not_before, subject.not_after);
    let (mut intermediates, mut depth) = (Vec::new(), 0);
    for intermediate in path.intermediate_certificates() {
        let signer = Signer::intermediate(&intermediate.der()).map_err(VerifyError::BadIntermediate)?;
        not_before = not_before.max(signer.not_before);
        not_after = not_after.min(signer.not_after);
        depth += usize::from(!signer.is_self_issued);
        intermediates.push(signer.link);
    }
    let root = match standing(roots.of_anchor(path.anchor()), depth, now) {
        Ok(root) => root,
        Err(objection) => {
            let unknown = || VerifyError::UnknownIssuer(subject.spiffe_id.trust_domain());
            return Err(objection.map_or_else(unknown, objected));
        }
    };
    let serves = match usage {
        Usage::Client => root.signer.for_clients,
        Usage::Server => root.signer.for_servers,
    };
    if !serves {
        return Err(VerifyError::RootUsage);
    }
    not_before = not_before.max(root.signer.not_before);
    not_after = not_after.min(root.signer.not_after);
    let leaf = Some(path.end_entity().der().into_owned());
    Ok(Verified { subject, leaf, intermediates, depth, anchor: root.digest, not_before, not_after })
}

/// The one of `roots` that proves a path of this depth for longest, or what speaks against the first of them.
fn standing<'a>(
    roots: impl Iterator<Item = &'a Root>,
    depth: usize,
    now: Timestamp,
) -> Result<&'a Root, Option<Objection>> {
    let (mut found, mut against): (Option<&Root>, _) = (None, None);
    for root in roots {
        match root.objection(depth, now) {
            Some(objection) => against = against.or(Some(objection)),
            None if found.is_some_and(|found| found.signer.not_after >= root.signer.not_after) => (),
            None => found = Some(root),
        }
    }
    found.ok_or(against)
}

const fn objected(objection: Objection) -> VerifyError {
    match objection {
        Objection::Expired { not_after } => VerifyError::RootExpired { not_after },
        Objection::NotYetValid { not_before } => VerifyError::RootNotYetValid { not_before },
        Objection::PathLength => VerifyError::Chain(webpki::Error::PathLenConstraintViolated),
    }
}

fn reason(error: webpki::Error, domain: &TrustDomain) -> VerifyError {
    let timestamp = |time: UnixTime| Timestamp::from_unix(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "webpki adds reasons; all others are reported as it names them"
    )]
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            VerifyError::Expired { not_after: timestamp(not_after) }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { not_before: timestamp(not_before) }
        }
        webpki::Error::InvalidSignatureForPublicKey => VerifyError::BadSignature,
        webpki::Error::MaximumNameConstraintComparisonsExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumSignatureChecksExceeded => VerifyError::TooMuchWork,
        webpki::Error::RequiredEkuNotFoundContext(_) => VerifyError::WrongUsage,
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            VerifyError::UnsupportedSignature
        }
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer(domain.clone()),
        other => VerifyError::Chain(other),
    }
}
