//! A map that is cheap to copy and to change a little: copies share all parts but those in which they differ.
//!
//! It is cut into a fixed number of shards by hash. A copy of the map shares every shard; a change copies the one shard that
//! it falls into, whatever else is in the map. Finding costs one hash and one look, as in any hash map.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

/// Ten million entries make shards of forty thousand, copied within a few milliseconds; empty ones cost a pointer.
const SHARDS: usize = 256;

/// Keys with values, in no order.
pub struct ShardMap<K, V> {
    shards: Box<[Shard<K, V>]>,
    hasher: RandomState,
    len: usize,
}

type Shard<K, V> = Arc<HashTable<(K, V)>>;

impl<K: Clone + Eq + Hash, V: Clone> ShardMap<K, V> {
    /// The value of `key`.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards.get(shard_of(hash))?;
        shard.find(hash, |(known, _)| known.borrow() == key).map(|(_, value)| value)
    }

    /// Sets the value of `key` unless it has one, which then is the error.
    ///
    /// # Errors
    /// The value that it has.
    pub fn insert(&mut self, key: K, value: V) -> Result<(), V> {
        if let Some(taken) = self.get(&key) {
            return Err(taken.clone());
        }
        let hash = self.hasher.hash_one(&key);
        let hasher = &self.hasher;
        if let Some(shard) = self.shards.get_mut(shard_of(hash)) {
            Arc::make_mut(shard).insert_unique(hash, (key, value), |(key, _)| hasher.hash_one(key));
            self.len += 1;
        }
        Ok(())
    }

    /// Takes `key` and its value out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        // What is not there must not cost a copy.
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let shard = Arc::make_mut(self.shards.get_mut(shard_of(hash))?);
        let found = shard.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        let ((_, value), _) = found.remove();
        self.len -= 1;
        Some(value)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }
}

impl<K, V> ShardMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The entries of this map, and those of `other`, that lie where the two share nothing: all differences are among them.
    pub fn apart<'m>(
        &'m self,
        other: &'m Self,
    ) -> (impl Iterator<Item = &'m (K, V)>, impl Iterator<Item = &'m (K, V)>) {
        let shards = self.shards.iter().zip(&other.shards).filter(|(one, other)| !Arc::ptr_eq(one, other));
        let (ours, theirs): (Vec<_>, Vec<_>) = shards.unzip();
        (ours.into_iter().flat_map(|shard| shard.iter()), theirs.into_iter().flat_map(|shard| shard.iter()))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The highest bits: the lowest choose the place within a shard.
fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> SHIFT).unwrap_or_default()
}

const SHIFT: u32 = u64::BITS - SHARDS.trailing_zeros();

impl<K, V> Clone for ShardMap<K, V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<K, V> Default for ShardMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), hasher: RandomState::new(), len: 0 }
    }
}

impl<K, V> fmt::Debug for ShardMap<K, V> {
    /// The number only: there may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardMap({} entries)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_shares_all_but_the_shard_that_changed() {
        let mut one = ShardMap::default();
        for number in 0..10_000 {
            one.insert(number, number).unwrap();
        }
        let mut other = one.clone();

        other.remove(&7);

        let apart = one.shards.iter().zip(&other.shards).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!(apart.count(), 1);
        assert_eq!((one.get(&7), other.get(&7), one.len(), other.len()), (Some(&7), None, 10_000, 9_999));
    }

    #[test]
    fn what_lies_apart_is_the_one_shard_of_a_copy_and_all_of_a_map_made_anew() {
        let numbers = || {
            let mut map = ShardMap::default();
            (0..10_000).for_each(|number| map.insert(number, number).unwrap());
            map
        };
        let one = numbers();
        let mut copy = one.clone();
        copy.remove(&7);
        let count = |one: &ShardMap<i32, i32>, other: &ShardMap<i32, i32>| {
            let (ours, theirs) = one.apart(other);
            (ours.count(), theirs.count())
        };

        let (ours, theirs) = count(&one, &copy);

        assert!(ours < 200 && theirs == ours - 1, "{ours} and {theirs}");
        assert!(one.apart(&copy).0.any(|(key, _)| *key == 7));
        assert_eq!((count(&one, &one.clone()), count(&one, &numbers())), ((0, 0), (10_000, 10_000)));
    }

    #[test]
    fn looking_for_what_is_not_there_copies_nothing() {
        let mut one: ShardMap<u8, u8> = ShardMap::default();
        one.insert(1, 1).unwrap();
        let mut other = one.clone();

        assert_eq!((other.remove(&2), other.insert(1, 2)), (None, Err(1)));
        assert!(one.shards.iter().zip(&other.shards).all(|(one, other)| Arc::ptr_eq(one, other)));
    }

    #[test]
    fn entries_are_spread_over_all_shards() {
        let mut map = ShardMap::default();
        for number in 0..25_600 {
            map.insert(number, ()).unwrap();
        }

        assert!(map.shards.iter().all(|shard| (30..300).contains(&shard.len())));
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_would(steps in proptest::collection::vec((any::<bool>(), 0..20_u8, any::<u8>()), 0..100)) {
            let (mut plain, mut map) = (HashMap::new(), ShardMap::default());
            for (is_insert, key, value) in steps {
                if is_insert {
                    let expected = plain.get(&key).map_or(Ok(()), |taken| Err(*taken));
                    plain.entry(key).or_insert(value);
                    prop_assert_eq!(map.insert(key, value), expected);
                } else {
                    prop_assert_eq!(map.remove(&key), plain.remove(&key));
                }
                let mut found: Vec<_> = map.iter().map(|(key, value)| (*key, *value)).collect();
                found.sort_unstable();
                let mut expected: Vec<_> = plain.iter().map(|(key, value)| (*key, *value)).collect();
                expected.sort_unstable();
                prop_assert_eq!(map.len(), expected.len());
                prop_assert_eq!(found, expected);
            }
        }
    }
}
