//! `cargo xtask bench controller`: one controller process and a fleet that is simulated, but for its streams.
//!
//! 1,000 workers of ten queues each, 100 queues in all, one router. Loads move from turn to turn, so that targets do, too.
//! Measured: how long a tick takes with everything that it sends (the controller's own histogram), how long after a tick
//! began its targets were at the workers (by the decisions' time, on one machine's clock), memory, and what twenty idle
//! workers cost at the default tick.

mod fleet;
mod page;

use std::{
    collections::BTreeMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tidegate_protocol::v1::{self, tuning_service_client::TuningServiceClient};
use tokio::task::JoinSet;

use self::{
    fleet::{Arrivals, channel, queue, router, worker},
    page::Histogram,
};
use super::{Figures, Taken};
use crate::{Controller, ControllerOptions, Sandbox};

pub struct Options {
    pub workers: usize,
    pub queues: usize,
    pub seconds: u64,
}

/// As the design has it: a worker serves ten queues at most.
const QUEUES_PER_WORKER: usize = 10;
/// Streams of one connection: less than servers allow.
const STREAMS_PER_CHANNEL: usize = 50;
const RESOURCES: usize = 4;
/// For everybody to be attached and the first ticks to be over.
const WARM_UP: Duration = Duration::from_secs(8);
const IDLE_WORKERS: usize = 20;
const IDLE: Duration = Duration::from_secs(20);

/// # Errors
/// A process that does not start, a stream that ends, or a controller that sends nothing.
pub async fn run(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    busy(options, &mut figures).await?;
    idle(options, &mut figures).await?;
    Ok(figures)
}

async fn controller(sandbox: &Sandbox, queues: usize, tick: &str) -> Controller {
    let policies: String = (0..RESOURCES)
        .map(|at| format!("[resources.pg-{at}]\ncapacity = 4000\n"))
        .chain((0..queues).map(|at| {
            format!(
                "[queues.{}]\ncosts = {{ pg-{} = 1 }}\n",
                queue(at),
                at % RESOURCES
            )
        }))
        .collect();
    let options = ControllerOptions {
        policies: Some(policies),
        config: Some(format!("[controller]\ntick = \"{tick}\"\n")),
        ..ControllerOptions::default()
    };
    Controller::start(sandbox, options).await
}

/// As many workers as are asked for, and their router.
async fn attach_all(
    fleet: &mut JoinSet<Result<()>>,
    url: &str,
    options: &Options,
    arrivals: &Arrivals,
) -> Result<()> {
    fleet.spawn(router(channel(url).await?, options.queues, true));
    for block in 0..options.workers.div_ceil(STREAMS_PER_CHANNEL) {
        let channel = channel(url).await?;
        let first = block * STREAMS_PER_CHANNEL;
        for at in first..options.workers.min(first + STREAMS_PER_CHANNEL) {
            let serves = (0..QUEUES_PER_WORKER).map(|n| queue((at * 3 + n * 7) % options.queues));
            fleet.spawn(worker(
                channel.clone(),
                at,
                serves.collect(),
                true,
                arrivals.clone(),
            ));
        }
    }
    Ok(())
}

async fn busy(options: &Options, figures: &mut Figures) -> Result<()> {
    let sandbox = Sandbox::new();
    let controller = controller(&sandbox, options.queues, "1s").await;
    let url = controller.grpc_url();
    let (arrivals, mut fleet) = (Arrivals::default(), JoinSet::new());
    attach_all(&mut fleet, &url, options, &arrivals).await?;
    let mut tuning = TuningServiceClient::new(channel(&url).await?);
    tokio::time::sleep(WARM_UP).await;
    let attached = tuning
        .get_fleet(v1::GetFleetRequest {})
        .await?
        .into_inner()
        .nodes
        .len();
    ensure!(attached == options.workers + 1, "{attached} nodes are attached");
    let watch = v1::WatchDecisionsRequest::default();
    let mut decisions = tuning.watch_decisions(watch).await?.into_inner();
    let before = Histogram::of(&controller.metrics().await);
    arrivals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    // Generation to the time at which its tick began.
    let mut ticks: BTreeMap<u64, u64> = BTreeMap::new();
    let (taken, began) = (Taken::begin(&controller.process), Instant::now());
    while began.elapsed() < Duration::from_secs(options.seconds) {
        tokio::select! {
            decision = decisions.message() => {
                let decision = decision?.context("decisions end")?.decision.unwrap_or_default();
                let generation = decision.version.unwrap_or_default().generation;
                ticks.entry(generation).or_insert(decision.at_ms);
            }
            Some(ended) = fleet.join_next() => {
                ended??;
                anyhow::bail!("a node's stream ended");
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    let cpu = taken.percent(&controller.process);
    let ticked = Histogram::of(&controller.metrics().await).since(&before);
    ensure!(ticked.count > 0.0, "the controller tells nothing of its ticks");
    figures.add("tick_p50_ms", ticked.quantile(0.5) * 1e3);
    figures.add("tick_p99_ms", ticked.quantile(0.99) * 1e3);
    let pushes = pushes(&arrivals, &ticks);
    ensure!(
        pushes.len() > options.workers,
        "only {} targets came",
        pushes.len()
    );
    figures.add("push_p50_ms", pushes[pushes.len() / 2]);
    figures.add("push_p99_ms", pushes[pushes.len() * 99 / 100]);
    figures.add("targets_per_s", pushes.len() as f64 / options.seconds as f64);
    figures.add("controller_busy_cpu_pct", cpu);
    figures.add("controller_rss_mb", controller.process.rss_kb() as f64 / 1024.0);
    Ok(())
}

/// How long after its tick began each of the targets came, milliseconds, in order. A tick's decisions carry its last
/// version, its targets an earlier one.
fn pushes(arrivals: &Arrivals, ticks: &BTreeMap<u64, u64>) -> Vec<f64> {
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |(generation, at_ms): &(u64, u64)| {
        let (_, began_ms) = ticks.range(generation..).next()?;
        // Of a tick without a decision, the next one's would be later than the arrival.
        at_ms.checked_sub(*began_ms).map(|ms| ms as f64)
    };
    let mut pushes: Vec<f64> = arrivals.iter().filter_map(of).collect();
    pushes.sort_by(f64::total_cmp);
    pushes
}

async fn idle(options: &Options, figures: &mut Figures) -> Result<()> {
    let sandbox = Sandbox::new();
    let controller = controller(&sandbox, options.queues, "5s").await;
    let channel = channel(&controller.grpc_url()).await?;
    let mut fleet = JoinSet::new();
    fleet.spawn(router(channel.clone(), options.queues, false));
    for at in 0..IDLE_WORKERS {
        let serves = (0..QUEUES_PER_WORKER).map(|n| queue((at * 3 + n * 7) % options.queues));
        fleet.spawn(worker(
            channel.clone(),
            at,
            serves.collect(),
            false,
            Arrivals::default(),
        ));
    }
    tokio::time::sleep(WARM_UP).await;
    let taken = Taken::begin(&controller.process);
    tokio::time::sleep(IDLE).await;
    figures.add("controller_idle_cpu_pct", taken.percent(&controller.process));
    figures.add(
        "controller_idle_rss_mb",
        controller.process.rss_kb() as f64 / 1024.0,
    );
    Ok(())
}
