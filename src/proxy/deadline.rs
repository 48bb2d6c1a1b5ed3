//! One timer per connection for all that it may wait for.
//!
//! A request that is served at once moves a deadline without touching the runtime's timer wheel: the timer is set again only
//! when it fires early, or when a deadline comes nearer.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The rest of a request head.
    Head,
    /// The next request, or any byte.
    Idle,
    /// Progress of a request or an answer.
    Transfer,
    /// The end of the certificate that the connection rests on.
    Validity,
}

/// A deadline that moves, and one that does not.
#[derive(Debug)]
pub(super) struct Deadline {
    phase: Cell<Phase>,
    at: Cell<Instant>,
    validity: Cell<Option<Instant>>,
    /// Until when what is under way may go on behind the validity.
    farewell: Cell<Option<Instant>>,
    late: Cell<bool>,
    /// When the connection is old enough to be replaced.
    old: Cell<Option<Instant>>,
    armed: Cell<Instant>,
    timer: RefCell<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// A deadline in `span`; whatever happens, the connection ends at `validity`.
    pub(super) fn new(phase: Phase, span: Duration, validity: Option<Instant>) -> Self {
        let at = Instant::now() + span;
        let armed = validity.map_or(at, |validity| validity.min(at));
        Self {
            phase: Cell::new(phase),
            at: Cell::new(at),
            validity: Cell::new(validity),
            farewell: Cell::new(None),
            late: Cell::new(false),
            old: Cell::new(None),
            armed: Cell::new(armed),
            timer: RefCell::new(Box::pin(sleep_until(armed))),
        }
    }

    /// From now on the connection waits for `phase`, for `span` at most.
    pub(super) fn set(&self, phase: Phase, span: Duration) {
        let at = Instant::now() + span;
        self.phase.set(phase);
        self.at.set(at);
        if phase == Phase::Idle {
            self.late.set(false);
        }
        if at < self.armed.get() {
            self.arm(at);
        }
    }

    /// Who waits for a next request waits no longer than `span` from now on.
    pub(super) fn shorten_idle(&self, span: Duration) {
        if self.phase.get() == Phase::Idle && self.at.get() > Instant::now() + span {
            self.set(Phase::Idle, span);
        }
    }

    /// The certificate ends at another moment than was thought, because the clock was set or stood still.
    pub(super) fn move_validity(&self, validity: Option<Instant>) {
        if self.validity.replace(validity) != validity {
            self.arm(self.next());
        }
    }

    /// Tells the request that is under way that its time is up, and gives it `span` to say so. False if it was told before.
    pub(super) fn give_notice(&self, span: Duration) -> bool {
        self.set(Phase::Transfer, span);
        !self.late.replace(true)
    }

    /// The connection is to be replaced after `age`.
    pub(super) fn retire_after(&self, age: Option<Duration>) {
        self.old.set(age.map(|age| Instant::now() + age));
    }

    /// Whether the connection is old enough to be replaced.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.old.get().is_some_and(|old| old <= now)
    }

    /// Whether the time of the request under way is up.
    pub(super) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Whether the certificate has ended on which the connection rests, farewell or not.
    pub(super) fn is_past_validity(&self) -> bool {
        self.validity.get().is_some_and(|validity| validity <= Instant::now())
    }

    /// Whether the certificate ends by `at`, on which the connection rests.
    pub(super) fn ends_by(&self, at: Instant) -> bool {
        self.validity.get().is_some_and(|validity| validity <= at)
    }

    /// Gives what is under way a last `span` after the certificate has ended; false when it has had one.
    pub(super) fn grant_farewell(&self, span: Duration) -> bool {
        if self.farewell.get().is_some() {
            return false;
        }
        self.farewell.set(Some(Instant::now() + span));
        self.arm(self.next());
        true
    }

    /// Ends when a deadline has passed, and says which.
    pub(super) async fn expired(&self) -> Phase {
        poll_fn(|cx| {
            loop {
                ready!(self.timer.borrow_mut().as_mut().poll(cx));
                let now = Instant::now();
                if self.end().is_some_and(|end| end <= now) {
                    return Poll::Ready(Phase::Validity);
                }
                if self.at.get() <= now {
                    return Poll::Ready(self.phase.get());
                }
                self.arm(self.next());
            }
        })
        .await
    }

    /// Whichever deadline comes first.
    fn next(&self) -> Instant {
        let at = self.at.get();
        self.end().map_or(at, |end| end.min(at))
    }

    /// When the connection ends, whatever happens on it.
    fn end(&self) -> Option<Instant> {
        self.farewell.get().or_else(|| self.validity.get())
    }

    fn arm(&self, at: Instant) {
        self.timer.borrow_mut().as_mut().reset(at);
        self.armed.set(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_on_does_not_fire() {
        let start = Instant::now();
        let deadline = Deadline::new(Phase::Idle, Duration::from_secs(60), None);
        tokio::time::advance(Duration::from_secs(50)).await;

        deadline.set(Phase::Transfer, Duration::from_secs(30));

        assert_eq!(deadline.expired().await, Phase::Transfer);
        assert_eq!(start.elapsed().as_secs(), 80);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_come_nearer() {
        let start = Instant::now();
        let deadline = Deadline::new(Phase::Idle, Duration::from_secs(60), None);

        deadline.set(Phase::Head, Duration::from_secs(10));

        assert_eq!(deadline.expired().await, Phase::Head);
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_idle_is_hurried() {
        let start = Instant::now();
        let deadline = Deadline::new(Phase::Idle, Duration::from_secs(60), None);

        deadline.shorten_idle(Duration::from_secs(90));
        deadline.shorten_idle(Duration::from_secs(20));
        assert_eq!(deadline.expired().await, Phase::Idle);
        assert_eq!(start.elapsed().as_secs(), 20);
        deadline.set(Phase::Transfer, Duration::from_secs(30));
        deadline.shorten_idle(Duration::from_secs(1));

        assert_eq!(deadline.expired().await, Phase::Transfer);
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_outlives_the_certificate() {
        let start = Instant::now();
        let deadline =
            Deadline::new(Phase::Idle, Duration::from_secs(60), Some(start + Duration::from_secs(90)));

        tokio::time::advance(Duration::from_secs(59)).await;
        deadline.set(Phase::Transfer, Duration::from_secs(600));

        assert_eq!(deadline.expired().await, Phase::Validity);
        assert_eq!(start.elapsed().as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_moves_the_end_of_the_certificate_both_ways() {
        let start = Instant::now();
        let deadline =
            Deadline::new(Phase::Idle, Duration::from_secs(600), Some(start + Duration::from_secs(60)));

        deadline.move_validity(Some(start + Duration::from_secs(90)));
        let later = tokio::time::timeout(Duration::from_secs(89), deadline.expired()).await;
        assert!(later.is_err(), "the former end has no meaning any more");
        assert!(!deadline.is_past_validity());

        let (phase, ()) = tokio::join!(deadline.expired(), async {
            // While somebody waits for it.
            deadline.move_validity(Some(start));
        });
        assert_eq!(phase, Phase::Validity);
        assert_eq!(start.elapsed().as_secs(), 89);
    }
}
