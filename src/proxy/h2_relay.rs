//! One exchange between two HTTP/2 streams: bodies and trailers go both ways at once, each as fast as its receiver takes it.
//!
//! Either side may begin, pause and end when it likes. What is read from one side is given back to its flow control only when
//! the other side has taken it, so a slow receiver holds no more than a window. A stream that is reset is reset on the other
//! side, too, for the same reason.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::time::Instant;

use super::admission::DIGEST_MISMATCH;
use super::deadline::{Deadline, Phase};
use super::drip::{Drip, TooSlow, Waiting};
use super::forward::{
    BAD_ANSWER, Failure, NO_ANSWER, NO_IDENTITY, Repeatable, Route, SLOW_BODY, Way, note_delay, valid_way,
};
use super::framing::Framing;
use super::h2_head::{Limited, Te, each_response_field, request, request_trailers, response_trailers};
use super::h2_upstream::{Seat, seat};
use super::leaks::{Blocked, Leaks, Scan};
use super::refuse::Answer;
use super::relay::Relayed;
use super::request_id::RequestId;
use super::response::BadResponse;
use super::settings::Limits;
use super::worker::Worker;
use crate::causes::Causes;
use crate::credential::{DigestCheck, LONGEST_SECRET};

/// Interim answers beyond so many end here.
const MOST_INTERIM: usize = 16;

/// A caller's stream, with all that is known of its request.
pub(super) struct Inbound<'a> {
    pub(super) respond: &'a mut SendResponse<Bytes>,
    pub(super) body: &'a mut RecvStream,
    pub(super) framing: Framing,
    /// As it was written for the service.
    pub(super) head: &'a [u8],
    pub(super) te: Te,
    pub(super) id: &'a RequestId,
    pub(super) repeatable: Repeatable,
    /// What the body must be, where the caller has signed it.
    pub(super) digest: Option<DigestCheck>,
    /// Fields that tell how the caller's quotas stand.
    pub(super) limits: &'a [(&'static str, Vec<u8>)],
    /// What is found in the answer, where it is looked through.
    pub(super) leaks: Option<&'a Rc<Leaks>>,
    /// The field that carries API keys.
    pub(super) api_key_header: &'a str,
    /// How fast the body has to come.
    pub(super) drip: Drip,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The caller gets this instead.
    Answer(Answer),
    /// The caller's stream is reset, for this reason.
    Reset(Reason),
}

/// Runs one exchange over a shared connection, dialling where none has room.
///
/// It is tried once more, over another connection, when the service says that it has not looked at it (RFC 9113 §8.7) and
/// nothing of the body was sent; or when a connection that has served before dies without an answer and the request may be
/// repeated.
///
/// # Errors
/// What the caller gets.
pub(super) async fn exchange(
    worker: &Worker,
    route: &Route<'_>,
    limits: &Limits,
    inbound: Inbound<'_>,
) -> Result<Relayed, Failed> {
    let way = valid_way(worker, route, limits).await.ok_or(Failed::Answer(NO_IDENTITY))?;
    let mut exchange = Exchange { worker, route, limits, inbound, begun: Cell::new(Begun::Nothing) };
    let first = exchange.attempt(&way).await;
    let outcome = match first {
        Err(Broken::Untouched(_)) => exchange.attempt(&way).await,
        other => other,
    };
    outcome.map_err(|broken| exchange.failed(broken))
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Begun {
    /// Its head has gone to the caller.
    Head,
    /// Not a byte of the final answer has.
    Nothing,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the caller reset its stream")]
    Caller(Reason),
    #[error("the body is not the one that was signed")]
    Digest,
    #[error("the service cannot be reached")]
    NoConnection(Box<Failure>),
    #[error("the answer cannot be passed on")]
    Response(#[source] BadResponse),
    #[error("the caller's body comes too slowly")]
    Slow,
    #[error("nothing moved for too long")]
    TimedOut,
    #[error("the service has not looked at the request")]
    Untouched(#[source] h2::Error),
    #[error("the service's stream broke off")]
    Upstream(#[source] h2::Error),
}

struct Exchange<'a> {
    worker: &'a Worker,
    route: &'a Route<'a>,
    limits: &'a Limits,
    inbound: Inbound<'a>,
    begun: Cell<Begun>,
}

impl Exchange<'_> {
    async fn attempt(&mut self, way: &Way) -> Result<Relayed, Broken> {
        let Self { worker, route, limits, .. } = *self;
        let seat = seat(worker, route, way, limits)
            .await
            .map_err(|failure| Broken::NoConnection(Box::new(failure)))?;
        let head = request(self.inbound.head, way.scheme(), self.inbound.te);
        let (head, _) = head.ok_or(Broken::Response(BadResponse::Head))?;
        let ended = self.inbound.body.is_end_stream();
        let (answer, stream) = match seat.send(head, ended) {
            Ok(opened) => opened,
            Err(error) => return Err(Broken::Untouched(error)),
        };
        let asked = Instant::now();
        let deadline = Deadline::new(Phase::Transfer, limits.stall, None);
        let relaying = Relaying {
            inbound: &mut self.inbound,
            begun: &self.begun,
            deadline: &deadline,
            limits,
            seat: &seat,
            note: &|begun| note_delay(worker, route, begun),
        };
        let relayed = tokio::select! {
            biased;
            relayed = relaying.run(answer, stream, ended) => relayed,
            _ = deadline.expired() => Err(Broken::TimedOut),
        };
        let relayed = match relayed {
            Err(Broken::TimedOut) if self.inbound.drip.waits() && self.begun.get() == Begun::Nothing => {
                Err(Broken::Slow)
            }
            other => other,
        };
        if matches!(relayed, Err(Broken::TimedOut)) {
            seat.suspect();
            if self.begun.get() == Begun::Nothing {
                note_delay(worker, route, asked);
            }
        }
        relayed
    }

    /// What the caller gets instead of an answer, or instead of its rest.
    fn failed(&self, broken: Broken) -> Failed {
        tracing::debug!(target: "postern::proxy", error = %Causes(&broken), "exchange failed");
        let ours = match &broken {
            Broken::Caller(reason) => return Failed::Reset(*reason),
            Broken::Digest => return self.instead(DIGEST_MISMATCH),
            Broken::Slow => {
                self.worker.cuts.count("slow-body");
                return self.instead(SLOW_BODY);
            }
            Broken::NoConnection(failure) => match &**failure {
                Failure::Answer(answer) => return Failed::Answer(answer.clone()),
                Failure::Broken => BAD_ANSWER,
            },
            Broken::Response(_) => BAD_ANSWER,
            Broken::TimedOut => NO_ANSWER,
            Broken::Untouched(error) | Broken::Upstream(error) => match passed_on(error) {
                Some(reason) => return Failed::Reset(reason),
                None => BAD_ANSWER,
            },
        };
        self.worker.metrics.upstream_failures.inc();
        tracing::warn!(target: "postern::proxy", to = self.route.name(), error = %Causes(&broken), "upstream gave no answer");
        self.instead(ours)
    }

    /// An answer, if none has begun.
    fn instead(&self, answer: Answer) -> Failed {
        match self.begun.get() {
            Begun::Head => Failed::Reset(Reason::INTERNAL_ERROR),
            Begun::Nothing => Failed::Answer(answer),
        }
    }
}

/// What a service means by resetting a stream, where that means something to its caller (RFC 9113 §7). What it says of the
/// connection, of which the caller knows nothing, is an error inside.
fn passed_on(error: &h2::Error) -> Option<Reason> {
    let reason = error.reason().filter(|_| error.is_reset())?;
    Some(meant_for_peers(reason))
}

fn meant_for_peers(reason: Reason) -> Reason {
    let meant =
        [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::REFUSED_STREAM, Reason::HTTP_1_1_REQUIRED];
    if meant.contains(&reason) { reason } else { Reason::INTERNAL_ERROR }
}

/// Whether the service says that nothing was done about a request.
fn is_untouched(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    refused || error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)
}

/// A request that is under way.
struct Relaying<'e, 'a> {
    inbound: &'e mut Inbound<'a>,
    begun: &'e Cell<Begun>,
    deadline: &'e Deadline,
    limits: &'e Limits,
    seat: &'e Seat,
    note: &'e dyn Fn(Instant),
}

impl Relaying<'_, '_> {
    async fn run(
        self,
        mut answer: ResponseFuture,
        stream: SendStream<Bytes>,
        ended: bool,
    ) -> Result<Relayed, Broken> {
        let asked = Instant::now();
        let mut up = Up::new(stream, self.inbound, ended);
        let outcome = self.relay(&mut up, &mut answer, asked).await;
        if let Err(Broken::Caller(reason)) = &outcome {
            up.leg.to.send_reset(meant_for_peers(*reason));
        }
        outcome
    }

    async fn relay(
        self,
        up: &mut Up,
        answer: &mut ResponseFuture,
        asked: Instant,
    ) -> Result<Relayed, Broken> {
        let Self { inbound, begun, deadline, limits, seat, note } = self;
        let progress = || deadline.set(Phase::Transfer, limits.stall);
        let mut interim = 0;
        let response = poll_fn(|cx| {
            let before = up.leg.moved;
            if let Poll::Ready(Err(broken)) = up.poll(cx, inbound.body) {
                return Poll::Ready(Err(broken));
            }
            let waited = inbound.drip.waits();
            let silence = inbound.drip.look(up.waiting(), up.leg.moved).map_err(|TooSlow| Broken::Slow)?;
            if up.leg.moved != before || waited != inbound.drip.waits() {
                deadline
                    .set(Phase::Transfer, silence.map_or(limits.stall, |silence| silence.min(limits.stall)));
            }
            while let Poll::Ready(Some(Ok(head))) = answer.poll_informational(cx) {
                progress();
                inbound.drip.begin();
                interim += 1;
                if head.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(Broken::Response(BadResponse::Switched)));
                }
                if interim <= MOST_INTERIM {
                    pass_interim(inbound, &head)?;
                }
            }
            match Pin::new(&mut *answer).poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(error)) => {
                    let again = up.leg.is_untouched() && is_untouched(&error)
                        || inbound.repeatable == Repeatable::Yes && seat.is_reused() && !error.is_reset();
                    Poll::Ready(Err(if again { Broken::Untouched(error) } else { Broken::Upstream(error) }))
                }
                Poll::Pending => match inbound.respond.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(Err(Broken::Caller(reset.unwrap_or(Reason::CANCEL)))),
                    Poll::Pending => Poll::Pending,
                },
            }
        })
        .await?;
        seat.note_answer();
        note(asked);
        progress();
        let (parts, mut body) = response.into_parts();
        let head = response_head(inbound, &parts)?;
        let ended = body.is_end_stream();
        begun.set(Begun::Head);
        let stream = inbound.respond.send_response(head, ended).map_err(|error| reset_by(&error))?;
        let scan = inbound.leaks.map(|leaks| Scan::new(Rc::clone(leaks)));
        let mut down = Down { leg: Leg::new(stream, ended), scan };
        let brought = poll_fn(|cx| {
            let before = up.leg.moved + down.leg.moved;
            if let Poll::Ready(Err(broken)) = up.poll(cx, inbound.body) {
                return Poll::Ready(Err(broken));
            }
            let brought = down.poll(cx, &mut body);
            if up.leg.moved + down.leg.moved != before {
                progress();
            }
            brought
        });
        brought.await?;
        Ok(Relayed {
            status: parts.status.as_u16(),
            received: up.leg.moved,
            sent: down.leg.moved,
            caller_may_continue: true,
            upstream_may_continue: true,
        })
    }
}

/// The caller's side has failed: why it was reset, or that its connection is gone. The exchange ends at once: a stream that was
/// reset does not count against the caller's limit any more, so it may not cost anything any more (CVE-2023-44487).
fn reset_by(error: &h2::Error) -> Broken {
    Broken::Caller(error.reason().filter(|_| error.is_reset()).unwrap_or(Reason::CANCEL))
}

fn pass_interim(inbound: &mut Inbound<'_>, head: &http::Response<()>) -> Result<(), Broken> {
    if let Some(leaks) = inbound.leaks {
        look_through(head.headers(), leaks)?;
    }
    let mut passed = http::Response::new(());
    *passed.status_mut() = head.status();
    each_response_field(head.headers(), Limited::No, |name, value| {
        passed.headers_mut().append(name, value.clone());
    });
    inbound.respond.send_informational(passed).map_err(|error| reset_by(&error))
}

/// The head for the caller, once it was looked through.
fn response_head(inbound: &Inbound<'_>, parts: &http::response::Parts) -> Result<http::Response<()>, Broken> {
    if let Some(leaks) = inbound.leaks {
        look_through(&parts.headers, leaks)?;
    }
    let limited = if inbound.limits.is_empty() { Limited::No } else { Limited::Yes };
    let mut response =
        http::Response::builder().status(parts.status).header("x-request-id", inbound.id.as_str());
    for (name, value) in inbound.limits {
        response = response.header(*name, value.as_slice());
    }
    let mut response = response.body(()).map_err(|_| Broken::Response(BadResponse::Head))?;
    each_response_field(&parts.headers, limited, |name, value| {
        response.headers_mut().append(name, value.clone());
    });
    Ok(response)
}

fn look_through(fields: &HeaderMap, leaks: &Leaks) -> Result<(), Broken> {
    let mut text = Vec::new();
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\n"] {
            text.extend_from_slice(part);
        }
    }
    leaks.look_at_whole(&text).map_err(|Blocked| Broken::Response(BadResponse::Leak))
}

/// One direction of an exchange.
struct Leg {
    to: SendStream<Bytes>,
    /// What was read and not taken yet.
    held: Bytes,
    /// What is held is the end of the body, and was found good.
    last: bool,
    /// Nothing of the body is left to be read but its trailers.
    read: bool,
    ended: bool,
    moved: u64,
    touched: bool,
}

/// What a leg may do next.
enum Step {
    /// Everything has gone.
    Ended,
    /// This has been read, and must be looked at before it goes on.
    Read(Bytes),
    /// So has this.
    Trailers(Option<HeaderMap>),
}

/// Which end of a leg has failed.
enum Torn {
    From(h2::Error),
    /// The receiver takes no more.
    To,
}

impl Leg {
    fn new(to: SendStream<Bytes>, ended: bool) -> Self {
        Self { to, held: Bytes::new(), last: false, read: ended, ended, moved: 0, touched: false }
    }

    /// Whether nothing of the body was taken from its sender.
    fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Holds the next piece until it is taken; the last one ends the body.
    fn hold(&mut self, data: Bytes, last: bool) {
        self.held = data;
        self.last = last;
    }

    /// Sends on what is held, then reads the next piece.
    fn poll_step(&mut self, cx: &mut Context<'_>, from: &mut RecvStream) -> Poll<Result<Step, Torn>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(Step::Ended));
            }
            if !self.held.is_empty() {
                match self.poll_send(cx, from) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(torn)) => return Poll::Ready(Err(torn)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.read {
                return match from.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => Poll::Ready(Ok(Step::Trailers(trailers))),
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Torn::From(error))),
                    Poll::Pending => Poll::Pending,
                };
            }
            match from.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.touched = true;
                    return Poll::Ready(Ok(Step::Read(data)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Torn::From(error))),
                Poll::Ready(None) => self.read = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends as much of what is held as the receiver takes, and gives its sender as much room again.
    fn poll_send(&mut self, cx: &mut Context<'_>, from: &mut RecvStream) -> Poll<Result<(), Torn>> {
        self.to.reserve_capacity(self.held.len());
        if self.to.capacity() == 0 {
            match self.to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Torn::To)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = self.to.capacity().min(self.held.len());
        if count == 0 {
            return Poll::Ready(Ok(()));
        }
        let data = self.held.split_to(count);
        self.ended = self.held.is_empty() && self.last;
        self.to.send_data(data, self.ended).map_err(|_| Torn::To)?;
        self.moved += u64::try_from(count).unwrap_or(0);
        // Fails only for more than was received, which this is not.
        drop(from.flow_control().release_capacity(count));
        Poll::Ready(Ok(()))
    }

    /// Sends on what was held back for a while; too little to be waited for.
    fn add(&mut self, data: Bytes) -> Result<(), Torn> {
        self.moved += u64::try_from(data.len()).unwrap_or(0);
        if data.is_empty() { Ok(()) } else { self.to.send_data(data, false).map_err(|_| Torn::To) }
    }

    /// Ends the body, with trailers if there are any.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Torn> {
        self.ended = true;
        let ended = match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => self.to.send_trailers(trailers),
            None => self.to.send_data(Bytes::new(), true),
        };
        ended.map_err(|_| Torn::To)
    }
}

/// The request on its way up.
struct Up {
    leg: Leg,
    /// The service takes no more: its answer decides.
    given_up: bool,
    /// Bytes that were read.
    read: u64,
    /// The body's length, where it is known.
    length: Option<u64>,
    /// What the body must be; taken when it has been compared.
    digest: Option<DigestCheck>,
    api_key_header: Box<str>,
}

impl Up {
    fn new(stream: SendStream<Bytes>, inbound: &Inbound<'_>, ended: bool) -> Self {
        let length = match inbound.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        let digest = inbound.digest.clone().filter(|_| !ended);
        let api_key_header = inbound.api_key_header.into();
        Self { leg: Leg::new(stream, ended), given_up: false, read: 0, length, digest, api_key_header }
    }

    /// For whom it waits, if it could not go on.
    fn waiting(&self) -> Waiting {
        let all_sent = self.leg.held.is_empty() && !self.leg.ended && !self.given_up;
        if all_sent { Waiting::ForCaller } else { Waiting::ForOthers }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut RecvStream) -> Poll<Result<(), Broken>> {
        while !self.given_up {
            let sent = match self.leg.poll_step(cx, from) {
                Poll::Ready(Ok(Step::Ended)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Step::Read(data))) => self.take(data, from),
                Poll::Ready(Ok(Step::Trailers(trailers))) => {
                    self.compare()?;
                    let trailers = trailers.map(|fields| request_trailers(fields, &self.api_key_header));
                    self.leg.end(trailers).or_else(|torn| self.torn(&torn))
                }
                Poll::Ready(Err(torn)) => self.torn(&torn),
                Poll::Pending => return Poll::Pending,
            };
            sent?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body; the last one only if the whole is what was signed.
    fn take(&mut self, data: Bytes, from: &RecvStream) -> Result<(), Broken> {
        self.read += u64::try_from(data.len()).unwrap_or(0);
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        let last = from.is_end_stream();
        if last || self.length.is_some_and(|length| self.read >= length) {
            self.compare()?;
        }
        self.leg.hold(data, last);
        Ok(())
    }

    /// Compares the body, of which nothing more comes, with what was signed.
    fn compare(&mut self) -> Result<(), Broken> {
        let matches = self.digest.take().is_none_or(DigestCheck::matches);
        if matches { Ok(()) } else { Err(Broken::Digest) }
    }

    fn torn(&mut self, torn: &Torn) -> Result<(), Broken> {
        match torn {
            Torn::From(error) => Err(reset_by(error)),
            Torn::To => {
                self.given_up = true;
                Ok(())
            }
        }
    }
}

/// The answer's body on its way down.
struct Down {
    leg: Leg,
    /// Looks for secrets in the body.
    scan: Option<Scan>,
}

/// What may pass after the next piece was looked at, which may be the last one.
fn scanned(scan: &mut Scan, data: &[u8], last: bool) -> Result<Bytes, Broken> {
    let mut out = Vec::with_capacity(data.len() + LONGEST_SECRET);
    scan.pass(data, &mut out).map_err(|Blocked| Broken::Response(BadResponse::Leak))?;
    if last {
        scan.finish(&mut out);
    }
    Ok(out.into())
}

impl Down {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut RecvStream) -> Poll<Result<(), Broken>> {
        loop {
            match self.leg.poll_step(cx, from) {
                Poll::Ready(Ok(Step::Ended)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Step::Read(data))) => {
                    let last = from.is_end_stream();
                    let data = match &mut self.scan {
                        Some(scan) => scanned(scan, &data, last)?,
                        None => data,
                    };
                    self.leg.hold(data, last);
                }
                Poll::Ready(Ok(Step::Trailers(trailers))) => {
                    let trailers = trailers.map(response_trailers);
                    if let Some(scan) = &mut self.scan {
                        let mut rest = Vec::new();
                        scan.finish(&mut rest);
                        trailers.as_ref().map_or(Ok(()), |trailers| look_through(trailers, scan.leaks()))?;
                        self.leg.add(rest.into()).map_err(|_| Broken::Caller(Reason::CANCEL))?;
                    }
                    self.leg.end(trailers).map_err(|_| Broken::Caller(Reason::CANCEL))?;
                }
                Poll::Ready(Err(Torn::From(error))) => return Poll::Ready(Err(Broken::Upstream(error))),
                Poll::Ready(Err(Torn::To)) => return Poll::Ready(Err(Broken::Caller(self.reset(cx)))),
                Poll::Pending => {
                    // Only while it waits: what has arrived is what the caller still takes.
                    return match self.leg.to.poll_reset(cx) {
                        Poll::Ready(reset) => {
                            Poll::Ready(Err(Broken::Caller(reset.unwrap_or(Reason::CANCEL))))
                        }
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    fn reset(&mut self, cx: &mut Context<'_>) -> Reason {
        match self.leg.to.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reason,
            Poll::Ready(Err(_)) | Poll::Pending => Reason::CANCEL,
        }
    }
}
