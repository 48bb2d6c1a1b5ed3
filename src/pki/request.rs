//! A request for an issuing authority's certificate: made where the key is, judged where the root is.
//!
//! > The public key and the requested attributes are signed under the private key that belongs to the public key. — RFC 2986 §3
//!
//! **Invariant:** whoever signs takes the public key from a request and nothing else. What the certificate says, and how long,
//! is decided where the root is; a request that asks for more gets no more.

use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use data_encoding::HEXLOWER;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::pki::authority::{Authority, AuthorityError, Level, random_serial, request_parameters};
use crate::pki::key::{KeyAlgorithm, KeyPair};

/// A request of which everything that is taken from it was proven.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    public_key: PublicKey,
}

/// Why nothing is signed for a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Whoever made it does not hold the key.
    #[error("the request is not signed with the key that it is for")]
    BadSignature,
    /// It is for another trust domain.
    #[error("the request is for {found}, this CA is that of {expected}")]
    Foreign {
        /// What it says.
        found: String,
        /// Whose CA was asked.
        expected: TrustDomain,
    },
    /// It cannot be read.
    #[error("it is no PKCS#10 request: {0}")]
    Malformed(String),
    /// It does not say for whom it is.
    #[error(
        "the request names no trust domain: expected exactly one URI among its alternative names, found {0}"
    )]
    Nameless(usize),
    /// A key of a kind that no authority of ours has.
    #[error("the request's key is none on P-256 or P-384 or for Ed25519")]
    UnsupportedKey,
}

/// An issuing certificate that was signed for somebody else.
#[derive(Clone, Debug)]
pub struct SignedAuthority {
    /// It.
    pub certificate: CertificateDer<'static>,
    /// Its serial number in lower-case hexadecimal.
    pub serial: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

impl SigningRequest {
    /// A request for the next issuing authority of `domain`, whose key is `key`; as DER.
    pub fn make(key: &KeyPair, domain: &TrustDomain) -> Result<Vec<u8>, AuthorityError> {
        let serial = random_serial()?;
        let params = request_parameters(Level::Issuing, domain, serial.get(1..9).unwrap_or_default())?;
        let request = params.serialize_request(key);
        let request = request.map_err(|error| AuthorityError::of_signing(key, error))?;
        Ok(request.der().to_vec())
    }

    /// Reads a request in DER and checks that its maker holds the key, and that it is for `domain`.
    pub fn parse(der: &[u8], domain: &TrustDomain) -> Result<Self, RequestError> {
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| RequestError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed("bytes after its end".to_owned()));
        }
        let info = &request.certification_request_info;
        let public_key = PublicKey::parse(info.subject_pki.raw, &info.subject_pki.subject_public_key.data)
            .ok_or(RequestError::UnsupportedKey)?;
        if !public_key.has_signed(info.raw, &request.signature_value.data) {
            return Err(RequestError::BadSignature);
        }
        match uris(&request).as_slice() {
            [uri] if *uri == domain.id_text() => Ok(Self { public_key }),
            [uri] => Err(RequestError::Foreign { found: uri.clone(), expected: domain.clone() }),
            other => Err(RequestError::Nameless(other.len())),
        }
    }

    /// The SHA-256 of the public key, in lower-case hexadecimal.
    #[must_use]
    pub fn spki_sha256(&self) -> String {
        let spki = self.public_key.subject_public_key_info();
        HEXLOWER.encode(digest::digest(&digest::SHA256, &spki).as_ref())
    }

    /// Signs it with `root`: an issuing authority of `domain` that may sign nothing but leaves.
    pub fn sign(
        &self,
        root: &Authority,
        domain: &TrustDomain,
        ttl: Duration,
        backdate: Duration,
        now: Timestamp,
    ) -> Result<SignedAuthority, AuthorityError> {
        let (certificate, serial) = root.sign_issuing(&self.public_key, domain, ttl, backdate, now)?;
        Ok(SignedAuthority { certificate, serial, not_after: (now + ttl).to_whole_second() })
    }
}

/// A public key of a kind that authorities have.
#[derive(Clone, Debug)]
struct PublicKey {
    algorithm: KeyAlgorithm,
    bits: Vec<u8>,
}

impl PublicKey {
    /// The key in the `SubjectPublicKeyInfo` `whole`, whose key proper is `bits`; written again it must be the same.
    fn parse(whole: &[u8], bits: &[u8]) -> Option<Self> {
        let kinds = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];
        let mut candidates = kinds.into_iter().map(|algorithm| Self { algorithm, bits: bits.to_vec() });
        candidates.find(|candidate| candidate.subject_public_key_info() == whole)
    }

    /// Whether `signature` was made over `message` with the private half. OpenSSL signs with SHA-256 on any curve.
    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verify = |algorithm: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.bits).verify(message, signature).is_ok()
        };
        match self.algorithm {
            KeyAlgorithm::EcdsaP256 => {
                verify(&signature::ECDSA_P256_SHA256_ASN1) || verify(&signature::ECDSA_P256_SHA384_ASN1)
            }
            KeyAlgorithm::EcdsaP384 => {
                verify(&signature::ECDSA_P384_SHA384_ASN1) || verify(&signature::ECDSA_P384_SHA256_ASN1)
            }
            KeyAlgorithm::Ed25519 => verify(&signature::ED25519),
        }
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.for_certificates()
    }
}

/// The URIs that a request asks for as alternative names.
fn uris(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let mut uris = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            uris.extend(names.general_names.iter().filter_map(|name| {
                if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
            }));
        }
    }
    uris
}
