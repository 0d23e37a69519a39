//! One figure each, from a fresh server.

use std::time::Duration;

use anyhow::ensure;

use super::{
    arena::{Arena, Worker},
    peer::Peer,
};
use crate::{Sandbox, bench::Figures};

/// A worker has to be left alone so long before its memory is that of an idle one.
const IDLE: Duration = Duration::from_secs(3);
/// What a worker still has to do when its submitter has ended, at a rate that it keeps up with.
const TAIL: Duration = Duration::from_secs(2);
/// Start of a measurement that does not count, as a share of it.
const WARM_UP: f64 = 0.2;
/// What adapters submit first at a rate, without asking when it starts: the first jobs of a process are those for which it
/// connects, and at 2,000 a second 30 ms of them would be the p99 of three seconds.
const PICKUP_WARM_UP_S: f64 = 1.0;
const FLEET: usize = 20;

/// Submits a second, one by one and in bulk.
pub async fn submit(peer: Peer, seconds: f64, figures: &mut Figures) -> anyhow::Result<()> {
    for (name, mode) in [("submit_single", "single"), ("submit_bulk", "bulk")] {
        let sandbox = Sandbox::new();
        let arena = Arena::start(&sandbox, peer, false).await;
        let (jobs, took) = arena.submit(&[mode, &seconds.to_string()]).await?;
        figures.add(name, jobs / took);
    }
    Ok(())
}

/// Jobs a second that one worker process takes from a backlog, and what each costs; with limits under `drain_limited`.
pub async fn drain(peer: Peer, limits: bool, seconds: f64, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, limits).await;
    let backlog = peer.backlog_max();
    arena.submit(&["count", &backlog.to_string()]).await?;
    let before = arena.work().await?;
    let worker = arena.worker(peer.concurrency(), 0).await;
    worker
        .wait(f64::from(backlog), Duration::from_secs_f64(seconds))
        .await;
    let after = arena.work().await?;
    let (handled, cpu_s) = (worker.handled(), worker.process.cpu_ticks() as f64 / 100.0);
    ensure!(handled > 0.0, "{} handled nothing in {seconds} s", peer.name());
    let rate = rate(&worker, f64::INFINITY);
    if limits {
        figures.add("drain_limited", rate);
        return Ok(());
    }
    figures.add("drain", rate);
    figures.add(
        "store_commands_per_job",
        (after.commands - before.commands) / handled,
    );
    figures.add(
        "store_cpu_us_per_job",
        (after.cpu_s - before.cpu_s) / handled * 1e6,
    );
    figures.add("worker_cpu_us_per_job", cpu_s / handled * 1e6);
    Ok(())
}

/// Jobs a second through submitter, store and one worker at the same time.
pub async fn pipeline(
    peer: Peer,
    name: &str,
    mode: &str,
    seconds: f64,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, false).await;
    let worker = arena.worker(peer.concurrency(), 0).await;
    arena.submit(&[mode, &seconds.to_string()]).await?;
    ensure!(
        worker.process.exit_code().is_none(),
        "the worker of {} ended by itself:\n{}",
        peer.name(),
        worker.process.tail()
    );
    figures.add(name, rate(&worker, seconds));
    Ok(())
}

/// From the moment when a job was to be submitted to the start of its handler, at a rate that does not wait for answers.
pub async fn pickup(peer: Peer, rate: u32, seconds: f64, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, false).await;
    let worker = arena.worker(peer.concurrency(), 0).await;
    let (jobs, _) = arena
        .submit(&["rate", &rate.to_string(), &seconds.to_string()])
        .await?;
    worker.wait(jobs, TAIL).await;
    let [p50, p99, p999, max, started] = worker.end().await?;
    figures.add(&format!("pickup_{rate}_p50_ms"), p50);
    figures.add(&format!("pickup_{rate}_p99_ms"), p99);
    figures.add(&format!("pickup_{rate}_p999_ms"), p999);
    figures.add(&format!("pickup_{rate}_max_ms"), max);
    // A peer that falls behind shows it here; its percentiles are of those that it started.
    let measured = jobs - f64::from(rate) * PICKUP_WARM_UP_S;
    figures.add(
        &format!("pickup_{rate}_started_percent"),
        started / measured * 100.0,
    );
    Ok(())
}

/// What the store holds for a waiting job.
pub async fn bytes(peer: Peer, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, false).await;
    // The first job brings tables, scripts and whatever is there once.
    arena.submit(&["count", "1"]).await?;
    let before = arena.bytes().await?;
    let (jobs, _) = arena.submit(&["count", &peer.backlog_max().to_string()]).await?;
    figures.add("bytes_per_job", (arena.bytes().await? - before) / jobs);
    Ok(())
}

/// An idle worker's memory, and what twenty of them hold open at the store.
pub async fn fleet(peer: Peer, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, false).await;
    let mut workers = vec![arena.worker(peer.concurrency(), 0).await];
    tokio::time::sleep(IDLE).await;
    figures.add("rss_mb", workers[0].process.rss_kb() as f64 / 1024.0);
    while workers.len() < FLEET {
        workers.push(arena.worker(peer.concurrency(), 0).await);
    }
    figures.add("connections_20", arena.connections().await?);
    Ok(())
}

/// Jobs a second by the worker's own reports, without the warm-up; at most so many seconds from the first job on.
fn rate(worker: &Worker, seconds: f64) -> f64 {
    let reports = worker.reports();
    let busy: Vec<_> = reports.windows(2).filter(|pair| pair[1].0 > pair[0].0).collect();
    let (Some(first), Some(last)) = (busy.first(), busy.last()) else {
        return 0.0;
    };
    let (start, end) = (first[0].1, last[1].1.min(first[0].1 + seconds));
    let from = start + (end - start) * WARM_UP;
    let counted: Vec<_> = reports
        .iter()
        .filter(|(_, at)| (from..=end).contains(at))
        .collect();
    match (counted.first(), counted.last()) {
        (Some(first), Some(last)) if last.1 > first.1 => (last.0 - first.0) / (last.1 - first.1),
        _ => 0.0,
    }
}
