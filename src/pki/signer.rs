//! What a certificate must say for its key to sign other certificates: read alike of roots and of what stands between.
//!
//! > Signing certificates … MUST set the cA field to true, and MUST set keyCertSign … If a SPIFFE ID is present, it MUST
//! > NOT have a path component. — X509-SVID §3.2, §4.1, §4.3
//!
//! webpki looks at `cA`, at `pathLenConstraint` and at extended key usage of what stands between, and of a root at nothing
//! but its name, key and name constraints. Authority and subject key identifiers are not compared by anybody here: they are
//! hints for finding an issuer (RFC 5280 §4.2.1.1), and what proves the issuer is the signature.

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::clock::Timestamp;
use crate::identity::InvalidCertificate;
use crate::identity::certificate;
use crate::pki::marks::authority_mark;
use crate::pki::verified::{Link, sized};

/// A certificate whose key signs others.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub(super) link: Link,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// Its issuer bears its name: such a certificate does not count for a path length (RFC 5280 §6.1.4 (l)).
    pub(super) is_self_issued: bool,
    /// How many authorities may stand between it and a leaf.
    pub(super) path_length: Option<u32>,
    /// Whether what it signs may serve as a client.
    pub(super) for_clients: bool,
    /// Whether what it signs may serve as a server.
    pub(super) for_servers: bool,
}

/// Why a certificate's key signs nothing that is believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSigner {
    /// Not a certificate, or one that breaks a rule for all certificates.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
    /// An extension that must be understood, and is not.
    #[error("the extension {0} is critical and not understood")]
    CriticalExtension(String),
    /// webpki cannot read it.
    #[error("it cannot be read: {0}")]
    Der(webpki::Error),
    /// Its validity ends before it begins.
    #[error("its validity ends before it begins")]
    Life,
    /// Its key usage is absent or without keyCertSign.
    #[error("its key usage does not allow signing certificates (it is absent, or without keyCertSign)")]
    MayNotSign,
    /// It has no name by which it could be found as an issuer.
    #[error("its distinguished name is empty")]
    NoName,
    /// It is not marked as an authority.
    #[error("it is not marked as an authority (basicConstraints CA)")]
    NotAuthority,
    /// Its SPIFFE ID is that of a workload.
    #[error("its SPIFFE ID {0:?} has a path, which an authority's must not have")]
    SpiffeIdWithPath(String),
}

impl Signer {
    /// Reads a certificate that stands between a leaf and its root.
    pub(super) fn intermediate(der: &[u8]) -> Result<Self, InvalidSigner> {
        let certificate = certificate::read(der)?;
        let serial = certificate::serial(certificate.raw_serial())?;
        Self::of(&certificate, serial)
    }

    /// Reads a root. Nobody finds it by its serial number, and old ones have all kinds of those. An extension that is
    /// critical and not understood may be what limits the root, so it is not passed over.
    pub(super) fn root(der: &[u8]) -> Result<Self, InvalidSigner> {
        let certificate = certificate::read(der)?;
        let unknown = |oid: &str| !UNDERSTOOD.contains(&oid);
        for extension in certificate.extensions().iter().filter(|extension| extension.critical) {
            let oid = extension.oid.to_id_string();
            if unknown(&oid) {
                return Err(InvalidSigner::CriticalExtension(oid));
            }
        }
        let digits = certificate.raw_serial().iter().copied().skip_while(|&byte| byte == 0);
        let serial = data_encoding::HEXLOWER.encode(&digits.collect::<Vec<u8>>());
        Self::of(&certificate, serial)
    }

    fn of(certificate: &X509Certificate<'_>, serial: String) -> Result<Self, InvalidSigner> {
        let constraints =
            certificate.basic_constraints().map_err(malformed)?.map(|extension| extension.value);
        let Some(constraints) = constraints.filter(|constraints| constraints.ca) else {
            return Err(InvalidSigner::NotAuthority);
        };
        let usage = certificate.key_usage().map_err(malformed)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(InvalidSigner::MayNotSign);
        }
        if certificate.subject().iter_rdn().next().is_none() {
            return Err(InvalidSigner::NoName);
        }
        check_spiffe_ids(certificate)?;
        let validity = certificate.validity();
        if validity.not_before > validity.not_after {
            return Err(InvalidSigner::Life);
        }
        let not_before = Timestamp::from_unix(validity.not_before.timestamp());
        let extended = certificate.extended_key_usage().map_err(malformed)?.map(|extension| extension.value);
        let spki_sha256 = sized(digest::digest(&digest::SHA256, certificate.public_key().raw).as_ref());
        Ok(Self {
            link: Link {
                serial,
                spki_sha256,
                authority: authority_mark(certificate.subject().as_raw(), certificate.public_key().raw),
                not_before,
                certificate: certificate.as_raw().to_vec().into(),
            },
            not_before,
            not_after: Timestamp::from_unix(validity.not_after.timestamp()),
            is_self_issued: certificate.issuer().as_raw() == certificate.subject().as_raw(),
            path_length: constraints.path_len_constraint,
            for_clients: extended.is_none_or(|extended| extended.client_auth),
            for_servers: extended.is_none_or(|extended| extended.server_auth),
        })
    }
}

/// An authority needs no SPIFFE ID, and may have URIs of other kinds. The standard's own example carries a slash at the end.
fn check_spiffe_ids(certificate: &X509Certificate<'_>) -> Result<(), InvalidSigner> {
    let Some(names) = certificate.subject_alternative_name().map_err(malformed)? else { return Ok(()) };
    for name in &names.value.general_names {
        let GeneralName::URI(uri) = name else { continue };
        let is_spiffe = uri.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME));
        let path = uri.get(SCHEME.len()..).and_then(|rest| rest.split_once('/')).map(|(_, path)| path);
        if is_spiffe && path.is_some_and(|path| !path.is_empty()) {
            return Err(InvalidSigner::SpiffeIdWithPath((*uri).to_owned()));
        }
    }
    Ok(())
}

fn malformed(error: impl std::fmt::Display) -> InvalidSigner {
    InvalidCertificate::Malformed(error.to_string()).into()
}

const SCHEME: &str = "spiffe://";

/// Key usage, subject alternative name, basic constraints, name constraints, extended key usage.
const UNDERSTOOD: [&str; 5] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.37"];
