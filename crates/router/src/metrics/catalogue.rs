//! Every metric of a router.

use tidegate_chassis::{metrics, telemetry::Metric};

const BATCH_BOUNDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];

metrics! {
    SUBMITTED = Metric::counter(
        "tidegate_jobs_submitted",
        &["queue", "outcome"],
        "Jobs answered by submit: created, duplicate, refused, failed",
    );
    SETTLED = Metric::counter(
        "tidegate_jobs_settled",
        &["queue", "outcome"],
        "Settlements recorded: succeeded, retry, failed, invalid, released, throttled",
    );
    WAIT = Metric::duration("tidegate_job_wait_duration", &["queue"], "From ready to leased");
    RETRY_RATIO = Metric::gauge(
        "tidegate_retry_ratio",
        &["queue"],
        "Share of the attempts settled in the last minute that ended in a retry; 0: none was settled",
    );
    REJECTIONS = Metric::counter(
        "tidegate_rejections",
        &["queue", "reason"],
        "Submits refused for the state of things",
    );
    LEASES_LOST = Metric::counter(
        "tidegate_leases_lost",
        &["queue"],
        "Leases taken back because their holder went silent",
    );
    STALE_SETTLES = Metric::counter(
        "tidegate_stale_settles",
        &["queue"],
        "Settlements refused for an old fence",
    );
    UNREADABLE = Metric::gauge(
        "tidegate_jobs_unreadable",
        &["queue"],
        "Dead jobs that were set aside because what is stored of them cannot be read",
    );
    STORE_DURATION = Metric::duration(
        "tidegate_store_operation_duration",
        &["op"],
        "Calls to the job store",
    );
    STORE_BATCH = Metric::sizes(
        "tidegate_store_batch_size",
        BATCH_BOUNDS,
        &["op"],
        "Items of one call to the job store",
    );
    WORKERS = Metric::gauge(
        "tidegate_workers_connected",
        &[],
        "Workers connected to this service",
    );
    CIRCUIT = Metric::gauge(
        "tidegate_circuit_state",
        &["scope", "state"],
        "1 for the state that the circuit is in; scope: store, or the queue whose downstream it guards",
    );
    DURABILITY = Metric::gauge(
        "tidegate_store_durability",
        &["level"],
        "1 for what an acknowledgement of the job store means now",
    );
    JOBS = Metric::gauge("tidegate_jobs", &["queue", "state"], "Jobs kept, by state");
    OLDEST_READY = Metric::timestamp(
        "tidegate_oldest_ready_job_timestamp",
        &["queue"],
        "Since when the oldest ready job has been ready; 0: there is none",
    );
    CAP = Metric::gauge(
        "tidegate_concurrency_cap",
        &["queue"],
        "Jobs of the queue that may run over the fleet; no series: unlimited",
    );
    RUNNING = Metric::gauge(
        "tidegate_concurrency_running",
        &["queue"],
        "Jobs that run: at a worker its own, elsewhere slots in use over the fleet, ghosts of lost leases included",
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
    CAP_WRITER = Metric::gauge("tidegate_cap_writer", &[], "1 while this router writes the caps");
    SENT = Metric::counter(
        "messaging.client.sent.messages",
        &["messaging.system", "messaging.operation.name", "messaging.destination.name"],
        "Jobs entered",
    );
    CONSUMED = Metric::counter(
        "messaging.client.consumed.messages",
        &["messaging.system", "messaging.operation.name", "messaging.destination.name"],
        "Jobs handed to workers",
    );
    OPERATION = Metric::duration(
        "messaging.client.operation.duration",
        &["messaging.system", "messaging.operation.name", "messaging.operation.type", "error.type"],
        "Submits, leases and settlements as the router carries them out; a batch counts once",
    );
}
