//! A ready list (or another one): first in, first out, with removal from the middle.

use std::collections::BTreeMap;

use tidegate_protocol::domain::LocalId;

#[derive(Default)]
pub(crate) struct ReadyList {
    next: u64,
    /// position -> (id, ready since)
    order: BTreeMap<u64, (LocalId, u64)>,
}

impl ReadyList {
    /// Appends a job; its position.
    pub fn push(&mut self, local: LocalId, since_ms: u64) -> u64 {
        let position = self.next;
        self.restore(position, local, since_ms);
        position
    }

    /// Puts a job back at the position it had, after a restart.
    pub fn restore(&mut self, position: u64, local: LocalId, since_ms: u64) {
        self.order.insert(position, (local, since_ms));
        self.next = self.next.max(position + 1);
    }

    pub fn remove(&mut self, position: u64) {
        self.order.remove(&position);
    }

    /// The oldest: (id, ready since).
    pub fn front(&self) -> Option<(LocalId, u64)> {
        self.order.first_key_value().map(|(_, entry)| *entry)
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<LocalId> {
        self.order.pop_first().map(|(_, (local, _))| local)
    }

    pub fn len(&self) -> u64 {
        self.order.len() as u64
    }

    /// (position, (since, id)), the newest of those before a position first.
    pub fn before(&self, position: u64) -> impl Iterator<Item = (u64, (u64, LocalId))> + '_ {
        let newest = self.order.range(..position).rev();
        newest.map(|(at, &(local, since_ms))| (*at, (since_ms, local)))
    }

    /// (position, id) from a position on.
    pub fn from(&self, position: u64) -> impl Iterator<Item = (u64, LocalId)> + '_ {
        self.order.range(position..).map(|(at, (local, _))| (*at, *local))
    }
}
