//! gRPC over HTTP/2: how its requests are known, and how they are refused.

use std::fmt::Write as _;

use bytes::Bytes;
use h2::server::SendResponse;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::proxy_status::PROXY_STATUS;
use super::refuse::Answer;
use super::request_id::RequestId;

/// Whether a request with these fields is a gRPC call: its media type is `application/grpc`, with a message format behind a
/// `+` or without. gRPC-Web is another protocol.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let Some((name, rest)) = media_type.split_at_checked(MEDIA_TYPE.len()) else { return false };
    name.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

const MEDIA_TYPE: &str = "application/grpc";

/// Answers a call without a service: as a response of trailers only.
///
/// > Trailers-Only is permitted for calls that produce an immediate error. — PROTOCOL-HTTP2.md, "Responses"
pub(super) fn refuse(respond: &mut SendResponse<Bytes>, answer: &Answer, id: &RequestId) {
    let mut response = http::Response::builder()
        .status(200)
        .header(CONTENT_TYPE, MEDIA_TYPE)
        .header("grpc-status", u16::from(status(answer.status)))
        .header("grpc-message", message(answer.sentence))
        .header("x-postern-code", answer.code)
        .header("x-request-id", id.as_str())
        .header(PROXY_STATUS, answer.proxy_status());
    for (name, value) in answer.challenge() {
        response = response.header(name, &*value);
    }
    for (name, value) in answer.notice.iter().flat_map(|notice| notice.fields()) {
        response = response.header(name, value);
    }
    if let Ok(response) = response.body(()) {
        // The caller may be gone; then nobody needs the answer.
        drop(respond.send_response(response, true));
    }
}

/// The status code of gRPC for an HTTP status (doc/http-grpc-status-mapping.md, but that who has used up his quota is told
/// so: 8, RESOURCE_EXHAUSTED).
const fn status(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 => 8,
        502..=504 => 14,
        _ => 2,
    }
}

/// > Percent-Encoded → 1*(Percent-Byte-Unencoded / Percent-Byte-Encoded); Percent-Byte-Unencoded → 1*( %x20-%x24 / %x26-%x7E )
/// > ; space and VCHAR, except % — PROTOCOL-HTTP2.md, "Responses"
fn message(sentence: &str) -> String {
    let mut encoded = String::with_capacity(sentence.len());
    for byte in sentence.bytes() {
        if matches!(byte, b' '..=b'$' | b'&'..=b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let written = write!(encoded, "%{byte:02X}");
            debug_assert!(written.is_ok());
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_media_type() {
        let is_call = |text: &'static str| {
            let value = http::HeaderValue::from_static(text);
            is_call(&HeaderMap::from_iter([(CONTENT_TYPE, value)]))
        };

        for call in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(is_call(call), "{call}");
        }
        for other in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert!(!is_call(other), "{other}");
        }
    }

    #[test]
    fn every_status_has_its_counterpart() {
        let pairs =
            [(400, 13), (401, 16), (403, 7), (404, 12), (429, 8), (502, 14), (503, 14), (504, 14), (405, 2)];
        for (http, grpc) in pairs {
            assert_eq!(status(http), grpc, "{http}");
        }
    }

    #[test]
    fn a_message_is_one_visible_line() {
        assert_eq!(message("No: 50 %\r\né~"), "No: 50 %25%0D%0A%C3%A9~");
    }
}
