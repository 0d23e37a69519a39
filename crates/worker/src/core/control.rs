//! What the controller may ask of a worker, and what it is told.

use std::collections::HashMap;

use tidegate_flow::breaker::State;
use tidegate_protocol::{domain::QueueName, v1};

use super::Core;
use crate::stop::Cause;

impl Core {
    /// How many jobs of each queue named may run here from now on. Others keep what they have; what runs goes on.
    pub(crate) fn set_targets(&mut self, now_ms: u64, targets: &[v1::Target]) {
        for target in targets {
            let Ok(queue) = target.queue.parse::<QueueName>() else {
                continue;
            };
            self.permits.set_target(&queue, target.target);
            self.gather_until_ms = None;
            self.limit(now_ms, &queue);
            tracing::debug!(%queue, target = target.target, reason = target.reason, "target");
        }
        self.tell_pools();
    }

    /// A pool is as large as the queues that take from it may be, and never smaller than what runs of them: a job that was
    /// started under a higher target would wait for a connection that the resource has, and its wait would be taken for a
    /// shortage.
    pub(super) fn tell_pools(&mut self) {
        let (permits, all) = (&self.permits, &self.settings.queues);
        self.pools.tell(|queues| {
            let queues = if queues.is_empty() { all } else { queues };
            let held = queues.iter().filter_map(|queue| permits.held(queue));
            let jobs = held.fold(0, u32::saturating_add);
            jobs.min(self.settings.slots)
        });
    }

    /// Nobody has repeated the targets: they stay, except that a queue with none gets one. Which worker has slots for it
    /// was somebody's decision, and that worker may be gone; how many run is the cap's.
    pub(crate) fn targets_ended(&mut self, now_ms: u64) {
        let without: Vec<QueueName> = self
            .permits
            .usage()
            .filter(|usage| usage.target == 0)
            .map(|usage| usage.queue)
            .collect();
        for queue in without {
            self.permits.set_target(&queue, 1);
            self.limit(now_ms, &queue);
        }
        self.tell_pools();
    }

    pub(crate) fn cancel_leases(&mut self, now_ms: u64, leases: &[v1::LeaseRef]) {
        self.stop_all(now_ms, leases, Cause::Cancelled);
    }

    /// Whether something has happened that the controller should hear of at once.
    pub(crate) fn is_alarming(&self) -> bool {
        self.alarm
    }

    pub(crate) fn window_ms(&self, now_ms: u64) -> u64 {
        self.tally.window_ms(now_ms)
    }

    /// What is new: queues that counted something or stand differently than when they were told last. The counts stay
    /// until [`Self::reported`].
    pub(crate) fn news(&self, now_ms: u64) -> v1::Report {
        let mut report = self.report(now_ms);
        report.queues.retain(|queue| {
            let counted = queue.run_time.is_some() || !queue.failures.is_empty();
            let told = queue
                .queue
                .parse()
                .ok()
                .and_then(|name: QueueName| self.told.get(&name));
            counted || told != Some(queue)
        });
        report
    }

    /// How many handlers go on after they were told to stop, of queues that have such.
    pub(crate) fn overdue(&self, now_ms: u64) -> HashMap<&QueueName, u32> {
        let mut overdue = HashMap::new();
        for job in self.jobs.values().filter(|job| job.is_overdue(now_ms)) {
            *overdue.entry(&job.queue).or_default() += 1;
        }
        overdue
    }

    /// Everything there is to say of the queues. The counts stay until [`Self::reported`].
    pub(crate) fn report(&self, now_ms: u64) -> v1::Report {
        let overdue = self.overdue(now_ms);
        let queues = self.permits.usage().map(|usage| {
            let limit = self.reflexes.limit(now_ms, &usage.queue, usage.target);
            v1::QueueReport {
                target: usage.target,
                overdue: overdue.get(&usage.queue).copied().unwrap_or_default(),
                // Between two tries it is 0, but one is what the queue has.
                reflex_limit: limit.map_or(0, |limit| limit.max(1).min(usage.target)),
                down: self.reflexes.is_down(&usage.queue),
                ..self.tally.report(now_ms, &usage.queue)
            }
        });
        v1::Report {
            window_ms: self.tally.window_ms(now_ms),
            queues: queues.collect(),
            resources: self.pools.report(),
            alarm: self.alarm,
            slots: self.slots(),
            ..Default::default()
        }
    }

    /// The same without the counts, for a hello: whether anybody who leads hears it is not certain, and what is counted
    /// must be told once. The first report follows.
    pub(crate) fn state(&self, now_ms: u64) -> v1::Report {
        let mut state = self.report(now_ms);
        state.window_ms = 0;
        state.queues.iter_mut().for_each(without_counts);
        state
    }

    /// A new stream has begun: its controller knows nothing of what another one was told.
    pub(crate) fn tell_anew(&mut self) {
        self.told.clear();
    }

    /// What targets may be divided over: nothing of a worker that takes no more jobs.
    fn slots(&self) -> u32 {
        if self.is_draining() {
            0
        } else {
            self.settings.slots
        }
    }

    /// The report was taken.
    pub(crate) fn reported(&mut self, now_ms: u64, report: v1::Report) {
        for mut queue in report.queues {
            without_counts(&mut queue);
            if let Ok(name) = queue.queue.parse() {
                self.told.insert(name, queue);
            }
        }
        self.forget_counts(now_ms);
    }

    /// Counts that are told, or too old to be told: a new window begins.
    pub(crate) fn forget_counts(&mut self, now_ms: u64) {
        self.tally.begin(now_ms);
        self.alarm = false;
    }

    /// Who this worker is, without its full state.
    pub(crate) fn node(&self) -> v1::NodeHello {
        v1::NodeHello {
            role: v1::NodeRole::Worker.into(),
            node: self.settings.incarnation.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: self.settings.queues.iter().map(ToString::to_string).collect(),
            slots: self.slots(),
            ..Default::default()
        }
    }

    /// Whether what the queue needs is there, as far as this worker can tell.
    pub(crate) fn circuit(&self, queue: &QueueName) -> State {
        self.reflexes.circuit(queue)
    }

    /// Gives the permits of a queue the limit that its reflexes say.
    pub(super) fn limit(&mut self, now_ms: u64, queue: &QueueName) {
        let Some(target) = self.permits.target(queue) else {
            return;
        };
        let limit = self.reflexes.limit(now_ms, queue, target);
        self.permits.set_limit(queue, limit);
    }

    /// Callers that wait for a connection are more than the resource takes now.
    pub(super) fn look_at_pools(&mut self, now_ms: u64) {
        self.tell_pools();
        let mut eased = Vec::new();
        for pool in self.pools.look(now_ms) {
            let queues = match pool.queues.as_slice() {
                [] => &self.settings.queues,
                some => some,
            };
            for queue in queues {
                if self.reflexes.on_wait(now_ms, queue) {
                    tracing::info!(%queue, resource = pool.resource, "callers wait for a connection: half the target for a second");
                    eased.push(queue.clone());
                }
            }
        }
        for queue in eased {
            self.alarm = true;
            self.limit(now_ms, &queue);
        }
    }

    pub(super) fn tick_reflexes(&mut self, now_ms: u64) {
        if self.reflexes.tick(now_ms) {
            for queue in self.settings.queues.clone() {
                self.limit(now_ms, &queue);
            }
        }
    }
}

fn without_counts(queue: &mut v1::QueueReport) {
    queue.run_time = None;
    queue.failures.clear();
}
