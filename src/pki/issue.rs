//! Draws up and signs a leaf.
//!
//! > An X509-SVID is a leaf with exactly one URI SAN, `cA` false, a critical key usage with `digitalSignature` and without
//! > `keyCertSign` and `cRLSign`, and both server and client authentication if it has an extended key usage. — X509-SVID §3, §4
//!
//! The subject stays empty, which makes the SAN critical (RFC 5280 §4.2.1.6): whoever does not understand SANs must not take
//! the certificate for anything. Key and serial number are fresh each time.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};

use crate::clock::Timestamp;
use crate::pki::authority::{Authority, AuthorityError, Level, LifeError, life_from, random_serial};
use crate::pki::key::{KeyError, KeyPair, RemoteFailure};
use crate::pki::profile::Profile;
use crate::pki::rotation::Life;
use crate::pki::svid::X509Svid;

/// Why no leaf was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A DNS name that cannot stand in a certificate.
    #[error("{0:?} is no DNS name")]
    InvalidDnsName(String),
    /// There is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It cannot live as long as it is to; the lifetime is never shortened in silence.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// The leaf could not be signed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// The authority cannot sign.
    #[error(transparent)]
    Signer(#[from] AuthorityError),
    /// The keeper of the authority's key did not sign.
    #[error("the authority's key did not sign the certificate")]
    Unsigned(#[source] RemoteFailure),
    /// Only an issuing authority signs leaves.
    #[error("a {0} does not sign leaves")]
    WrongLevel(Level),
}

/// A leaf for `profile` with a fresh key, signed by `authority`.
pub fn issue(authority: &Authority, profile: &Profile, now: Timestamp) -> Result<X509Svid, IssueError> {
    if authority.level() != Level::Issuing {
        return Err(IssueError::WrongLevel(authority.level()));
    }
    let life = authority.bound(life_from(profile.ttl, profile.backdate, now)?)?;
    let (serial, issuer) = (random_serial()?, authority.issuer()?);
    let key = KeyPair::generate(profile.algorithm)?;
    let pkcs8 = key.to_pkcs8_der().ok_or(KeyError::Generate)?;
    let certificate = parameters(profile, life, &serial)?
        .signed_by(&key, issuer)
        .map_err(|error| issuer.key().take_failure().map_or(IssueError::Sign(error), IssueError::Unsigned))?;
    let mut chain = vec![certificate.into(), authority.certificate().clone()];
    chain.extend_from_slice(authority.above());
    Ok(X509Svid {
        spiffe_id: profile.spiffe_id.clone(),
        chain,
        key: Arc::new(pkcs8),
        not_before: life.not_before,
        issued_at: life.issued_at,
        not_after: life.not_after,
        serial: HEXLOWER.encode(&serial),
        authority: authority.id().clone(),
        generation: 0,
    })
}

fn parameters(profile: &Profile, life: Life, serial: &[u8]) -> Result<CertificateParams, IssueError> {
    let mut names = Vec::with_capacity(1 + profile.dns.len());
    names.push(SanType::URI(profile.spiffe_id.as_str().try_into().map_err(IssueError::Sign)?));
    for name in &profile.dns {
        if !is_dns_name(name) {
            return Err(IssueError::InvalidDnsName(name.clone()));
        }
        names.push(SanType::DnsName(name.as_str().try_into().map_err(IssueError::Sign)?));
    }
    let mut params = CertificateParams::default();
    params.not_before = life.not_before.to_offset_date_time();
    params.not_after = life.not_after.to_offset_date_time();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Whether `name` can stand in a certificate: labels of letters, digits, and, not at the ends, `-` and `_`.
///
/// > The DNSName MUST be in the "preferred name syntax" — RFC 5280 §4.2.1.6
///
/// No wildcard: it would let its holder be any host below the name. What ends in a number is an address, not a name.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        let [first, last] = [label.bytes().next(), label.bytes().next_back()];
        first.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && last.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && label.len() <= 63
            && label.bytes().all(inner)
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(is_number)
}
