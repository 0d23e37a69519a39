//! `cargo xtask bench worker`: what one worker process takes, idle and at a steady rate of jobs that do nothing.
//!
//! Router (store in memory), worker and client are processes of their own; the worker's time and memory are the kernel's
//! counts. Jobs arrive in an open loop, whatever the worker makes of them, and it is checked that it kept up.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tidegate_client::Client;
use tidegate_protocol::v1::{NewJob, SubmitJobsRequest, job_service_client::JobServiceClient};
use uuid::Uuid;

use super::{Figures, Taken, router::worker::READY};
use crate::{
    Process, Router, RouterOptions, START_TIMEOUT, Sandbox, built,
    load::{Latencies, Sent, open_loop, steady},
};

pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    /// Jobs a second.
    pub rate: u32,
}

const QUEUE: &str = "bench";
const SLOTS: u32 = 256;
/// Jobs come in calls of so many, as from a client library under load.
const BATCH: u32 = 50;
const PAYLOAD_BYTES: usize = 200;
/// Connections and caches are warm by then, and the worker's start is over.
const WARM_UP: Duration = Duration::from_secs(2);
/// Of the rate that must have been done: less, and the figure is of another load.
const KEPT_UP: f64 = 0.97;

/// # Errors
/// A process that does not start, a submit that fails, or a worker that does not keep up.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        measure(options, &mut figures).await?;
    }
    Ok(figures)
}

async fn measure(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let mut command = Command::new(built("bench"));
    let slots = SLOTS.to_string();
    command.args(["the-worker", "--router", &router.grpc_url(), "--slots", &slots]);
    let worker = Process::start(&sandbox, command);
    worker.wait_for_line(READY, START_TIMEOUT).await;
    tokio::time::sleep(WARM_UP).await;

    let time = Duration::from_secs_f64(options.seconds);
    let idle = Taken::begin(&worker);
    tokio::time::sleep(time).await;
    figures.add("worker_idle_cpu_pct", idle.percent(&worker));
    figures.add("worker_idle_rss_mb", worker.rss_kb() as f64 / 1024.0);

    let client = Client::connect([router.grpc_url()])?;
    let submits = JobServiceClient::connect(router.grpc_url()).await?;
    let calls = f64::from(options.rate) / f64::from(BATCH);
    submit(&submits, WARM_UP, calls).await?;
    let (before, busy) = (succeeded(&client).await?, Taken::begin(&worker));
    let started = Instant::now();
    let latencies = submit(&submits, time, calls).await?;
    let (done, seconds) = (
        succeeded(&client).await? - before,
        started.elapsed().as_secs_f64(),
    );
    let percent = busy.percent(&worker);
    let rate = done as f64 / seconds;
    ensure!(
        rate >= KEPT_UP * f64::from(options.rate),
        "{rate:.0} jobs a second were done of {}",
        options.rate
    );
    figures.add("worker_noop_jobs_per_second", rate);
    figures.add("worker_noop_cpu_pct", percent);
    figures.add("worker_noop_cpu_us_per_job", percent * 1e4 / rate);
    figures.add("worker_noop_rss_mb", worker.rss_kb() as f64 / 1024.0);
    figures.add("submit_p50_ms", latencies.ms(0.5));
    figures.add("submit_p99_ms", latencies.ms(0.99));
    Ok(())
}

async fn succeeded(client: &Client) -> anyhow::Result<u64> {
    Ok(client.get_queue(QUEUE).await?.succeeded_total)
}

/// So many calls a second, evenly.
async fn submit(
    client: &JobServiceClient<tonic::transport::Channel>,
    time: Duration,
    calls: f64,
) -> anyhow::Result<Latencies> {
    let arrivals = steady(time, calls);
    let sent = open_loop(Instant::now(), &arrivals, |_| {
        let mut client = client.clone();
        async move { client.submit_jobs(request()).await.map(drop) }
    });
    let sent = sent.await;
    if let Some(error) = sent.iter().find_map(|sent| sent.answer.as_ref().err()) {
        anyhow::bail!("a submit failed: {error}");
    }
    Ok(sent.iter().map(Sent::latency).collect())
}

fn request() -> SubmitJobsRequest {
    let job = |_| NewJob {
        queue: QUEUE.to_owned(),
        payload: vec![0; PAYLOAD_BYTES].into(),
        request_id: Uuid::new_v4().to_string(),
        ..NewJob::default()
    };
    SubmitJobsRequest {
        jobs: (0..BATCH).map(job).collect(),
    }
}
