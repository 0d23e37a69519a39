//! `cargo xtask bench router`: whole lifecycles a second through one router, and how soon a job is picked up.
//!
//! Redis (append-only file, a sync each second), the router, the worker and the client are processes of their own on one
//! machine, and everything is counted: a rate is the jobs submitted over the time until the last of them has settled.
//! Payloads have 200 bytes; handlers do nothing.

mod load;
mod pickup;
pub mod worker;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;

use super::Figures;
use crate::process::own_cpu_ticks;
use crate::{Process, Redis, RedisOptions, Router, RouterOptions, START_TIMEOUT, Sandbox, built};

pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    /// Names of figures, without the quantile's ending; empty = all.
    pub only: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 3,
            seconds: 4.0,
            only: Vec::new(),
        }
    }
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

const PAYLOAD_BYTES: usize = 200;
const QUEUE: &str = "bench";
/// The default depth is less than some seconds of backlog.
const POLICIES: &str = "[queues.bench]\nmax_depth = 100000000\n";
/// Handlers do nothing: so many slots keep every job on its way to a worker or back.
const SLOTS: u32 = 1_000;
/// Connections, caches and the store's library are warm by then.
const WARM_UP: Duration = Duration::from_secs(1);
/// Jobs that are submitted faster than they run wait for the end of the measurement.
const REST_TIMEOUT: Duration = Duration::from_secs(60);
/// The kernel counts in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// # Errors
/// A process that does not start, a submit that fails, or a job that gets lost.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        for (name, way) in load::WAYS {
            if options.wants(name) {
                lifecycles(name, way, options.seconds, &mut figures).await?;
            }
        }
        for (name, rate, routers) in pickup::CASES {
            if options.wants(name) {
                let picked = pickup::measure(rate, routers, options.seconds).await?;
                figures.add(&format!("{name}_p50_ms"), picked.p50_ms);
                figures.add(&format!("{name}_p99_ms"), picked.p99_ms);
            }
        }
    }
    Ok(figures)
}

/// Whole lifecycles a second, submitted in one way, and what each process took of the processors for one.
async fn lifecycles(name: &str, way: load::Way, seconds: f64, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let stack = Stack::start(&sandbox, 1).await;
    let mut settled = load::run(way, &stack.submit_url(), WARM_UP).await?;
    stack.settled(settled).await?;
    let (started, before) = (Instant::now(), stack.cpu_ticks());
    let submitted = load::run(way, &stack.submit_url(), Duration::from_secs_f64(seconds)).await?;
    settled += submitted;
    stack.settled(settled).await?;
    figures.add(name, submitted as f64 / started.elapsed().as_secs_f64());
    for ((process, after), (_, before)) in stack.cpu_ticks().into_iter().zip(before) {
        let us = (after - before) as f64 / TICKS_PER_SECOND * 1e6;
        figures.add(&format!("{name}_{process}_us_per_job"), us / submitted as f64);
    }
    Ok(())
}

/// The processes of one measurement.
struct Stack<'a> {
    redis: Redis<'a>,
    routers: Vec<Router>,
    worker: Process,
}

impl<'a> Stack<'a> {
    /// The worker is at the last of the routers, jobs are submitted at the first.
    async fn start(sandbox: &'a Sandbox, routers: usize) -> Self {
        let redis = Redis::start(sandbox, RedisOptions::default()).await;
        let mut started = Vec::new();
        for _ in 0..routers {
            let options = RouterOptions {
                policies: Some(POLICIES.to_owned()),
                ..RouterOptions::default()
            };
            started.push(Router::start(sandbox, &redis.url(), options).await);
        }
        let mut command = Command::new(built("bench"));
        let slots = SLOTS.to_string();
        let url = started.last().map(Router::grpc_url).unwrap_or_default();
        command.args(["the-worker", "--router", &url, "--slots", &slots]);
        let worker = Process::start(sandbox, command);
        worker.wait_for_line(worker::READY, START_TIMEOUT).await;
        Self {
            redis,
            routers: started,
            worker,
        }
    }

    fn submit_url(&self) -> String {
        self.routers[0].grpc_url()
    }

    /// The processor time of each process so far, in the kernel's ticks; this process is the client.
    fn cpu_ticks(&self) -> [(&'static str, u64); 4] {
        let routers = self.routers.iter().map(|router| router.process.cpu_ticks());
        [
            ("client", own_cpu_ticks()),
            ("router", routers.sum()),
            ("worker", self.worker.cpu_ticks()),
            ("redis", self.redis.process().cpu_ticks()),
        ]
    }

    /// Until so many jobs have succeeded since the start.
    async fn settled(&self, jobs: u64) -> anyhow::Result<()> {
        let give_up = Instant::now() + REST_TIMEOUT;
        loop {
            let mut settled = 0;
            for router in &self.routers {
                settled += succeeded(&router.metrics().await)?;
            }
            ensure!(settled <= jobs, "{settled} jobs have settled of {jobs}");
            if settled == jobs {
                return Ok(());
            }
            ensure!(
                Instant::now() < give_up,
                "{settled} of {jobs} jobs have settled in time"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn succeeded(metrics: &str) -> anyhow::Result<u64> {
    let is_it =
        |line: &&str| line.starts_with("tidegate_jobs_settled_total{") && line.contains("\"succeeded\"");
    let Some(line) = metrics.lines().find(is_it) else {
        return Ok(0);
    };
    let value = line
        .split_whitespace()
        .nth(1)
        .context("a metric without a value")?;
    Ok(value.parse()?)
}

/// The first bytes say when the job was to be sent (ns since the epoch), or 0 where nobody asks.
fn payload(due_ns: u64) -> Bytes {
    let mut bytes = due_ns.to_be_bytes().to_vec();
    // Jobs differ in their payloads: interpreters and stores treat equal texts in ways of their own.
    let filler = fastrand::u128(..).to_be_bytes();
    bytes.extend(filler.iter().cycle().take(PAYLOAD_BYTES - bytes.len()));
    bytes.into()
}
