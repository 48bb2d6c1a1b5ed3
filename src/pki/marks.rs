//! What tells one certificate from another: serial number, key, and the name that it signs under.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use crate::pki::verified::sized;

/// The marks of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    /// The serial number in lower-case hexadecimal digits.
    pub(super) serial: String,
    /// SHA-256 of the public key with its algorithm.
    pub(super) spki_sha256: [u8; 32],
    /// SHA-256 over name and key: two certificates of one authority have it in common.
    pub(super) authority: [u8; 32],
    /// The name as it is encoded.
    pub(super) subject: Vec<u8>,
    /// The name for people.
    pub(super) name: String,
    /// The subjectKeyIdentifier, if there is one.
    pub(super) key_id: Option<Vec<u8>>,
    /// Whether the key may sign revocation lists: no key usage forbids nothing.
    pub(super) may_sign_lists: bool,
}

impl Marks {
    /// The marks of a certificate that can be read.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (subject, spki) = (parsed.subject().as_raw(), parsed.public_key().raw);
        let key_id = parsed.extensions().iter().find_map(|extension| {
            let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else { return None };
            Some(id.0.to_vec())
        });
        let usage = parsed.key_usage().ok()?;
        Some(Self {
            serial: HEXLOWER.encode(significant(parsed.raw_serial())),
            spki_sha256: sized(digest::digest(&digest::SHA256, spki).as_ref()),
            authority: authority_mark(subject, spki),
            subject: subject.to_vec(),
            name: parsed.subject().to_string(),
            key_id,
            may_sign_lists: usage.is_none_or(|usage| usage.value.crl_sign()),
        })
    }
}

/// SHA-256 over an authority's name and key.
pub(super) fn authority_mark(subject: &[u8], spki: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&u64::try_from(subject.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(subject);
    context.update(spki);
    sized(context.finish().as_ref())
}

/// A number without the zeros in front of it.
pub(super) fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
