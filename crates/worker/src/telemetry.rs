//! What operators see of a worker: how long jobs run, how full it is, and a span for each attempt.

use std::collections::HashMap;

use tidegate_chassis::metrics;
use tidegate_chassis::telemetry::{
    self, Counter, Gauge, Histogram, KeyValue, Meter, Metric, RpcClient, TracedHistogram,
    trace::{TraceContext, Work, WorkSpan, decide_as, is_on},
};
use tidegate_client::observe::{CallEnd, Observer};
use tidegate_flow::breaker::State;
use tidegate_protocol::domain::{FailureClass, Outcome, QueueName};
use tracing::Span;

use crate::{JobContext, Verdict, permits::Usage};

metrics! {
    RUN = Metric::duration(
        "tidegate_job_run_duration",
        &["queue", "outcome"],
        "How long an attempt ran",
    );
    LATENCY = Metric::duration(
        "tidegate_job_latency",
        &["queue"],
        "From submit to success, whatever waits and attempts it took; one submitted for later counts from its submit",
    );
    UTILIZATION = Metric::gauge(
        "tidegate_worker_utilization_ratio",
        &["queue"],
        "Jobs that run over the target of this worker, at the same moment; above 1: the target was lowered",
    );
    TARGET = Metric::gauge(
        "tidegate_concurrency_target",
        &["queue"],
        "Jobs of the queue that should run: at a worker its own, at a controller the sum over the workers",
    );
    RUNNING = Metric::gauge(
        "tidegate_concurrency_running",
        &["queue"],
        "Jobs that run: at a worker its own, elsewhere slots in use over the fleet, ghosts of lost leases included",
    );
    OVERDUE = Metric::gauge(
        "tidegate_jobs_overdue",
        &["queue"],
        "Handlers of the queue that go on after their cancel or timeout",
    );
    CIRCUIT = Metric::gauge(
        "tidegate_circuit_state",
        &["scope", "state"],
        "1 for the state that the circuit is in; scope: store, or the queue whose downstream it guards",
    );
    CONTROLLER_CONNECTED = Metric::gauge(
        "tidegate_controller_connected",
        &[],
        "1 while a controller has taken this node in",
    );
    CONTROLLERS_REFUSED = Metric::counter(
        "tidegate_controllers_refused",
        &[],
        "Controllers of another leadership that this node refused",
    );
    DELIVERIES = Metric::counter(
        "tidegate_deliveries",
        &["delivery", "result"],
        "Attempts handed to another program, by how it answered",
    );
    RESULTS_CUT = Metric::counter(
        "tidegate_delivery_results_cut",
        &["delivery"],
        "Answers longer than a result may be, cut at 64 KiB",
    );
    CALLBACKS = Metric::counter(
        "tidegate_callbacks",
        &["result"],
        "Completion calls of apps that answered 202, by what became of them",
    );
    PROCESS = Metric::duration(
        "messaging.process.duration",
        &["messaging.system", "messaging.operation.name", "messaging.destination.name", "error.type"],
        "How long an attempt ran, by OpenTelemetry's conventions",
    );
}

/// The instruments. Made after telemetry has started: earlier ones would record nothing.
#[derive(Debug, Clone)]
pub(crate) struct Instruments {
    run: TracedHistogram,
    latency: Histogram<f64>,
    process: Histogram<f64>,
    utilization: Gauge<f64>,
    target: Gauge<u64>,
    running: Gauge<u64>,
    overdue: Gauge<u64>,
    circuit: Gauge<u64>,
    controller_connected: Gauge<u64>,
    controllers_refused: Counter<u64>,
    rpc: RpcClient,
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            run: RUN.traced_histogram(meter),
            latency: LATENCY.f64_histogram(meter),
            process: PROCESS.f64_histogram(meter),
            utilization: UTILIZATION.f64_gauge(meter),
            target: TARGET.u64_gauge(meter),
            running: RUNNING.u64_gauge(meter),
            overdue: OVERDUE.u64_gauge(meter),
            circuit: CIRCUIT.u64_gauge(meter),
            controller_connected: CONTROLLER_CONNECTED.u64_gauge(meter),
            controllers_refused: CONTROLLERS_REFUSED.u64_counter(meter),
            rpc: RpcClient::new(meter),
        }
    }

    /// For the calls to routers and controllers.
    pub(crate) fn observer(&self) -> Observer {
        let rpc = self.rpc.clone();
        Observer::new(move |end: CallEnd| rpc.ended(end.method, end.code, end.took))
    }

    pub(crate) fn controller_connected(&self, connected: bool) {
        self.controller_connected.record(u64::from(connected), &[]);
    }

    pub(crate) fn controller_refused(&self) {
        self.controllers_refused.add(1, &[]);
    }

    /// `age_ms`: how old the job was when the attempt began. `trace`: of the attempt, where it is kept.
    pub(crate) fn ran(
        &self,
        context: &JobContext,
        verdict: Option<&Verdict>,
        seconds: f64,
        age_ms: u64,
        trace: Option<TraceContext>,
    ) {
        let queue = KeyValue::new("queue", context.queue().shared());
        let outcome = verdict.map_or("stopped", |verdict| outcome(&verdict.outcome));
        if outcome == "succeeded" {
            let latency_s = age_ms as f64 / 1_000.0 + seconds;
            self.latency.record(latency_s, std::slice::from_ref(&queue));
        }
        let name = queue.value.clone();
        self.run
            .record(seconds, &[queue, KeyValue::new("outcome", outcome)], || trace);
        let error_type = error_type(verdict);
        let labels = [
            KeyValue::new("messaging.system", "tidegate"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.destination.name", name),
            KeyValue::new("error.type", error_type.unwrap_or_default()),
        ];
        let count = labels.len() - usize::from(error_type.is_none());
        self.process.record(seconds, &labels[..count]);
    }

    /// All of one moment, so that they can be compared with each other. `overdue`: of those that have any.
    pub(crate) fn usage(
        &self,
        usage: impl Iterator<Item = Usage>,
        overdue: &HashMap<&QueueName, u32>,
        circuit: impl Fn(&QueueName) -> State,
    ) {
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
            let now = circuit(&queue);
            for state in State::ALL {
                let labels = [
                    KeyValue::new("scope", queue.to_string()),
                    KeyValue::new("state", state.as_str()),
                ];
                self.circuit.record(u64::from(state == now), &labels);
            }
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
            deliveries: DELIVERIES.u64_counter(&meter),
            results_cut: RESULTS_CUT.u64_counter(&meter),
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

/// One attempt, as operators see it.
#[derive(Debug)]
pub(crate) struct Traced {
    /// Its fields are in the log lines of the attempt. In a program with telemetry of its own, this is the span.
    pub(crate) log: Span,
    /// Where it is kept.
    span: Option<WorkSpan>,
    /// What the attempt's work, and what its handler traces, belongs to: itself where it is kept, else the submit, whose
    /// context is handed on as it came.
    pub(crate) within: Option<TraceContext>,
}

impl Traced {
    /// Begins the span of the attempt: linked to the submit's and not its child, because a job may run hours after its
    /// submit and many times.
    ///
    /// `previous_fence`: of the attempt before, 0 if there was none. Ids of attempts follow from job and fence, so it is all
    /// that is needed to link to that one.
    pub(crate) fn begin(context: &JobContext, previous_fence: u64) -> Self {
        let submit = context.traceparent();
        let submit = submit.and_then(|text| TraceContext::parse(text, context.tracestate()));
        if !is_on() {
            // Nobody keeps a span here; log lines name the producer's trace all the same.
            return Self {
                log: log_span_within(context, submit.as_ref()),
                span: None,
                within: submit,
            };
        }
        let job_id = context.job_id().text();
        let is_kept = submit.as_ref().map(TraceContext::is_sampled);
        let decided = decide_as(&job_id, context.fence(), is_kept);
        let Some(decided) = decided.clone().filter(TraceContext::is_sampled) else {
            // Without a submit's: what was decided, or the handler's spans would be decided about anew.
            let within = submit.or(decided);
            return Self {
                log: log_span_within(context, within.as_ref()),
                span: None,
                within,
            };
        };
        let previous = (previous_fence > 0).then(|| TraceContext::derived(&job_id, previous_fence, true));
        let span = Work::consumer(format!("process {}", context.queue()))
            .linked_to(submit.into_iter().chain(previous))
            .with("messaging.system", "tidegate")
            .with("messaging.operation.name", "process")
            .with("messaging.operation.type", "process")
            .with("messaging.destination.name", context.queue().shared())
            .with("messaging.message.id", job_id)
            .with("tidegate.attempt", i64::from(context.attempt()))
            .with(
                "tidegate.fence",
                i64::try_from(context.fence()).unwrap_or(i64::MAX),
            )
            .begin_as(&decided);
        Self {
            log: log_span_within(context, Some(&decided)),
            span,
            within: Some(decided),
        }
    }

    /// The attempt's own context, where it is kept.
    pub(crate) fn kept(&self) -> Option<TraceContext> {
        self.span.is_some().then(|| self.within.clone()).flatten()
    }

    /// Ends it.
    pub(crate) fn close(self, verdict: Option<&Verdict>) {
        let Some(error_type) = error_type(verdict) else {
            return;
        };
        self.log.record("otel.status_code", "ERROR");
        self.log.record("error.type", error_type);
        if let Some(mut span) = self.span {
            span.fail(error_type);
        }
    }
}

/// A span carries the context that it begins in to tasks that are started with it.
fn log_span_within(context: &JobContext, within: Option<&TraceContext>) -> Span {
    let _within = within.map(TraceContext::enter);
    log_span(context)
}

fn log_span(context: &JobContext) -> Span {
    let queue = context.queue().as_str();
    tracing::info_span!(
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
    )
}

/// The span of a message that settles jobs, a child of the first one's attempt and linked to the others'. It ends with
/// the last answer. `None`: none of these attempts is kept.
pub(crate) fn settle_span<'a>(
    attempts: impl Iterator<Item = &'a TraceContext>,
    queues: impl Iterator<Item = &'a QueueName>,
    count: usize,
) -> Option<WorkSpan> {
    let mut attempts = attempts.cloned();
    let first = attempts.next()?;
    let queue = common(queues);
    let name = queue.map_or_else(|| "settle".to_owned(), |queue| format!("settle {queue}"));
    let work = Work::client(name)
        .child_of(&first)
        .linked_to(attempts)
        .with("messaging.system", "tidegate")
        .with("messaging.operation.name", "settle")
        .with("messaging.operation.type", "settle")
        .with("messaging.batch.message_count", count as i64);
    match queue {
        Some(queue) => work.with("messaging.destination.name", queue.to_string()).begin(),
        None => work.begin(),
    }
}

/// The queue that all are of.
fn common<'a>(mut queues: impl Iterator<Item = &'a QueueName>) -> Option<&'a QueueName> {
    let first = queues.next()?;
    queues.all(|queue| queue == first).then_some(first)
}

fn error_type(verdict: Option<&Verdict>) -> Option<&'static str> {
    match verdict {
        None => Some("stopped"),
        Some(Verdict {
            outcome: Outcome::Succeeded { .. },
            ..
        }) => None,
        Some(Verdict { class, .. }) => Some(class.map_or("other", class_name)),
    }
}

/// The trace context to hand on: of the span at hand where it is kept, else the submitter's as it came.
pub(crate) fn handed_on(context: &JobContext) -> Option<(String, Option<String>)> {
    if let Some(kept) = TraceContext::current().filter(TraceContext::is_sampled) {
        return Some(kept.texts());
    }
    let parent = context.traceparent()?.to_owned();
    Some((parent, context.tracestate().map(str::to_owned)))
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
