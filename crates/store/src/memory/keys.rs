//! Idempotency keys and request ids: which job a key means, and until when.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::domain::{JobState, LocalId, PayloadHash};

use super::spread::Spread;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KeyEntry {
    pub local: LocalId,
    pub hash: PayloadHash,
    /// The state its job ended in, if that was another than success (and never of request ids).
    pub ended: Option<JobState>,
    /// See [`crate::lifecycle::key_end_ms`]. A live job's key is in force beyond that.
    pub expires_ms: u64,
}

/// A key and what it means now.
pub(crate) type Kept = (Arc<str>, Option<KeyEntry>);

struct Held {
    entry: KeyEntry,
    /// Of the key, as long as it is remembered: grows from key to key.
    number: u64,
    /// When the sweep looks at it.
    due_ms: u64,
}

#[derive(Default)]
pub(crate) struct Keys {
    entries: Spread<Arc<str>, Held>,
    /// By (time at which the sweep looks at it, number).
    due: BTreeMap<(u64, u64), Arc<str>>,
    next_number: u64,
    /// Changed since they were last taken, by number.
    touched: BTreeMap<u64, Arc<str>>,
}

impl Keys {
    /// The entry, in force or not.
    pub fn get(&self, key: &str) -> Option<KeyEntry> {
        self.entries.get(key).map(|held| held.entry)
    }

    /// Entries held, the expired ones that no sweep has removed yet included.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.get(key).is_some()
    }

    pub fn put(&mut self, key: &str, entry: KeyEntry) {
        let (key, number) = match self.entries.get_key_value(key) {
            Some((key, old)) => {
                self.due.remove(&(old.due_ms, old.number));
                (key.clone(), old.number)
            }
            None => (Arc::from(key), self.next_number),
        };
        self.touched.insert(number, key.clone());
        self.hold(key, number, entry, entry.expires_ms);
    }

    fn hold(&mut self, key: Arc<str>, number: u64, entry: KeyEntry, due_ms: u64) {
        self.next_number = self.next_number.max(number + 1);
        self.due.insert((due_ms, number), key.clone());
        let held = Held {
            entry,
            number,
            due_ms,
        };
        self.entries.insert(key, held);
    }

    /// Puts an entry back after a restart.
    pub fn restore(&mut self, key: &str, number: u64, entry: KeyEntry) {
        self.hold(Arc::from(key), number, entry, entry.expires_ms);
    }

    /// The keys that changed since the last call, by number.
    pub fn take_touched(&mut self) -> Vec<(u64, Kept)> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let now = |(number, key): (u64, Arc<str>)| {
            let held = self.entries.get(&key).filter(|held| held.number == number);
            let entry = held.map(|held| held.entry);
            (number, (key, entry))
        };
        touched.map(now).collect()
    }

    /// Looks through up to `limit` entries whose end has passed: those for which `is_live` holds are looked at again at
    /// `later_ms`, the others are removed. Answers how many it looked at and how many it removed.
    pub fn forget_expired(
        &mut self,
        now_ms: u64,
        limit: u32,
        later_ms: u64,
        is_live: impl Fn(&KeyEntry) -> bool,
    ) -> (u32, u32) {
        let (mut looked, mut forgotten) = (0, 0);
        while looked < limit {
            let due = self.due.first_entry().filter(|first| first.key().0 <= now_ms);
            let Some(key) = due.map(|first| first.remove()) else {
                break;
            };
            let Some(held) = self.entries.remove(&key) else {
                continue;
            };
            looked += 1;
            if is_live(&held.entry) {
                self.hold(key, held.number, held.entry, later_ms);
            } else {
                self.touched.insert(held.number, key);
                forgotten += 1;
            }
        }
        (looked, forgotten)
    }
}
