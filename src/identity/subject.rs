//! What a leaf certificate says of its holder.
//!
//! **Invariant:** nothing here checks a signature. A [`Subject`] is worth believing only when it comes out of the
//! verifier, which calls [`Subject::from_der`] on the leaf of a chain that it proves.
//!
//! > An X.509 SVID MUST contain exactly one URI SAN, and by extension, exactly one SPIFFE ID. — X509-SVID §2

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::clock::Timestamp;
use crate::identity::certificate::{self, InvalidCertificate};
use crate::identity::name::{self, COMMON_NAME};
use crate::identity::{InvalidName, InvalidSpiffeId, RelativeName, SpiffeId};

/// What a leaf certificate says of its holder: exactly one SPIFFE ID, and beside it what rules may look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    /// The one URI among the subject alternative names.
    pub spiffe_id: SpiffeId,
    /// The DNS names among the subject alternative names, in lower case.
    pub dns: Vec<String>,
    /// The attributes of the distinguished name, first to last, by the relative name that they stand in.
    pub attributes: Vec<RelativeName>,
    /// The distinguished name as RFC 4514 writes it; no two names share a text.
    pub distinguished_name: String,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// The issuer's distinguished name as RFC 4514 writes it.
    pub issuer: String,
    /// The first instant of validity.
    pub not_before: Timestamp,
    /// The last instant of validity.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of the public key with its algorithm (SubjectPublicKeyInfo).
    pub spki_sha256: [u8; 32],
}

/// Why a certificate gives no identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// A DNS name with other characters than `A-Z a-z 0-9 . - _ *`.
    #[error("a DNS name has other characters than letters, digits, '.', '-', '_' and '*'")]
    DnsName,
    /// A certificate of an authority, which never authenticates a workload.
    #[error("the certificate is that of an authority, not of a workload")]
    IsAuthority,
    /// A key usage that lets the key sign certificates or revocation lists.
    #[error("the key may sign certificates or revocation lists, which a workload's key must not")]
    KeyUsageOfAuthority,
    /// A key usage that readers may pass over.
    ///
    /// > Key usage … MUST be marked critical. — X509-SVID §4.3
    #[error("the key usage is not marked critical")]
    KeyUsageNotCritical,
    /// A distinguished name that could be misread.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// No distinguished name, and alternative names that readers may pass over (RFC 5280 §4.2.1.6).
    #[error("the distinguished name is empty and the alternative names are not marked critical")]
    NamesNotCritical,
    /// No key usage, or one without digitalSignature.
    #[error("the key usage does not say digitalSignature")]
    NoDigitalSignature,
    /// No URI among the subject alternative names.
    #[error("the certificate carries no URI, so no SPIFFE ID")]
    NoUri,
    /// A serial number that is negative or zero, has more than 20 bytes, or is padded.
    #[error("the serial number is not positive, padded or longer than 20 bytes")]
    Serial,
    /// A URI that is no workload's SPIFFE ID.
    #[error("the certificate's URI is no workload's SPIFFE ID: {0}")]
    SpiffeId(#[from] InvalidSpiffeId),
    /// More than one URI among the subject alternative names: order must not decide who somebody is.
    #[error("the certificate carries {0} URIs, where exactly one is allowed")]
    SeveralUris(usize),
    /// Not a certificate, or one with bytes behind it, or with a broken or repeated extension.
    #[error("the certificate is malformed: {0}")]
    Structure(String),
    /// A certificate of version 1 or 2.
    #[error("the certificate is of X.509 version {0}, and only version 3 carries a SPIFFE ID")]
    Version(u32),
    /// A key that is too short, too long, or of a kind that nobody here can check.
    #[error("the certificate's key is of a kind or length that is not relied on")]
    WeakKey,
}

impl From<InvalidCertificate> for InvalidSubject {
    fn from(reason: InvalidCertificate) -> Self {
        match reason {
            InvalidCertificate::Malformed(_)
            | InvalidCertificate::RepeatedExtension(_)
            | InvalidCertificate::Tail => structure(reason),
            InvalidCertificate::Serial => Self::Serial,
            InvalidCertificate::Version(version) => Self::Version(version),
            InvalidCertificate::WeakKey => Self::WeakKey,
        }
    }
}

impl Subject {
    /// The common name, if there is exactly one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        let attributes = self.attributes.iter().flat_map(RelativeName::attributes);
        let mut names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
        match (names.next(), names.next()) {
            (Some(only), None) => Some(&only.value),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Reads a leaf certificate, and refuses one that breaks the rules for workload certificates.
    ///
    /// # Errors
    /// The first rule that `der` breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidSubject> {
        let certificate = certificate::read(der)?;
        check_usage(&certificate)?;
        let (spiffe_id, dns) = alternative_names(&certificate)?;
        name::check_whole(certificate.subject())?;
        let validity = certificate.validity();
        Ok(Self {
            spiffe_id,
            dns,
            attributes: name::relative_names(certificate.subject())?,
            distinguished_name: name::to_text(certificate.subject()),
            serial: certificate::serial(certificate.raw_serial())?,
            issuer: name::to_text(certificate.issuer()),
            not_before: Timestamp::from_unix(validity.not_before.timestamp()),
            not_after: Timestamp::from_unix(validity.not_after.timestamp()),
            sha256: sha256(der),
            spki_sha256: sha256(certificate.public_key().raw),
        })
    }

    /// Whether the distinguished name has several attributes in one relative name, so that only a rule that says so may
    /// stand for it.
    #[must_use]
    pub fn is_multi_valued(&self) -> bool {
        self.attributes.iter().any(RelativeName::is_multi_valued)
    }
}

/// The distinguished name of whatever certificate `der` is, as RFC 4514 writes it; none if it is no certificate.
#[must_use]
pub fn distinguished_name(der: &[u8]) -> Option<String> {
    certificate::read(der).ok().map(|certificate| name::to_text(certificate.subject()))
}

/// What X509-SVID §4 and §5.2 ask of a leaf: no CA, may sign for itself, may not sign certificates or revocation lists.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), InvalidSubject> {
    if certificate.basic_constraints().map_err(structure)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(InvalidSubject::IsAuthority);
    }
    let extension = certificate.key_usage().map_err(structure)?.ok_or(InvalidSubject::NoDigitalSignature)?;
    let usage = extension.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(InvalidSubject::KeyUsageOfAuthority);
    }
    if !usage.digital_signature() {
        return Err(InvalidSubject::NoDigitalSignature);
    }
    if extension.critical { Ok(()) } else { Err(InvalidSubject::KeyUsageNotCritical) }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Result<(SpiffeId, Vec<String>), InvalidSubject> {
    let names = certificate.subject_alternative_name().map_err(structure)?.ok_or(InvalidSubject::NoUri)?;
    if !names.critical && certificate.subject().iter_rdn().next().is_none() {
        return Err(InvalidSubject::NamesNotCritical);
    }
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns.push(dns_name(name)?),
            GeneralName::Invalid(..) => {
                return Err(InvalidSubject::Structure("an alternative name cannot be read".to_owned()));
            }
            GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::X400Address(_) => (),
        }
    }
    match uris.as_slice() {
        [] => Err(InvalidSubject::NoUri),
        [only] => Ok((only.parse()?, dns)),
        several => Err(InvalidSubject::SeveralUris(several.len())),
    }
}

fn dns_name(name: &str) -> Result<String, InvalidSubject> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
    if !name.is_empty() && name.bytes().all(allowed) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(InvalidSubject::DnsName)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    array
}

fn structure(error: impl std::fmt::Display) -> InvalidSubject {
    InvalidSubject::Structure(error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, IsCa, KeyPair,
        KeyUsagePurpose, SanType, SerialNumber,
    };

    use super::*;

    fn leaf() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![uri("spiffe://postern.test/orders")];
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
        params
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn read(params: &CertificateParams) -> Result<Subject, InvalidSubject> {
        let key = KeyPair::generate().unwrap();
        Subject::from_der(params.self_signed(&key).unwrap().der())
    }

    fn read_named(kind: DnType, value: impl Into<DnValue>) -> Result<Subject, InvalidSubject> {
        let mut params = leaf();
        params.distinguished_name.push(kind, value);
        read(&params)
    }

    #[test]
    fn a_proper_leaf_tells_who_holds_it() {
        let mut params = leaf();
        params.subject_alt_names.push(SanType::DnsName("Orders.Postern.Test".try_into().unwrap()));
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.distinguished_name.push(DnType::CommonName, "orders");

        let subject = read(&params).unwrap();

        assert_eq!(subject.spiffe_id.as_str(), "spiffe://postern.test/orders");
        assert_eq!(subject.dns, ["orders.postern.test"]);
        assert_eq!(subject.distinguished_name, "CN=orders,O=Acme");
        assert_eq!(subject.issuer, "CN=orders,O=Acme");
        assert_eq!(subject.serial, "0abc");
        assert_eq!(subject.attributes.len(), 2);
        assert!(subject.not_before < subject.not_after);
    }

    #[test]
    fn fingerprints_are_those_of_the_certificate_and_of_its_key() {
        let key = KeyPair::generate().unwrap();
        let first = leaf().self_signed(&key).unwrap();
        let mut params = leaf();
        params.serial_number = Some(SerialNumber::from_slice(&[1]));
        let second = params.self_signed(&key).unwrap();

        let (first, second) =
            (Subject::from_der(first.der()).unwrap(), Subject::from_der(second.der()).unwrap());

        assert_eq!(first.spki_sha256, second.spki_sha256);
        assert_ne!(first.sha256, second.sha256);
        assert_eq!(first.spki_sha256, sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)));
    }

    #[test]
    fn a_ca_certificate_is_nobody() {
        let mut params = leaf();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);

        assert_eq!(read(&params), Err(InvalidSubject::IsAuthority));
    }

    #[test]
    fn a_leaf_that_may_sign_certificates_or_revocation_lists_is_nobody() {
        for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
            let mut params = leaf();
            params.key_usages.push(usage);

            assert_eq!(read(&params), Err(InvalidSubject::KeyUsageOfAuthority));
        }
    }

    #[test]
    fn a_leaf_says_digital_signature() {
        let (mut absent, mut other) = (leaf(), leaf());
        absent.key_usages.clear();
        other.key_usages = vec![KeyUsagePurpose::KeyAgreement];

        assert_eq!(read(&absent), Err(InvalidSubject::NoDigitalSignature));
        assert_eq!(read(&other), Err(InvalidSubject::NoDigitalSignature));
    }

    #[test]
    fn there_is_exactly_one_uri() {
        let (mut none, mut dns_only, mut two) = (leaf(), leaf(), leaf());
        none.subject_alt_names.clear();
        dns_only.subject_alt_names = vec![SanType::DnsName("orders.test".try_into().unwrap())];
        two.subject_alt_names.push(uri("https://example.org/"));

        assert_eq!(read(&none), Err(InvalidSubject::NoUri));
        assert_eq!(read(&dns_only), Err(InvalidSubject::NoUri));
        assert_eq!(read(&two), Err(InvalidSubject::SeveralUris(2)));
    }

    #[test]
    fn the_uri_is_a_spiffe_id_with_a_path() {
        for (text, reason) in [
            ("https://postern.test/orders", InvalidSpiffeId::Scheme),
            ("SPIFFE://postern.test/orders", InvalidSpiffeId::Scheme),
            ("spiffe://postern.test", InvalidSpiffeId::NoPath),
            ("spiffe://postern.test/", InvalidSpiffeId::TrailingSlash),
            ("spiffe://postern.test/a\r\nX-Admin: 1", InvalidSpiffeId::Character),
            ("spiffe://postern.test/a,By=x;URI=spiffe://a/admin", InvalidSpiffeId::Character),
        ] {
            let mut params = leaf();
            params.subject_alt_names = vec![uri(text)];

            assert_eq!(read(&params), Err(InvalidSubject::SpiffeId(reason)), "{text}");
        }
    }

    #[test]
    fn a_dns_name_has_no_surprising_characters() {
        for text in ["admin.test\0.evil.test", "a b", "a\r\nb", "a,b", ""] {
            let mut params = leaf();
            params.subject_alt_names.push(SanType::DnsName(text.try_into().unwrap()));

            assert_eq!(read(&params), Err(InvalidSubject::DnsName), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_could_be_misread_is_refused() {
        let refused = |result| matches!(result, Err(InvalidSubject::Name(_)));
        let bmp = DnValue::BmpString(rcgen::string::BmpString::try_from("admin").unwrap());

        assert!(refused(read_named(DnType::CommonName, "admin\0.evil")));
        assert!(refused(read_named(DnType::CommonName, "a\r\nX-Admin: 1")));
        assert!(refused(read_named(DnType::CommonName, "admi\u{200b}n")));
        assert!(refused(read_named(DnType::CommonName, bmp)));
    }

    #[test]
    fn a_separator_inside_a_value_stays_inside() {
        let injected = read_named(DnType::CommonName, "billing, O=admin").unwrap();

        assert_eq!(injected.distinguished_name, "CN=billing\\, O\\=admin");
        assert_eq!(injected.attributes.len(), 1);
    }

    #[test]
    fn an_empty_name_is_fine_since_the_uri_names_the_holder() {
        let subject = read(&leaf()).unwrap();

        assert_eq!((subject.distinguished_name.as_str(), subject.attributes.len()), ("", 0));
    }

    #[test]
    fn a_repeated_alternative_name_extension_is_refused() {
        let mut params = leaf();
        let admin = b"\x30\x1e\x86\x1cspiffe://postern.test/admins".to_vec();
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], admin));

        assert!(matches!(read(&params), Err(InvalidSubject::Structure(_))));
    }

    #[test]
    fn what_is_no_certificate_or_has_a_tail_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut der = leaf().self_signed(&key).unwrap().der().to_vec();
        der.push(0);

        assert!(matches!(Subject::from_der(&der), Err(InvalidSubject::Structure(_))));
        assert!(matches!(Subject::from_der(b""), Err(InvalidSubject::Structure(_))));
        assert!(matches!(Subject::from_der(b"\x30\x80"), Err(InvalidSubject::Structure(_))));
    }

    #[test]
    fn a_certificate_cut_short_never_panics() {
        let key = KeyPair::generate().unwrap();
        let der = leaf().self_signed(&key).unwrap().der().to_vec();

        for length in 0..der.len() {
            assert!(Subject::from_der(&der[..length]).is_err());
        }
    }
}
