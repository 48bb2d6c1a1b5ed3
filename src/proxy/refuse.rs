//! Answers that the agent gives itself: problem documents (RFC 9457) with a stable code, and nothing that helps an attacker.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{FAULT, Fault};
use super::limit_fields::Notice;
use super::proxy_status::{PROXY_STATUS, ProxyError};
use super::request_id::RequestId;
use super::response::{field, number_into};
use super::settings::ErrorFormat;
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
    /// What was presented instead.
    presented: KindSet,
    /// What a signature would have to be like, where one would be accepted: the value of `Accept-Signature` (RFC 9421 §5.1).
    invitation: Option<Arc<str>>,
    /// The agent's time, for `Date`, where the caller's clock may be the reason.
    told_at: Option<Timestamp>,
    /// When to try again, where that is all that is needed.
    pub(super) notice: Option<Box<Notice>>,
    /// The same as Apigee says it, where callers are used to that.
    fault: Option<Fault>,
    /// What went wrong on the way, where more is known of it than code and status say.
    error: Option<ProxyError>,
}

/// What a 401 asks for, and a 403 that another credential could avert.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Challenge {
    /// Only a client certificate would do.
    Certificate,
    /// Something in the headers would do: each of these kinds has a part in it at every level.
    Headers(KindSet),
    /// No matter of who it is.
    #[default]
    None,
    /// These scopes, separated by spaces, of a credential of one of these kinds, which the caller used.
    Scopes(KindSet, Box<str>),
}

/// Where a caller is refused, and with what in its hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The levels that guard it, each with what it accepts.
    pub(super) levels: [Option<&'a Accepts>; 2],
    /// What the caller presented.
    pub(super) presented: KindSet,
    /// What signatures must be like.
    pub(super) signatures: &'a SignatureTerms,
    /// By whose word tokens are believed: nobody is invited to send one where that is nobody's.
    pub(super) tokens: &'a TokenTrust,
    /// How callers of the service are told.
    pub(super) format: ErrorFormat,
    /// When it is.
    pub(super) now: Timestamp,
}

impl Answer {
    /// An answer that is no matter of authentication.
    pub(super) const fn new(status: u16, code: &'static str, sentence: &'static str) -> Self {
        Self {
            status,
            code,
            sentence,
            challenge: Challenge::None,
            presented: KindSet::EMPTY,
            invitation: None,
            told_at: None,
            notice: None,
            fault: None,
            error: None,
        }
    }

    /// The same, with what went wrong on the way.
    pub(super) const fn because(mut self, error: ProxyError) -> Self {
        self.error = Some(error);
        self
    }

    /// Why it comes from the agent: the value of `Proxy-Status` (RFC 9209).
    pub(super) fn proxy_status(&self) -> String {
        self.error.unwrap_or_else(|| ProxyError::of(self.code, self.status)).value(self.code)
    }

    /// The gate's no.
    pub(super) fn from_no(no: &No<'_>, place: &Place<'_>) -> Self {
        let answer = Self::new(no.status(), no.code(), no.sentence()).in_format(place.format);
        match no {
            No::Limited { shortage, .. } => answer.with_notice(Notice::of(shortage)),
            No::Denied { denial, principal, operation } => {
                let scopes = operation.map_or(&[][..], |operation| &operation.scopes);
                answer.denied(*denial, principal.kinds(), scopes, place)
            }
            No::Refused(_) => answer.with_challenge(place),
        }
    }

    /// The same, to a caller that was proven by these `kinds`, where the operation asks for `scopes`.
    fn denied(self, denial: Denial, kinds: KindSet, scopes: &[String], place: &Place<'_>) -> Self {
        if denial == Denial::StepUpRequired {
            let user = KindSet::EMPTY.with(CredentialKind::UserToken);
            let nobody = place.tokens.is_empty();
            Self { challenge: if nobody { Challenge::Certificate } else { Challenge::Headers(user) }, ..self }
        } else if denial == Denial::InsufficientScope && !scopes.is_empty() {
            Self { challenge: Challenge::Scopes(kinds, scopes.join(" ").into()), ..self }
        } else {
            self.with_challenge(place)
        }
    }

    /// A refusal.
    pub(super) fn from_refusal(refusal: Refusal, place: &Place<'_>) -> Self {
        let answer = Self::new(refusal.status(), refusal.code(), refusal.sentence());
        answer.in_format(place.format).with_challenge(place)
    }

    /// The scopes that were asked for, where one of them was not in force.
    pub(super) fn missing_scopes(&self) -> impl Iterator<Item = &str> {
        let scopes = match &self.challenge {
            Challenge::Scopes(_, scopes) => scopes,
            Challenge::Certificate | Challenge::Headers(_) | Challenge::None => "",
        };
        scopes.split_ascii_whitespace()
    }

    /// The same, with when to try again.
    pub(super) fn with_notice(mut self, notice: Notice) -> Self {
        self.notice = Some(Box::new(notice));
        self
    }

    /// The same as callers of a service are used to hear it.
    pub(super) fn in_format(mut self, format: ErrorFormat) -> Self {
        if format == ErrorFormat::Apigee {
            let fault = Fault::of(self.code);
            self.status = fault.status.unwrap_or(self.status);
            self.fault = Some(fault);
        }
        self
    }

    fn with_challenge(mut self, place: &Place<'_>) -> Self {
        if self.status == 401 {
            let everywhere = |kind: CredentialKind| {
                let mut levels = place.levels.into_iter().flatten();
                levels.all(|accepts| accepts.iter().any(|kinds| kinds.contains(kind)))
            };
            let believed = |kind: CredentialKind| !place.tokens.is_empty() || !is_token(kind);
            let of_headers = CredentialKind::ALL
                .into_iter()
                .filter(|&kind| Refusal::challenge(kind).is_some() && believed(kind));
            let kinds: KindSet = of_headers.filter(|&kind| everywhere(kind)).collect();
            self.challenge =
                if kinds.is_empty() { Challenge::Certificate } else { Challenge::Headers(kinds) };
            self.presented = place.presented;
            self.told_at = Some(place.now);
            if kinds.contains(CredentialKind::Signature) {
                self.invitation = Some(Arc::clone(&place.signatures.invitation));
            }
        }
        if self.code == Refusal::ReplayMemoryFull.code() {
            // Nonces are forgotten every second.
            return self.with_notice(Notice::to_wait(Duration::from_secs(1)));
        }
        self
    }

    /// What the body is.
    pub(super) const fn media_type(&self) -> &'static str {
        if self.fault.is_some() { FAULT } else { PROBLEM }
    }

    /// The body: a problem document, or what takes its place.
    pub(super) fn body(&self, request_id: &RequestId) -> String {
        match self.fault {
            Some(fault) => self.fault_body(fault),
            None => self.problem(request_id),
        }
    }

    fn fault_body(&self, fault: Fault) -> String {
        let errorcode = match fault.errorcode {
            Some(errorcode) => Cow::Borrowed(errorcode),
            None => Cow::Owned(format!("postern.{}", self.code)),
        };
        let faultstring = fault.faultstring.unwrap_or(self.sentence);
        format!(
            "{{\"fault\":{{\"faultstring\":\"{faultstring}\",\"detail\":{{\"errorcode\":\"{errorcode}\"}}}}}}"
        )
    }

    /// The problem document.
    fn problem(&self, request_id: &RequestId) -> String {
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
    ///
    /// > insufficient_scope: … The resource server SHOULD respond with the HTTP 403 (Forbidden) status code and MAY include
    /// > the "scope" attribute with the scope necessary to access the protected resource. — RFC 6750 §3.1
    ///
    /// > If the request lacks any authentication information […], the resource server SHOULD NOT include an error code or
    /// > other error information. — RFC 6750 §3.1
    ///
    /// So only the scheme of what was presented says what is wrong with it.
    pub(super) fn challenge(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields = Vec::new();
        match &self.challenge {
            Challenge::Headers(kinds) => {
                fields.extend(schemes(*kinds).map(|(kind, scheme)| match self.error(kind) {
                    Some(error) => (CHALLENGE, Cow::Owned(format!("{scheme}, {error}"))),
                    None => (CHALLENGE, Cow::Borrowed(scheme)),
                }));
            }
            Challenge::Scopes(kinds, scopes) => fields.extend(schemes(*kinds).map(|(_, scheme)| {
                let value = format!("{scheme}, error=\"insufficient_scope\", scope=\"{scopes}\"");
                (CHALLENGE, Cow::Owned(value))
            })),
            Challenge::Certificate => fields.push((CHALLENGE, "ClientCertificate realm=\"postern\"".into())),
            Challenge::None => {}
        }
        fields.extend(self.invitation.as_ref().map(|accept| ("accept-signature", Cow::Borrowed(&**accept))));
        fields.extend(self.told_at.map(|at| ("date", Cow::Owned(at.to_http_date()))));
        fields
    }

    /// What is wrong with what was presented in the scheme of `kind`, if anything is. Only who has proven to hold it is told
    /// more than that.
    fn error(&self, kind: CredentialKind) -> Option<Cow<'static, str>> {
        let same_scheme = |&one: &CredentialKind| one == kind || is_token(one) && is_token(kind);
        let nothing_wrong = [Refusal::MissingCredential.code(), Denial::StepUpRequired.code()];
        if !self.presented.iter().any(|one| same_scheme(&one)) || nothing_wrong.contains(&self.code) {
            None
        } else if self.code == Refusal::InvalidCredential.code() {
            Some(Cow::Borrowed("error=\"invalid_token\""))
        } else {
            Some(Cow::Owned(format!("error=\"invalid_token\", error_description=\"{}\"", self.sentence)))
        }
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
        field(out, "content-type", self.media_type().as_bytes());
        field(out, "cache-control", b"no-store");
        field(out, "x-request-id", request_id.as_str().as_bytes());
        field(out, PROXY_STATUS, self.proxy_status().as_bytes());
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

/// The authentication schemes of those of `kinds` that travel in headers, each with a kind that it is for.
fn schemes(kinds: KindSet) -> impl Iterator<Item = (CredentialKind, &'static str)> {
    // One scheme for both sorts of token: who owns it is not the caller's to say.
    let of_headers = [
        (CredentialKind::ApiKey, kinds.contains(CredentialKind::ApiKey)),
        (CredentialKind::Signature, kinds.contains(CredentialKind::Signature)),
        (CredentialKind::Token, kinds.iter().any(is_token)),
    ];
    let named = of_headers.into_iter().filter(|(_, named)| *named);
    named.filter_map(|(kind, _)| Some((kind, Refusal::challenge(kind)?)))
}

/// Whether it travels as a bearer token.
const fn is_token(kind: CredentialKind) -> bool {
    matches!(kind, CredentialKind::Token | CredentialKind::UserToken)
}

const CHALLENGE: &str = "www-authenticate";

/// > application/problem+json — RFC 9457 §3
const PROBLEM: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::token::OwnIssuer;
    use crate::credential::{NonceMemory, SignatureRules};

    const GOLDEN: &str = include_str!("refuse_golden.txt");

    fn terms() -> (SignatureTerms, TokenTrust) {
        let nonces = Arc::new(NonceMemory::new(1, Timestamp::FLOOR));
        let own = OwnIssuer::new("https://postern.test", []);
        (SignatureTerms::new(SignatureRules::default(), nonces), TokenTrust::default().with_own(own))
    }

    fn place((signatures, tokens): &(SignatureTerms, TokenTrust)) -> Place<'_> {
        let (levels, now) = ([None, None], Timestamp::FLOOR);
        Place { levels, presented: KindSet::EMPTY, signatures, tokens, format: ErrorFormat::Problem, now }
    }

    fn text(answer: &Answer) -> String {
        let id = RequestId::from_caller(b"id-of-request").unwrap();
        let mut out = Vec::new();
        answer.write_http1(&mut out, &id, false, true);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_a_problem_document_with_a_challenge() {
        let answer = Answer::from_refusal(Refusal::MissingCredential, &place(&terms()));

        let text = text(&answer);

        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
        assert!(head.contains("www-authenticate: ApiKey realm=\"postern\"\r\n"), "{head}");
        assert!(head.contains("date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["code"], "missing-credential");
        assert_eq!(document["status"], 401);
        assert_eq!(document["request_id"], "id-of-request");
    }

    /// All answers to a caller with a key, a signature and a token, in both formats. What is short is told elsewhere.
    fn all_answers() -> String {
        let terms = terms();
        let presented: KindSet =
            [CredentialKind::ApiKey, CredentialKind::Signature, CredentialKind::Token].into_iter().collect();
        let scopes = ["orders:read".to_owned(), "orders:write".to_owned()];
        let mut golden = String::new();
        let mut tell = |answer: Answer| {
            golden.push_str(&text(&answer).replace('\r', "").replace("\n\n", "\n"));
            golden.push_str(if golden.ends_with('\n') { "\n" } else { "\n\n" });
        };
        let formats = [ErrorFormat::Problem, ErrorFormat::Apigee];
        for (refusal, format) in Refusal::ALL.into_iter().flat_map(|one| formats.map(|format| (one, format)))
        {
            tell(Answer::from_refusal(refusal, &Place { presented, format, ..place(&terms) }));
        }
        for (denial, format) in Denial::ALL.into_iter().flat_map(|one| formats.map(|format| (one, format))) {
            let place = Place { presented, format, ..place(&terms) };
            let answer = Answer::new(denial.status(), denial.code(), denial.sentence()).in_format(format);
            tell(answer.denied(denial, presented, &scopes, &place));
        }
        golden
    }

    #[test]
    fn every_no_is_told_in_both_formats_as_it_always_was() {
        let told = all_answers();

        assert!(told == GOLDEN, "what is told now:\n{told}");
    }

    #[test]
    fn only_the_scheme_of_what_was_presented_says_what_is_wrong() {
        let terms = terms();
        let challenges = |refusal, presented: &[CredentialKind]| {
            let presented = presented.iter().copied().collect();
            let answer = Answer::from_refusal(refusal, &Place { presented, ..place(&terms) });
            let fields = answer.challenge().into_iter().filter(|(name, _)| *name == CHALLENGE);
            fields.map(|(_, value)| value.into_owned()).collect::<Vec<_>>()
        };

        assert_eq!(
            challenges(Refusal::MissingCredential, &[]),
            ["ApiKey realm=\"postern\"", "Signature realm=\"postern\"", "Bearer realm=\"postern\""]
        );
        assert_eq!(
            challenges(Refusal::InvalidCredential, &[CredentialKind::ApiKey]),
            [
                "ApiKey realm=\"postern\", error=\"invalid_token\"",
                "Signature realm=\"postern\"",
                "Bearer realm=\"postern\""
            ]
        );
        // A user's token is no less of that scheme, and nothing is wrong with it where the app is missing.
        assert_eq!(
            challenges(Refusal::InvalidCredential, &[CredentialKind::UserToken]),
            [
                "ApiKey realm=\"postern\"",
                "Signature realm=\"postern\"",
                "Bearer realm=\"postern\", error=\"invalid_token\""
            ]
        );
        assert!(
            challenges(Refusal::MissingCredential, &[CredentialKind::UserToken])
                .iter()
                .all(|one| !one.contains("error"))
        );
        assert_eq!(
            challenges(Refusal::SignatureExpired, &[CredentialKind::Signature]),
            [
                "ApiKey realm=\"postern\"",
                "Signature realm=\"postern\", error=\"invalid_token\", error_description=\"The signature has expired; \
                 sign the request anew.\"",
                "Bearer realm=\"postern\""
            ]
        );
    }

    #[test]
    fn no_sentence_needs_to_be_escaped() {
        // > Values for the "error" and "error_description" attributes MUST NOT include characters outside the set
        // > %x20-21 / %x23-5B / %x5D-7E. — RFC 6750 §3
        let allowed = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        for sentence in
            Refusal::ALL.map(Refusal::sentence).into_iter().chain(Denial::ALL.map(Denial::sentence))
        {
            assert!(sentence.bytes().all(allowed), "{sentence}");
        }
    }
}
