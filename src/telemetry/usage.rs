//! Who uses what, and how much: counted on each thread, added up by the hour.
//!
//! **Invariant:** what is kept is bounded, whoever calls: so many rows in an hour, so many in all. What finds no room in an
//! hour is counted together as [`OTHER`]; when there are too many in all, the oldest hour is forgotten.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};

use super::AccessEvent;
use crate::clock::Timestamp;

/// What is counted together in an hour. Nobody in particular is the empty word.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct UsageKey {
    /// The app that called.
    pub app: String,
    /// The product that let it.
    pub product: String,
    /// The operation of that product.
    pub operation: String,
    /// The class of the answer's status, as `2xx`; `none` where there was no answer.
    pub status: String,
    /// `allowed`, or the code of the refusal.
    pub code: String,
}

/// How much.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UsageCount {
    /// Requests, and raw connections that have ended.
    pub calls: u64,
    /// Bytes of body from callers.
    pub received: u64,
    /// Bytes of body to callers.
    pub sent: u64,
}

impl UsageCount {
    /// Adds `more`.
    pub const fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.received = self.received.saturating_add(more.received);
        self.sent = self.sent.saturating_add(more.sent);
    }
}

/// One hour's use of one thing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UsageRow {
    /// When the hour began.
    pub hour: Timestamp,
    /// What was used, and by whom.
    #[serde(flatten)]
    pub key: UsageKey,
    /// How much.
    #[serde(flatten)]
    pub count: UsageCount,
}

/// Stands for all apps, products and operations that found no room.
pub const OTHER: &str = "other";

/// So many rows an hour may have; all that comes later is [`OTHER`].
pub const ROWS_OF_AN_HOUR: usize = 20_000;

/// So many rows there may be in all, some 200 bytes each.
pub const ROWS: usize = 500_000;

/// A thread's own counts since they were last handed over.
#[derive(Debug)]
pub struct Tally {
    book: Arc<Mutex<UsageBook>>,
    hasher: RandomState,
    counts: RefCell<HashMap<(i64, u64), (UsageKey, UsageCount)>>,
}

/// So many rows a thread holds before it hands them over out of turn.
const ROWS_OF_A_THREAD: usize = 4_096;

impl Tally {
    /// Counts that are handed over to `book`.
    #[must_use]
    pub fn new(book: Arc<Mutex<UsageBook>>) -> Self {
        Self { book, hasher: RandomState::new(), counts: RefCell::default() }
    }

    /// Counts `event`.
    pub fn count(&self, event: &AccessEvent<'_>) {
        let AccessEvent { app, product, operation, code, status, .. } = *event;
        let hour = event.at.unix().div_euclid(HOUR);
        // Two that share a keyed hash of 64 bits are not met.
        let hash = self.hasher.hash_one((app, product, operation, status / 100, code));
        let more = UsageCount { calls: 1, received: event.received, sent: event.sent };
        let mut counts = self.counts.borrow_mut();
        if let Some((_, count)) = counts.get_mut(&(hour, hash)) {
            count.add(more);
            return;
        }
        let class = match status / 100 {
            class @ 1..=5 => format!("{class}xx"),
            _ => "none".to_owned(),
        };
        let [app, product, operation, code] = [app, product, operation, code].map(str::to_owned);
        counts.insert((hour, hash), (UsageKey { app, product, operation, status: class, code }, more));
        let full = counts.len() >= ROWS_OF_A_THREAD;
        drop(counts);
        if full {
            self.hand_over();
        }
    }

    /// Hands over what has been counted, unless somebody is just reading the book; then another time will do.
    pub fn hand_over_soon(&self) {
        match self.book.try_lock() {
            Ok(mut book) => self.empty_into(&mut book),
            Err(TryLockError::Poisoned(poisoned)) => self.empty_into(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Hands over what has been counted.
    fn hand_over(&self) {
        self.empty_into(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn empty_into(&self, book: &mut UsageBook) {
        for ((hour, _), (key, count)) in self.counts.borrow_mut().drain() {
            book.add(hour, key, count);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.hand_over();
    }
}

const HOUR: i64 = 3_600;

/// When the hour with this number began.
fn begin(hour: i64) -> Timestamp {
    Timestamp::from_unix(hour.saturating_mul(HOUR))
}

/// All that was used in the hours that are kept.
#[derive(Debug, Default)]
pub struct UsageBook {
    hours: BTreeMap<i64, BTreeMap<UsageKey, UsageCount>>,
    rows: usize,
    changed: BTreeSet<i64>,
    /// Calls since they were last asked for, by app, product and code.
    fresh: HashMap<(String, String, String), u64>,
}

impl UsageBook {
    /// Takes up a row that was written down before.
    pub fn restore(&mut self, row: UsageRow) {
        self.put(row.hour.unix().div_euclid(HOUR), row.key, row.count);
    }

    /// Adds what another process has counted.
    pub fn add_row(&mut self, row: UsageRow) {
        self.add(row.hour.unix().div_euclid(HOUR), row.key, row.count);
    }

    /// All rows, which are forgotten here.
    pub fn take_rows(&mut self) -> Vec<UsageRow> {
        let rows = self.rows(None).collect();
        *self = Self::default();
        rows
    }

    fn add(&mut self, hour: i64, key: UsageKey, count: UsageCount) {
        let fresh = (key.app.clone(), key.product.clone(), key.code.clone());
        *self.fresh.entry(fresh).or_default() += count.calls;
        self.put(hour, key, count);
        self.changed.insert(hour);
    }

    fn put(&mut self, hour: i64, key: UsageKey, count: UsageCount) {
        let rows = self.hours.entry(hour).or_default();
        let full = rows.len() >= ROWS_OF_AN_HOUR && !rows.contains_key(&key);
        let key = if full {
            let [app, product, operation] = [OTHER; 3].map(str::to_owned);
            UsageKey { app, product, operation, ..key }
        } else {
            key
        };
        let before = rows.len();
        rows.entry(key).or_default().add(count);
        self.rows += rows.len() - before;
        while self.rows > ROWS && self.hours.len() > 1 {
            if let Some((hour, gone)) = self.hours.pop_first() {
                self.rows -= gone.len();
                self.changed.insert(hour);
            }
        }
    }

    /// Forgets the hours that ended before `then`.
    pub fn forget_before(&mut self, then: Timestamp) {
        let first = then.unix().div_euclid(HOUR);
        let kept = self.hours.split_off(&first);
        let gone = std::mem::replace(&mut self.hours, kept);
        self.rows -= gone.values().map(BTreeMap::len).sum::<usize>();
        self.changed.extend(gone.into_keys());
    }

    /// The hours that have changed since this was last asked, each with its rows as they stand; none where it is forgotten.
    pub fn take_changed(&mut self) -> Vec<(Timestamp, Vec<UsageRow>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|hour| (begin(hour), self.of(hour).collect())).collect()
    }

    /// Has an hour written down again, since it could not be.
    pub fn note_unwritten(&mut self, hour: Timestamp) {
        self.changed.insert(hour.unix().div_euclid(HOUR));
    }

    /// Calls since this was last asked, by app, product and code.
    pub fn take_fresh(&mut self) -> HashMap<(String, String, String), u64> {
        std::mem::take(&mut self.fresh)
    }

    /// All rows of the hours from `since` on, in order.
    pub fn rows(&self, since: Option<Timestamp>) -> impl Iterator<Item = UsageRow> {
        let first = since.map_or(i64::MIN, |since| since.unix().div_euclid(HOUR));
        self.hours.range(first..).flat_map(|(hour, _)| self.of(*hour))
    }

    fn of(&self, hour: i64) -> impl Iterator<Item = UsageRow> {
        let rows = self.hours.get(&hour).into_iter().flatten();
        rows.map(move |(key, count)| UsageRow { hour: begin(hour), key: key.clone(), count: *count })
    }
}

/// The rows of `rows` added up over all hours.
#[must_use]
pub fn totals(rows: impl IntoIterator<Item = UsageRow>) -> BTreeMap<UsageKey, UsageCount> {
    let mut totals: BTreeMap<UsageKey, UsageCount> = BTreeMap::new();
    for row in rows {
        totals.entry(row.key).or_default().add(row.count);
    }
    totals
}

/// Keeps the number of different things bounded that a metric is told of.
#[derive(Debug, Default)]
pub(super) struct Cap {
    known: HashMap<(String, String), ()>,
}

/// So many pairs of app and product have a series of their own for each code.
const SERIES: usize = 1_000;

impl Cap {
    /// The pair, or what it is told as.
    pub(super) fn of(&mut self, app: String, product: String) -> (String, String) {
        let room = self.known.len() < SERIES;
        match self.known.entry((app, product)) {
            Entry::Occupied(known) => known.key().clone(),
            Entry::Vacant(new) if room => new.insert_entry(()).key().clone(),
            Entry::Vacant(_) => (OTHER.to_owned(), OTHER.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(app: &str) -> UsageKey {
        UsageKey { app: app.to_owned(), ..UsageKey::default() }
    }

    fn book(tally: &Tally) -> std::sync::MutexGuard<'_, UsageBook> {
        tally.book.lock().unwrap()
    }

    #[test]
    fn what_threads_count_is_added_up_by_the_hour() {
        let shared = Arc::default();
        let (one, two) = (Tally::new(Arc::clone(&shared)), Tally::new(shared));
        let event = AccessEvent {
            app: "a",
            product: "p",
            status: 200,
            code: "allowed",
            sent: 3,
            ..AccessEvent::NOTHING
        };

        (0..7).for_each(|_| one.count(&event));
        two.count(&event);
        two.count(&AccessEvent { status: 503, ..event });
        two.count(&AccessEvent { at: event.at + std::time::Duration::from_secs(3_600), ..event });
        one.hand_over_soon();
        two.hand_over_soon();

        let rows: Vec<UsageRow> = book(&one).rows(None).collect();
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.hour.unix() - Timestamp::FLOOR.unix(), &*row.key.status, row.count.calls))
            .collect();
        assert_eq!(told, [(0, "2xx", 8), (0, "5xx", 1), (3_600, "2xx", 1)]);
        assert_eq!(rows[0].count.sent, 24);
        assert_eq!(book(&one).rows(Some(Timestamp::from_unix(Timestamp::FLOOR.unix() + 3_700))).count(), 1);
    }

    #[test]
    fn an_hour_has_room_for_so_many_and_the_rest_is_counted_together() {
        let mut book = UsageBook::default();

        for number in 0..ROWS_OF_AN_HOUR + 50 {
            book.add(7, key(&format!("app-{number}")), UsageCount { calls: 1, ..UsageCount::default() });
        }

        assert_eq!(book.rows, ROWS_OF_AN_HOUR + 1);
        let other = book.rows(None).find(|row| row.key.app == OTHER).unwrap();
        assert_eq!(other.count.calls, 50);
        assert_eq!(book.rows(None).map(|row| row.count.calls).sum::<u64>(), 20_050);
    }

    #[test]
    fn the_oldest_hours_go_when_there_are_too_many_rows() {
        let mut book = UsageBook::default();

        for hour in 0..30 {
            for number in 0..ROWS_OF_AN_HOUR {
                book.put(hour, key(&number.to_string()), UsageCount::default());
            }
        }

        assert!(book.rows <= ROWS, "{}", book.rows);
        assert_eq!(book.hours.keys().next(), Some(&5));
    }

    #[test]
    fn what_is_forgotten_is_told_as_an_empty_hour() {
        let mut book = UsageBook::default();
        book.add(1, key("a"), UsageCount::default());
        book.add(2, key("a"), UsageCount::default());
        book.take_changed();

        book.forget_before(begin(2));

        assert_eq!(book.take_changed(), [(begin(1), Vec::new())]);
        assert_eq!((book.rows, book.hours.len()), (1, 1));
    }

    #[test]
    fn a_metric_is_told_of_so_many_pairs_and_no_more() {
        let mut cap = Cap::default();

        for number in 0..SERIES {
            let app = format!("app-{number}");
            assert_eq!(cap.of(app.clone(), "p".into()), (app, "p".to_owned()));
        }

        assert_eq!(cap.of("one-more".into(), "p".into()).0, OTHER);
        assert_eq!(cap.of("app-7".into(), "p".into()).0, "app-7");
        assert_eq!(cap.known.len(), SERIES);
    }
}
