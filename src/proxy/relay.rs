//! One HTTP/1 exchange: the request goes up while the answer may already come down.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::buffer::{Buffer, poll_read_with};
use super::deadline::{Deadline, Phase};
use super::drip::{Drip, TooSlow};
use super::ending::Ending;
use super::framing::Framing;
use super::http_gate::Version;
use super::leaks::{Blocked, Leaks, Scan};
use super::pump::{Pump, PumpError};
use super::request_id::RequestId;
use super::response::{self, BadResponse, Caller, ResponseHead, SWITCHING};
use super::trailers::{Bound, Trailers};
use super::upstream::Upstream;
use crate::credential::DigestCheck;

/// A response head may not be larger.
pub(super) const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// The caller's side of an exchange.
pub(super) struct Side<'a, S> {
    pub(super) io: &'a mut S,
    pub(super) unread: &'a mut Buffer,
    /// Where the caller's answer is put together.
    pub(super) out: &'a mut Vec<u8>,
    pub(super) stage: &'a Cell<Stage>,
}

/// The body of a request.
pub(super) struct Body {
    pub(super) framing: Framing,
    /// What it must be, where the caller has signed it.
    pub(super) digest: Option<DigestCheck>,
    /// How fast it has to come.
    pub(super) drip: Drip,
    /// What of its trailers passes, if anything may.
    pub(super) trailers: Option<Box<Trailers>>,
}

/// How far a connection has come with the request that it read last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The whole answer has been written, or nothing was asked yet.
    Answered,
    /// Part of an answer may have been written: another one would be taken for its rest.
    Answering,
    /// Not a byte of the final answer has been written.
    Asked,
}

/// How an exchange is timed.
#[derive(Clone, Copy)]
pub(super) struct Pace<'a> {
    pub(super) deadline: &'a Deadline,
    pub(super) stall: Duration,
    /// Whether the connection takes no further request.
    pub(super) ending: &'a Ending,
}

impl Pace<'_> {
    fn progress(&self) {
        self.deadline.set(Phase::Transfer, self.stall);
    }
}

/// An exchange that came to its end.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) status: u16,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) caller_may_continue: bool,
    pub(super) upstream_may_continue: bool,
}

/// An exchange that broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// The caller's body is malformed, or the caller is gone.
    #[error("the caller's side failed")]
    Caller(#[source] PumpError),
    /// The answer broke off after it had begun.
    #[error("the answer broke off")]
    Midway(#[source] PumpError),
    /// The caller went away while an interim answer was passed on.
    #[error("an interim answer could not be passed on")]
    Interim(#[source] io::Error),
    /// The service's answer cannot be passed on.
    #[error("the answer cannot be passed on")]
    Response(#[source] BadResponse),
    /// The service did not answer in time.
    #[error("the service did not answer in time")]
    TimedOut,
    /// The service hung up before it answered.
    #[error("the service hung up before it answered")]
    Upstream(#[source] io::Error),
}

/// Sends `head` and the caller's body up, and the answer down.
///
/// `head` is scratch memory. When it went up alone, it is given back as it was, so that it can be sent again.
///
/// # Errors
/// Which side broke. Before [`RelayError::Midway`] not a byte of an answer has reached the caller, interim ones aside.
pub(super) async fn relay<S>(
    side: Side<'_, S>,
    upstream: &mut Upstream,
    head: &mut Vec<u8>,
    body: Body,
    caller: &Caller<'_>,
    request_id: &RequestId,
    pace: Pace<'_>,
) -> Result<Relayed, RelayError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Side { io, unread, out, stage } = side;
    let Body { framing, digest, mut drip, trailers } = body;
    let sending = Pump::new(std::mem::take(head), framing, framing);
    let mut sending = sending.expecting(digest).followed_by(trailers);
    let outcome = async {
        let answer = loop {
            let answer =
                poll_fn(|cx| poll_head(cx, (&mut sending, &mut drip), io, unread, upstream, caller, pace))
                    .await?;
            scan_head(caller.leaks, upstream.unread.unread().get(..answer.length).unwrap_or_default())?;
            if answer.status == SWITCHING && !sending.is_done() {
                return Err(RelayError::Response(BadResponse::Switched));
            }
            if answer.status >= 200 || answer.status == SWITCHING {
                break answer;
            }
            drip.begin();
            pass_interim(io, out, upstream, &answer, caller, request_id).await?;
        };
        let caller = &Caller { keep_alive: caller.keep_alive && !pace.ending.is_wished(), ..*caller };
        let framing = response::framing_for(caller.version, &answer);
        out.clear();
        let head_bytes = upstream.unread.unread().get(..answer.length).unwrap_or_default();
        response::write_http1(out, head_bytes, &answer, caller, request_id);
        upstream.unread.consume(answer.length);
        let scan = caller.leaks.map(|leaks| Scan::new(Rc::clone(leaks)));
        let trailers = caller.trailers.and_then(|allowed| Trailers::of(allowed, Bound::Down));
        let receiving = Pump::new(std::mem::take(out), answer.body, framing);
        let mut receiving = receiving.scanned(scan).followed_by(trailers);
        stage.set(Stage::Answering);
        let received =
            poll_fn(|cx| poll_body(cx, &mut sending, &mut receiving, io, unread, upstream, pace)).await;
        let sent = receiving.moved();
        *out = receiving.into_scratch();
        received?;
        stage.set(Stage::Answered);
        let whole = sending.is_done();
        Ok(Relayed {
            status: answer.status,
            received: sending.moved(),
            sent,
            caller_may_continue: whole && caller.keep_alive && framing != Framing::Close,
            upstream_may_continue: whole && answer.keep_alive,
        })
    }
    .await;
    *head = sending.into_scratch();
    outcome
}

/// Looks through a response head, if it is to be looked through.
///
/// # Errors
/// It holds a secret, and may not pass.
pub(super) fn scan_head(leaks: Option<&Rc<Leaks>>, head: &[u8]) -> Result<(), RelayError> {
    let scanned = leaks.map_or(Ok(()), |leaks| leaks.look_at_whole(head));
    scanned.map_err(|Blocked| RelayError::Response(BadResponse::Leak))
}

/// Sends while it waits for a response head.
fn poll_head<S>(
    cx: &mut Context<'_>,
    (sending, drip): (&mut Pump, &mut Drip),
    io: &mut S,
    unread: &mut Buffer,
    upstream: &mut Upstream,
    caller: &Caller<'_>,
    pace: Pace<'_>,
) -> Poll<Result<ResponseHead, RelayError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if pace.deadline.is_late() {
        let slow = drip.waits();
        return Poll::Ready(Err(if slow { SLOW } else { RelayError::TimedOut }));
    }
    let before = sending.moved();
    if !sending.is_done() {
        match sending.poll(cx, io, unread, &mut upstream.io) {
            // A service may answer and hang up without reading the whole body: its answer decides, not the failed write.
            Poll::Ready(Err(PumpError::Write(_)) | Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Caller(error))),
        }
    }
    let waited = drip.waits();
    let silence = drip.look(sending.waiting(), sending.moved()).map_err(|TooSlow| SLOW)?;
    if sending.moved() != before || waited != drip.waits() {
        pace.deadline.set(Phase::Transfer, silence.map_or(pace.stall, |silence| silence.min(pace.stall)));
    }
    loop {
        if !upstream.unread.is_empty() {
            let bytes = upstream.unread.unread();
            match response::read_or_switch(bytes, caller.to_head_request, caller.upgrade) {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) if bytes.len() > MAX_RESPONSE_HEAD => {
                    return Poll::Ready(Err(RelayError::Response(BadResponse::Head)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(RelayError::Response(error))),
            }
        }
        let into = &mut upstream.unread;
        match poll_read_with(cx, Pin::new(&mut upstream.io), |bytes| into.extend(bytes)) {
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(RelayError::Upstream(io::ErrorKind::UnexpectedEof.into())));
            }
            Poll::Ready(Ok(_)) => pace.progress(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Upstream(error))),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Sends what is left of the request while the answer's body comes down.
fn poll_body<S>(
    cx: &mut Context<'_>,
    sending: &mut Pump,
    receiving: &mut Pump,
    io: &mut S,
    unread: &mut Buffer,
    upstream: &mut Upstream,
    pace: Pace<'_>,
) -> Poll<Result<(), RelayError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if pace.deadline.is_late() {
        return Poll::Ready(Err(RelayError::Midway(PumpError::Read(io::ErrorKind::TimedOut.into()))));
    }
    let before = sending.moved() + receiving.moved();
    if !sending.is_done() {
        match sending.poll(cx, io, unread, &mut upstream.io) {
            Poll::Ready(Err(PumpError::Write(_)) | Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Midway(error))),
        }
    }
    let outcome = receiving.poll(cx, &mut upstream.io, &mut upstream.unread, io);
    if sending.moved() + receiving.moved() != before {
        pace.progress();
    }
    outcome.map_err(RelayError::Midway)
}

const SLOW: RelayError = RelayError::Caller(PumpError::Slow);

/// Passes an interim answer on (RFC 9110 §15.2); callers of HTTP/1.0 do not know them.
async fn pass_interim<S: AsyncWrite + Unpin>(
    io: &mut S,
    out: &mut Vec<u8>,
    upstream: &mut Upstream,
    answer: &ResponseHead,
    caller: &Caller<'_>,
    request_id: &RequestId,
) -> Result<(), RelayError> {
    if caller.version != Version::Http10 {
        out.clear();
        let bytes = upstream.unread.unread().get(..answer.length).unwrap_or_default();
        response::write_http1(out, bytes, answer, caller, request_id);
        io.write_all(out).await.map_err(RelayError::Interim)?;
        io.flush().await.map_err(RelayError::Interim)?;
    }
    upstream.unread.consume(answer.length);
    Ok(())
}
