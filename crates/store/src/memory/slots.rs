//! A lease set: what counts against the cap.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_protocol::domain::LocalId;

/// A lease set entry: (id, fence). A re-leased job and the ghost of its old lease are two entries.
pub(crate) type Slot = (LocalId, u64);

/// Slots with the time at which each ends, ghosts included.
#[derive(Default)]
pub(crate) struct Slots {
    until: BTreeMap<Slot, u64>,
    /// The same by time: a sweep must not look at every lease to find the few that are over.
    by_time: BTreeSet<(u64, Slot)>,
}

impl Slots {
    /// Takes a slot, or prolongs it.
    pub fn insert(&mut self, slot: Slot, until_ms: u64) {
        if let Some(before) = self.until.insert(slot, until_ms) {
            self.by_time.remove(&(before, slot));
        }
        self.by_time.insert((until_ms, slot));
    }

    /// Frees a slot; true if it was taken.
    pub fn remove(&mut self, slot: &Slot) -> bool {
        match self.until.remove(slot) {
            Some(until_ms) => self.by_time.remove(&(until_ms, *slot)),
            None => false,
        }
    }

    pub fn until(&self, slot: &Slot) -> Option<u64> {
        self.until.get(slot).copied()
    }

    pub fn len(&self) -> u64 {
        self.until.len() as u64
    }

    /// In the order of ids, from a slot on.
    pub fn from(&self, slot: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.until.range(slot..).map(|(slot, _)| *slot)
    }

    /// Those that are over at `now_ms`, the longest over first.
    pub fn over(&self, now_ms: u64) -> impl Iterator<Item = (u64, Slot)> + '_ {
        self.by_time
            .iter()
            .copied()
            .take_while(move |(until_ms, _)| *until_ms <= now_ms)
    }
}
