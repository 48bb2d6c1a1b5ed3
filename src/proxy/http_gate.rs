//! The strict reading of a request head, before anything is decided on it.
//!
//! HTTP/1 bytes and HTTP/2 header lists end in the same [`Head`], so that everything behind the gate sees one kind of request.
//! What is ambiguous is refused; nothing is repaired.

use httparse::Header;

use super::framing::{Framing, is_token};
use super::h2_head::Scheme;

/// More fields than this are refused with 431.
pub(super) const MAX_FIELDS: usize = 100;

/// More options in `Connection` than this are refused: each is held against each field.
const MAX_OPTIONS: usize = 32;

/// The version of HTTP that a caller speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http10,
    Http11,
    Http2,
}

/// A request head that has exactly one meaning.
#[derive(Debug)]
pub(super) struct Head<'h, 'a> {
    pub(super) method: &'a str,
    /// The path as it was sent; still to be normalised.
    pub(super) path: &'a str,
    /// What stands behind the `?`, if there is one.
    pub(super) query: Option<&'a str>,
    /// Host and, where given, port.
    pub(super) authority: &'a str,
    pub(super) version: Version,
    /// All fields in the order in which they came, `Host` and framing included.
    pub(super) fields: &'h [Header<'a>],
    pub(super) body: Framing,
    /// Whether the caller wants the connection to live on.
    pub(super) keep_alive: bool,
}

impl<'h, 'a> Head<'h, 'a> {
    /// The values of all fields called `name`, which is given in lower case.
    pub(super) fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'h, 'a> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// Why a head is refused; every variant is the caller's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("the Connection field names a field that may not be dropped, or too many")]
    Connection,
    #[error("Content-Length is malformed, repeated, or stands beside Transfer-Encoding")]
    ContentLength,
    #[error("Host is missing, repeated, malformed, or differs from the request target")]
    Host,
    #[error("a line does not end in CR LF")]
    LineEnd,
    #[error("the head is no HTTP")]
    Malformed,
    #[error("the method is not acceptable here")]
    Method,
    #[error("the request target must be a path")]
    Target,
    #[error("more header fields than are read")]
    TooManyFields,
    #[error("Transfer-Encoding is anything but a single `chunked`")]
    TransferEncoding,
    #[error("the HTTP version is not supported")]
    Version,
}

impl BadHead {
    /// The status to answer with.
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::TooManyFields => 431,
            Self::Version => 505,
            Self::Connection
            | Self::ContentLength
            | Self::Host
            | Self::LineEnd
            | Self::Malformed
            | Self::Target
            | Self::TransferEncoding => 400,
        }
    }
}

/// Whether the caller's `Connection` field says that `name` ends here.
pub(super) fn is_nominated(head: &Head<'_, '_>, name: &str) -> bool {
    head.values("connection").any(|value| {
        value
            .split(|&byte| byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Where the head at the front of `unread` ends, if all of it is there.
pub(super) fn head_end(unread: &[u8]) -> Option<usize> {
    memchr::memmem::find(unread, b"\n\r\n").map(|at| at + 3).or_else(|| {
        // A bare LF may end a head, too; it is found here to be refused at once instead of timing out.
        memchr::memmem::find(unread, b"\n\n").map(|at| at + 2)
    })
}

/// Reads an HTTP/1 head, complete with its empty line (RFC 9112).
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_http1<'h, 'a>(
    bytes: &'a [u8],
    storage: &'h mut [Header<'a>; MAX_FIELDS],
) -> Result<Head<'h, 'a>, BadHead> {
    if memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes.get(at - 1) != Some(&b'\r')) {
        return Err(BadHead::LineEnd);
    }
    if !bytes.first().is_some_and(|&byte| is_token(byte)) {
        return Err(BadHead::Malformed);
    }
    let mut request = httparse::Request::new(storage);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
        Err(httparse::Error::Version) => return Err(BadHead::Version),
        Ok(_) | Err(_) => return Err(BadHead::Malformed),
    }
    let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err(BadHead::Malformed) };
    let fields: &'h [Header<'a>] = request.headers;
    check_method(method)?;

    let (authority_in_target, path_and_query) = split_target(target)?;
    let (path, query) = split_query(path_and_query);
    let authority = authority(version, authority_in_target, fields)?;
    let connection = connection(version, fields)?;
    Ok(Head {
        method,
        path,
        query,
        authority,
        version,
        fields,
        body: body(version, fields)?,
        keep_alive: connection,
    })
}

/// Reads an HTTP/2 header list (RFC 9113 §8.3) that `h2` has taken apart: `fields` without pseudo-headers, on a connection of
/// this `scheme`.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_http2<'h, 'a>(
    uri: &'a http::Uri,
    method: &'a http::Method,
    fields: &'h [Header<'a>],
    has_body: bool,
    scheme: Scheme,
) -> Result<Head<'h, 'a>, BadHead> {
    if fields.len() > MAX_FIELDS {
        return Err(BadHead::TooManyFields);
    }
    check_method(method.as_str())?;
    if uri.scheme_str() != Some(scheme.as_str()) {
        return Err(BadHead::Target);
    }
    let authority = match (uri.authority(), one(fields, "host").map_err(|()| BadHead::Host)?) {
        (Some(authority), Some(host)) if authority.as_str().as_bytes() != host => return Err(BadHead::Host),
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => std::str::from_utf8(host).map_err(|_| BadHead::Host)?,
        (None, None) => return Err(BadHead::Host),
    };
    check_authority(authority)?;
    if !uri.path().starts_with('/') {
        return Err(BadHead::Target);
    }
    if fields.len() > MAX_FIELDS {
        return Err(BadHead::TooManyFields);
    }
    let is_padding = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if fields.iter().any(|field| is_padding(field.value.first()) || is_padding(field.value.last())) {
        return Err(BadHead::Malformed);
    }
    let body = match one(fields, "content-length").map_err(|()| BadHead::ContentLength)? {
        _ if !has_body => Framing::Length(0),
        Some(value) => Framing::Length(length(value)?),
        None => Framing::Chunked,
    };
    let (path, query) = (uri.path(), uri.query());
    Ok(Head {
        method: method.as_str(),
        path,
        query,
        authority,
        version: Version::Http2,
        fields,
        body,
        keep_alive: true,
    })
}

/// > The method token is case-sensitive. — RFC 9110 §9.1
///
/// Registered methods are upper case; `CONNECT` would make a tunnel, `TRACE` would echo secrets.
fn check_method(method: &str) -> Result<(), BadHead> {
    let plain = !method.is_empty()
        && method.len() <= 32
        && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if !plain {
        return Err(BadHead::Malformed);
    }
    if matches!(method, "CONNECT" | "TRACE") { Err(BadHead::Method) } else { Ok(()) }
}

/// Origin form, or absolute form with the authority it carries (RFC 9112 §3.2). Neither has a fragment; some readers cut one off,
/// others take it for a part of the path or the query.
fn split_target(target: &str) -> Result<(Option<&str>, &str), BadHead> {
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err(BadHead::Target);
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let scheme_end = target.find("://").ok_or(BadHead::Target)?;
    let (scheme, rest) = target.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(BadHead::Target);
    }
    let rest = rest.get(3..).ok_or(BadHead::Target)?;
    let path_start = rest.find('/').ok_or(BadHead::Target)?;
    let (authority, path) = rest.split_at(path_start);
    Ok((Some(authority), path))
}

fn split_query(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// > A server MUST respond with a 400 status code to any HTTP/1.1 request message that lacks a Host header field and to any
/// > request message that contains more than one Host header field line or a Host header field with an invalid field value.
/// > — RFC 9112 §3.2
fn authority<'a>(
    version: Version,
    in_target: Option<&'a str>,
    fields: &[Header<'a>],
) -> Result<&'a str, BadHead> {
    let host = one(fields, "host").map_err(|()| BadHead::Host)?;
    let host = host.map(std::str::from_utf8).transpose().map_err(|_| BadHead::Host)?;
    let authority = match (host, in_target) {
        (Some(host), Some(target)) if !host.eq_ignore_ascii_case(target) => return Err(BadHead::Host),
        (Some(host), _) => host,
        (None, Some(target)) if version == Version::Http10 => target,
        (None, _) => return Err(BadHead::Host),
    };
    check_authority(authority)?;
    Ok(authority)
}

/// Host and optional port, without user information (RFC 9110 §4.2.4 calls that one out).
fn check_authority(authority: &str) -> Result<(), BadHead> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, "")) => (v6, None),
        Some((v6, port)) => (v6, Some(port.strip_prefix(':').ok_or(BadHead::Host)?)),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_v6 = authority.starts_with('[');
    let host_byte = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') || is_v6 && byte == b':'
    };
    let port_ok =
        port.is_none_or(|port| !port.is_empty() && port.parse::<u16>().is_ok() && !port.starts_with('+'));
    if !host.is_empty() && host.len() <= 255 && host.bytes().all(host_byte) && port_ok {
        Ok(())
    } else {
        Err(BadHead::Host)
    }
}

/// Whether the connection is to live on.
///
/// > The "close" connection option is defined as a signal that the sender will close this connection after the completion
/// > of the response. — RFC 9112 §9.6
///
/// The field may also name fields that end at the next hop. One that names a field which decides who the caller is, or
/// where the message ends, is an attack.
fn connection(version: Version, fields: &[Header<'_>]) -> Result<bool, BadHead> {
    let (mut close, mut keep, mut options) = (false, version == Version::Http11, 0);
    for field in fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection")) {
        let value = std::str::from_utf8(field.value).map_err(|_| BadHead::Connection)?;
        for option in value.split(',').map(str::trim) {
            options += 1;
            close |= option.eq_ignore_ascii_case("close");
            keep |= option.eq_ignore_ascii_case("keep-alive");
            if options > MAX_OPTIONS || super::headers::must_not_be_nominated(option) {
                return Err(BadHead::Connection);
            }
        }
    }
    Ok(keep && !close)
}

fn body(version: Version, fields: &[Header<'_>]) -> Result<Framing, BadHead> {
    let encoding = one(fields, "transfer-encoding").map_err(|()| BadHead::TransferEncoding)?;
    let length_field = one(fields, "content-length").map_err(|()| BadHead::ContentLength)?;
    match (encoding, length_field) {
        (Some(_), Some(_)) => Err(BadHead::ContentLength),
        (Some(_), None) if version == Version::Http10 => Err(BadHead::TransferEncoding),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), None) => Err(BadHead::TransferEncoding),
        (None, Some(value)) => Ok(Framing::Length(length(value)?)),
        (None, None) => Ok(Framing::Length(0)),
    }
}

/// > Content-Length = 1*DIGIT — RFC 9110 §8.6
fn length(value: &[u8]) -> Result<u64, BadHead> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BadHead::ContentLength);
    }
    let digits = value.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(digits)
}

/// The value of the only field called `name`; two of them are an error even when they are equal.
fn one<'a>(fields: &[Header<'a>], name: &str) -> Result<Option<&'a [u8]>, ()> {
    let mut found = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(()),
        (Some(field), None) => Ok(Some(field.value)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<(String, Framing, bool), BadHead> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        read_http1(head.as_bytes(), &mut storage).map(|head| {
            (format!("{} {} {}", head.method, head.authority, head.path), head.body, head.keep_alive)
        })
    }

    #[test]
    fn a_plain_request_has_one_meaning() {
        let read = verdict("GET /a?b=c HTTP/1.1\r\nHost: h:8443\r\n\r\n");

        assert_eq!(read, Ok(("GET h:8443 /a".into(), Framing::Length(0), true)));
    }

    #[test]
    fn framing_and_persistence_are_read_from_the_fields() {
        let chunked =
            verdict("POST / HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n");
        let length =
            verdict("POST / HTTP/1.0\r\nhost: h\r\ncontent-length: 12\r\nconnection: keep-alive\r\n\r\n");

        assert_eq!(chunked, Ok(("POST h /".into(), Framing::Chunked, false)));
        assert_eq!(length, Ok(("POST h /".into(), Framing::Length(12), true)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let cases = [
            ("GET / HTTP/1.1\nHost: h\n\n", BadHead::LineEnd),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n", BadHead::LineEnd),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", BadHead::Malformed),
            ("GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n", BadHead::Malformed),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n", BadHead::Malformed),
            ("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", BadHead::Malformed),
            ("GET / HTTP/1.1\r\n\r\n", BadHead::Host),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", BadHead::Host),
            ("GET / HTTP/1.1\r\nHost: \r\n\r\n", BadHead::Host),
            ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", BadHead::Host),
            ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", BadHead::Host),
            ("GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", BadHead::Host),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Host),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Target),
            ("GET javascript://a/ HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Target),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Malformed),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Method),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", BadHead::Method),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
                BadHead::ContentLength,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
                BadHead::ContentLength,
            ),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4, 4\r\n\r\n", BadHead::ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +4\r\n\r\n", BadHead::ContentLength),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                BadHead::TransferEncoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
                BadHead::TransferEncoding,
            ),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", BadHead::TransferEncoding),
            ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", BadHead::TransferEncoding),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-Client-Cert\r\n\r\n", BadHead::Connection),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\n\r\n", BadHead::Connection),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", BadHead::Version),
        ];
        for (head, expected) in cases {
            assert_eq!(verdict(head), Err(expected), "{}", head.escape_debug());
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_also_when_it_is_wrong() {
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: h\r\n"), None);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nbody"), Some(27));
        assert_eq!(head_end(b"GET / HTTP/1.1\nHost: h\n\n"), Some(24));
    }
    #[test]
    fn a_connection_field_is_no_lever_for_work() {
        let options = |count: usize| vec!["a"; count].join(",");
        let head = |options: String| format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: {options}\r\n\r\n");

        assert!(verdict(&head(options(MAX_OPTIONS))).is_ok());
        assert_eq!(verdict(&head(options(MAX_OPTIONS + 1))), Err(BadHead::Connection));
        let twice =
            head(options(20)).replace("\r\n\r\n", "\r\nConnection: b,b,b,b,b,b,b,b,b,b,b,b,b\r\n\r\n");
        assert_eq!(verdict(&twice), Err(BadHead::Connection));
    }

    #[test]
    fn http2_heads_obey_the_same_bounds() {
        let uri: http::Uri = "https://h/a".parse().unwrap();
        let read = |fields: &[Header<'_>]| {
            read_http2(&uri, &http::Method::GET, fields, false, Scheme::Https).map(|_| ())
        };
        let field = |value: &'static str| Header { name: "a", value: value.as_bytes() };

        assert_eq!(read(&vec![field("b"); MAX_FIELDS]), Ok(()));
        assert_eq!(read(&vec![field("b"); MAX_FIELDS + 1]), Err(BadHead::TooManyFields));
        for value in [" b", "b ", "\tb", "b\t"] {
            assert_eq!(read(&[field(value)]), Err(BadHead::Malformed), "{value:?}");
        }
    }
}
