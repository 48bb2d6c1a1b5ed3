//! A certificate before it is signed, with every part open to whoever wants to spoil it.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::CertificateDer;

use crate::der::{SEQUENCE, bits, integer, oid, sequence, time, tlv};

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A key that signs.
pub(crate) struct Key {
    sign: Sign,
    /// AlgorithmIdentifier of its signatures.
    pub(crate) algorithm: Vec<u8>,
    /// SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
}

impl Key {
    pub(crate) fn p256() -> Arc<Self> {
        Self::ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, "1.2.840.10045.3.1.7", "1.2.840.10045.4.3.2")
    }

    pub(crate) fn p384() -> Arc<Self> {
        Self::ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, "1.3.132.0.34", "1.2.840.10045.4.3.3")
    }

    pub(crate) fn p521() -> Arc<Self> {
        Self::ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING, "1.3.132.0.35", "1.2.840.10045.4.3.4")
    }

    fn ecdsa(kind: &'static EcdsaSigningAlgorithm, curve: &str, signature: &str) -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(kind).unwrap();
        let spki = ec_spki(curve, pair.public_key().as_ref());
        let sign = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Arc::new(Self { sign: Box::new(sign), algorithm: sequence(&[&oid(signature)]), spki })
    }

    pub(crate) fn ed25519() -> Arc<Self> {
        let pair = Ed25519KeyPair::generate().unwrap();
        let algorithm = sequence(&[&oid("1.3.101.112")]);
        let spki = sequence(&[&algorithm, &bits(pair.public_key().as_ref())]);
        Arc::new(Self {
            sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()),
            algorithm,
            spki,
        })
    }

    pub(crate) fn rsa() -> Arc<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let kind = sequence(&[&oid("1.2.840.113549.1.1.1"), NULL]);
        let spki = sequence(&[&kind, &bits(pair.public_key().as_ref())]);
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        let algorithm = sequence(&[&oid("1.2.840.113549.1.1.11"), NULL]);
        Arc::new(Self { sign: Box::new(sign), algorithm, spki })
    }
}

/// The public half of an RSA key that nobody has.
pub(crate) fn rsa_spki(modulus_bits: usize, exponent: &[u8]) -> Vec<u8> {
    let modulus = [&[0, 0x80][..], &vec![0x55; modulus_bits / 8 - 1]].concat();
    let key = sequence(&[&integer(&modulus), &integer(exponent)]);
    sequence(&[&sequence(&[&oid("1.2.840.113549.1.1.1"), NULL]), &bits(&key)])
}

pub(crate) fn ec_spki(curve: &str, point: &[u8]) -> Vec<u8> {
    sequence(&[&sequence(&[&oid("1.2.840.10045.2.1"), &oid(curve)]), &bits(point)])
}

/// A certificate before it is signed.
#[derive(Clone)]
pub(crate) struct Draft {
    /// As it is encoded: 2 means version 3. Absent for version 1.
    pub(crate) version: Option<u8>,
    /// The content of the INTEGER.
    pub(crate) serial: Vec<u8>,
    /// AlgorithmIdentifier inside what is signed, and outside of it.
    pub(crate) algorithms: [Option<Vec<u8>>; 2],
    pub(crate) issuer: Vec<u8>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    /// Changes the certificate after it was signed.
    pub(crate) afterwards: fn(Vec<u8>) -> Vec<u8>,
    /// Changes what is signed, before it is.
    pub(crate) beforehand: fn(Vec<u8>) -> Vec<u8>,
    pub(crate) signer: Arc<Key>,
}

#[derive(Clone)]
pub(crate) struct Extension {
    pub(crate) oid: &'static str,
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

impl Draft {
    pub(crate) fn without(&mut self, oid: &str) {
        self.extensions.retain(|extension| extension.oid != oid);
    }

    /// Puts an extension in the place of what has its identifier.
    pub(crate) fn set(&mut self, oid: &'static str, critical: bool, value: Vec<u8>) {
        self.without(oid);
        self.extensions.push(Extension { oid, critical, value });
    }

    pub(crate) fn criticality(&mut self, oid: &str, critical: bool) {
        self.extensions.iter_mut().filter(|one| one.oid == oid).for_each(|one| one.critical = critical);
    }

    pub(crate) fn names(&mut self, names: &[(u8, &[u8])]) {
        let critical = self.subject == tlv(SEQUENCE, &[]);
        self.set(SAN, critical, general_names(names));
    }

    pub(crate) fn sign(&self) -> CertificateDer<'static> {
        let [inner, outer] =
            self.algorithms.clone().map(|one| one.unwrap_or_else(|| self.signer.algorithm.clone()));
        let version = self.version.map(|version| tlv(0xa0, &integer(&[version]))).unwrap_or_default();
        let extensions: Vec<u8> = self.extensions.iter().flat_map(Extension::to_der).collect();
        let extensions =
            if self.version == Some(2) { tlv(0xa3, &tlv(SEQUENCE, &extensions)) } else { Vec::new() };
        let tbs = sequence(&[
            &version,
            &integer(&self.serial),
            &inner,
            &self.issuer,
            &sequence(&[&time(self.not_before), &time(self.not_after)]),
            &self.subject,
            &self.spki,
            &extensions,
        ]);
        let tbs = (self.beforehand)(tbs);
        let signature = bits(&(self.signer.sign)(&tbs));
        (self.afterwards)(sequence(&[&tbs, &outer, &signature])).into()
    }
}

impl Extension {
    fn to_der(&self) -> Vec<u8> {
        let critical: &[u8] = if self.critical { &[0x01, 0x01, 0xff] } else { &[] };
        sequence(&[&oid(self.oid), critical, &tlv(0x04, &self.value)])
    }
}

/// Alternative names: context tag and content.
pub(crate) fn general_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    tlv(SEQUENCE, &names.iter().flat_map(|&(tag, content)| tlv(tag, content)).collect::<Vec<_>>())
}

pub(crate) fn authority(path_length: Option<u8>) -> Vec<u8> {
    let length = path_length.map(|length| integer(&[length])).unwrap_or_default();
    sequence(&[&[0x01, 0x01, 0xff], &length])
}

/// The bits of a key usage, the first being digitalSignature.
pub(crate) fn key_usage(positions: &[u8]) -> Vec<u8> {
    let value = positions.iter().fold(0_u8, |value, position| value | (0x80 >> position));
    tlv(0x03, &[u8::try_from(value.trailing_zeros()).unwrap(), value])
}

pub(crate) fn purposes(oids: &[&str]) -> Vec<u8> {
    tlv(SEQUENCE, &oids.iter().flat_map(|one| oid(one)).collect::<Vec<_>>())
}

/// Name constraints: permitted and excluded names.
pub(crate) fn constraints(permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]) -> Vec<u8> {
    let trees = |tag, names: &[(u8, &[u8])]| {
        let trees: Vec<u8> = names.iter().flat_map(|&(tag, name)| sequence(&[&tlv(tag, name)])).collect();
        if trees.is_empty() { trees } else { tlv(tag, &trees) }
    };
    sequence(&[&trees(0xa0, permitted), &trees(0xa1, excluded)])
}

const NULL: &[u8] = &[0x05, 0x00];

pub(crate) const DNS: u8 = 0x82;
pub(crate) const EMAIL: u8 = 0x81;
pub(crate) const DIRECTORY: u8 = 0xa4;
pub(crate) const URI: u8 = 0x86;
pub(crate) const IP: u8 = 0x87;

pub(crate) const SKI: &str = "2.5.29.14";
pub(crate) const KEY_USAGE: &str = "2.5.29.15";
pub(crate) const SAN: &str = "2.5.29.17";
pub(crate) const CONSTRAINTS: &str = "2.5.29.19";
pub(crate) const NAME_CONSTRAINTS: &str = "2.5.29.30";
pub(crate) const POLICIES: &str = "2.5.29.32";
pub(crate) const AKI: &str = "2.5.29.35";
pub(crate) const PURPOSES: &str = "2.5.29.37";

pub(crate) const DIGITAL_SIGNATURE: u8 = 0;
pub(crate) const KEY_ENCIPHERMENT: u8 = 2;
pub(crate) const KEY_AGREEMENT: u8 = 4;
pub(crate) const CERT_SIGN: u8 = 5;
pub(crate) const CRL_SIGN: u8 = 6;

pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
pub(crate) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
pub(crate) const CODE_SIGNING: &str = "1.3.6.1.5.5.7.3.3";
pub(crate) const ANY_PURPOSE: &str = "2.5.29.37.0";
