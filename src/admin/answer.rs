//! What goes back over HTTP: JSON, text, or a problem document (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use crate::admin::StewardError;

/// Every answer is whole before it is sent.
pub(super) type Answer = Response<Full<Bytes>>;

/// Why not, for programs and for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) detail: String,
}

/// A value as JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => answer(status, "application/json", body),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", &error.to_string()),
    }
}

/// Text of some kind.
pub(super) fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    answer(status, kind, body.into_bytes())
}

/// A no.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Answer {
    let problem = Problem { status: status.as_u16(), code: code.to_owned(), detail: detail.to_owned() };
    // Three plain fields always are JSON.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    answer(status, "application/problem+json", body)
}

/// There is nothing of that name.
pub(super) fn not_found(path: &str) -> Answer {
    problem(StatusCode::NOT_FOUND, "not-found", &format!("there is nothing at {path}"))
}

/// There is, but not for that method.
pub(super) fn wrong_method(allowed: &'static str, method: &Method) -> Answer {
    let detail = format!("expected {allowed}, found {method}");
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &detail);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// The agent's own no.
pub(super) fn refusal(error: &StewardError) -> Answer {
    let (status, code) = match error {
        StewardError::Behind(_) => (StatusCode::CONFLICT, "left-behind"),
        StewardError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        StewardError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        StewardError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        StewardError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown"),
    };
    problem(status, code, &error.to_string())
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
