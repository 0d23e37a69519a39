//! Idempotency keys and request ids: which job a key means, and until when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidegate_protocol::domain::{JobState, LocalId, PayloadHash};

use super::spread::Spread;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KeyEntry {
    /// Of the key, as long as it is remembered: grows from key to key.
    pub number: u64,
    pub local: LocalId,
    pub hash: PayloadHash,
    /// The state its job ended in; `None` while the job lives (and always for request ids).
    pub ended: Option<JobState>,
    /// 0 while the job lives: a live job's key never expires.
    pub expires_ms: u64,
}

/// A key and what it means now, if that is to be kept beside the jobs: a live job's key is part of the job.
pub(crate) type Kept = (Arc<str>, Option<KeyEntry>);

#[derive(Default)]
pub(crate) struct Keys {
    entries: Spread<Arc<str>, KeyEntry>,
    expiries: BTreeSet<(u64, Arc<str>)>,
    next_number: u64,
    /// Changed since they were last taken, by number.
    touched: BTreeMap<u64, Arc<str>>,
}

impl Keys {
    /// The entry in force. One that has expired is as good as absent, also before the sweep has removed it.
    pub fn find(&self, key: &str, now_ms: u64) -> Option<KeyEntry> {
        self.entries
            .get(key)
            .copied()
            .filter(|entry| entry.expires_ms == 0 || entry.expires_ms > now_ms)
    }

    /// Entries held, the expired ones that no sweep has removed yet included.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.get(key).is_some()
    }

    /// `key` is this job's from now on: for as long as it lives (`expires_ms` = 0), or until then.
    pub fn put(&mut self, key: &str, local: LocalId, hash: PayloadHash, expires_ms: u64) {
        let number = self.entries.get(key).map_or(self.next_number, |old| old.number);
        self.set(
            key,
            KeyEntry {
                number,
                local,
                hash,
                ended: None,
                expires_ms,
            },
        );
    }

    fn set(&mut self, key: &str, entry: KeyEntry) {
        let old = self.entries.get_key_value(key);
        let (key, was_kept) = match old {
            Some((key, old)) => {
                let (key, expires_ms) = (key.clone(), old.expires_ms);
                self.expiries.remove(&(expires_ms, key.clone()));
                (key, expires_ms != 0)
            }
            None => (Arc::from(key), false),
        };
        if entry.expires_ms != 0 {
            self.expiries.insert((entry.expires_ms, key.clone()));
        }
        if was_kept || entry.expires_ms != 0 {
            self.touched.insert(entry.number, key.clone());
        }
        self.next_number = self.next_number.max(entry.number + 1);
        self.entries.insert(key, entry);
    }

    /// Puts an entry back after a restart.
    pub fn restore(&mut self, key: &str, entry: KeyEntry) {
        self.set(key, entry);
        self.touched.clear();
    }

    /// The job of `key` has ended: from now on the key lives until `expires_ms`. Nothing happens if the key is another
    /// job's by now.
    pub fn close(&mut self, key: &str, local: LocalId, ended: JobState, expires_ms: u64) {
        if let Some(entry) = self
            .entries
            .get(key)
            .copied()
            .filter(|entry| entry.local == local)
        {
            self.set(
                key,
                KeyEntry {
                    ended: Some(ended),
                    expires_ms,
                    ..entry
                },
            );
        }
    }

    /// The keys that changed since the last call, by number.
    pub fn take_touched(&mut self) -> Vec<(u64, Kept)> {
        let now = |number: u64, key: &Arc<str>| {
            let entry = self.entries.get(key).copied();
            entry.filter(|entry| entry.number == number && entry.expires_ms != 0)
        };
        std::mem::take(&mut self.touched)
            .into_iter()
            .map(|(number, key)| {
                let entry = now(number, &key);
                (number, (key, entry))
            })
            .collect()
    }

    /// Removes up to `limit` expired entries; answers how many.
    pub fn forget_expired(&mut self, now_ms: u64, limit: u32) -> u32 {
        let mut forgotten = 0;
        while forgotten < limit {
            match self.expiries.first() {
                Some((expires_ms, _)) if *expires_ms <= now_ms => {}
                _ => break,
            }
            if let Some((_, key)) = self.expiries.pop_first() {
                if let Some(entry) = self.entries.remove(&key) {
                    self.touched.insert(entry.number, key);
                }
                forgotten += 1;
            }
        }
        forgotten
    }
}
