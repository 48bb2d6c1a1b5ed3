//! Answers that the agent gives itself: problem documents (RFC 9457) with a stable code, and nothing that helps an attacker.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::limit_fields::Notice;
use super::request_id::RequestId;
use super::response::{field, number_into};
use crate::authz::{Denial, No};
use crate::clock::Timestamp;
use crate::credential::token::TokenTrust;
use crate::credential::{Refusal, SignatureTerms};
use crate::registry::{Accepts, CredentialKind, KindSet};

/// An answer without a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) sentence: &'static str,
    /// What would have been accepted, for `WWW-Authenticate`.
    pub(super) challenge: Challenge,
    /// What a signature would have to be like, where one would be accepted.
    invitation: Option<Invitation>,
    /// When to try again, where that is all that is needed.
    pub(super) notice: Option<Box<Notice>>,
}

/// What helps a caller to sign.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Invitation {
    /// The value of `Accept-Signature` (RFC 9421 §5.1).
    accept: Arc<str>,
    /// The agent's time, for `Date`: the caller's clock may be wrong.
    now: Timestamp,
}

/// What a 401 asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Challenge {
    /// Only a client certificate would do.
    Certificate,
    /// Something in the headers would do: each of these kinds has a part in it at every level.
    Headers(KindSet),
    /// It is no 401.
    #[default]
    None,
}

impl Answer {
    /// An answer that is no matter of authentication.
    pub(super) const fn new(status: u16, code: &'static str, sentence: &'static str) -> Self {
        Self { status, code, sentence, challenge: Challenge::None, invitation: None, notice: None }
    }

    /// The gate's no, in a place that `levels` guard.
    pub(super) fn from_no<'a>(no: &No<'_>, levels: impl IntoIterator<Item = Option<&'a Accepts>>) -> Self {
        let answer = Self::new(no.status(), no.code(), no.sentence());
        match no {
            No::Limited { shortage, .. } => answer.with_notice(Notice::of(shortage)),
            No::Denied { denial: Denial::StepUpRequired, .. } => Self {
                challenge: Challenge::Headers(KindSet::EMPTY.with(CredentialKind::UserToken)),
                ..answer
            },
            No::Denied { .. } | No::Refused(_) => answer.with_challenge(levels),
        }
    }

    /// The same, with when to try again.
    pub(super) fn with_notice(mut self, notice: Notice) -> Self {
        self.notice = Some(Box::new(notice));
        self
    }

    /// A refusal, in a place that `levels` guard.
    pub(super) fn from_refusal<'a>(
        refusal: Refusal,
        levels: impl IntoIterator<Item = Option<&'a Accepts>>,
    ) -> Self {
        Self::new(refusal.status(), refusal.code(), refusal.sentence()).with_challenge(levels)
    }

    fn with_challenge<'a>(mut self, levels: impl IntoIterator<Item = Option<&'a Accepts>>) -> Self {
        if self.status == 401 {
            let levels: Vec<&Accepts> = levels.into_iter().flatten().collect();
            let everywhere = |kind: CredentialKind| {
                levels.iter().all(|accepts| accepts.iter().any(|kinds| kinds.contains(kind)))
            };
            let of_headers =
                CredentialKind::ALL.into_iter().filter(|&kind| Refusal::challenge(kind).is_some());
            let kinds: KindSet = of_headers.filter(|&kind| everywhere(kind)).collect();
            self.challenge =
                if kinds.is_empty() { Challenge::Certificate } else { Challenge::Headers(kinds) };
        }
        self
    }

    /// The same, without an invitation to send a token where nobody's tokens are believed.
    pub(super) fn by(mut self, tokens: &TokenTrust) -> Self {
        if let Challenge::Headers(kinds) = self.challenge
            && tokens.is_empty()
        {
            let is_token =
                |kind: CredentialKind| matches!(kind, CredentialKind::Token | CredentialKind::UserToken);
            let others: KindSet = kinds.iter().filter(|&kind| !is_token(kind)).collect();
            self.challenge =
                if others.is_empty() { Challenge::Certificate } else { Challenge::Headers(others) };
        }
        self
    }

    /// The same, with what a signature must be like if one would have been accepted.
    pub(super) fn with_terms(mut self, terms: &SignatureTerms, now: Timestamp) -> Self {
        if matches!(self.challenge, Challenge::Headers(kinds) if kinds.contains(CredentialKind::Signature)) {
            self.invitation = Some(Invitation { accept: Arc::clone(&terms.invitation), now });
        }
        if self.code == Refusal::ReplayMemoryFull.code() {
            // Nonces are forgotten every second.
            return self.with_notice(Notice::to_wait(Duration::from_secs(1)));
        }
        self
    }

    /// The problem document.
    pub(super) fn body(&self, request_id: &RequestId) -> String {
        let mut body = String::with_capacity(256);
        let violated: Vec<&str> = self.notice.iter().flat_map(|notice| notice.violated()).collect();
        let violated = match violated.as_slice() {
            [] => String::new(),
            names => format!(",\"violated-policies\":[\"{}\"]", names.join("\",\"")),
        };
        // Writing to a String cannot fail, and nothing in here comes from the caller but the id, which is harmless.
        let written = writeln!(
            body,
            "{{\"type\":\"{kind}\",\"title\":\"{sentence}\",\"status\":{status},\"code\":\"{code}\",\"request_id\":\"{id}\"{violated}}}",
            kind = self.problem_type(),
            code = self.code,
            sentence = self.sentence,
            status = self.status,
            id = request_id.as_str(),
        );
        debug_assert!(written.is_ok());
        body
    }

    /// The problem type; those that are registered go by their registered names.
    fn problem_type(&self) -> Cow<'static, str> {
        match self.code {
            "overloaded" => {
                Cow::Borrowed("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity")
            }
            "quota-exceeded" => {
                Cow::Borrowed("https://iana.org/assignments/http-problem-types#quota-exceeded")
            }
            code => Cow::Owned(format!("https://postern.invalid/problems/{code}")),
        }
    }

    /// The fields that say what would have been accepted, in lower case (RFC 9110 §11.6.1: a 401 carries at least one
    /// challenge). An API key's stands first: it is the one that callers know longest.
    pub(super) fn challenge(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let missing = [Refusal::MissingCredential.code(), Denial::StepUpRequired.code()];
        let failed = !missing.contains(&self.code);
        let mut fields = Vec::new();
        match self.challenge {
            Challenge::Headers(kinds) => {
                let schemes = [
                    (CredentialKind::ApiKey, kinds.contains(CredentialKind::ApiKey)),
                    (CredentialKind::Signature, kinds.contains(CredentialKind::Signature)),
                    // One scheme for both: who owns the token is not the caller's to say.
                    (
                        CredentialKind::Token,
                        kinds.contains(CredentialKind::Token) || kinds.contains(CredentialKind::UserToken),
                    ),
                ];
                for (kind, is_asked_for) in schemes {
                    let scheme = Refusal::challenge(kind).filter(|_| is_asked_for);
                    fields.extend(scheme.map(|scheme| match failed {
                        true => (CHALLENGE, Cow::Owned(format!("{scheme}, error=\"invalid_token\""))),
                        false => (CHALLENGE, Cow::Borrowed(scheme)),
                    }));
                }
            }
            Challenge::Certificate => fields.push((CHALLENGE, "ClientCertificate realm=\"postern\"".into())),
            Challenge::None => {}
        }
        if let Some(Invitation { accept, now }) = &self.invitation {
            fields.push(("accept-signature", Cow::Borrowed(accept)));
            fields.push(("date", now.to_http_date().into()));
        }
        fields
    }

    /// Writes the whole answer for an HTTP/1 caller.
    pub(super) fn write_http1(
        &self,
        out: &mut Vec<u8>,
        request_id: &RequestId,
        to_head_request: bool,
        keep_alive: bool,
    ) {
        let body = self.body(request_id);
        out.extend_from_slice(b"HTTP/1.1 ");
        number_into(out, u64::from(self.status));
        out.push(b' ');
        let reason =
            http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        out.extend_from_slice(reason.unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        field(out, "content-type", PROBLEM.as_bytes());
        field(out, "cache-control", b"no-store");
        field(out, "x-request-id", request_id.as_str().as_bytes());
        for (name, value) in self.challenge() {
            field(out, name, value.as_bytes());
        }
        for (name, value) in self.notice.iter().flat_map(|notice| notice.fields()) {
            field(out, name, &value);
        }
        out.extend_from_slice(b"content-length: ");
        number_into(out, u64::try_from(body.len()).unwrap_or(0));
        out.extend_from_slice(b"\r\n");
        if !keep_alive {
            field(out, "connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
        if !to_head_request {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

const CHALLENGE: &str = "www-authenticate";

/// > application/problem+json — RFC 9457 §3
pub(super) const PROBLEM: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_problem_document_with_a_challenge() {
        let answer = Answer::from_refusal(Refusal::MissingCredential, [None, None]);
        let id = RequestId::from_caller(b"id-of-request").unwrap();
        let mut out = Vec::new();

        answer.write_http1(&mut out, &id, false, true);

        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
        assert!(head.contains("www-authenticate: ApiKey realm=\"postern\"\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["code"], "missing-credential");
        assert_eq!(document["status"], 401);
        assert_eq!(document["request_id"], "id-of-request");
    }
}
