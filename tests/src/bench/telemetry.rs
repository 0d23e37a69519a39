//! What telemetry costs: CPU of router and worker for one job, everything off beside everything on, with the sampler that
//! is there by default and with every trace kept, in turns.

pub mod killed;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_client::{Client, Submission};

use super::Figures;
use crate::{Answer, App, Collector, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc};

pub struct Options {
    /// Rounds of one run of each [`Arm`].
    pub pairs: usize,
    /// Jobs of each run.
    pub jobs: usize,
}

/// What is on in a run. All but `Off`: traces and metrics go to a collector over OTLP, both `/metrics` are scraped each
/// second.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    Off,
    /// With the sampler of a process to which nothing else was said.
    On,
    /// Every trace is kept.
    All,
}

impl Arm {
    const ALL: [Self; 3] = [Arm::Off, Arm::On, Arm::All];

    fn name(self) -> &'static str {
        match self {
            Arm::Off => "off",
            Arm::On => "on",
            Arm::All => "all_kept",
        }
    }

    fn env(self, collector: &Collector) -> Vec<(String, String)> {
        let mut env = collector.env();
        if self == Arm::All {
            env.push((
                "OTEL_TRACES_SAMPLER".to_owned(),
                "parentbased_always_on".to_owned(),
            ));
        }
        env
    }
}

/// Jobs of one call; half of what a batch of a busy producer has.
const BATCH: usize = 50;
const DONE_MAX: Duration = Duration::from_secs(60);
const TICKS_PER_SECOND: f64 = 100.0;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// CPU in microseconds a job, and the slowest hundredth of the times until a batch was taken, of each arm; ratios are to
/// the run of the same round with everything off.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for round in 0..options.pairs {
        let mut measured = Vec::new();
        for turn in 0..Arm::ALL.len() {
            // Whoever is first has the warmer or the colder machine: in turns.
            let arm = Arm::ALL[(round + turn) % Arm::ALL.len()];
            measured.push((arm, measure(arm, options).await?));
        }
        let off = measured.iter().find(|(arm, _)| *arm == Arm::Off);
        let off = off.map(|(_, off)| *off).context("it is one of all")?;
        for (arm, run) in measured {
            let mut add = |name: &str, value| figures.add(&format!("{}_{name}", arm.name()), value);
            add("cpu_us_a_job", run.cpu_us);
            add("submit_p99_ms", run.p99_ms);
            if arm != Arm::Off {
                add("cpu_ratio", run.cpu_us / off.cpu_us);
                add("p99_ratio", run.p99_ms / off.p99_ms);
            }
        }
    }
    Ok(figures)
}

#[derive(Clone, Copy)]
struct Measured {
    cpu_us: f64,
    p99_ms: f64,
}

async fn measure(arm: Arm, options: &Options) -> anyhow::Result<Measured> {
    let jobs = options.jobs;
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok());
    let on = arm != Arm::Off;
    let collector = on.then(Collector::start);
    let env: Vec<(String, String)> = collector.iter().flat_map(|to| arm.env(to)).collect();
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
