//! A root, what stands between, and a leaf: well formed until somebody spoils one thing.

use std::sync::{Arc, LazyLock};

use postern::causes::Causes;
use postern::clock::Timestamp;
use postern::pki::{BundleSet, Revocation, Revocations, Revoked, TrustBundle, Usage, Verified, Verifier};
use rustls::pki_types::CertificateDer;

use crate::der::{C, CN, O, PRINTABLE, SEQUENCE, UTF8, name, tlv};
use crate::forge::{
    CERT_SIGN, CLIENT_AUTH, CONSTRAINTS, CRL_SIGN, DIGITAL_SIGNATURE, Draft, Extension, KEY_USAGE, Key,
    PURPOSES, SAN, SERVER_AUTH, URI, authority, general_names, key_usage, purposes,
};

/// 2026-11-22T05:21:00Z.
pub(crate) const NOW: i64 = 1_795_324_860;
pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

pub(crate) const ID: &[u8] = b"spiffe://acme.test/orders";

/// Keys that all families share: making them anew would prove nothing more.
pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    root: Key::p256(),
    middle: Key::p256(),
    leaf: Key::p256(),
    stranger: Key::p256(),
});

pub(crate) struct Keys {
    pub(crate) root: Arc<Key>,
    pub(crate) middle: Arc<Key>,
    pub(crate) leaf: Arc<Key>,
    pub(crate) stranger: Arc<Key>,
}

#[derive(Clone)]
pub(crate) struct Family {
    /// The bundle.
    pub(crate) roots: Vec<Draft>,
    /// What is sent after the leaf.
    pub(crate) middles: Vec<Draft>,
    pub(crate) leaf: Draft,
    pub(crate) usage: Usage,
    pub(crate) revoked: Vec<&'static str>,
}

impl Family {
    /// Root, one authority between, leaf; all on P-256.
    pub(crate) fn good() -> Self {
        let root_name = named(b"Root");
        let middle_name = named(b"Issuing");
        let mut leaf = draft(&middle_name, &tlv(SEQUENCE, &[]), &KEYS.leaf, &KEYS.middle);
        leaf.not_before = NOW - HOUR;
        leaf.not_after = NOW + HOUR;
        leaf.set(CONSTRAINTS, true, tlv(SEQUENCE, &[]));
        leaf.set(KEY_USAGE, true, key_usage(&[DIGITAL_SIGNATURE]));
        leaf.set(PURPOSES, false, purposes(&[SERVER_AUTH, CLIENT_AUTH]));
        leaf.set(SAN, true, general_names(&[(URI, ID)]));
        let mut root = signer(&root_name, &root_name, &KEYS.root, &KEYS.root);
        let mut middle = signer(&root_name, &middle_name, &KEYS.middle, &KEYS.root);
        (root.serial, middle.serial) = (vec![0x0c], vec![0x0b]);
        Self { roots: vec![root], middles: vec![middle], leaf, usage: Usage::Client, revoked: Vec::new() }
    }

    /// The chain as a peer sends it.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.leaf).chain(&self.middles).map(Draft::sign).collect()
    }

    /// Our verifier's answer, or its reason with all that caused it.
    pub(crate) fn verdict(&self) -> Result<Verified, String> {
        self.verifier()?.verify(&self.chain(), self.usage, now()).map_err(|error| Causes(&error).to_string())
    }

    pub(crate) fn verifier(&self) -> Result<Verifier, String> {
        let bundle = TrustBundle {
            domain: "acme.test".parse().unwrap(),
            sequence: 1,
            roots: self.roots.iter().map(Draft::sign).collect(),
        };
        let because = || Revocation { at: now(), reason: "a test".to_owned() };
        let revoked = self.revoked.iter().map(|text| (text.parse::<Revoked>().unwrap(), because()));
        let bundles = Arc::new(BundleSet::from_iter([bundle]));
        Verifier::new(bundles, Arc::new(revoked.collect::<Revocations>()))
            .map_err(|error| Causes(&error).to_string())
    }

    /// An authority of that name below the root, under a key.
    pub(crate) fn below_root(&self, common_name: &[u8], key: &Arc<Key>) -> Draft {
        signer(&self.roots[0].subject, &named(common_name), key, &KEYS.root)
    }

    /// One more authority, between the first one and the leaf.
    pub(crate) fn lengthen(&mut self) {
        let name = named(b"Lower");
        let lower = signer(&self.middles[0].subject, &name, &KEYS.stranger, &KEYS.middle);
        self.middles.insert(0, lower);
        self.leaf.issuer = name;
        self.leaf.signer = Arc::clone(&KEYS.stranger);
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix(NOW)
}

pub(crate) fn named(common_name: &[u8]) -> Vec<u8> {
    name(&[(C, PRINTABLE, b"CH"), (O, UTF8, b"Acme"), (CN, UTF8, common_name)])
}

/// A certificate whose key signs others.
pub(crate) fn signer(issuer: &[u8], subject: &[u8], key: &Arc<Key>, by: &Arc<Key>) -> Draft {
    let mut draft = draft(issuer, subject, key, by);
    draft.set(CONSTRAINTS, true, authority(None));
    draft.set(KEY_USAGE, true, key_usage(&[CERT_SIGN, CRL_SIGN]));
    draft
}

fn draft(issuer: &[u8], subject: &[u8], key: &Arc<Key>, by: &Arc<Key>) -> Draft {
    Draft {
        version: Some(2),
        serial: vec![0x0a, 0xbc],
        algorithms: [None, None],
        issuer: issuer.to_vec(),
        not_before: NOW - DAY,
        not_after: NOW + DAY,
        subject: subject.to_vec(),
        spki: key.spki.clone(),
        extensions: Vec::<Extension>::new(),
        afterwards: |der| der,
        beforehand: |der| der,
        signer: Arc::clone(by),
    }
}
