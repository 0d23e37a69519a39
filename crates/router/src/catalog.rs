//! What this router knows of each queue between two looks at the store: enough to decide, never to enforce.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidegate_protocol::domain::{Policy, QueueName};
use tidegate_store::QueueStats;

/// How long a queue is swept at the full pace after this router entered or leased a job of it.
const TOUCHED_MS: u64 = 10_000;

/// The few facts of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub lease_ttl_ms: u64,
    pub costs_a_resource: bool,
    pub max_attempts: u32,
    /// Something in it happens by time: jobs wait or run.
    pub busy: bool,
}

#[derive(Default)]
struct Entry {
    facts: Option<Facts>,
    touched_at: Option<u64>,
    /// Jobs that cannot be read, as of the last look.
    unreadable: u64,
}

/// A shared handle; a std mutex around a lookup.
#[derive(Default)]
pub struct Catalog(Mutex<HashMap<QueueName, Entry>>);

impl Catalog {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is known. Queues that the store does not have any more are dropped. Answers the queues that have more
    /// unreadable jobs than at the last look.
    pub fn refresh<'a>(&self, all: &'a [QueueStats]) -> Vec<&'a QueueStats> {
        let mut damaged = Vec::new();
        let mut queues = self.lock();
        let mut fresh: HashMap<QueueName, Entry> = HashMap::with_capacity(all.len());
        for stats in all {
            let mut entry = queues.remove(&stats.queue).unwrap_or_default();
            entry.facts = Some(Facts {
                lease_ttl_ms: stats.policy.lease_ttl_ms,
                costs_a_resource: stats.policy.costs_a_resource(),
                max_attempts: stats.policy.retry.max_attempts,
                busy: stats.scheduled + stats.ready + stats.slots > 0,
            });
            if stats.unreadable > entry.unreadable {
                damaged.push(stats);
            }
            entry.unreadable = stats.unreadable;
            fresh.insert(stats.queue.clone(), entry);
        }
        *queues = fresh;
        damaged
    }

    /// This router has just put something into the queue.
    pub fn touch<'a>(&self, names: impl Iterator<Item = &'a QueueName>, at: u64) {
        let mut queues = self.lock();
        let mut last = None;
        for name in names.filter(|&name| last.replace(name) != Some(name)) {
            queues.entry(name.clone()).or_default().touched_at = Some(at);
        }
    }

    pub fn facts(&self, queue: &QueueName) -> Option<Facts> {
        self.lock().get(queue)?.facts
    }

    /// Attempts of a job of the queue; the default if the queue is not known yet.
    pub fn max_attempts(&self, queue: &QueueName) -> u32 {
        self.facts(queue).map_or_else(
            || Policy::default().retry.max_attempts,
            |facts| facts.max_attempts,
        )
    }

    /// Every queue known, with what is known of it, and whether it needs the full pace of sweeps.
    pub fn queues(&self, at: u64) -> Vec<(QueueName, Option<Facts>, bool)> {
        let queues = self.lock();
        let busy = |entry: &Entry| {
            entry.facts.is_none_or(|facts| facts.busy)
                || entry
                    .touched_at
                    .is_some_and(|touched| at.saturating_sub(touched) < TOUCHED_MS)
        };
        queues
            .iter()
            .map(|(name, entry)| (name.clone(), entry.facts, busy(entry)))
            .collect()
    }
}
