//! The router's instruments, by the names of the conventions. Queue names come from callers, so the number of label
//! values is bounded: after [`QUEUES_LABELLED_MAX`] queues the rest count together.

mod catalogue;
mod retries;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tidegate_chassis::{
    clock::Monotonic,
    telemetry::{Counter, Gauge, Histogram, KeyValue, Meter, TracedHistogram, trace::TraceContext},
};
use tidegate_flow::breaker;
use tidegate_protocol::{
    domain::{CapRecord, JobState, OutcomeKind, QueueName},
    reason,
};
use tidegate_store::{Durability, QueueStats};

pub use self::catalogue::METRICS;
use self::retries::Retries;
use crate::window::{Arrivals, Window};

/// Series per instrument and label set; each costs memory here and in Prometheus for as long as they live.
const QUEUES_LABELLED_MAX: usize = 500;
/// The label of queues beyond that. No queue can be named so.
const OTHER_QUEUES: &str = "(other)";
const MESSAGING_SYSTEM: (&str, &str) = ("messaging.system", "tidegate");

/// What the router does on behalf of others.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Submit,
    Lease,
    Settle,
}

/// See the [module](self).
pub struct Metrics {
    submitted: Counter<u64>,
    settled: Counter<u64>,
    wait: TracedHistogram,
    retry_ratio: Gauge<f64>,
    rejections: Counter<u64>,
    leases_lost: Counter<u64>,
    stale_settles: Counter<u64>,
    store_duration: Histogram<f64>,
    store_batch: Histogram<u64>,
    workers: Gauge<u64>,
    circuit: Gauge<u64>,
    durability: Gauge<u64>,
    jobs: Gauge<u64>,
    oldest_ready: Gauge<f64>,
    unreadable: Gauge<u64>,
    cap: Gauge<u64>,
    running: Gauge<u64>,
    controller_connected: Gauge<u64>,
    controllers_refused: Counter<u64>,
    cap_writer: Gauge<u64>,
    sent: Counter<u64>,
    consumed: Counter<u64>,
    operation: Histogram<f64>,
    /// Of as many queues as there are labels.
    retries: Mutex<HashMap<QueueName, Retries>>,
    clock: Monotonic,
    /// The same counts for the controller, which asks each second and by queue.
    pub window: Window,
    queues: RwLock<HashMap<QueueName, KeyValue>>,
}

/// See [`Metrics::waits`].
pub struct Waits<'a> {
    duration: &'a TracedHistogram,
    label: [KeyValue; 1],
}

impl Waits<'_> {
    /// Of one job. `submit`: its `traceparent`.
    pub fn ended(&self, wait: Duration, submit: Option<&str>) {
        let trace = || TraceContext::parse(submit?, None);
        self.duration.record(wait.as_secs_f64(), &self.label, trace);
    }
}

impl Metrics {
    pub fn new(meter: &Meter) -> Self {
        use catalogue as c;
        Self {
            submitted: c::SUBMITTED.u64_counter(meter),
            settled: c::SETTLED.u64_counter(meter),
            wait: c::WAIT.traced_histogram(meter),
            retry_ratio: c::RETRY_RATIO.f64_gauge(meter),
            rejections: c::REJECTIONS.u64_counter(meter),
            leases_lost: c::LEASES_LOST.u64_counter(meter),
            stale_settles: c::STALE_SETTLES.u64_counter(meter),
            store_duration: c::STORE_DURATION.f64_histogram(meter),
            store_batch: c::STORE_BATCH.u64_histogram(meter),
            workers: c::WORKERS.u64_gauge(meter),
            circuit: c::CIRCUIT.u64_gauge(meter),
            durability: c::DURABILITY.u64_gauge(meter),
            jobs: c::JOBS.u64_gauge(meter),
            oldest_ready: c::OLDEST_READY.f64_gauge(meter),
            unreadable: c::UNREADABLE.u64_gauge(meter),
            cap: c::CAP.u64_gauge(meter),
            running: c::RUNNING.u64_gauge(meter),
            controller_connected: c::CONTROLLER_CONNECTED.u64_gauge(meter),
            controllers_refused: c::CONTROLLERS_REFUSED.u64_counter(meter),
            cap_writer: c::CAP_WRITER.u64_gauge(meter),
            sent: c::SENT.u64_counter(meter),
            consumed: c::CONSUMED.u64_counter(meter),
            operation: c::OPERATION.f64_histogram(meter),
            retries: Mutex::default(),
            clock: Monotonic::start(),
            window: Window::default(),
            queues: RwLock::default(),
        }
    }

    fn queue(&self, queue: &QueueName) -> KeyValue {
        if let Some(label) = self
            .queues
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(queue)
        {
            return label.clone();
        }
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        if queues.len() >= QUEUES_LABELLED_MAX {
            return KeyValue::new("queue", OTHER_QUEUES);
        }
        // Shared: an operation clones a pointer, and makes no text.
        let label = || KeyValue::new("queue", queue.shared());
        queues.entry(queue.clone()).or_insert_with(label).clone()
    }

    pub fn submitted(&self, queue: &QueueName, outcome: &'static str, count: u64) {
        self.submitted
            .add(count, &[self.queue(queue), KeyValue::new("outcome", outcome)]);
        if outcome == "created" {
            self.sent.add(count, &self.message("submit", queue));
            let submitted = Arrivals {
                submitted: count,
                ..Default::default()
            };
            self.window.arrived(queue, submitted);
        }
    }

    pub fn rejected(&self, queue: &QueueName, reason: &'static str, count: u64) {
        self.rejections
            .add(count, &[self.queue(queue), KeyValue::new("reason", reason)]);
        let is_gated = reason == reason::WAIT_TOO_LONG;
        let refused = Arrivals {
            refused: count,
            gated: if is_gated { count } else { 0 },
            ..Default::default()
        };
        self.window.arrived(queue, refused);
    }

    pub fn settled(&self, queue: &QueueName, outcome: OutcomeKind, count: u64) {
        let outcome = match outcome {
            OutcomeKind::Succeeded => "succeeded",
            OutcomeKind::Retry => "retry",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Invalid => "invalid",
            OutcomeKind::Released => "released",
            OutcomeKind::Throttled => "throttled",
        };
        self.settled
            .add(count, &[self.queue(queue), KeyValue::new("outcome", outcome)]);
        let mut retries = self.lock_retries();
        if !retries.contains_key(queue) && retries.len() < QUEUES_LABELLED_MAX {
            retries.insert(queue.clone(), Retries::default());
        }
        if let Some(retries) = retries.get_mut(queue) {
            retries.settled(self.clock.ms(), outcome == "retry", count);
        }
    }

    fn lock_retries(&self) -> MutexGuard<'_, HashMap<QueueName, Retries>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation on behalf of a producer or a worker, in seconds; a batch is one.
    pub fn operation(&self, operation: Operation, seconds: f64, error_type: Option<&'static str>) {
        let (name, kind) = match operation {
            Operation::Submit => ("submit", "send"),
            Operation::Lease => ("lease", "receive"),
            Operation::Settle => ("settle", "settle"),
        };
        let labels = [
            MESSAGING_SYSTEM,
            ("messaging.operation.name", name),
            ("messaging.operation.type", kind),
            ("error.type", error_type.unwrap_or_default()),
        ]
        .map(|(key, value)| KeyValue::new(key, value));
        let count = labels.len() - usize::from(error_type.is_none());
        self.operation.record(seconds, &labels[..count]);
    }

    fn message(&self, operation: &'static str, queue: &QueueName) -> [KeyValue; 3] {
        let (key, system) = MESSAGING_SYSTEM;
        [
            KeyValue::new(key, system),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.destination.name", self.queue(queue).value),
        ]
    }

    pub fn stale_settle(&self, queue: &QueueName) {
        self.stale_settles.add(1, &[self.queue(queue)]);
    }

    pub fn granted(&self, queue: &QueueName, jobs: u64) {
        self.consumed.add(jobs, &self.message("lease", queue));
    }

    /// For how long the queue's jobs waited.
    pub fn waits(&self, queue: &QueueName) -> Waits<'_> {
        Waits {
            duration: &self.wait,
            label: [self.queue(queue)],
        }
    }

    pub fn leases_lost(&self, queue: &QueueName, count: u64) {
        if count > 0 {
            self.leases_lost.add(count, &[self.queue(queue)]);
        }
    }

    pub fn store_call(&self, op: &'static str, items: usize, seconds: f64) {
        let label = [KeyValue::new("op", op)];
        self.store_duration.record(seconds, &label);
        self.store_batch.record(items as u64, &label);
        self.window.store_call(op, seconds);
    }

    pub fn controller_connected(&self, connected: bool) {
        self.controller_connected.record(u64::from(connected), &[]);
    }

    pub fn controller_refused(&self) {
        self.controllers_refused.add(1, &[]);
    }

    pub fn cap_writer(&self, writer: bool) {
        self.cap_writer.record(u64::from(writer), &[]);
    }

    pub fn workers_connected(&self, count: usize) {
        self.workers.record(count as u64, &[]);
    }

    pub fn durability(&self, now: &Durability) {
        for level in Durability::LEVELS {
            let labels = [KeyValue::new("level", level)];
            self.durability.record(u64::from(level == now.level()), &labels);
        }
    }

    pub fn circuit(&self, now: breaker::State) {
        for state in breaker::State::ALL {
            let labels = [
                KeyValue::new("scope", "store"),
                KeyValue::new("state", state.as_str()),
            ];
            self.circuit.record(u64::from(state == now), &labels);
        }
    }

    /// What the queues hold. Queues that share a label are summed first, because a gauge keeps only the last value.
    pub fn queue_stats(&self, all: &[QueueStats]) {
        let mut by_label: BTreeMap<String, (KeyValue, Totals)> = BTreeMap::new();
        for stats in all {
            let label = self.queue(&stats.queue);
            let totals = &mut by_label
                .entry(label.value.to_string())
                .or_insert_with(|| (label, Totals::default()))
                .1;
            totals.add(stats);
            if let Some(retries) = self.lock_retries().get(&stats.queue) {
                totals.retry_ratio = totals.retry_ratio.max(retries.ratio(self.clock.ms()));
            }
        }
        for (label, totals) in by_label.into_values() {
            self.record(label, &totals);
        }
    }

    fn record(&self, label: KeyValue, totals: &Totals) {
        for (state, count) in JobState::ALL.into_iter().zip(totals.jobs) {
            self.jobs
                .record(count, &[label.clone(), KeyValue::new("state", state.as_str())]);
        }
        let label = [label];
        self.retry_ratio.record(totals.retry_ratio, &label);
        self.oldest_ready
            .record(totals.oldest_ready_ms.unwrap_or(0) as f64 / 1_000.0, &label);
        self.unreadable.record(totals.unreadable, &label);
        self.running.record(totals.slots, &label);
        if let Some(cap) = totals.cap {
            self.cap.record(cap, &label);
        }
    }
}

#[derive(Default)]
struct Totals {
    jobs: [u64; JobState::ALL.len()],
    oldest_ready_ms: Option<u64>,
    slots: u64,
    unreadable: u64,
    cap: Option<u64>,
    /// Queues of one label: the worst of them.
    retry_ratio: f64,
}

impl Totals {
    fn add(&mut self, stats: &QueueStats) {
        let counts = [
            stats.scheduled,
            stats.ready,
            stats.running,
            stats.succeeded,
            stats.dead,
            stats.cancelled,
            stats.expired,
        ];
        self.jobs
            .iter_mut()
            .zip(counts)
            .for_each(|(sum, count)| *sum += count);
        self.oldest_ready_ms = [self.oldest_ready_ms, stats.oldest_ready_ms]
            .into_iter()
            .flatten()
            .min();
        self.slots += stats.slots;
        self.unreadable += stats.unreadable;
        let costs = stats.policy.costs_a_resource();
        if let Some((cap, _)) = CapRecord::effective(stats.cap.as_ref(), costs, stats.paused, stats.clock_ms)
        {
            self.cap = Some(self.cap.unwrap_or(0) + u64::from(cap));
        }
    }
}
