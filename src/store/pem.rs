//! Reads and writes PEM, strictly: the one file that does.
//!
//! A lenient reader takes an empty file, an HTML error page or a half-pasted certificate for "no certificates", and the agent
//! would go on without the trust it was meant to have. Here a file holds blocks of the wanted kind and blank lines, or it is
//! refused with the line that is wrong.

use data_encoding::BASE64;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls_pemfile::Item;

use crate::secret::Secret;

/// Why a text is no PEM of the wanted kind.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// More blocks than the one that was wanted.
    #[error("expected one private key, found {0}")]
    ManyKeys(usize),
    /// More blocks than the one that was wanted.
    #[error("expected one certificate request, found {0}")]
    ManyRequests(usize),
    /// No block at all.
    #[error("expected a {0} block, found none")]
    Missing(&'static str),
    /// A block that does not decode.
    #[error("the block does not decode: {0}")]
    Malformed(String),
    /// A key under a passphrase.
    #[error(
        "the key is encrypted in a form that is not read here; write it anew with `openssl pkcs8 -topk8`"
    )]
    PassphraseProtected,
    /// Text outside of a block.
    #[error("line {0} stands outside of any PEM block")]
    Stray(usize),
    /// A private key in another form than PKCS#8.
    #[error(
        "expected a PKCS#8 key (PRIVATE KEY), found {0}; convert it with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    UnsupportedKey(String),
    /// A block of another kind than the wanted one.
    #[error("expected only {wanted} blocks, found {found}")]
    Unwanted {
        /// What the caller asked for.
        wanted: &'static str,
        /// What the block calls itself.
        found: String,
    },
}

/// All certificates of a file; at least one, and nothing else.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    for label in labels(bytes)? {
        if label != CERTIFICATE {
            return Err(PemError::Unwanted { wanted: CERTIFICATE, found: label });
        }
    }
    let mut certificates = Vec::new();
    for item in items(bytes) {
        if let Item::X509Certificate(certificate) = item? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err(PemError::Missing(CERTIFICATE)) } else { Ok(certificates) }
}

/// The certificate request of a file that holds exactly that, as DER.
pub fn certificate_request(bytes: &[u8]) -> Result<Vec<u8>, PemError> {
    let labels = labels(bytes)?;
    for label in &labels {
        // OpenSSL has written both words.
        if !matches!(label.as_str(), CERTIFICATE_REQUEST | "NEW CERTIFICATE REQUEST") {
            return Err(PemError::Unwanted { wanted: CERTIFICATE_REQUEST, found: label.clone() });
        }
    }
    if labels.len() > 1 {
        return Err(PemError::ManyRequests(labels.len()));
    }
    for item in items(&normalised(bytes)) {
        if let Item::Csr(request) = item? {
            return Ok(request.to_vec());
        }
    }
    Err(PemError::Missing(CERTIFICATE_REQUEST))
}

fn normalised(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace("NEW CERTIFICATE REQUEST", CERTIFICATE_REQUEST).into_bytes()
}

/// All revocation lists of a file; at least one, and nothing else.
pub fn crls(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    for label in labels(bytes)? {
        if label != CRL {
            return Err(PemError::Unwanted { wanted: CRL, found: label });
        }
    }
    let mut lists = Vec::new();
    for item in items(bytes) {
        if let Item::Crl(list) = item? {
            lists.push(list);
        }
    }
    if lists.is_empty() { Err(PemError::Missing(CRL)) } else { Ok(lists) }
}

/// The PKCS#8 key of a file that holds exactly that.
pub fn private_key(bytes: &[u8]) -> Result<Secret, PemError> {
    let labels = labels(bytes)?;
    for label in &labels {
        match label.as_str() {
            PRIVATE_KEY => (),
            ENCRYPTED_PRIVATE_KEY => return Err(PemError::PassphraseProtected),
            "EC PRIVATE KEY" | "RSA PRIVATE KEY" => return Err(PemError::UnsupportedKey(label.clone())),
            _ => return Err(PemError::Unwanted { wanted: PRIVATE_KEY, found: label.clone() }),
        }
    }
    if labels.len() > 1 {
        return Err(PemError::ManyKeys(labels.len()));
    }
    for item in items(bytes) {
        if let Item::Pkcs8Key(key) = item? {
            return Ok(Secret::new(key.secret_pkcs8_der().to_vec()));
        }
    }
    Err(PemError::Missing(PRIVATE_KEY))
}

/// The `EncryptedPrivateKeyInfo` of a file that holds exactly that; `None` if the file holds anything else.
pub fn encrypted_private_key(bytes: &[u8]) -> Result<Option<Vec<u8>>, PemError> {
    let labels = labels(bytes)?;
    if !matches!(labels.as_slice(), [label] if label == ENCRYPTED_PRIVATE_KEY) {
        return Ok(None);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PemError::Stray(1))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    let encoded: String = lines.collect();
    match BASE64.decode(encoded.as_bytes()) {
        Ok(der) => Ok(Some(der)),
        Err(_) => Err(PemError::Malformed("it is not base64".to_owned())),
    }
}

/// One `EncryptedPrivateKeyInfo` as a PEM block.
#[must_use]
pub fn encrypted_key_to_pem(der: &[u8]) -> String {
    block(ENCRYPTED_PRIVATE_KEY, der)
}

/// One certificate as a PEM block.
#[must_use]
pub fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    block(CERTIFICATE, certificate)
}

/// One certificate request as a PEM block.
#[must_use]
pub fn certificate_request_to_pem(request: &[u8]) -> String {
    block(CERTIFICATE_REQUEST, request)
}

/// One revocation list as a PEM block.
#[must_use]
pub fn crl_to_pem(list: &CertificateRevocationListDer<'_>) -> String {
    block(CRL, list)
}

/// One PKCS#8 key as a PEM block.
#[must_use]
pub fn key_to_pem(pkcs8: &Secret) -> Secret {
    let mut text = zeroize::Zeroizing::new(block(PRIVATE_KEY, pkcs8.expose_secret()));
    Secret::new(std::mem::take(&mut *text).into_bytes())
}

const CERTIFICATE: &str = "CERTIFICATE";
const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
const CRL: &str = "X509 CRL";
const ENCRYPTED_PRIVATE_KEY: &str = "ENCRYPTED PRIVATE KEY";
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// RFC 7468: lines of exactly 64 characters, but for the last.
const LINE: usize = 64;

fn block(label: &str, der: &[u8]) -> String {
    let encoded = zeroize::Zeroizing::new(BASE64.encode(der));
    let mut text = String::with_capacity(encoded.len() + encoded.len() / LINE + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The labels of all blocks in order; an error if anything but white space stands between them.
fn labels(bytes: &[u8]) -> Result<Vec<String>, PemError> {
    let mut labels = Vec::new();
    let mut inside: Option<String> = None;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = std::str::from_utf8(line).map_err(|_| PemError::Stray(number))?.trim();
        match (&inside, marker(line, "-----BEGIN ")) {
            (None, Some(label)) => inside = Some(label.to_owned()),
            (None, None) if line.is_empty() => (),
            (None, None) | (Some(_), Some(_)) => return Err(PemError::Stray(number)),
            (Some(label), None) if marker(line, "-----END ") == Some(label.as_str()) => {
                labels.extend(inside.take());
            }
            (Some(_), None) if line.starts_with("Proc-Type:") => return Err(PemError::PassphraseProtected),
            (Some(_), None) => (),
        }
    }
    match inside {
        Some(label) => Err(PemError::Malformed(format!("-----END {label}----- is missing"))),
        None => Ok(labels),
    }
}

fn marker<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

fn items(mut rest: &[u8]) -> impl Iterator<Item = Result<Item, PemError>> {
    std::iter::from_fn(move || match rustls_pemfile::read_one_from_slice(rest) {
        Ok(None) => None,
        Ok(Some((item, remainder))) => {
            rest = remainder;
            Some(Ok(item))
        }
        Err(error) => {
            rest = &[];
            Some(Err(PemError::Malformed(reason(&error))))
        }
    })
}

/// Says what is wrong without repeating the content, which may be a key.
fn reason(error: &rustls_pemfile::Error) -> String {
    match error {
        rustls_pemfile::Error::Base64Decode(_) => "it is not base64".to_owned(),
        rustls_pemfile::Error::IllegalSectionStart { .. } => "its first line is malformed".to_owned(),
        rustls_pemfile::Error::MissingSectionEnd { .. } => "its last line is missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(byte: u8) -> CertificateDer<'static> {
        vec![byte; 100].into()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let text = certificate_to_pem(&certificate(1)) + "\n" + &certificate_to_pem(&certificate(2));
        let key = Secret::new(vec![7; 138]);

        assert_eq!(certificates(text.as_bytes()).unwrap(), [certificate(1), certificate(2)]);
        assert_eq!(private_key(key_to_pem(&key).expose_secret()).unwrap(), key);
        assert!(text.lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn carriage_returns_are_white_space() {
        let text = certificate_to_pem(&certificate(1)).replace('\n', "\r\n");

        assert_eq!(certificates(text.as_bytes()).unwrap(), [certificate(1)]);
    }

    #[test]
    fn a_file_without_blocks_is_an_error_and_not_an_empty_list() {
        assert_eq!(certificates(b""), Err(PemError::Missing(CERTIFICATE)));
        assert_eq!(certificates(b" \n\n"), Err(PemError::Missing(CERTIFICATE)));
        assert_eq!(private_key(b""), Err(PemError::Missing(PRIVATE_KEY)));
        assert_eq!(certificates(b"<html>not found</html>"), Err(PemError::Stray(1)));
        assert_eq!(certificates(&[0xff, 0xfe, 0x00]), Err(PemError::Stray(1)));
    }

    #[test]
    fn text_between_blocks_is_named_by_its_line() {
        let good = certificate_to_pem(&certificate(1));

        assert_eq!(certificates(format!("{good}subject=CN\n{good}").as_bytes()), Err(PemError::Stray(6)));
        assert_eq!(certificates(format!("\u{feff}{good}").as_bytes()), Err(PemError::Stray(1)));
    }

    #[test]
    fn a_torn_block_is_refused() {
        let good = certificate_to_pem(&certificate(1));
        let torn = &good[..good.len() / 2];

        assert!(matches!(certificates(torn.as_bytes()), Err(PemError::Malformed(_))));
        assert_eq!(certificates(format!("{torn}\n{good}").as_bytes()), Err(PemError::Stray(4)));
        assert!(matches!(certificates(good.replace("AQ", "!!").as_bytes()), Err(PemError::Malformed(_))));
    }

    #[test]
    fn blocks_of_another_kind_are_refused_by_name() {
        let certificate = certificate_to_pem(&certificate(1));
        let key = block(PRIVATE_KEY, &[1; 20]);
        let unwanted = |wanted, found: &str| PemError::Unwanted { wanted, found: found.to_owned() };

        assert_eq!(
            certificates(format!("{certificate}{key}").as_bytes()),
            Err(unwanted(CERTIFICATE, PRIVATE_KEY))
        );
        assert_eq!(
            private_key(format!("{key}{certificate}").as_bytes()),
            Err(unwanted(PRIVATE_KEY, CERTIFICATE))
        );
        assert_eq!(private_key(format!("{key}{key}").as_bytes()), Err(PemError::ManyKeys(2)));
    }

    #[test]
    fn keys_that_cannot_be_used_say_what_to_do() {
        let encrypted = block("ENCRYPTED PRIVATE KEY", &[1; 20]);
        let traditional = block("EC PRIVATE KEY", &[1; 20]);
        let legacy = "-----BEGIN PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END PRIVATE KEY-----\n";

        assert_eq!(private_key(encrypted.as_bytes()), Err(PemError::PassphraseProtected));
        assert_eq!(private_key(legacy.as_bytes()), Err(PemError::PassphraseProtected));
        assert_eq!(
            private_key(traditional.as_bytes()),
            Err(PemError::UnsupportedKey("EC PRIVATE KEY".to_owned()))
        );
    }
}
