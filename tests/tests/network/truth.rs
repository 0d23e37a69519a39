//! What is true whatever anybody believes: which handlers run, what was recorded, what the store holds. Checked after every
//! event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use tidegate_protocol::domain::{JobId, LeaseRef, QueueName, Version};
use tidegate_store::{CapAnswer, Clock, QueueStats};

/// Of the resource: floor(0.7 * 50).
pub const BUDGET: u64 = 35;
pub const CAPACITY: u32 = 50;
/// (queue, units that a running job holds).
pub const QUEUES: [(&str, u32); 2] = [("email", 1), ("pdf", 2)];

/// The store's clock: true time, until somebody moves it.
#[derive(Default)]
pub struct StoreClock {
    now: AtomicU64,
    offset: AtomicI64,
}

impl StoreClock {
    pub fn new() -> Arc<Self> {
        let clock = Self::default();
        clock.offset.store(1_700_000_000_000, Ordering::SeqCst);
        Arc::new(clock)
    }

    pub fn set(&self, now: u64) {
        self.now.store(now, Ordering::SeqCst);
    }

    pub fn jump(&self, ms: i64) {
        self.offset.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for StoreClock {
    fn now_ms(&self) -> u64 {
        self.now
            .load(Ordering::SeqCst)
            .saturating_add_signed(self.offset.load(Ordering::SeqCst))
    }
}

pub fn cost(queue: &QueueName) -> u64 {
    let known = QUEUES.iter().find(|(name, _)| *name == queue.as_str());
    known.map_or(0, |(_, units)| u64::from(*units))
}

#[derive(Default)]
pub struct Truth {
    /// Handlers at work, by worker process.
    running: BTreeSet<(usize, u32, JobId, u64)>,
    units: u64,
    /// Attempts ever.
    pub begun: u64,
    pub units_max: u64,
    pub submitted: BTreeSet<JobId>,
    succeeded: BTreeSet<JobId>,
    caps: BTreeMap<QueueName, Version>,
}

impl Truth {
    pub fn began(&mut self, worker: usize, process: u32, lease: &LeaseRef) {
        if self
            .running
            .insert((worker, process, lease.id.clone(), lease.fence))
        {
            self.units += cost(&lease.id.queue);
            self.begun += 1;
            self.units_max = self.units_max.max(self.units);
        }
        assert!(
            self.units <= BUDGET,
            "{} units of {BUDGET} are at work: {:?}",
            self.units,
            self.running
        );
    }

    pub fn ended(&mut self, worker: usize, process: u32, lease: &LeaseRef) {
        if self
            .running
            .remove(&(worker, process, lease.id.clone(), lease.fence))
        {
            self.units -= cost(&lease.id.queue);
        }
    }

    /// Its handlers are gone with it.
    pub fn died(&mut self, worker: usize) {
        let gone = |run: &(usize, u32, JobId, u64)| run.0 == worker;
        let all: Vec<_> = self.running.iter().filter(|run| gone(run)).cloned().collect();
        for run in all {
            self.units -= cost(&run.2.queue);
            self.running.remove(&run);
        }
    }

    pub fn running(&self) -> Vec<JobId> {
        self.running.iter().map(|run| run.2.clone()).collect()
    }

    /// `true`: it is the first time. A repeat gets the same answer.
    pub fn recorded(&mut self, job: &JobId) -> bool {
        self.succeeded.insert(job.clone())
    }

    /// A cap order was answered by the store.
    pub fn capped(&mut self, answer: &CapAnswer, queue: &QueueName) {
        let Some(record) = answer.record else { return };
        let newest = self.caps.entry(queue.clone()).or_default();
        assert!(
            record.version >= *newest,
            "{queue}: {:?} after {newest:?}",
            record.version
        );
        *newest = record.version;
    }

    pub fn holds(&self, stats: &[QueueStats]) {
        let held = |stats: &QueueStats| {
            let cap = stats.cap.map_or(0, |record| u64::from(record.cap.cap));
            cost(&stats.queue) * stats.slots.max(cap)
        };
        let all: u64 = stats.iter().map(held).sum();
        assert!(
            all <= BUDGET,
            "the store may give out {all} units of {BUDGET}: {stats:?}"
        );
    }
}
