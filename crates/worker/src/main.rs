//! The worker as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use tidegate_worker::WorkerArgs;

/// Takes jobs from routers and delivers them to an app by HTTP.
///
/// Example: tidegate-worker --router http://127.0.0.1:7600 --app http://127.0.0.1:8080/jobs --queue email
#[derive(Parser)]
#[command(name = "tidegate-worker", version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    tidegate_worker::main(Args::parse().worker).await
}
