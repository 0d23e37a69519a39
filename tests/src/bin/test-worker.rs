//! A worker for the tests; see [`tidegate_tests::work`].

use std::process::ExitCode;

use clap::Parser;
use tidegate_tests::work;

#[tokio::main]
async fn main() -> ExitCode {
    match work::run(work::Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
