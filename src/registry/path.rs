//! The policy path: the one reading of a request's path that decisions are made on.
//!
//! Two programs that read one path differently are a way around the policy. So a path that could be read in two ways
//! is refused, and what remains is put into a single spelling: each character that may stand in a path segment as
//! itself does, everything else is an escape in upper-case digits.
//!
//! **Invariant:** reading a policy path again gives the same policy path.

use std::borrow::Cow;

/// A path on which policy may decide: absolute, without empty or dot segments, in its one spelling.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PolicyPath<'a>(Cow<'a, str>);

/// Why a path is not decided on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AmbiguousPath {
    /// A backslash, raw or escaped: some servers take it for a slash.
    #[error("the path contains a backslash")]
    Backslash,
    /// A `%` without two hexadecimal digits behind it.
    #[error("the path contains a '%' that begins no escape")]
    BadEscape,
    /// A control character or a space, raw, or a control character escaped.
    #[error("the path contains a control character or a space")]
    Control,
    /// A segment `.` or `..`, in whatever spelling.
    #[error("the path contains a segment '.' or '..'")]
    DotSegment,
    /// An escape that would still be an escape when decoded, such as `%2561`.
    #[error("the path contains an escape of an escape")]
    DoubleEscape,
    /// Two slashes in a row.
    #[error("the path contains an empty segment")]
    EmptySegment,
    /// `%2f`.
    #[error("the path contains an escaped slash")]
    EscapedSlash,
    /// Escapes that are no UTF-8 text.
    #[error("the path contains escapes that are no UTF-8")]
    NotUtf8,
    /// A `?` or `#`: this is more than a path.
    #[error("the path contains '?' or '#'")]
    NotOnlyPath,
    /// A character outside ASCII that is not escaped.
    #[error("the path contains a character that must be escaped")]
    RawNonAscii,
    /// It does not begin with a slash.
    #[error("the path does not begin with '/'")]
    Relative,
}

impl<'a> PolicyPath<'a> {
    /// Reads the path of a request, without its query. Allocates only when the spelling has to change.
    ///
    /// # Errors
    /// Why the path could be read in more than one way.
    pub fn parse(raw: &'a str) -> Result<Self, AmbiguousPath> {
        if !raw.starts_with('/') {
            return Err(AmbiguousPath::Relative);
        }
        let plain = raw.bytes().all(is_segment_byte_or_slash);
        let path = if plain { Cow::Borrowed(raw) } else { respell(raw)? };
        check_segments(&path)?;
        Ok(Self(path))
    }

    /// The path in its one spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands between the slashes. The last segment is empty when the path ends with a slash.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }
}

/// Decodes what need not be escaped, escapes what must be, and refuses what has no single meaning.
fn respell(raw: &str) -> Result<Cow<'_, str>, AmbiguousPath> {
    let mut path = String::with_capacity(raw.len());
    // The bytes that are meant, each escape decoded once.
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let (meant, stays) = match byte {
            b'%' => {
                let meant = escaped(bytes.next(), bytes.next())?;
                (meant, is_decoded(meant))
            }
            _ => {
                check_raw(byte)?;
                (byte, is_segment_byte_or_slash(byte))
            }
        };
        decoded.push(meant);
        if stays {
            path.push(char::from(meant));
        } else {
            path.push('%');
            data_encoding::HEXUPPER.encode_append(&[meant], &mut path);
        }
    }
    if holds_escape(&decoded) {
        return Err(AmbiguousPath::DoubleEscape);
    }
    let text = std::str::from_utf8(&decoded).map_err(|_| AmbiguousPath::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(AmbiguousPath::Control);
    }
    Ok(if path == raw { Cow::Borrowed(raw) } else { Cow::Owned(path) })
}

/// What an escape with these two digits stands for.
fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, AmbiguousPath> {
    let (high, low) = high.and_then(digit).zip(low.and_then(digit)).ok_or(AmbiguousPath::BadEscape)?;
    match high << 4 | low {
        b'/' => Err(AmbiguousPath::EscapedSlash),
        b'\\' => Err(AmbiguousPath::Backslash),
        meant => Ok(meant),
    }
}

/// Whether decoding once leaves something that a second decoding would take for an escape, however that is spelt.
fn holds_escape(decoded: &[u8]) -> bool {
    decoded
        .windows(3)
        .any(|three| matches!(three, [b'%', high, low] if digit(*high).is_some() && digit(*low).is_some()))
}

const fn check_raw(byte: u8) -> Result<(), AmbiguousPath> {
    match byte {
        b'\\' => Err(AmbiguousPath::Backslash),
        b'?' | b'#' => Err(AmbiguousPath::NotOnlyPath),
        b' ' => Err(AmbiguousPath::Control),
        _ if byte.is_ascii_control() => Err(AmbiguousPath::Control),
        _ if !byte.is_ascii() => Err(AmbiguousPath::RawNonAscii),
        _ => Ok(()),
    }
}

/// Empty segments and dot segments, also as they look to a server that cuts `;parameters` off.
fn check_segments(path: &str) -> Result<(), AmbiguousPath> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let (name, parameters) = match segment.find("%3B").into_iter().chain(segment.find(';')).min() {
            Some(end) => segment.split_at_checked(end).unwrap_or((segment, "")),
            None => (segment, ""),
        };
        if matches!(name, "." | "..") || parameters.contains("..") {
            return Err(AmbiguousPath::DotSegment);
        }
        let is_trailing_slash = segment.is_empty() && segments.peek().is_none();
        if name.is_empty() && !is_trailing_slash {
            return Err(AmbiguousPath::EmptySegment);
        }
    }
    Ok(())
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

const fn is_segment_byte_or_slash(byte: u8) -> bool {
    is_decoded(byte) || matches!(byte, b'/' | b';')
}

/// RFC 3986 `pchar`, but for `;`: an escaped one is part of a name, a raw one begins parameters.
const fn is_decoded(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(raw: &str) -> Result<String, AmbiguousPath> {
        PolicyPath::parse(raw).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn an_ordinary_path_is_taken_as_it_is() {
        for raw in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/...",
            "/.a/..b",
            "/a;v=1",
            "/users/@me",
            "/~me/a(b)",
            "/a%2",
            "/caf%C3%A9",
            "/a%20b",
        ] {
            match (raw, PolicyPath::parse(raw)) {
                ("/a%2", result) => assert_eq!(result, Err(AmbiguousPath::BadEscape)),
                (_, result) => {
                    assert!(matches!(result, Ok(PolicyPath(Cow::Borrowed(same))) if same == raw), "{raw}")
                }
            }
        }
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (raw, spelt) in [
            ("/%61dmin", "/admin"),
            ("/users/%40me", "/users/@me"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a|b", "/a%7Cb"),
            ("/a%7cb", "/a%7Cb"),
            ("/a%3bb", "/a%3Bb"),
            ("/100%25", "/100%25"),
            ("/100%25|", "/100%25%7C"),
            ("/%2e%2ea", "/..a"),
        ] {
            assert_eq!(read(raw).as_deref(), Ok(spelt), "{raw}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_refused() {
        use AmbiguousPath::{
            Backslash, BadEscape, Control, DotSegment, DoubleEscape, EmptySegment, EscapedSlash, NotOnlyPath,
            NotUtf8, RawNonAscii, Relative,
        };
        for (raw, reason) in [
            ("", Relative),
            ("*", Relative),
            ("admin", Relative),
            ("http://a/b", Relative),
            ("//admin", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/;x/admin", EmptySegment),
            ("/%3bx/admin", EmptySegment),
            ("/./admin", DotSegment),
            ("/x/../admin", DotSegment),
            ("/x/..", DotSegment),
            ("/x/.", DotSegment),
            ("/%2e%2E/admin", DotSegment),
            ("/.%2e/admin", DotSegment),
            ("/x/..;/admin", DotSegment),
            ("/x/.;a=b/admin", DotSegment),
            ("/x/..%3b/admin", DotSegment),
            ("/x/a;..", DotSegment),
            ("/x/a;b=../c", DotSegment),
            ("/x/a;%2e%2e/c", DotSegment),
            ("/x/..\\admin", Backslash),
            ("/x%5cadmin", Backslash),
            ("/x%5Cadmin", Backslash),
            ("/x%2fadmin", EscapedSlash),
            ("/x%2Fadmin", EscapedSlash),
            ("/%2561dmin", DoubleEscape),
            ("/%252e%252e/admin", DoubleEscape),
            ("/%25%32%66", DoubleEscape),
            ("/%252%66", DoubleEscape),
            ("/%25252f", DoubleEscape),
            ("/%00", Control),
            ("/a%0d%0ab", Control),
            ("/a%7f", Control),
            ("/a%C2%85", Control),
            ("/a b", Control),
            ("/a\tb", Control),
            ("/a\0", Control),
            ("/%", BadEscape),
            ("/%a", BadEscape),
            ("/%zz", BadEscape),
            ("/%+1", BadEscape),
            ("/%u0061", BadEscape),
            ("/%c0%af", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%c3/%a9", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/a?b", NotOnlyPath),
            ("/a#b", NotOnlyPath),
            ("/é", RawNonAscii),
            ("/\u{ff0e}\u{ff0e}/a", RawNonAscii),
        ] {
            assert_eq!(read(raw), Err(reason), "{raw:?}");
        }
    }

    #[test]
    fn segments_are_what_stands_between_the_slashes() {
        let segments =
            |raw| PolicyPath::parse(raw).unwrap().segments().map(str::to_owned).collect::<Vec<_>>();

        assert_eq!(segments("/"), [""]);
        assert_eq!(segments("/a/b"), ["a", "b"]);
        assert_eq!(segments("/a/"), ["a", ""]);
    }

    /// Decodes every escape, as a server does at last.
    fn decode(path: &str) -> Vec<u8> {
        let mut bytes = path.bytes();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            decoded.push(match byte {
                b'%' => digit(bytes.next().unwrap()).unwrap() << 4 | digit(bytes.next().unwrap()).unwrap(),
                _ => byte,
            });
        }
        decoded
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(raw in any::<String>()) {
            drop(PolicyPath::parse(&raw));
        }

        /// Whatever is let through has one spelling, means the same bytes as before, and holds no trick in any reading.
        #[test]
        fn what_is_let_through_means_one_thing(raw in "/([0-9a-c./;@%|]|%[0-9a-fA-F]{2}|%2[eEfF5]|%25|\\.\\.|//){0,12}") {
            if let Ok(path) = PolicyPath::parse(&raw) {
                let again = PolicyPath::parse(path.as_str()).unwrap();
                prop_assert_eq!(&again, &path);
                let meant = decode(path.as_str());
                prop_assert_eq!(&meant, &decode(&raw));
                let meant = String::from_utf8(meant).unwrap();
                prop_assert_eq!(meant.matches('/').count(), raw.matches('/').count());
                prop_assert!(meant.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!meant.contains("//") && !meant.contains('\\') && !meant.contains('\0'));
            }
        }
    }
}
