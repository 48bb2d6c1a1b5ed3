//! `Content-Digest` (RFC 9530): what a body must hash to, and the hashing of a body that goes by piece by piece.
//!
//! The older `Digest` field is not read: it says nothing that a signature here could rest on.

use aws_lc_rs::digest::{self, Algorithm, Context, SHA256, SHA512};
use sfv::{BareItem, ListEntry};
use subtle::ConstantTimeEq;

use crate::credential::structured::dictionary;

/// The digests that a body must have: all that were given and are known here, at least one.
#[derive(Clone, Debug)]
pub struct ContentDigest(Vec<(&'static Algorithm, Box<[u8]>)>);

/// The registered algorithms that are not deprecated (RFC 9530 §5).
const ALGORITHMS: [(&str, &Algorithm); 2] = [("sha-256", &SHA256), ("sha-512", &SHA512)];

impl ContentDigest {
    /// Reads the field's value; `None` if it is malformed or holds no digest of a known algorithm.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut known = Vec::new();
        for (key, member) in &dictionary(value)? {
            let Some((_, algorithm)) = ALGORITHMS.into_iter().find(|(name, _)| *name == key.as_str()) else {
                continue;
            };
            let ListEntry::Item(item) = member else { return None };
            let BareItem::ByteSequence(bytes) = &item.bare_item else { return None };
            if bytes.len() != algorithm.output_len() {
                return None;
            }
            known.push((algorithm, bytes.as_slice().into()));
        }
        (!known.is_empty()).then_some(Self(known))
    }

    /// The field's value for a body that is there in full: its SHA-256.
    #[must_use]
    pub fn of(body: &[u8]) -> String {
        format!("sha-256=:{}:", data_encoding::BASE64.encode(digest::digest(&SHA256, body).as_ref()))
    }

    /// A check that no byte of the body has gone through yet.
    #[must_use]
    pub fn begin(&self) -> DigestCheck {
        let contexts = self.0.iter().map(|(algorithm, wanted)| (Context::new(algorithm), wanted.clone()));
        DigestCheck(contexts.collect())
    }
}

/// The digests of a body as far as it has come.
#[derive(Clone)]
pub struct DigestCheck(Vec<(Context, Box<[u8]>)>);

impl DigestCheck {
    /// Takes the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        for (context, _) in &mut self.0 {
            context.update(bytes);
        }
    }

    /// Whether the body, which is complete now, is the one that was signed.
    #[must_use]
    pub fn matches(self) -> bool {
        self.0.into_iter().all(|(context, wanted)| context.finish().as_ref().ct_eq(&wanted).into())
    }
}

impl std::fmt::Debug for DigestCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DigestCheck({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content and both digests of RFC 9421 appendix B.2.
    const BODY: &[u8] = br#"{"hello": "world"}"#;
    const SHA_512: &str =
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
    const SHA_256: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";

    fn matches(field: &str, pieces: &[&[u8]]) -> bool {
        let mut check = ContentDigest::parse(field.as_bytes()).unwrap().begin();
        pieces.iter().for_each(|piece| check.update(piece));
        check.matches()
    }

    #[test]
    fn a_body_matches_however_it_is_cut() {
        for field in [SHA_512, SHA_256, &ContentDigest::of(BODY)] {
            assert!(matches(field, &[BODY]));
            assert!(matches(field, &[&BODY[..1], b"", &BODY[1..]]));
            assert!(!matches(field, &[&BODY[1..]]));
            assert!(!matches(field, &[BODY, b"\n"]));
            assert!(!matches(field, &[]));
        }
    }

    #[test]
    fn every_known_digest_must_hold() {
        let wrong = format!("sha-256=:{}:", data_encoding::BASE64.encode(&[7; 32]));

        assert!(matches(&format!("{SHA_512}, {SHA_256}"), &[BODY]));
        assert!(!matches(&format!("{SHA_512}, {wrong}"), &[BODY]));
        assert!(!matches(&format!("{wrong}, {SHA_512}"), &[BODY]));
        assert!(matches(&format!("md5=:AAAA:, {SHA_256}, unixsum=7"), &[BODY]));
    }

    #[test]
    fn what_says_nothing_certain_is_no_digest() {
        for field in [
            "",
            "md5=:AAAA:",
            "sha-256",
            "sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=",
            "sha-256=:AAAA:",
            "sha-256=(:AAAA:)",
            &format!("{SHA_256}, {SHA_256}"),
            &format!("{SHA_256};"),
            "SHA-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        ] {
            assert!(ContentDigest::parse(field.as_bytes()).is_none(), "{field}");
        }
    }
}
