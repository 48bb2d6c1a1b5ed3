//! The strict reading of a service's response head, and its writing anew for the caller.

use std::rc::Rc;
use std::sync::Arc;

use super::framing::Framing;
use super::headers::{Fate, fate_of_response_field};
use super::http_gate::{MAX_FIELDS, Version};
use super::leaks::Leaks;
use super::limit_fields::is_limit_field;
use super::request_id::RequestId;
use super::trailers::{TrailerName, announced};

/// What a response head says about what follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) body: Framing,
    /// Whether the connection to the service may be used again.
    pub(super) keep_alive: bool,
    /// How many bytes the head took.
    pub(super) length: usize,
}

/// Why a response cannot be passed on; the service's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadResponse {
    #[error("the response head is malformed")]
    Head,
    #[error("the response head holds a secret of ours")]
    Leak,
    #[error("the response's length is ambiguous")]
    Length,
    #[error("the service switched protocols unasked")]
    Switched,
}

/// Reads the response head at the front of `unread`; `None` while it is incomplete.
///
/// # Errors
/// It is no response that can be passed on.
pub(super) fn read(unread: &[u8], to_head_request: bool) -> Result<Option<ResponseHead>, BadResponse> {
    read_or_switch(unread, to_head_request, None)
}

/// The same, where the service may go over to the protocol `upgrade`.
///
/// # Errors
/// It is no response that can be passed on.
pub(super) fn read_or_switch(
    unread: &[u8],
    to_head_request: bool,
    upgrade: Option<&str>,
) -> Result<Option<ResponseHead>, BadResponse> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut storage);
    let length = match response.parse(unread) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadResponse::Head),
    };
    let (Some(status @ FIRST_STATUS..), Some(minor)) = (response.code, response.version) else {
        return Err(BadResponse::Head);
    };
    if status == SWITCHING {
        let agreed = upgrade.is_some_and(|protocol| agrees(response.headers, protocol));
        let head = ResponseHead { status, body: Framing::Length(0), keep_alive: false, length };
        return if agreed { Ok(Some(head)) } else { Err(BadResponse::Switched) };
    }
    let bodiless = to_head_request || status < 200 || matches!(status, 204 | 304);
    let (mut close, mut keep) = (false, minor == 1);
    let (mut content_length, mut encoding) = (None, None);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            if content_length.replace(field.value).is_some_and(|earlier| earlier != field.value) {
                return Err(BadResponse::Length);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if encoding.replace(field.value).is_some() {
                return Err(BadResponse::Length);
            }
        } else if field.name.eq_ignore_ascii_case("connection") {
            let value = field.value.to_ascii_lowercase();
            close |= memchr::memmem::find(&value, b"close").is_some();
            keep |= memchr::memmem::find(&value, b"keep-alive").is_some();
        }
    }
    // Also where it only announces a body that does not follow: it travels on.
    let content_length =
        content_length.map(|digits| number(digits).ok_or(BadResponse::Length)).transpose()?;
    let body = match (encoding, content_length) {
        _ if bodiless => Framing::Length(0),
        (Some(_), Some(_)) => return Err(BadResponse::Length),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (Some(_), None) => return Err(BadResponse::Length),
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::Close,
    };
    // A service that announces a body where there can be none may send one, too.
    let announced = encoding.is_some() || content_length.is_some_and(|length| length != 0);
    let keep_alive = keep && !close && body != Framing::Close && !(status == 204 && announced);
    Ok(Some(ResponseHead { status, body, keep_alive, length }))
}

/// The service goes over to the protocol that it was asked for (RFC 9110 §15.2.2).
pub(super) const SWITCHING: u16 = 101;

/// Whether a 101 is to `protocol` and nothing else, and leaves no doubt about where its head ends.
fn agrees(fields: &[httparse::Header<'_>], protocol: &str) -> bool {
    let named = |name: &'static str| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let mut protocols = named("upgrade");
    let agreed = protocols.next().is_some_and(|field| field.value.eq_ignore_ascii_case(protocol.as_bytes()));
    let announces_body = named("content-length").chain(named("transfer-encoding")).next().is_some();
    agreed && protocols.next().is_none() && !announces_body
}

/// > All valid status codes are within the range of 100 to 599, inclusive. — RFC 9110 §15
///
/// What is below would be written with fewer than three digits.
const FIRST_STATUS: u16 = 100;

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// How the body is framed for a caller of this version.
pub(super) fn framing_for(caller: Version, head: &ResponseHead) -> Framing {
    match (head.body, caller) {
        (Framing::Length(length), _) => Framing::Length(length),
        (Framing::Chunked | Framing::Close, Version::Http10) => Framing::Close,
        (Framing::Chunked | Framing::Close, Version::Http11 | Version::Http2) => Framing::Chunked,
    }
}

/// Calls `each` for every field of the head in `bytes` that may travel on. A `Content-Length` travels where `length` says
/// so: in answers to HEAD and in 304, which announce a body that does not follow.
pub(super) fn each_field(bytes: &[u8], length: ContentLength, mut each: impl FnMut(&str, &[u8])) {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut storage);
    if response.parse(bytes).is_err() {
        return;
    }
    let nominated = |name: &str| {
        response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("connection")).any(|field| {
            field
                .value
                .split(|&byte| byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        })
    };
    let mut is_announced = false;
    for field in response.headers.iter() {
        // Two that are equal were read as one.
        let announced = length == ContentLength::Announced
            && field.name.eq_ignore_ascii_case("content-length")
            && !std::mem::replace(&mut is_announced, true);
        if (announced || fate_of_response_field(field.name) == Fate::Pass) && !nominated(field.name) {
            each(field.name, field.value);
        }
    }
}

/// Those of the trailers that the head in `bytes` announces that are `allowed`.
pub(super) fn announced_trailers(bytes: &[u8], allowed: &[TrailerName]) -> Option<String> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut storage);
    response.parse(bytes).ok()?;
    let fields = response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("trailer"));
    announced(fields.map(|field| field.value), allowed)
}

/// Whether a `Content-Length` field is passed on as the service wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ContentLength {
    /// It describes a body that is not sent.
    Announced,
    /// The agent frames the body itself.
    Written,
}

/// Which of the two it is for this answer.
pub(super) const fn content_length(head: &ResponseHead, to_head_request: bool) -> ContentLength {
    if to_head_request || head.status == 304 { ContentLength::Announced } else { ContentLength::Written }
}

/// Writes the head for an HTTP/1 caller into `out`.
pub(super) fn write_http1(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &ResponseHead,
    caller: &Caller<'_>,
    request_id: &RequestId,
) {
    let framing = framing_for(caller.version, head);
    out.extend_from_slice(b"HTTP/1.1 ");
    number_into(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(reason(bytes));
    out.extend_from_slice(b"\r\n");
    let length = content_length(head, caller.to_head_request);
    each_field(bytes, length, |name, value| {
        if caller.limits.is_empty() || !is_limit_field(name) {
            field(out, name, value);
        }
    });
    field(out, "x-request-id", request_id.as_str().as_bytes());
    if let Some(protocol) = caller.upgrade.filter(|_| head.status == SWITCHING) {
        field(out, "connection", b"Upgrade");
        field(out, "upgrade", protocol.as_bytes());
    }
    if head.status >= 200 {
        out.extend_from_slice(caller.limits);
        match framing {
            _ if length == ContentLength::Announced || head.status == 204 => {}
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                number_into(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => {
                if let Some(names) = caller.trailers.and_then(|allowed| announced_trailers(bytes, allowed)) {
                    field(out, "trailer", names.as_bytes());
                }
                field(out, "transfer-encoding", b"chunked");
            }
            Framing::Close => {}
        }
        if !caller.keep_alive || framing == Framing::Close {
            field(out, "connection", b"close");
        } else if caller.version == Version::Http10 {
            field(out, "connection", b"keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What the writing of a response must know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) to_head_request: bool,
    /// Field lines that tell how the caller's quotas stand.
    pub(super) limits: &'a [u8],
    /// What is found in the answer, where it is looked through.
    pub(super) leaks: Option<&'a Rc<Leaks>>,
    /// What the connection goes over to, if the service agrees.
    pub(super) upgrade: Option<&'a str>,
    /// What may follow the answer's body, if it takes that.
    pub(super) trailers: Option<&'a Arc<[TrailerName]>>,
}

/// Appends a field line.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number.
pub(super) fn number_into(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn reason(bytes: &[u8]) -> &[u8] {
    // A service may end its lines in a bare LF; what stands behind it is a field, with a fate of its own.
    let line_end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(0);
    bytes.get(13..line_end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Caller<'_> = Caller {
        version: Version::Http11,
        keep_alive: true,
        to_head_request: false,
        limits: b"",
        leaks: None,
        upgrade: None,
        trailers: None,
    };

    fn written(wire: &str, caller: Caller<'_>) -> String {
        let head = read(wire.as_bytes(), caller.to_head_request).unwrap().unwrap();
        let id = RequestId::from_caller(b"id-of-request").unwrap();
        let mut out = Vec::new();
        write_http1(&mut out, &wire.as_bytes()[..head.length], &head, &caller, &id);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_is_framed_anew_and_stripped_of_what_ends_at_this_hop() {
        let wire = "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nX: y\r\n\r\nok";

        assert_eq!(
            written(wire, KEEP),
            "HTTP/1.1 200 Fine\r\nX: y\r\nx-request-id: id-of-request\r\ncontent-length: 2\r\n\r\n"
        );
    }

    #[test]
    fn an_old_service_becomes_chunked_for_a_new_caller_and_closes_for_an_old_one() {
        let wire = "HTTP/1.0 200 OK\r\n\r\n";
        let old = Caller { version: Version::Http10, ..KEEP };

        assert!(written(wire, KEEP).ends_with("transfer-encoding: chunked\r\n\r\n"));
        assert!(written(wire, old).ends_with("connection: close\r\n\r\n"));
    }

    #[test]
    fn an_answer_to_head_announces_a_length_and_has_no_body() {
        let caller = Caller { to_head_request: true, ..KEEP };
        let wire = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n";

        assert_eq!(read(wire.as_bytes(), true).unwrap().unwrap().body, Framing::Length(0));
        assert_eq!(written(wire, caller).matches("Content-Length: 77").count(), 1);
        assert!(!written(wire, caller).contains("content-length: 0"));
    }

    #[test]
    fn a_length_that_is_announced_is_one_number() {
        let caller = Caller { to_head_request: true, ..KEEP };
        let twice = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\nContent-Length: 77\r\n\r\n";
        let none = "HTTP/1.1 200 OK\r\nContent-Length: +77\r\n\r\n";

        assert_eq!(written(twice, caller).matches("Content-Length").count(), 1);
        assert_eq!(read(none.as_bytes(), true), Err(BadResponse::Length));
        assert_eq!(read(none.replace("200", "304").as_bytes(), false), Err(BadResponse::Length));
    }

    #[test]
    fn what_the_agent_says_of_limits_replaces_what_the_service_says() {
        let wire = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nRateLimit: \"x\";r=1;t=1\r\n\r\n";
        let limited = Caller { limits: b"ratelimit: \"product:a\";r=7;t=60\r\n", ..KEEP };

        assert!(written(wire, KEEP).contains("RateLimit: \"x\""));
        assert!(!written(wire, limited).contains("\"x\""));
        assert!(written(wire, limited).contains("ratelimit: \"product:a\";r=7;t=60\r\n"));
    }

    #[test]
    fn ambiguous_lengths_are_the_services_fault() {
        for wire in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert_eq!(read(wire.as_bytes(), false), Err(BadResponse::Length), "{wire}");
        }
        assert_eq!(read(b"HTTP/1.1 101 Go\r\n\r\n", false), Err(BadResponse::Switched));
        assert_eq!(read(b"nonsense\r\n\r\n", false), Err(BadResponse::Head));
        assert_eq!(read(b"HTTP/1.1 011 A\r\n\r\n", false), Err(BadResponse::Head));
    }

    #[test]
    fn a_status_line_ends_at_its_first_line_end() {
        let wire = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n";

        let written = written(wire, KEEP);

        assert!(written.starts_with("HTTP/1.1 200 OK\r\nX: y\r\n"), "{written}");
        assert!(!written.contains("Transfer-Encoding"), "{written}");
    }

    #[test]
    fn one_close_ends_the_connection_whatever_else_is_said() {
        for wire in [
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            // Whatever follows a head that has no body is not the next answer.
            "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(!read(wire.as_bytes(), false).unwrap().unwrap().keep_alive, "{wire}");
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut out = Vec::new();
        for number in [0, 7, 10, 4096, u64::MAX] {
            number_into(&mut out, number);
            out.push(b' ');
        }
        assert_eq!(out, b"0 7 10 4096 18446744073709551615 ");
    }
}
