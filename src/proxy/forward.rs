//! The only way upstream: with a permit to a service, or as an attested workload to a remote.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::time::Instant;

use super::admission::{Admission, DIGEST_MISMATCH};
use super::framing::Framing;
use super::h2_bridge;
use super::h2_head::Scheme;
use super::h2_upstream::seat;
use super::proxy_status::ProxyError;
use super::pump::PumpError;
use super::refuse::Answer;
use super::relay::{RelayError, Relayed};
use super::response::SWITCHING;
use super::settings::{ErrorFormat, Limits, RemoteProtocol, ServiceProtocol, ServiceSettings};
use super::snapshot::{Client, Standing};
use super::trailers::TrailerName;
use super::upstream::{Bond, DialError, PoolKey, Terms, Upstream, dial_local, dial_remote};
use super::worker::Worker;
use crate::causes::Causes;
use crate::id::{RemoteId, WorkloadId};
use crate::identity::SpiffeId;

/// A local workload that the kernel vouched for, on its way to a remote.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) remote: RemoteId,
    pub(super) workload: WorkloadId,
    pub(super) own_id: SpiffeId,
    /// What the exchange rests on that is under way.
    pub(super) bond: RefCell<Option<Arc<Bond>>>,
}

impl Resident {
    /// Somebody with the same rights, on whom nothing rests yet.
    pub(super) fn twin(&self) -> Self {
        let Self { remote, workload, own_id, .. } = self;
        let (remote, workload, own_id) = (remote.clone(), workload.clone(), own_id.clone());
        Self { remote, workload, own_id, bond: RefCell::default() }
    }

    /// Whether what is under way may go on under the snapshot that is in force now.
    pub(super) fn still_stands(&self, worker: &Worker) -> bool {
        let bond = self.bond.borrow().clone();
        bond.is_none_or(|bond| may_go_on(worker, self, &bond).is_ok())
    }
}

/// Whether a connection to a remote would be made again: the workload still has an identity, the remote is still one that is
/// expected, and both certificates are still believed; if not, why.
///
/// # Errors
/// The code of the reason.
pub(super) fn may_go_on(worker: &Worker, resident: &Resident, bond: &Bond) -> Result<(), &'static str> {
    let snapshot = worker.snapshot();
    let remote = snapshot.remotes.get(&resident.remote);
    let remote =
        remote.filter(|remote| remote.clients.contains_key(&resident.workload)).ok_or("no-identity")?;
    let spiffe_id = &bond.peer.subject.spiffe_id;
    if !remote.settings.spiffe_ids.contains(spiffe_id) {
        worker.cuts.count("not-expected");
        tracing::warn!(target: "postern::proxy", %spiffe_id, remote = %resident.remote, "connection cut: the remote is not expected any more");
        return Err("not-expected");
    }
    let door = resident.remote.as_str();
    worker.still_believes(&bond.peer, door)?;
    bond.own.as_ref().map_or(Ok(()), |own| worker.still_believes(own, door))
}

/// Where a request goes, and by what right.
#[expect(clippy::large_enum_variant, reason = "it lives for one request, and a yes must not allocate")]
#[derive(Debug)]
pub(super) enum Route<'a> {
    /// To a remote, by the right of an attested workload.
    Remote(&'a Resident),
    /// To a local service, by permit.
    Service(Admission<'a>),
}

impl Route<'_> {
    /// The name of what is asked.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Remote(resident) => resident.remote.as_str(),
            Self::Service(admission) => admission.service.id.as_str(),
        }
    }

    /// How callers are told that there is no answer.
    pub(super) fn error_format(&self) -> ErrorFormat {
        match self {
            Self::Remote(_) => ErrorFormat::default(),
            Self::Service(admission) => admission.service.error_format,
        }
    }
}

impl<'a> Route<'a> {
    /// What may follow a body on this way, if anything may.
    pub(super) fn trailers(&self) -> Option<&'a Arc<[TrailerName]>> {
        match self {
            Self::Remote(_) => None,
            Self::Service(Admission { service, .. }) => {
                let service: &'a ServiceSettings = service;
                Some(&service.trailers).filter(|allowed| !allowed.is_empty())
            }
        }
    }
}

/// Why there is no answer from the other side.
#[derive(Debug)]
pub(super) enum Failure {
    /// The caller gets this instead.
    Answer(Answer),
    /// The answer had begun, or the caller is gone: only the connection can be closed.
    Broken,
}

/// Runs one exchange over a connection that is kept alive, dialling where none is fresh.
///
/// A kept connection that dies before it answers is replaced once, if the request may be repeated: its method is idempotent
/// (RFC 9110 §9.2.2) and it has no body.
///
/// # Errors
/// What to tell the caller, if it can still be told anything.
pub(super) async fn forward(
    worker: &Worker,
    route: &Route<'_>,
    limits: &Limits,
    repeatable: Repeatable,
    mut exchange: impl AsyncFnMut(&mut Upstream) -> Result<Relayed, RelayError>,
) -> Result<Relayed, Failure> {
    let mut exchange = async |upstream: &mut Upstream| {
        let Route::Remote(resident) = route else { return exchange(upstream).await };
        resident.bond.replace(upstream.bond.clone());
        let outcome = exchange(upstream).await;
        resident.bond.take();
        outcome
    };
    let way = valid_way(worker, route, limits).await.ok_or(Failure::Answer(NO_IDENTITY))?;
    let begun = Instant::now();
    let mut upstream = match way.kept(worker).filter(|kept| still_stands(worker, route, kept)) {
        Some(upstream) => upstream,
        None => fresh(worker, route, &way, limits).await?,
    };
    // A stream of a shared connection is never the first one there, however often it is replaced.
    let mut replaced = false;
    loop {
        let may_repeat = upstream.reused && !replaced && repeatable == Repeatable::Yes;
        match exchange(&mut upstream).await {
            Ok(relayed) => {
                // How long a tunnel lasted says nothing of how fast the service answers.
                if relayed.status != SWITCHING {
                    note_delay(worker, route, begun);
                }
                if relayed.upstream_may_continue {
                    worker.pool.give_back(&way.key, upstream, limits.pooled);
                }
                return Ok(relayed);
            }
            Err(RelayError::Upstream(_)) if may_repeat => {
                replaced = true;
                upstream = fresh(worker, route, &way, limits).await?;
            }
            Err(error) => {
                if matches!(error, RelayError::TimedOut) {
                    note_delay(worker, route, begun);
                }
                return Err(failure(worker, route, &error));
            }
        }
    }
}

/// A connection for one exchange that is not a kept one; where connections are shared, a stream that looks like one.
async fn fresh(worker: &Worker, route: &Route<'_>, way: &Way, limits: &Limits) -> Result<Upstream, Failure> {
    match way.speech {
        // Most exchanges never dial, and are small for it.
        Speech::Alone => Box::pin(dial_believed(worker, route, way, limits)).await,
        Speech::Shared => Ok(h2_bridge::open(seat(worker, route, way, limits).await?, way.scheme())),
    }
}

/// Tells whoever limits the service's requests how long this one took.
pub(super) fn note_delay(worker: &Worker, route: &Route<'_>, begun: Instant) {
    if let Route::Service(admission) = route {
        admission.permit.answered(begun.elapsed(), worker.now());
    }
}

/// A fresh connection along `way` that is still believed now that it is there: trust may have changed meanwhile.
pub(super) async fn dial_believed(
    worker: &Worker,
    route: &Route<'_>,
    way: &Way,
    limits: &Limits,
) -> Result<Upstream, Failure> {
    let upstream = dial(worker, way, limits).await?;
    if still_stands(worker, route, &upstream) { Ok(upstream) } else { Err(Failure::Answer(UNAVAILABLE)) }
}

/// Whether the certificates under a connection are believed now. A pool does not notice when one ceases to be.
fn still_stands(worker: &Worker, route: &Route<'_>, upstream: &Upstream) -> bool {
    match (route, &upstream.bond) {
        (Route::Remote(resident), Some(bond)) => may_go_on(worker, resident, bond).is_ok(),
        (Route::Remote(_) | Route::Service(_), _) => true,
    }
}

/// Whether a request may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repeatable {
    No,
    Yes,
}

impl Repeatable {
    /// By method and body.
    pub(super) fn of(method: &str, body: Framing) -> Self {
        let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
        if idempotent && body == Framing::Length(0) { Self::Yes } else { Self::No }
    }
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speech {
    /// HTTP/1.1, or raw bytes: a connection is for one exchange at a time.
    Alone,
    /// HTTP/2: exchanges share a connection.
    Shared,
}

/// How an upstream is reached.
pub(super) struct Way {
    pub(super) key: PoolKey,
    speech: Speech,
    remote: Option<(String, Client)>,
}

impl Way {
    /// The scheme of what is asked there (RFC 9113 §8.3.1).
    pub(super) const fn scheme(&self) -> Scheme {
        if self.remote.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether the certificate that is shown on it is good now.
    fn is_valid(&self, worker: &Worker) -> bool {
        let showable = |client: &Client| {
            client.life.covers(worker.now()) && !matches!(client.standing, Standing::Revoked)
        };
        self.remote.as_ref().is_none_or(|(_, client)| showable(client))
    }

    /// A connection that was kept for the next exchange.
    fn kept(&self, worker: &Worker) -> Option<Upstream> {
        match self.speech {
            Speech::Alone => worker.pool.take(&self.key, worker.now()),
            Speech::Shared => None,
        }
    }
}

/// The way that `route` takes under the snapshot in force; none when the workload has lost its identity meanwhile.
fn way(worker: &Worker, route: &Route<'_>) -> Option<Way> {
    match route {
        Route::Service(Admission { service, .. }) => {
            let speech = match service.protocol {
                ServiceProtocol::H2c => Speech::Shared,
                ServiceProtocol::Http1 => Speech::Alone,
            };
            Some(Way { key: PoolKey::Local(service.endpoint.clone()), speech, remote: None })
        }
        Route::Remote(Resident { remote, workload, .. }) => {
            let snapshot = worker.snapshot();
            let settings = snapshot.remotes.get(remote)?;
            let client = settings.clients.get(workload)?.clone();
            let terms = Terms::of(&client);
            let key = PoolKey::Remote { remote: remote.clone(), workload: workload.clone(), terms };
            let speech = match settings.settings.protocol {
                RemoteProtocol::H2 => Speech::Shared,
                RemoteProtocol::Http | RemoteProtocol::Tcp => Speech::Alone,
            };
            Some(Way { key, speech, remote: Some((settings.settings.address.clone(), client)) })
        }
    }
}

/// The way that `route` takes, if it can be taken at once.
fn way_now(worker: &Worker, route: &Route<'_>) -> Option<Way> {
    way(worker, route).filter(|way| way.is_valid(worker))
}

/// The way that `route` takes, waiting a moment for a certificate that is valid now and not revoked: after the clock was set, the
/// machine has slept or somebody has revoked it, the one at hand may not be, and the next one is on its way.
pub(super) async fn valid_way(worker: &Worker, route: &Route<'_>, limits: &Limits) -> Option<Way> {
    let found = way(worker, route)?;
    if found.is_valid(worker) {
        return Some(found);
    }
    let found = Box::pin(worker.hold(limits.connect, || way_now(worker, route))).await;
    if found.is_none()
        && let Route::Remote(Resident { remote, workload, .. }) = route
    {
        tracing::warn!(target: "postern::proxy", %remote, %workload, "the workload has no certificate that is valid now and not revoked");
    }
    found
}

/// A fresh connection along `way`.
///
/// # Errors
/// Nobody answers there, or not who was expected.
pub(super) async fn dial(worker: &Worker, way: &Way, limits: &Limits) -> Result<Upstream, Failure> {
    let dialled = match (&way.key, &way.remote) {
        (_, Some((address, client))) => {
            let verifier = Arc::clone(&worker.snapshot().verifier);
            dial_remote(address, client, &verifier, limits.connect, worker.now()).await
        }
        (PoolKey::Local(endpoint), None) => dial_local(endpoint, limits.connect).await,
        (PoolKey::Remote { .. }, None) => Err(DialError::Name),
    };
    dialled.map_err(|error| {
        worker.metrics.upstream_failures.inc();
        if let Some(skew) = error.skew() {
            worker.note_skew(skew);
        }
        tracing::warn!(target: "postern::proxy", to = ?way.key, error = %Causes(&error), "upstream cannot be reached");
        Failure::Answer(match error {
            DialError::TimedOut => TIMED_OUT,
            DialError::Connect(_) | DialError::Name | DialError::Tls(_) | DialError::Untrusted(_) => {
                UNAVAILABLE.because(error.in_common_words())
            }
        })
    })
}

fn failure(worker: &Worker, route: &Route<'_>, error: &RelayError) -> Failure {
    tracing::debug!(target: "postern::proxy", error = %Causes(error), "exchange failed");
    match error {
        RelayError::Caller(PumpError::Body(_) | PumpError::Trailers) => Failure::Answer(BAD_BODY),
        RelayError::Caller(PumpError::Slow) => {
            worker.cuts.count("slow-body");
            Failure::Answer(SLOW_BODY)
        }
        RelayError::Caller(PumpError::Digest) => Failure::Answer(DIGEST_MISMATCH),
        RelayError::Caller(_) | RelayError::Interim(_) | RelayError::Midway(_) => Failure::Broken,
        RelayError::Response(_) | RelayError::TimedOut | RelayError::Upstream(_) => {
            worker.metrics.upstream_failures.inc();
            let name = route.name();
            tracing::warn!(target: "postern::proxy", to = name, error = %Causes(error), "upstream gave no answer");
            Failure::Answer(match error {
                RelayError::TimedOut => NO_ANSWER,
                RelayError::Upstream(_) => BAD_ANSWER.because(ProxyError::ConnectionTerminated),
                RelayError::Caller(_)
                | RelayError::Interim(_)
                | RelayError::Midway(_)
                | RelayError::Response(_) => BAD_ANSWER,
            })
        }
    }
}

pub(super) const BAD_ANSWER: Answer = Answer::new(502, "bad-gateway", "The service gave no usable answer.");
const BAD_BODY: Answer = Answer::new(400, "bad-body", "The request body is malformed.");
/// The caller kept the service waiting.
pub(super) const SLOW_BODY: Answer = Answer::new(408, "slow-body", "The request body comes too slowly.");
/// The service was reached, and then nothing more was heard of it.
pub(super) const NO_ANSWER: Answer =
    Answer::new(504, "upstream-timeout", "The service did not answer in time.");
pub(super) const NO_IDENTITY: Answer =
    Answer::new(503, "no-identity", "The workload has no identity at the moment.");
pub(super) const TIMED_OUT: Answer =
    Answer::new(504, "upstream-timeout", "The service could not be reached in time.")
        .because(ProxyError::ConnectionTimeout);
/// Who answers there does not speak what is configured.
pub(super) const NOT_HTTP2: Answer =
    Answer::new(502, "bad-gateway", "The service does not speak HTTP/2, as it is configured to.");
const UNAVAILABLE: Answer = Answer::new(502, "upstream-unavailable", "The service cannot be reached.");
