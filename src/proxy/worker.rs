//! What one data-plane thread owns: pools, counters, its end of the access log. Nothing in here is shared with another thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::buffer::{Shelf, wipe_page};
use super::context::{Attestor, PlaneContext, Signal};
use super::crowd::{Crowd, Turnstile};
use super::h2_upstream::H2Pool;
use super::leaks::Leaks;
use super::pressure::{Gauge, Pressure};
use super::request_id::RequestIds;
use super::settings::{Limits, Watch};
use super::sightings::Lookout;
use super::signs::{Noticed, Seen, Signs};
use super::snapshot::{Current, Snapshot};
use super::tls::NotYetValid;
use super::turns::Turns;
use super::upstream::Pool;
use super::uses::UseLog;
use crate::authz::Permit;
use crate::clock::{Clock, Timestamp};
use crate::credential::recognise;
use crate::id::AppId;
use crate::issuance::TokenDesk;
use crate::pki::{Skews, Verified, VerifyError};
use crate::telemetry::{AccessEvent, AccessLog, CallCounter, CodeCounter, Metrics, Recall, SpanSink, Tally};

/// Access-log lines wait no longer than this for company.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// What was counted is handed over this often.
const HAND_OVER_EVERY: Duration = Duration::from_millis(500);

/// Idle upstream connections are looked at this often.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Whoever waits for a valid certificate looks at the clock this often, besides at each new snapshot.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One data-plane thread's belongings.
#[derive(Debug)]
pub(super) struct Worker {
    current: Current,
    clock: Arc<dyn Clock>,
    pub(super) attestor: Arc<dyn Attestor>,
    pub(super) pool: Pool,
    /// Connections that requests share.
    pub(super) shared: H2Pool,
    pub(super) ids: RequestIds,
    pub(super) requests: CodeCounter,
    pub(super) outbound: CodeCounter,
    pub(super) handshakes: CodeCounter,
    /// Requests by app, product and service.
    pub(super) calls: CallCounter,
    pub(super) spans: SpanSink,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tokens: TokenDesk,
    lookout: Lookout,
    uses: UseLog,
    skews: Arc<Mutex<Skews>>,
    /// The last decisions.
    pub(super) recall: Recall,
    pub(super) signs: Signs,
    seen: Seen,
    tally: Tally,
    records: AccessLog,
    access: AccessLog,
    access_pending: Notify,
    pub(super) signal: watch::Receiver<Signal>,
    pub(super) cuts: CodeCounter,
    open: Cell<usize>,
    /// Handshakes under way.
    pub(super) handshaking: Rc<Turnstile>,
    /// Which of them has the processor.
    pub(super) turns: Turns,
    /// Connections by where they come from.
    pub(super) sources: Rc<Crowd<u128>>,
    /// Connections by whose certificate they came with.
    pub(super) apps: Rc<Crowd<AppId>>,
    pressure: Gauge,
    /// What requests are worked out in.
    pub(super) scratch: Shelf,
    itself: Weak<Self>,
}

impl Worker {
    /// A thread's belongings, made on that thread.
    pub(super) fn new(context: &PlaneContext, signal: watch::Receiver<Signal>) -> Rc<Self> {
        Rc::new_cyclic(|itself| Self {
            current: Arc::clone(&context.current),
            clock: Arc::clone(&context.clock),
            attestor: Arc::clone(&context.attestor),
            pool: Pool::new(),
            shared: H2Pool::default(),
            ids: RequestIds::new(),
            requests: context.metrics.requests(),
            outbound: context.metrics.outbound(),
            handshakes: context.metrics.handshakes(),
            calls: context.metrics.by_caller(),
            spans: context.spans.clone(),
            metrics: Arc::clone(&context.metrics),
            tokens: context.tokens.clone(),
            lookout: context.lookout.clone(),
            uses: UseLog::new(context.uses.clone()),
            skews: Arc::clone(&context.skews),
            recall: Recall::new(context.remember),
            signs: context.signs.clone(),
            seen: Seen::new(),
            tally: Tally::new(Arc::clone(&context.usage)),
            records: AccessLog::new(context.records.clone()),
            access: AccessLog::new(context.access.clone()),
            access_pending: Notify::new(),
            signal,
            cuts: context.metrics.cuts(),
            open: Cell::new(0),
            handshaking: Rc::default(),
            turns: Turns::default(),
            sources: Rc::default(),
            apps: Rc::default(),
            pressure: context.pressure.clone(),
            scratch: Shelf::default(),
            itself: Weak::clone(itself),
        })
    }

    /// The same belongings, for what goes on by itself on the thread.
    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.itself)
    }

    /// The snapshot in force now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// How old a connection may become that begins now: a tenth more or less than is configured, so that those which came together
    /// do not go together.
    pub(super) fn age(&self, limits: &Limits) -> Option<Duration> {
        let thousandths = 900 + u32::try_from(self.ids.random() % 201).unwrap_or(100);
        limits.max_age.map(|age| age / 1000 * thousandths)
    }

    /// How hard memory presses.
    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    /// The time of day.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The runtime's moment at which the time of day will be `at`, as things stand: asked again whenever the clock was set.
    pub(super) fn moment(&self, at: Timestamp) -> Instant {
        // A span beyond what an instant can express is cut to some thirty years: longer than any connection.
        Instant::now() + at.since(self.now()).min(Duration::from_secs(1_000_000_000))
    }

    /// Remembers by which credentials somebody was let in.
    pub(super) fn note_use(&self, permit: &Permit<'_>, now: Timestamp) {
        permit.credentials().for_each(|credential| self.uses.note(credential, &self.metrics, now));
    }

    /// Remembers a peer whose clock is ahead.
    pub(super) fn note_skew(&self, skew: &NotYetValid) {
        if let Some(peer) = &skew.peer {
            let mut skews = self.skews.lock().unwrap_or_else(PoisonError::into_inner);
            skews.observe(peer.clone(), skew.ahead, self.now());
        }
    }

    /// Counts and logs that a connection ends because the certificate does that it rests on.
    pub(super) fn note_expiry(&self) {
        self.cuts.count("certificate-expired");
        tracing::debug!(target: "postern::proxy", "connection ends with its certificate");
    }

    /// Whether a connection that rests on `verified` may go on; if not, it is counted and logged why.
    ///
    /// # Errors
    /// The code of the reason.
    pub(super) fn still_believes(&self, verified: &Verified, door: &str) -> Result<(), &'static str> {
        let (snapshot, now) = (self.current.load(), self.now());
        match snapshot.verifier.confirm(verified, now) {
            Ok(()) => {
                self.lookout.look_at(&verified.subject, &snapshot, now);
                Ok(())
            }
            // The connection's own deadline sees to its end, and to what is under way then.
            Err(VerifyError::Expired { .. }) => Ok(()),
            Err(VerifyError::RootExpired { .. }) if now > verified.not_after() => Ok(()),
            Err(error) => {
                let code = if let VerifyError::Revoked(_) = error {
                    "revoked"
                } else if let VerifyError::NotYetValid { .. } = error {
                    "certificate-not-yet-valid"
                } else if let VerifyError::ForgedCrl { .. }
                | VerifyError::NoCrl { .. }
                | VerifyError::StaleCrl { .. } = error
                {
                    "no-current-crl"
                } else {
                    "not-trusted"
                };
                self.cuts.count(code);
                let spiffe_id = &verified.subject.spiffe_id;
                tracing::warn!(target: "postern::proxy", %spiffe_id, door, reason = %error, "connection cut");
                Err(code)
            }
        }
    }

    /// What `find` gives as soon as it gives something, looking again at each new snapshot and now and then; nothing when
    /// `within` has passed first.
    pub(super) async fn hold<T>(&self, within: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
        let mut signal = self.signal.clone();
        let found = async {
            loop {
                signal.mark_unchanged();
                if let Some(found) = find() {
                    return found;
                }
                // The time is up in any case; a plane that is gone announces nothing more.
                drop(tokio::time::timeout(LOOK_AGAIN, signal.changed()).await);
            }
        };
        tokio::time::timeout(within, found).await.ok()
    }

    /// Connections that are open on this thread.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Some moment within `span`, so that what many are told at once is not done by all of them at once.
    pub(super) fn some_moment_in(&self, span: Duration) -> Duration {
        span / 1024 * u32::try_from(self.ids.random() % 1024).unwrap_or(0)
    }

    /// Leaves `event` in the access log, remembers it, and counts it as usage.
    pub(super) fn log(&self, event: &AccessEvent<'_>) {
        self.recall.remember(event);
        let mut pending = self.access.record(event);
        if event.direction == "in" {
            self.tally.count(event);
            self.seen.look_at(event, &self.signs);
            pending |= self.records.record(event);
        }
        if pending {
            self.access_pending.notify_one();
        }
    }

    /// Flushes the access log shortly after something was written; runs as long as the thread does.
    pub(super) async fn flush_log(self: Rc<Self>) {
        loop {
            self.access_pending.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.access.flush();
            self.records.flush();
        }
    }

    /// An answer that is looked through for secrets, if it is to be: what is found and on file is told at once.
    ///
    /// By its hash: whoever only makes up the name of a credential accuses nobody.
    pub(super) fn watch(&self, watch: Watch) -> Option<Rc<Leaks>> {
        if watch == Watch::Off {
            return None;
        }
        let (current, clock, signs) =
            (Arc::clone(&self.current), Arc::clone(&self.clock), self.signs.clone());
        Leaks::of(watch, move |text, told| {
            let snapshot = current.load();
            let found = recognise(text.expose_secret(), &snapshot.registry, &snapshot.peppers)?;
            if !told.contains(&found.id) {
                let (credential, app) = (found.id.to_string(), found.app.id.to_string());
                signs.report(clock.now(), Noticed::Leaked { credential, app, place: "response" });
            }
            Some(found.id.clone())
        })
    }

    /// Hands over what was counted, now and then; runs as long as the thread does.
    pub(super) async fn hand_over_usage(self: Rc<Self>) {
        loop {
            tokio::time::sleep(HAND_OVER_EVERY).await;
            self.tally.hand_over_soon();
        }
    }

    /// Shares the processor out to handshakes; runs as long as the thread does.
    pub(super) async fn keep_turns(self: Rc<Self>) {
        self.turns.keep().await;
    }

    /// Drops stale upstream connections, and forgets what was read; runs as long as the thread does.
    pub(super) async fn sweep_pool(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.pool.sweep();
            self.shared.sweep();
            wipe_page();
        }
    }
}

/// Counts a connection for as long as it is held.
#[derive(Debug)]
pub(super) struct OpenConnection(Rc<Worker>);

impl OpenConnection {
    pub(super) fn on(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        worker.metrics.connections.inc();
        Self(Rc::clone(worker))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.metrics.connections.dec();
    }
}

/// A descriptor that is kept for the moment at which there is none left: whoever knocks then is turned away instead of left
/// waiting.
#[derive(Debug)]
pub(super) struct Reserve(Option<OwnedFd>);

impl Reserve {
    /// Opens something that is always there.
    pub(super) fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok().map(OwnedFd::from))
    }

    /// Turns away who waits at `socket`, if `error` says that there are no descriptors; returns how many.
    pub(super) async fn turn_away(&mut self, error: &io::Error, socket: &TcpListener) -> usize {
        let none_left = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        if !none_left.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            return 0;
        }
        self.0 = None;
        let mut count = 0;
        while count < AT_ONCE {
            let accepted = poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await;
            let Poll::Ready(Ok(_)) = accepted else { break };
            count += 1;
        }
        *self = Self::new();
        count
    }
}

/// So many are turned away without looking at anything else.
const AT_ONCE: usize = 64;

/// Waits after a failed accept, so that a full descriptor table does not become a busy loop.
pub(super) async fn back_off(error: &io::Error, failures: &mut u32) {
    *failures = failures.saturating_add(1);
    let wait = Duration::from_millis(5 << (*failures).min(8));
    tracing::warn!(%error, ?wait, "cannot accept");
    tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
}
