//! What jobs feel when collector and Prometheus are killed under load: latency beside a run in which both live, in turns.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tidegate_client::Client;

use crate::{
    Answer, App, Collector, Prometheus, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc,
    bench::Figures,
    load::{Latencies, Sent, poisson, submit},
};

pub struct Options {
    /// Pairs of a run in which they live and one in which they are killed.
    pub pairs: usize,
    /// Jobs a second.
    pub rate: u32,
    /// Measured of each run.
    pub seconds: f64,
}

const QUEUE: &str = "bench";
/// Connections, caches and the exporters' first batches.
const WARM_UP: Duration = Duration::from_secs(2);
const DONE_MAX: Duration = Duration::from_secs(30);

/// From when a job was due to the start of its handler, in ms; `killed_p99_ratio` is of each pair.
///
/// # Errors
/// A job that was refused, lost, or delivered twice, in either kind of run.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for pair in 0..options.pairs {
        let first = pair % 2 == 1;
        let one = measure(options, first, pair).await?;
        let other = measure(options, !first, pair).await?;
        let (alive, killed) = if first { (other, one) } else { (one, other) };
        for (name, latencies) in [("alive", &alive), ("killed", &killed)] {
            figures.add(&format!("{name}_p50_ms"), latencies.ms(0.5));
            figures.add(&format!("{name}_p99_ms"), latencies.ms(0.99));
        }
        figures.add("killed_p99_ratio", killed.ms(0.99) / alive.ms(0.99));
    }
    Ok(figures)
}

/// The same arrivals for both of a pair.
async fn measure(options: &Options, killed: bool, pair: usize) -> anyhow::Result<Latencies> {
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok());
    let mut collector = Collector::start();
    let env = collector.env();
    let router = RouterOptions {
        env: env.clone(),
        ..RouterOptions::default()
    };
    let router = Router::start(&sandbox, "memory:", router).await;
    let worker = WorkerOptions {
        env,
        ..WorkerOptions::default()
    };
    let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &[QUEUE], worker).await;
    let targets = [
        ("tidegate-router", router.metrics_url()),
        ("tidegate-worker", worker.metrics_url()),
    ];
    let prometheus = Prometheus::start(&sandbox, &targets).await;
    prometheus.wait_for_targets(targets.len()).await;

    let client = Client::connect([router.grpc_url()])?;
    let rate = f64::from(options.rate);
    let arrivals = |seed: usize, length: Duration| poisson(seed as u64, length, |_| rate);
    let warm = arrivals(pair + 1_000, WARM_UP);
    let (_, refused) = submit(&client, QUEUE, &warm, |_| "{}".to_owned()).await;
    ensure!(refused == 0, "{refused} submits were refused");
    if killed {
        collector.close();
        prometheus.process.kill9();
    }
    let dues = arrivals(pair, Duration::from_secs_f64(options.seconds));
    let (sent, refused) = submit(&client, QUEUE, &dues, |_| "{}".to_owned()).await;
    ensure!(refused == 0, "{refused} submits were refused");
    let all = warm.len() + sent.len();
    app.wait_for_answers(all, DONE_MAX).await;
    latencies(&sent, &app, all)
}

/// Each job once, and from due to delivered.
fn latencies(sent: &[Sent<String>], app: &App, all: usize) -> anyhow::Result<Latencies> {
    let mut begun: HashMap<String, Instant> = HashMap::new();
    for delivery in app.deliveries() {
        let twice = begun.insert(delivery.job_id.clone(), delivery.at);
        ensure!(twice.is_none(), "{} was delivered twice", delivery.job_id);
    }
    ensure!(begun.len() == all, "{} of {all} jobs were delivered", begun.len());
    let of = |sent: &Sent<String>| {
        begun
            .get(&sent.answer)
            .map(|at| at.saturating_duration_since(sent.due))
    };
    Ok(sent.iter().filter_map(of).collect())
}
