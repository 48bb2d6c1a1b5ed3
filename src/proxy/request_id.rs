//! Request ids: taken from a caller that sent a sane one, else UUIDs of version 7 (RFC 9562 §5.7).

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::clock::Timestamp;
use crate::telemetry::carries_secret;

/// The longest id that is taken over.
const MAX_LENGTH: usize = 64;

/// An id that travels with one request: upstream, in the answer, in the log.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct RequestId {
    bytes: [u8; MAX_LENGTH],
    length: u8,
}

impl RequestId {
    /// The id that a caller sent, if it is made of harmless characters.
    pub(super) fn from_caller(value: &[u8]) -> Option<Self> {
        let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if value.len() < 8 || !value.iter().all(harmless) || carries_secret(value) {
            return None;
        }
        let mut bytes = [0; MAX_LENGTH];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { bytes, length: u8::try_from(value.len()).ok()? })
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A thread's own source of ids. They are unique, not secret.
#[derive(Debug)]
pub(super) struct RequestIds {
    state: Cell<u64>,
}

impl RequestIds {
    /// A source seeded by the standard library's hasher keys, which come from the system's random source.
    pub(super) fn new() -> Self {
        Self { state: Cell::new(RandomState::new().hash_one(std::thread::current().id())) }
    }

    /// A fresh id.
    pub(super) fn next(&self, now: Timestamp) -> RequestId {
        let milliseconds =
            u64::try_from(now.to_offset_date_time().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let high = milliseconds << 16 | 0x7000 | self.random() >> 52;
        let low = 1 << 63 | self.random() >> 2;
        let mut bytes = [0; MAX_LENGTH];
        let mut at = 0;
        for (index, byte) in high.to_be_bytes().into_iter().chain(low.to_be_bytes()).enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                put(&mut bytes, &mut at, b'-');
            }
            put(&mut bytes, &mut at, hex(byte >> 4));
            put(&mut bytes, &mut at, hex(byte & 15));
        }
        RequestId { bytes, length: 36 }
    }

    /// 64 bits that look random (SplitMix64), for trace and span ids.
    pub(super) fn random(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

fn put(bytes: &mut [u8; MAX_LENGTH], at: &mut usize, byte: u8) {
    if let Some(slot) = bytes.get_mut(*at) {
        *slot = byte;
    }
    *at += 1;
}

const fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_uuids_of_version_7_and_differ() {
        let ids = RequestIds::new();

        let (first, second) = (ids.next(Timestamp::FLOOR), ids.next(Timestamp::FLOOR));

        let text = first.as_str();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "7", "{text}");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert_ne!(first, second);
        assert_eq!(u64::from_str_radix(&text.replace('-', "")[..12], 16).unwrap(), 1_767_225_600_000);
    }

    #[test]
    fn a_callers_id_is_taken_over_only_when_it_is_harmless() {
        assert_eq!(RequestId::from_caller(b"abcd-1234").unwrap().as_str(), "abcd-1234");
        assert!(RequestId::from_caller(b"short").is_none());
        assert!(RequestId::from_caller(b"with space").is_none());
        assert!(RequestId::from_caller(b"pstn_sk_0000000000A1_003aUlTJC7tjlCTQj2uNU3").is_none());
        assert!(RequestId::from_caller("x".repeat(65).as_bytes()).is_none());
    }
}
