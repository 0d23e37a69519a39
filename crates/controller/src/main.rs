//! The controller as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use tidegate_chassis::{shutdown, telemetry};
use tidegate_controller::{ControllerArgs, ControllerConfig, RunError, run};

/// Decides how many jobs of each queue run at once.
///
/// Example: tidegate-controller --policies policies.toml
#[derive(Parser)]
#[command(name = "tidegate-controller", version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    controller: ControllerArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = start(Args::parse()).await else {
        return ExitCode::SUCCESS;
    };
    let code = error.downcast_ref().map_or(1, RunError::exit_code);
    eprintln!("tidegate-controller: {error:#}");
    ExitCode::from(code)
}

async fn start(args: Args) -> anyhow::Result<()> {
    let config = ControllerConfig::load(&args.controller)
        .map_err(RunError::from)?
        .value
        .controller;
    let telemetry = telemetry::init("tidegate-controller", telemetry::TelemetryOptions::default())?;
    let shutdown = shutdown::token_on_signals();
    let ended = run(config, telemetry.metrics(), shutdown, |ready| println!("{ready}")).await;
    telemetry.shutdown().await;
    Ok(ended?)
}
