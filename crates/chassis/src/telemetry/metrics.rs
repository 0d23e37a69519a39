//! One meter provider with a Prometheus reader, and an OTLP reader when there is a collector.

use std::sync::Arc;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use prometheus::{Registry, TextEncoder};

use super::otlp::Counts;
use super::push::{self, SharedReader};
use super::{SCOPE, metric, openmetrics};

/// Bucket bounds of durations, in seconds: those of OpenTelemetry's messaging conventions.
pub const DURATION_BUCKETS_S: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// A cheap handle to the process's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    provider: SdkMeterProvider,
    /// Exports by OTLP what the provider has.
    pushes: Option<SdkMeterProvider>,
}

impl Metrics {
    pub(super) fn new(resource: Resource, otlp: Option<MetricExporter>) -> anyhow::Result<Self> {
        let registry = Registry::new();
        // There is one scope, so a label with its name on every series would only cost memory.
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .context("Prometheus reader")?;
        let prometheus = SharedReader::new(prometheus);
        let mut provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(prometheus.clone());
        let pushes = match otlp {
            Some(exporter) if exporter.temporality() == Temporality::Cumulative => {
                Some(push::periodic(prometheus, exporter))
            }
            // What `/metrics` never shows needs measurements of its own.
            Some(exporter) => {
                provider = provider.with_periodic_exporter(exporter);
                None
            }
            None => None,
        };
        Ok(Self {
            registry,
            provider: provider.build(),
            pushes,
        })
    }

    /// Metrics of their own, not the process's: for tests that read what they recorded.
    pub fn for_test(service: &'static str) -> Self {
        let resource = Resource::builder_empty().with_service_name(service).build();
        Self::new(resource, None).expect("a new registry takes its first collector")
    }

    /// A meter of exactly these metrics; elsewhere use [`super::meter`].
    pub fn meter(&self) -> Meter {
        self.provider.meter(SCOPE)
    }

    /// The metrics in the Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| {
                // A half scrape would read as vanished series; an empty one is a visible gap.
                tracing::error!(%error, "metrics could not be encoded");
                String::new()
            })
    }

    /// The same in OpenMetrics 1.0, with exemplars.
    pub fn render_open(&self) -> String {
        openmetrics::render(&self.registry.gather())
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    /// Exports what has not been, and ends.
    pub(super) fn shutdown(&self) -> OTelSdkResult {
        let pushed = self.pushes.as_ref().map_or(Ok(()), SdkMeterProvider::shutdown);
        self.provider.shutdown().and(pushed)
    }

    /// `tidegate_build_info{version} 1`.
    pub(super) fn register_build_info(&self, version: &'static str) {
        self.meter()
            .u64_observable_gauge(metric::BUILD_INFO.name)
            .with_description(metric::BUILD_INFO.help)
            .with_callback(move |observer| observer.observe(1, &[KeyValue::new("version", version)]))
            .build();
    }

    /// `tidegate_telemetry_spans_total{outcome}`: what became of the spans of this process.
    pub(super) fn register_spans(&self, counts: Arc<Counts>) {
        self.meter()
            .u64_observable_counter(metric::TELEMETRY_SPANS.name)
            .with_description(metric::TELEMETRY_SPANS.help)
            .with_callback(move |observer| {
                for (outcome, count) in counts.read() {
                    observer.observe(count, &[KeyValue::new("outcome", outcome)]);
                }
            })
            .build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_names_units_and_buckets() {
        let metrics = Metrics::for_test("tidegate-router");
        metrics.register_build_info("1.2.3");
        let meter = metrics.meter();
        let queue = [KeyValue::new("queue", "email")];
        meter
            .u64_counter("tidegate_jobs_submitted")
            .build()
            .add(2, &queue);
        let wait = metric::Metric::duration("tidegate_job_wait_duration", &["queue"], "Waited");
        let wait = wait.f64_histogram(&meter);
        wait.record(0.06, &queue);
        meter
            .f64_gauge("tidegate_worker_utilization_ratio")
            .build()
            .record(0.5, &queue);

        let text = metrics.render();
        for line in [
            r#"tidegate_build_info{version="1.2.3"} 1"#,
            r#"tidegate_jobs_submitted_total{queue="email"} 2"#,
            r#"tidegate_job_wait_duration_seconds_bucket{queue="email",le="0.05"} 0"#,
            r#"tidegate_job_wait_duration_seconds_bucket{queue="email",le="0.075"} 1"#,
            r#"tidegate_worker_utilization_ratio{queue="email"} 0.5"#,
            r#"target_info{service_name="tidegate-router"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("_bucket{").count(), DURATION_BUCKETS_S.len() + 1);
    }
}
