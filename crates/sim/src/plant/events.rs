//! What will happen, in the order of time.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// Jobs of a queue arrive: one of the stream, or a burst.
    Arrive {
        queue: usize,
        burst: u32,
    },
    /// A step of a job; `turn` tells whether it is still the same lease.
    Fetched {
        job: usize,
        turn: u32,
        ok: bool,
    },
    OffDone {
        job: usize,
        turn: u32,
    },
    AcquireTimeout {
        job: usize,
        turn: u32,
    },
    StatementTimeout {
        job: usize,
        turn: u32,
    },
    ConnectFailed {
        job: usize,
        turn: u32,
    },
    Settled {
        job: usize,
        turn: u32,
    },
    RetryReady {
        job: usize,
    },
    LeaseLost {
        job: usize,
    },
    /// The first connection of a pool is done, if nothing has changed since.
    PoolEnd {
        pool: usize,
        announced: u64,
    },
    PoolChange {
        pool: usize,
    },
    PoolDown {
        pool: usize,
    },
    ApiArrive {
        pool: usize,
    },
    ApiTimeout {
        call: usize,
        turn: u32,
    },
    Probe {
        pool: usize,
    },
    Fleet {
        change: usize,
    },
    /// A worker that held back may try again.
    Wake,
    /// Idle slots ask the store for jobs.
    Poll,
}

#[derive(Debug)]
struct Entry {
    at: f64,
    /// Equal times happen in the order in which they were planned.
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.number.cmp(&other.number))
    }
}

#[derive(Default)]
pub struct Events {
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Events {
    pub fn add(&mut self, at: f64, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Entry {
            at,
            number: self.number,
            event,
        }));
    }

    pub fn next_before(&mut self, until: f64) -> Option<(f64, Event)> {
        if self.heap.peek().is_none_or(|Reverse(next)| next.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}
