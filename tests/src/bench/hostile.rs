//! `cargo xtask bench hostile`: how long a well-behaved producer's submits take while others attack the same router, beside
//! a calm time, and beside the same attack on another router of the machine, which shows what is the machine's and not the
//! router's.
//!
//! The attackers are a process of their own that runs only when nobody else wants a processor (SCHED_IDLE): they would come
//! from other machines, so their own work is not what is measured. Even the lowest nice value would not do: the kernel lets
//! such a process finish its slice of 4 ms before it lets the router have the processor back.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tonic::transport::Channel;

use super::{Figures, overload::submit};
use crate::{
    Process, Redis, RedisOptions, Router, RouterOptions, START_TIMEOUT, Sandbox,
    attack::{bad_messages, many_streams, slow_headers},
    built,
    load::Latencies,
};

pub struct Options {
    pub rounds: usize,
    /// Of each of the three times.
    pub seconds: f64,
}

const QUEUE: &str = "email";
const PAUSE: Duration = Duration::from_millis(2);
/// The attack is on by then, and memory is what it will be.
const LEAD: Duration = Duration::from_secs(3);
const READY: &str = "ready role=attackers";
const SENT: &str = " bad messages";

/// # Errors
/// A process that does not start, a submit that is refused, or attackers that were answered as they must not be.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let time = Duration::from_secs_f64(options.seconds);
    for _ in 0..options.rounds {
        let sandbox = Sandbox::new();
        let redis = Redis::start(&sandbox, RedisOptions::default()).await;
        let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
        let other = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
        let channel = Channel::from_shared(router.grpc_url())?.connect().await?;
        let mut add = |name: &str, times: &Latencies| {
            figures.add(&format!("hostile_{name}_p50_ms"), times.ms(0.5));
            figures.add(&format!("hostile_{name}_p99_ms"), times.ms(0.99));
            times.ms(0.99)
        };
        bystander(&channel, LEAD).await?;
        let calm = add("calm", &bystander(&channel, time).await?);
        let attack = Attack::start(&sandbox, &other, time).await;
        let elsewhere = add("elsewhere", &bystander(&channel, time).await?);
        attack.ended().await?;
        let attack = Attack::start(&sandbox, &router, time).await;
        let before_kb = router.process.rss_kb();
        let attacked = add("attacked", &bystander(&channel, time).await?);
        let grown_kb = router.process.rss_kb() as f64 - before_kb as f64;
        let messages = attack.ended().await?;
        figures.add("hostile_p99_ratio", attacked / calm);
        figures.add("hostile_elsewhere_p99_ratio", elsewhere / calm);
        figures.add("hostile_router_growth_mb", grown_kb / 1024.0);
        figures.add(
            "hostile_bad_messages_per_s",
            messages / (LEAD + time).as_secs_f64(),
        );
    }
    Ok(figures)
}

/// Submits one by one.
async fn bystander(channel: &Channel, time: Duration) -> anyhow::Result<Latencies> {
    let end = Instant::now() + time;
    let mut times = Latencies::default();
    while Instant::now() < end {
        let begin = Instant::now();
        let answer = submit(channel.clone(), QUEUE).await;
        ensure!(answer.is_ok(), "a well-behaved submit was answered {answer:?}");
        times.add(begin.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}

/// The attackers' process.
struct Attack(Process);

impl Attack {
    /// Goes on for [`LEAD`], which is over when this returns, and `time`.
    async fn start(sandbox: &Sandbox, router: &Router, time: Duration) -> Self {
        let mut command = Command::new("chrt");
        let seconds = (LEAD + time).as_secs_f64().to_string();
        command.args(["--idle", "0"]).arg(built("bench")).args([
            "the-attackers",
            "--router",
            &router.grpc_address(),
            "--seconds",
            &seconds,
        ]);
        let process = Process::start(sandbox, command);
        process.wait_for_line(READY, START_TIMEOUT).await;
        tokio::time::sleep(LEAD).await;
        Self(process)
    }

    /// How many bad messages they sent.
    async fn ended(self) -> anyhow::Result<f64> {
        let code = self.0.wait_exit(START_TIMEOUT).await;
        ensure!(code == 0, "the attackers ended with {code}: {}", self.0.tail());
        let said = self.0.stdout();
        let sent = said.lines().find_map(|line| line.strip_suffix(SENT));
        Ok(sent
            .context("the attackers did not say what they sent")?
            .parse()?)
    }
}

/// The attackers, until their time is over.
///
/// # Errors
/// An address that is none.
pub async fn attackers(router: &str, seconds: f64) -> anyhow::Result<()> {
    let address: SocketAddr = router.parse().context("the router's address")?;
    let seed = fastrand::u64(..);
    println!("{READY} seed={seed}");
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let random = || fastrand::Rng::with_seed(seed);
    let (sent, (), ()) = tokio::join!(
        bad_messages(address, random(), end),
        many_streams(address, end),
        slow_headers(address, random(), end),
    );
    println!("{sent}{SENT}");
    Ok(())
}
