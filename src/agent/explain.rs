//! Answers "what would you say to this caller, and why" by the live decision itself.

use std::sync::Arc;

use crate::admin::{Explanation, Operation, Presented, Question, StepOutcome, StewardError, TrailStep};
use crate::authz::Denial;
use crate::clock::Timestamp;
use crate::credential::Refusal;
use crate::credential::token::{Bearer, Objection};
use crate::id::ServiceId;
use crate::identity::{SpiffeId, Subject};
use crate::pki::{Usage, Verified};
use crate::proxy::{Listener, ListenerProtocol, Outcome, Part, Snapshot, rehearse};
use crate::store::pem;

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
    let token = token_objection(&question, verified.as_ref(), snapshot, now);
    let outcome = rehearse(listener, verified, &part, snapshot, now);
    let mut explanation = explanation(&outcome, snapshot, now);
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
const STEPS: [&str; 11] = [
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
];

/// The step that is about quotas and paces.
const LIMITS: usize = 9;

/// Which step a code belongs to, and what it means.
fn decided_by(code: &str) -> (usize, &'static str) {
    if let Some(refusal) = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code) {
        let step = match refusal {
            Refusal::BadContentDigest
            | Refusal::ContentDigestMismatch
            | Refusal::DuplicateCredential
            | Refusal::KeyInUrl
            | Refusal::TokenInUrl => 1,
            Refusal::AmbiguousCertificate
            | Refusal::InsufficientCoverage
            | Refusal::InvalidCredential
            | Refusal::MissingCredential
            | Refusal::PrincipalMismatch
            | Refusal::TokenBindingFailed
            | Refusal::UnmappedCertificate
            | Refusal::UnmappedToken => 2,
            Refusal::ClockSkew
            | Refusal::CredentialExpired
            | Refusal::CredentialNotYetValid
            | Refusal::CredentialPending
            | Refusal::CredentialRevoked
            | Refusal::ReplayMemoryFull
            | Refusal::Replayed
            | Refusal::SignatureExpired
            | Refusal::TokenRevoked => 3,
        };
        return (step, refusal.sentence());
    }
    if let Some(denial) = Denial::ALL.into_iter().find(|denial| denial.code() == code) {
        let step = match denial {
            Denial::AppRevoked => 4,
            Denial::DeveloperInactive => 5,
            Denial::AuthMethodNotAllowed | Denial::StepUpRequired => 6,
            Denial::GrantExpired | Denial::GrantPending | Denial::GrantRevoked | Denial::NotEntitled => 8,
            Denial::QuotaExceeded | Denial::QuotaUnavailable | Denial::SpikeArrested => 9,
            Denial::Overloaded => 10,
        };
        return (step, denial.sentence());
    }
    match code {
        "no-such-service" => (7, "No service answers for this host and path."),
        "bad-path" => (1, "The path is ambiguous."),
        _ => (1, "The request head is malformed or ambiguous."),
    }
}

fn explanation(outcome: &Outcome, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let allowed = outcome.code == "allowed";
    let (decisive, sentence) =
        if allowed { (STEPS.len(), "The request is allowed.") } else { decided_by(outcome.code) };
    let app = snapshot.registry.app(&outcome.app);
    let steps = STEPS.iter().enumerate().map(|(at, name)| TrailStep {
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
        8 => outcome.product.clone(),
        LIMITS => outcome.limits.join("; "),
        _ => String::new(),
    }
}

fn handshake_failure(reason: &str, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let steps = STEPS.iter().enumerate().map(|(at, name)| TrailStep {
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
    }
}
