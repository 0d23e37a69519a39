//! What is known of each queue: facts of the store (the newest win) and of nodes (summed).

use std::collections::HashMap;

use tidegate_flow::{
    admission,
    governor::{self, Inputs, QueueInputs, Reason, ResourceInputs, StoreInputs, Strategy},
    histogram::Histogram,
};
use tidegate_protocol::domain::{self, Policy, Probe, QueueName};

use super::{
    Core, Managed, QUEUES_MAX,
    model::{Counts, Decision, Now, QueueReport, Report, Role, StoreFacts, StreamId},
};

/// Facts of the store that nobody has confirmed for so long give way to any: the store's clock may have gone back.
pub(super) const FACTS_MS_MAX: u64 = 3_000;
/// Less than this is a message that was slow on its way.
const CLOCK_BACK_MS: u64 = 10_000;
/// Time over which arrivals say something of a rate.
const SURGE_S_MIN: f64 = 0.9;

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
    /// Its policy was deleted: it runs nothing, and costs what it did until nothing of it runs. Then it has no policy, and
    /// runs nothing until it gets one.
    pub removing: bool,
    pub frozen: bool,
    pub pin: Option<Pin>,
    pub store: StoreFacts,
    /// When they were heard, by the monotonic clock.
    pub store_heard_ms: u64,
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
    /// What its gate is decided by.
    pub admission: admission::State,
}

/// Rates and times of the last window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub mean_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub completions_per_s: f64,
    pub failures_per_s: f64,
    /// Jobs that succeeded, and those that came ([`Counts::arrivals`]).
    pub completions: u64,
    pub arrivals: u64,
    /// Of the workers that serve it.
    pub slots: u64,
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
struct SeenByNodes {
    queues: HashMap<QueueName, FromNodes>,
}

/// What the last tick decided for a queue.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// The cap to come to.
    pub cap: u32,
    pub safe: u32,
    pub wanted: u32,
    pub target: u32,
    /// Share of the cap that retries may hold.
    pub retry_share: f64,
    /// Its downstream is known to be gone.
    pub is_down: bool,
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
            retry_share: 1.0,
            is_down: false,
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
        // Each report names all pools of its worker; one that is gone is not named any more.
        let pools = report.resources.into_iter();
        node.resources = pools
            .map(|pool| (pool.resource, (pool.in_use, pool.waiters)))
            .collect();
        for queue in &report.queues {
            if let Some(served) = node.queues.get(&queue.queue) {
                let gauge = (queue.mean_in_flight, queue.is_down);
                node.gauges.insert(served.clone(), gauge);
            }
        }
        self.store_latency.merge(&report.store_latency);
        if let Some(seen) = report.store {
            self.see_store(stream, seen, now);
        }
        let mut is_new = false;
        let mut has_news = false;
        for queue in report.queues {
            let counts = &queue.counts;
            let moved =
                (counts.submitted + counts.gated + counts.completions() > 0).then(|| queue.queue.clone());
            is_new |= self.take_queue(queue, now);
            has_news |= moved.is_some_and(|name| self.has_news(&name, now));
        }
        if is_new {
            self.adopt(now);
        }
        if is_new || report.alarm || has_news {
            self.tick_soon(now);
        }
        if self.writer == Some(stream) {
            self.follow_drains(now);
        }
    }

    /// Whether a queue need not wait for the next tick: more has arrived since the last one than noise explains, or its
    /// first jobs have ended.
    fn has_news(&self, name: &QueueName, now: Now) -> bool {
        let (Some(last), Some(queue)) = (self.last_tick, self.queues.get(name)) else {
            return false;
        };
        let seconds = now.mono_ms.saturating_sub(last.mono_ms) as f64 / 1_000.0;
        let (name, seen) = (name.as_str(), &queue.window);
        let arrivals = seen.arrivals(queue.policy().submit_rate, seconds);
        // A report that comes right after a tick says nothing of a rate.
        let is_surge = seconds >= SURGE_S_MIN && governor::is_surge(&self.governor, name, arrivals, seconds);
        is_surge || governor::is_first_end(&self.governor, name, &seen.run_time)
    }

    /// Whether the queue was not known before.
    fn take_queue(&mut self, report: QueueReport, now: Now) -> bool {
        let is_new = !self.queues.contains_key(&report.queue);
        if is_new && !self.meet(&report.queue) {
            return false;
        }
        let Some(queue) = self.queues.get_mut(&report.queue) else {
            return false;
        };
        queue.window.add(&report.counts);
        let is_old = now.mono_ms.saturating_sub(queue.store_heard_ms) > FACTS_MS_MAX;
        let went_back =
            |clock_ms: u64| is_old && clock_ms.saturating_add(CLOCK_BACK_MS) < queue.store.clock_ms;
        if let Some(facts) = report.store
            && (facts.clock_ms >= queue.store.clock_ms || went_back(facts.clock_ms))
        {
            queue.store = facts;
            queue.store_heard_ms = now.mono_ms;
        }
        is_new
    }

    pub(super) fn has_room_for(&self, queue: &QueueName) -> bool {
        self.queues.contains_key(queue) || self.queues.len() < QUEUES_MAX
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

    /// Closes every window and gives what the governor asks for.
    pub(super) fn governor_inputs(&mut self, elapsed_ms: u64) -> Inputs {
        let seen = self.seen_by_nodes();
        let names: Vec<QueueName> = self.queues.keys().cloned().collect();
        let mut queues = std::collections::BTreeMap::new();
        for name in &names {
            if let Some(inputs) = self.inputs_of(name, &seen, elapsed_ms) {
                queues.insert(name.to_string(), inputs);
            }
        }
        let resources = self
            .resources
            .keys()
            .map(|name| (name.clone(), self.resource_inputs(name)));
        Inputs {
            elapsed_ms,
            tick_ms: self.settings.tick_ms,
            store: StoreInputs {
                latency_ms: (self.store_latency_ms > 0.0).then_some(self.store_latency_ms),
                // Routers know their own; how long a lease lives is the bound that matters here.
                timeout_ms: 0,
                lease_ttl_ms: Policy::default().lease_ttl_ms,
            },
            resources: resources.collect(),
            queues,
        }
    }

    /// `None`: the store has never answered for the queue, and where to start from is not known.
    fn inputs_of(&mut self, name: &QueueName, seen: &SeenByNodes, elapsed_ms: u64) -> Option<QueueInputs> {
        if !self.queues.get(name)?.is_decided && !self.caps.is_adopted(name.as_str()) {
            return None;
        }
        let FromNodes {
            slots,
            in_flight,
            is_down,
        } = seen.queues.get(name).copied().unwrap_or_default();
        let (all_frozen, current) = (self.frozen, self.caps.current(name.as_str()));
        let queue = self.queues.get_mut(name)?;
        let counts = std::mem::take(&mut queue.window);
        let (policy, costs) = (queue.policy(), queue.costs());
        let arrivals = counts.arrivals(policy.submit_rate, elapsed_ms as f64 / 1_000.0);
        queue.seen = queue.seen.after(&counts, arrivals, slots, elapsed_ms);
        let pinned = match (queue.removing, queue.pin) {
            (true, _) => Some(0),
            // What is held where it is goes on from there.
            (false, None) if all_frozen || queue.frozen => current,
            (false, pin) => pin.map(|pin| pin.value),
        };
        Some(QueueInputs {
            strategy: strategy_of(policy.strategy),
            min: if queue.removing { 0 } else { policy.min },
            max: policy.max,
            weight: policy.weight,
            costs,
            pinned,
            adopted: queue.adopted,
            ready: queue.store.ready,
            running: queue.store.running.max(in_flight.round().max(0.0) as u64),
            // Workers report it; without one, what runs now is all that is known.
            in_flight: (in_flight > 0.0).then_some(in_flight),
            slots,
            arrivals,
            run_time: counts.run_time,
            overload: counts.overload,
            down: counts.down,
            errors: counts.errors,
            is_down,
            oldest_age_ms: queue.store.oldest_ready_age_ms,
        })
    }

    fn resource_inputs(&self, name: &str) -> ResourceInputs {
        let (capacity, headroom) = match self.resources.get(name) {
            Some(managed) => (managed.value.capacity, managed.value.headroom),
            None => (0, 0.0),
        };
        if let Some(means) = self.means(name) {
            return ResourceInputs {
                capacity,
                headroom,
                in_use: Some(means.in_use),
                in_use_by_jobs: means.by_jobs,
                waiters: Some(means.waiters),
                probe: means.times.clone(),
            };
        }
        // Pools of workers are used by jobs; who else uses the resource takes a probe to see.
        let pools = self.pools(name);
        ResourceInputs {
            capacity,
            headroom,
            in_use: pools.map(|(in_use, _)| in_use as f64),
            in_use_by_jobs: pools.map(|(in_use, _)| in_use as f64),
            waiters: pools.map(|(_, waiters)| waiters as f64),
            probe: Histogram::default(),
        }
    }

    /// What live nodes say, in one pass: a fleet has many of them.
    fn seen_by_nodes(&self) -> SeenByNodes {
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
        seen
    }

    /// What workers' pools of a resource hold and wait for; `None`: not measured.
    pub(super) fn pools(&self, resource: &str) -> Option<(u64, u64)> {
        if self.resources.get(resource)?.value.probe != Probe::Workers {
            return None;
        }
        let pools = self.live_nodes().filter_map(|node| node.resources.get(resource));
        Some(pools.fold((0, 0), |(in_use, waiters), (more, wait)| {
            (in_use + u64::from(*more), waiters + u64::from(*wait))
        }))
    }

    pub(super) fn close_store_window(&mut self) {
        let window = std::mem::take(&mut self.store_latency);
        if let Some(mean) = window.mean_ms() {
            self.store_latency_ms = mean;
        }
    }
}

impl Seen {
    fn after(self, counts: &Counts, arrivals: u64, slots: u64, elapsed_ms: u64) -> Self {
        let seconds = elapsed_ms.max(1) as f64 / 1_000.0;
        let times: &Histogram = &counts.run_time;
        Self {
            mean_ms: times.mean_ms().or(self.mean_ms),
            p99_ms: times.quantile_ms(0.99).or(self.p99_ms),
            completions_per_s: counts.completions() as f64 / seconds,
            failures_per_s: counts.failures() as f64 / seconds,
            completions: counts.completions(),
            arrivals,
            slots,
        }
    }
}

fn strategy_of(strategy: domain::Strategy) -> Strategy {
    match strategy {
        domain::Strategy::Adaptive => Strategy::Adaptive,
        domain::Strategy::Fixed => Strategy::Fixed,
        domain::Strategy::EmaAimd => Strategy::EmaAimd,
    }
}
