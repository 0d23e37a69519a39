//! What telemetry costs: CPU of router and worker for one job, everything off beside everything on, in turns.

pub mod killed;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_client::{Client, Submission};

use super::Figures;
use crate::{Answer, App, Collector, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc};

pub struct Options {
    /// Pairs of one run with telemetry off and one with it on.
    pub pairs: usize,
    /// Jobs of each run.
    pub jobs: usize,
    /// Share of the traces that is kept.
    pub sample: f64,
}

/// Jobs of one call; half of what a batch of a busy producer has.
const BATCH: usize = 50;
const DONE_MAX: Duration = Duration::from_secs(60);
const TICKS_PER_SECOND: f64 = 100.0;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// CPU in microseconds a job, and the slowest hundredth of the times until a batch was taken, off and on; `ratio` and
/// `p99_ratio` are of each pair.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for pair in 0..options.pairs {
        // Whoever is first has the warmer or the colder machine: in turns.
        let first_on = pair % 2 == 1;
        let first = measure(first_on, options).await?;
        let second = measure(!first_on, options).await?;
        let (off, on) = if first_on {
            (second, first)
        } else {
            (first, second)
        };
        figures.add("off_cpu_us_a_job", off.cpu_us);
        figures.add("on_cpu_us_a_job", on.cpu_us);
        figures.add("off_submit_p99_ms", off.p99_ms);
        figures.add("on_submit_p99_ms", on.p99_ms);
        figures.add("cpu_ratio", on.cpu_us / off.cpu_us);
        figures.add("p99_ratio", on.p99_ms / off.p99_ms);
    }
    Ok(figures)
}

struct Measured {
    cpu_us: f64,
    p99_ms: f64,
}

async fn measure(on: bool, options: &Options) -> anyhow::Result<Measured> {
    let jobs = options.jobs;
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok());
    let collector = on.then(Collector::start);
    let mut env: Vec<(String, String)> = collector.iter().flat_map(Collector::env).collect();
    if on && options.sample < 1.0 {
        let ratio = (
            "OTEL_TRACES_SAMPLER".to_owned(),
            "parentbased_traceidratio".to_owned(),
        );
        env.extend([
            ratio,
            ("OTEL_TRACES_SAMPLER_ARG".to_owned(), options.sample.to_string()),
        ]);
    }
    let options = RouterOptions {
        env: env.clone(),
        ..RouterOptions::default()
    };
    let router = Router::start(&sandbox, "memory:", options).await;
    let options = WorkerOptions {
        env,
        ..WorkerOptions::default()
    };
    let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &["bench"], options).await;
    let client = Client::connect([router.grpc_url()])?;
    load(&client, jobs / 4).await?; // warm
    let before = router.process.cpu_ticks() + worker.process.cpu_ticks();
    let scraped = async {
        loop {
            if on {
                let _ = (router.metrics().await, worker.metrics().await);
            }
            tokio::time::sleep(SCRAPE_INTERVAL).await;
        }
    };
    let p99_ms = tokio::select! {
        loaded = load(&client, jobs) => loaded?,
        never = scraped => never,
    };
    let ticks = router.process.cpu_ticks() + worker.process.cpu_ticks() - before;
    Ok(Measured {
        cpu_us: ticks as f64 / TICKS_PER_SECOND * 1e6 / jobs as f64,
        p99_ms,
    })
}

/// Submits, and waits until all have succeeded. The p99 of the calls, in milliseconds.
async fn load(client: &Client, jobs: usize) -> anyhow::Result<f64> {
    let before = succeeded(client).await;
    let mut took = Vec::new();
    for _ in 0..jobs / BATCH {
        let started = Instant::now();
        let batch = (0..BATCH).map(|_| Submission::raw("bench", "{}"));
        for answer in client.submit_many(batch).await {
            answer.context("a submit was refused")?;
        }
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let wanted = before + (jobs / BATCH * BATCH) as u64;
    let deadline = Instant::now() + DONE_MAX;
    while succeeded(client).await < wanted {
        if Instant::now() > deadline {
            bail!("the jobs were not done within {DONE_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort_by(f64::total_cmp);
    let at = (took.len() * 99 / 100).min(took.len().saturating_sub(1));
    took.get(at).copied().context("too few jobs to measure")
}

async fn succeeded(client: &Client) -> u64 {
    client
        .get_queue("bench")
        .await
        .map_or(0, |queue| queue.succeeded_total)
}
