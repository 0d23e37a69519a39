//! Log lines.

mod json;

use std::io::IsTerminal;

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::{TelemetryOptions, env};

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogOutput {
    #[default]
    Stdout,
    Stderr,
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
pub(super) fn install(opts: &TelemetryOptions) -> anyhow::Result<()> {
    tracing_subscriber::registry()
        .with(lines(opts).with_filter(filter(opts)?))
        .try_init()
        .context("telemetry is initialised once per process")
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

fn lines<S>(opts: &TelemetryOptions) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let (writer, terminal) = match opts.output {
        LogOutput::Stdout => (
            BoxMakeWriter::new(std::io::stdout),
            std::io::stdout().is_terminal(),
        ),
        LogOutput::Stderr => (
            BoxMakeWriter::new(std::io::stderr),
            std::io::stderr().is_terminal(),
        ),
    };
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
