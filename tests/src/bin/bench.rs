//! What `cargo xtask bench` runs; see [`tidegate_tests::bench`].

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tidegate_tests::bench::{self, Figures};

/// Speed of Tidegate's parts.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lifecycles a second on each job store, beside redis-benchmark's SET
    Store {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often everything is measured
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of each measurement
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Idempotency keys remembered before
        #[arg(long, default_value_t = 1_000_000)]
        keys: usize,
        /// Measure these figures only
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
}

async fn run(args: Args) -> anyhow::Result<()> {
    let What::Store {
        json,
        rounds,
        seconds,
        keys,
        only,
    } = args.what;
    let options = bench::store::Options {
        rounds,
        seconds,
        keys,
        only,
        ..bench::store::Options::default()
    };
    let figures: Figures = bench::store::run(&options).await?;
    figures.print("redis_set_p1");
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&figures.json())? + "\n")?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Args::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
