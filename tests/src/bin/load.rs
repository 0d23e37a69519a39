//! What `cargo xtask load` runs; see [`tidegate_tests::checklist`].

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tidegate_tests::checklist::{self, Options};

/// The load test of the checklist: baseline, three times of it, a database that is slow, recovery.
///
/// Without addresses it starts a fleet of its own, with a Redis and a Postgres behind PgBouncer. With --router and
/// --controller it adds the queues load-short and load-long and the resource load-pg to a running one and takes them away
/// again; their jobs sleep in a Postgres of its own, or in the one of --postgres. Exit code 0: everything holds; 1: not.
///
/// Example: cargo xtask load --router http://127.0.0.1:7600 --controller http://127.0.0.1:7601 --report target/load
#[derive(Parser)]
#[command(name = "load", bin_name = "cargo xtask load")]
struct Args {
    /// A router of a running fleet; repeatable
    #[arg(long = "router", value_name = "URL")]
    routers: Vec<String>,
    /// Its controller
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
    /// Where the jobs work, as a role that may log in: postgres://ROLE@HOST:PORT/DB
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Connections of that role or pool, of which jobs hold seven in ten at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    capacity: u32,
    /// A metrics page to look at, http://HOST:PORT; repeatable
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// Short jobs a second at the baseline; one long job comes for each 25 of them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Length of each phase; there are four, and half a one to warm up
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=3_600))]
    seconds: u64,
    /// Write figures and verdicts here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write index.html with curves, and each as SVG, into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        routers: args.routers,
        controller: args.controller,
        postgres: args.postgres,
        capacity: args.capacity,
        metrics: args.metrics,
        rate: f64::from(args.rate),
        phase: Duration::from_secs(args.seconds),
        json: args.json,
        report: args.report,
    };
    match Box::pin(checklist::run(options)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
