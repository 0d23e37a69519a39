//! What operators see of a worker: how long jobs run, how full it is, and a span for each attempt.

use std::collections::HashMap;

use tidegate_chassis::telemetry::{
    self, Counter, Gauge, Histogram, KeyValue, Meter, link_remote, trace::traceparent_of,
};
use tidegate_protocol::domain::{FailureClass, Outcome, QueueName};
use tracing::Span;

use crate::{JobContext, Verdict, permits::Usage};

/// The instruments. Made after telemetry has started: earlier ones would record nothing.
#[derive(Debug, Clone)]
pub(crate) struct Instruments {
    run: Histogram<f64>,
    utilization: Gauge<f64>,
    target: Gauge<u64>,
    running: Gauge<u64>,
    overdue: Gauge<u64>,
    controller_connected: Gauge<u64>,
    controllers_refused: Counter<u64>,
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            run: meter
                .f64_histogram("tidegate_job_run_duration")
                .with_unit("s")
                .with_description("How long an attempt ran, by queue and outcome")
                .build(),
            utilization: meter
                .f64_gauge("tidegate_worker_utilization_ratio")
                .with_description("Running jobs over the target of this worker, by queue")
                .build(),
            target: meter
                .u64_gauge("tidegate_concurrency_target")
                .with_description("How many jobs of the queue may run on this worker")
                .build(),
            running: meter
                .u64_gauge("tidegate_concurrency_running")
                .with_description("Jobs of the queue that run on this worker")
                .build(),
            overdue: meter
                .u64_gauge("tidegate_jobs_overdue")
                .with_description("Handlers of the queue that go on after their cancel or timeout")
                .build(),
            controller_connected: meter
                .u64_gauge("tidegate_controller_connected")
                .with_description("1 while a controller has taken this node in")
                .build(),
            controllers_refused: meter
                .u64_counter("tidegate_controllers_refused")
                .with_description("Controllers of another leadership that this node refused")
                .build(),
        }
    }

    pub(crate) fn controller_connected(&self, connected: bool) {
        self.controller_connected.record(u64::from(connected), &[]);
    }

    pub(crate) fn controller_refused(&self) {
        self.controllers_refused.add(1, &[]);
    }

    pub(crate) fn ran(&self, context: &JobContext, verdict: Option<&Verdict>, seconds: f64) {
        let labels = [
            KeyValue::new("queue", context.queue().to_string()),
            KeyValue::new(
                "outcome",
                verdict.map_or("stopped", |verdict| outcome(&verdict.outcome)),
            ),
        ];
        self.run.record(seconds, &labels);
    }

    /// `overdue`: of those that have any.
    pub(crate) fn usage(&self, usage: impl Iterator<Item = Usage>, overdue: &HashMap<&QueueName, u32>) {
        for Usage {
            queue,
            target,
            in_use,
        } in usage
        {
            let labels = [KeyValue::new("queue", queue.to_string())];
            // A target of 0 with jobs that still run is more than full.
            self.utilization
                .record(f64::from(in_use) / f64::from(target.max(1)), &labels);
            self.target.record(u64::from(target), &labels);
            self.running.record(u64::from(in_use), &labels);
            let overdue = overdue.get(&queue).copied().unwrap_or_default();
            self.overdue.record(u64::from(overdue), &labels);
        }
    }
}

/// What becomes of deliveries to other programs.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryCounters {
    /// The label `delivery`: "http" or "exec".
    delivery: &'static str,
    deliveries: Counter<u64>,
    results_cut: Counter<u64>,
}

impl DeliveryCounters {
    /// Without a meter: the process's.
    pub(crate) fn new(meter: Option<Meter>, delivery: &'static str) -> Self {
        let meter = meter.unwrap_or_else(telemetry::meter);
        Self {
            delivery,
            deliveries: meter
                .u64_counter("tidegate_deliveries")
                .with_description("Attempts handed to another program, by how it answered")
                .build(),
            results_cut: meter
                .u64_counter("tidegate_delivery_results_cut")
                .with_description("Answers longer than a result may be, cut at 64 KiB")
                .build(),
        }
    }

    /// `result` is one of a fixed few words.
    pub(crate) fn ended(&self, result: &'static str) {
        let labels = [
            KeyValue::new("delivery", self.delivery),
            KeyValue::new("result", result),
        ];
        self.deliveries.add(1, &labels);
    }

    pub(crate) fn cut(&self) {
        self.results_cut
            .add(1, &[KeyValue::new("delivery", self.delivery)]);
    }
}

/// The span of one attempt: linked to the submit's and not its child, because a job may run hours after its submit and
/// many times.
pub(crate) fn process_span(context: &JobContext) -> Span {
    let queue = context.queue().as_str();
    let span = tracing::info_span!(
        "process",
        otel.name = format!("process {queue}"),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        messaging.system = "tidegate",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = queue,
        messaging.message.id = %context.job_id(),
        tidegate.attempt = context.attempt(),
        tidegate.fence = context.fence(),
        error.type = tracing::field::Empty,
    );
    if let Some(traceparent) = context.traceparent() {
        link_remote(&span, traceparent, context.tracestate());
    }
    span
}

pub(crate) fn close_span(span: &Span, verdict: Option<&Verdict>) {
    let error_type = match verdict {
        None => "stopped",
        Some(Verdict {
            outcome: Outcome::Succeeded { .. },
            ..
        }) => return,
        Some(Verdict { class, .. }) => class.map_or("other", class_name),
    };
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error_type);
}

/// The trace context to hand on: of the span at hand, or the submitter's where tracing is off.
pub(crate) fn handed_on(context: &JobContext) -> Option<(String, Option<String>)> {
    let submitted = || {
        Some((
            context.traceparent()?.to_owned(),
            context.tracestate().map(str::to_owned),
        ))
    };
    traceparent_of(&Span::current()).or_else(submitted)
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded { .. } => "succeeded",
        Outcome::Retry { .. } => "retry",
        Outcome::Failed { .. } => "failed",
        Outcome::Invalid { .. } => "invalid",
        Outcome::Released { .. } => "released",
        Outcome::Throttled { .. } => "throttled",
    }
}

fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Overload => "overload",
        FailureClass::Down => "down",
        FailureClass::Error => "error",
        FailureClass::Job => "job",
    }
}
