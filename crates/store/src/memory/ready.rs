//! A ready list: first in, first out, with removal from the middle.

use std::collections::{BTreeMap, HashMap};

use tidegate_protocol::domain::LocalId;

#[derive(Default)]
pub(crate) struct ReadyList {
    next: u64,
    /// position -> (id, ready since)
    order: BTreeMap<u64, (LocalId, u64)>,
    position: HashMap<LocalId, u64>,
}

impl ReadyList {
    pub fn push(&mut self, local: LocalId, since_ms: u64) {
        self.order.insert(self.next, (local, since_ms));
        self.position.insert(local, self.next);
        self.next += 1;
    }

    /// Puts a job back at the position it had, after a restart.
    pub fn restore(&mut self, position: u64, local: LocalId, since_ms: u64) {
        self.order.insert(position, (local, since_ms));
        self.position.insert(local, position);
        self.next = self.next.max(position + 1);
    }

    pub fn position(&self, local: LocalId) -> Option<u64> {
        self.position.get(&local).copied()
    }

    pub fn remove(&mut self, local: LocalId) {
        if let Some(position) = self.position.remove(&local) {
            self.order.remove(&position);
        }
    }

    /// The oldest: (id, ready since).
    pub fn front(&self) -> Option<(LocalId, u64)> {
        self.order.first_key_value().map(|(_, entry)| *entry)
    }

    pub fn len(&self) -> u64 {
        self.order.len() as u64
    }

    pub fn iter(&self) -> impl Iterator<Item = LocalId> + '_ {
        self.order.values().map(|(local, _)| *local)
    }
}
