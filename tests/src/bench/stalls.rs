//! How long one call of the Redis store may take when there is much to do: what others wait for.
//!
//! The longest command is the server's own figure (its latency monitor, whole ms); other times are seen from here.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tidegate_protocol::domain::{Incarnation, JobState, NewJob, Session};
use tidegate_store::{
    Clock, JobStore, LeaseRequest, ListRequest, ManualClock, OpenOptions, SweepReport, SweepRequest, Want,
    open,
    redis::{RedisOptions as StoreOptions, RedisStore},
};
use uuid::Uuid;

use super::{
    Figures,
    store::{Options, fill, jobs, prepare, queue, round},
};
use crate::{Redis, RedisOptions, Sandbox};

const DUE: usize = 100_000;
const LOST: usize = 50_000;
const KEYS: usize = 2_000_000;
const START_MS: u64 = 1_700_000_000_000;
/// Time enough for every key of the default window to end.
const LATER: Duration = Duration::from_secs(2 * 86_400);

pub async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    if options.wants("due100k") {
        sweep_of("due100k", figures, due).await?;
    }
    if options.wants("lost50k") {
        sweep_of("lost50k", figures, lost).await?;
    }
    if options.wants("keys2m") {
        keys(figures).await?;
    }
    if options.wants("looks1m") {
        looks(options, figures).await?;
    }
    Ok(())
}

/// A store on a clock that is moved by hand.
async fn on_manual_clock(redis: &Redis<'_>) -> anyhow::Result<(Arc<dyn JobStore>, Arc<ManualClock>)> {
    let clock = Arc::new(ManualClock::new(START_MS));
    let options = StoreOptions {
        clock: Some(clock.clone() as Arc<dyn Clock>),
        ..StoreOptions::default()
    };
    let store: Arc<dyn JobStore> = Arc::new(RedisStore::connect(&redis.url(), options).await?);
    prepare(&store).await?;
    redis
        .must(&["CONFIG", "SET", "latency-monitor-threshold", "1"])
        .await;
    Ok((store, clock))
}

async fn start(sandbox: &Sandbox) -> Redis<'_> {
    Redis::start(sandbox, RedisOptions::default().with("appendonly", "no")).await
}

async fn submit_all(store: &Arc<dyn JobStore>, n: usize, with: impl Fn(&mut NewJob)) -> anyhow::Result<()> {
    for _ in 0..n.div_ceil(1_000) {
        let mut batch = jobs(1_000);
        batch.iter_mut().for_each(&with);
        for answer in store.submit(batch).await {
            answer?;
        }
    }
    Ok(())
}

/// All of them due at the same moment.
async fn due(store: Arc<dyn JobStore>) -> anyhow::Result<usize> {
    submit_all(&store, DUE, |job| job.run_at_ms = START_MS + 1_000).await?;
    Ok(DUE)
}

/// All of them leased to somebody who is gone.
async fn lost(store: Arc<dyn JobStore>) -> anyhow::Result<usize> {
    submit_all(&store, LOST, |_| {}).await?;
    let mut leased = 0;
    while leased < LOST {
        let want = Want {
            session: Session(Uuid::from_u128(1)),
            incarnation: Incarnation(Uuid::from_u128(2)),
            max: 1_000,
        };
        let request = LeaseRequest {
            queue: queue(),
            wants: vec![want],
        };
        let grants = store.lease(vec![request]).await.remove(0)?.grants.len();
        ensure!(grants > 0, "nothing was leased");
        leased += grants;
    }
    Ok(LOST)
}

async fn sweep_once(store: &Arc<dyn JobStore>) -> anyhow::Result<SweepReport> {
    let request = SweepRequest {
        queue: queue(),
        reclaim_until_ms: Some(u64::MAX),
        hold_ms: 0,
        limit: 1_000,
        seed: 7,
    };
    Ok(store.sweep(vec![request]).await.remove(0)?)
}

/// Sweeps until `expected` items are worked off.
async fn sweep_all(store: &Arc<dyn JobStore>, expected: usize) -> anyhow::Result<()> {
    let mut done = 0;
    while done < expected {
        let report = sweep_once(store).await?;
        let now = report.promoted + report.reclaimed + report.keys_forgotten;
        ensure!(now > 0 || report.more, "the sweep ended at {done} of {expected}");
        done += now as usize;
    }
    Ok(())
}

/// Submits one job after the other for ever; `longest`: the longest wait so far, in ms.
async fn submit_beside(store: &Arc<dyn JobStore>, longest: &Cell<f64>) -> anyhow::Result<()> {
    loop {
        let sent = Instant::now();
        for answer in store.submit(jobs(1)).await {
            answer?;
        }
        longest.set(longest.get().max(ms(sent.elapsed())));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What `fill` has made is worked off by sweeps: the longest command, the time it took, the longest submit beside it.
async fn sweep_of<F>(
    name: &str,
    figures: &mut Figures,
    fill: impl FnOnce(Arc<dyn JobStore>) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<usize>>,
{
    let sandbox = Sandbox::new();
    let redis = start(&sandbox).await;
    let (store, clock) = on_manual_clock(&redis).await?;
    let expected = fill(store.clone()).await?;
    clock.advance(60_000);
    measure(name, figures, &redis, &store, expected).await?;
    store.close().await;
    Ok(())
}

async fn measure(
    name: &str,
    figures: &mut Figures,
    redis: &Redis<'_>,
    store: &Arc<dyn JobStore>,
    expected: usize,
) -> anyhow::Result<()> {
    redis.must(&["LATENCY", "RESET"]).await;
    let (started, longest) = (Instant::now(), Cell::new(0.0));
    tokio::select! {
        swept = sweep_all(store, expected) => swept?,
        failed = submit_beside(store, &longest) => failed?,
    }
    figures.add(
        &format!("{name}_longest_call_ms"),
        longest_command_ms(redis).await?,
    );
    figures.add(&format!("{name}_longest_submit_ms"), longest.get());
    figures.add(&format!("{name}_all_ms"), ms(started.elapsed()));
    Ok(())
}

/// The keys of two million jobs that have ended are forgotten.
async fn keys(figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let redis = start(&sandbox).await;
    let (store, clock) = on_manual_clock(&redis).await?;
    let mut left = KEYS;
    while left > 0 {
        left = left.saturating_sub(round(&*store, 500).await?);
    }
    clock.advance(LATER.as_millis() as u64);
    measure("keys2m", figures, &redis, &store, KEYS).await?;
    store.close().await;
    Ok(())
}

/// Statistics, single jobs and pages of a queue that holds a million.
async fn looks(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let redis = start(&sandbox).await;
    let store = open(&redis.url(), &OpenOptions::default()).await?;
    prepare(&store).await?;
    fill(&store, options.queued).await?;
    let request = ListRequest {
        queue: queue(),
        state: JobState::Ready,
        limit: 1_000,
        cursor: None,
    };
    let page = store.list(request.clone()).await?;
    let ids: Vec<_> = page.jobs.iter().map(|job| job.id.clone()).collect();
    for id in ids.iter().take(300) {
        let sent = Instant::now();
        store.stats(vec![queue()]).await.remove(0)?;
        figures.add("looks1m_stats_ms", ms(sent.elapsed()));
        let sent = Instant::now();
        store.get(vec![id.clone()]).await.remove(0)?;
        figures.add("looks1m_get_ms", ms(sent.elapsed()));
    }
    for _ in 0..30 {
        let sent = Instant::now();
        store.list(request.clone()).await?;
        figures.add("looks1m_page_of_1000_ms", ms(sent.elapsed()));
    }
    store.close().await;
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The longest command since the monitor was reset, in whole ms; 0 = below one.
async fn longest_command_ms(redis: &Redis<'_>) -> anyhow::Result<f64> {
    let reply = redis.must(&["LATENCY", "LATEST"]).await;
    let lines: Vec<_> = reply.lines().collect();
    let of = |chunk: &[&str]| chunk.first().is_some_and(|event| event.ends_with("command"));
    let mut longest = lines
        .chunks(4)
        .filter(|chunk| of(chunk))
        .map(|chunk| chunk[3].parse::<f64>());
    longest.try_fold(0.0, |longest: f64, ms| Ok(longest.max(ms?)))
}
