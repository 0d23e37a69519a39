//! The router as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use tidegate_chassis::{shutdown, telemetry};
use tidegate_router::{RouterArgs, RouterConfig, RunError, run, runtime};

/// Keeps jobs and hands them to workers.
///
/// Example: tidegate-router --store redis://127.0.0.1:6379/0 --policies policies.toml
#[derive(Parser)]
#[command(name = "tidegate-router", version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    router: RouterArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let started = runtime().map_err(anyhow::Error::from);
    let Err(error) = started.and_then(|runtime| runtime.block_on(start(args))) else {
        return ExitCode::SUCCESS;
    };
    let code = error.downcast_ref().map_or(1, RunError::exit_code);
    eprintln!("tidegate-router: {error:#}");
    ExitCode::from(code)
}

async fn start(args: Args) -> anyhow::Result<()> {
    let config = RouterConfig::load(&args.router)
        .map_err(RunError::from)?
        .value
        .router;
    let telemetry = telemetry::init("tidegate-router", telemetry::TelemetryOptions::default())?;
    let shutdown = shutdown::token_on_signals();
    let ended = run(config, telemetry.metrics(), shutdown, |ready| println!("{ready}")).await;
    telemetry.shutdown().await;
    Ok(ended?)
}
