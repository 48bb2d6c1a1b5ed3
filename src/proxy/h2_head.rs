//! Heads and trailers of HTTP/2: a request head as it was written for the service, and what of an answer may travel on.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING};

use super::framing::Framing;
use super::headers::{Fate, fate_of_request_field, fate_of_response_field};
use super::http_gate::MAX_FIELDS;
use super::limit_fields::is_limit_field;

/// What `:scheme` says (RFC 9113 §8.3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    /// Plaintext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Whether a caller takes trailers.
///
/// > The TE header field MAY be present in an HTTP/2 request; when it is, it MUST NOT contain any value other than
/// > "trailers". — RFC 9113 §8.2.2
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Te {
    /// It did not say so.
    Absent,
    /// It did.
    Trailers,
}

impl Te {
    /// What the caller said.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if headers.get(TE).is_some_and(|value| value == "trailers") { Self::Trailers } else { Self::Absent }
    }
}

/// The head in `bytes`, which was written for a service that speaks HTTP/1, as one of HTTP/2. There is one writer of heads,
/// so that both kinds of service are told the same; and how the body behind it is framed. Nothing if it is none.
pub(super) fn request(bytes: &[u8], scheme: Scheme, te: Te) -> Option<(http::Request<()>, Framing)> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS + OF_OURS];
    let mut parsed = httparse::Request::new(&mut storage);
    let complete = parsed.parse(bytes).is_ok_and(|status| status.is_complete());
    let (method, path) = (parsed.method?, parsed.path?);
    let host = parsed.headers.iter().find(|field| field.name == "host")?;
    let uri = http::Uri::builder().scheme(scheme.as_str()).authority(host.value).path_and_query(path);
    let mut request = http::Request::builder().method(method).uri(uri.build().ok()?).body(()).ok()?;
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    let mut framing = Framing::Length(0);
    for field in parsed.headers.iter() {
        let (name, value) = pair(field.name, field.value)?;
        if name == CONTENT_LENGTH {
            framing = Framing::Length(value.to_str().ok()?.parse().ok()?);
        }
        if name == TRANSFER_ENCODING {
            framing = Framing::Chunked;
        } else if name != HOST {
            headers.append(name, value);
        }
    }
    if te == Te::Trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    complete.then_some((request, framing))
}

/// Fields that the agent adds to those of a caller.
const OF_OURS: usize = 32;

fn pair(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// Calls `each` for every field of an answer that may travel on. Its length does: HTTP/2 has held the body against it.
pub(super) fn each_response_field(
    headers: &HeaderMap,
    limits: Limited,
    mut each: impl FnMut(&HeaderName, &HeaderValue),
) {
    for (name, value) in headers {
        let passes = *name == CONTENT_LENGTH || fate_of_response_field(name.as_str()) == Fate::Pass;
        if passes && !limits.replaces(name) {
            each(name, value);
        }
    }
}

/// Whether the agent itself says how the caller's quotas stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Limited {
    /// It does not.
    No,
    /// It does, in place of the service.
    Yes,
}

impl Limited {
    fn replaces(self, name: &HeaderName) -> bool {
        self == Self::Yes && is_limit_field(name.as_str())
    }
}

/// What of a caller's trailers the service gets. None of them may say what only a head may, or what only the agent may.
pub(super) fn request_trailers(trailers: HeaderMap, api_key_header: &str) -> HeaderMap {
    let passes = |name: &HeaderName, value: &HeaderValue| {
        fate_of_request_field(name.as_str(), value.as_bytes()) == Fate::Pass
            && !name.as_str().eq_ignore_ascii_case(api_key_header)
            && !belongs_to_head(name.as_str())
    };
    kept(trailers, passes)
}

/// What of a service's trailers the caller gets.
pub(super) fn response_trailers(trailers: HeaderMap) -> HeaderMap {
    kept(trailers, |name, _| {
        fate_of_response_field(name.as_str()) == Fate::Pass && !belongs_to_head(name.as_str())
    })
}

fn kept(trailers: HeaderMap, passes: impl Fn(&HeaderName, &HeaderValue) -> bool) -> HeaderMap {
    if trailers.iter().all(|(name, value)| passes(name, value)) {
        return trailers;
    }
    let passing = trailers.iter().filter(|(name, value)| passes(name, value));
    passing.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// > Many fields cannot be processed outside the header section because their evaluation is necessary prior to receiving the
/// > content, such as those that describe message framing, routing, authentication, request modifiers, response controls, or
/// > content format. — RFC 9110 §6.5.1
pub(super) fn belongs_to_head(name: &str) -> bool {
    matches!(
        name,
        "age"
            | "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-range"
            | "content-type"
            | "cookie"
            | "date"
            | "expect"
            | "expires"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "location"
            | "max-forwards"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "signature"
            | "signature-input"
            | "traceparent"
            | "tracestate"
            | "vary"
            | "warning"
            | "www-authenticate"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        fields.iter().map(pair).collect()
    }

    #[test]
    fn the_head_for_a_service_is_the_same_in_both_versions() {
        let head =
            b"POST /a.B/C?d=e HTTP/1.1\r\nhost: h:1\r\nx: y\r\nx: z\r\ntransfer-encoding: chunked\r\n\r\n";

        let (read, framing) = request(head, Scheme::Http, Te::Trailers).unwrap();

        assert_eq!(
            (read.method().as_str(), read.uri().to_string().as_str()),
            ("POST", "http://h:1/a.B/C?d=e")
        );
        assert_eq!(*read.headers(), map(&[("x", "y"), ("x", "z"), ("te", "trailers")]));
        assert_eq!(framing, Framing::Chunked);
        let framing = |lines: &str| {
            let head = format!("POST / HTTP/1.1\r\nhost: h\r\n{lines}\r\n");
            request(head.as_bytes(), Scheme::Https, Te::Absent).unwrap().1
        };
        assert_eq!((framing(""), framing("content-length: 7\r\n")), (Framing::Length(0), Framing::Length(7)));
        assert!(request(b"POST / HTTP/1.1\r\nhost: h\r\n", Scheme::Http, Te::Absent).is_none());
    }

    #[test]
    fn trailers_say_nothing_that_only_a_head_or_the_agent_may_say() {
        let sent = map(&[
            ("grpc-status", "0"),
            ("x-sum", "1"),
            ("x-postern-app", "root"),
            ("x_forwarded_client_cert", "By=x"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("content-length", "7"),
            ("transfer-encoding", "chunked"),
            ("x-my-key", "k"),
            ("x-note", "pstn_sk_0000000000A1_x"),
        ]);

        assert_eq!(request_trailers(sent, "x-my-key"), map(&[("grpc-status", "0"), ("x-sum", "1")]));
        let answered =
            map(&[("grpc-status", "0"), ("connection", "x"), ("x-request-id", "i"), ("set-cookie", "a")]);
        assert_eq!(response_trailers(answered), map(&[("grpc-status", "0")]));
    }
}
