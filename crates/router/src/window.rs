//! What this router counted since its last report to the controller: arrivals of each queue, and how long the store took.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tidegate_flow::histogram::Histogram;
use tidegate_protocol::domain::QueueName;

/// Names come from callers, and a refused submit may name anything. Queues beyond it are not counted: their jobs still
/// show in the store's facts.
const QUEUES_MAX: usize = 10_000;
/// Calls that a job waits for. Sweeps and looks are longer and say nothing of it.
const TIMED: [&str; 3] = ["submit", "lease", "settle"];

/// Submits of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    pub submitted: u64,
    pub refused: u64,
    /// Of those refused, by the controller's gate because they would wait too long.
    pub gated: u64,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub arrivals: HashMap<QueueName, Arrivals>,
    pub store: Histogram,
}

impl Counts {
    fn arrived(&mut self, queue: &QueueName, arrivals: Arrivals) {
        if !self.arrivals.contains_key(queue) && self.arrivals.len() >= QUEUES_MAX {
            return;
        }
        let sum = self.arrivals.entry(queue.clone()).or_default();
        sum.submitted += arrivals.submitted;
        sum.refused += arrivals.refused;
        sum.gated += arrivals.gated;
    }
}

/// A shared handle; a std mutex around a few additions.
#[derive(Debug, Default)]
pub struct Window {
    /// Without a controller nobody takes the counts.
    counting: AtomicBool,
    counts: Mutex<Counts>,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn start(&self) {
        self.counting.store(true, Ordering::Relaxed);
    }

    fn counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    pub fn arrived(&self, queue: &QueueName, arrivals: Arrivals) {
        if self.counting() {
            self.lock().arrived(queue, arrivals);
        }
    }

    pub fn store_call(&self, op: &str, seconds: f64) {
        if self.counting() && TIMED.contains(&op) {
            self.lock().store.add(seconds * 1_000.0);
        }
    }

    /// The counts so far; a new window begins.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.lock())
    }

    /// They could not be told: they count in the next window.
    pub fn put_back(&self, counts: Counts) {
        let mut next = self.lock();
        for (queue, arrivals) in &counts.arrivals {
            next.arrived(queue, *arrivals);
        }
        next.store.merge(&counts.store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_is_told_later() {
        let (window, queue) = (Window::default(), "email".parse().unwrap());
        let one = Arrivals {
            submitted: 1,
            refused: 2,
            gated: 1,
        };
        window.arrived(&queue, one);
        assert!(window.take().arrivals.is_empty(), "nobody asked yet");
        window.start();
        window.arrived(&queue, one);
        window.store_call("lease", 0.004);
        window.store_call("sweep", 9.0);
        let counts = window.take();
        assert_eq!((counts.arrivals[&queue], counts.store.count()), (one, 1));
        window.arrived(&queue, one);
        window.put_back(counts);
        let counts = window.take();
        let both = Arrivals {
            submitted: 2,
            refused: 4,
            gated: 2,
        };
        assert_eq!(counts.arrivals[&queue], both);
        assert_eq!(counts.store.sum_ms(), 4.0);
        assert!(window.take().arrivals.is_empty());
    }
}
