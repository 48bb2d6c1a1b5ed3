//! What a certificate says that nobody believes, for a log: short, printable, and worth nothing else.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::clock::Timestamp;
use crate::identity::name;

/// What a certificate that was refused says of itself.
///
/// **Invariant:** every text is printable ASCII and at most [`LONGEST`] bytes long, whatever the certificate holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Glimpse {
    /// Its SHA-256 in lower-case hexadecimal digits.
    pub sha256: String,
    /// The distinguished name; nothing here and below if it is no certificate.
    pub subject: String,
    /// The alternative names, each behind its kind.
    pub names: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// The last instant of validity.
    pub not_after: Option<Timestamp>,
}

/// Bytes of the longest text.
pub const LONGEST: usize = 256;

impl Glimpse {
    /// Looks at whatever `der` is.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let sha256 = HEXLOWER.encode(digest::digest(&digest::SHA256, der).as_ref());
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self { sha256, ..Self::default() };
        };
        Self {
            sha256,
            subject: printable(&name::to_text(certificate.subject())),
            names: printable(&names(&certificate)),
            issuer: printable(&name::to_text(certificate.issuer())),
            serial: printable(&HEXLOWER.encode(certificate.raw_serial())),
            not_after: Some(Timestamp::from_unix(certificate.validity().not_after.timestamp())),
        }
    }
}

fn names(certificate: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return String::new() };
    let named = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::IPAddress(bytes) => Some(format!("IP:{}", HEXLOWER.encode(bytes))),
        GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::Invalid(..)
        | GeneralName::OtherName(..)
        | GeneralName::RegisteredID(_)
        | GeneralName::X400Address(_) => None,
    });
    named.take(MOST_NAMES).collect::<Vec<_>>().join(" ")
}

/// More names say no more.
const MOST_NAMES: usize = 8;

/// `text` with everything but printable ASCII escaped, and cut where it is longer than [`LONGEST`].
#[must_use]
pub fn printable(text: &str) -> String {
    let mut written = String::new();
    for character in text.chars() {
        let plain = character == ' ' || character.is_ascii_graphic() && character != '\\';
        let before = written.len();
        if plain {
            written.push(character);
        } else {
            written.extend(character.escape_default());
        }
        if written.len() > LONGEST - CUT.len() {
            written.truncate(before);
            written.push_str(CUT);
            break;
        }
    }
    written
}

const CUT: &str = "...";

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    #[test]
    fn a_hostile_certificate_is_told_of_in_printable_ascii_and_in_short() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("a\r\nX: 1\u{1b}[2J\u{202e}{}", "x".repeat(999)));
        params.subject_alt_names = vec![
            SanType::URI("spiffe://a/b\u{7f}".try_into().unwrap()),
            SanType::DnsName("a.test".try_into().unwrap()),
        ];
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();

        let glimpse = Glimpse::of(certificate.der());

        assert_eq!(glimpse.serial, "0abc");
        assert!(glimpse.names.contains("DNS:a.test"), "{glimpse:?}");
        assert!(glimpse.subject.starts_with("CN=") && glimpse.subject.ends_with(CUT), "{glimpse:?}");
        assert!(glimpse.not_after.is_some());
        for text in [&glimpse.subject, &glimpse.names, &glimpse.issuer, &glimpse.serial, &glimpse.sha256] {
            assert!(text.len() <= LONGEST, "{text}");
            assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{text}");
        }
        let nothing = Glimpse::of(b"nothing");
        assert_eq!((nothing.sha256.len(), nothing.subject.as_str(), nothing.not_after), (64, "", None));
    }
}
