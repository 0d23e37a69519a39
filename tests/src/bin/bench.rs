//! What `cargo xtask bench` runs; see [`tidegate_tests::bench`].

use std::{path::PathBuf, process::ExitCode, time::Duration};

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
    /// Lifecycles a second through a router, and how soon a job is picked up
    Router {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often everything is measured
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of each measurement
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Measure these figures only
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Tidegate beside BullMQ, apalis, Sidekiq and graphile-worker, which are installed under target/peers
    Peers {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often everything is measured
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of each measurement
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// These peers only
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// These measures only
        #[arg(long, value_delimiter = ',')]
        measures: Vec<String>,
    },
    /// CPU of a job with all telemetry off, on, and on with every trace kept, in turns
    Telemetry {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Rounds of a run of each
        #[arg(long, default_value_t = 9)]
        pairs: usize,
        /// Jobs of each run
        #[arg(long, default_value_t = 20_000)]
        jobs: usize,
    },
    /// Latency of jobs while collector and Prometheus live, and after both were killed, in interleaved pairs
    TelemetryKilled {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Pairs of runs
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Jobs a second
        #[arg(long, default_value_t = 300)]
        rate: u32,
        /// Length of each measurement
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// What a worker takes: idle, and running jobs that do nothing
    Worker {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often everything is measured
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Length of each measurement
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Jobs a second
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
    },
    /// A controller's tick, its pushes, memory and idle cost, with many attached workers
    Controller {
        /// Write the figures here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[arg(long, default_value_t = 1_000)]
        workers: usize,
        #[arg(long, default_value_t = 100)]
        queues: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Three times the capacity for a minute: what is done, how soon the rest is refused, and how it ends
    Overload {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often it is measured
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Length of the overload
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
    },
    /// How soon a submit is refused while the store is away, and what limits cost that are not reached
    Admission {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Pairs of runs without limits and with all of them
        #[arg(long, default_value_t = 9)]
        pairs: usize,
        /// Length of each run
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// A producer's submits while others attack the router
    Hostile {
        /// Write the medians here
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often it is measured
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of each part: calm, attack on another router, attack
        #[arg(long, default_value_t = 8.0)]
        seconds: f64,
    },
    /// The attackers of it
    #[command(hide = true)]
    TheAttackers {
        #[arg(long)]
        router: String,
        #[arg(long)]
        seconds: f64,
    },
    /// The worker of the others, which start it
    #[command(hide = true)]
    TheWorker {
        #[arg(long)]
        router: String,
        #[arg(long)]
        slots: u32,
    },
}

async fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Store {
            json,
            rounds,
            seconds,
            keys,
            only,
        } => {
            let options = bench::store::Options {
                rounds,
                seconds,
                keys,
                only,
                ..bench::store::Options::default()
            };
            let figures = bench::store::run(&options).await?;
            show(&figures, "redis_set_p1", json)
        }
        What::Router {
            json,
            rounds,
            seconds,
            only,
        } => {
            let options = bench::router::Options {
                rounds,
                seconds,
                only,
            };
            let figures = bench::router::run(&options).await?;
            show(&figures, "", json)
        }
        What::Peers {
            json,
            rounds,
            seconds,
            only,
            measures,
        } => {
            let options = bench::peers::Options {
                rounds,
                seconds,
                only,
                measures,
            };
            let results = bench::peers::run(&options).await?;
            bench::peers::print(&results);
            write(&bench::peers::json(&results), json)
        }
        What::Telemetry { json, pairs, jobs } => {
            let options = bench::telemetry::Options { pairs, jobs };
            let figures = bench::telemetry::run(&options).await?;
            show(&figures, "", json)
        }
        What::TelemetryKilled {
            json,
            pairs,
            rate,
            seconds,
        } => {
            let options = bench::telemetry::killed::Options { pairs, rate, seconds };
            let figures = bench::telemetry::killed::run(&options).await?;
            show(&figures, "", json)
        }
        What::Worker {
            json,
            rounds,
            seconds,
            rate,
        } => {
            let options = bench::worker::Options {
                rounds,
                seconds,
                rate,
            };
            let figures = bench::worker::run(&options).await?;
            show(&figures, "", json)
        }
        What::Controller {
            json,
            workers,
            queues,
            seconds,
        } => {
            let options = bench::controller::Options {
                workers,
                queues,
                seconds,
            };
            let figures = bench::controller::run(&options).await?;
            show(&figures, "", json)
        }
        What::Overload {
            json,
            rounds,
            seconds,
        } => {
            let scale = bench::overload::Scale {
                time: Duration::from_secs_f64(seconds),
                ..bench::overload::Scale::WHOLE
            };
            let figures = bench::overload::run(scale, rounds).await?;
            show(&figures, "", json)
        }
        What::Admission { json, pairs, seconds } => {
            let figures = bench::admission::run(&bench::admission::Options { pairs, seconds }).await?;
            show(&figures, "", json)
        }
        What::Hostile {
            json,
            rounds,
            seconds,
        } => {
            let figures = bench::hostile::run(&bench::hostile::Options { rounds, seconds }).await?;
            show(&figures, "", json)
        }
        What::TheAttackers { router, seconds } => bench::hostile::attackers(&router, seconds).await,
        What::TheWorker { router, slots } => bench::router::worker::run(router, slots).await,
    }
}

fn show(figures: &Figures, base: &str, json: Option<PathBuf>) -> anyhow::Result<()> {
    figures.print(base);
    write(&figures.json(), json)
}

fn write(value: &serde_json::Value, json: Option<PathBuf>) -> anyhow::Result<()> {
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?;
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
