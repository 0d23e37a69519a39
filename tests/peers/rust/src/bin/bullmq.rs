//! BullMQ's official Rust crate, defaults but `remove_on_complete`.

use std::sync::Arc;

use bullmq::{
    BulkJob, JobOptions, Queue, QueueOptions, Worker, WorkerOptions, options::RedisConnectionOptions,
    types::RemoveOnFinish, worker::CancellationToken,
};
use serde_json::Value;
use tidegate_bench_peers::{LANES, Work, args, runtime, submit};

fn connection() -> RedisConnectionOptions {
    RedisConnectionOptions::new().url(std::env::var("REDIS_URL").expect("REDIS_URL"))
}

async fn add(queue: Arc<Queue>, mut jobs: Vec<Value>) {
    let added = match jobs.len() {
        1 => queue.add("job", jobs.remove(0)).await.map(drop),
        _ => queue
            .add_bulk(jobs.into_iter().map(|job| BulkJob::new("job", job)).collect())
            .await
            .map(drop),
    };
    added.expect("add jobs");
}

fn main() {
    runtime().block_on(run());
}

async fn run() {
    let (call, mode, numbers) = args();
    if call == "submit" {
        let keep_none = JobOptions {
            remove_on_complete: Some(RemoveOnFinish::Bool(true)),
            ..JobOptions::default()
        };
        let options = QueueOptions::new()
            .connection(connection())
            .default_job_options(keep_none);
        let queue = Arc::new(
            Queue::with_options("bench", options)
                .await
                .expect("open the queue"),
        );
        return submit(&mode, &numbers, LANES, move |jobs| add(Arc::clone(&queue), jobs)).await;
    }
    let work = Work::new(numbers[1]);
    let handler = Arc::clone(&work);
    let processor = move |job: bullmq::Job, _: CancellationToken| {
        let work = Arc::clone(&handler);
        async move {
            work.handle(job.data()).await;
            Ok(Value::Null)
        }
    };
    let options = WorkerOptions::new()
        .connection(connection())
        .concurrency(numbers[0] as usize);
    let worker = Worker::with_options("bench", processor, options)
        .await
        .expect("start the worker");
    work.report().await;
    drop(worker);
}
