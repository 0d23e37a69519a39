//! The controller's instruments, by the names of the conventions.

use std::collections::BTreeSet;

use tidegate_chassis::metrics;
use tidegate_chassis::telemetry::{Counter, Gauge, Histogram, KeyValue, Meter, Metric};

use crate::{
    core::{
        FleetView, Trust,
        model::{Decision, Role},
    },
    ledger::Condition,
};

/// Series per instrument: queue names come from callers, and each series costs memory for as long as the process lives.
const QUEUES_LABELLED_MAX: usize = 500;
/// The label of queues beyond that. No queue can be named so.
const OTHER_QUEUES: &str = "(other)";

/// A turn is to stay within 20 ms: see which of them do.
const TICK_BUCKETS_S: [f64; 12] = [
    0.001, 0.002_5, 0.005, 0.007_5, 0.01, 0.012_5, 0.015, 0.017_5, 0.02, 0.025, 0.05, 0.1,
];

metrics! {
    TARGET = Metric::gauge(
        "tidegate_concurrency_target",
        &["queue"],
        "Jobs of the queue that should run: at a worker its own, at a controller the sum over the workers",
    );
    WANTED = Metric::gauge(
        "tidegate_concurrency_wanted",
        &["queue"],
        "Jobs of the queue that should run if the fleet had the slots",
    );
    CAP = Metric::gauge(
        "tidegate_concurrency_cap",
        &["queue"],
        "Jobs of the queue that may run over the fleet; no series: unlimited",
    );
    LIMIT = Metric::gauge("tidegate_concurrency_limit", &["queue"], "Ceiling of the policy");
    RUNNING = Metric::gauge(
        "tidegate_concurrency_running",
        &["queue"],
        "Jobs that run: at a worker its own, elsewhere slots in use over the fleet, ghosts of lost leases included",
    );
    INPUT = Metric::gauge(
        "tidegate_control_input",
        &["queue", "signal"],
        "The numbers that the queue's last decision rests on",
    );
    DECISIONS = Metric::counter(
        "tidegate_control_decisions",
        &["queue", "reason"],
        "Changes of cap or target",
    );
    LAST_TICK = Metric::timestamp(
        "tidegate_control_last_tick_timestamp",
        &[],
        "When the loop last turned",
    );
    TICK = Metric::duration_in(
        "tidegate_control_tick_duration",
        &TICK_BUCKETS_S,
        &[],
        "A turn of the loop, with everything that it sends",
    );
    IN_USE = Metric::gauge(
        "tidegate_resource_in_use",
        &["resource", "by"],
        "Units in use: by jobs, and by all where that is measured",
    );
    BUDGET = Metric::gauge("tidegate_resource_budget", &["resource"], "Units that jobs may use");
    PROBE = Metric::gauge(
        "tidegate_resource_probe_state",
        &["resource", "state"],
        "1 for how far the probe of a resource is believed: waiting, good, held, distrusted",
    );
    WORKERS = Metric::gauge(
        "tidegate_workers_connected",
        &[],
        "Workers connected to this service",
    );
    DESIRED_SLOTS = Metric::gauge(
        "tidegate_desired_slots",
        &[],
        "Slots that the queues want together: what a fleet should grow to",
    );
    REFUSALS = Metric::gauge(
        "tidegate_control_refusals",
        &[],
        "Times that a node obeyed another controller, since the start",
    );
    DROPPED = Metric::counter(
        "tidegate_control_nodes_dropped",
        &[],
        "Streams that were closed because they were not read",
    );
    LEADING = Metric::gauge(
        "tidegate_control_leading",
        &[],
        "1: this controller leads and is obeyed",
    );
    LEDGER_UP = Metric::gauge("tidegate_ledger_up", &[], "1: what is to be kept is written");
    LEDGER_WAITING = Metric::gauge(
        "tidegate_ledger_waiting_records",
        &[],
        "Records that wait to be written to the ledger",
    );
    LEDGER_DROPPED = Metric::gauge(
        "tidegate_ledger_dropped_records",
        &[],
        "Records lost because too many waited, since the start",
    );
}

/// See the [module](self). Used by the owner alone.
pub struct Metrics {
    target: Gauge<u64>,
    wanted: Gauge<u64>,
    cap: Gauge<u64>,
    limit: Gauge<u64>,
    running: Gauge<u64>,
    input: Gauge<f64>,
    decisions: Counter<u64>,
    last_tick: Gauge<f64>,
    tick: Histogram<f64>,
    in_use: Gauge<u64>,
    budget: Gauge<u64>,
    probe: Gauge<u64>,
    workers: Gauge<u64>,
    desired_slots: Gauge<u64>,
    refusals: Gauge<u64>,
    dropped: Counter<u64>,
    leading: Gauge<u64>,
    ledger_up: Gauge<u64>,
    ledger_waiting: Gauge<u64>,
    ledger_dropped: Gauge<u64>,
    labelled: BTreeSet<String>,
}

impl Metrics {
    pub fn new(meter: &Meter) -> Self {
        Self {
            target: TARGET.u64_gauge(meter),
            wanted: WANTED.u64_gauge(meter),
            cap: CAP.u64_gauge(meter),
            limit: LIMIT.u64_gauge(meter),
            running: RUNNING.u64_gauge(meter),
            input: INPUT.f64_gauge(meter),
            decisions: DECISIONS.u64_counter(meter),
            last_tick: LAST_TICK.f64_gauge(meter),
            tick: TICK.f64_histogram(meter),
            in_use: IN_USE.u64_gauge(meter),
            budget: BUDGET.u64_gauge(meter),
            probe: PROBE.u64_gauge(meter),
            workers: WORKERS.u64_gauge(meter),
            desired_slots: DESIRED_SLOTS.u64_gauge(meter),
            refusals: REFUSALS.u64_gauge(meter),
            dropped: DROPPED.u64_counter(meter),
            leading: LEADING.u64_gauge(meter),
            ledger_up: LEDGER_UP.u64_gauge(meter),
            ledger_waiting: LEDGER_WAITING.u64_gauge(meter),
            ledger_dropped: LEDGER_DROPPED.u64_gauge(meter),
            labelled: BTreeSet::new(),
        }
    }

    fn queue(&mut self, queue: &str) -> KeyValue {
        if self.labelled.contains(queue) || self.labelled.len() < QUEUES_LABELLED_MAX {
            self.labelled.insert(queue.to_owned());
            return KeyValue::new("queue", queue.to_owned());
        }
        KeyValue::new("queue", OTHER_QUEUES)
    }

    pub fn decided(&mut self, decision: &Decision) {
        let queue = self.queue(decision.queue.as_str());
        self.decisions
            .add(1, &[queue, KeyValue::new("reason", decision.reason.as_str())]);
    }

    pub fn dropped(&self) {
        self.dropped.add(1, &[]);
    }

    pub fn ticked(&self, seconds: f64) {
        self.tick.record(seconds, &[]);
    }

    pub fn show_ledger(&self, condition: &Condition) {
        self.ledger_up.record(u64::from(condition.error.is_empty()), &[]);
        self.ledger_waiting.record(condition.waiting as u64, &[]);
        self.ledger_dropped.record(condition.dropped, &[]);
    }

    /// After a tick.
    pub fn show(&mut self, fleet: &FleetView, wall_ms: u64) {
        self.last_tick.record(wall_ms as f64 / 1_000.0, &[]);
        self.refusals.record(fleet.refusals, &[]);
        self.leading
            .record(u64::from(fleet.standby_reason.is_empty()), &[]);
        let workers = fleet
            .nodes
            .iter()
            .filter(|node| node.role == Role::Worker && !node.is_silent);
        self.workers.record(workers.count() as u64, &[]);
        let wanted = fleet.queues.iter().map(|queue| u64::from(queue.wanted)).sum();
        self.desired_slots.record(wanted, &[]);
        for queue in &fleet.queues {
            let label = self.queue(queue.queue.as_str());
            let labels = [label.clone()];
            self.target.record(queue.target.into(), &labels);
            self.wanted.record(queue.wanted.into(), &labels);
            self.cap.record(queue.cap.into(), &labels);
            self.limit.record(queue.max.into(), &labels);
            self.running.record(queue.running, &labels);
            for (signal, value) in queue.newest.iter().flat_map(|newest| &newest.inputs) {
                self.input
                    .record(*value, &[label.clone(), KeyValue::new("signal", *signal)]);
            }
        }
        for resource in &fleet.resources {
            let name = KeyValue::new("resource", resource.resource.clone());
            self.budget.record(resource.budget, std::slice::from_ref(&name));
            self.in_use
                .record(resource.in_use, &[name.clone(), KeyValue::new("by", "jobs")]);
            for (by, units) in [
                ("all", resource.probe.measured),
                ("others", resource.probe.others),
            ] {
                if let Some(units) = units {
                    self.in_use
                        .record(units.round() as u64, &[name.clone(), KeyValue::new("by", by)]);
                }
            }
            if let Some(trust) = resource.probe.trust {
                for state in Trust::ALL {
                    let labels = [name.clone(), KeyValue::new("state", state.as_str())];
                    self.probe.record(u64::from(state == trust), &labels);
                }
            }
        }
    }
}
