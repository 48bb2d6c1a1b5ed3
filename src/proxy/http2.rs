//! An HTTP/2 connection: each stream is one request that is read by the same gate and served over the same pools.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use httparse::Header;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::admission::{Admission, BAD_PATH, Visitor, request_id, user_agent};
use super::buffer::{Buffer, poll_read_with};
use super::deadline::{Deadline, Phase};
use super::drip::{Drip, TooSlow, Waiting};
use super::forward::{Failure, Repeatable, Route, forward};
use super::framing::{Decoder, Framing, Piece};
use super::grpc;
use super::h2_guard::{Guard, Objection, Paces};
use super::h2_head::{Scheme, Te};
use super::h2_relay::{self, Failed, Inbound};
use super::headers::loggable;
use super::http_gate::read_http2;
use super::http1::{Peer, count_refusal};
use super::judgement::{Course, Judgement, judge};
use super::leaks::{Blocked, Leaks, Scan};
use super::limit_fields::{is_limit_field, values};
use super::proxy_status::PROXY_STATUS;
use super::pump::PumpError;
use super::refuse::Answer;
use super::relay::{RelayError, Relayed, scan_head};
use super::request_id::RequestId;
use super::response::{self, BadResponse, ResponseHead};
use super::settings::{Endpoint, Limits, ServiceProtocol};
use super::token_office::{self, FormFailure, Known, LONGEST_FORM};
use super::trace::Trace;
use super::trailers::{Bound, TrailerName, Trailers};
use super::upstream::Upstream;
use super::worker::Worker;
use super::{linger, whoami};
use crate::clock::Timestamp;
use crate::credential::{DigestCheck, LONGEST_SECRET};
use crate::oauth::Errand;
use crate::telemetry::AccessEvent;

/// What a stream may have under way before it must be read; the connection gets four times as much.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes of body that wait in one stream for the peer to take them.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that the peer reset and that are still remembered; more end the connection.
const RESETS: usize = 64;

/// How long before its certificate ends a connection says GOAWAY, so that a busy caller comes back in time instead of opening
/// a stream that nobody looks at any more.
const NOTICE: Duration = Duration::from_secs(1);

/// How long streams may go on after the connection's certificate has ended.
const FAREWELL: Duration = Duration::from_millis(500);

/// Connections that leave for another process do it within this part of the drain, and within this span.
const SPREAD: u32 = 10;
const WIDEST: Duration = Duration::from_secs(1);

/// Serves streams on `io` until either side has had enough. `until` is when the certificate ends that it rests on.
pub(super) async fn serve<S>(worker: Rc<Worker>, peer: Peer, mut io: S, until: Option<Timestamp>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Parting::Said = converse(worker, peer, &mut io, until).await {
        linger::close(&mut io).await;
    }
}

/// How a connection has ended.
enum Parting {
    /// The caller is to read the last words.
    Said,
    /// There are none.
    Silent,
}

async fn converse<S>(worker: Rc<Worker>, peer: Peer, io: &mut S, until: Option<Timestamp>) -> Parting
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = Arc::clone(&worker.snapshot().limits);
    let header_list = u32::try_from(limits.head_size).unwrap_or(u32::MAX);
    let paces = Paces { control: limits.h2_control, resets: limits.h2_resets };
    let (io, alarm) = Guard::new(io, paces);
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_concurrent_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(2 * RESETS))
        .handshake::<_, Bytes>(io);
    let handshake = async {
        tokio::select! {
            biased;
            begun = handshake => Ok(begun),
            objection = alarm.rung() => Err(objection),
        }
    };
    let mut connection = match Box::pin(timeout(limits.head, handshake)).await {
        Ok(Ok(Ok(connection))) => connection,
        Ok(Ok(Err(error))) => {
            note_end(&worker, &error);
            return Parting::Said;
        }
        Ok(Err(objection)) => {
            object(&worker, &peer, objection);
            return Parting::Said;
        }
        Err(_) => {
            worker.cuts.count("h2-preface-timeout");
            return Parting::Silent;
        }
    };
    let peer = Rc::new(peer);
    let under_way = Rc::new(Cell::new(0_usize));
    let validity = || until.map(|until| worker.moment(until));
    let deadline = Deadline::new(Phase::Idle, limits.idle, validity());
    let mut signal = worker.signal.clone();
    let mut ending = signal.borrow_and_update().draining;
    if !peer.still_stands(&worker) {
        return Parting::Silent;
    }
    let mut dismissed = false;
    if ending {
        connection.graceful_shutdown();
    }
    let near_end = || validity().map_or_else(Instant::now, |end| end.checked_sub(NOTICE).unwrap_or(end));
    // When this one says GOAWAY because another process takes callers in.
    let mut leaves: Option<Instant> = None;
    let mut notice = std::pin::pin!(sleep_until(near_end()));
    let mut unannounced = until.is_some();
    let age = worker.age(&limits).filter(|_| !ending);
    let mut old = std::pin::pin!(sleep_until(Instant::now() + age.unwrap_or_default()));
    let mut young = age.is_some();
    let mut listening = true;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((_, mut respond))) if deadline.is_past_validity() => {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
                Some(Ok((request, respond))) => {
                    dismissed = false;
                    deadline.set(Phase::Idle, limits.idle);
                    let counted = UnderWay::new(&under_way);
                    let stream = Stream { worker: Rc::clone(&worker), peer: Rc::clone(&peer), _counted: counted };
                    let (parts, body) = request.into_parts();
                    tokio::task::spawn_local(stream.serve(parts, body, respond));
                }
                Some(Err(error)) => {
                    note_end(&worker, &error);
                    return Parting::Said;
                }
                None => return Parting::Said,
            },
            objection = alarm.rung() => {
                object(&worker, &peer, objection);
                connection.abrupt_shutdown(objection.reason());
                drop(timeout(FAREWELL, poll_fn(|cx| connection.poll_closed(cx))).await);
                return Parting::Said;
            }
            phase = deadline.expired() => match phase {
                Phase::Validity => {
                    if unannounced {
                        worker.note_expiry();
                    }
                    connection.graceful_shutdown();
                    drop(timeout(FAREWELL, poll_fn(|cx| connection.poll_closed(cx))).await);
                    return Parting::Said;
                }
                // A graceful shutdown waits for the peer: for its PONG, and for it to read what was answered.
                Phase::Head | Phase::Idle | Phase::Transfer if under_way.get() == 0 && dismissed => {
                    return Parting::Silent;
                }
                Phase::Head | Phase::Idle | Phase::Transfer if under_way.get() == 0 => {
                    dismissed = true;
                    connection.graceful_shutdown();
                    deadline.set(Phase::Idle, limits.stall);
                }
                Phase::Head | Phase::Idle | Phase::Transfer => deadline.set(Phase::Idle, limits.idle),
            },
            () = &mut notice, if unannounced || leaves.is_some() => {
                if leaves.is_some_and(|leaves| leaves <= Instant::now()) {
                    leaves = None;
                    notice.as_mut().reset(near_end());
                } else {
                    unannounced = false;
                    // Whoever hangs up upon this does it because of the certificate, too.
                    worker.note_expiry();
                }
                connection.graceful_shutdown();
            }
            () = &mut old, if young => {
                young = false;
                worker.cuts.count("max-age");
                connection.graceful_shutdown();
            }
            changed = signal.changed(), if listening => {
                listening = changed.is_ok();
                deadline.move_validity(validity());
                let heard = *signal.borrow();
                if heard.draining && !ending {
                    ending = true;
                    let spread = heard.left().filter(|_| heard.heir).map(|left| (left / SPREAD).min(WIDEST));
                    leaves = spread.map(|spread| Instant::now() + worker.some_moment_in(spread));
                    if leaves.is_none() {
                        connection.graceful_shutdown();
                    }
                }
                let end = near_end();
                notice.as_mut().reset(leaves.map_or(end, |leaves| if unannounced { end.min(leaves) } else { leaves }));
                if !peer.still_stands(&worker) {
                    return Parting::Silent;
                }
            }
        }
    }
}

/// Counts and logs that a caller's connection is ended for what it did.
fn object(worker: &Worker, peer: &Peer, objection: Objection) {
    let code = objection.code();
    worker.cuts.count(code);
    let (_, door, address, spiffe_id) = peer.whence();
    tracing::warn!(target: "postern::proxy", peer = ?address, door, spiffe_id, code, "HTTP/2 connection ended");
}

/// Counts a connection that the library has ended for what the caller did.
fn note_end(worker: &Worker, error: &h2::Error) {
    if error.is_library() && error.is_go_away() {
        let code = match error.reason() {
            Some(h2::Reason::ENHANCE_YOUR_CALM) => "h2-calm",
            Some(_) | None => "h2-protocol-error",
        };
        worker.cuts.count(code);
        tracing::debug!(target: "postern::proxy", %error, code, "HTTP/2 connection ended");
    }
}

/// Counts a stream for as long as it is held.
struct UnderWay(Rc<Cell<usize>>);

impl UnderWay {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

struct Stream {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    _counted: UnderWay,
}

/// What became of a stream.
struct Done {
    status: u16,
    received: u64,
    sent: u64,
    code: Option<&'static str>,
    /// Who it was, where only acting on it has told.
    client: Option<Known>,
}

impl Done {
    /// Answers without a service, and says so.
    fn told(respond: &mut SendResponse<Bytes>, answer: &Answer, id: &RequestId, manner: Manner) -> Self {
        let sent = reply(respond, answer, id, manner);
        Self { status: answer.status, received: 0, sent, code: None, client: None }
    }
}

impl From<Relayed> for Done {
    fn from(Relayed { status, received, sent, .. }: Relayed) -> Self {
        Self { status, received, sent, code: None, client: None }
    }
}

/// How a request is answered that no service answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    /// As a gRPC call.
    Grpc,
    /// To HEAD: without a body.
    Head,
    /// With a body that says why.
    Plain,
}

impl Manner {
    fn of(parts: &http::request::Parts) -> Self {
        if grpc::is_call(&parts.headers) {
            Self::Grpc
        } else if parts.method == http::Method::HEAD {
            Self::Head
        } else {
            Self::Plain
        }
    }

    const fn has_body(self) -> bool {
        !matches!(self, Self::Head)
    }
}

impl Stream {
    /// What is said of the connection: callers from outside come by TLS, local ones do not.
    fn scheme(&self) -> Scheme {
        match &*self.peer {
            Peer::Resident(_) => Scheme::Http,
            Peer::Visitor(_) => Scheme::Https,
        }
    }

    async fn serve(self, parts: http::request::Parts, body: RecvStream, mut respond: SendResponse<Bytes>) {
        let (now, begun) = (self.worker.now(), Instant::now());
        let snapshot = self.worker.snapshot();
        let cookies = joined_cookies(&parts.headers);
        let fields = fields(&parts.headers, cookies.as_deref());
        let manner = Manner::of(&parts);
        let has_body = !body.is_end_stream();
        let head = match read_http2(&parts.uri, &parts.method, &fields, has_body, self.scheme()) {
            Ok(head) => head,
            Err(bad) => {
                let answer =
                    Answer::new(bad.status(), "bad-request", "The request head is malformed or ambiguous.");
                tracing::debug!(target: "postern::proxy", error = %bad, "request refused");
                count_refusal(&self.worker, &self.peer, answer.code);
                reply(&mut respond, &answer, &self.worker.ids.next(now), manner);
                return;
            }
        };
        let id = request_id(&head, &self.worker.ids, now);
        let trace =
            Trace::new(&head, &id, &self.worker.ids).recorded_by(&self.worker.spans, &self.worker.ids);
        let mut upstream_head = Vec::with_capacity(512);
        let te = Te::of(&parts.headers);
        // A call of gRPC may send a message now and then before the first answer.
        let patient = head.body == Framing::Length(0) || manner == Manner::Grpc;
        // What a call means is its path, letter by letter.
        let judgement = if manner == Manner::Grpc && head.path.contains('%') {
            Judgement::of_nobody(BAD_PATH)
        } else {
            judge(&head, &self.worker, &self.peer, &snapshot, &trace, now, &mut upstream_head)
        };
        let verdict = &judgement.verdict;
        let call = match &*self.peer {
            Peer::Visitor(_) => Some(verdict.begin(&self.worker)),
            Peer::Resident(_) => None,
        };
        let mut exchange = Exchange { respond, body, framing: head.body, manner, te, id: &id, patient };
        let limits = &snapshot.limits;
        let done = match &judgement.course {
            Course::Answer(answer) => Done::told(&mut exchange.respond, answer, &id, manner),
            Course::Errand(errand, visitor) => {
                Box::pin(exchange.run_errand(errand, visitor, &self.worker, limits.stall)).await
            }
            Course::Forward(Route::Service(admission)) if admission.service.endpoint == Endpoint::Whoami => {
                show(&mut exchange.respond, &upstream_head, admission, &id, manner)
            }
            Course::Forward(route) if takes_one_at_a_time(route) => {
                exchange.run(&self.worker, route, limits, head.method, &upstream_head).await
            }
            Course::Forward(route) => {
                exchange.run_shared(&self.worker, route, limits, head.method, &upstream_head).await
            }
        };
        let code = done.code.unwrap_or(verdict.code);
        let (app, credential) = match &done.client {
            Some(Known { app, credential: (kind, id) }) => (app.as_str(), (*kind, id.as_str())),
            None => (verdict.app, verdict.credential),
        };
        count_refusal(&self.worker, &self.peer, code);
        if let Some(call) = call {
            call.count(done.status, begun.elapsed());
        }
        let (direction, door, address, spiffe_id) = self.peer.whence();
        let event = AccessEvent {
            at: now,
            request_id: id.as_str(),
            door,
            direction,
            peer: address,
            protocol: "http/2",
            method: head.method,
            path: loggable(head.path),
            status: done.status,
            code,
            service: verdict.service,
            app,
            developer: verdict.developer,
            user_agent: loggable(user_agent(&head)),
            product: verdict.product,
            operation: verdict.operation,
            presented: verdict.presented,
            registry: snapshot.registry.version(),
            credential,
            user: verdict.user(),
            spiffe_id,
            received: done.received,
            sent: done.sent,
            duration: begun.elapsed(),
        };
        self.worker.log(&event);
        if let Some(span) = trace.span() {
            self.worker.spans.record(&span, &event);
        }
    }
}

/// > If there are multiple Cookie header fields after decompression, these MUST be concatenated into a single octet string
/// > using the two-octet delimiter of 0x3b, 0x20 (the ASCII string "; ") before being passed into a non-HTTP/2 context.
/// > — RFC 9113 §8.2.3
fn joined_cookies(headers: &http::HeaderMap) -> Option<Vec<u8>> {
    let mut crumbs = headers.get_all(http::header::COOKIE).iter();
    let mut joined = crumbs.next()?.as_bytes().to_vec();
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    Some(joined)
}

fn fields<'a>(headers: &'a http::HeaderMap, cookies: Option<&'a [u8]>) -> Vec<Header<'a>> {
    let plain = headers.iter().filter(|(name, _)| *name != http::header::COOKIE);
    let plain = plain.map(|(name, value)| Header { name: name.as_str(), value: value.as_bytes() });
    plain.chain(cookies.map(|value| Header { name: "cookie", value })).collect()
}

/// Answers without a service; returns the bytes of body that were sent.
fn reply(respond: &mut SendResponse<Bytes>, answer: &Answer, id: &RequestId, manner: Manner) -> u64 {
    if manner == Manner::Grpc {
        grpc::refuse(respond, answer, id);
        return 0;
    }
    let body = answer.body(id);
    let mut response = http::Response::builder()
        .status(answer.status)
        .header("content-type", answer.media_type())
        .header("cache-control", "no-store")
        .header("x-request-id", id.as_str())
        .header("content-length", body.len());
    response = response.header(PROXY_STATUS, answer.proxy_status());
    for (name, value) in answer.challenge() {
        response = response.header(name, &*value);
    }
    for (name, value) in answer.notice.iter().flat_map(|notice| notice.fields()) {
        response = response.header(name, value);
    }
    send_whole(respond, response, body.into(), manner)
}

/// Reads a body to its end, if it is short.
async fn read_form(body: &mut RecvStream) -> Result<Vec<u8>, FormFailure> {
    let mut form = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|_| FormFailure::Broken)?;
        if form.len() + data.len() > LONGEST_FORM {
            return Err(FormFailure::Long);
        }
        form.extend_from_slice(&data);
        // Fails only for more than was received, which this is not.
        drop(body.flow_control().release_capacity(data.len()));
    }
    Ok(form)
}

/// Answers as the built-in service.
fn show(
    respond: &mut SendResponse<Bytes>,
    upstream_head: &[u8],
    admission: &Admission<'_>,
    id: &RequestId,
    manner: Manner,
) -> Done {
    let body = whoami::answer(upstream_head);
    let mut response = http::Response::builder()
        .status(200)
        .header("content-type", "application/json")
        .header("x-request-id", id.as_str())
        .header("content-length", body.len());
    for (name, value) in values(admission.permit.statement()) {
        response = response.header(name, value);
    }
    let sent = send_whole(respond, response, body.into(), manner);
    Done { status: 200, received: 0, sent, code: None, client: None }
}

fn send_whole(
    respond: &mut SendResponse<Bytes>,
    response: http::response::Builder,
    body: Bytes,
    manner: Manner,
) -> u64 {
    let length = u64::try_from(body.len()).unwrap_or(0);
    let Ok(response) = response.body(()) else { return 0 };
    match respond.send_response(response, !manner.has_body()) {
        Ok(mut stream) if manner.has_body() => match stream.send_data(body, true) {
            Ok(()) => length,
            Err(_) => 0,
        },
        Ok(_) | Err(_) => 0,
    }
}

/// Whether the other side answers one request of a connection at a time.
fn takes_one_at_a_time(route: &Route<'_>) -> bool {
    match route {
        Route::Remote(_) => false,
        Route::Service(admission) => admission.service.protocol == ServiceProtocol::Http1,
    }
}

/// One stream's request and answer.
///
/// What it does is in the future of the stream, which is moved and kept for each request: so what is large and rare in here is
/// boxed, and nothing is handed on by value.
struct Exchange<'a> {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    framing: Framing,
    manner: Manner,
    te: Te,
    id: &'a RequestId,
    /// Whether the body may come as slowly as it likes.
    patient: bool,
}

impl Exchange<'_> {
    /// Over a connection of its own that speaks HTTP/1.
    async fn run(
        &mut self,
        worker: &Worker,
        route: &Route<'_>,
        limits: &Limits,
        method: &str,
        head: &[u8],
    ) -> Done {
        let repeatable = Repeatable::of(method, self.framing);
        // What has a body is sent once only.
        let (mut digest, leaks, limits_of_caller) = terms(worker, route);
        let begun = Cell::new(false);
        let exchanged = forward(worker, route, limits, repeatable, async |upstream| {
            let deadline = Deadline::new(Phase::Transfer, limits.stall, None);
            begun.set(false);
            let slow = Cell::new(false);
            let drip = self.drip(limits);
            let mut way = Way {
                exchange: &mut *self,
                digest: digest.take(),
                limits: &limits_of_caller,
                leaks: leaks.as_ref(),
                trailers: route.trailers(),
                begun: &begun,
                slow: &slow,
                drip,
            };
            tokio::select! {
                biased;
                relayed = way.relay(upstream, head, &deadline, limits.stall) => relayed,
                // An answer that has begun can neither be replaced nor asked for again.
                _ = deadline.expired() => Err(if begun.get() {
                    RelayError::Midway(PumpError::Read(io::ErrorKind::TimedOut.into()))
                } else if slow.get() {
                    RelayError::Caller(PumpError::Slow)
                } else {
                    RelayError::TimedOut
                }),
            }
        });
        match exchanged.await {
            Ok(relayed) => Done::from(relayed),
            Err(Failure::Answer(answer)) => self.tell(answer, route),
            Err(Failure::Broken) => self.break_off(h2::Reason::INTERNAL_ERROR),
        }
    }

    /// Over a shared connection that speaks HTTP/2.
    async fn run_shared(
        &mut self,
        worker: &Worker,
        route: &Route<'_>,
        limits: &Limits,
        method: &str,
        head: &[u8],
    ) -> Done {
        let snapshot = worker.snapshot();
        let (digest, leaks, limits_of_caller) = terms(worker, route);
        let drip = match route {
            Route::Service(_) => self.drip(limits),
            Route::Remote(_) => Drip::patient(),
        };
        let inbound = Inbound {
            respond: &mut self.respond,
            body: &mut self.body,
            framing: self.framing,
            head,
            te: self.te,
            id: self.id,
            repeatable: Repeatable::of(method, self.framing),
            digest,
            limits: &limits_of_caller,
            leaks: leaks.as_ref(),
            api_key_header: &snapshot.api_key_header,
            drip,
        };
        match h2_relay::exchange(worker, route, limits, inbound).await {
            Ok(relayed) => Done::from(relayed),
            Err(Failed::Answer(answer)) => self.tell(answer, route),
            Err(Failed::Reset(reason)) => self.break_off(reason),
        }
    }

    /// As the authorization server.
    async fn run_errand(
        &mut self,
        errand: &Errand,
        visitor: &Visitor,
        worker: &Worker,
        within: Duration,
    ) -> Done {
        let mut received = 0;
        let answered = token_office::answer(errand, visitor, worker, async || {
            let form =
                timeout(within, read_form(&mut self.body)).await.map_err(|_| FormFailure::Broken)??;
            received = u64::try_from(form.len()).unwrap_or(0);
            Ok(form)
        });
        let Some(answered) = answered.await else { return self.break_off(h2::Reason::CANCEL) };
        let mut response = http::Response::builder()
            .status(answered.status)
            .header("x-request-id", self.id.as_str())
            .header("content-length", answered.body.len());
        for (name, value) in &answered.fields {
            response = response.header(*name, value);
        }
        let sent = send_whole(&mut self.respond, response, answered.body.into(), self.manner);
        Done { status: answered.status, received, sent, code: Some(answered.code), client: answered.client }
    }

    fn drip(&self, limits: &Limits) -> Drip {
        if self.patient { Drip::patient() } else { Drip::new(limits) }
    }

    /// Answers in place of the other side.
    fn tell(&mut self, answer: Answer, route: &Route<'_>) -> Done {
        let answer = answer.in_format(route.error_format());
        Done { code: Some(answer.code), ..Done::told(&mut self.respond, &answer, self.id, self.manner) }
    }

    /// Takes the stream back, because nothing more can be said on it.
    fn break_off(&mut self, reason: h2::Reason) -> Done {
        self.respond.send_reset(reason);
        Done { status: 0, received: 0, sent: 0, code: Some("broken-off"), client: None }
    }
}

/// What the body must be, what is looked for in the answer, and which fields tell how the caller's quotas stand.
type Terms = (Option<DigestCheck>, Option<Rc<Leaks>>, Vec<(&'static str, Vec<u8>)>);

fn terms(worker: &Worker, route: &Route<'_>) -> Terms {
    match route {
        Route::Remote(_) => (None, None, Vec::new()),
        Route::Service(Admission { service, digest, permit, .. }) => {
            (digest.clone(), worker.watch(service.watch), values(permit.statement()).collect())
        }
    }
}

struct Way<'a, 'e> {
    exchange: &'a mut Exchange<'e>,
    digest: Option<DigestCheck>,
    /// Fields that tell how the caller's quotas stand.
    limits: &'a [(&'static str, Vec<u8>)],
    /// What is found in the answer, where it is looked through.
    leaks: Option<&'a Rc<Leaks>>,
    /// What may follow a body, either way.
    trailers: Option<&'a Arc<[TrailerName]>>,
    /// Whether the answer has gone out to the caller, as far as it has come.
    begun: &'a Cell<bool>,
    /// Whether the caller is waited for.
    slow: &'a Cell<bool>,
    /// How fast the body has to come.
    drip: Drip,
}

impl Way<'_, '_> {
    /// Sends the request up and the answer down, both at once.
    async fn relay(
        &mut self,
        upstream: &mut Upstream,
        head: &[u8],
        deadline: &Deadline,
        stall: Duration,
    ) -> Result<Relayed, RelayError> {
        let trailers = self.trailers.and_then(|allowed| Trailers::of(allowed, Bound::Up));
        let framing = self.exchange.framing;
        let mut sending = Sending::new(head, framing, self.digest.take(), trailers);
        let to_head_request = self.exchange.manner == Manner::Head;
        let mut asked = false;
        let answer = loop {
            let answer = poll_fn(|cx| {
                let before = sending.moved;
                if let Poll::Ready(Err(error)) = sending.poll(cx, &mut self.exchange.body, upstream) {
                    return Poll::Ready(Err(error));
                }
                let waited = self.drip.waits();
                let too_slow = |TooSlow| RelayError::Caller(PumpError::Slow);
                let silence = self.drip.look(sending.waiting, sending.moved).map_err(too_slow)?;
                self.slow.set(self.drip.waits());
                if sending.moved != before || waited != self.drip.waits() {
                    deadline.set(Phase::Transfer, silence.map_or(stall, |silence| silence.min(stall)));
                }
                let answer = poll_answer(cx, upstream, to_head_request);
                if answer.is_pending() && self.exchange.respond.poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(hung_up()));
                }
                answer
            })
            .await?;
            scan_head(self.leaks, upstream.unread.unread().get(..answer.length).unwrap_or_default())?;
            if answer.status >= 200 {
                break answer;
            }
            self.drip.begin();
            // A caller that expects to be asked for its body is asked, once; other interim answers end here.
            if answer.status == 100 && !asked {
                asked = true;
                let interim = http::Response::builder().status(http::StatusCode::CONTINUE).body(());
                let interim = interim.map_err(|_| RelayError::Response(BadResponse::Head))?;
                self.exchange.respond.send_informational(interim).map_err(|_| hung_up())?;
            }
            upstream.unread.consume(answer.length);
        };
        let scan = self.leaks.map(|leaks| Scan::new(Rc::clone(leaks)));
        let response = self.response(upstream, &answer)?;
        let ended = answer.body == Framing::Length(0);
        let gone = |error: h2::Error| RelayError::Midway(PumpError::Write(io::Error::other(error)));
        self.begun.set(true);
        let stream = self.exchange.respond.send_response(response, ended).map_err(gone)?;
        upstream.unread.consume(answer.length);
        let decoder = Decoder::new(answer.body);
        let trailers = self.trailers.and_then(|allowed| Trailers::of(allowed, Bound::Down));
        let mut receiving = Receiving { stream, decoder, moved: 0, ended, scan, trailers };
        poll_fn(|cx| {
            let before = sending.moved + receiving.moved;
            if let Poll::Ready(Err(error)) = sending.poll(cx, &mut self.exchange.body, upstream) {
                return Poll::Ready(Err(error));
            }
            let received = receiving.poll(cx, &mut upstream.io, &mut upstream.unread);
            if sending.moved + receiving.moved != before {
                deadline.set(Phase::Transfer, stall);
            }
            if received.is_pending() && receiving.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(hung_up()));
            }
            received.map_err(RelayError::Midway)
        })
        .await?;
        Ok(Relayed {
            status: answer.status,
            received: sending.moved,
            sent: receiving.moved,
            caller_may_continue: true,
            upstream_may_continue: sending.is_done() && answer.keep_alive,
        })
    }

    fn response(&self, upstream: &Upstream, answer: &ResponseHead) -> Result<http::Response<()>, RelayError> {
        let bytes = upstream.unread.unread().get(..answer.length).unwrap_or_default();
        let mut builder =
            http::Response::builder().status(answer.status).header("x-request-id", self.exchange.id.as_str());
        let length = response::content_length(answer, self.exchange.manner == Manner::Head);
        response::each_field(bytes, length, |name, value| {
            if (self.limits.is_empty() || !is_limit_field(name))
                && let Some(headers) = builder.headers_mut()
                && let (Ok(name), Ok(value)) =
                    (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        });
        for (name, value) in self.limits {
            builder = builder.header(*name, value.as_slice());
        }
        if answer.body == Framing::Chunked
            && let Some(allowed) = self.trailers
            && let Some(names) = response::announced_trailers(bytes, allowed)
        {
            builder = builder.header("trailer", names);
        }
        match (answer.body, length) {
            (Framing::Length(bytes), response::ContentLength::Written) if answer.status != 204 => {
                builder = builder.header("content-length", bytes);
            }
            (Framing::Chunked | Framing::Close | Framing::Length(_), _) => {}
        }
        builder.body(()).map_err(|_| RelayError::Response(BadResponse::Head))
    }
}

/// The caller reset its stream, or its connection is gone. The exchange ends at once: a stream that was reset does not count
/// against the caller's limit any more, so it may not cost anything any more (CVE-2023-44487).
fn hung_up() -> RelayError {
    RelayError::Caller(PumpError::Read(io::ErrorKind::ConnectionReset.into()))
}

/// Reads on until a response head is there.
fn poll_answer(
    cx: &mut Context<'_>,
    upstream: &mut Upstream,
    to_head_request: bool,
) -> Poll<Result<ResponseHead, RelayError>> {
    loop {
        let bytes = upstream.unread.unread();
        if !bytes.is_empty() {
            match response::read(bytes, to_head_request) {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) if bytes.len() > super::relay::MAX_RESPONSE_HEAD => {
                    return Poll::Ready(Err(RelayError::Response(BadResponse::Head)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(RelayError::Response(error))),
            }
        }
        let unread = &mut upstream.unread;
        match poll_read_with(cx, Pin::new(&mut upstream.io), |bytes| unread.extend(bytes)) {
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(RelayError::Upstream(io::ErrorKind::UnexpectedEof.into())));
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Upstream(error))),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// The request on its way up.
struct Sending {
    staged: Vec<u8>,
    written: usize,
    chunked: bool,
    ended: bool,
    failed: bool,
    moved: u64,
    /// For whom it waits, when it waits.
    waiting: Waiting,
    /// The body's length, where it is known.
    length: Option<u64>,
    /// What the body must be; taken when it has been compared.
    digest: Option<DigestCheck>,
    /// What of the trailers passes, if anything may.
    trailers: Option<Box<Trailers>>,
}

impl Sending {
    fn new(
        head: &[u8],
        framing: Framing,
        digest: Option<DigestCheck>,
        trailers: Option<Box<Trailers>>,
    ) -> Self {
        let ended = framing == Framing::Length(0);
        let chunked = framing == Framing::Chunked;
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        let digest = digest.filter(|_| !ended);
        Self {
            staged: head.to_vec(),
            written: 0,
            chunked,
            ended,
            failed: false,
            moved: 0,
            waiting: Waiting::ForOthers,
            length,
            digest,
            trailers,
        }
    }

    const fn is_done(&self) -> bool {
        self.ended && self.written >= self.staged.len() && !self.failed
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RecvStream,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), RelayError>> {
        self.waiting = Waiting::ForOthers;
        loop {
            if self.failed || self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if self.written < self.staged.len() {
                let rest = self.staged.get(self.written..).unwrap_or_default();
                match Pin::new(&mut upstream.io).poll_write(cx, rest) {
                    // A service may answer and hang up without reading the whole body: its answer decides.
                    Poll::Ready(Ok(0) | Err(_)) => self.failed = true,
                    Poll::Ready(Ok(count)) => self.written += count,
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    if let Err(error) = self.stage(&data, body) {
                        return Poll::Ready(Err(error));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(RelayError::Caller(PumpError::Read(io::Error::other(error)))));
                }
                Poll::Ready(None) => {
                    match body.poll_trailers(cx) {
                        Poll::Ready(Ok(Some(trailers))) if frames_or_routes(&trailers) => {
                            return Poll::Ready(Err(RelayError::Caller(PumpError::Trailers)));
                        }
                        Poll::Ready(Ok(sent)) => self.keep(sent.as_ref()),
                        Poll::Ready(Err(error)) => {
                            let error = io::Error::other(error);
                            return Poll::Ready(Err(RelayError::Caller(PumpError::Read(error))));
                        }
                        Poll::Pending => {
                            self.waiting = Waiting::ForCaller;
                            return Poll::Pending;
                        }
                    }
                    if let Err(error) = self.compare() {
                        return Poll::Ready(Err(error));
                    }
                    self.ended = true;
                    self.staged.clear();
                    self.written = 0;
                    if self.chunked {
                        let kept =
                            self.trailers.as_ref().map(|trailers| trailers.lines()).unwrap_or_default();
                        for part in [b"0\r\n", kept, b"\r\n"] {
                            self.staged.extend_from_slice(part);
                        }
                    }
                }
                Poll::Pending => {
                    self.waiting = Waiting::ForCaller;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Keeps of the trailers what passes.
    fn keep(&mut self, sent: Option<&http::HeaderMap>) {
        let Some(trailers) = &mut self.trailers else { return };
        for (name, value) in sent.into_iter().flatten() {
            trailers.keep(name.as_str(), value.as_bytes());
        }
    }

    /// Takes the next piece of the body; the last one only if the whole is what was signed.
    fn stage(&mut self, data: &Bytes, body: &mut RecvStream) -> Result<(), RelayError> {
        self.moved += u64::try_from(data.len()).unwrap_or(0);
        if let Some(digest) = &mut self.digest {
            digest.update(data);
        }
        if self.length.is_some_and(|length| self.moved >= length) {
            self.compare()?;
        }
        self.staged.clear();
        self.written = 0;
        if !data.is_empty() {
            if self.chunked {
                self.staged.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            }
            self.staged.extend_from_slice(data);
            if self.chunked {
                self.staged.extend_from_slice(b"\r\n");
            }
        }
        // Fails only for more than was received, which this is not.
        drop(body.flow_control().release_capacity(data.len()));
        Ok(())
    }

    /// Compares the body, of which nothing more comes, with what was signed.
    fn compare(&mut self) -> Result<(), RelayError> {
        let matches = self.digest.take().is_none_or(DigestCheck::matches);
        if matches { Ok(()) } else { Err(RelayError::Caller(PumpError::Digest)) }
    }
}

/// What may pass after `data` has been looked at.
fn scanned(scan: &mut Scan, data: &[u8]) -> Result<Bytes, PumpError> {
    let mut out = Vec::with_capacity(data.len() + LONGEST_SECRET);
    scan.pass(data, &mut out).map_err(|Blocked| PumpError::Leak)?;
    Ok(out.into())
}

/// > Many fields cannot be processed outside the header section because their evaluation is necessary prior to receiving the content,
/// > such as those that describe message framing, routing, authentication […] — RFC 9110 §6.5.1
fn frames_or_routes(trailers: &http::HeaderMap) -> bool {
    use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};

    [CONTENT_LENGTH, HOST, TRANSFER_ENCODING].iter().any(|name| trailers.contains_key(name))
}

/// The answer's body on its way down.
struct Receiving {
    stream: SendStream<Bytes>,
    decoder: Decoder,
    moved: u64,
    ended: bool,
    /// Looks for secrets in the body.
    scan: Option<Scan>,
    /// What of the trailers passes, if anything may.
    trailers: Option<Box<Trailers>>,
}

impl Receiving {
    fn poll<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        unread: &mut Buffer,
    ) -> Poll<Result<(), PumpError>> {
        let gone = |error: h2::Error| PumpError::Write(io::Error::other(error));
        loop {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match self.decoder.look(unread.unread()).map_err(PumpError::Body)? {
                Piece::End => {
                    let trailers = self.trailers.take().filter(|trailers| !trailers.lines().is_empty());
                    let mut rest = Vec::new();
                    if let Some(scan) = &mut self.scan {
                        let lines = trailers.as_ref().map(|trailers| trailers.lines()).unwrap_or_default();
                        scan.leaks().look_at_whole(lines).map_err(|Blocked| PumpError::Leak)?;
                        scan.finish(&mut rest);
                    }
                    if trailers.is_none() || !rest.is_empty() {
                        self.stream.send_data(rest.into(), trailers.is_none()).map_err(gone)?;
                    }
                    if let Some(trailers) = trailers {
                        self.stream.send_trailers(trailers.fields()).map_err(gone)?;
                    }
                    self.ended = true;
                }
                Piece::Skip(count) => self.advance(unread, count)?,
                Piece::Trailer(count) => {
                    if let Some(trailers) = &mut self.trailers {
                        trailers.keep_line(unread.unread().get(..count).unwrap_or_default());
                    }
                    self.advance(unread, count)?;
                }
                Piece::Data(count) => {
                    self.stream.reserve_capacity(count);
                    if self.stream.capacity() == 0 {
                        match self.stream.poll_capacity(cx) {
                            Poll::Ready(Some(Ok(_))) => {}
                            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(gone(error))),
                            Poll::Ready(None) => {
                                return Poll::Ready(Err(PumpError::Write(io::ErrorKind::BrokenPipe.into())));
                            }
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                    let count = self.stream.capacity().min(count);
                    if count > 0 {
                        let data = unread.unread().get(..count).unwrap_or_default();
                        let data = match &mut self.scan {
                            Some(scan) => scanned(scan, data)?,
                            None => Bytes::copy_from_slice(data),
                        };
                        self.advance(unread, count)?;
                        self.moved += u64::try_from(count).unwrap_or(0);
                        // What is looked through may still be held back in part.
                        self.ended = self.decoder.is_done() && self.scan.is_none();
                        if self.ended || !data.is_empty() {
                            self.stream.send_data(data, self.ended).map_err(gone)?;
                        }
                    }
                }
                Piece::NeedMore => {
                    match poll_read_with(cx, Pin::new(&mut *from), |bytes| unread.extend(bytes)) {
                        Poll::Ready(Ok(0)) => self.decoder.finish().map_err(PumpError::Body)?,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    }

    fn advance(&mut self, unread: &mut Buffer, count: usize) -> Result<(), PumpError> {
        let taken = unread.unread().get(..count).unwrap_or_default();
        self.decoder.advance(taken).map_err(PumpError::Body)?;
        unread.consume(count);
        Ok(())
    }
}
