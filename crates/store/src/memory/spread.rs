//! A hash map that never stops its caller for long.

use std::{
    borrow::Borrow,
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::{BuildHasher, Hash},
};

/// One map of a million entries moves all of them when it grows: a second in which every caller waits for the lock. Of
/// this many maps each moves its own share. The last gets twice as much as the first, in even steps between them, so
/// that no two grow at the same moment however many entries there are.
const PARTS: usize = 128;

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
        let bits = (self.hasher.hash_one(key) >> 25) as u32;
        let octave = (1.0 + f64::from(bits) / (f64::from(u32::MAX) + 1.0)).log2();
        (octave * PARTS as f64) as usize
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

    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let part = self.part(key);
        self.parts[part].get_mut(key)
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
    fn parts_take_shares_between_one_and_two() {
        let mut spread = Spread::<u32, ()>::default();
        for n in 0..200_000 {
            spread.insert(n, ());
        }
        let sizes: Vec<_> = spread.parts.iter().map(HashMap::len).collect();
        let (first, last) = (
            sizes[..16].iter().sum::<usize>(),
            sizes[PARTS - 16..].iter().sum::<usize>(),
        );
        let ratio = last as f64 / first as f64;
        assert!((1.7..1.95).contains(&ratio), "{ratio}: {sizes:?}");
        assert!(sizes.iter().all(|size| (900..2_500).contains(size)), "{sizes:?}");
    }
}
