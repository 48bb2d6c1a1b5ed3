//! One signing certificate of the local CA together with its key, or a root whose key is kept elsewhere.
//!
//! > A signing certificate MUST set the `cA` field to true and `keyCertSign` in its key usage; if it carries a SPIFFE ID, that
//! > ID has no path. — X509-SVID §4
//!
//! **Invariant:** only a root can be without its key here. It is believed like any other and signs nothing.
//!
//! No name constraints: rustls refuses every SPIFFE ID below an authority that has some for URIs.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::clock::Timestamp;
use crate::id::AuthorityId;
use crate::identity::TrustDomain;
use crate::pki::key::{KeyAlgorithm, KeyError, KeyPair, KeySource, RemoteFailure};
use crate::pki::marks::Marks;
use crate::pki::rotation::Life;
use crate::pki::verifier::MAX_CERTIFICATES;
use crate::secret::Secret;

/// Where an authority stands in the hierarchy.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Signs leaves; belongs to this host.
    Issuing,
    /// Signs issuing authorities; what others must trust.
    Root,
}

impl Level {
    /// As labels and files write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Root => "root",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuing => "issuing authority",
            Self::Root => "root",
        })
    }
}

/// What a new authority is to be.
#[derive(Clone, Copy, Debug)]
pub struct AuthorityPlan<'k> {
    /// Where its key comes from.
    pub keys: &'k dyn KeySource,
    /// The kind of its key.
    pub algorithm: KeyAlgorithm,
    /// How long it is valid, counted from now.
    pub ttl: Duration,
    /// How far before now its validity begins.
    pub backdate: Duration,
}

/// A signing certificate and its key, if that is here. That they belong together was checked.
pub struct Authority {
    id: AuthorityId,
    level: Level,
    certificate: CertificateDer<'static>,
    /// Those between it and its root, the nearest first.
    above: Vec<CertificateDer<'static>>,
    /// The root that was found to have signed it, since finding out costs a signature.
    root: OnceLock<AuthorityId>,
    /// A root that signs elsewhere has none.
    issuer: Option<Issuer<'static, KeyPair>>,
    life: Life,
    marks: Marks,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Certificate and key do not belong together.
    #[error("the key does not belong to the certificate")]
    ForeignKey,
    /// There is no usable key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It cannot live as long as it is to.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// Its name would be written differently into what it signs, so nobody could find it as the issuer.
    #[error(
        "the certificate's subject cannot be reproduced in what it signs (a repeated attribute, or a rare text type)"
    )]
    Name,
    /// The certificate does not say that it is an authority.
    #[error("the certificate is no authority's: {0}")]
    NoAuthority(&'static str),
    /// A root that did not sign itself.
    #[error("the certificate is no root: it names itself as its issuer, but did not sign itself")]
    NotSelfSigned,
    /// The certificate could not be signed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// Its key is not on this host.
    #[error(
        "the root {0} signs elsewhere, its key is not on this host: have the next issuing authority signed there \
         (`postern ca csr` here, `postern ca sign` there, `postern ca install` here)"
    )]
    SignsElsewhere(AuthorityId),
    /// More certificates above it than a verifier would take.
    #[error(
        "leaf, issuing authority, {above} in between and the root are {} certificates, and a verifier takes at most \
         {MAX_CERTIFICATES}: have it signed closer to the root",
        above + 3
    )]
    TooDeep {
        /// How many stand between it and its root.
        above: usize,
    },
    /// A certificate above it that did not sign the one below.
    #[error("the certificate number {position} of the chain is not signed by the one after it")]
    Unlinked {
        /// Its place in the chain, counted from 1.
        position: usize,
    },
    /// The keeper of the key did not sign.
    #[error("the key did not sign the certificate")]
    Unsigned(#[source] RemoteFailure),
}

impl AuthorityError {
    pub(super) fn of_signing(key: &KeyPair, error: rcgen::Error) -> Self {
        key.take_failure().map_or(Self::Sign(error), Self::Unsigned)
    }
}

/// Why a certificate cannot live as long as it is to.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LifeError {
    /// The clock has not been set.
    #[error("the clock says {0}, which is before this program was written: set the clock first")]
    ClockNotSet(Timestamp),
    /// Its validity would have to begin after now.
    #[error("the {signer} is valid only from {not_before} on, and the clock says {now}")]
    NotYetValid {
        /// The level of the authority that was to sign.
        signer: Level,
        /// Where that one's validity begins.
        not_before: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// It would outlive the authority that was to sign it.
    #[error("the {signer} expires {not_after}, before the requested {requested}")]
    OutlivesAuthority {
        /// The level of the authority that was to sign.
        signer: Level,
        /// Where that one's validity ends.
        not_after: Timestamp,
        /// Where the certificate's would end.
        requested: Timestamp,
    },
}

impl Authority {
    /// A new root, signed by itself.
    pub fn make_root(
        domain: &TrustDomain,
        plan: &AuthorityPlan<'_>,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let key = plan.keys.generate(plan.algorithm)?;
        let life = life_from(plan.ttl, plan.backdate, now)?;
        let params = parameters(Level::Root, domain, life, &random_serial()?)?;
        let certificate =
            params.self_signed(&key).map_err(|error| AuthorityError::of_signing(&key, error))?;
        Self::assemble(certificate.into(), key, now)
    }

    /// A new issuing authority, signed by `root`.
    pub fn make_issuing(
        root: &Self,
        domain: &TrustDomain,
        plan: &AuthorityPlan<'_>,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        // A key that could not be certified must not be left behind where keys are kept.
        root.issuer()?;
        let key = plan.keys.generate(plan.algorithm)?;
        let (certificate, _) = root.sign_issuing(&key, domain, plan.ttl, plan.backdate, now)?;
        Self::assemble(certificate, key, now)
    }

    /// The certificate of an issuing authority that holds `public_key`, and its serial number in hexadecimal.
    pub(super) fn sign_issuing(
        &self,
        public_key: &impl rcgen::PublicKeyData,
        domain: &TrustDomain,
        ttl: Duration,
        backdate: Duration,
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, String), AuthorityError> {
        let life = self.bound(life_from(ttl, backdate, now)?)?;
        let serial = random_serial()?;
        let params = parameters(Level::Issuing, domain, life, &serial)?;
        let issuer = self.issuer()?;
        let signed = params.signed_by(public_key, issuer);
        let certificate = signed.map_err(|error| AuthorityError::of_signing(issuer.key(), error))?;
        Ok((certificate.into(), HEXLOWER.encode(&serial)))
    }

    /// A root whose key is kept elsewhere; it became known here at `created`.
    pub fn elsewhere(
        certificate: CertificateDer<'static>,
        created: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let (level, life, _) = examine(&certificate, None, created)?;
        if level != Level::Root {
            return Err(AuthorityError::NoAuthority("it is no root: somebody else signed it"));
        }
        if !signature_holds(&certificate, &certificate) {
            return Err(AuthorityError::NotSelfSigned);
        }
        Ok(Self {
            id: id_of(&certificate)?,
            marks: marks_of(&certificate)?,
            level,
            certificate,
            above: Vec::new(),
            root: OnceLock::new(),
            issuer: None,
            life,
        })
    }

    /// The same issuing authority with those between it and its root, the nearest first: each must have signed the one
    /// below it. They go out with every leaf.
    pub fn below(self, above: Vec<CertificateDer<'static>>) -> Result<Self, AuthorityError> {
        if above.len() + 3 > MAX_CERTIFICATES {
            return Err(AuthorityError::TooDeep { above: above.len() });
        }
        let mut signed = &self.certificate;
        for (position, signer) in (1..).zip(&above) {
            examine(signer, None, self.life.issued_at)?;
            if !is_signed(signed, signer) {
                return Err(AuthorityError::Unlinked { position });
            }
            signed = signer;
        }
        Ok(Self { above, root: OnceLock::new(), ..self })
    }

    /// An authority that was made earlier, at `created`: the key must be the certificate's, and the certificate an
    /// authority's that can be found as the issuer of what it signs.
    pub fn load(
        certificate: CertificateDer<'static>,
        key: &Secret,
        created: Timestamp,
    ) -> Result<Self, AuthorityError> {
        Self::with_key(certificate, KeyPair::from_pkcs8(key)?, created)
    }

    /// [`Self::load`] with a key that may be kept elsewhere.
    pub fn with_key(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        created: Timestamp,
    ) -> Result<Self, AuthorityError> {
        Self::assemble(certificate, key, created)
    }

    /// Its name: the first 16 hexadecimal digits of the certificate's SHA-256 fingerprint.
    #[must_use]
    pub const fn id(&self) -> &AuthorityId {
        &self.id
    }

    /// Where it stands.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificates between it and its root, the nearest first; mostly none.
    #[must_use]
    pub fn above(&self) -> &[CertificateDer<'static>] {
        &self.above
    }

    /// The key, if it is here.
    #[must_use]
    pub fn key(&self) -> Option<&KeyPair> {
        self.issuer.as_ref().map(Issuer::key)
    }

    /// Its life.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Whether `root` signed the certificate, or the topmost of those above it.
    #[must_use]
    pub fn is_signed_by(&self, root: &Self) -> bool {
        if self.root.get() == Some(&root.id) {
            return true;
        }
        let found = is_signed(self.above.last().unwrap_or(&self.certificate), &root.certificate);
        if found {
            // Another one of the same name and key may have been found before; then that stays.
            self.root.get_or_init(|| root.id.clone());
        }
        found
    }

    /// Its serial number, name and key.
    pub(super) const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What signs.
    pub(super) fn issuer(&self) -> Result<&Issuer<'static, KeyPair>, AuthorityError> {
        self.issuer.as_ref().ok_or_else(|| AuthorityError::SignsElsewhere(self.id.clone()))
    }

    /// Holds `life` within this authority's own: its beginning is moved, its end is never shortened in silence.
    pub(super) fn bound(&self, life: Life) -> Result<Life, LifeError> {
        let not_before = life.not_before.max(self.life.not_before);
        if not_before > life.issued_at {
            return Err(LifeError::NotYetValid {
                signer: self.level,
                not_before: self.life.not_before,
                now: life.issued_at,
            });
        }
        if life.not_after > self.life.not_after {
            return Err(LifeError::OutlivesAuthority {
                signer: self.level,
                not_after: self.life.not_after,
                requested: life.not_after,
            });
        }
        Ok(Life { not_before, ..life })
    }

    pub(super) fn assemble(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        created: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let (level, life, subject) = examine(&certificate, Some(&key), created)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| AuthorityError::Malformed(error.to_string()))?;
        if issuer_name_written_by(&issuer)? != subject {
            return Err(AuthorityError::Name);
        }
        let (id, above) = (id_of(&certificate)?, Vec::new());
        let marks = marks_of(&certificate)?;
        Ok(Self { id, level, certificate, above, root: OnceLock::new(), issuer: Some(issuer), life, marks })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("id", &self.id).field("level", &self.level).finish_non_exhaustive()
    }
}

/// A certificate's life when it is made now, in the whole seconds that X.509 knows.
pub(super) fn life_from(ttl: Duration, backdate: Duration, now: Timestamp) -> Result<Life, LifeError> {
    if now < Timestamp::FLOOR {
        return Err(LifeError::ClockNotSet(now));
    }
    let not_before = (now - backdate).to_whole_second();
    Ok(Life { not_before, issued_at: now, not_after: (now + ttl).to_whole_second() })
}

/// A positive serial number with 128 random bits, always of the same length.
pub(super) fn random_serial() -> Result<[u8; 17], KeyError> {
    let mut serial = [1; 17];
    let (_, random) = serial.split_at_mut(1);
    aws_lc_rs::rand::fill(random).map_err(|_| KeyError::Generate)?;
    Ok(serial)
}

fn parameters(
    level: Level,
    domain: &TrustDomain,
    life: Life,
    serial: &[u8],
) -> Result<CertificateParams, AuthorityError> {
    let mut params = request_parameters(level, domain, serial.get(1..9).unwrap_or_default())?;
    params.not_before = life.not_before.to_offset_date_time();
    params.not_after = life.not_after.to_offset_date_time();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// As much of a certificate as can be asked for.
///
/// The name differs between any two authorities by `token`, so that path building never has to try several keys of one name.
pub(super) fn request_parameters(
    level: Level,
    domain: &TrustDomain,
    token: &[u8],
) -> Result<CertificateParams, AuthorityError> {
    let (role, depth) = match level {
        Level::Issuing => ("issuing authority", 0),
        Level::Root => ("root", 1),
    };
    let token = HEXLOWER.encode(token);
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Postern");
    name.push(DnType::CommonName, format!("{role} {token}"));

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.subject_alt_names =
        vec![SanType::URI(domain.id_text().as_str().try_into().map_err(AuthorityError::Sign)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn examine(
    certificate: &CertificateDer<'_>,
    key: Option<&KeyPair>,
    created: Timestamp,
) -> Result<(Level, Life, Vec<u8>), AuthorityError> {
    let malformed = |error: &dyn fmt::Display| AuthorityError::Malformed(error.to_string());
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes after its end"));
    }
    if key.is_some_and(|key| parsed.public_key().raw != key.public_key_info()) {
        return Err(AuthorityError::ForeignKey);
    }
    let constraints = parsed.basic_constraints().map_err(|error| malformed(&error))?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(AuthorityError::NoAuthority("it is not marked as one (basicConstraints CA)"));
    }
    let usage = parsed.key_usage().map_err(|error| malformed(&error))?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(AuthorityError::NoAuthority("its key usage does not allow signing certificates"));
    }
    let subject = parsed.subject().as_raw().to_vec();
    let level = if parsed.issuer().as_raw() == subject { Level::Root } else { Level::Issuing };
    let life = Life {
        not_before: Timestamp::from_unix(parsed.validity().not_before.timestamp()),
        issued_at: created,
        not_after: Timestamp::from_unix(parsed.validity().not_after.timestamp()),
    };
    Ok((level, life, subject))
}

/// The issuer's name as it will stand in what the authority signs, found by signing something that is thrown away.
fn issuer_name_written_by(issuer: &Issuer<'_, KeyPair>) -> Result<Vec<u8>, AuthorityError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(1_u64));
    params.use_authority_key_identifier_extension = true;
    let trial = params
        .signed_by(issuer.key(), issuer)
        .map_err(|error| AuthorityError::of_signing(issuer.key(), error))?;
    let (_, parsed) = X509Certificate::from_der(trial.der())
        .map_err(|error| AuthorityError::Malformed(error.to_string()))?;
    Ok(parsed.issuer().as_raw().to_vec())
}

fn is_signed(certificate: &CertificateDer<'_>, signer: &CertificateDer<'_>) -> bool {
    let (Ok((_, below)), Ok((_, above))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(signer))
    else {
        return false;
    };
    below.issuer().as_raw() == above.subject().as_raw() && signature_holds(certificate, signer)
}

pub(super) fn signature_holds(certificate: &CertificateDer<'_>, signer: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    signature_holds_over(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data, signer)
}

/// Whether the key of `signer` made `signature` over `message`.
pub(super) fn signature_holds_over(message: &[u8], signature: &[u8], signer: &CertificateDer<'_>) -> bool {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let Ok(signer) = webpki::EndEntityCert::try_from(signer) else { return false };
    algorithms.all.iter().any(|candidate| signer.verify_signature(*candidate, message, signature).is_ok())
}

fn marks_of(certificate: &CertificateDer<'_>) -> Result<Marks, AuthorityError> {
    Marks::of(certificate).ok_or_else(|| AuthorityError::Malformed("it has no marks".to_owned()))
}

fn id_of(certificate: &CertificateDer<'_>) -> Result<AuthorityId, AuthorityError> {
    let fingerprint = HEXLOWER.encode(digest::digest(&digest::SHA256, certificate).as_ref());
    fingerprint
        .get(..16)
        .and_then(|start| start.parse().ok())
        .ok_or_else(|| AuthorityError::Malformed("it has no fingerprint".to_owned()))
}
