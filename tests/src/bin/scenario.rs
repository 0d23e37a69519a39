//! What `cargo xtask scenario` runs; see [`tidegate_tests::scenario`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate_tests::scenario::{self, Arm};

/// Failures that fixed concurrency does not survive, on real servers, under several ways to decide how much runs.
#[derive(Parser)]
#[command(name = "scenario")]
struct Args {
    /// Numbers or names of tests/scenarios, or all
    #[arg(required = true)]
    names: Vec<String>,
    /// adaptive, fixedN, ema_aimd, calm, alone [default: those that the scenario names]
    #[arg(long, value_delimiter = ',')]
    arms: Vec<Arm>,
    /// How often each is run, each time on the next seed
    #[arg(long, default_value_t = 1)]
    repeats: usize,
    /// Everything happens in this time instead of 300 s; jobs, rates and ticks stay as they are
    #[arg(long, value_parser = clap::value_parser!(u64).range(20..=3_600))]
    seconds: Option<u64>,
    /// Of the arrivals of the first run
    #[arg(long, default_value_t = 101)]
    seed: u64,
    /// Write a line an arm here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with curves here
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = scenario::Options {
        names: args.names,
        arms: args.arms,
        repeats: args.repeats,
        seconds: args.seconds.map(|seconds| seconds as f64),
        seed: args.seed,
        json: args.json,
        report: args.report,
    };
    match Box::pin(scenario::run(&options)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
