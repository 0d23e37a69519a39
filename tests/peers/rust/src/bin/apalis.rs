//! apalis on Redis, tuned: batches of 100, a poll each 5 ms. With its defaults a job waits for the poll (100 ms), and without
//! `poll_with_interval` an idle worker does not notice new jobs.

use std::{sync::Arc, time::Duration};

use apalis::prelude::*;
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_bench_peers::{LANES, Work, args, runtime, submit};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job(Value);

async fn storage() -> RedisStorage<Job, ConnectionManager> {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL");
    let connection = apalis_redis::connect(url).await.expect("connect");
    RedisStorage::new(connection).with_config(Config::default().queue("bench").batch_size(100))
}

async fn add(mut storage: RedisStorage<Job, ConnectionManager>, mut jobs: Vec<Value>) {
    let added = match jobs.len() {
        1 => storage.push(Job(jobs.remove(0))).await,
        _ => storage.push_bulk(jobs.into_iter().map(Job).collect()).await,
    };
    added.expect("add jobs");
}

fn main() {
    runtime().block_on(run());
}

async fn run() {
    let (call, mode, numbers) = args();
    let storage = storage().await;
    if call == "submit" {
        return submit(&mode, &numbers, LANES, move |jobs| add(storage.clone(), jobs)).await;
    }
    let work = Work::new(numbers[1]);
    let handler = Arc::clone(&work);
    let worker = WorkerBuilder::new(format!("bench-{}", std::process::id()))
        .backend(storage.poll_with_interval(Duration::from_millis(5)))
        .concurrency(numbers[0] as usize)
        .parallelize(tokio::spawn)
        .build(move |job: Job| {
            let work = Arc::clone(&handler);
            async move { work.handle(&job.0).await }
        });
    let running = tokio::spawn(worker.run());
    work.report().await;
    running.abort();
}
