//! The admin API over a Unix socket: what a caller may ask for is said by its role, and every change and refusal is written down.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::net::unix::UCred;

use super::answer::{self, Answer};
use super::connections::{self, Bounds};
use super::roles::{Peer, Role, Roles};
use super::signing::{InstallationOrder, RequestOrder, SignatureOrder};
use super::steward::{Steward, StewardError};
use super::tokens::{TokenKeyOrder, WithdrawOrder};
use super::view::{MoveOrder, Moved, Order, RevokeOrder};
use crate::causes::Causes;
use crate::clock::{Clock, Timestamp};
use crate::id::WorkloadId;
use crate::pki::Level;
use crate::store::socket_file::{self, SocketError};
use crate::telemetry::{Actor, AuditEvent, AuditLog, AuditOutcome};

/// Opens the socket at `path` for its owner and group, in the place of one that an earlier agent left behind.
///
/// # Errors
/// Somebody else uses the path, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let socket = socket_file::listen(path)?;
    let refused = |source| SocketError::Io { step: "listen on the socket", path: path.to_owned(), source };
    UnixListener::from_std(socket).map_err(refused)
}

/// Who decides who may do what, and writes down what was done.
#[derive(Clone, Debug)]
pub struct Doorman {
    /// Who has which role.
    pub roles: Roles,
    /// Where every change, and every refusal, is written down.
    pub audit: Arc<AuditLog>,
    /// When that was.
    pub clock: Arc<dyn Clock>,
}

/// [`bind`] for a socket that was opened before, by another process.
///
/// # Errors
/// It cannot be waited on.
pub fn take_over(socket: std::os::unix::net::UnixListener, path: &Path) -> Result<UnixListener, SocketError> {
    let refused = |source| SocketError::Io { step: "listen on the socket", path: path.to_owned(), source };
    UnixListener::from_std(socket).map_err(refused)
}

/// Serves on `listener` until `shutdown`.
pub async fn serve<S: Steward>(
    listener: UnixListener,
    steward: Arc<S>,
    doorman: Doorman,
    shutdown: impl Future<Output = ()>,
) {
    let refusals = Arc::new(Refusals::default());
    let begin = |stream: &tokio::net::UnixStream| {
        let credentials = stream.peer_cred();
        let (steward, doorman, refusals) = (Arc::clone(&steward), doorman.clone(), Arc::clone(&refusals));
        move |request: Request<Incoming>| {
            let (steward, doorman) = (Arc::clone(&steward), doorman.clone());
            let caller = Caller::of(&credentials);
            answer_to(request, caller, (doorman, Arc::clone(&refusals)), steward)
        }
    };
    connections::serve(listener, BOUNDS, begin, shutdown).await;
}

const BOUNDS: Bounds =
    Bounds { connections: 32, head: Duration::from_secs(5), exchange: Duration::from_secs(60) };

/// The longest request body, in bytes: a certificate chain and a key fit in easily.
const BODY_SIZE: usize = 64 * 1024;

const PEM: &str = "application/x-pem-file";

/// Who asks, by the kernel's word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Caller {
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<i32>,
}

impl Caller {
    fn of(credentials: &io::Result<UCred>) -> Self {
        let credentials = credentials.as_ref().ok();
        Self {
            uid: credentials.map(UCred::uid),
            gid: credentials.map(UCred::gid),
            pid: credentials.and_then(UCred::pid),
        }
    }
}

async fn answer_to<S: Steward>(
    request: Request<Incoming>,
    caller: Caller,
    (doorman, refusals): (Doorman, Arc<Refusals>),
    steward: Arc<S>,
) -> Answer {
    let path = request.uri().path().to_owned();
    let Some((call, method)) = Call::parse(&path) else { return answer::not_found(&path) };
    if request.method() != method {
        return answer::wrong_method(if method == Method::GET { "GET" } else { "POST" }, request.method());
    }
    let Caller { uid, gid, pid } = caller;
    // The names come from files as a rule, but may come from afar.
    let peer = tokio::task::spawn_blocking(move || Peer::of(uid, gid)).await.unwrap_or_default();
    let role = doorman.roles.of(&peer, rustix::process::geteuid().as_raw());
    let needed = call.needs();
    let witness = Witness { doorman, peer, matter: Matter::of(&path) };
    if role.is_none_or(|role| role < needed) {
        tracing::warn!(uid, pid, path, %needed, "refused");
        let had = role.map_or("nobody", Role::as_str);
        let detail = match needed {
            Role::Viewer => "only those listed as viewers, editors or operators may ask anything".to_owned(),
            Role::Editor | Role::Operator => format!(
                "only {needed}s may do that, and you are {had}: root and the agent's own user are, and [admin] names others"
            ),
        };
        if let Some(others) = refusals.admit(uid, &witness.matter.verb, witness.doorman.clock.now()) {
            let others = match others {
                0 => String::new(),
                others => format!("; as often before, without a record: {others}"),
            };
            witness.note(AuditOutcome::Refused, Some(format!("needs {needed}, is {had}{others}"))).await;
        }
        return answer::problem(StatusCode::FORBIDDEN, "not-permitted", &detail);
    }
    if call.changes_something() {
        if let Some(why) = witness.obstacle().await.filter(|_| needed == Role::Operator) {
            tracing::error!(uid, pid, path, why, "not done, for it cannot be written into the audit log");
            let detail = format!("nothing was done, for it cannot be written into the audit log: {why}");
            return answer::problem(StatusCode::SERVICE_UNAVAILABLE, "no-audit", &detail);
        }
        tracing::info!(uid, pid, path, "change asked for");
    }
    let body = match Limited::new(request.into_body(), BODY_SIZE).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return answer::problem(StatusCode::BAD_REQUEST, "bad-body", &error.to_string());
        }
    };
    // On its own, for a caller who hangs up must neither break off what is under way nor keep it out of the log.
    let work = tokio::spawn(async move {
        let witness = call.changes(&body).then(|| witness.about(call.matter(&body)));
        let outcome = call.carry_out(&body, &*steward).await;
        if let Some(witness) = witness {
            let (word, why) = match &outcome {
                Ok(_) => (AuditOutcome::Done, None),
                Err(StewardError::Failed(why)) => (AuditOutcome::Failed, Some(why.clone())),
                Err(error) => (AuditOutcome::Refused, Some(error.to_string())),
            };
            witness.note(word, why).await;
        }
        outcome
    });
    match work.await {
        Ok(outcome) => outcome.unwrap_or_else(|error| answer::refusal(&error)),
        Err(error) => {
            tracing::error!(%error, path, "a request was broken off");
            answer::refusal(&StewardError::Failed("the request was broken off".to_owned()))
        }
    }
}

/// Whether a request only asks what would be.
fn is_rehearsal(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Terms {
        #[serde(default)]
        dry_run: bool,
    }
    serde_json::from_slice::<Terms>(body).is_ok_and(|terms| terms.dry_run)
}

/// Who was refused what of late: nobody may fill the disk with refusals.
#[derive(Debug, Default)]
struct Refusals(Mutex<BTreeMap<(Option<u32>, String), Refused>>);

/// Refusals of one kind.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// When one was written down.
    noted: Timestamp,
    /// As many were not since.
    others: u64,
}

/// Of refusals of one user and one verb, one is written down in this time.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);

/// So many kinds of refusals are told apart; what is beyond counts as one.
const REFUSAL_KINDS: usize = 1024;

impl Refusals {
    /// Whether a refusal is to be written down; with it, how many of its kind were not.
    fn admit(&self, uid: Option<u32>, verb: &str, now: Timestamp) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After the clock was set back, what was noted lies ahead.
        let is_fresh = |kind: &Refused| now >= kind.noted && now.since(kind.noted) < REFUSALS_EVERY;
        let mut key = (uid, verb.to_owned());
        if kinds.len() >= REFUSAL_KINDS && !kinds.contains_key(&key) {
            kinds.retain(|_, kind| is_fresh(kind));
            if kinds.len() >= REFUSAL_KINDS {
                key = (None, String::new());
            }
        }
        match kinds.get_mut(&key) {
            Some(kind) if is_fresh(kind) => {
                kind.others += 1;
                None
            }
            kind => {
                let others = kind.map_or(0, |kind| kind.others);
                kinds.insert(key, Refused { noted: now, others: 0 });
                Some(others)
            }
        }
    }
}

/// Somebody's request, for the audit log.
#[derive(Clone)]
struct Witness {
    doorman: Doorman,
    peer: Peer,
    matter: Matter,
}

impl Witness {
    /// The same, with what the body says of the matter.
    fn about(mut self, (target, reason): (Option<String>, Option<String>)) -> Self {
        self.matter.target = target.unwrap_or(self.matter.target);
        self.matter.reason = reason;
        self
    }

    async fn obstacle(&self) -> Option<String> {
        let audit = Arc::clone(&self.doorman.audit);
        tokio::task::spawn_blocking(move || audit.obstacle()).await.unwrap_or_default()
    }

    async fn note(&self, outcome: AuditOutcome, detail: Option<String>) {
        let Self { doorman, peer, matter: Matter { verb, target, reason } } = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let name = match (peer.user, peer.uid) {
                (Some(user), _) => user,
                (None, Some(uid)) => format!("uid {uid}"),
                (None, None) => "unknown".to_owned(),
            };
            let actor = Actor { name, uid: peer.uid, sudo_uid: None };
            let mut event = AuditEvent::new(actor, verb, target, outcome, doorman.clock.now());
            (event.detail, event.reason) = (detail, reason);
            doorman.audit.append(event)
        });
        match written.await {
            Ok(Ok(_)) => (),
            Ok(Err(error)) => {
                tracing::error!(error = %Causes(&error), verb = self.matter.verb, "not written into the audit log");
            }
            Err(error) => tracing::error!(%error, verb = self.matter.verb, "not written into the audit log"),
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Matter {
    verb: String,
    target: String,
    reason: Option<String>,
}

impl Matter {
    /// As far as the path says: `authorities/issuing/rotate` is `ca.rotate` of `authority:issuing`.
    fn of(path: &str) -> Self {
        let path = path.strip_prefix("/v1/").unwrap_or(path);
        let (verb, target) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["authorities", level, verb] => (format!("ca.{verb}"), format!("authority:{level}")),
            ["authorities", verb] => (format!("ca.{verb}"), "authority:issuing".to_owned()),
            ["certificates"] => ("cert.issue".to_owned(), "certificate".to_owned()),
            ["tokens", "keys", "kill"] => ("token.kill-key".to_owned(), "key".to_owned()),
            ["tokens", "withdraw"] => ("token.revoke".to_owned(), "token".to_owned()),
            ["workloads", workload, verb] => (format!("cert.{verb}"), format!("workload:{workload}")),
            [verb] => (format!("agent.{verb}"), "agent".to_owned()),
            _ => ("agent.ask".to_owned(), path.to_owned()),
        };
        Self { verb, target, reason: None }
    }
}

/// What can be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Call {
    Bundle,
    Change(Level, String),
    Crl,
    Explain,
    Install,
    Issue,
    KillTokenKey,
    Recall(String),
    Reload,
    Renew(WorkloadId),
    Request,
    Revoke(Level),
    Sign,
    Status,
    TokenKeys,
    Usage,
    Uses,
    WhoCan,
    WithdrawTokens,
}

impl Call {
    fn parse(path: &str) -> Option<(Self, Method)> {
        let call = match path.strip_prefix("/v1/")? {
            "bundle" => return Some((Self::Bundle, Method::GET)),
            "authorities/install" => Self::Install,
            "authorities/request" => Self::Request,
            "authorities/sign" => Self::Sign,
            "certificates" => Self::Issue,
            "crl" => return Some((Self::Crl, Method::GET)),
            "explain" => Self::Explain,
            "reload" => Self::Reload,
            "status" => return Some((Self::Status, Method::GET)),
            "tokens/keys" => return Some((Self::TokenKeys, Method::GET)),
            "tokens/keys/kill" => Self::KillTokenKey,
            "tokens/withdraw" => Self::WithdrawTokens,
            "credentials/uses" => return Some((Self::Uses, Method::GET)),
            "usage" => Self::Usage,
            "who-can" => Self::WhoCan,
            other => match other.split('/').collect::<Vec<_>>().as_slice() {
                ["decisions", id] if is_request_id(id) => {
                    return Some((Self::Recall((*id).to_owned()), Method::GET));
                }
                ["workloads", workload, "renew"] => Self::Renew(workload.parse().ok()?),
                ["authorities", level, verb] => {
                    let level =
                        [Level::Issuing, Level::Root].into_iter().find(|one| one.as_str() == *level)?;
                    match *verb {
                        "revoke" => Self::Revoke(level),
                        verb if Moved::VERBS.contains(&verb) => Self::Change(level, verb.to_owned()),
                        _ => return None,
                    }
                }
                _ => return None,
            },
        };
        Some((call, Method::POST))
    }

    const fn changes_something(&self) -> bool {
        !matches!(
            self,
            Self::Bundle
                | Self::Crl
                | Self::Explain
                | Self::Recall(_)
                | Self::Status
                | Self::TokenKeys
                | Self::Usage
                | Self::Uses
                | Self::WhoCan
        )
    }

    /// Whether this request, with its body, changes something.
    fn changes(&self, body: &[u8]) -> bool {
        // Only what can be rehearsed is asked whether it is.
        let has_rehearsal =
            matches!(self, Self::Change(..) | Self::Install | Self::Request | Self::Revoke(_) | Self::Sign);
        self.changes_something() && !(has_rehearsal && is_rehearsal(body))
    }

    /// What the body says of the target and of the reason; a token itself is not told.
    fn matter(&self, body: &[u8]) -> (Option<String>, Option<String>) {
        match self {
            Self::KillTokenKey => {
                let order = read::<TokenKeyOrder>(body).ok();
                (order.map(|order| format!("key:{}", order.key)), None)
            }
            Self::Revoke(_) => match read::<RevokeOrder>(body) {
                Ok(order) => (Some(format!("authority:{}", order.id)), Some(order.reason)),
                Err(_) => (None, None),
            },
            Self::WithdrawTokens => {
                let target = match read::<WithdrawOrder>(body) {
                    Ok(WithdrawOrder::App(id)) => Some(format!("app:{id}")),
                    Ok(WithdrawOrder::Credential(id)) => Some(format!("credential:{id}")),
                    Ok(WithdrawOrder::Jti(jti)) => Some(format!("jti:{jti}")),
                    Ok(WithdrawOrder::Token(_)) | Err(_) => None,
                };
                (target, None)
            }
            Self::Bundle
            | Self::Change(..)
            | Self::Crl
            | Self::Explain
            | Self::Install
            | Self::Issue
            | Self::Recall(_)
            | Self::Reload
            | Self::Renew(_)
            | Self::Request
            | Self::Sign
            | Self::Status
            | Self::TokenKeys
            | Self::Usage
            | Self::Uses
            | Self::WhoCan => (None, None),
        }
    }

    const fn needs(&self) -> Role {
        match self {
            Self::Bundle
            | Self::Crl
            | Self::Explain
            | Self::Recall(_)
            | Self::Status
            | Self::TokenKeys
            | Self::Usage
            | Self::Uses
            | Self::WhoCan => Role::Viewer,
            Self::Reload | Self::Renew(_) | Self::WithdrawTokens => Role::Editor,
            Self::Change(..)
            | Self::KillTokenKey
            | Self::Install
            | Self::Issue
            | Self::Request
            | Self::Revoke(_)
            | Self::Sign => Role::Operator,
        }
    }

    async fn carry_out(self, body: &[u8], steward: &impl Steward) -> Result<Answer, StewardError> {
        Ok(match self {
            Self::Bundle => answer::text(StatusCode::OK, PEM, steward.bundle_pem()),
            Self::Change(level, verb) => {
                let order = if body.is_empty() { MoveOrder::default() } else { read(body)? };
                ok(&Moved::from(steward.change_authority(order.change(level, &verb)?).await?))
            }
            Self::Crl => answer::text(StatusCode::OK, PEM, steward.crl_pem()),
            Self::Explain => ok(&steward.explain(read(body)?)?),
            Self::Install => ok(&steward.install(read::<InstallationOrder>(body)?.order()?).await?),
            Self::Issue => ok(&steward.issue(read::<Order>(body)?).await?),
            Self::KillTokenKey => {
                steward.kill_token_key(read::<TokenKeyOrder>(body)?.key).await?;
                ok(&steward.token_keys()?)
            }
            Self::Recall(id) => ok(&steward.recall(id).await?),
            Self::Reload => ok(&steward.reload().await?),
            Self::Renew(workload) => {
                steward.renew(workload.clone()).await?;
                let status = steward.status();
                let renewed = status.workloads.into_iter().find(|status| status.id == workload);
                ok(&renewed
                    .ok_or_else(|| StewardError::Unknown(format!("there is no workload {workload}")))?)
            }
            Self::Request => {
                let order: RequestOrder = if body.is_empty() { RequestOrder::default() } else { read(body)? };
                let (wanted, run) = order.terms();
                ok(&steward.request(wanted, run).await?)
            }
            Self::Revoke(level) => {
                let order: RevokeOrder = read(body)?;
                ok(&Moved::from(steward.revoke_authority(order.revocation(level)).await?))
            }
            Self::Sign => ok(&steward.sign(read::<SignatureOrder>(body)?.order()?).await?),
            Self::Status => ok(&steward.status()),
            Self::TokenKeys => ok(&steward.token_keys()?),
            Self::WithdrawTokens => ok(&steward.withdraw_tokens(read(body)?).await?),
            Self::Uses => ok(&steward.credential_uses()),
            Self::Usage => ok(&steward.usage(&read(body)?)),
            Self::WhoCan => ok(&steward.who_can(&read(body)?)?),
        })
    }
}

/// Whether `id` is made of what request ids are made of.
fn is_request_id(id: &str) -> bool {
    !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn ok<T: Serialize>(value: &T) -> Answer {
    answer::json(StatusCode::OK, value)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, StewardError> {
    // The message must not quote the body, which may hold a key.
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        StewardError::Invalid(format!("the request's body is malformed at line {line}, column {column}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_ca_takes_an_operator_and_a_look_takes_a_viewer() {
        for (path, role) in [
            ("/v1/status", Role::Viewer),
            ("/v1/explain", Role::Viewer),
            ("/v1/reload", Role::Editor),
            ("/v1/workloads/billing/renew", Role::Editor),
            ("/v1/certificates", Role::Operator),
            ("/v1/authorities/issuing/rotate", Role::Operator),
            ("/v1/authorities/root/revoke", Role::Operator),
            ("/v1/authorities/sign", Role::Operator),
        ] {
            assert_eq!(Call::parse(path).unwrap().0.needs(), role, "{path}");
        }
    }

    #[test]
    fn a_request_has_a_verb_and_a_target() {
        for (path, verb, target) in [
            ("/v1/authorities/root/rotate", "ca.rotate", "authority:root"),
            ("/v1/workloads/web/renew", "cert.renew", "workload:web"),
            ("/v1/reload", "agent.reload", "agent"),
            ("/v1/tokens/withdraw", "token.revoke", "token"),
            ("/v1/tokens/keys/kill", "token.kill-key", "key"),
        ] {
            let matter = Matter::of(path);
            assert_eq!((&*matter.verb, &*matter.target), (verb, target), "{path}");
        }
        assert!(is_rehearsal(br#"{"dry_run": true}"#) && !is_rehearsal(b"") && !is_rehearsal(b"{}"));
    }

    #[test]
    fn the_body_says_what_a_request_is_about() {
        let about = |path: &str, body: &str| Call::parse(path).unwrap().0.matter(body.as_bytes());
        let target = |body| about("/v1/tokens/withdraw", body).0;

        assert_eq!(target(r#"{"app": "ledger"}"#).as_deref(), Some("app:ledger"));
        assert_eq!(target(r#"{"credential": "0000000000A1"}"#).as_deref(), Some("credential:0000000000A1"));
        assert_eq!(target(r#"{"jti": "j1"}"#).as_deref(), Some("jti:j1"));
        assert_eq!(target(r#"{"token": "eyJ"}"#), None);
        assert_eq!(about("/v1/tokens/keys/kill", r#"{"key": "k1"}"#).0.as_deref(), Some("key:k1"));
        let id = "ab".repeat(20);
        let revocation = format!(r#"{{"id": "{id}", "reason": "key copied"}}"#);
        let told = about("/v1/authorities/root/revoke", &revocation);
        assert_eq!(told, (Some(format!("authority:{id}")), Some("key copied".to_owned())));
    }

    #[test]
    fn only_what_can_be_rehearsed_is_believed_to_be_a_rehearsal() {
        let changes = |path: &str, body: &str| Call::parse(path).unwrap().0.changes(body.as_bytes());
        let rehearsal = r#"{"dry_run": true}"#;

        assert!(!changes("/v1/authorities/root/rotate", rehearsal));
        assert!(changes("/v1/authorities/root/rotate", ""));
        for path in ["/v1/reload", "/v1/workloads/web/renew", "/v1/tokens/withdraw", "/v1/tokens/keys/kill"] {
            assert!(changes(path, rehearsal), "{path}");
        }
    }

    #[test]
    fn of_many_refusals_one_a_minute_is_written_down_and_the_others_are_counted() {
        let (refusals, start) = (Refusals::default(), Timestamp::FLOOR);
        let admit =
            |uid, verb: &str, seconds| refusals.admit(Some(uid), verb, start + Duration::from_secs(seconds));

        assert_eq!(admit(7, "ca.rotate", 0), Some(0));
        assert_eq!((admit(7, "ca.rotate", 1), admit(7, "ca.rotate", 59)), (None, None));
        assert_eq!((admit(8, "ca.rotate", 1), admit(7, "ca.revoke", 1)), (Some(0), Some(0)));
        assert_eq!(admit(7, "ca.rotate", 60), Some(2));
        assert_eq!(admit(7, "ca.rotate", 0), Some(0));
    }

    #[test]
    fn every_call_has_one_path_and_one_method() {
        let renew = Call::Renew("billing".parse().unwrap());

        assert_eq!(Call::parse("/v1/status"), Some((Call::Status, Method::GET)));
        assert_eq!(Call::parse("/v1/workloads/billing/renew"), Some((renew.clone(), Method::POST)));
        assert!(
            renew.changes_something() && Call::Issue.changes_something() && Call::Reload.changes_something()
        );
        assert!(!Call::Explain.changes_something());
        assert_eq!(
            Call::parse("/v1/authorities/root/rollback"),
            Some((Call::Change(Level::Root, "rollback".to_owned()), Method::POST))
        );
        for path in [
            "/",
            "/v1/authorities/leaf/rotate",
            "/v1/authorities/root/burn",
            "/v1/",
            "/v2/status",
            "/v1/status/",
            "/v1/workloads/../renew",
            "/v1/workloads//renew",
        ] {
            assert_eq!(Call::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_malformed_body_is_not_quoted() {
        let error = read::<Order>(br#"{"pstn_sk_secret": 1}"#).unwrap_err();

        assert_eq!(error.to_string(), "the request's body is malformed at line 1, column 17");
    }
}
