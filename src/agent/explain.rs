//! Answers "what would you say to this caller, and why" by the live decision itself.

use std::sync::Arc;

use super::steward::quota_of;
use crate::admin::{
    Explanation, GrantTrail, Operation, Presented, Question, SeenRequest, StepOutcome, StewardError,
    TrailStep,
};
use crate::authz::{Ask, Denial, survey};
use crate::clock::Timestamp;
use crate::credential::Refusal;
use crate::id::ServiceId;
use crate::identity::{SpiffeId, Subject};
use crate::pki::{Usage, Verified};
use crate::proxy::{Listener, ListenerProtocol, Outcome, Part, Snapshot, rehearse};
use crate::registry::{self, Grant, PolicyPath};
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
    let objection = verified.as_ref().and_then(|one| snapshot.registry.objection_to_name(&one.subject));
    let outcome = rehearse(listener, verified, &part, snapshot, now);
    let mut explanation = explanation(&outcome, HYPOTHETICAL, snapshot, now);
    explanation.grants = match &question.operation {
        Operation::Http { method, path, .. } => {
            let path = path.split_once('?').map_or(&**path, |(path, _)| path);
            grants(&outcome, Some((method, path)), snapshot, now)
        }
        Operation::Tcp { .. } => grants(&outcome, None, snapshot, now),
    };
    if let Some(objection) = objection.filter(|_| outcome.code == Refusal::UnmappedCertificate.code()) {
        explanation.sentence = format!("{} That is because {objection}.", explanation.sentence);
    }
    Ok(explanation)
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
        limits: Vec::new(),
    };
    outcome.limits = standing(&outcome, snapshot, now);
    let mut explanation = explanation(&outcome, STEPS.len(), snapshot, now);
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
    let trail = |(grant, found): (&Grant, Result<&registry::Operation, Denial>)| GrantTrail {
        product: grant.product.id.clone(),
        code: found.map_or_else(Denial::code, |_| "allowed").to_owned(),
        detail: match found {
            Ok(operation) => format!("by the operation {}", operation.label()),
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
    survey(app, &ask, outcome.presented, now).map(trail).collect()
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

/// What is looked at, in order. A request that is refused at one step passed those before it.
const STEPS: [&str; 12] = [
    "certificate",
    "request",
    "credential",
    "credential in force",
    "app",
    "developer",
    "kind of credential",
    "service",
    "product and operation",
    "limits",
    "capacity",
    "exchange",
];

/// So many steps there are for a request that nobody makes.
const HYPOTHETICAL: usize = EXCHANGE;

/// The step after the decision: what became of the request then.
const EXCHANGE: usize = 11;

/// The step that is about quotas and paces.
const LIMITS: usize = 9;

/// Which step a code belongs to, and what it means.
fn decided_by(code: &str) -> (usize, &'static str) {
    if let Some(refusal) = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code) {
        let step = match refusal {
            Refusal::BadContentDigest
            | Refusal::ContentDigestMismatch
            | Refusal::DuplicateCredential
            | Refusal::KeyInUrl => 1,
            Refusal::AmbiguousCertificate
            | Refusal::InsufficientCoverage
            | Refusal::InvalidCredential
            | Refusal::MissingCredential
            | Refusal::PrincipalMismatch
            | Refusal::UnmappedCertificate => 2,
            Refusal::ClockSkew
            | Refusal::CredentialExpired
            | Refusal::CredentialNotYetValid
            | Refusal::CredentialPending
            | Refusal::CredentialRevoked
            | Refusal::ReplayMemoryFull
            | Refusal::Replayed
            | Refusal::SignatureExpired => 3,
        };
        return (step, refusal.sentence());
    }
    if let Some(denial) = Denial::ALL.into_iter().find(|denial| denial.code() == code) {
        let step = match denial {
            Denial::AppRevoked => 4,
            Denial::DeveloperInactive => 5,
            Denial::AuthMethodNotAllowed => 6,
            Denial::GrantExpired | Denial::GrantPending | Denial::GrantRevoked | Denial::NotEntitled => 8,
            Denial::QuotaExceeded | Denial::QuotaUnavailable | Denial::SpikeArrested => 9,
            Denial::Overloaded => 10,
        };
        return (step, denial.sentence());
    }
    match code {
        "no-such-service" => (7, "No service answers for this host and path."),
        "bad-path" => (1, "The path is ambiguous."),
        "rate-limited" => (2, "Too many credentials from this address have not been valid."),
        "bad-body" => (EXCHANGE, "The request body is malformed."),
        "bad-gateway" => (EXCHANGE, "The service gave no usable answer."),
        "broken-off" => (EXCHANGE, "The connection ended before the answer did."),
        "no-identity" => (EXCHANGE, "The workload had no identity."),
        "upstream-timeout" => (EXCHANGE, "The service did not answer in time."),
        "upstream-unavailable" => (EXCHANGE, "The service could not be reached."),
        "agent-stopped"
        | "certificate-expired"
        | "certificate-not-yet-valid"
        | "idle-timeout"
        | "no-current-crl"
        | "not-expected"
        | "not-trusted"
        | "revoked" => (EXCHANGE, "The connection was let in, and ended later."),
        _ => (1, "The request head is malformed or ambiguous."),
    }
}

/// The trail of `outcome` over the first `count` steps.
fn explanation(outcome: &Outcome, count: usize, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let allowed = outcome.code == "allowed";
    let (decisive, sentence) =
        if allowed { (STEPS.len(), "The request is allowed.") } else { decided_by(outcome.code) };
    let app = snapshot.registry.app(&outcome.app);
    let steps = STEPS.iter().take(count).enumerate().map(|(at, name)| TrailStep {
        name: (*name).to_owned(),
        outcome: match at.cmp(&decisive) {
            std::cmp::Ordering::Less => StepOutcome::Passed,
            std::cmp::Ordering::Equal => StepOutcome::Failed,
            std::cmp::Ordering::Greater => StepOutcome::NotReached,
        },
        detail: match at {
            _ if at == LIMITS && at == decisive => format!("{sentence} {}", outcome.limits.join("; ")),
            _ if at == decisive => sentence.to_owned(),
            _ => detail(at, decisive, outcome, snapshot),
        },
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

/// What a step that was passed has found.
fn detail(at: usize, decisive: usize, outcome: &Outcome, snapshot: &Snapshot) -> String {
    if at > decisive {
        return String::new();
    }
    let app = snapshot.registry.app(&outcome.app);
    match at {
        2 | 3 => outcome.credential.as_ref().map(|(kind, id)| format!("{kind} {id}")).unwrap_or_default(),
        4 => app.map(|app| format!("{} is approved", app.id)).unwrap_or_default(),
        5 => app.map(|app| format!("{} is active", app.developer.id)).unwrap_or_default(),
        7 => outcome.service.clone(),
        8 if outcome.operation.is_empty() => outcome.product.clone(),
        8 => format!("{} {}", outcome.product, outcome.operation),
        LIMITS => outcome.limits.join("; "),
        _ => String::new(),
    }
}

fn handshake_failure(reason: &str, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let steps = STEPS.iter().take(HYPOTHETICAL).enumerate().map(|(at, name)| TrailStep {
        name: (*name).to_owned(),
        outcome: if at == 0 { StepOutcome::Failed } else { StepOutcome::NotReached },
        detail: if at == 0 { reason.to_owned() } else { String::new() },
    });
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
