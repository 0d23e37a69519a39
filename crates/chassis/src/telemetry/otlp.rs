//! Which signals go to an OTLP collector, and their exporters.
//!
//! The exporters read endpoint, headers, timeout, compression and intervals from `OTEL_*` themselves. What neither they
//! nor the SDK read is read here: which signals, the sampler, certificates, and some limits.

mod bounded;
mod limits;
mod tls;

use std::sync::Arc;

use anyhow::bail;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

use self::bounded::Bounded;
pub(super) use self::bounded::Counts;
use self::limits::Limits;
use super::env;
use super::trace::{Decisions, Ids};

/// What is exported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) traces: bool,
    pub(super) metrics: bool,
}

impl Plan {
    /// A signal is exported when it or all signals have an endpoint, or it is switched on by name, unless it is switched
    /// off. (By the specification it would be exported to localhost without any of that: not where nobody asked for it.)
    ///
    /// # Errors
    /// An exporter that there is none of.
    pub(super) fn from_env(env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let get = |name: &str| {
            env(name)
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let disabled = get("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let wanted = |signal: &str, exporters: &[&str]| {
            let endpoint = get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
                .or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT"));
            let name = format!("OTEL_{signal}_EXPORTER");
            let Some(list) = get(&name) else {
                return Ok(!disabled && endpoint.is_some());
            };
            // `none` or `prometheus` alone means no OTLP.
            let items: Vec<&str> = list.split(',').map(str::trim).collect();
            if items.iter().any(|item| !exporters.contains(item)) {
                bail!("{name}={list}: use {}", exporters.join(" or "));
            }
            Ok(!disabled && items.contains(&"otlp"))
        };
        Ok(Self {
            traces: wanted("TRACES", &["otlp", "none"])?,
            metrics: wanted("METRICS", &["otlp", "prometheus", "none"])?,
        })
    }

    pub(super) fn any(&self) -> bool {
        self.traces || self.metrics
    }
}

/// Batches spans to the collector. `counts` says how they fared.
pub(super) fn tracer_provider(
    resource: Resource,
    counts: Arc<Counts>,
    decisions: Decisions,
) -> anyhow::Result<SdkTracerProvider> {
    check_protocol("TRACES", env)?;
    let mut exporter = SpanExporter::builder().with_tonic();
    if let Some(tls) = tls::from_env("TRACES", env)? {
        exporter = exporter.with_tls_config(tls);
    }
    let limits = Limits::from_env(env)?;
    let spans = Bounded::new(exporter.build()?, &limits, counts);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(decisions)
        .with_id_generator(Ids)
        .with_span_processor(spans);
    Ok(limits.set(provider).build())
}

pub(super) fn metric_exporter() -> anyhow::Result<MetricExporter> {
    check_protocol("METRICS", env)?;
    let mut exporter = MetricExporter::builder().with_tonic();
    if let Some(tls) = tls::from_env("METRICS", env)? {
        exporter = exporter.with_tls_config(tls);
    }
    Ok(exporter.build()?)
}

/// The variable of the signal, or else of all signals.
fn of_signal(signal: &str, name: &str, env: impl Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let names = [
        format!("OTEL_EXPORTER_OTLP_{signal}_{name}"),
        format!("OTEL_EXPORTER_OTLP_{name}"),
    ];
    names
        .into_iter()
        .find_map(|name| env(&name).map(|value| (name, value)))
}

/// Only gRPC is built in; to send it to a port that speaks something else would lose everything without a word.
fn check_protocol(signal: &str, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    match of_signal(signal, "PROTOCOL", env) {
        Some((name, protocol)) if protocol != "grpc" => {
            bail!(
                "{name}={protocol}: export is by grpc only; set it to grpc and the endpoint to that port (4317)"
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(variables: &[(&str, &str)]) -> (bool, bool) {
        let plan = Plan::from_env(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let plan = plan.expect("exporters that there are");
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
        assert_eq!(
            plan(&[("OTEL_METRICS_EXPORTER", "prometheus,otlp")]),
            (false, true)
        );
    }

    #[test]
    fn a_protocol_that_is_not_built_in_is_refused() {
        let check = |name: &'static str, value: &'static str| {
            check_protocol("TRACES", move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(check("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").is_ok());
        assert!(
            check("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json").is_ok(),
            "not this signal's"
        );
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ] {
            let error = check(name, "http/protobuf").expect_err("not built in");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{name}=http/protobuf: export is by grpc")),
                "{error}"
            );
        }
    }
}
