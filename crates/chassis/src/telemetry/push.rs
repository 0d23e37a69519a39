//! Metrics on their way to a collector, read where `/metrics` reads them.
//!
//! A reader of its own would have every measurement taken twice, once for each, on the path of every job.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_otlp::MetricExporter;
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, Pipeline, SdkMeterProvider, Temporality};

/// The reader of `/metrics`, for who reads it too. It is cumulative: to read it changes nothing.
#[derive(Clone, Debug)]
pub(super) struct SharedReader(Arc<PrometheusExporter>);

impl SharedReader {
    pub(super) fn new(reader: PrometheusExporter) -> Self {
        Self(Arc::new(reader))
    }
}

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Exports what the reader has each `OTEL_METRIC_EXPORT_INTERVAL`, and a last time when it is shut down, which is before
/// the reader is.
///
/// The SDK's periodic reader does it, for which it gets a provider of its own: one instrument, whose only use is that there
/// is something to export.
pub(super) fn periodic(reader: SharedReader, exporter: MetricExporter) -> SdkMeterProvider {
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(Forward { reader, exporter })
        .build();
    provider
        .meter(super::SCOPE)
        .u64_observable_gauge("due")
        .with_callback(|observer| observer.observe(1, &[]))
        .build();
    provider
}

#[derive(Debug)]
struct Forward {
    reader: SharedReader,
    exporter: MetricExporter,
}

impl PushMetricExporter for Forward {
    async fn export(&self, _due: &ResourceMetrics) -> OTelSdkResult {
        let mut metrics = ResourceMetrics::default();
        self.reader.collect(&mut metrics)?;
        self.exporter.export(&metrics).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}
