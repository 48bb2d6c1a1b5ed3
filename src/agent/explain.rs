//! Answers "what would you say to this caller, and why" by the live decision itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::steward::quota_of;
use crate::admin::{
    Explanation, GrantTrail, Operation, Presented, Question, SeenRequest, StepOutcome, StewardError,
    TrailStep,
};
use crate::authz::{Ask, Denial, Door, Supposed, survey};
use crate::clock::Timestamp;
use crate::credential::token::{Bearer, Objection};
use crate::credential::{ApiKey, Refusal};
use crate::id::ServiceId;
use crate::identity::{Match, SpiffeId, Subject};
use crate::pki::{Usage, Verified};
use crate::proxy::{Caller, Listener, ListenerProtocol, Outcome, Part, Snapshot, rehearse};
use crate::registry::{self, Grant, Origin as RequestOrigin, PolicyPath};
use crate::store::pem;
use crate::telemetry::Remembered;

/// What would become of the caller in `question`, under `snapshot`.
///
/// # Errors
/// The question makes no sense: no such listener, an unreadable certificate.
pub(super) fn explain(
    question: Question,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Explanation, StewardError> {
    let listener = listener(&question, snapshot)?;
    let (service, head) = match &question.operation {
        Operation::Http { method, host, path } => {
            if !matches!(listener.settings.protocol, ListenerProtocol::Http) {
                return Err(StewardError::Invalid(format!(
                    "the listener {} speaks no HTTP",
                    listener.settings.id
                )));
            }
            (None, Some(head(method, host, path, &question, &snapshot.api_key_header)?))
        }
        Operation::Tcp { service } => (Some(tcp_service(service.as_ref(), listener)?), None),
    };
    let verified = match &question.certificate {
        None => None,
        Some(Presented::SpiffeId(id)) => Some(imagined(id, now)?),
        Some(Presented::ChainPem(text)) => {
            let invalid = |error: pem::PemError| {
                StewardError::Invalid(format!("the certificate cannot be read: {error}"))
            };
            let chain = pem::certificates(text.as_bytes()).map_err(invalid)?;
            match snapshot.verifier.verify(&chain, Usage::Client, now) {
                Ok(verified) => Some(verified),
                Err(error) => return Ok(handshake_failure(&error.to_string(), snapshot, now)),
            }
        }
    };
    let part = match (&head, &service) {
        (Some(head), _) => Part::Http(head),
        (None, Some(service)) => Part::Tcp(service),
        (None, None) => return Err(StewardError::Invalid("nothing is asked for".into())),
    };
    let caller = Caller {
        verified,
        address: question.origin.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        sni: question.origin.sni.clone().or_else(|| usual_sni(&question.operation)),
    };
    let token = token_objection(&question, caller.verified.as_ref(), snapshot, now);
    let loose = unbound(&question, &caller, snapshot, now);
    let objection =
        caller.verified.as_ref().and_then(|one| snapshot.registry.objection_to_name(&one.subject));
    let outcome = rehearse(listener, caller, &part, snapshot, now);
    let mut explanation = explanation(&outcome, Step::LAST_BEFORE_THE_FACT, snapshot, now);
    explanation.grants = match &question.operation {
        Operation::Http { method, path, .. } => {
            let path = path.split_once('?').map_or(&**path, |(path, _)| path);
            grants(&outcome, Some((method, path)), snapshot, now)
        }
        Operation::Tcp { .. } => grants(&outcome, None, snapshot, now),
    };
    if let Some(loose) = loose.filter(|_| outcome.code == Refusal::BindingFailed.code()) {
        explanation.sentence = format!("{} {loose}.", explanation.sentence);
    }
    if let Some(objection) = objection.filter(|_| outcome.code == Refusal::UnmappedCertificate.code()) {
        explanation.sentence = format!("{} That is because {objection}.", explanation.sentence);
    }
    if let Some(objection) = token.filter(|objection| outcome.code == objection.refusal().code()) {
        tell_of_token(&mut explanation, objection);
    }
    Ok(explanation)
}

/// What is wrong with the token in `question`, in more words than its sender is told.
fn token_objection(
    question: &Question,
    verified: Option<&Verified>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Option<Objection> {
    let fields = question.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let bearer = Bearer::from_fields(fields, &snapshot.tokens).ok()??;
    bearer.prove(verified.map(|verified| &verified.subject.sha256), now).err()
}

fn tell_of_token(explanation: &mut Explanation, objection: Objection) {
    let told = format!("The token proves nothing: {objection}.");
    explanation.sentence = format!("{} {told}", explanation.sentence);
    if let Some(step) = explanation.steps.iter_mut().find(|step| step.outcome == StepOutcome::Failed) {
        step.detail = told;
    }
}

/// How a request fared that is remembered, and what its app's grants are worth.
pub(super) fn recall(remembered: Remembered, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let in_force = snapshot.registry.version();
    let (kind, credential) = remembered.credential;
    let mut outcome = Outcome {
        status: remembered.status,
        code: remembered.code,
        app: remembered.app,
        product: remembered.product,
        operation: remembered.operation,
        presented: remembered.presented,
        service: remembered.service,
        credential: (!credential.is_empty()).then_some((kind, credential)),
        scopes: Vec::new(),
        limits: Vec::new(),
    };
    outcome.limits = standing(&outcome, snapshot, now);
    let mut explanation = explanation(&outcome, Step::Exchange, snapshot, now);
    if remembered.direction == "in" && !remembered.path_is_cut {
        let http = (remembered.protocol != "tcp").then_some((&*remembered.method, &*remembered.path));
        explanation.grants = grants(&outcome, http, snapshot, remembered.at);
    }
    explanation.at = remembered.at;
    explanation.registry_now =
        (remembered.registry != in_force && !remembered.registry.is_empty()).then(|| in_force.to_owned());
    explanation.registry = remembered.registry;
    let text = |text: String| (!text.is_empty()).then_some(text);
    explanation.request = Some(SeenRequest {
        id: remembered.request_id,
        at: remembered.at,
        direction: remembered.direction.to_owned(),
        door: remembered.door,
        peer: remembered.peer.map(|peer| peer.to_string()),
        protocol: remembered.protocol.to_owned(),
        method: remembered.method,
        path: remembered.path,
        status: remembered.status,
        presented: remembered.presented.iter().map(|kind| kind.to_string()).collect(),
        spiffe_id: text(remembered.spiffe_id),
        duration_us: u64::try_from(remembered.duration.as_micros()).unwrap_or(u64::MAX),
    });
    explanation
}

/// What the grants of the app in `outcome` say to the request with this method and path, or to a raw connection.
fn grants(
    outcome: &Outcome,
    http: Option<(&str, &str)>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Vec<GrantTrail> {
    let Some(app) = snapshot.registry.app(&outcome.app) else { return Vec::new() };
    let Ok(service) = outcome.service.parse::<ServiceId>() else { return Vec::new() };
    let path = http.map(|(method, path)| (method, PolicyPath::parse(path)));
    let ask = match &path {
        None => Ask::Tcp { service: &service },
        Some((method, Ok(path))) => Ask::Http { service: &service, method, path },
        Some((_, Err(_))) => return Vec::new(),
    };
    let what = match http {
        None => format!("connections to {service}"),
        Some((method, path)) => format!("{method} {path} of {service}"),
    };
    let credential = outcome.credential.as_ref().and_then(|(_, id)| snapshot.registry.credential(id));
    let supposed = Supposed { app, kinds: outcome.presented, credential: credential.map(|found| &**found) };
    let door = Door { environment: snapshot.environment.as_ref(), ..Door::default() };
    let trail = |(grant, found): (&Grant, Result<&registry::Operation, Denial>)| GrantTrail {
        product: grant.product.id.clone(),
        code: found.map_or_else(Denial::code, |_| "allowed").to_owned(),
        detail: match found {
            Ok(operation) => by_operation(operation, supposed),
            Err(Denial::NotEntitled) => format!("no operation covers {what}"),
            Err(Denial::AuthMethodNotAllowed) => {
                format!("the operations that cover it ask for other credentials than {}", outcome.presented)
            }
            Err(Denial::GrantExpired) => {
                let ended = grant.expires.map(|expires| expires.to_string()).unwrap_or_default();
                format!("it ended at {ended}")
            }
            Err(denial) => denial.sentence().to_owned(),
        },
    };
    survey(supposed, &ask, door, now).map(trail).collect()
}

/// What allows, and what of the token is taken for granted, which nobody keeps.
fn by_operation(operation: &registry::Operation, supposed: Supposed<'_>) -> String {
    let by = format!("by the operation {}", operation.label());
    let claims = operation.when.as_ref().is_some_and(|condition| condition.asks_for_claim());
    if supposed.has_token() && (claims || !operation.scopes.is_empty()) {
        format!("{by}, if the token says what it asks for")
    } else {
        by
    }
}

/// How the limits stand now that a remembered request has met.
fn standing(outcome: &Outcome, snapshot: &Snapshot, now: Timestamp) -> Vec<String> {
    let uses = snapshot.ledger.uses(now).into_iter().filter(|one| one.app.as_str() == outcome.app);
    let met = uses.filter(|one| one.product.as_ref().is_none_or(|id| id.as_str() == outcome.product));
    met.filter_map(|one| {
        let (scope, limit) = quota_of(&snapshot.registry, &one)?;
        Some(format!("{scope} now: {} of {limit} left", limit.saturating_sub(one.used)))
    })
    .collect()
}

fn listener<'a>(question: &Question, snapshot: &'a Snapshot) -> Result<&'a Arc<Listener>, StewardError> {
    let named = question.listener.as_ref();
    let found = match named {
        Some(id) => snapshot.listeners.get(id),
        None => snapshot.listeners.values().find(|listener| {
            matches!(listener.settings.protocol, ListenerProtocol::Http)
                == matches!(question.operation, Operation::Http { .. })
        }),
    };
    found.ok_or_else(|| match named {
        Some(id) => StewardError::Unknown(format!("there is no listener {id}")),
        None => StewardError::Unknown("there is no listener for that protocol".into()),
    })
}

fn tcp_service(asked: Option<&ServiceId>, listener: &Listener) -> Result<ServiceId, StewardError> {
    match (asked, &listener.settings.protocol) {
        (Some(service), _) => Ok(service.clone()),
        (None, ListenerProtocol::Tcp(service)) => Ok(service.clone()),
        (None, ListenerProtocol::Http) => Err(StewardError::Invalid(format!(
            "the listener {} leads to no single service",
            listener.settings.id
        ))),
    }
}

/// What callers ask for in the handshake who connect to the host that they name (RFC 6066 §3: never an address).
fn usual_sni(operation: &Operation) -> Option<String> {
    let Operation::Http { host, .. } = operation else { return None };
    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
    let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
    (!is_address).then(|| name.to_ascii_lowercase())
}

/// Which binding of a key or a certificate does not hold, and of which credential.
fn unbound(question: &Question, caller: &Caller, snapshot: &Snapshot, now: Timestamp) -> Option<String> {
    let key = question.api_key.as_ref().map(|key| key.secret().expose_secret().trim_ascii());
    let key = key.and_then(|text| snapshot.registry.api_key(ApiKey::id_of(text).ok()?));
    let subject = caller.verified.as_ref().map(|verified| &verified.subject);
    let certificate = subject.and_then(|subject| match snapshot.registry.certificate(subject) {
        Match::Found(credential) => Some(credential),
        Match::Ambiguous | Match::NotFound => None,
    });
    let origin = RequestOrigin { address: Some(caller.address), sni: caller.sni.as_deref() };
    certificate.into_iter().chain(key).find_map(|credential| {
        let loose = credential.bindings.as_ref()?.check(origin, subject, now).err()?;
        Some(format!("Of {}: {loose}", credential.id))
    })
}

/// The head that the caller would send.
fn head(
    method: &str,
    host: &str,
    path: &str,
    question: &Question,
    header: &str,
) -> Result<Vec<u8>, StewardError> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
    for (name, value) in &question.fields {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if head.iter().filter(|&&byte| byte == b'\n').count() != 2 + question.fields.len() {
        return Err(StewardError::Invalid("method, host, path and each field must be one line".into()));
    }
    if let Some(key) = &question.api_key {
        head.extend_from_slice(header.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(key.secret().expose_secret().trim_ascii());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// A certificate that says no more than its SPIFFE ID.
fn imagined(id: &str, now: Timestamp) -> Result<Verified, StewardError> {
    let spiffe_id: SpiffeId =
        id.parse().map_err(|error| StewardError::Invalid(format!("{id:?} is no SPIFFE ID: {error}")))?;
    Ok(Verified::imagined(Subject {
        spiffe_id,
        dns: Vec::new(),
        attributes: Vec::new(),
        distinguished_name: String::new(),
        serial: String::new(),
        issuer: String::new(),
        not_before: now,
        not_after: now,
        sha256: [0; 32],
        spki_sha256: [0; 32],
    }))
}

/// What is looked at, in this order. A request that is refused at one step passed those before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Certificate,
    Request,
    Credential,
    InForce,
    Bindings,
    App,
    Developer,
    Kind,
    Service,
    Environment,
    Operation,
    Scopes,
    Condition,
    Limits,
    Capacity,
    /// What became of the request after the decision.
    Exchange,
}

impl Step {
    /// The last one for a request that nobody makes.
    const LAST_BEFORE_THE_FACT: Self = Self::Capacity;

    const ALL: [Self; 16] = [
        Self::Certificate,
        Self::Request,
        Self::Credential,
        Self::InForce,
        Self::Bindings,
        Self::App,
        Self::Developer,
        Self::Kind,
        Self::Service,
        Self::Environment,
        Self::Operation,
        Self::Scopes,
        Self::Condition,
        Self::Limits,
        Self::Capacity,
        Self::Exchange,
    ];

    /// The steps up to `last`.
    fn up_to(last: Self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |step| *step <= last)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Request => "request",
            Self::Credential => "credential",
            Self::InForce => "credential in force",
            Self::Bindings => "bindings",
            Self::App => "app",
            Self::Developer => "developer",
            Self::Kind => "kind of credential",
            Self::Service => "service",
            Self::Environment => "environment",
            Self::Operation => "product and operation",
            Self::Scopes => "scopes",
            Self::Condition => "condition",
            Self::Limits => "limits",
            Self::Capacity => "capacity",
            Self::Exchange => "exchange",
        }
    }

    /// The step as it went, where the `decisive` one decided against the caller; none did if there is none.
    fn went(self, decisive: Option<Self>, detail: String) -> TrailStep {
        let outcome = match decisive {
            Some(decisive) if self > decisive => StepOutcome::NotReached,
            Some(decisive) if self == decisive => StepOutcome::Failed,
            Some(_) | None => StepOutcome::Passed,
        };
        TrailStep { name: self.name().to_owned(), outcome, detail }
    }
}

/// Which step a code belongs to, and what it means.
fn decided_by(code: &str) -> (Step, &'static str) {
    if let Some(refusal) = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code) {
        let step = match refusal {
            Refusal::BadContentDigest
            | Refusal::ContentDigestMismatch
            | Refusal::DuplicateCredential
            | Refusal::KeyInUrl
            | Refusal::TokenInUrl => Step::Request,
            Refusal::AmbiguousCertificate
            | Refusal::InsufficientCoverage
            | Refusal::InvalidCredential
            | Refusal::MissingCredential
            | Refusal::PrincipalMismatch
            | Refusal::TokenBindingFailed
            | Refusal::UnmappedCertificate
            | Refusal::UnmappedToken => Step::Credential,
            Refusal::BindingFailed => Step::Bindings,
            Refusal::ClockSkew
            | Refusal::CredentialExpired
            | Refusal::CredentialNotYetValid
            | Refusal::CredentialPending
            | Refusal::CredentialRevoked
            | Refusal::ReplayMemoryFull
            | Refusal::Replayed
            | Refusal::SignatureExpired
            | Refusal::TokenRevoked => Step::InForce,
        };
        return (step, refusal.sentence());
    }
    if let Some(denial) = Denial::ALL.into_iter().find(|denial| denial.code() == code) {
        let step = match denial {
            Denial::AppRevoked => Step::App,
            Denial::DeveloperInactive => Step::Developer,
            Denial::AuthMethodNotAllowed | Denial::StepUpRequired => Step::Kind,
            Denial::GrantExpired | Denial::GrantPending | Denial::GrantRevoked | Denial::NotEntitled => {
                Step::Operation
            }
            Denial::ConditionFailed => Step::Condition,
            Denial::InsufficientScope => Step::Scopes,
            Denial::WrongEnvironment => Step::Environment,
            Denial::QuotaExceeded | Denial::QuotaUnavailable | Denial::SpikeArrested => Step::Limits,
            Denial::Overloaded => Step::Capacity,
        };
        return (step, denial.sentence());
    }
    match code {
        "no-such-service" => (Step::Service, "No service answers for this host and path."),
        "misdirected-request" => {
            (Step::Service, "Another service answers for this host than for the name of the handshake.")
        }
        "bad-path" => (Step::Request, "The path is ambiguous."),
        "rate-limited" => (Step::Credential, "Too many credentials from this address have not been valid."),
        "bad-body" => (Step::Exchange, "The request body is malformed."),
        "bad-gateway" => (Step::Exchange, "The service gave no usable answer."),
        "broken-off" => (Step::Exchange, "The connection ended before the answer did."),
        "no-identity" => (Step::Exchange, "The workload had no identity."),
        "upstream-timeout" => (Step::Exchange, "The service did not answer in time."),
        "upstream-unavailable" => (Step::Exchange, "The service could not be reached."),
        "agent-stopped"
        | "certificate-expired"
        | "certificate-not-yet-valid"
        | "idle-timeout"
        | "no-current-crl"
        | "not-expected"
        | "not-trusted"
        | "revoked" => (Step::Exchange, "The connection was let in, and ended later."),
        _ => (Step::Request, "The request head is malformed or ambiguous."),
    }
}

/// The trail of `outcome` up to the `last` step.
fn explanation(outcome: &Outcome, last: Step, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let allowed = outcome.code == "allowed";
    let (decisive, sentence) = if allowed {
        (None, "The request is allowed.")
    } else {
        let (step, sentence) = decided_by(outcome.code);
        (Some(step), sentence)
    };
    let app = snapshot.registry.app(&outcome.app);
    let steps = Step::up_to(last).map(|step| {
        let detail = match decisive {
            Some(decisive) if step > decisive => String::new(),
            Some(decisive) if step == decisive => because(step, sentence, outcome),
            Some(_) | None => found(step, outcome, snapshot),
        };
        step.went(decisive, detail)
    });
    Explanation {
        allowed,
        status: (!allowed).then_some(outcome.status),
        code: outcome.code.to_owned(),
        sentence: sentence.to_owned(),
        at: now,
        registry: snapshot.registry.version().to_owned(),
        steps: steps.collect(),
        app: outcome.app.parse().ok(),
        developer: app.map(|app| app.developer.id.clone()),
        product: outcome.product.parse().ok(),
        service: outcome.service.parse().ok(),
        credential: outcome.credential.as_ref().and_then(|(_, id)| id.parse().ok()),
        grants: Vec::new(),
        request: None,
        registry_now: None,
    }
}

/// What a step has found that decided against the caller.
fn because(step: Step, sentence: &str, outcome: &Outcome) -> String {
    if step == Step::Limits {
        format!("{sentence} {}", outcome.limits.join("; "))
    } else if step == Step::Scopes && !outcome.scopes.is_empty() {
        format!("{sentence} It asks for {}.", outcome.scopes.join(" "))
    } else {
        sentence.to_owned()
    }
}

/// What a step that was passed has found.
fn found(step: Step, outcome: &Outcome, snapshot: &Snapshot) -> String {
    let app = snapshot.registry.app(&outcome.app);
    let found = match step {
        Step::Credential | Step::InForce => {
            outcome.credential.as_ref().map(|(kind, id)| format!("{kind} {id}"))
        }
        Step::App => app.map(|app| format!("{} is approved", app.id)),
        Step::Developer => app.map(|app| format!("{} is active", app.developer.id)),
        Step::Service => Some(outcome.service.clone()),
        Step::Environment => snapshot.environment.as_ref().map(ToString::to_string),
        Step::Operation if outcome.operation.is_empty() => Some(outcome.product.clone()),
        Step::Operation => Some(format!("{} {}", outcome.product, outcome.operation)),
        Step::Scopes => Some(outcome.scopes.join(" ")),
        Step::Limits => Some(outcome.limits.join("; ")),
        Step::Bindings
        | Step::Capacity
        | Step::Certificate
        | Step::Condition
        | Step::Exchange
        | Step::Kind
        | Step::Request => None,
    };
    found.unwrap_or_default()
}

fn handshake_failure(reason: &str, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let decisive = Step::Certificate;
    let detail = |step| if step == decisive { reason.to_owned() } else { String::new() };
    let steps = Step::up_to(Step::LAST_BEFORE_THE_FACT).map(|step| step.went(Some(decisive), detail(step)));
    Explanation {
        allowed: false,
        status: None,
        code: "handshake-failed".to_owned(),
        sentence: format!("The TLS handshake fails: {reason}."),
        at: now,
        registry: snapshot.registry.version().to_owned(),
        steps: steps.collect(),
        app: None,
        developer: None,
        product: None,
        service: None,
        credential: None,
        grants: Vec::new(),
        request: None,
        registry_now: None,
    }
}
