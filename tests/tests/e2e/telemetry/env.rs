//! The variables of OpenTelemetry, at a real collector.

use std::time::Duration;

use tidegate_tests::{Collector, Process, Router, RouterOptions, Sandbox};

use crate::producer::submit_all;

const PATIENCE: Duration = Duration::from_secs(60);

async fn router(sandbox: &Sandbox, collector: &Collector, more: &[(&str, &str)]) -> Router {
    let more = more
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = RouterOptions {
        env: collector.env().into_iter().chain(more).collect(),
        ..RouterOptions::default()
    };
    let router = Router::start(sandbox, "memory:", options).await;
    submit_all(&[router.grpc_url()], "email", 1).await;
    router
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_headers_compression_and_limits_are_obeyed() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let variables = [
        ("OTEL_SERVICE_NAME", "front-door"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test,service.name=ignored",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"),
    ];
    let router = router(&sandbox, &collector, &variables).await;
    let spans = collector
        .wait_for(PATIENCE, "any", |spans| !spans.is_empty())
        .await;
    let resource = &spans[0].resource;
    assert_eq!(resource["service.name"], "front-door");
    assert_eq!(resource["deployment.environment.name"], "test");
    for received in &spans {
        let attributes = tidegate_tests::attributes(&received.span.attributes);
        assert!(attributes.len() <= 2, "{attributes:?}");
        assert!(
            attributes.values().all(|value| value.len() <= 4),
            "{attributes:?}"
        );
    }
    let headers = &collector.headers()[0];
    assert_eq!(
        headers.get("x-tenant").and_then(|value| value.to_str().ok()),
        Some("blue")
    );
    assert_eq!(
        headers.get("grpc-encoding").and_then(|value| value.to_str().ok()),
        Some("gzip")
    );
    // Metrics go the same way, under the names of their instruments.
    tidegate_tests::eventually(PATIENCE, "metrics by OTLP", async || {
        let metrics = collector.metrics();
        metrics.contains("tidegate_jobs_submitted").then_some(())
    })
    .await;
    let page = router.metrics().await;
    assert!(
        page.contains("tidegate_jobs_submitted_total{"),
        "the same on the page"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_switched_off_is_not_exported() {
    const OFF: [(&str, &str); 3] = [
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let sandbox = Sandbox::new();
    let collectors = OFF.map(|_| Collector::start());
    for (collector, variable) in collectors.iter().zip(OFF) {
        router(&sandbox, collector, &[variable]).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // ten times the delay of an export
    for (collector, (variable, _)) in collectors.iter().zip(OFF) {
        assert!(collector.spans().is_empty(), "{variable}");
    }
    assert!(collectors[2].metrics().is_empty(), "OTEL_SDK_DISABLED");
    assert!(
        !collectors[1].metrics().is_empty(),
        "only traces were switched off"
    );
}

#[tokio::test]
async fn what_cannot_be_obeyed_is_said_at_the_start() {
    let sandbox = Sandbox::new();
    for (name, value, text) in [
        (
            "OTEL_TRACES_SAMPLER",
            "sometimes",
            "OTEL_TRACES_SAMPLER=sometimes: use always_on",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/protobuf",
            "export is by grpc only",
        ),
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            "OTEL_TRACES_EXPORTER=zipkin: use otlp or none",
        ),
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "many",
            "OTEL_BSP_MAX_QUEUE_SIZE=many: use a whole number",
        ),
    ] {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            (name, value),
        ];
        let router = Process::tidegate(
            &sandbox,
            ["router", "--store", "memory:", "--listen", "127.0.0.1:0"],
            &env,
        );
        assert_ne!(router.wait_exit(PATIENCE).await, 0);
        assert!(router.stderr().contains(text), "{}", router.stderr());
    }
}
