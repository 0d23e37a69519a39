//! Which jobs have traces: what a producer decides holds for everybody, and where nobody decides a busy router keeps some.

use std::time::{Duration, Instant};

use tidegate_protocol::v1::{SubmitJobRequest, job_service_client::JobServiceClient};
use tidegate_tests::{Answer, App, Collector, Sandbox, eventually};
use tonic::Request;

use super::traces::{attempts, hex, named, router, worker};
use crate::producer::{new_job, queue_stats, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);
const KEPT: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const DROPPED: &str = "00-33333333333333333333333333333333-4444444444444444-00";

/// The value of a series on a page of metrics.
fn value(page: &str, series: &str) -> u64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}

pub(super) async fn all_done(router: &str, jobs: u64) {
    eventually(PATIENCE, "all succeeded", async || {
        let queue = queue_stats(router, "email").await?;
        (queue.succeeded_total == jobs).then_some(())
    })
    .await;
}

/// Whichever way it says so: with the job, or as the caller. Two attempts each, and metrics know of all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_is_not_sampled_gets_no_span_of_any_attempt() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let app = App::start(|delivery| match delivery.attempt {
        1 => Answer::status(500),
        _ => Answer::ok(),
    });
    let router = router(&sandbox, "memory:", &collector.env()).await;
    let worker = worker(&sandbox, &router, &app, &collector.env()).await;
    let with = |traceparent: &str| {
        let mut job = new_job("email", "{}".to_owned());
        job.traceparent = traceparent.to_owned();
        job
    };
    try_batch(router.grpc_url(), &[with(DROPPED)])
        .await
        .expect("taken");
    let mut client = JobServiceClient::connect(router.grpc_url())
        .await
        .expect("it listens");
    let mut request = Request::new(SubmitJobRequest {
        job: Some(new_job("email", "{}".to_owned())),
    });
    let caller = DROPPED.parse().expect("ASCII");
    request.metadata_mut().insert("traceparent", caller);
    client.submit_job(request).await.expect("taken");
    all_done(&router.grpc_url(), 2).await;
    for delivery in app.deliveries() {
        let traceparent = delivery.header("traceparent").expect("it came");
        assert!(traceparent.starts_with(&DROPPED[..35]), "{traceparent}");
        assert!(traceparent.ends_with("-00"), "{traceparent}");
    }

    // Spans of a job that came after them: theirs would be there too by now.
    let kept = try_batch(router.grpc_url(), &[with(KEPT)]).await.expect("taken");
    let settled = |spans: &[tidegate_tests::Received]| {
        named(spans, "store settle").len() == 2 && named(spans, "settle email").len() == 2
    };
    let spans = collector
        .wait_for(PATIENCE, "two attempts settled", settled)
        .await;
    assert_eq!(named(&spans, "submit email").len(), 1);
    assert_eq!(named(&spans, "lease email").len(), 2);
    assert_eq!(named(&spans, "store lease").len(), 2);
    let attempts = attempts(&spans);
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        assert_eq!(attempt.attribute("messaging.message.id").as_ref(), Some(&kept[0]));
    }
    let page = router.metrics().await;
    for (series, count) in [
        (
            r#"tidegate_jobs_submitted_total{outcome="created",queue="email"}"#,
            3,
        ),
        (r#"tidegate_jobs_settled_total{outcome="retry",queue="email"}"#, 3),
        (
            r#"tidegate_jobs_settled_total{outcome="succeeded",queue="email"}"#,
            3,
        ),
        (r#"tidegate_job_wait_duration_seconds_count{queue="email"}"#, 6),
    ] {
        assert_eq!(value(&page, series), count, "{series} in\n{page}");
    }
    let page = worker.metrics().await;
    for outcome in ["retry", "succeeded"] {
        let series =
            format!(r#"tidegate_job_run_duration_seconds_count{{outcome="{outcome}",queue="email"}}"#);
        assert_eq!(value(&page, &series), 3, "{series} in\n{page}");
    }
}

/// The trace of a job is whole or it is not there, and there are as many as the limit says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_router_keeps_some_jobs_whole() {
    const JOBS: usize = 200;
    const PER_SECOND: usize = 5;
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let app = App::start(|_| Answer::ok());
    let mut env = collector.env();
    env.push((
        "OTEL_TRACES_SAMPLER".to_owned(),
        "parentbased_ratelimited".to_owned(),
    ));
    env.push(("OTEL_TRACES_SAMPLER_ARG".to_owned(), PER_SECOND.to_string()));
    let router = router(&sandbox, "memory:", &env).await;
    let worker = worker(&sandbox, &router, &app, &env).await;
    let began = Instant::now();
    for _ in 0..JOBS {
        let job = new_job("email", "{}".to_owned());
        try_batch(router.grpc_url(), &[job]).await.expect("taken");
    }
    let most = PER_SECOND * (began.elapsed().as_secs() as usize + 2);
    all_done(&router.grpc_url(), JOBS as u64).await;

    let whole = |spans: &[tidegate_tests::Received]| {
        let submits = named(spans, "submit email").len();
        submits >= PER_SECOND && attempts(spans).len() == submits
    };
    collector
        .wait_for(PATIENCE, "an attempt of each submit", whole)
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await; // five times the delay of an export
    let spans = collector.spans();
    let submits = named(&spans, "submit email");
    assert!(submits.len() <= most.min(JOBS - 1), "{} of {most}", submits.len());
    let attempts = attempts(&spans);
    assert_eq!(attempts.len(), submits.len());
    for attempt in attempts {
        let submit = hex(&attempt.span.links[0].span_id);
        assert!(submits.iter().any(|other| hex(&other.span.span_id) == submit));
    }
    let page = worker.metrics().await;
    let series = r#"tidegate_job_run_duration_seconds_count{outcome="succeeded",queue="email"}"#;
    assert_eq!(value(&page, series), JOBS as u64, "{page}");
}
