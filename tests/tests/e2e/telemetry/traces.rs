//! A job's story as a collector gets it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tidegate_tests::{
    Answer, App, Collector, Controller, ControllerOptions, Prometheus, Received, Redis, RedisOptions, Router,
    RouterOptions, Sandbox, WorkerOptions, WorkerProc, eventually, golden,
};

use super::story;
use crate::producer::{new_job, queue_stats, submit_all, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);
const SOON_AGAIN: &str = "[queues.email.retry]\nbackoff_base = \"50ms\"\nbackoff_max = \"50ms\"\n";

pub(super) async fn router(sandbox: &Sandbox, store: &str, env: &[(String, String)]) -> Router {
    let options = RouterOptions {
        policies: Some(SOON_AGAIN.to_owned()),
        env: env.to_vec(),
        ..RouterOptions::default()
    };
    Router::start(sandbox, store, options).await
}

pub(super) async fn worker(
    sandbox: &Sandbox,
    router: &Router,
    app: &App,
    env: &[(String, String)],
) -> WorkerProc {
    let options = WorkerOptions {
        env: env.to_vec(),
        ..WorkerOptions::default()
    };
    WorkerProc::start(sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await
}

pub(super) fn named<'a>(spans: &'a [Received], name: &str) -> Vec<&'a Received> {
    spans
        .iter()
        .filter(|received| received.span.name == name)
        .collect()
}

/// A job that fails once: every step of it, in both attempts, and how they hang together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_of_a_retried_job() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|delivery| match delivery.attempt {
        1 => Answer::status(500),
        _ => Answer::ok(),
    });
    let router = router(&sandbox, &redis.url(), &collector.env()).await;
    let _worker = worker(&sandbox, &router, &app, &collector.env()).await;
    let mut job = new_job("email", "{}".to_owned());
    job.headers.insert("baggage".to_owned(), "user=ada".to_owned());
    try_batch(router.grpc_url(), &[job]).await.expect("taken");
    let deliveries = app.wait_for_answers(2, PATIENCE).await;
    let settled = |spans: &[Received]| {
        named(spans, "store settle").len() == 2 && named(spans, "settle email").len() == 2
    };
    let spans = collector
        .wait_for(PATIENCE, "both attempts settled", settled)
        .await;
    golden::check("tests/e2e/telemetry/retried_job.txt", &story::tell(&spans));

    // What the app is told is the attempt's own span.
    for (delivery, process) in deliveries.iter().zip(attempts(&spans)) {
        let traceparent = delivery.header("traceparent").expect("it came");
        assert!(
            traceparent.contains(&hex(&process.span.trace_id)),
            "{traceparent}"
        );
        assert!(traceparent.contains(&hex(&process.span.span_id)), "{traceparent}");
    }
    let resource = &spans[0].resource;
    for key in ["service.instance.id", "service.version"] {
        assert!(resource.contains_key(key), "{resource:?}");
    }
}

pub(super) fn attempts(spans: &[Received]) -> Vec<&Received> {
    let mut attempts = named(spans, "process email");
    attempts.sort_by_key(|received| received.attribute("tidegate.attempt"));
    attempts
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A producer with a trace of its own: the submit is its child, and its decision what to keep is everybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_producer_decides_holds_for_all_attempts() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let app = App::start(|delivery| match delivery.attempt {
        1 => Answer::status(500),
        _ => Answer::ok(),
    });
    let router = router(&sandbox, "memory:", &collector.env()).await;
    let _worker = worker(&sandbox, &router, &app, &collector.env()).await;
    let with = |traceparent: &str| {
        let mut job = new_job("email", "{}".to_owned());
        job.traceparent = traceparent.to_owned();
        job
    };
    let kept = "00-11111111111111111111111111111111-2222222222222222-01";
    let dropped = "00-33333333333333333333333333333333-4444444444444444-00";
    for traceparent in [kept, dropped] {
        try_batch(router.grpc_url(), &[with(traceparent)])
            .await
            .expect("taken");
    }
    app.wait_for_answers(4, PATIENCE).await;
    let done = |spans: &[Received]| named(spans, "settle email").len() >= 2 && attempts(spans).len() >= 2;
    let spans = collector.wait_for(PATIENCE, "two attempts", done).await;
    let attempts = attempts(&spans);
    assert_eq!(attempts.len(), 2, "those of one job");
    for attempt in attempts {
        assert!(
            attempt
                .span
                .links
                .iter()
                .any(|link| hex(&link.span_id) == "2222222222222222")
        );
    }
}

/// The loop: a tick, and in it what was decided with its reason and its numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_holds_its_decisions_with_reason_and_numbers() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let controller = Controller::start(
        &sandbox,
        ControllerOptions {
            policies: Some("[queues.email]\nmax = 8\n".to_owned()),
            config: Some("[controller]\ntick = \"200ms\"\n".to_owned()),
            env: collector.env(),
            ..ControllerOptions::default()
        },
    )
    .await;
    let options = RouterOptions {
        args: vec!["--controller".to_owned(), controller.grpc_url()],
        ..RouterOptions::default()
    };
    let router = Router::start(&sandbox, "memory:", options).await;
    submit_all(&[router.grpc_url()], "email", 1).await;
    let decided = |spans: &[Received]| {
        let decisions = named(spans, "decide email");
        decisions
            .iter()
            .any(|decision| !decision.span.parent_span_id.is_empty())
    };
    let spans = collector
        .wait_for(PATIENCE, "a decision in a tick", decided)
        .await;
    let decision = named(&spans, "decide email")
        .into_iter()
        .find(|decision| !decision.span.parent_span_id.is_empty())
        .expect("waited for");
    let parent = spans
        .iter()
        .find(|other| other.span.span_id == decision.span.parent_span_id);
    let tick = parent.expect("exported in the same batch");
    assert_eq!(
        (tick.span.name.as_str(), tick.service.as_str()),
        ("tick", "tidegate-controller")
    );
    assert_eq!(tick.attribute("tidegate.routers").as_deref(), Some("1"));
    for key in [
        "tidegate.reason",
        "tidegate.cap",
        "tidegate.wanted",
        "tidegate.generation",
    ] {
        assert!(
            decision.attribute(key).is_some_and(|value| !value.is_empty()),
            "{key}: {decision:?}"
        );
    }
    let attributes = tidegate_tests::attributes(&decision.span.attributes);
    assert!(
        attributes.keys().any(|key| key.starts_with("tidegate.input.")),
        "{attributes:?}"
    );
}

/// A collector that is slow and then killed with the Prometheus beside it costs the jobs nothing; what it costs in spans is
/// counted. What jobs feel of it is measured by `cargo xtask bench telemetry-killed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_collector_costs_spans_and_no_job() {
    const JOBS: usize = 400;
    let sandbox = Sandbox::new();
    let mut collector = Collector::start_slow(Duration::from_secs(2));
    let app = App::start(|_| Answer::ok());
    let mut env = collector.env();
    env.push((
        "OTEL_TRACES_SAMPLER".to_owned(),
        "parentbased_always_on".to_owned(),
    ));
    env.push(("OTEL_BSP_MAX_QUEUE_SIZE".to_owned(), "64".to_owned()));
    env.push(("OTEL_BSP_MAX_EXPORT_BATCH_SIZE".to_owned(), "16".to_owned()));
    env.push(("OTEL_EXPORTER_OTLP_TIMEOUT".to_owned(), "500".to_owned()));
    let router = router(&sandbox, "memory:", &env).await;
    let worker = worker(&sandbox, &router, &app, &env).await;
    let targets = [
        ("tidegate-router", router.metrics_url()),
        ("tidegate-worker", worker.metrics_url()),
    ];
    let prometheus = Prometheus::start(&sandbox, &targets).await;
    prometheus.wait_for_targets(targets.len()).await;
    submit_all(&[router.grpc_url()], "email", JOBS / 2).await;
    collector.close();
    prometheus.process.kill9();
    submit_all(&[router.grpc_url()], "email", JOBS / 2).await;
    app.wait_for_answers(JOBS, PATIENCE).await;
    let ids: BTreeSet<String> = app
        .deliveries()
        .into_iter()
        .map(|delivery| delivery.job_id)
        .collect();
    assert_eq!((ids.len(), app.deliveries().len()), (JOBS, JOBS), "each once");
    eventually(PATIENCE, "all succeeded", async || {
        let queue = queue_stats(&router.grpc_url(), "email").await?;
        (queue.succeeded_total == JOBS as u64).then_some(())
    })
    .await;
    let lost = eventually(PATIENCE, "lost spans are counted", async || {
        let text = worker.metrics().await;
        let count = |outcome: &str| {
            let line = format!("tidegate_telemetry_spans_total{{outcome=\"{outcome}\"}} ");
            let count = text
                .lines()
                .find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok());
            count.unwrap_or(0)
        };
        let lost = count("queue_full") + count("export_failed");
        (lost >= JOBS as u64 / 2).then_some(lost)
    })
    .await;
    assert!(lost <= 3 * JOBS as u64, "{lost}");
    // And a stop does not wait for it.
    let stop = Instant::now();
    worker.process.sigterm();
    assert_eq!(worker.process.wait_exit(PATIENCE).await, 0);
    assert!(stop.elapsed() < Duration::from_secs(15), "{:?}", stop.elapsed());
}
