//! How many of something there are at a time: handshakes, connections of one source, connections of one app. Each thread counts
//! for itself, so nothing here is locked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Lets so many in at a time and has the others wait.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    inside: Cell<usize>,
    left: Notify,
}

impl Turnstile {
    /// Waits for a place among `most`, until `until`.
    pub(super) async fn enter(self: &Rc<Self>, most: usize, until: Instant) -> Option<Inside> {
        while self.inside.get() >= most {
            timeout_at(until, self.left.notified()).await.ok()?;
            if Instant::now() >= until {
                // The turn is somebody else's.
                self.left.notify_one();
                return None;
            }
        }
        self.inside.set(self.inside.get() + 1);
        Some(Inside(Rc::clone(self)))
    }
}

/// A place behind a [`Turnstile`], for as long as it is held.
#[derive(Debug)]
pub(super) struct Inside(Rc<Turnstile>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get().saturating_sub(1));
        self.0.left.notify_one();
    }
}

/// Counts what each of many has.
///
/// **Invariant:** who has nothing is not in the table, so it is never larger than the number of things that are counted.
#[derive(Debug)]
pub(super) struct Crowd<K: Eq + Hash>(RefCell<HashMap<K, usize>>);

impl<K: Eq + Hash> Default for Crowd<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Clone + Eq + Hash> Crowd<K> {
    /// One more of `key`, if it has fewer than `most`.
    pub(super) fn join(self: &Rc<Self>, key: K, most: usize) -> Option<Member<K>> {
        let mut counts = self.0.borrow_mut();
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Member { crowd: Rc::clone(self), key })
    }
}

/// One that is counted, for as long as it is held.
#[derive(Debug)]
pub(super) struct Member<K: Eq + Hash> {
    crowd: Rc<Crowd<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Member<K> {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.borrow_mut();
        let Some(count) = counts.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.key);
            // What many have left is given back.
            if counts.capacity() > KEPT && counts.len() < counts.capacity() / 8 {
                counts.shrink_to(KEPT);
            }
        }
    }
}

/// Places that a table keeps although nobody is there.
const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_for_one_but_not_for_ever() {
        let turnstile = Rc::new(Turnstile::default());
        let soon = || Instant::now() + Duration::from_secs(5);
        let first = turnstile.enter(2, soon()).await.unwrap();
        let _second = turnstile.enter(2, soon()).await.unwrap();

        let begun = Instant::now();
        assert!(turnstile.enter(2, soon()).await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));

        let (third, ()) = tokio::join!(turnstile.enter(2, soon()), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        });
        assert!(third.is_some());
        assert_eq!(begun.elapsed(), Duration::from_secs(6));
    }

    #[test]
    fn each_has_as_many_as_it_may_and_nobody_is_remembered() {
        let crowd = Rc::new(Crowd::default());
        let one = crowd.join("a", 2).unwrap();
        let other = crowd.join("a", 2).unwrap();
        assert!(crowd.join("a", 2).is_none());
        assert!(crowd.join("b", 2).is_some());

        drop(one);
        assert!(crowd.join("a", 2).is_some());
        drop(other);

        assert!(crowd.0.borrow().is_empty());
    }

    #[test]
    fn a_crowd_that_has_gone_leaves_no_memory() {
        let crowd = Rc::new(Crowd::default());
        let many: Vec<_> = (0..100_000).filter_map(|number| crowd.join(number, 1)).collect();
        assert_eq!(many.len(), 100_000);

        drop(many);

        assert!(crowd.0.borrow().capacity() <= 4 * KEPT);
    }
}
