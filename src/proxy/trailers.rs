//! Trailer fields of a service that speaks HTTP/1: those pass that are listed for it, either way, and no others.
//!
//! > A recipient that removes the chunked coding from a message MAY selectively retain or discard the received trailer fields. A
//! > recipient that retains a received trailer field MUST either store/forward the trailer field separately from the received
//! > header fields or merge the received trailer field into the header section. — RFC 9112 §7.1.2
//!
//! **Invariant:** what only a head may say, or only the agent, cannot be listed, so it never passes behind a body.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::framing::is_token;
use super::h2_head::belongs_to_head;
use super::headers::{Fate, fate_of_request_field, fate_of_response_field};
use super::response::field;

/// The name of a field that may pass as a trailer, in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrailerName(Box<str>);

impl TrailerName {
    /// As it is written behind a body.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrailerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text names no field that could pass as a trailer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidTrailerName {
    /// Something else than a name.
    #[error("expected the name of a field such as \"x-checksum\"")]
    Form,
    /// It means something in a head, or is the agent's to write.
    #[error("this field belongs into a head, or is written by the agent alone: it never passes as a trailer")]
    Reserved,
}

impl FromStr for TrailerName {
    type Err = InvalidTrailerName;

    fn from_str(text: &str) -> Result<Self, InvalidTrailerName> {
        if text.is_empty() || text.len() > LONGEST_NAME || !text.bytes().all(is_token) {
            return Err(InvalidTrailerName::Form);
        }
        let name = text.to_ascii_lowercase();
        let passes = fate_of_request_field(&name, b"") == Fate::Pass
            && fate_of_response_field(&name) == Fate::Pass
            && !belongs_to_head(&name);
        if passes { Ok(Self(name.into())) } else { Err(InvalidTrailerName::Reserved) }
    }
}

/// No name is listed that is longer.
const LONGEST_NAME: usize = 64;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bound {
    /// To a caller.
    Down,
    /// To a service.
    Up,
}

/// What of one message's trailers passes, gathered while its body is read. The reader of chunks bounds how much that can be.
#[derive(Debug)]
pub(super) struct Trailers {
    allowed: Arc<[TrailerName]>,
    bound: Bound,
    /// Field lines.
    lines: Vec<u8>,
}

impl Trailers {
    /// Those of a message that goes to `bound`, if any may pass.
    pub(super) fn of(allowed: &Arc<[TrailerName]>, bound: Bound) -> Option<Box<Self>> {
        let allowed = Arc::clone(allowed);
        (!allowed.is_empty()).then(|| Box::new(Self { allowed, bound, lines: Vec::new() }))
    }

    /// Keeps a field line that was found well-formed, with its CR LF, if it may pass.
    pub(super) fn keep_line(&mut self, line: &[u8]) {
        let name_end = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(name_end);
        let name = std::str::from_utf8(name).unwrap_or_default();
        self.keep(name, value.get(1..).unwrap_or_default().trim_ascii());
    }

    /// Keeps a field, if it may pass.
    pub(super) fn keep(&mut self, name: &str, value: &[u8]) {
        let Some(listed) = listed(&self.allowed, name) else { return };
        let fate = match self.bound {
            Bound::Down => fate_of_response_field(name),
            Bound::Up => fate_of_request_field(name, value),
        };
        if fate == Fate::Pass {
            field(&mut self.lines, listed.as_str(), value);
        }
    }

    /// What is kept, as field lines.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// What is kept, for HTTP/2.
    pub(super) fn fields(&self) -> HeaderMap {
        let lines = self.lines.split(|&byte| byte == b'\n');
        let pair = |line: &[u8]| {
            let name_end = memchr::memchr(b':', line)?;
            let (name, value) = line.split_at(name_end);
            let value = value.get(1..)?.trim_ascii();
            Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
        };
        lines.filter_map(pair).collect()
    }
}

fn listed<'a>(allowed: &'a [TrailerName], name: &str) -> Option<&'a TrailerName> {
    allowed.iter().find(|allowed| allowed.as_str().eq_ignore_ascii_case(name))
}

/// Those names in `said`, the values of a message's `Trailer` fields (RFC 9110 §6.6.2), that may pass; none if there are none.
pub(super) fn announced<'v>(said: impl Iterator<Item = &'v [u8]>, allowed: &[TrailerName]) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for name in said.flat_map(|value| value.split(|&byte| byte == b',')) {
        let name = std::str::from_utf8(name.trim_ascii()).unwrap_or_default();
        let name = listed(allowed, name).map(TrailerName::as_str);
        names.extend(name.filter(|name| !names.contains(name)));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// Whether the values of a caller's `TE` fields say that it takes trailers.
///
/// > The presence of the keyword "trailers" indicates that the sender will not discard trailer fields — RFC 9110 §10.1.4
pub(super) fn are_taken<'v>(mut said: impl Iterator<Item = &'v [u8]>) -> bool {
    let is_trailers = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"trailers");
    said.any(|value| value.split(|&byte| byte == b',').any(is_trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Arc<[TrailerName]> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn what_only_a_head_or_the_agent_may_say_cannot_be_listed() {
        for name in ["x-checksum", "Server-Timing", "grpc-status", "X_Sum"] {
            assert_eq!(name.parse::<TrailerName>().unwrap().as_str(), name.to_ascii_lowercase());
        }
        for name in ["", "x sum", "x:sum", "x-é", &"x".repeat(65)] {
            assert_eq!(name.parse::<TrailerName>(), Err(InvalidTrailerName::Form), "{name}");
        }
        for name in [
            "Authorization",
            "Connection",
            "content-length",
            "Content-Type",
            "Host",
            "Set-Cookie",
            "Signature",
            "TE",
            "Trailer",
            "transfer_encoding",
            "X-Forwarded-For",
            "x.api.key",
            "x-postern-anything",
            "x-request-id",
            "x_forwarded_client_cert",
        ] {
            assert_eq!(name.parse::<TrailerName>(), Err(InvalidTrailerName::Reserved), "{name}");
        }
    }

    #[test]
    fn only_listed_fields_are_kept_and_none_that_holds_a_key_of_ours_goes_up() {
        let allowed = names(&["x-sum", "x-note"]);
        let kept = |bound| {
            let mut trailers = Trailers::of(&allowed, bound).unwrap();
            for line in
                ["X-Sum:1\r\n", "x-other: 2\r\n", "X-NOTE: \t3 \r\n", "x_sum: 4\r\n", "x-note: pstn_sk_a\r\n"]
            {
                trailers.keep_line(line.as_bytes());
            }
            trailers
        };

        assert_eq!(kept(Bound::Up).lines(), b"x-sum: 1\r\nx-note: 3\r\n");
        assert_eq!(kept(Bound::Down).lines(), b"x-sum: 1\r\nx-note: 3\r\nx-note: pstn_sk_a\r\n");
        let fields = kept(Bound::Up).fields();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("x-sum", &b"1"[..]), ("x-note", b"3")]);
        assert!(Trailers::of(&names(&[]), Bound::Up).is_none());
    }

    #[test]
    fn what_is_announced_is_what_may_pass() {
        let allowed = names(&["x-sum", "x-note"]);
        let said = |values: &[&str]| announced(values.iter().map(|value| value.as_bytes()), &allowed);

        assert_eq!(said(&["Content-Length, X-Sum", "x-note,x-sum,"]).as_deref(), Some("x-sum, x-note"));
        assert_eq!(said(&["content-length", ""]), None);
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn a_caller_takes_trailers_if_it_says_so() {
        let taken = |values: &[&str]| are_taken(values.iter().map(|value| value.as_bytes()));

        assert!(taken(&["trailers"]) && taken(&["gzip;q=0.5, Trailers"]) && taken(&["gzip", "trailers"]));
        assert!(!taken(&[]) && !taken(&["trailers-not"]) && !taken(&["gzip"]));
    }
}
