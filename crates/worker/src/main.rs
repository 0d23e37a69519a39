//! The worker as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use tidegate_worker::WorkerArgs;

/// Takes jobs from routers and delivers them to an app by HTTP, or to a command.
///
/// Examples:
///   tidegate-worker --router http://127.0.0.1:7600 --app http://127.0.0.1:8080/jobs --queue email
///   tidegate-worker --queue thumbnails --exec-memory 512MiB --exec ./resize.sh --width 200
#[derive(Parser)]
#[command(name = "tidegate-worker", version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn main() -> ExitCode {
    tidegate_worker::exec::init();
    run(Args::parse().worker)
}

#[tokio::main]
async fn run(args: WorkerArgs) -> ExitCode {
    tidegate_worker::main(args).await
}
