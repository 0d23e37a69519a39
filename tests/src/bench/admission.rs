//! `cargo xtask bench admission`: what a refusal takes while the store is away, and what limits cost that are not reached.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures_util::future::try_join_all;
use tidegate_client::{Client, Submission};
use tonic::{Code, transport::Channel};

use super::{
    Figures,
    overload::{channels, submit},
};
use crate::{
    Redis, RedisOptions, Router, RouterOptions, Sandbox,
    load::{Latencies, Sent, open_loop, steady},
};

pub struct Options {
    /// Pairs of one run without limits and one with them.
    pub pairs: usize,
    /// Length of each run.
    pub seconds: f64,
}

/// Submits a second while the circuit is open.
const REFUSED_RATE: f64 = 1_000.0;
/// Five failures in a row open the circuit; each may take as long as a connection that is refused.
const OPENS_WITHIN: Duration = Duration::from_secs(20);
const QUEUE: &str = "bench";
const PAYLOAD_BYTES: usize = 200;
/// As many calls at once as make batches of some size in the router.
const UNARY_CALLS: usize = 32;
/// Of one call of the library, as a busy producer makes them.
const BATCH: usize = 50;
const WARM_UP: Duration = Duration::from_secs(1);
const TICKS_PER_SECOND: f64 = 100.0;
/// Everything that a policy can limit, so high that it is not reached: what is measured is the looking.
const LIMITS: &str = "max_wait = \"1h\"\nmax_running = 1000000\nsubmit_rate = 1000000\nsubmit_burst = 1000000\n\
    caller_rate = 1000000\ncaller_burst = 1000000\n";

/// # Errors
/// A process that does not start, or a submit that is answered otherwise than it should be.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..3 {
        let refused = refusals(options.seconds).await?;
        figures.add("breaker_refusal_p50_ms", refused.ms(0.5));
        figures.add("breaker_refusal_p99_ms", refused.ms(0.99));
    }
    for pair in 0..options.pairs {
        for (way, name) in [(Way::Unary, "unary"), (Way::Batch, "batch")] {
            // Whoever is first has the warmer or the colder machine: in turns.
            let first_on = pair % 2 == 1;
            let first = cpu_us_a_job(way, first_on, options.seconds).await?;
            let second = cpu_us_a_job(way, !first_on, options.seconds).await?;
            let (off, on) = if first_on {
                (second, first)
            } else {
                (first, second)
            };
            figures.add(&format!("limits_off_{name}_cpu_us_per_job"), off);
            figures.add(&format!("limits_on_{name}_cpu_us_per_job"), on);
            figures.add(&format!("limits_{name}_cpu_ratio"), on / off);
        }
    }
    Ok(figures)
}

/// How long submits take that are refused because the store has gone.
async fn refusals(seconds: f64) -> anyhow::Result<Latencies> {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let channels = channels(&router.grpc_url()).await?;
    redis.kill9().await;
    let since = Instant::now();
    let mut refused = 0;
    while refused < 20 {
        ensure!(since.elapsed() < OPENS_WITHIN, "the circuit has not opened");
        let begin = Instant::now();
        let answer = submit(channels[0].clone(), QUEUE).await;
        ensure!(answer.is_err(), "a store that is gone has taken a job");
        // At first the store is asked; then it is not.
        refused = if begin.elapsed() < Duration::from_millis(5) {
            refused + 1
        } else {
            0
        };
    }
    let arrivals = steady(Duration::from_secs_f64(seconds), REFUSED_RATE);
    let calls = open_loop(Instant::now(), &arrivals, |n| {
        submit(channels[n % channels.len()].clone(), QUEUE)
    })
    .await;
    let other = calls.iter().find(|call| call.answer != Err(Code::Unavailable));
    ensure!(other.is_none(), "answered otherwise than UNAVAILABLE: {other:?}");
    Ok(calls.iter().map(Sent::latency).collect())
}

#[derive(Clone, Copy)]
enum Way {
    Unary,
    Batch,
}

/// What the router takes of the processor for one job, in us, with all limits or with none.
async fn cpu_us_a_job(way: Way, limits: bool, seconds: f64) -> anyhow::Result<f64> {
    let sandbox = Sandbox::new();
    let limits = if limits { LIMITS } else { "" };
    let options = RouterOptions {
        policies: Some(format!("[queues.{QUEUE}]\nmax_depth = 100000000\n{limits}")),
        ..RouterOptions::default()
    };
    let router = Router::start(&sandbox, "memory:", options).await;
    let channels = Arc::new(channels(&router.grpc_url()).await?);
    let client = Client::connect([router.grpc_url()])?;
    load(way, &client, &channels, WARM_UP).await?;
    let before = router.process.cpu_ticks();
    let jobs = load(way, &client, &channels, Duration::from_secs_f64(seconds)).await?;
    let ticks = router.process.cpu_ticks() - before;
    Ok(ticks as f64 / TICKS_PER_SECOND * 1e6 / jobs as f64)
}

/// As much as goes for so long; how many jobs it was.
async fn load(way: Way, client: &Client, channels: &[Channel], time: Duration) -> anyhow::Result<u64> {
    let end = Instant::now() + time;
    let callers = match way {
        Way::Unary => UNARY_CALLS,
        Way::Batch => 1,
    };
    let calling = (0..callers).map(|n| async move {
        let mut jobs = 0;
        while Instant::now() < end {
            jobs += match way {
                Way::Unary => {
                    let answer = submit(channels[n % channels.len()].clone(), QUEUE).await;
                    ensure!(answer.is_ok(), "a submit was refused: {answer:?}");
                    1
                }
                Way::Batch => batch(client).await?,
            };
        }
        Ok(jobs)
    });
    Ok(try_join_all(calling).await?.into_iter().sum())
}

async fn batch(client: &Client) -> anyhow::Result<u64> {
    let jobs = (0..BATCH).map(|_| Submission::raw(QUEUE, vec![0; PAYLOAD_BYTES]));
    for answer in client.submit_many(jobs).await {
        answer?;
    }
    Ok(BATCH as u64)
}
