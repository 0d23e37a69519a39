//! Log lines, and the subscriber that they and the spans of the application go through.

mod json;

use std::io::IsTerminal;

use anyhow::Context as _;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::{TelemetryOptions, env, trace};

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOutput {
    #[default]
    Stdout,
    Stderr,
    /// The program has a subscriber of its own, and nothing is installed: see [`super::Telemetry::layer`].
    Elsewhere,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Json,
    Human,
}

/// The transport crates say at `info` what concerns nobody.
const QUIET: &str =
    "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,opentelemetry=warn,opentelemetry_sdk=warn";

/// Installs the global subscriber.
pub(super) fn install(opts: &TelemetryOptions, tracer: Option<SdkTracer>) -> anyhow::Result<()> {
    let lines = match opts.output {
        LogOutput::Stdout => lines(opts, std::io::stdout, std::io::stdout().is_terminal()),
        LogOutput::Stderr => lines(opts, std::io::stderr, std::io::stderr().is_terminal()),
        LogOutput::Elsewhere => return Ok(()),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter(opts)?));
    // Not an optional layer: around one with a filter, it makes every line that is filtered out cost a question.
    let installed = match tracer {
        Some(tracer) => subscriber.with(trace::layer(tracer)).try_init(),
        None => subscriber.try_init(),
    };
    installed.context("telemetry is initialised once per process")
}

fn filter(opts: &TelemetryOptions) -> anyhow::Result<EnvFilter> {
    // RUST_LOG verbatim: whoever sets it may want exactly the transport's lines.
    match env("RUST_LOG") {
        Some(directives) => {
            EnvFilter::try_new(&directives).with_context(|| format!("RUST_LOG=`{directives}`"))
        }
        None => {
            let level = opts.default_filter.as_deref().unwrap_or("info");
            EnvFilter::try_new(format!("{level},{QUIET}")).context("default log filter")
        }
    }
}

fn lines<S, W>(opts: &TelemetryOptions, writer: W, terminal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'line> MakeWriter<'line> + Send + Sync + 'static,
{
    let json = match opts.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Human => false,
    };
    if json {
        return fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(json::Json)
            .with_writer(writer)
            .boxed();
    }
    let colour = terminal && env("NO_COLOR").is_none(); // https://no-color.org
    fmt::layer().with_ansi(colour).with_writer(writer).boxed()
}
