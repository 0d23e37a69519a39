//! What `cargo xtask demo` runs; see [`tidegate_tests::demo`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate_tests::demo;

/// Fixed against adaptive concurrency, on the same arrivals.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    /// How long it takes in all
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// A Redis instead of embedded stores: its database and the next one, both empty
    #[arg(long, value_name = "redis://HOST:PORT/DB")]
    store: Option<String>,
    /// Write the summary here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { seconds, store, json } = Args::parse();
    match Box::pin(demo::run(demo::Options { seconds, store, json })).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
