//! From a point of a latency panel to the trace of a job.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_tests::{Answer, App, Collector, Prometheus, Sandbox, eventually};

use super::fleet::Fleet;
use crate::producer::submit_all;

const PATIENCE: Duration = Duration::from_secs(60);

/// A real Prometheus takes them in, and each leads to a span that a real collector has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_durations_lead_to_traces() {
    let collector = Collector::start();
    let app = App::start(|_| Answer::ok());
    let fleet = Fleet::start(&app, &collector.env()).await;
    let sandbox = Sandbox::new();
    let targets = [
        ("tidegate-router", fleet.router.metrics_url()),
        ("tidegate-worker", fleet.worker.metrics_url()),
    ];
    let prometheus = Prometheus::start(&sandbox, &targets).await;
    submit_all(&fleet.routers(), "email", 20).await;
    app.wait_for_answers(20, PATIENCE).await;
    for (series, span) in [
        ("tidegate_job_wait_duration_seconds_bucket", "submit email"),
        ("tidegate_job_run_duration_seconds_bucket", "process email"),
    ] {
        eventually(PATIENCE, format!("a trace behind {series}"), async || {
            let exemplars = prometheus.exemplars(series).await;
            let named = |name: &str| -> BTreeSet<String> {
                exemplars
                    .iter()
                    .filter_map(|labels| labels.get(name).cloned())
                    .collect()
            };
            let (traces, spans) = (named("trace_id"), named("span_id"));
            let known = collector.spans();
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let leads = known.iter().any(|received| {
                received.span.name == span
                    && traces.contains(&hex(&received.span.trace_id))
                    && spans.contains(&hex(&received.span.span_id))
            });
            leads.then_some(())
        })
        .await;
    }
}
