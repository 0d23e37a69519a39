//! Logs, traces and metrics of one process, and the only crate that names OpenTelemetry's versions.
//!
//! Metrics always exist and are scraped from `/metrics`. Traces exist only when an OTLP endpoint is set: without
//! one there is no span processing at all, so an idle process stays idle. All `OTEL_*` variables mean what the
//! OpenTelemetry specification says, with one exception: `OTEL_SDK_DISABLED` stops the exports, not `/metrics`,
//! which is the operator's port and not the SDK's.

mod exemplars;
mod log;
pub mod metric;
mod metrics;
pub(crate) mod openmetrics;
mod otlp;
mod push;
pub(crate) mod rpc;
pub mod trace;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue as Attribute;
use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

pub use exemplars::TracedHistogram;
pub use log::{LogFormat, LogOutput};
pub use metric::Metric;
pub use metrics::{DURATION_BUCKETS_S, Metrics};
// What users of `meter()` need, so that no other crate depends on OpenTelemetry.
pub use opentelemetry::KeyValue;
pub use opentelemetry::metrics::{
    Counter, Gauge, Histogram, Meter, ObservableCounter, ObservableGauge, UpDownCounter,
};
pub use rpc::RpcClient;

/// The instrumentation scope of all our instruments and spans.
const SCOPE: &str = "tidegate";

/// How long [`Telemetry::shutdown`] may take: a collector that is down must not hold up a drain.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Choices of a binary. The default is right for a server.
#[derive(Clone, Debug, Default)]
pub struct TelemetryOptions {
    /// Where logs go; a command that prints results to stdout logs to stderr.
    pub output: LogOutput,
    /// JSON or human lines; by default JSON when the output is not a terminal.
    pub format: LogFormat,
    /// The filter when `RUST_LOG` is not set, instead of `info`.
    pub default_filter: Option<String>,
    /// `service.version`; by default the workspace's.
    pub version: Option<&'static str>,
}

/// The running telemetry of this process. Keep it until the end and call [`Telemetry::shutdown`].
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    tracer_provider: Option<SdkTracerProvider>,
}

/// Starts logs, metrics and, when configured, OTLP export. Once per process, also in `tidegate dev`.
///
/// Must run inside the tokio runtime when an OTLP endpoint is set (its connection lives there). Instruments
/// made by [`meter`] before this are no-ops for ever.
///
/// # Errors
/// A second call, an invalid `RUST_LOG`, or OTLP settings that cannot be used.
pub fn init(service: &'static str, opts: TelemetryOptions) -> anyhow::Result<Telemetry> {
    crate::tls_provider();
    let plan = otlp::Plan::from_env(env)?;
    if plan.any() && tokio::runtime::Handle::try_current().is_err() {
        anyhow::bail!("OTLP export needs a tokio runtime: call telemetry::init inside it");
    }
    let version = opts.version.unwrap_or(env!("CARGO_PKG_VERSION"));
    let resource = resource(service, version, env);

    let spans = Arc::default();
    let traces = || {
        let decisions = trace::Decisions::from_env(env)?;
        let provider = otlp::tracer_provider(resource.clone(), Arc::clone(&spans), decisions.clone())?;
        anyhow::Ok((provider, decisions))
    };
    let traces = plan
        .traces
        .then(traces)
        .transpose()
        .context("OTLP trace export")?;
    let tracer = traces.as_ref().map(|(provider, _)| provider.tracer(SCOPE));
    log::install(&opts, tracer)?;

    let exporter = plan
        .metrics
        .then(otlp::metric_exporter)
        .transpose()
        .context("OTLP metric export")?;
    let metrics = Metrics::new(resource, exporter)?;
    metrics.register_build_info(version);
    if plan.traces {
        metrics.register_spans(spans);
    }

    global::set_meter_provider(metrics.provider().clone());
    let tracer_provider = traces.map(|(provider, decisions)| {
        trace::install(provider.tracer(SCOPE), decisions);
        provider
    });
    Ok(Telemetry {
        metrics,
        tracer_provider,
    })
}

impl Telemetry {
    /// A cheap handle for [`crate::admin::serve_metrics`].
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The Prometheus registry, for collectors that do not go through [`meter`].
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics.registry()
    }

    /// The metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.metrics.render()
    }

    /// For a program that installs a subscriber of its own ([`LogOutput::Elsewhere`]): with this layer in it, spans that
    /// handlers make with `tracing` are children of their attempt's. `None`: traces are not exported.
    ///
    /// ```no_run
    /// # use tidegate_chassis::telemetry::{self, LogOutput, TelemetryOptions};
    /// # use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
    /// # fn start() -> anyhow::Result<()> {
    /// let options = TelemetryOptions { output: LogOutput::Elsewhere, ..TelemetryOptions::default() };
    /// let telemetry = telemetry::init("mailer", options)?;
    /// tracing_subscriber::registry()
    ///     .with(telemetry.layer())
    ///     .with(tracing_subscriber::fmt::layer())
    ///     .init();
    /// # Ok(()) }
    /// ```
    pub fn layer<S>(&self) -> Option<Box<dyn tracing_subscriber::Layer<S> + Send + Sync>>
    where
        S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span> + Send + Sync,
    {
        let provider = self.tracer_provider.as_ref()?;
        Some(trace::layer(provider.tracer(SCOPE)))
    }

    /// Flushes what is not yet exported, within 2 s; what takes longer is lost.
    pub async fn shutdown(self) {
        let Self {
            metrics,
            tracer_provider,
        } = self;
        let (done, is_done) = tokio::sync::oneshot::channel();
        let flush = move || {
            flush(tracer_provider, &metrics);
            let _ = done.send(()); // nobody listens after the timeout
        };
        // Its own thread: the SDK's shutdown blocks, and a blocked runtime thread would hold up the process's end.
        match crate::tasks::named_thread("telemetry-flush", flush) {
            Ok(thread) => {
                if tokio::time::timeout(FLUSH_MAX, is_done).await.is_err() {
                    tracing::warn!("telemetry flush timed out");
                }
                thread.detach();
            }
            Err(error) => tracing::warn!(%error, "telemetry was not flushed"),
        }
    }
}

fn flush(tracer_provider: Option<SdkTracerProvider>, metrics: &Metrics) {
    if let Some(provider) = tracer_provider
        && let Err(error) = provider.shutdown_with_timeout(FLUSH_MAX)
    {
        tracing::warn!(%error, "the last spans were not exported");
    }
    if let Err(error) = metrics.shutdown() {
        tracing::warn!(%error, "the last metrics were not exported");
    }
}

/// The meter of this process. Names carry no unit: `x_duration` with unit `s` becomes `x_duration_seconds`,
/// a counter `x` becomes `x_total`.
pub fn meter() -> Meter {
    global::meter(SCOPE)
}

/// A standard variable (`OTEL_*`, `RUST_LOG`, `NO_COLOR`); an empty one is not set, as their specifications say.
#[allow(
    clippy::disallowed_methods,
    reason = "standard variables are honoured verbatim, not configuration of ours"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Who this process is; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over our values.
fn resource(service: &'static str, version: &'static str, env: impl Fn(&str) -> Option<String>) -> Resource {
    let listed = env("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_set = |key: &str| {
        listed
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .any(|(name, _)| name.trim() == key)
    };
    // It wins over the list, which the SDK's own detectors get wrong.
    let named = env("OTEL_SERVICE_NAME");
    let is_named = named.is_some();
    let ours = [
        ("service.name", named.unwrap_or_else(|| service.to_owned())),
        ("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ("service.version", version.to_owned()),
    ];
    let ours = ours
        .into_iter()
        .filter(|(key, _)| !is_set(key) || is_named && *key == "service.name")
        .map(|(key, value)| Attribute::new(key, value));
    Resource::builder().with_attributes(ours).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_service_first() {
        let key = opentelemetry::Key::from_static_str("service.name");
        let name = |variables: &'static [(&str, &str)]| {
            let env = move |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            resource("tidegate-router", "1", env)
                .get(&key)
                .map(|value| value.to_string())
        };
        assert_eq!(name(&[]).as_deref(), Some("tidegate-router"));
        const BOTH: &[(&str, &str)] = &[
            ("OTEL_SERVICE_NAME", "x"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=y"),
        ];
        assert_eq!(name(BOTH).as_deref(), Some("x"));
        // The SDK's own detector reads the process's environment, so here it is only not overwritten.
        let listed = name(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=x")]);
        assert_ne!(listed.as_deref(), Some("tidegate-router"));
    }
}
