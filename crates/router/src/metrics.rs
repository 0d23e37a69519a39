//! The router's instruments, by the names of the conventions. Queue names come from callers, so the number of label
//! values is bounded: after [`QUEUES_LABELLED_MAX`] queues the rest count together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock},
    time::Duration,
};

use tidegate_chassis::telemetry::{Counter, Gauge, Histogram, KeyValue, Meter};
use tidegate_flow::breaker;
use tidegate_protocol::domain::{CapRecord, JobState, OutcomeKind, QueueName};
use tidegate_store::{Durability, QueueStats};

use crate::window::{Arrivals, Window};

/// Series per instrument and label set; each costs memory here and in Prometheus for as long as they live.
const QUEUES_LABELLED_MAX: usize = 500;
/// The label of queues beyond that. No queue can be named so.
const OTHER_QUEUES: &str = "(other)";

/// See the [module](self).
pub struct Metrics {
    submitted: Counter<u64>,
    settled: Counter<u64>,
    wait: Histogram<f64>,
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
    cap: Gauge<u64>,
    running: Gauge<u64>,
    controller_connected: Gauge<u64>,
    controllers_refused: Counter<u64>,
    cap_writer: Gauge<u64>,
    /// The same counts for the controller, which asks each second and by queue.
    pub window: Window,
    queues: RwLock<HashMap<QueueName, KeyValue>>,
}

impl Metrics {
    pub fn new(meter: &Meter) -> Self {
        let counter =
            |name: &'static str, text: &'static str| meter.u64_counter(name).with_description(text).build();
        let gauge =
            |name: &'static str, text: &'static str| meter.u64_gauge(name).with_description(text).build();
        let seconds = |name: &'static str, text: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .build()
        };
        Self {
            submitted: counter("tidegate_jobs_submitted", "Jobs answered by submit, by outcome"),
            settled: counter("tidegate_jobs_settled", "Settlements recorded, by outcome"),
            wait: seconds("tidegate_job_wait_duration", "From ready to leased"),
            rejections: counter(
                "tidegate_rejections",
                "Submits refused for the state of things, by reason",
            ),
            leases_lost: counter(
                "tidegate_leases_lost",
                "Leases taken back because their holder went silent",
            ),
            stale_settles: counter("tidegate_stale_settles", "Settlements refused for an old fence"),
            store_duration: seconds("tidegate_store_operation_duration", "Calls to the job store"),
            store_batch: meter
                .u64_histogram("tidegate_store_batch_size")
                .with_description("Items of one call to the job store")
                .with_boundaries(vec![
                    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0,
                ])
                .build(),
            workers: gauge("tidegate_workers_connected", "Worker streams of this router"),
            circuit: gauge("tidegate_circuit_state", "1 for the state that the circuit is in"),
            durability: gauge(
                "tidegate_store_durability",
                "1 for what an acknowledgement of the job store means now",
            ),
            jobs: gauge("tidegate_jobs", "Jobs kept, by state"),
            oldest_ready: meter
                .f64_gauge("tidegate_oldest_ready_job_timestamp")
                .with_unit("s")
                .with_description("Since when the oldest ready job has been ready; 0: there is none")
                .build(),
            cap: gauge(
                "tidegate_concurrency_cap",
                "Slots that the queue may use now; no series: unlimited",
            ),
            running: gauge(
                "tidegate_concurrency_running",
                "Slots in use, ghosts of lost leases included",
            ),
            controller_connected: gauge(
                "tidegate_controller_connected",
                "1 while a controller has taken this node in",
            ),
            controllers_refused: counter(
                "tidegate_controllers_refused",
                "Controllers of another leadership that this node refused",
            ),
            cap_writer: gauge("tidegate_cap_writer", "1 while this router writes the caps"),
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
        let label = || KeyValue::new("queue", queue.to_string());
        queues.entry(queue.clone()).or_insert_with(label).clone()
    }

    pub fn submitted(&self, queue: &QueueName, outcome: &'static str, count: u64) {
        self.submitted
            .add(count, &[self.queue(queue), KeyValue::new("outcome", outcome)]);
        if outcome == "created" {
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
        let refused = Arrivals {
            refused: count,
            ..Default::default()
        };
        self.window.arrived(queue, refused);
    }

    pub fn settled(&self, queue: &QueueName, outcome: OutcomeKind) {
        let outcome = match outcome {
            OutcomeKind::Succeeded => "succeeded",
            OutcomeKind::Retry => "retry",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Invalid => "invalid",
            OutcomeKind::Released => "released",
            OutcomeKind::Throttled => "throttled",
        };
        self.settled
            .add(1, &[self.queue(queue), KeyValue::new("outcome", outcome)]);
    }

    pub fn stale_settle(&self, queue: &QueueName) {
        self.stale_settles.add(1, &[self.queue(queue)]);
    }

    pub fn waited(&self, queue: &QueueName, waits: impl Iterator<Item = Duration>) {
        let label = [self.queue(queue)];
        waits.for_each(|wait| self.wait.record(wait.as_secs_f64(), &label));
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
        self.oldest_ready
            .record(totals.oldest_ready_ms.unwrap_or(0) as f64 / 1_000.0, &label);
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
    cap: Option<u64>,
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
        let costs = stats.policy.costs_a_resource();
        if let Some((cap, _)) = CapRecord::effective(stats.cap.as_ref(), costs, stats.paused, stats.clock_ms)
        {
            self.cap = Some(self.cap.unwrap_or(0) + u64::from(cap));
        }
    }
}
