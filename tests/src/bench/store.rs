//! `cargo xtask bench store`: whole lifecycles a second, beside what one Redis does with plain SETs.
//!
//! A lifecycle is a submit with an idempotency key, a lease under a cap and a fenced settle, each in batches of `b`;
//! payloads have 200 bytes. Before anything is measured the store remembers [`Options::keys`] keys of earlier jobs, as it
//! would in production, and those of the measured jobs join them.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tidegate_protocol::domain::{
    Cap, Incarnation, JobId, LeaseRef, NewJob, Outcome, PayloadHash, Policy, QueueName, ResourceCost,
    Session, Settlement, Version,
};
use tidegate_store::{CapOrder, JobStore, LeaseRequest, OpenOptions, QueueRecord, SettleItem, Want, open};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Figures, stalls};
use crate::{Redis, RedisOptions, Sandbox};

pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    pub backlog: usize,
    /// Keys remembered before.
    pub keys: usize,
    /// Jobs queued to measure their bytes.
    pub queued: usize,
    /// Names of figures; empty = all.
    pub only: Vec<String>,
}

impl Options {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 3,
            seconds: 4.0,
            backlog: 500_000,
            keys: 1_000_000,
            queued: 1_000_000,
            only: Vec::new(),
        }
    }
}

const PAYLOAD_BYTES: usize = 200;
const QUEUE: &str = "bench";
/// Callers at once: as many as a router has for single jobs, and enough to keep a store busy with batches.
const CALLERS_SINGLE: usize = 64;
const CALLERS_BATCH: usize = 4;

/// # Errors
/// A server that does not start or an operation that fails.
pub async fn run(options: &Options) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        redis(options, &mut figures).await?;
        sqlite(options, &mut figures).await?;
    }
    bytes_per_job(options, &mut figures).await?;
    stalls::run(options, &mut figures).await?;
    Ok(figures)
}

async fn redis(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let plain = Redis::start(&sandbox, RedisOptions::default().with("appendonly", "no")).await;
    figures.add("redis_set_p1", redis_set(plain.port())?);
    let store = open(&plain.url(), &OpenOptions::default()).await?;
    prepare(&store).await?;
    remember(
        &store,
        options,
        &["lifecycle_b1", "lifecycle_b64", "lifecycle_b64_backlog500k"],
    )
    .await?;
    measure(&store, options, figures, "lifecycle_b1", 1).await?;
    measure(&store, options, figures, "lifecycle_b64", 64).await?;
    if options.wants("lifecycle_b64_backlog500k") {
        fill(&store, options.backlog).await?;
        measure(&store, options, figures, "lifecycle_b64_backlog500k", 64).await?;
    }
    store.close().await;

    let durable = Redis::start(&sandbox, RedisOptions::default()).await;
    let store = open(&durable.url(), &OpenOptions::default()).await?;
    prepare(&store).await?;
    remember(&store, options, &["lifecycle_b64_everysec"]).await?;
    measure(&store, options, figures, "lifecycle_b64_everysec", 64).await?;
    store.close().await;
    Ok(())
}

async fn sqlite(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let url = format!("sqlite:{}", sandbox.path().join("jobs.db").display());
    let store = open(&url, &OpenOptions::default()).await?;
    prepare(&store).await?;
    measure(&store, options, figures, "sqlite_b256_full", 256).await?;
    if options.wants("sqlite_backlog500k") {
        fill(&store, options.backlog).await?;
        measure(&store, options, figures, "sqlite_backlog500k", 256).await?;
    }
    store.close().await;
    Ok(())
}

/// Leaves so many keys of earlier jobs behind, if one of `figures` is wanted.
async fn remember(store: &Arc<dyn JobStore>, options: &Options, figures: &[&str]) -> anyhow::Result<()> {
    if !figures.iter().any(|name| options.wants(name)) {
        return Ok(());
    }
    let mut left = options.keys;
    while left > 0 {
        left = left.saturating_sub(round(&**store, 500).await?);
    }
    Ok(())
}

/// Lifecycles a second in batches of `batch`.
async fn measure(
    store: &Arc<dyn JobStore>,
    options: &Options,
    figures: &mut Figures,
    name: &str,
    batch: usize,
) -> anyhow::Result<()> {
    if options.wants(name) {
        let callers = if batch == 1 { CALLERS_SINGLE } else { CALLERS_BATCH };
        figures.add(name, lifecycles(store, batch, callers, options.seconds).await?);
    }
    Ok(())
}

async fn bytes_per_job(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    if !options.wants("bytes_per_queued_job") {
        return Ok(());
    }
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("appendonly", "no")).await;
    let store = open(&redis.url(), &OpenOptions::default()).await?;
    prepare(&store).await?;
    let before = used_memory(&redis).await?;
    fill(&store, options.queued).await?;
    let bytes = used_memory(&redis).await? - before;
    figures.add("bytes_per_queued_job", bytes / options.queued as f64);
    store.close().await;
    Ok(())
}

async fn used_memory(redis: &Redis<'_>) -> anyhow::Result<f64> {
    let info = redis.must(&["INFO", "memory"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(line.context("INFO has no used_memory")?.trim().parse()?)
}

/// SETs a second without pipelining, by the server's own tool.
fn redis_set(port: u16) -> anyhow::Result<f64> {
    let port = port.to_string();
    let args = [
        "-p", &port, "-t", "set", "-P", "1", "-c", "50", "-d", "200", "-n", "400000", "--csv",
    ];
    let out = Command::new("redis-benchmark")
        .args(args)
        .output()
        .context("redis-benchmark does not start")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text
        .lines()
        .find(|line| line.starts_with("\"SET\""))
        .context("redis-benchmark said nothing")?;
    let rate = line.split(',').nth(1).context("redis-benchmark said no rate")?;
    Ok(rate.trim_matches('"').parse()?)
}

pub(super) fn queue() -> QueueName {
    QUEUE.parse().expect("a valid name")
}

/// A queue that costs a resource, so that every lease is under a cap.
pub(super) async fn prepare(store: &Arc<dyn JobStore>) -> anyhow::Result<()> {
    let costs = vec![ResourceCost {
        resource: "pg-main".into(),
        units: 1,
    }];
    let policy = Policy {
        costs,
        max_depth: 10_000_000,
        ..Policy::default()
    };
    let record = QueueRecord {
        queue: queue(),
        policy,
        version: Version::default(),
    };
    store.put_queue(vec![record]).await.remove(0)?;
    let cap = Some(Cap {
        cap: 1_000_000,
        retry_cap: 1_000_000,
        safe: 1_000_000,
    });
    let order = CapOrder {
        queue: queue(),
        cap,
        version: Version::default(),
        ttl_ms: 0,
    };
    store.set_caps(vec![order]).await.remove(0)?;
    Ok(())
}

pub(super) fn jobs(n: usize) -> Vec<NewJob> {
    let job = |_| {
        let local = Uuid::now_v7();
        let id = JobId {
            queue: queue(),
            shard: 0,
            local,
        };
        let unique = local.simple().to_string();
        let idempotency_key = Some(format!("order-{}", &unique[16..]));
        // Jobs differ in their payloads: stores and interpreters treat equal texts in ways of their own.
        let payload: Bytes = unique.bytes().cycle().take(PAYLOAD_BYTES).collect();
        let mut payload_hash = PayloadHash::default();
        payload_hash.copy_from_slice(&local.as_bytes()[4..]);
        NewJob {
            idempotency_key,
            payload_hash,
            ..NewJob::new(id, payload)
        }
    };
    (0..n).map(job).collect()
}

pub(super) async fn fill(store: &Arc<dyn JobStore>, n: usize) -> anyhow::Result<()> {
    for _ in 0..n.div_ceil(1_000) {
        for answer in store.submit(jobs(1_000)).await {
            answer?;
        }
    }
    Ok(())
}

async fn lifecycles(
    store: &Arc<dyn JobStore>,
    batch: usize,
    callers: usize,
    seconds: f64,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                done += round(&*store, batch).await?;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(joined) = tasks.join_next().await {
        done += joined??;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

pub(super) async fn round(store: &dyn JobStore, batch: usize) -> anyhow::Result<usize> {
    for answer in store.submit(jobs(batch)).await {
        answer?;
    }
    let want = Want {
        session: Session(Uuid::new_v4()),
        incarnation: Incarnation(Uuid::nil()),
        max: batch as u32,
    };
    let request = LeaseRequest {
        queue: queue(),
        wants: vec![want],
    };
    let grants = store.lease(vec![request]).await.remove(0)?.grants;
    let item = |grant: tidegate_store::Grant| {
        let lease = LeaseRef {
            id: grant.job.id.clone(),
            fence: grant.job.fence,
        };
        let outcome = Outcome::Succeeded { result: Bytes::new() };
        SettleItem {
            settlement: Settlement {
                lease,
                outcome,
                class: None,
                run_ms: 1,
            },
            random: 0.5,
        }
    };
    let items: Vec<_> = grants.into_iter().map(item).collect();
    let n = items.len();
    let settled = store.settle(items).await;
    ensure!(settled.iter().all(Result::is_ok), "a settle failed: {settled:?}");
    Ok(n)
}
