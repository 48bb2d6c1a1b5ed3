//! Who has the processor when many want it for long: handshakes take it one step at a time, and between two steps everybody
//! else of the thread has a turn.
//!
//! A step of a handshake costs as much as ten requests. Sixty of them in a row would have every request wait that came meanwhile,
//! for the runtime looks for news only after so many tasks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// The turns of one thread.
///
/// **Invariant:** no step is taken between one that was taken and the next [`yield_now`] of [`Turns::keep`], but for those that it
/// calls, one at a time.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether a step was taken that nobody has made room for since.
    taken: Cell<bool>,
    waiting: RefCell<VecDeque<Weak<Ticket>>>,
    begun: Notify,
}

/// Somebody who takes steps.
#[derive(Debug, Default)]
struct Ticket {
    is_waiting: Cell<bool>,
    is_called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Turns {
    /// Drives `work` to its end, one step in a turn.
    pub(super) async fn take<F: Future>(&self, work: F) -> F::Output {
        let (mut work, ticket) = (pin!(work), Rc::new(Ticket::default()));
        poll_fn(|cx| {
            if !self.is_turn_of(&ticket, cx) {
                return Poll::Pending;
            }
            if !self.taken.replace(true) {
                self.begun.notify_one();
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    fn is_turn_of(&self, ticket: &Rc<Ticket>, cx: &Context<'_>) -> bool {
        if ticket.is_called.take() || !self.taken.get() {
            return true;
        }
        ticket.waker.replace(Some(cx.waker().clone()));
        if !ticket.is_waiting.replace(true) {
            self.waiting.borrow_mut().push_back(Rc::downgrade(ticket));
        }
        false
    }

    /// Calls one after the other; runs as long as the thread does.
    pub(super) async fn keep(&self) {
        loop {
            self.begun.notified().await;
            loop {
                // Everybody who can go on does, and the runtime looks for news.
                yield_now().await;
                if !self.call() {
                    break;
                }
            }
            self.taken.set(false);
        }
    }

    /// Calls the next who still waits; false when nobody does.
    fn call(&self) -> bool {
        loop {
            let Some(next) = self.waiting.borrow_mut().pop_front() else { return false };
            // Whoever has given up meanwhile is not there any more.
            let Some(ticket) = next.upgrade() else { continue };
            ticket.is_waiting.set(false);
            ticket.is_called.set(true);
            if let Some(waker) = ticket.waker.take() {
                waker.wake();
            }
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// So many steps of `name`, each written down.
    async fn steps(name: &'static str, many: usize, seen: Rc<RefCell<Vec<&'static str>>>) {
        let mut left = many;
        poll_fn(|cx| {
            seen.borrow_mut().push(name);
            left -= 1;
            if left == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn others_have_a_turn_between_any_two_steps() {
        let (turns, seen) = (Rc::new(Turns::default()), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        let keeping = Rc::clone(&turns);
        local.spawn_local(async move { keeping.keep().await });
        for _ in 0..20 {
            let (turns, seen) = (Rc::clone(&turns), Rc::clone(&seen));
            local.spawn_local(async move { turns.take(steps("handshake", 3, seen)).await });
        }
        let counted = Rc::clone(&seen);
        local
            .run_until(async move {
                while counted.borrow().iter().filter(|name| **name == "handshake").count() < 60 {
                    counted.borrow_mut().push("request");
                    yield_now().await;
                }
            })
            .await;

        let seen = seen.borrow();
        let side_by_side = seen.windows(2).filter(|two| two == &["handshake", "handshake"]).count();
        assert_eq!(side_by_side, 0, "{seen:?}");
    }

    #[tokio::test]
    async fn a_step_alone_waits_for_nobody() {
        let seen = Rc::default();

        Turns::default().take(steps("handshake", 1, Rc::clone(&seen))).await;

        assert_eq!(*seen.borrow(), ["handshake"]);
    }

    #[tokio::test]
    async fn who_has_given_up_is_not_called() {
        let (turns, seen) = (Turns::default(), Rc::default());
        turns.take(steps("first", 1, Rc::clone(&seen))).await;
        {
            let mut lost = Box::pin(turns.take(steps("lost", 1, Rc::clone(&seen))));
            poll_fn(|cx| {
                assert!(lost.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }

        let waiting = turns.take(steps("last", 1, Rc::clone(&seen)));
        tokio::select! { biased; () = waiting => {}, () = turns.keep() => {} }

        assert_eq!(*seen.borrow(), ["first", "last"]);
    }
}
