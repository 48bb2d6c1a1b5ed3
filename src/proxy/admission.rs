//! From a request head to a yes with the head that the upstream gets, or to an answer: one pass, no waiting.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::assertion::{self, Assertions};
use super::framing::Framing;
use super::headers::{Fate, fate_of_request_field, keys_in, names_access_token, names_api_key, visible};
use super::http_gate::{Head, is_nominated};
use super::limit_fields::Notice;
use super::refuse::{Answer, Place};
use super::request_id::{RequestId, RequestIds};
use super::response::{field, number_into};
use super::settings::ServiceSettings;
use super::snapshot::{Listener, Snapshot};
use super::trace::Trace;
use super::trailers::{self, TrailerName};
use super::upgrade::{self, UpgradeProtocol};
use super::worker::Worker;
use super::xfcc::{self, Shown, Written};
use crate::authz::{Ask, Door, No, Permit, Terms, Till, Toll, check};
use crate::clock::Timestamp;
use crate::credential::token::{Bearer, Token};
use crate::credential::{
    Content, ContentDigest, DigestCheck, Evidence, HeaderEvidence, Message, NonceUse, Refusal, Signed,
    authenticate, recognise,
};
use crate::identity::Subject;
use crate::limit::{Spike, Throttle};
use crate::pki::Verified;
use crate::registry::{Credential, CredentialKind, KindSet, Origin, PolicyPath};
use crate::telemetry::Call;

/// A caller from outside, with all that each of its requests inherits.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) listener: Arc<Listener>,
    pub(super) peer: SocketAddr,
    /// The name that it asked for in the handshake.
    pub(super) sni: Option<Box<str>>,
    /// Its certificate, if it showed one.
    pub(super) verified: Option<Arc<Verified>>,
    /// Field lines that are the same for every request of the connection.
    fields: Vec<u8>,
    /// Its certificate as services are told of it.
    written: Written,
    /// What services were told under our signature.
    assertions: Assertions,
}

impl Visitor {
    /// Someone who came in by `listener` from `peer`, asked for the name `sni`, and showed a certificate that was `verified`, or
    /// none.
    pub(super) fn new(
        listener: Arc<Listener>,
        peer: SocketAddr,
        sni: Option<&str>,
        verified: Option<Arc<Verified>>,
    ) -> Self {
        let mut fields = Vec::with_capacity(256);
        field(&mut fields, "x-forwarded-for", peer.ip().to_canonical().to_string().as_bytes());
        field(&mut fields, "x-forwarded-proto", b"https");
        if let Some(subject) = verified.as_ref().map(|verified| &verified.subject) {
            field(&mut fields, "x-postern-spiffe-id", subject.spiffe_id.as_str().as_bytes());
        }
        Self {
            listener,
            peer,
            sni: sni.map(Box::from),
            verified,
            fields,
            written: Written::default(),
            assertions: Assertions::default(),
        }
    }

    /// Its certificate, as services are told of it.
    fn shown(&self) -> Shown<'_> {
        Shown { by: &self.listener.own_id, verified: self.verified.as_deref(), written: &self.written }
    }

    /// It, as services are told of it under our signature.
    fn asserted(&self) -> assertion::Caller<'_> {
        let own_id = &self.listener.own_id;
        assertion::Caller { own_id, subject: self.subject(), known: &self.assertions }
    }

    /// What its certificate says, if it showed one.
    pub(super) fn subject(&self) -> Option<&Subject> {
        self.verified.as_ref().map(|verified| &verified.subject)
    }

    /// What the connection itself says of who calls.
    pub(super) fn evidence(&self) -> Evidence<'_> {
        let origin = Origin { address: Some(self.peer.ip()), sni: self.sni.as_deref() };
        Evidence { certificate: self.subject(), origin, ..Evidence::default() }
    }

    /// Whether its certificate is still believed.
    ///
    /// # Errors
    /// The code of the reason why not.
    pub(super) fn still_stands(&self, worker: &Worker) -> Result<(), &'static str> {
        let door = self.listener.settings.id.as_str();
        self.verified.as_ref().map_or(Ok(()), |verified| worker.still_believes(verified, door))
    }

    /// The SPIFFE ID of its certificate, or nothing.
    pub(super) fn spiffe_id(&self) -> &str {
        self.subject().map(|subject| subject.spiffe_id.as_str()).unwrap_or_default()
    }
}

/// A yes, with all that is needed to act on it.
#[derive(Debug)]
pub(super) struct Admission<'s> {
    pub(super) permit: Permit<'s>,
    pub(super) service: &'s Arc<ServiceSettings>,
    /// What the body must turn out to be, where the caller has signed it.
    pub(super) digest: Option<DigestCheck>,
    /// What the caller presented.
    pub(super) presented: KindSet,
    /// What the connection goes over to, if the service agrees.
    pub(super) upgrade: Option<&'s UpgradeProtocol>,
}

impl<'s> Admission<'s> {
    /// What the log says of it.
    pub(super) fn verdict(&self) -> Verdict<'s> {
        Verdict::of_permit(&self.permit, self.service.id.as_str(), self.presented)
    }
}

/// What the access log says of the decision.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict<'s> {
    pub(super) code: &'static str,
    pub(super) service: &'s str,
    pub(super) app: &'s str,
    pub(super) developer: &'s str,
    pub(super) product: &'s str,
    pub(super) operation: &'s str,
    pub(super) credential: (&'static str, &'s str),
    pub(super) presented: KindSet,
    /// The access token that was proven.
    pub(super) token: Option<Arc<Token>>,
}

impl<'s> Verdict<'s> {
    /// The user for whom the app calls, if that was proven.
    pub(super) fn user(&self) -> &str {
        self.token.as_ref().and_then(|token| token.user()).unwrap_or_default()
    }

    /// Counts the request as one that is under way, for as long as what comes back is held.
    pub(super) fn begin(&self, worker: &Worker) -> Call {
        worker.calls.begin(self.app, self.product, self.service)
    }

    /// A verdict that names nobody.
    pub(super) fn of_nobody(code: &'static str) -> Self {
        Self { code, ..Self::default() }
    }

    /// The verdict behind a yes to whoever `presented` these kinds.
    pub(super) fn of_permit(permit: &Permit<'s>, service: &'s str, presented: KindSet) -> Self {
        let token = permit.token().cloned();
        Self { presented, token, ..Self::of_terms(permit.terms(), "allowed", service) }
    }

    fn of_terms(terms: &Terms<'s>, code: &'static str, service: &'s str) -> Self {
        Self {
            code,
            service,
            app: terms.app.id.as_str(),
            developer: terms.developer().id.as_str(),
            product: terms.product.id.as_str(),
            operation: terms.operation.label(),
            credential: (terms.kind.as_str(), terms.credential.id.as_str()),
            presented: KindSet::EMPTY,
            token: None,
        }
    }

    /// The same, about the credential that has leaked.
    fn of_leaked(self, leaked: Option<&'s Credential>) -> Self {
        let Some(credential) = leaked else { return self };
        Self {
            app: credential.app.id.as_str(),
            developer: credential.app.developer.id.as_str(),
            credential: (credential.kind().as_str(), credential.id.as_str()),
            ..self
        }
    }

    /// The verdict behind a no to whoever `presented` these kinds.
    pub(super) fn of_no(no: &No<'s>, service: &'s str, presented: KindSet) -> Self {
        let verdict = match no {
            No::Refused(refusal) => Self { service, ..Self::of_nobody(refusal.code()) },
            No::Limited { terms, .. } => Self::of_terms(terms, no.code(), service),
            No::Denied { principal, .. } => Self {
                code: no.code(),
                service,
                app: principal.app().id.as_str(),
                developer: principal.app().developer.id.as_str(),
                credential: (principal.kind().as_str(), principal.credential().id.as_str()),
                token: principal.token().cloned(),
                ..Self::default()
            },
        };
        Self { presented, ..verdict }
    }
}

/// The caller's word for its own program, if it says one.
pub(super) fn user_agent<'h>(head: &Head<'_, 'h>) -> &'h str {
    let mut fields = head.fields.iter();
    let said = fields.find(|field| field.name.eq_ignore_ascii_case("user-agent"));
    said.and_then(|field| std::str::from_utf8(field.value).ok()).unwrap_or_default()
}

/// The id of a request: the caller's own when it sent exactly one sane one.
pub(super) fn request_id(head: &Head<'_, '_>, ids: &RequestIds, now: Timestamp) -> RequestId {
    let mut sent = head.values("x-request-id");
    let taken_over = match (sent.next(), sent.next()) {
        (Some(value), None) => RequestId::from_caller(value),
        _ => None,
    };
    taken_over.unwrap_or_else(|| ids.next(now))
}

/// What a decision is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// Somebody is to be let in, and charged for it.
    Admit,
    /// Nobody calls: it is only asked what would be.
    Rehearse,
    /// Somebody was let in, and charged, before.
    Stay,
}

impl Purpose {
    /// Whether the nonce of a signature is used up.
    const fn nonce_use(self) -> NonceUse {
        match self {
            Self::Admit => NonceUse::Spend,
            Self::Rehearse => NonceUse::Look,
            Self::Stay => NonceUse::Spent,
        }
    }

    /// How it is paid for.
    pub(super) const fn toll(self, till: Till<'_>) -> Toll<'_> {
        match self {
            Self::Admit => Toll::Charge(till),
            Self::Rehearse => Toll::Look(till),
            Self::Stay => Toll::Paid,
        }
    }
}

/// Decides on a request and, on a yes, charges for it and writes the head for the service into `out`.
///
/// # Errors
/// The answer to give instead, and what the log says of it.
#[expect(
    clippy::result_large_err,
    reason = "a refusal is as hot as a yes under attack, and must not allocate"
)]
pub(super) fn admit<'s>(
    head: &Head<'_, '_>,
    visitor: &Visitor,
    snapshot: &'s Snapshot,
    trace: &Trace<'_>,
    (purpose, now): (Purpose, Timestamp),
    out: &mut Vec<u8>,
) -> Result<Admission<'s>, (Answer, Verdict<'s>)> {
    let path = PolicyPath::parse(head.path);
    let service = path.as_ref().ok().and_then(|path| snapshot.routes.find(head.authority, path.as_str()));
    let listener = snapshot.accepted_at(&visitor.listener.settings);
    let signatures = &*snapshot.signatures;
    let place = Place {
        levels: [listener, None],
        presented: KindSet::EMPTY,
        signatures,
        tokens: &snapshot.tokens,
        format: service.map(|service| service.error_format).unwrap_or_default(),
        now,
    };
    let refuse = |refusal: Refusal, presented: KindSet| {
        let answer = Answer::from_refusal(refusal, &Place { presented, ..place });
        (answer, Verdict { presented, ..Verdict::of_nobody(refusal.code()) })
    };
    if names_api_key(head.path) || head.query.is_some_and(names_api_key) {
        let (answer, verdict) = refuse(Refusal::KeyInUrl, KindSet::EMPTY);
        return Err((answer, verdict.of_leaked(leaked(head, snapshot))));
    }
    if !snapshot.tokens.is_empty() && head.query.is_some_and(names_access_token) {
        return Err(refuse(Refusal::TokenInUrl, KindSet::EMPTY));
    }
    let Ok(path) = path else {
        return Err((BAD_PATH, Verdict::of_nobody(BAD_PATH.code)));
    };
    let of_kind = |kind: CredentialKind| move |refusal: Refusal| refuse(refusal, KindSet::EMPTY.with(kind));
    let fields = head.fields.iter().map(|field| (field.name, field.value));
    let headers = HeaderEvidence::from_fields(fields, &snapshot.api_key_header)
        .map_err(|refusal| refuse(refusal, KindSet::EMPTY))?;
    let fields = head.fields.iter().map(|field| (field.name, field.value));
    let token = Bearer::from_fields(fields, &snapshot.tokens).map_err(of_kind(CredentialKind::Token))?;
    let turn_away = |(wait, presented)| {
        let answer = RATE_LIMITED.with_notice(Notice::to_wait(wait)).in_format(place.format);
        (answer, Verdict { presented, ..Verdict::of_nobody(RATE_LIMITED.code) })
    };
    let throttle = Throttled::of(visitor, snapshot, purpose);
    let kinds = Throttled::kinds(&headers, token.is_some(), Signed::is_presented(&message(head), signatures));
    throttle.admit(kinds, now).map_err(turn_away)?;
    let signed = Signed::read(message(head), signatures, purpose.nonce_use())
        .inspect_err(|&refusal| throttle.note(refusal, now))
        .map_err(of_kind(CredentialKind::Signature))?;
    if signed.is_some() {
        // Only what it says has told that it is meant for us, and not for the service.
        throttle.admit(kinds.with(CredentialKind::Signature), now).map_err(turn_away)?;
    }
    let headers = HeaderEvidence { signature: signed.as_ref(), token, ..headers };
    let evidence = Evidence { headers, ..visitor.evidence() };
    let presented = evidence.kinds();

    let is_misdirected = visitor
        .sni
        .as_deref()
        .is_some_and(|sni| snapshot.routes.is_misdirected(sni, head.authority, path.as_str(), service));
    let Some(service) = service.filter(|_| !is_misdirected) else {
        // Who cannot say who it is learns nothing about what exists here.
        authenticate(&evidence, &snapshot.registry, &snapshot.peppers, now)
            .inspect_err(|&refusal| throttle.note(refusal, now))
            .map_err(|refusal| refuse(refusal, presented))?;
        let answer = if is_misdirected { MISDIRECTED } else { NO_SERVICE };
        let verdict = Verdict { presented, ..Verdict::of_nobody(answer.code) };
        return Err((answer, verdict));
    };
    if xfcc::check(head, &service.client_cert, visitor.shown()).is_err() {
        let verdict =
            Verdict { service: service.id.as_str(), presented, ..Verdict::of_nobody(BAD_XFCC.code) };
        return Err((BAD_XFCC.in_format(place.format), verdict));
    }
    let environment = snapshot.environment.as_ref();
    let door = Door { listener, service: service.accepts.as_ref(), environment };
    let ask = Ask::Http { service: &service.id, method: head.method, path: &path };
    let toll = purpose.toll(snapshot.till(service));
    let checked = check(&evidence, &ask, door, &snapshot.registry, &snapshot.peppers, &toll, now);
    let permit = checked.map_err(|no| {
        if let No::Refused(refusal) = no {
            throttle.note(refusal, now);
        }
        let place = Place { levels: [door.listener, door.service], presented, ..place };
        (Answer::from_no(&no, &place), Verdict::of_no(&no, service.id.as_str(), presented))
    })?;
    let upgrade = upgrade::asked(head, &service.upgrades).map_err(|answer| {
        let verdict = Verdict::of_permit(&permit, service.id.as_str(), presented);
        let verdict = Verdict { code: answer.code, ..verdict };
        (answer.in_format(place.format), verdict)
    })?;
    let digest = signed.as_ref().and_then(Signed::content_digest).map(ContentDigest::begin);

    start(out, head, path.as_str());
    let consumed = Consumed { signature: signed.is_some(), token: token.is_some() };
    pass_fields(out, head, &snapshot.api_key_header, consumed, trace);
    if !service.trailers.is_empty() {
        agree_on_trailers(out, head, &service.trailers);
    }
    out.extend_from_slice(&visitor.fields);
    xfcc::write(out, head, &service.client_cert, visitor.shown(), &permit.terms().app.id);
    vouch(out, &permit);
    if let Some(rules) = &service.assertion {
        let signed = match snapshot.assertion_keys.active() {
            Some(key) => assertion::write(out, (rules, &key.key), &permit, visitor.asserted(), now).is_ok(),
            None => false,
        };
        if !signed {
            tracing::error!(target: "postern::proxy", service = %service.id, "no assertion can be signed; the request is refused");
            let verdict = Verdict::of_permit(&permit, service.id.as_str(), presented);
            return Err((
                NO_ASSERTION.in_format(place.format),
                Verdict { code: NO_ASSERTION.code, ..verdict },
            ));
        }
    }
    finish(out, head, upgrade, trace);
    Ok(Admission { permit, service, digest, presented, upgrade })
}

/// The credential whose secret stands in the URL, if it is one that is on file.
fn leaked<'s>(head: &Head<'_, '_>, snapshot: &'s Snapshot) -> Option<&'s Credential> {
    let found = keys_in(head.path).into_iter().chain(head.query.into_iter().flat_map(keys_in));
    // More than one is nothing that a client does by mistake.
    found.take(KEYS_IN_URL).find_map(|text| recognise(&text, &snapshot.registry, &snapshot.peppers))
}

/// So many keys of a URL are looked at.
const KEYS_IN_URL: usize = 4;

/// What a signature can cover of `head`.
fn message<'h>(head: &Head<'h, 'h>) -> Message<'h> {
    let content = if head.body == Framing::Length(0) { Content::Absent } else { Content::Present };
    let Head { method, authority, path, query, fields, .. } = *head;
    Message { method, authority, path, query, fields, content }
}

/// The body is not the one that the caller has signed.
pub(super) const DIGEST_MISMATCH: Answer = Answer::new(
    Refusal::ContentDigestMismatch.status(),
    Refusal::ContentDigestMismatch.code(),
    Refusal::ContentDigestMismatch.sentence(),
);

/// The throttle on keys, signatures and tokens that prove nothing, where it concerns a request.
struct Throttled<'s>(Option<(&'s Throttle, &'s Spike, u128)>);

impl<'s> Throttled<'s> {
    /// Only who calls can be made to wait.
    fn of(visitor: &Visitor, snapshot: &'s Snapshot, purpose: Purpose) -> Self {
        let pace = snapshot.limits.failed_keys.as_ref().filter(|_| purpose == Purpose::Admit);
        Self(pace.map(|pace| (&*snapshot.throttle, pace, source(visitor.peer.ip()))))
    }

    /// What is presented besides a certificate, before anything of it is read.
    fn kinds(headers: &HeaderEvidence<'_>, token: bool, signature: bool) -> KindSet {
        let api_key = headers.api_key.map(|_| CredentialKind::ApiKey);
        let (token, signature) =
            (token.then_some(CredentialKind::Token), signature.then_some(CredentialKind::Signature));
        [signature, token, api_key].into_iter().flatten().collect()
    }

    /// Turns away who has failed too often and presents one of these kinds, before anything is read or computed, and says how
    /// long to wait. Whoever presents none costs no computation.
    fn admit(&self, kinds: KindSet, now: Timestamp) -> Result<(), (Duration, KindSet)> {
        let Some((throttle, pace, source)) = self.0 else { return Ok(()) };
        if kinds == KindSet::EMPTY {
            return Ok(());
        }
        throttle.admit(source, pace, now).map_err(|wait| (wait, kinds))
    }

    /// Remembers a failure.
    fn note(&self, refusal: Refusal, now: Timestamp) {
        // Whoever has proven its secret has not failed, whatever becomes of it.
        if let Some((throttle, pace, source)) = self.0
            && refusal == Refusal::InvalidCredential
        {
            throttle.note_failure(source, pace, now);
        }
    }
}

/// Who is one source: an IPv4 address, or the 64 bits of an IPv6 address that a network has to itself.
pub(super) fn source(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

const RATE_LIMITED: Answer =
    Answer::new(429, "rate-limited", "Too many credentials from this address have not been valid.");

/// The agent has no memory to spare.
pub(super) const SHED: Answer =
    Answer::new(503, "memory-ceiling", "The agent is at its limit of memory; try again in a moment.");

/// [`SHED`], with when to try again.
pub(super) fn shed() -> Answer {
    SHED.with_notice(Notice::to_wait(Duration::from_secs(1)))
}

/// The path could be read in two ways.
pub(super) const BAD_PATH: Answer = Answer::new(
    400,
    "bad-path",
    "The path is ambiguous: it holds an encoded or doubled separator, a dot segment, or characters that no path has.",
);

/// > The 421 (Misdirected Request) status code indicates that the request was directed at a server that is unable or unwilling to
/// > produce an authoritative response for the target URI. — RFC 9110 §15.5.20
const MISDIRECTED: Answer = Answer::new(
    421,
    "misdirected-request",
    "Another service answers for this host than for the name that the TLS handshake asked for.",
);
/// What is said of the certificates before the caller's own could be read in two ways.
const BAD_XFCC: Answer =
    Answer::new(400, "bad-forwarded-certificate", "X-Forwarded-Client-Cert is malformed or ambiguous.");

/// A service that wants it signed gets nothing that is not.
const NO_ASSERTION: Answer =
    Answer::new(503, "no-assertion", "The agent cannot sign for the caller at the moment.");

/// Nothing here answers for that host and path.
const NO_SERVICE: Answer = Answer::new(404, "no-such-service", "No service answers for this host and path.");

/// Writes the head for a remote: the local caller's request as it is, less what ends here. Gives what the connection goes over to,
/// if the remote agrees.
///
/// # Errors
/// The path is ambiguous, or what it asks for besides.
#[expect(
    clippy::result_large_err,
    reason = "a refusal is as hot as a yes under attack, and must not allocate"
)]
pub(super) fn dispatch<'s>(
    head: &Head<'_, '_>,
    upgrades: &'s [UpgradeProtocol],
    trace: &Trace<'_>,
    out: &mut Vec<u8>,
) -> Result<Option<&'s UpgradeProtocol>, Answer> {
    PolicyPath::parse(head.path).map_err(|_| BAD_PATH)?;
    let upgrade = upgrade::asked(head, upgrades)?;
    start(out, head, head.path);
    for line in head.fields {
        // A key for the remote is the workload's own business.
        let is_key = line.name.eq_ignore_ascii_case("x-api-key");
        let passes =
            is_key || fate_of_request_field(line.name, b"") == Fate::Pass && !is_nominated(head, line.name);
        if passes && !trace.replaces(line.name) {
            field(out, line.name, line.value);
        }
    }
    finish(out, head, upgrade, trace);
    Ok(upgrade)
}

fn start(out: &mut Vec<u8>, head: &Head<'_, '_>, path: &str) {
    out.clear();
    for part in [head.method, " ", path] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, "host", head.authority.as_bytes());
}

fn pass_fields(
    out: &mut Vec<u8>,
    head: &Head<'_, '_>,
    api_key_header: &str,
    consumed: Consumed,
    trace: &Trace<'_>,
) {
    for line in head.fields {
        let passes = fate_of_request_field(line.name, line.value) == Fate::Pass
            && !line.name.eq_ignore_ascii_case(api_key_header)
            && !consumed.holds(line.name)
            && !trace.replaces(line.name)
            && !is_nominated(head, line.name);
        if passes {
            field(out, line.name, line.value);
        }
    }
}

/// Says what may follow the request's body, and whether something may follow the answer's.
fn agree_on_trailers(out: &mut Vec<u8>, head: &Head<'_, '_>, allowed: &[TrailerName]) {
    let announced = trailers::announced(head.values("trailer"), allowed);
    if let Some(names) = announced.filter(|_| head.body == Framing::Chunked) {
        field(out, "trailer", names.as_bytes());
    }
    if trailers::are_taken(head.values("te")) {
        // > A sender of TE MUST also send a "TE" connection option within the Connection header field — RFC 9110 §10.1.4
        field(out, "te", b"trailers");
        field(out, "connection", b"TE");
    }
}

/// Which fields have carried evidence and end here: with them, the service could ask us for something in the caller's name.
/// What is not for us passes.
#[derive(Clone, Copy, Debug)]
struct Consumed {
    signature: bool,
    token: bool,
}

impl Consumed {
    fn holds(self, name: &str) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        self.signature && (is("signature") || is("signature-input")) || self.token && is("authorization")
    }
}

/// What the agent vouches for.
fn vouch(out: &mut Vec<u8>, permit: &Permit<'_>) {
    let terms = permit.terms();
    field(out, "x-postern-app", terms.app.id.as_str().as_bytes());
    field(out, "x-postern-developer", terms.developer().id.as_str().as_bytes());
    field(out, "x-postern-product", terms.product.id.as_str().as_bytes());
    out.extend_from_slice(b"x-postern-credential: ");
    out.extend_from_slice(terms.kind.as_str().as_bytes());
    out.push(b':');
    out.extend_from_slice(terms.credential.id.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some((token, user)) = permit.token().and_then(|token| Some((token, token.user()?))) {
        field(out, "x-postern-user", visible(user).as_bytes());
        field(out, "x-postern-user-issuer", visible(&token.claims().issuer).as_bytes());
    }
    let mut scopes = terms.scopes().peekable();
    if scopes.peek().is_some() {
        out.extend_from_slice(b"x-postern-scopes:");
        for scope in scopes {
            out.push(b' ');
            out.extend_from_slice(scope.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn finish(out: &mut Vec<u8>, head: &Head<'_, '_>, upgrade: Option<&UpgradeProtocol>, trace: &Trace<'_>) {
    if let Some(protocol) = upgrade {
        field(out, "connection", b"Upgrade");
        field(out, "upgrade", protocol.as_str().as_bytes());
    }
    field(out, "x-request-id", trace.id.as_str().as_bytes());
    trace.write(out);
    match head.body {
        Framing::Chunked | Framing::Close => field(out, "transfer-encoding", b"chunked"),
        Framing::Length(0) if !expects_length(head.method) => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            number_into(out, length);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// > A user agent SHOULD send Content-Length in a request when the method defines a meaning for enclosed content.
/// > — RFC 9110 §8.6
fn expects_length(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}
