//! Which signals go to an OTLP collector, and their exporters.
//!
//! The exporters read endpoint, headers, timeout, compression, certificates and intervals from `OTEL_*`
//! themselves; the SDK does not read the switches below, so they are read here.

use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// What is exported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) traces: bool,
    pub(super) metrics: bool,
}

impl Plan {
    /// A signal is exported when it or all signals have an endpoint, unless it is switched off.
    pub(super) fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            env(name)
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let disabled = get("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let wanted = |signal: &str| {
            let endpoint = get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
                .or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT"));
            let exporter = get(&format!("OTEL_{signal}_EXPORTER"));
            // The variable is a list; `none` or `prometheus` alone means no OTLP.
            let otlp = exporter.is_none_or(|list| list.split(',').any(|item| item.trim() == "otlp"));
            !disabled && endpoint.is_some() && otlp
        };
        Self {
            traces: wanted("TRACES"),
            metrics: wanted("METRICS"),
        }
    }

    pub(super) fn any(&self) -> bool {
        self.traces || self.metrics
    }
}

/// Batches spans to the collector; sampler and limits from `OTEL_TRACES_SAMPLER` and such.
pub(super) fn tracer_provider(resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_tonic().build()?;
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

pub(super) fn metric_exporter() -> anyhow::Result<MetricExporter> {
    Ok(MetricExporter::builder().with_tonic().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(variables: &[(&str, &str)]) -> (bool, bool) {
        let plan = Plan::from_env(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        (plan.traces, plan.metrics)
    }

    #[test]
    fn a_signal_is_exported_only_to_an_endpoint() {
        const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        assert_eq!(plan(&[]), (false, false));
        assert_eq!(plan(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), (false, false));
        assert_eq!(plan(&[ALL]), (true, true));
        assert_eq!(
            plan(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")]),
            (true, false)
        );
        assert_eq!(
            plan(&[ALL, ("OTEL_METRICS_EXPORTER", "prometheus")]),
            (true, false)
        );
        assert_eq!(plan(&[ALL, ("OTEL_TRACES_EXPORTER", "none")]), (false, true));
        assert_eq!(plan(&[ALL, ("OTEL_SDK_DISABLED", "TRUE")]), (false, false));
    }
}
