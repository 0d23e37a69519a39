//! What is known of each queue: facts of the store (the newest win) and of nodes (summed).

use std::collections::HashMap;

use tidegate_flow::{
    histogram::Histogram,
    strategy::{Inputs, Reason, Strategy},
};
use tidegate_protocol::domain::{self, Policy, Probe, QueueName};

use super::{
    Core, Managed, QUEUES_MAX,
    model::{Counts, Decision, Now, QueueReport, Report, Role, StoreFacts, StreamId},
};

/// A pin in place of the demand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    pub value: u32,
    pub until_ms: u64,
}

/// One queue.
#[derive(Default)]
pub(super) struct Queue {
    /// `None`: the defaults, which every router has too.
    pub policy: Option<Managed<Policy>>,
    /// Its policy was deleted; it costs what it did until nothing of it runs.
    pub removing: bool,
    pub frozen: bool,
    pub pin: Option<Pin>,
    pub store: StoreFacts,
    /// Since the last tick.
    pub window: Counts,
    /// Of the last window that had any.
    pub seen: Seen,
    /// The cap that was in force when it was adopted first.
    pub adopted: Option<u32>,
    /// Whether `goal` was ever set.
    pub is_decided: bool,
    pub goal: Goal,
    pub newest: Option<Decision>,
}

/// Rates and times of the last window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub mean_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub completions_per_s: f64,
    pub failures_per_s: f64,
}

/// What nodes say of one queue, summed.
#[derive(Clone, Copy, Debug, Default)]
struct FromNodes {
    /// Of workers that serve it.
    slots: u64,
    in_flight: f64,
    is_down: bool,
}

/// What nodes say of everything.
#[derive(Debug, Default)]
pub(super) struct SeenByNodes {
    queues: HashMap<QueueName, FromNodes>,
    /// By resource, where it is measured.
    saturation: HashMap<String, f64>,
}

/// What the last tick decided for a queue.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// The cap to come to.
    pub cap: u32,
    pub safe: u32,
    pub wanted: u32,
    pub target: u32,
    /// Retries are held to a part of the cap.
    pub retries_held: bool,
    pub limited_by: Option<String>,
    pub reason: Reason,
    pub inputs: Vec<(&'static str, f64)>,
}

impl Default for Goal {
    fn default() -> Self {
        Self {
            cap: 0,
            safe: 0,
            wanted: 0,
            target: 0,
            retries_held: false,
            limited_by: None,
            reason: Reason::Cold,
            inputs: Vec::new(),
        }
    }
}

impl Queue {
    pub fn policy(&self) -> Policy {
        match &self.policy {
            Some(managed) => managed.value.clone(),
            None => Policy::default(),
        }
    }

    pub fn costs(&self) -> Vec<(String, u32)> {
        let managed = self.policy.iter().flat_map(|managed| &managed.value.costs);
        managed.map(|cost| (cost.resource.clone(), cost.units)).collect()
    }
}

impl Core {
    pub(super) fn take_report(&mut self, stream: StreamId, report: Report, now: Now) {
        let Some(node) = self.nodes.get_mut(&stream) else {
            return;
        };
        node.reported_ms = now.mono_ms;
        if node.role == Role::Worker && report.slots > 0 {
            node.slots = report.slots;
        }
        for resource in report.resources {
            node.resources
                .insert(resource.resource, (resource.in_use, resource.waiters));
        }
        for queue in &report.queues {
            node.gauges
                .insert(queue.queue.clone(), (queue.mean_in_flight, queue.is_down));
        }
        self.store_latency.merge(&report.store_latency);
        let mut is_new = false;
        for queue in report.queues {
            is_new |= self.take_queue(queue);
        }
        if is_new {
            self.adopt(now);
        }
        if is_new || report.alarm {
            self.tick_soon(now);
        }
    }

    /// Whether the queue was not known before.
    fn take_queue(&mut self, report: QueueReport) -> bool {
        let is_new = !self.queues.contains_key(&report.queue);
        if is_new && !self.meet(&report.queue) {
            return false;
        }
        let Some(queue) = self.queues.get_mut(&report.queue) else {
            return false;
        };
        queue.window.add(&report.counts);
        if let Some(facts) = report.store
            && facts.clock_ms >= queue.store.clock_ms
        {
            queue.store = facts;
        }
        is_new
    }

    /// Makes a place for a queue; false: there is none left.
    pub(super) fn meet(&mut self, queue: &QueueName) -> bool {
        if self.queues.contains_key(queue) {
            return true;
        }
        if self.queues.len() >= QUEUES_MAX {
            tracing::warn!(%queue, max = QUEUES_MAX, "too many queues: this one is not controlled");
            return false;
        }
        self.queues.insert(queue.clone(), Queue::default());
        self.caps.set_queue(queue.as_str(), Vec::new());
        true
    }

    /// Closes the window of a queue and gives what the strategy asks for. `None`: the store has never answered for it, and
    /// where to start from is not known.
    pub(super) fn inputs_of(
        &mut self,
        name: &QueueName,
        seen: &SeenByNodes,
        elapsed_ms: u64,
    ) -> Option<Inputs> {
        if !self.queues.get(name)?.is_decided && !self.caps.is_adopted(name.as_str()) {
            return None;
        }
        let FromNodes {
            slots,
            in_flight,
            is_down,
        } = seen.queues.get(name).copied().unwrap_or_default();
        let costs = self.queues.get(name)?.costs();
        let saturation = costs
            .iter()
            .filter_map(|(resource, _)| seen.saturation.get(resource).copied())
            .fold(0.0, f64::max);
        let store_latency_ms = self.store_latency_ms;
        let queue = self.queues.get_mut(name)?;
        let counts = std::mem::take(&mut queue.window);
        queue.seen = queue.seen.after(&counts, elapsed_ms);
        let policy = queue.policy();
        Some(Inputs {
            strategy: strategy_of(policy.strategy),
            min: policy.min,
            max: policy.max,
            tick_ms: self.settings.tick_ms,
            ready: queue.store.ready,
            running: queue.store.running.max(in_flight.round().max(0.0) as u64),
            slots,
            adopted: queue.adopted,
            arrivals: counts.submitted,
            completions: counts.completions(),
            overload: counts.overload,
            down: counts.down,
            errors: counts.errors,
            is_down,
            run_time_mean_ms: queue.seen.mean_ms.unwrap_or(0.0),
            run_time_p99_ms: queue.seen.p99_ms.unwrap_or(0.0),
            oldest_age_ms: queue.store.oldest_ready_age_ms,
            store_latency_ms,
            pool_saturation: saturation,
        })
    }

    /// What live nodes say, in one pass: a fleet has many of them.
    pub(super) fn seen_by_nodes(&self) -> SeenByNodes {
        let mut seen = SeenByNodes::default();
        for node in self.live_nodes() {
            for (queue, (mean, is_down)) in &node.gauges {
                let of_queue = seen.queues.entry(queue.clone()).or_default();
                of_queue.in_flight += mean;
                of_queue.is_down |= is_down;
            }
            for queue in node.queues.iter().filter(|_| node.role == Role::Worker) {
                seen.queues.entry(queue.clone()).or_default().slots += u64::from(node.slots);
            }
        }
        let measured = self.resources.keys().filter_map(|resource| {
            let saturation = self.saturation(resource)?;
            Some((resource.clone(), saturation))
        });
        seen.saturation = measured.collect();
        seen
    }

    /// Used and waited for by everybody, by capacity; `None`: not measured.
    fn saturation(&self, resource: &str) -> Option<f64> {
        let managed = self.resources.get(resource)?;
        let used = self.measured(resource)?;
        Some(used as f64 / f64::from(managed.value.capacity.max(1)))
    }

    /// What workers' pools of a resource hold and wait for.
    pub(super) fn measured(&self, resource: &str) -> Option<u64> {
        if self.resources.get(resource)?.value.probe != Probe::Workers {
            return None;
        }
        let pools = self.live_nodes().filter_map(|node| node.resources.get(resource));
        Some(
            pools
                .map(|(in_use, waiters)| u64::from(*in_use) + u64::from(*waiters))
                .sum(),
        )
    }

    pub(super) fn close_store_window(&mut self) {
        let window = std::mem::take(&mut self.store_latency);
        if let Some(mean) = window.mean_ms() {
            self.store_latency_ms = mean;
        }
    }
}

impl Seen {
    fn after(self, counts: &Counts, elapsed_ms: u64) -> Self {
        let seconds = elapsed_ms.max(1) as f64 / 1_000.0;
        let times: &Histogram = &counts.run_time;
        Self {
            mean_ms: times.mean_ms().or(self.mean_ms),
            p99_ms: times.quantile_ms(0.99).or(self.p99_ms),
            completions_per_s: counts.completions() as f64 / seconds,
            failures_per_s: counts.failures() as f64 / seconds,
        }
    }
}

/// The adaptive strategy is this rule too, as long as there is no better one.
fn strategy_of(strategy: domain::Strategy) -> Strategy {
    match strategy {
        domain::Strategy::Fixed => Strategy::Fixed,
        domain::Strategy::Adaptive | domain::Strategy::EmaAimd => Strategy::EmaAimd,
    }
}
