//! A SPIFFE ID: the name of one workload inside one trust domain.
//!
//! Read strictly wherever it comes from, certificate or config: no spelling is folded into another, so comparing
//! bytes is comparing identities.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identity::{InvalidTrustDomain, TrustDomain};

/// The longest SPIFFE ID, in bytes.
///
/// > SPIFFE implementations MUST support SPIFFE URIs up to 2048 bytes in length and MUST NOT generate URIs of length
/// > greater than 2048 bytes. — SPIFFE-ID §2.3
const MAX_SPIFFE_ID: usize = 2048;

/// A workload's SPIFFE ID, such as `spiffe://prod.example.org/ns/shop/orders`. It always has a path.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain it lies in.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.domain.clone()
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.domain.as_str().len()..).unwrap_or_default()
    }
}

/// Why a text is no workload's SPIFFE ID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// A path character other than `a-z A-Z 0-9 . _ -`; this also excludes queries, fragments and percent escapes.
    #[error("a path segment has only letters, digits, '.', '_' and '-'")]
    Character,
    /// A segment `.` or `..`.
    #[error("a path has no segment '.' or '..'")]
    DotSegment,
    /// Two slashes in a row.
    #[error("a path has no empty segment")]
    EmptySegment,
    /// The trust domain's own ID: it names no workload.
    #[error("the ID names a trust domain, not a workload: it has no path")]
    NoPath,
    /// It does not begin with `spiffe://`, in lower case.
    #[error("a SPIFFE ID begins with 'spiffe://'")]
    Scheme,
    /// More than 2048 bytes.
    #[error("a SPIFFE ID has at most {MAX_SPIFFE_ID} bytes")]
    TooLong,
    /// A slash at the end.
    #[error("a SPIFFE ID does not end with '/'")]
    TrailingSlash,
    /// What follows the scheme is no trust domain; user information and ports are among the causes.
    #[error("no trust domain: {0}")]
    TrustDomain(#[source] InvalidTrustDomain),
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domain, path) = split(text)?;
        let path = path.ok_or(InvalidSpiffeId::NoPath)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(InvalidSpiffeId::TrailingSlash);
        }
        path.split('/').try_for_each(validate_segment)?;
        Ok(Self { text: Arc::from(text), domain })
    }
}

/// The trust domain of an ID, and what follows the slash after it, if there is one.
pub(super) fn split(text: &str) -> Result<(TrustDomain, Option<&str>), InvalidSpiffeId> {
    if text.len() > MAX_SPIFFE_ID {
        return Err(InvalidSpiffeId::TooLong);
    }
    let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    Ok((domain.parse().map_err(InvalidSpiffeId::TrustDomain)?, path))
}

/// What SPIFFE-ID §2.2 asks of each segment of the path.
pub(super) fn validate_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match segment {
        "" => Err(InvalidSpiffeId::EmptySegment),
        "." | ".." => Err(InvalidSpiffeId::DotSegment),
        _ if segment.bytes().all(allowed) => Ok(()),
        _ => Err(InvalidSpiffeId::Character),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

const SCHEME: &str = "spiffe://";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SpiffeId, InvalidSpiffeId> {
        text.parse()
    }

    #[test]
    fn an_id_gives_back_its_parts() {
        let id = parse("spiffe://postern.test/ns/prod/Orders").unwrap();

        assert_eq!(id.as_str(), "spiffe://postern.test/ns/prod/Orders");
        assert_eq!(id.trust_domain().as_str(), "postern.test");
        assert_eq!(id.path(), "/ns/prod/Orders");
    }

    #[test]
    fn only_the_lower_case_scheme_is_spiffe() {
        for text in [
            "",
            "postern.test/a",
            "http://td/a",
            "spiffe:/td/a",
            "spiffe:/",
            "Spiffe://td/a",
            " spiffe://td/a",
        ] {
            assert_eq!(parse(text), Err(InvalidSpiffeId::Scheme), "{text}");
        }
    }

    #[test]
    fn the_trust_domain_is_there_and_plain() {
        let empty = Err(InvalidSpiffeId::TrustDomain(InvalidTrustDomain::Empty));
        let character = Err(InvalidSpiffeId::TrustDomain(InvalidTrustDomain::Character));

        assert_eq!(parse("spiffe://"), empty);
        assert_eq!(parse("spiffe:///x"), empty);
        for text in [
            "spiffe://user@td/a",
            "spiffe://user:pw@td/a",
            "spiffe://td:80/a",
            "spiffe://TD/a",
            "spiffe://t%64/a",
            "spiffe://[::1]/a",
            "spiffe://td?a=b",
            "spiffe://td#a",
        ] {
            assert_eq!(parse(text), character, "{text}");
        }
        assert!(parse("spiffe://127.0.0.1/a").is_ok());
    }

    #[test]
    fn a_query_or_fragment_is_refused() {
        assert_eq!(parse("spiffe://td/a?b=c"), Err(InvalidSpiffeId::Character));
        assert_eq!(parse("spiffe://td/a#b"), Err(InvalidSpiffeId::Character));
    }

    #[test]
    fn only_the_listed_characters_make_a_segment() {
        for code in 0_u8..=255 {
            let letter = char::from(code);
            let allowed = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');

            assert_eq!(
                parse(&format!("spiffe://td/x{letter}x")).is_ok(),
                allowed || letter == '/',
                "{letter:?}"
            );
        }
    }

    #[test]
    fn segments_are_not_empty_and_lead_nowhere_else() {
        assert_eq!(parse("spiffe://td//a"), Err(InvalidSpiffeId::EmptySegment));
        assert_eq!(parse("spiffe://prod/ns//sa/web"), Err(InvalidSpiffeId::EmptySegment));
        for text in ["spiffe://td/./a", "spiffe://td/../a", "spiffe://td/a/.", "spiffe://td/a/.."] {
            assert_eq!(parse(text), Err(InvalidSpiffeId::DotSegment), "{text}");
        }
        for text in ["spiffe://td/.path", "spiffe://td/..path", "spiffe://td/...", "spiffe://td/a."] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_workload_has_a_path_without_a_slash_at_the_end() {
        assert_eq!(parse("spiffe://td"), Err(InvalidSpiffeId::NoPath));
        assert_eq!(parse("spiffe://td/"), Err(InvalidSpiffeId::TrailingSlash));
        assert_eq!(parse("spiffe://td/a/"), Err(InvalidSpiffeId::TrailingSlash));
    }

    #[test]
    fn the_length_ends_at_2048_bytes() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));

        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&format!("{longest}a")), Err(InvalidSpiffeId::TooLong));
    }

    #[test]
    fn paths_differ_by_case() {
        assert_ne!(parse("spiffe://td/A").unwrap(), parse("spiffe://td/a").unwrap());
    }
}
