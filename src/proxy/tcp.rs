//! Raw connections: who is it, may it, and then bytes both ways until somebody has had enough or the certificate ends.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::admission::{Admission, Purpose, Verdict, Visitor};
use super::buffer::{Buffer, poll_read_with};
use super::context::Signal;
use super::deadline::{Deadline, Phase};
use super::forward::{Route, dial, valid_way};
use super::proxy_protocol::{self, Passage, Shown};
use super::settings::{Limits, SendProxy};
use super::snapshot::Snapshot;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::authz::{Ask, Door, Till, check};
use crate::clock::Timestamp;
use crate::credential::{Evidence, HeaderEvidence};
use crate::id::ServiceId;
use crate::identity::Subject;
use crate::telemetry::AccessEvent;

/// How a raw connection came in.
pub(super) struct Arrival {
    /// When the certificate ends that it rests on, if it rests on one.
    pub(super) until: Option<Timestamp>,
    /// Our end of it.
    pub(super) destination: SocketAddr,
    /// The version of TLS.
    pub(super) tls: &'static str,
    /// The protocol that was agreed on in the handshake.
    pub(super) alpn: Option<Box<[u8]>>,
    /// Whether its session began on an earlier connection.
    pub(super) resumed: bool,
}

/// Serves one raw connection from outside.
pub(super) async fn serve<S>(
    worker: &Worker,
    visitor: &Visitor,
    service: &ServiceId,
    mut stream: S,
    arrival: &Arrival,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (now, begun) = (worker.now(), Instant::now());
    let id = worker.ids.next(now);
    let snapshot = worker.snapshot();
    let (verdict, moved) = match judge(visitor, service, &snapshot, Purpose::Admit, now) {
        (verdict, None) => (verdict, Moved::default()),
        (verdict, Some(admission)) => {
            worker.note_use(&admission.permit, now);
            let header = header(visitor, admission.service.send_proxy, arrival);
            match introduce(worker, &Route::Service(admission), &snapshot.limits, &header).await {
                Ok(mut upstream) => {
                    let allowed = || may_go_on(worker, visitor, service);
                    let (near, far) = (End::new(&mut stream), End::new(&mut upstream.io));
                    let moved = pipe(worker, near, far, arrival.until, &snapshot.limits, allowed).await;
                    (Verdict { code: moved.ended.unwrap_or(verdict.code), ..verdict }, moved)
                }
                Err(code) => (Verdict { code, ..verdict }, Moved::default()),
            }
        }
    };
    worker.requests.count(verdict.code);
    worker.log(&AccessEvent {
        at: now,
        request_id: id.as_str(),
        door: visitor.listener.settings.id.as_str(),
        direction: "in",
        peer: Some(visitor.peer),
        protocol: "tcp",
        method: "",
        path: "",
        status: 0,
        code: verdict.code,
        service: verdict.service,
        app: verdict.app,
        developer: verdict.developer,
        user_agent: "",
        product: verdict.product,
        operation: verdict.operation,
        presented: verdict.presented,
        registry: snapshot.registry.version(),
        credential: verdict.credential,
        user: verdict.user(),
        spiffe_id: visitor.spiffe_id(),
        received: moved.up,
        sent: moved.down,
        duration: begun.elapsed(),
    });
}

/// Decides on a raw connection to `service`.
pub(super) fn judge<'s>(
    visitor: &Visitor,
    service: &'s ServiceId,
    snapshot: &'s Snapshot,
    purpose: Purpose,
    now: Timestamp,
) -> (Verdict<'s>, Option<Admission<'s>>) {
    let evidence = Evidence { headers: HeaderEvidence::default(), ..visitor.evidence() };
    let presented = evidence.kinds();
    let settings = snapshot.routes.service(service);
    let door = Door {
        listener: snapshot.accepted_at(&visitor.listener.settings),
        service: settings.and_then(|settings| settings.accepts.as_ref()),
        environment: snapshot.environment.as_ref(),
    };
    // A connection may last for days and say nothing, so it holds no place at the service.
    let toll = purpose.toll(Till { ledger: &snapshot.ledger, service: None });
    let ask = Ask::Tcp { service };
    match (check(&evidence, &ask, door, &snapshot.registry, &snapshot.peppers, &toll, now), settings) {
        (Ok(permit), Some(service)) => (
            Verdict::of_permit(&permit, service.id.as_str(), presented),
            Some(Admission { permit, service, digest: None, presented, upgrade: None }),
        ),
        (Ok(_), None) => (Verdict::of_nobody("no-such-service"), None),
        (Err(no), _) => (Verdict::of_no(&no, service.as_str(), presented), None),
    }
}

/// Whether a connection that was let in once would be let in again; if not, why.
fn may_go_on(worker: &Worker, visitor: &Visitor, service: &ServiceId) -> Result<(), &'static str> {
    visitor.still_stands(worker)?;
    let snapshot = worker.snapshot();
    match judge(visitor, service, &snapshot, Purpose::Stay, worker.now()) {
        (_, Some(_)) => Ok(()),
        (verdict, None) => {
            worker.cuts.count(verdict.code);
            Err(verdict.code)
        }
    }
}

/// A fresh upstream connection for a raw one.
///
/// # Errors
/// The code of what went wrong.
pub(super) async fn connect(
    worker: &Worker,
    route: &Route<'_>,
    limits: &Limits,
) -> Result<Upstream, &'static str> {
    let way = valid_way(worker, route, limits).await.ok_or("no-identity")?;
    dial(worker, &way, limits).await.map_err(|_| "upstream-unavailable")
}

/// A fresh upstream connection that begins with `header`.
///
/// # Errors
/// The code of what went wrong.
async fn introduce(
    worker: &Worker,
    route: &Route<'_>,
    limits: &Limits,
    header: &[u8],
) -> Result<Upstream, &'static str> {
    let mut upstream = connect(worker, route, limits).await?;
    let written = tokio::time::timeout(limits.connect, upstream.io.write_all(header)).await;
    match written {
        Ok(Ok(())) => Ok(upstream),
        Ok(Err(_)) | Err(_) => Err("upstream-unavailable"),
    }
}

/// What a service is told ahead of who comes, where it is told.
fn header(visitor: &Visitor, send_proxy: SendProxy, arrival: &Arrival) -> Vec<u8> {
    if send_proxy == SendProxy::Off {
        return Vec::new();
    }
    let subject = visitor.subject();
    proxy_protocol::write(&Passage {
        source: visitor.peer,
        destination: arrival.destination,
        alpn: arrival.alpn.as_deref(),
        sni: visitor.sni.as_deref(),
        tls: arrival.tls,
        shown: match subject {
            None => Shown::Never,
            Some(_) if arrival.resumed => Shown::Once,
            Some(_) => Shown::Now,
        },
        common_name: subject.and_then(Subject::common_name),
        spiffe_id: subject.map(|subject| subject.spiffe_id.as_str()),
    })
}

/// What a raw connection carried, and why it was ended if not by its own ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) ended: Option<&'static str>,
}

/// One end of a raw connection.
pub(super) struct End<'a, S> {
    pub(super) io: &'a mut S,
    /// What was read from it and has not gone anywhere yet.
    pub(super) unread: Buffer,
}

impl<'a, S> End<'a, S> {
    /// An end of which nothing was read.
    pub(super) fn new(io: &'a mut S) -> Self {
        Self { io, unread: Buffer::default() }
    }
}

/// Carries bytes both ways until both sides are done, nothing moves for too long, the certificate ends, the agent stops, or
/// a new snapshot does not `allow` it any more.
pub(super) async fn pipe<A, B>(
    worker: &Worker,
    near: End<'_, A>,
    far: End<'_, B>,
    until: Option<Timestamp>,
    limits: &Limits,
    allowed: impl Fn() -> Result<(), &'static str>,
) -> Moved
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let validity = || until.map(|until| worker.moment(until));
    let deadline = Deadline::new(Phase::Idle, limits.idle, validity());
    let allowed = || {
        deadline.move_validity(validity());
        allowed()
    };
    let (mut up, mut down) = (OneWay::of(near.unread), OneWay::of(far.unread));
    let (near, far) = (near.io, far.io);
    let mut signal = worker.signal.clone();
    let ended = {
        let mut both = pin!(std::future::poll_fn(|cx| {
            let before = up.moved + down.moved;
            let there = up.poll(cx, near, far);
            let back = down.poll(cx, far, near);
            if up.moved + down.moved != before {
                deadline.set(Phase::Idle, limits.idle);
            }
            match (there, back) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Some(BROKEN_OFF)),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(None),
                (Poll::Ready(Ok(())) | Poll::Pending, _) => Poll::Pending,
            }
        }));
        tokio::select! {
            biased;
            ended = &mut both => ended,
            phase = deadline.expired() => Some(match phase {
                Phase::Validity => {
                    worker.note_expiry();
                    "certificate-expired"
                }
                Phase::Head | Phase::Idle | Phase::Transfer => "idle-timeout",
            }),
            code = forbidden(&mut signal, worker.some_moment_in(limits.drain / 10), allowed) => Some(code),
        }
    };
    if ended == Some(BROKEN_OFF) {
        // The other end must not take for whole what was cut short: over TLS it gets no close_notify.
        return Moved { up: up.moved, down: down.moved, ended };
    }
    // Both ends are told in good order; one that has hung up already does not mind.
    let goodbye = async {
        drop(tokio::io::AsyncWriteExt::shutdown(near).await);
        drop(tokio::io::AsyncWriteExt::shutdown(far).await);
    };
    drop(tokio::time::timeout(Duration::from_secs(1), goodbye).await);
    Moved { up: up.moved, down: down.moved, ended }
}

/// One of the ends was cut and not closed.
pub(super) const BROKEN_OFF: &str = "broken-off";

/// Whether a connection may go on is asked this often, whatever happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Ends when the connection may not go on: when it is not allowed any more, or a little before a drain ends, so that it is
/// closed and not cut, `early` sooner if there is another process to go to.
async fn forbidden(
    signal: &mut watch::Receiver<Signal>,
    early: Duration,
    allowed: impl Fn() -> Result<(), &'static str>,
) -> &'static str {
    loop {
        // Before the question, so that what changes while it is answered is asked about again.
        let heard = *signal.borrow_and_update();
        if let Err(code) = allowed() {
            return code;
        }
        let early = GOODBYE + if heard.heir { early } else { Duration::ZERO };
        let left = heard.left().map(|left| left.saturating_sub(early));
        if left == Some(Duration::ZERO) {
            return "agent-stopped";
        }
        // What ends by itself, as a grant or a credential does, is told by nobody.
        let changed = tokio::time::timeout(left.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN), signal.changed());
        // Without a sender there is no plane any more.
        if matches!(changed.await, Ok(Err(_))) {
            return "agent-stopped";
        }
    }
}

/// Both ends of a raw connection are told so long before a drain ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// One direction of a raw connection.
#[derive(Debug, Default)]
struct OneWay {
    unread: Buffer,
    ended: bool,
    shut: bool,
    moved: u64,
}

impl OneWay {
    /// A direction in which `unread` goes first.
    fn of(unread: Buffer) -> Self {
        Self { unread, ..Self::default() }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            while !self.unread.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, self.unread.unread()) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        self.moved += u64::try_from(count).unwrap_or(0);
                        self.unread.consume(count);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.ended {
                match Pin::new(&mut *to).poll_shutdown(cx) {
                    Poll::Ready(_) => self.shut = true,
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            self.unread.rest();
            let unread = &mut self.unread;
            match poll_read_with(cx, Pin::new(&mut *from), |bytes| unread.extend(bytes)) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    return match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_changes_while_it_is_asked_is_asked_about_again() {
        let (sender, mut signal) = watch::channel(Signal::default());
        let asked = std::cell::Cell::new(0);
        let allowed = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                // The answer is still by the former snapshot when the next one is announced.
                sender.send_modify(|signal| signal.changes += 1);
                return Ok(());
            }
            Err("revoked")
        };

        let code =
            tokio::time::timeout(Duration::from_secs(1), forbidden(&mut signal, Duration::ZERO, allowed))
                .await;

        assert_eq!(code, Ok("revoked"));
    }
}
