//! Pools of connections to shared resources that the handlers take from: how full they are is told to the controller, and
//! a pool that lets handlers wait lowers what runs here.
//!
//! A wait must last over two looks to count: a pool that opens its first connections lets callers wait for a moment, and
//! that is no shortage.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tidegate_protocol::{domain::QueueName, v1};

/// How often pools are looked at. Short against the second that a reflex lasts, long against what a look costs.
const LOOK_EVERY_MS: u64 = 100;

/// How full a pool of connections is now. Counts of connections, except `waiters`, which are callers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUsage {
    pub in_use: u32,
    pub idle: u32,
    /// Callers that wait for a connection.
    pub waiters: u32,
    /// Connections the pool may open at most.
    pub size: u32,
}

/// A pool that can say how full it is. Called ten times a second on the thread that keeps the leases: it must not block.
pub trait PoolStats: Send + Sync + 'static {
    fn usage(&self) -> PoolUsage;

    /// How many jobs may use it at once from now on, for a pool that grows and shrinks with that. Called when it changes,
    /// and at the start, on the same thread.
    fn on_target(&self, _jobs: u32) {}
}

impl<F: Fn() -> PoolUsage + Send + Sync + 'static> PoolStats for F {
    fn usage(&self) -> PoolUsage {
        self()
    }
}

/// One pool, as it was registered.
pub(crate) struct Pool {
    pub(crate) resource: String,
    /// Whose handlers take from it; empty: all.
    pub(crate) queues: Vec<QueueName>,
    pub(crate) stats: Arc<dyn PoolStats>,
    /// Callers waited at the last look, too.
    is_waiting: bool,
    /// What it was told of its target.
    told: Option<u32>,
}

impl Pool {
    pub(crate) fn new(resource: String, queues: Vec<QueueName>, stats: Arc<dyn PoolStats>) -> Self {
        Self {
            resource,
            queues,
            stats,
            is_waiting: false,
            told: None,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, queues, .. } = self;
        write!(f, "Pool({resource} of {queues:?})")
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    look_at_ms: u64,
    /// By resource: two pools of one resource are one to the controller.
    seen: BTreeMap<String, PoolUsage>,
}

impl Pools {
    pub(crate) fn new(pools: Vec<Pool>) -> Self {
        Self {
            pools,
            ..Self::default()
        }
    }

    /// Looks at every pool, if it is time; gives the pools in which callers have waited since the last look.
    pub(crate) fn look(&mut self, now_ms: u64) -> impl Iterator<Item = &Pool> {
        let is_due = !self.pools.is_empty() && now_ms >= self.look_at_ms;
        if is_due {
            self.look_at_ms = now_ms + LOOK_EVERY_MS;
            self.seen.clear();
        }
        let seen = &mut self.seen;
        let pools = self.pools.iter_mut().filter(move |_| is_due);
        pools.filter_map(|pool| {
            let usage = pool.stats.usage();
            add(seen.entry(pool.resource.clone()).or_default(), usage);
            let waits = usage.waiters > 0;
            let lasts = waits && pool.is_waiting;
            pool.is_waiting = waits;
            lasts.then_some(&*pool)
        })
    }

    /// Tells each pool how many jobs of its queues may run, where that has changed.
    pub(crate) fn tell(&mut self, jobs_of: impl Fn(&[QueueName]) -> u32) {
        for pool in &mut self.pools {
            let jobs = jobs_of(&pool.queues);
            if pool.told != Some(jobs) {
                pool.told = Some(jobs);
                pool.stats.on_target(jobs);
            }
        }
    }

    pub(crate) fn wake_at_ms(&self) -> u64 {
        if self.pools.is_empty() {
            u64::MAX
        } else {
            self.look_at_ms
        }
    }

    /// By resource, as of the last look.
    pub(crate) fn report(&self) -> Vec<v1::ResourceReport> {
        let report = |(resource, usage): (&String, &PoolUsage)| v1::ResourceReport {
            resource: resource.clone(),
            in_use: usage.in_use,
            idle: usage.idle,
            waiters: usage.waiters,
            size: usage.size,
        };
        self.seen.iter().map(report).collect()
    }
}

fn add(sum: &mut PoolUsage, more: PoolUsage) {
    sum.in_use = sum.in_use.saturating_add(more.in_use);
    sum.idle = sum.idle.saturating_add(more.idle);
    sum.waiters = sum.waiters.saturating_add(more.waiters);
    sum.size = sum.size.saturating_add(more.size);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_wait_counts_when_it_lasts_and_pools_of_a_resource_are_summed() {
        let waiters = Arc::new(AtomicU32::new(1));
        let pool = |waiting: Arc<AtomicU32>| {
            let usage = move || PoolUsage {
                in_use: 3,
                waiters: waiting.load(Ordering::SeqCst),
                size: 4,
                ..PoolUsage::default()
            };
            Pool::new("pg".to_owned(), Vec::new(), Arc::new(usage))
        };
        let mut pools = Pools::new(vec![pool(waiters.clone()), pool(Arc::default())]);
        assert_eq!(pools.look(0).count(), 0, "a first look");
        assert_eq!(pools.look(50).count(), 0, "not due");
        assert_eq!(pools.look(100).count(), 1);
        let report = pools.report();
        assert_eq!((report.len(), report[0].in_use, report[0].waiters), (1, 6, 1));
        waiters.store(0, Ordering::SeqCst);
        assert_eq!(pools.look(200).count(), 0);
        waiters.store(2, Ordering::SeqCst);
        assert_eq!(pools.look(300).count(), 0, "it begins anew");
    }

    #[test]
    fn without_pools_nobody_is_woken() {
        assert_eq!(Pools::default().wake_at_ms(), u64::MAX);
    }
}
