//! Which fields may pass, which are removed because they would speak for the caller's identity, and what the service is told.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::credential::API_KEY_MARK;
use crate::telemetry::carries_secret;

/// Fields that only this agent may set (lower case, `-` between words). A caller's own copy is removed, and so is every
/// alias that a service's framework might fold into it.
const PROTECTED: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "x-api-key",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-tls-client-cert",
    "x-postern-app",
    "x-postern-credential",
    "x-postern-developer",
    "x-postern-product",
    "x-postern-scopes",
    "x-postern-spiffe-id",
    "x-postern-user",
    "x-postern-user-issuer",
    "x-real-ip",
    "x-request-id",
];

/// Everything that begins so is protected, too.
const PROTECTED_PREFIXES: &[&str] = &["x-postern-", "x-ssl-", "ssl-client-"];

/// Fields that end at this hop (RFC 9110 §7.6.1) or that the agent writes anew.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What becomes of a field that a caller sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Pass,
    Remove,
}

/// The fate of a caller's field called `name` with this `value`.
pub(super) fn fate_of_request_field(name: &str, value: &[u8]) -> Fate {
    let mut folded = [0_u8; LONGEST];
    let Some(folded) = fold(name, &mut folded) else {
        let removed = is_long_and_protected(name) || carries_api_key(value);
        return if removed { Fate::Remove } else { Fate::Pass };
    };
    let removed = HOP_BY_HOP.contains(&folded)
        || PROTECTED.contains(&folded)
        || has_protected_prefix(folded)
        || carries_api_key(value);
    if removed { Fate::Remove } else { Fate::Pass }
}

/// Whether a service's answer may carry this field on: hop-by-hop ones end here, and framing is written anew.
pub(super) fn fate_of_response_field(name: &str) -> Fate {
    let mut folded = [0_u8; LONGEST];
    match fold(name, &mut folded) {
        Some("proxy-authenticate") | None => Fate::Pass,
        Some("x-request-id") => Fate::Remove,
        Some(folded) if HOP_BY_HOP.contains(&folded) => Fate::Remove,
        Some(_) => Fate::Pass,
    }
}

/// Whether a `Connection` field that nominates `option` is an attack on what the service is told.
pub(super) fn must_not_be_nominated(option: &str) -> bool {
    let mut folded = [0_u8; LONGEST];
    fold(option, &mut folded).map_or_else(
        || is_long_and_protected(option),
        |folded| {
            matches!(
                folded,
                "authorization" | "content-length" | "cookie" | "host" | "traceparent" | "transfer-encoding"
            ) || PROTECTED.contains(&folded)
                || has_protected_prefix(folded)
        },
    )
}

/// Whether `text` holds something that looks like one of our keys.
pub(super) fn carries_api_key(text: &[u8]) -> bool {
    /// It is asked for every field of every request; making a searcher costs more than most searches.
    static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(API_KEY_MARK));

    MARK.find(text).is_some()
}

/// Whether part of a request target holds something that looks like one of our keys, in whatever spelling.
pub(super) fn names_api_key(text: &str) -> bool {
    carries_api_key(text.as_bytes()) || text.contains('%') && carries_api_key(&unescaped(text))
}

/// Whether a query has a parameter by which access tokens are sent in URLs (RFC 6750 §2.3), in whatever spelling.
pub(super) fn names_access_token(query: &str) -> bool {
    let name = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    query.split(['&', ';']).any(|pair| unescaped(&name(pair)).eq_ignore_ascii_case(b"access_token"))
}

/// `text` as a field's value: visible ASCII as it is, and everything else, the percent sign too, as percent escapes.
pub(super) fn visible(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            written.push(char::from(byte));
        } else {
            written.push('%');
            written.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    written
}

/// What keys stand in part of a request target, in whatever spelling.
pub(super) fn keys_in(text: &str) -> Vec<Vec<u8>> {
    let bytes = unescaped(text);
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let places = memchr::memmem::find_iter(&bytes, API_KEY_MARK.as_bytes());
    places.map(|at| bytes.iter().skip(at).take_while(|byte| word(byte)).copied().collect()).collect()
}

/// `path`, or some other word of the caller's, as it may stand in a log.
pub(super) fn loggable(path: &str) -> &str {
    if names_api_key(path) || carries_secret(path.as_bytes()) { "(withheld)" } else { path }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escape = behind.split_at_checked(2).filter(|_| byte == b'%');
        let meant = escape.and_then(|(digits, behind)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, behind))
        });
        let (byte, behind) = meant.unwrap_or((byte, behind));
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

/// No protected or hop-by-hop name is longer.
const LONGEST: usize = 32;

/// Whether `name`, longer than every protected name, could still speak for the agent by how it begins.
fn is_long_and_protected(name: &str) -> bool {
    let mut start = [0_u8; LONGEST];
    name.get(..LONGEST).and_then(|head| fold(head, &mut start)).is_some_and(has_protected_prefix)
}

fn has_protected_prefix(folded: &str) -> bool {
    PROTECTED_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

/// `name` in lower case with `_` and `.` read as `-`, as CGI-like frameworks see it; `None` when it is longer than any name
/// that matters.
fn fold<'a>(name: &str, into: &'a mut [u8; LONGEST]) -> Option<&'a str> {
    let folded = into.get_mut(..name.len())?;
    for (to, from) in folded.iter_mut().zip(name.bytes()) {
        *to = match from {
            b'_' | b'.' => b'-',
            other => other.to_ascii_lowercase(),
        };
    }
    std::str::from_utf8(folded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_an_identity_field_passes() {
        for name in [
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "Client.Cert",
            "X-POSTERN-anything",
            "X_Postern.App",
            "X-SSL-Client-DN",
            "x-postern-a-name-that-is-longer-than-every-protected-name",
            "X-Api-Key",
            "Transfer_Encoding",
        ] {
            assert_eq!(fate_of_request_field(name, b"v"), Fate::Remove, "{name}");
        }
    }

    #[test]
    fn ordinary_fields_pass_unless_they_carry_a_key() {
        assert_eq!(fate_of_request_field("Accept", b"*/*"), Fate::Pass);
        assert_eq!(fate_of_request_field("Authorization", b"Bearer abc"), Fate::Pass);
        assert_eq!(fate_of_request_field("Authorization", b"Bearer pstn_sk_0000000000A1_x"), Fate::Remove);
    }

    #[test]
    fn a_key_is_found_in_every_spelling() {
        for text in ["/a/pstn_sk_x", "k=%70stn%5fsk", "k=%pstn_", "%7%70stn_"] {
            assert!(names_api_key(text), "{text}");
        }
        for text in ["/a", "k=%70stn", "%", "%5", "p%00stn_"] {
            assert!(!names_api_key(text), "{text}");
        }
    }

    #[test]
    fn a_token_in_a_query_is_found_in_every_spelling() {
        for query in
            ["access_token=x", "a=b&access_token=x", "ACCESS_TOKEN=x", "access%5Ftoken", "a;%61ccess_token=1"]
        {
            assert!(names_access_token(query), "{query}");
        }
        for query in ["", "token=x", "my_access_token=x", "a=access_token", "access_token_hint=x"] {
            assert!(!names_access_token(query), "{query}");
        }
    }

    #[test]
    fn a_users_name_is_one_visible_word() {
        assert_eq!(visible("alice@example.test"), "alice@example.test");
        assert_eq!(visible("a b\r\nx: y%é"), "a%20b%0D%0Ax:%20y%25%C3%A9");
    }

    #[test]
    fn identity_fields_may_not_be_nominated_away() {
        assert!(must_not_be_nominated("X-Postern-App"));
        assert!(must_not_be_nominated("X-Postern-Something-New-And-Longer-Than-Any-Other"));
        assert!(must_not_be_nominated("host"));
        assert!(!must_not_be_nominated("X-Trace-Detail"));
    }
}
