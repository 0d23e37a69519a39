//! Idempotency keys and request ids: which job a key means, and until when.

use std::collections::{BTreeSet, HashMap, HashSet};

use tidegate_protocol::domain::{JobState, LocalId, PayloadHash};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KeyEntry {
    pub local: LocalId,
    pub hash: PayloadHash,
    /// The state its job ended in; `None` while the job lives (and always for request ids).
    pub ended: Option<JobState>,
    /// 0 while the job lives: a live job's key never expires.
    pub expires_ms: u64,
}

#[derive(Default)]
pub(crate) struct Keys {
    entries: HashMap<String, KeyEntry>,
    expiries: BTreeSet<(u64, String)>,
    /// Changed since they were last taken.
    touched: HashSet<String>,
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
        self.entries.len() as u64
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub fn put(&mut self, key: &str, entry: KeyEntry) {
        self.touched.insert(key.to_owned());
        if let Some(old) = self.entries.insert(key.to_owned(), entry) {
            self.expiries.remove(&(old.expires_ms, key.to_owned()));
        }
        if entry.expires_ms != 0 {
            self.expiries.insert((entry.expires_ms, key.to_owned()));
        }
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
            self.put(
                key,
                KeyEntry {
                    ended: Some(ended),
                    expires_ms,
                    ..entry
                },
            );
        }
    }

    /// The keys that changed since the last call, with what they mean now.
    pub fn take_touched(&mut self) -> Vec<(String, Option<KeyEntry>)> {
        let entries = &self.entries;
        self.touched
            .drain()
            .map(|key| {
                let entry = entries.get(&key).copied();
                (key, entry)
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
                self.entries.remove(&key);
                self.touched.insert(key);
                forgotten += 1;
            }
        }
        forgotten
    }
}
