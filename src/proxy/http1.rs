//! An HTTP/1 connection from its first byte to its last: read, admit, relay, log, again.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::admission::{Admission, Visitor, request_id, user_agent};
use super::buffer::{Buffer, Scratch, poll_read_secret};
use super::deadline::{Deadline, Phase};
use super::drip::Drip;
use super::ending::{Ending, Wish};
use super::forward::{Failure, NO_ANSWER, Repeatable, Resident, Route, forward, note_delay};
use super::framing::{Decoder, Framing, Piece};
use super::headers::loggable;
use super::http_gate::{BadHead, MAX_FIELDS, Version, head_end, read_http1};
use super::judgement::{self, Course, Judgement};
use super::limit_fields::write_lines;
use super::linger::{self, LINGER};
use super::refuse::Answer;
use super::relay::{Body, Pace, Relayed, Side, Stage, relay};
use super::request_id::RequestId;
use super::response::{Caller, SWITCHING};
use super::settings::{Endpoint, Limits};
use super::snapshot::Snapshot;
use super::tcp;
use super::token_office::{self, FormFailure, Known, LONGEST_FORM};
use super::trace::Trace;
use super::trailers::{self, Bound, Trailers};
use super::upgrade::{Tunnel, UpgradeProtocol, near_end};
use super::whoami;
use super::worker::Worker;
use crate::clock::Timestamp;
use crate::oauth::Errand;
use crate::telemetry::{AccessEvent, Call, SpanContext};

/// Who speaks on the connection.
pub(super) enum Peer {
    /// Somebody from outside, who must be let in.
    Visitor(Box<Visitor>),
    /// A local workload on its way out.
    Resident(Box<Resident>),
}

impl Peer {
    /// Whether the connection may go on under the snapshot that is in force now.
    pub(super) fn still_stands(&self, worker: &Worker) -> bool {
        match self {
            Self::Resident(resident) => resident.still_stands(worker),
            Self::Visitor(visitor) => visitor.still_stands(worker).is_ok(),
        }
    }

    /// The direction, the door, the address where there is one, and the SPIFFE ID or nothing.
    pub(super) fn whence(&self) -> (&'static str, &str, Option<SocketAddr>, &str) {
        match self {
            Self::Resident(resident) => ("out", resident.remote.as_str(), None, resident.own_id.as_str()),
            Self::Visitor(visitor) => {
                let door = visitor.listener.settings.id.as_str();
                ("in", door, Some(visitor.peer), visitor.spiffe_id())
            }
        }
    }

    /// When the certificates end that the exchange under way rests on, if it leads to a remote.
    fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Resident(resident) => resident.bond.borrow().as_ref().map(|bond| bond.until),
            Self::Visitor(_) => None,
        }
    }
}

/// Serves requests on `io` until either side has had enough. `until` is when the certificate ends that it rests on.
pub(super) async fn serve<S>(worker: Rc<Worker>, peer: Peer, io: S, until: Option<Timestamp>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Arc::clone(&worker.snapshot().limits);
    let validity = || until.or_else(|| peer.until()).map(|until| worker.moment(until));
    let deadline = Deadline::new(Phase::Idle, limits.idle, validity());
    deadline.retire_after(worker.age(&limits));
    let mut signal = worker.signal.clone();
    let ending = Ending::default();
    ending.heed(&signal.borrow_and_update());
    if !peer.still_stands(&worker) {
        return;
    }
    let mut listening = true;
    let tunnelled = Cell::new(false);
    let mut connection = Connection { io, unread: Buffer::default(), stage: Cell::new(Stage::Answered) };
    let ended = {
        let ends = Ends { deadline: &deadline, ending: &ending, tunnelled: &tunnelled };
        let mut serving = pin!(serve_all(&worker, &peer, &mut connection, &limits, ends));
        loop {
            tokio::select! {
                biased;
                () = &mut serving => break None,
                phase = deadline.expired(), if !tunnelled.get() => match phase {
                    // It has just been opened, and sees to its own end.
                    _ if tunnelled.get() => {}
                    // What was asked while the certificate was good is answered, and nothing after it.
                    Phase::Validity if deadline.grant_farewell(FAREWELL) => {
                        worker.note_expiry();
                        ending.set(Wish::AtOnce);
                    }
                    // The request that is under way says so itself, if the caller can still be told.
                    Phase::Transfer if deadline.give_notice(LINGER) => {}
                    Phase::Head | Phase::Idle | Phase::Transfer | Phase::Validity => break Some(phase),
                },
                changed = signal.changed(), if listening && !tunnelled.get() => {
                    if tunnelled.get() {
                        continue;
                    }
                    listening = changed.is_ok();
                    let (was, heard) = (ending.is_wished(), *signal.borrow_and_update());
                    ending.heed(&heard);
                    if ending.is_wished() && !was && let Some(left) = heard.left() {
                        // Who has nothing more to ask goes in the second half, when whoever had was told to.
                        deadline.shorten_idle(left / 2 + worker.some_moment_in(left / 4));
                    }
                    deadline.move_validity(validity());
                    if !peer.still_stands(&worker) {
                        return;
                    }
                }
            }
        }
    };
    if connection.stage.get() == Stage::Answering {
        // The caller must not take for whole what broke off, so it gets neither another answer nor a proper goodbye.
        return;
    }
    match ended {
        Some(Phase::Head) => connection.give_up(&worker, &HEAD_TIMEOUT).await,
        Some(Phase::Transfer) if connection.stage.get() == Stage::Asked => {
            connection.give_up(&worker, &NO_ANSWER).await;
        }
        Some(Phase::Idle | Phase::Transfer | Phase::Validity) | None => {}
    }
    linger::close(&mut connection.io).await;
}

const HEAD_TIMEOUT: Answer = Answer::new(408, "request-timeout", "The request head did not arrive in time.");
const HEAD_TOO_LARGE: Answer = Answer::new(431, "head-too-large", "The request head is too large.");

/// What ends a connection.
#[derive(Clone, Copy)]
struct Ends<'a> {
    deadline: &'a Deadline,
    /// Whether it takes no further request.
    ending: &'a Ending,
    /// Whether it carries something else than HTTP by now, which ends in its own way.
    tunnelled: &'a Cell<bool>,
}

struct Connection<S> {
    io: S,
    unread: Buffer,
    stage: Cell<Stage>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Writes an answer of our own; says whether it could be written.
    async fn answer(&mut self, bytes: &[u8]) -> bool {
        self.stage.set(Stage::Answering);
        let written = self.io.write_all(bytes).await.is_ok();
        self.stage.set(Stage::Answered);
        written
    }

    async fn give_up(&mut self, worker: &Worker, answer: &Answer) {
        let mut out = Vec::new();
        answer.write_http1(&mut out, &worker.ids.next(worker.now()), false, false);
        // The peer was slow enough to be given up; whether it hears why makes no difference any more.
        let goodbye = async { self.io.write_all(&out).await.and(self.io.flush().await) };
        drop(tokio::time::timeout(LINGER, goodbye).await);
    }

    /// Waits for the next head, and gives its length; none when the peer is done or there is nothing more to be done.
    async fn read_head(
        &mut self,
        most: usize,
        deadline: &Deadline,
        ending: &Ending,
        within: Duration,
    ) -> Result<usize, Answer> {
        let mut begun = false;
        loop {
            if let Some(end) = head_end(self.unread.unread()) {
                if end > most {
                    return Err(HEAD_TOO_LARGE);
                }
                return Ok(end);
            }
            if self.unread.unread().len() > most {
                return Err(HEAD_TOO_LARGE);
            }
            if !begun && !self.unread.is_empty() {
                begun = true;
                deadline.set(Phase::Head, within);
            }
            self.unread.rest();
            let Self { io, unread, .. } = self;
            let read = poll_fn(|cx| {
                let read = poll_read_secret(cx, Pin::new(&mut *io), |bytes| unread.extend(bytes));
                // What has come already is answered, whatever was said meanwhile.
                if read.is_pending() && ending.is(Wish::AtOnce) && unread.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                read
            });
            match read.await {
                Ok(0) | Err(_) => return Ok(0),
                Ok(_) => {}
            }
        }
    }
}

async fn serve_all<S>(
    worker: &Worker,
    peer: &Peer,
    connection: &mut Connection<S>,
    limits: &Limits,
    ends: Ends<'_>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ends { deadline, ending, .. } = ends;
    loop {
        deadline.set(Phase::Idle, limits.idle);
        let complete = connection.read_head(limits.head_size, deadline, ending, limits.head).await;
        let keep_alive = match complete {
            Ok(0) => return,
            Ok(_) if deadline.is_past_validity() => return,
            Ok(length) => {
                deadline.set(Phase::Transfer, limits.stall);
                connection.stage.set(Stage::Asked);
                let mut scratch = worker.scratch.take();
                scratch.head.extend_from_slice(connection.unread.unread().get(..length).unwrap_or_default());
                connection.unread.consume(length);
                serve_one(worker, peer, connection, &mut scratch, ends).await
            }
            Err(answer) => {
                let mut out = Vec::new();
                answer.write_http1(&mut out, &worker.ids.next(worker.now()), false, false);
                connection.answer(&out).await;
                count_refusal(worker, peer, answer.code);
                false
            }
        };
        if !keep_alive || connection.io.flush().await.is_err() {
            return;
        }
    }
}

/// Serves one request; says whether the connection may be used for another.
async fn serve_one<S>(
    worker: &Worker,
    peer: &Peer,
    connection: &mut Connection<S>,
    scratch: &mut Scratch,
    ends: Ends<'_>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Scratch { head: bytes, upstream_head, out, limits } = scratch;
    let Ends { deadline, ending, tunnelled } = ends;
    let (now, begun) = (worker.now(), Instant::now());
    let snapshot = worker.snapshot();
    let request = match judge(bytes, worker, peer, &snapshot, now, upstream_head) {
        Ok(request) => request,
        Err(bad) => {
            let answer =
                Answer::new(bad.status(), "bad-request", "The request head is malformed or ambiguous.");
            out.clear();
            answer.write_http1(out, &worker.ids.next(now), false, false);
            connection.answer(out).await;
            tracing::debug!(target: "postern::proxy", error = %bad, "request refused");
            count_refusal(worker, peer, answer.code);
            return false;
        }
    };
    let old = deadline.is_old(begun);
    if old {
        worker.cuts.count("max-age");
    }
    let last = old || ending.is_wished() || deadline.ends_by(begun + NOTICE);
    limits.clear();
    if let Course::Forward(Route::Service(Admission { permit, .. })) = &request.judgement.course {
        write_lines(limits, permit.statement());
    }
    let keep_alive = request.caller.keep_alive && !last;
    let leaks = match &request.judgement.course {
        Course::Forward(Route::Service(Admission { service, .. })) => worker.watch(service.watch),
        Course::Answer(_) | Course::Errand(..) | Course::Forward(Route::Remote(_)) => None,
    };
    let caller = Caller { keep_alive, limits: limits.as_slice(), leaks: leaks.as_ref(), ..request.caller };
    let call = match peer {
        Peer::Visitor(_) => Some(request.judgement.verdict.begin(worker)),
        Peer::Resident(_) => None,
    };
    let mut entry = Entry { worker, peer, request: &request, call, done: BROKEN_OFF, now, begun };
    entry.done = match &request.judgement.course {
        Course::Answer(answer) => answer_here(connection, out, answer, &request, &caller).await,
        Course::Errand(errand, visitor) => {
            run_errand(worker, connection, out, (errand, visitor), &request, &caller).await
        }
        Course::Forward(route) => {
            if let Route::Service(Admission { service, .. }) = route
                && service.endpoint == Endpoint::Whoami
            {
                show(connection, out, upstream_head, &request, &caller).await
            } else {
                let pace = Pace { deadline, stall: snapshot.limits.stall, ending };
                let repeatable = Repeatable::of(request.method, request.body);
                // What has a body is sent once only.
                let mut digest = match route {
                    Route::Service(admission) => admission.digest.clone(),
                    Route::Remote(_) => None,
                };
                let mut carried = None;
                let relayed = forward(worker, route, &snapshot.limits, repeatable, async |upstream| {
                    let side = Side {
                        io: &mut connection.io,
                        unread: &mut connection.unread,
                        out: &mut *out,
                        stage: &connection.stage,
                    };
                    let mut drip = match route {
                        Route::Service(_) if request.body != Framing::Length(0) => {
                            Drip::new(&snapshot.limits)
                        }
                        Route::Remote(_) | Route::Service(_) => Drip::patient(),
                    };
                    if !request.expects {
                        drip.begin();
                    }
                    let trailers = route.trailers().and_then(|allowed| Trailers::of(allowed, Bound::Up));
                    let body = Body { framing: request.body, digest: digest.take(), drip, trailers };
                    let head = &mut *upstream_head;
                    if let Some(until) = upstream.until {
                        deadline.move_validity(Some(worker.moment(until)));
                    }
                    let outcome = relay(side, upstream, head, body, &caller, &request.id, pace).await;
                    if upstream.until.is_some() {
                        deadline.move_validity(None);
                    }
                    if let (Ok(Relayed { status: SWITCHING, .. }), Some(protocol)) =
                        (&outcome, caller.upgrade)
                    {
                        tunnelled.set(true);
                        note_delay(worker, route, begun);
                        let service = match route {
                            Route::Service(admission) => Some(&admission.service.id),
                            Route::Remote(_) => None,
                        };
                        let tunnel = Tunnel { worker, peer, head: bytes, protocol, service };
                        let near = near_end(&mut connection.io, &mut connection.unread);
                        // It lives long, and most connections never see one.
                        carried = Some(Box::pin(tunnel.run(near, upstream, &snapshot.limits)).await);
                    }
                    outcome
                });
                match (relayed.await, carried) {
                    (Ok(_), Some(moved)) => {
                        if moved.ended == Some(tcp::BROKEN_OFF) {
                            connection.stage.set(Stage::Answering);
                        }
                        Done::of_tunnel(moved)
                    }
                    (Ok(relayed), None) => Done::from(relayed),
                    (Err(Failure::Broken), _) => BROKEN_OFF,
                    (Err(Failure::Answer(answer)), _) => {
                        let answer = answer.in_format(route.error_format());
                        let failed = answer_here(connection, out, &answer, &request, &caller).await;
                        Done { code: Some(answer.code), ..failed }
                    }
                }
            }
        }
    };
    entry.done.keep_alive
}

/// A line of the access log, written when it is dropped: also for a request that is given up before its end.
struct Entry<'a> {
    worker: &'a Worker,
    peer: &'a Peer,
    request: &'a Request<'a>,
    /// Held while it is under way.
    call: Option<Call>,
    done: Done,
    now: Timestamp,
    begun: Instant,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.count(self.done.status, self.begun.elapsed());
        }
        log(self.worker, self.peer, self.request, &self.done, self.now, self.begun);
    }
}

/// A request that has been read and judged.
struct Request<'a> {
    id: RequestId,
    /// The span that is recorded of it, if one is.
    span: Option<SpanContext>,
    method: &'a str,
    path: &'a str,
    body: Framing,
    /// Whether the caller waits to be asked for its body (RFC 9110 §10.1.1).
    expects: bool,
    caller: Caller<'a>,
    judgement: Judgement<'a>,
    /// Which state of the registry decided.
    registry: &'a str,
    user_agent: &'a str,
}

/// What became of a request.
struct Done {
    status: u16,
    received: u64,
    sent: u64,
    keep_alive: bool,
    /// Overrides the verdict in the log, where acting on it failed.
    code: Option<&'static str>,
    /// Who it was, where only acting on it has told.
    client: Option<Known>,
}

/// What is known of a request that did not come to its end.
const BROKEN_OFF: Done =
    Done { status: 0, received: 0, sent: 0, keep_alive: false, code: Some("broken-off"), client: None };

impl Done {
    /// What a tunnel carried, and why it ended if not by its own ends.
    const fn of_tunnel(moved: tcp::Moved) -> Self {
        let tcp::Moved { up, down, ended } = moved;
        Self { status: SWITCHING, received: up, sent: down, keep_alive: false, code: ended, client: None }
    }
}

impl From<Relayed> for Done {
    fn from(relayed: Relayed) -> Self {
        let Relayed { status, received, sent, caller_may_continue, .. } = relayed;
        Self { status, received, sent, keep_alive: caller_may_continue, code: None, client: None }
    }
}

/// Reads and decides, without waiting for anything.
fn judge<'a>(
    bytes: &'a [u8],
    worker: &Worker,
    peer: &'a Peer,
    snapshot: &'a Snapshot,
    now: Timestamp,
    upstream_head: &mut Vec<u8>,
) -> Result<Request<'a>, BadHead> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let head = read_http1(bytes, &mut storage)?;
    let id = request_id(&head, &worker.ids, now);
    let trace = Trace::new(&head, &id, &worker.ids).recorded_by(&worker.spans, &worker.ids);
    let mut caller = Caller {
        version: head.version,
        keep_alive: head.keep_alive,
        to_head_request: head.method == "HEAD",
        limits: b"",
        leaks: None,
        upgrade: None,
        trailers: None,
    };
    let judgement = judgement::judge(&head, worker, peer, snapshot, &trace, now, upstream_head);
    caller.upgrade = judgement.upgrade.map(UpgradeProtocol::as_str);
    caller.trailers = match &judgement.course {
        Course::Forward(route) if trailers::are_taken(head.values("te")) => route.trailers(),
        Course::Answer(_) | Course::Errand(..) | Course::Forward(_) => None,
    };
    let expects = head.version == Version::Http11
        && head.values("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let (registry, user_agent) = (snapshot.registry.version(), user_agent(&head));
    Ok(Request {
        id,
        span: trace.span(),
        method: head.method,
        path: head.path,
        body: head.body,
        expects,
        caller,
        judgement,
        registry,
        user_agent,
    })
}

/// Answers without a service; a body that has not arrived whole ends the connection.
async fn answer_here<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    out: &mut Vec<u8>,
    answer: &Answer,
    request: &Request<'_>,
    caller: &Caller<'_>,
) -> Done {
    let keep_alive = caller.keep_alive && request.body == Framing::Length(0);
    out.clear();
    answer.write_http1(out, &request.id, caller.to_head_request, keep_alive);
    let written = connection.answer(out).await;
    Done {
        status: answer.status,
        received: 0,
        sent: 0,
        keep_alive: keep_alive && written,
        code: None,
        client: None,
    }
}

/// Answers as the authorization server.
async fn run_errand<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    connection: &mut Connection<S>,
    out: &mut Vec<u8>,
    (errand, visitor): (&Errand, &Visitor),
    request: &Request<'_>,
    caller: &Caller<'_>,
) -> Done {
    let mut received = 0;
    let answered = token_office::answer(errand, visitor, worker, async || {
        let body = read_form(connection, request).await?;
        received = u64::try_from(body.len()).unwrap_or(0);
        Ok(body)
    });
    let Some(answered) = answered.await else { return BROKEN_OFF };
    let keep_alive = caller.keep_alive && (answered.is_read || request.body == Framing::Length(0));
    let connection_field = connection_field(keep_alive, caller.version);
    answered.write_http1(out, &request.id, caller.to_head_request, connection_field.as_bytes());
    let written = connection.answer(out).await;
    let sent = u64::try_from(answered.body.len()).unwrap_or(0);
    Done {
        status: answered.status,
        received,
        sent,
        keep_alive: keep_alive && written,
        code: Some(answered.code),
        client: answered.client,
    }
}

/// Reads a body to its end, if it is short.
async fn read_form<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    request: &Request<'_>,
) -> Result<Vec<u8>, FormFailure> {
    let (mut decoder, mut body) = (Decoder::new(request.body), Vec::new());
    if matches!(request.body, Framing::Length(length) if length > LONGEST_FORM.try_into().unwrap_or(u64::MAX))
    {
        return Err(FormFailure::Long);
    }
    if request.expects && connection.unread.is_empty() && !decoder.is_done() {
        let asked = connection.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        asked.and(connection.io.flush().await).map_err(|_| FormFailure::Broken)?;
    }
    loop {
        let count = match decoder.look(connection.unread.unread())? {
            Piece::End => return Ok(body),
            Piece::Skip(count) | Piece::Trailer(count) => count,
            Piece::Data(count) => {
                if body.len() + count > LONGEST_FORM {
                    return Err(FormFailure::Long);
                }
                body.extend_from_slice(connection.unread.unread().get(..count).unwrap_or_default());
                count
            }
            Piece::NeedMore => {
                let Connection { io, unread, .. } = &mut *connection;
                let read =
                    poll_fn(|cx| poll_read_secret(cx, Pin::new(&mut *io), |bytes| unread.extend(bytes)))
                        .await;
                match read {
                    Ok(0) | Err(_) => return Err(FormFailure::Broken),
                    Ok(_) => continue,
                }
            }
        };
        decoder.advance(connection.unread.unread().get(..count).unwrap_or_default())?;
        connection.unread.consume(count);
    }
}

const fn connection_field(keep_alive: bool, version: Version) -> &'static str {
    match (keep_alive, version) {
        (false, _) => "connection: close\r\n",
        (true, Version::Http10) => "connection: keep-alive\r\n",
        (true, Version::Http11 | Version::Http2) => "",
    }
}

/// Answers as the built-in service.
async fn show<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<S>,
    out: &mut Vec<u8>,
    upstream_head: &[u8],
    request: &Request<'_>,
    caller: &Caller<'_>,
) -> Done {
    let body = whoami::answer(upstream_head);
    let keep_alive = caller.keep_alive && request.body == Framing::Length(0);
    let connection_field = connection_field(keep_alive, caller.version);
    out.clear();
    out.extend_from_slice(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: {}\r\ncontent-length: {}\r\n{connection_field}",
            request.id.as_str(),
            body.len(),
        )
        .as_bytes(),
    );
    out.extend_from_slice(caller.limits);
    out.extend_from_slice(b"\r\n");
    if !caller.to_head_request {
        out.extend_from_slice(&body);
    }
    let written = connection.answer(out).await;
    let sent = u64::try_from(body.len()).unwrap_or(0);
    Done { status: 200, received: 0, sent, keep_alive: keep_alive && written, code: None, client: None }
}

/// Counts what became of a request of `peer`.
pub(super) fn count_refusal(worker: &Worker, peer: &Peer, code: &'static str) {
    match peer {
        Peer::Visitor(_) => worker.requests.count(code),
        Peer::Resident(_) => worker.outbound.count(code),
    }
}

fn log(worker: &Worker, peer: &Peer, request: &Request<'_>, done: &Done, now: Timestamp, begun: Instant) {
    let code = done.code.unwrap_or(request.judgement.verdict.code);
    count_refusal(worker, peer, code);
    let (app, credential) = match &done.client {
        Some(Known { app, credential: (kind, id) }) => (app.as_str(), (*kind, id.as_str())),
        None => (request.judgement.verdict.app, request.judgement.verdict.credential),
    };
    let (direction, door, address, spiffe_id) = peer.whence();
    let event = AccessEvent {
        at: now,
        request_id: request.id.as_str(),
        door,
        direction,
        peer: address,
        protocol: "http/1.1",
        method: request.method,
        path: loggable(request.path),
        status: done.status,
        code,
        service: request.judgement.verdict.service,
        app,
        developer: request.judgement.verdict.developer,
        user_agent: loggable(request.user_agent),
        product: request.judgement.verdict.product,
        operation: request.judgement.verdict.operation,
        presented: request.judgement.verdict.presented,
        registry: request.registry,
        credential,
        user: request.judgement.verdict.user(),
        spiffe_id,
        received: done.received,
        sent: done.sent,
        duration: begun.elapsed(),
    };
    worker.log(&event);
    if let Some(span) = &request.span {
        worker.spans.record(span, &event);
    }
}

/// How long a request that is under way may go on after the certificate of its connection has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long before its certificate ends a connection announces that it closes (RFC 9112 §9.6), so that a busy caller comes
/// back in time instead of writing into a connection that is just being closed.
const NOTICE: Duration = Duration::from_secs(1);
