//! A hash map that never stops its caller for long.

use std::{
    borrow::Borrow,
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::{BuildHasher, Hash},
};

/// One map of a million entries moves all of them when it grows: tens of milliseconds in which every caller waits for
/// the lock. Of this many maps each moves its own share, at another moment. A power of two.
const PARTS: usize = 64;

pub(crate) struct Spread<K, V> {
    hasher: RandomState,
    parts: Vec<HashMap<K, V, RandomState>>,
    len: u64,
}

impl<K: Hash + Eq, V> Default for Spread<K, V> {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self {
            parts: (0..PARTS).map(|_| HashMap::with_hasher(hasher.clone())).collect(),
            hasher,
            len: 0,
        }
    }
}

impl<K: Hash + Eq, V> Spread<K, V> {
    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // Bits that the maps themselves do not look at: they use the lowest and the highest seven.
        (self.hasher.hash_one(key) >> 40) as usize % PARTS
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts[self.part(key)].get(key)
    }

    /// With the key as it is kept.
    pub fn get_key_value<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.parts[self.part(key)].get_key_value(key)
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part(&key);
        match self.parts[part].entry(key) {
            Entry::Occupied(mut entry) => Some(entry.insert(value)),
            Entry::Vacant(entry) => {
                entry.insert(value);
                self.len += 1;
                None
            }
        }
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = self.part(key);
        let removed = self.parts[part].remove(key)?;
        self.len -= 1;
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_one_map() {
        let mut spread = Spread::<String, u32>::default();
        for n in 0..1_000 {
            assert_eq!(spread.insert(n.to_string(), n), None);
        }
        assert_eq!(spread.insert("7".into(), 70), Some(7));
        assert_eq!((spread.len(), spread.get("7")), (1_000, Some(&70)));
        assert_eq!((spread.remove("7"), spread.remove("7")), (Some(70), None));
        assert_eq!((spread.len(), spread.get("7")), (999, None));
    }

    #[test]
    fn every_part_takes_its_share() {
        let mut spread = Spread::<u32, ()>::default();
        for n in 0..64_000 {
            spread.insert(n, ());
        }
        assert!(
            spread
                .parts
                .iter()
                .all(|part| part.len() > 500 && part.len() < 1_500)
        );
    }
}
