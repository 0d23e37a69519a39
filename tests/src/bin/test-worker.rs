//! A worker for the tests; see [`tidegate_tests::work`].

use std::process::ExitCode;

use clap::Parser;
use tidegate_tests::work;

/// Two threads on every machine: a test knows how many handlers hold them all.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match work::run(work::Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
