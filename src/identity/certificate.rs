//! Reads any certificate of a chain strictly, before anybody asks what it says.
//!
//! Readers differ in what they forgive, and two that read one certificate differently are how identities are confused. So
//! what RFC 5280 §4.1 and §4.2 forbid to everybody is refused here, for leaves, intermediates and roots alike.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

/// Why a certificate is not even read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificate {
    /// Not a certificate.
    #[error("{0}")]
    Malformed(String),
    /// An extension that stands there twice: readers take the first, the last, or both.
    #[error("the extension {0} stands there twice")]
    RepeatedExtension(String),
    /// A serial number that is negative or zero, has more than 20 bytes, or is padded.
    #[error("the serial number is not positive, padded or longer than 20 bytes")]
    Serial,
    /// Something follows.
    #[error("bytes follow the certificate")]
    Tail,
    /// Versions 1 and 2 cannot say what the key is for.
    #[error("it is of X.509 version {0}, and only version 3 says what a key is for")]
    Version(u32),
    /// A key that is too short, too long, or of a kind that nobody here can check.
    #[error(
        "its key is neither RSA of 2048 to 8192 bits, nor on P-256, P-384 or P-521, nor Ed25519, nor ML-DSA"
    )]
    WeakKey,
}

/// The certificate that `der` is: all of it, version 3, each extension once, with a key that can be relied on.
pub(crate) fn read(der: &[u8]) -> Result<X509Certificate<'_>, InvalidCertificate> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| InvalidCertificate::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(InvalidCertificate::Tail);
    }
    if certificate.version() != X509Version::V3 {
        return Err(InvalidCertificate::Version(certificate.version().0.saturating_add(1)));
    }
    // Sorted, since a stranger decides how many there are.
    let mut kinds: Vec<_> = certificate.extensions().iter().map(|extension| &extension.oid).collect();
    kinds.sort_unstable_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    if let Some([repeated, _]) = kinds.array_windows().find(|[one, other]| one == other) {
        return Err(InvalidCertificate::RepeatedExtension(repeated.to_id_string()));
    }
    if is_strong(certificate.public_key()) { Ok(certificate) } else { Err(InvalidCertificate::WeakKey) }
}

/// The serial number in lower-case hexadecimal digits.
///
/// > The serial number MUST be a positive integer … Conforming CAs MUST NOT use serialNumber values longer than 20
/// > octets. — RFC 5280 §4.1.2.2
///
/// One that is padded would have two spellings, and zero is no number by which a certificate can be revoked.
pub(crate) fn serial(bytes: &[u8]) -> Result<String, InvalidCertificate> {
    let digits = match bytes {
        [] | [0] | [0, 0..=0x7f, ..] | [0x80..=0xff, ..] => return Err(InvalidCertificate::Serial),
        [0, rest @ ..] => rest,
        _ => bytes,
    };
    if digits.len() > 20 {
        Err(InvalidCertificate::Serial)
    } else {
        Ok(data_encoding::HEXLOWER.encode(digits))
    }
}

/// Whether the key is of a kind that the signatures of a handshake can be checked with.
fn is_strong(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = key.algorithm.algorithm.to_id_string();
    match algorithm.as_str() {
        RSA => matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if {
            let exponent = rsa.try_exponent();
            (2048..=8192).contains(&bits(rsa.modulus))
                && exponent.is_ok_and(|exponent| exponent >= 3 && exponent % 2 == 1)
        }),
        EC => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            curve.is_some_and(|curve| CURVES.contains(&curve.to_id_string().as_str()))
        }
        other => OTHER_KINDS.contains(&other),
    }
}

/// The length of an unsigned number.
fn bits(number: &[u8]) -> usize {
    let significant = number.iter().position(|&byte| byte != 0).unwrap_or(number.len());
    match number.get(significant..) {
        Some(rest @ [first, ..]) => {
            rest.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or_default()
        }
        _ => 0,
    }
}

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";

/// P-256, P-384, P-521.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

/// Ed25519; ML-DSA-44, -65 and -87.
const OTHER_KINDS: [&str; 4] =
    ["1.3.101.112", "2.16.840.1.101.3.4.3.17", "2.16.840.1.101.3.4.3.18", "2.16.840.1.101.3.4.3.19"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_positive_not_padded_and_at_most_20_bytes() {
        assert_eq!(serial(&[0, 0xff]), Ok("ff".to_owned()));
        assert_eq!(serial(&[0x0a, 0xbc]), Ok("0abc".to_owned()));
        assert!(serial(&[&[0][..], &[0xff; 20]].concat()).is_ok());
        for bytes in [&[][..], &[0], &[0x80], &[0, 1], &[1; 21]] {
            assert_eq!(serial(bytes), Err(InvalidCertificate::Serial), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_are_as_long_as_their_highest_bit() {
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[0, 0]), 0);
        assert_eq!(bits(&[0, 1]), 1);
        assert_eq!(bits(&[0x7f, 0xff]), 15);
        assert_eq!(bits(&[0, 0x80, 0]), 16);
    }
}
