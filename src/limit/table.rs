//! Where accounts are found: a table that several threads read and add to at once, and that forgets nothing.
//!
//! There is an account only for an app on file that has proven who it is and whose limits were asked for, so nobody can fill
//! the table with inventions. Nothing is ever pushed out of it: an account that went would come back empty, and its quota
//! with it. When there is no room at all, what cannot be counted is refused. A restart drops the accounts whose windows have
//! ended.
//!
//! An entry, once there, stays at its place. That is what makes it safe to look without a lock: the places that a name may
//! have are visited in one order by everybody, and the first that is free is taken by one of those who want it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::account::Account;
use super::statement::Scope;
use crate::id::{AppId, OperationId, ProductId};

/// What an account is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Key {
    pub(super) app: AppId,
    pub(super) product: Option<ProductId>,
    pub(super) operation: Option<OperationId>,
}

impl Key {
    pub(super) fn of(app: &AppId, scope: &Scope<'_>) -> Self {
        let (product, operation) = parts(scope);
        Self { app: app.clone(), product: product.cloned(), operation: operation.cloned() }
    }

    fn is(&self, app: &AppId, scope: &Scope<'_>) -> bool {
        let (product, operation) = parts(scope);
        self.app == *app && self.product.as_ref() == product && self.operation.as_ref() == operation
    }
}

const fn parts<'a>(scope: &Scope<'a>) -> (Option<&'a ProductId>, Option<&'a OperationId>) {
    match *scope {
        Scope::App(_) => (None, None),
        Scope::Operation(product, operation) => (Some(product), Some(operation)),
        Scope::Product(product) => (Some(product), None),
    }
}

/// One account with its name.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) key: Key,
    pub(super) account: Account,
    /// The account's version that was written down last; odd before the first time.
    pub(super) saved: AtomicU64,
}

/// An account, and whom to tell that it has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'t> {
    pub(super) named: &'t Named,
    changed: &'t AtomicBool,
}

impl Found<'_> {
    /// Notes that the account has changed. After the change.
    pub(super) fn note_change(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Release);
        }
    }
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Table {
    hasher: RandomState,
    sizes: &'static [usize],
    levels: Box<[OnceLock<Level>]>,
    count: AtomicUsize,
}

/// Each level is larger than all before it; a name goes to the next when its places on one are taken. Some five million.
const SIZES: [usize; 5] = [1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 22];

/// So many places a name may have on each level.
const PLACES: usize = 16;

/// So many places share a note that one of them has changed.
const BLOCK: usize = 64;

/// Each level looks at other bits of a name's hash, so that a crowd on one does not stay a crowd on the next.
const TURN: u32 = 13;

#[derive(Debug)]
struct Level {
    places: Box<[OnceLock<Box<Named>>]>,
    changed: Box<[AtomicBool]>,
}

impl Level {
    fn new(size: usize) -> Self {
        let places = (0..size).map(|_| OnceLock::new()).collect();
        Self { places, changed: (0..size / BLOCK).map(|_| AtomicBool::new(false)).collect() }
    }

    fn at(&self, place: usize) -> Option<(&OnceLock<Box<Named>>, &AtomicBool)> {
        self.places.get(place).zip(self.changed.get(place / BLOCK))
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::of_sizes(&SIZES)
    }
}

impl Table {
    /// An empty table with levels of these sizes, each a power of two.
    fn of_sizes(sizes: &'static [usize]) -> Self {
        let levels = sizes.iter().map(|_| OnceLock::new()).collect();
        Self { hasher: RandomState::new(), sizes, levels, count: AtomicUsize::new(0) }
    }

    /// The account of `app` in `scope`, if there is one.
    pub(super) fn find(&self, app: &AppId, scope: &Scope<'_>) -> Option<Found<'_>> {
        self.search(app, scope, |_, _| None)
    }

    /// The account of `app` in `scope`, made if there is none; none when there is no room.
    pub(super) fn find_or_make(&self, app: &AppId, scope: &Scope<'_>) -> Option<Found<'_>> {
        self.search(app, scope, |place, count| {
            let make = || {
                count.fetch_add(1, Ordering::Relaxed);
                let key = Key::of(app, scope);
                Box::new(Named { key, account: Account::default(), saved: AtomicU64::new(1) })
            };
            Some(place.get_or_init(make))
        })
    }

    fn search<'t>(
        &'t self,
        app: &AppId,
        scope: &Scope<'_>,
        fill: impl Fn(&'t OnceLock<Box<Named>>, &AtomicUsize) -> Option<&'t Box<Named>>,
    ) -> Option<Found<'t>> {
        let (product, operation) = parts(scope);
        let mut hash = self.hasher.hash_one((app, product, operation));
        for (level, &size) in self.levels.iter().zip(self.sizes) {
            let level = level.get_or_init(|| Level::new(size));
            let first = usize::try_from(hash).unwrap_or(0);
            hash = hash.rotate_right(TURN);
            for step in 0..PLACES {
                let (place, changed) = level.at(first.wrapping_add(step) % size)?;
                let named = match place.get() {
                    Some(named) => named,
                    None => fill(place, &self.count)?,
                };
                if named.key.is(app, scope) {
                    return Some(Found { named, changed });
                }
            }
        }
        None
    }

    /// Makes the next level before it is needed, so that no request has to.
    pub(super) fn prepare(&self) {
        let count = self.count();
        let mut below = 0;
        for (level, &size) in self.levels.iter().zip(self.sizes) {
            if count < below / 2 {
                return;
            }
            level.get_or_init(|| Level::new(size));
            below = size;
        }
    }

    /// How many accounts there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// All accounts.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Named> {
        let levels = self.levels.iter().filter_map(OnceLock::get);
        levels.flat_map(|level| &level.places).filter_map(OnceLock::get).map(|named| &**named)
    }

    /// The accounts that may have changed since they were asked for last.
    pub(super) fn take_changed(&self) -> impl Iterator<Item = &Named> {
        let levels = self.levels.iter().filter_map(OnceLock::get);
        let blocks = levels.flat_map(|level| level.changed.iter().zip(level.places.chunks(BLOCK)));
        // The note is taken down before the accounts are read, so no change falls in between.
        let changed = blocks
            .filter(|(changed, _)| changed.load(Ordering::Relaxed) && changed.swap(false, Ordering::AcqRel));
        changed.flat_map(|(_, places)| places).filter_map(OnceLock::get).map(|named| &**named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_takes_nobody_in_and_pushes_nobody_out() {
        let table = Table::of_sizes(&[64, 128]);
        let product = "orders".parse().unwrap();
        let scope = Scope::Product(&product);
        let apps: Vec<AppId> = (0..500).map(|number| format!("app-{number}").parse().unwrap()).collect();

        let taken_in: Vec<&AppId> =
            apps.iter().filter(|app| table.find_or_make(app, &scope).is_some()).collect();

        assert!((150..=192).contains(&taken_in.len()), "{}", taken_in.len());
        assert_eq!(table.count(), taken_in.len());
        for app in &apps {
            assert_eq!(table.find(app, &scope).is_some(), taken_in.contains(&app), "{app}");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let table = Table::of_sizes(&[64]);
        let (app, product) = ("a".parse().unwrap(), "orders".parse().unwrap());
        let found = table.find_or_make(&app, &Scope::Product(&product)).unwrap();
        assert_eq!(table.take_changed().count(), 0);

        found.note_change();

        assert_eq!(table.take_changed().count(), 1);
        assert_eq!(table.take_changed().count(), 0);
    }
}
