//! Answers "what would you say to this caller, and why" by the live decision itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::admin::{Explanation, Operation, Presented, Question, StepOutcome, StewardError, TrailStep};
use crate::authz::Denial;
use crate::clock::Timestamp;
use crate::credential::token::{Bearer, Objection};
use crate::credential::{ApiKey, Refusal};
use crate::id::ServiceId;
use crate::identity::{Match, SpiffeId, Subject};
use crate::pki::{Usage, Verified};
use crate::proxy::{Caller, Listener, ListenerProtocol, Outcome, Part, Snapshot, rehearse};
use crate::registry::Origin as RequestOrigin;
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
    let mut explanation = explanation(&outcome, snapshot, now);
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
}

impl Step {
    const ALL: [Self; 15] = [
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
    ];

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
        "bad-path" => (Step::Request, "The path is ambiguous."),
        _ => (Step::Request, "The request head is malformed or ambiguous."),
    }
}

fn explanation(outcome: &Outcome, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let allowed = outcome.code == "allowed";
    let (decisive, sentence) = if allowed {
        (None, "The request is allowed.")
    } else {
        let (step, sentence) = decided_by(outcome.code);
        (Some(step), sentence)
    };
    let app = snapshot.registry.app(&outcome.app);
    let steps = Step::ALL.into_iter().map(|step| {
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
        Step::Operation => Some(outcome.product.clone()),
        Step::Scopes => Some(outcome.scopes.join(" ")),
        Step::Limits => Some(outcome.limits.join("; ")),
        Step::Bindings
        | Step::Capacity
        | Step::Certificate
        | Step::Condition
        | Step::Kind
        | Step::Request => None,
    };
    found.unwrap_or_default()
}

fn handshake_failure(reason: &str, snapshot: &Snapshot, now: Timestamp) -> Explanation {
    let decisive = Step::Certificate;
    let detail = |step| if step == decisive { reason.to_owned() } else { String::new() };
    let steps = Step::ALL.into_iter().map(|step| step.went(Some(decisive), detail(step)));
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
