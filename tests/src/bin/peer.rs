//! Tidegate's adapter for `cargo xtask bench peers`: see peers/README.md. Two more ways to submit than others have: `flood`
//! (a thousand tasks, each submitting through the client library, which makes batches of what is there) and `unary` (a call
//! a job, 64 in flight).

#![allow(
    clippy::disallowed_methods,
    reason = "like every adapter: submits are joined at the end, and the environment says where the servers are"
)]

#[path = "../../peers/rust/src/lib.rs"]
mod adapter;

use std::{sync::Arc, time::Duration};

use adapter::Work;
use serde_json::Value;
use tidegate_client::{Client, Submission};
use tidegate_protocol::v1::{NewJob, SubmitJobRequest, job_service_client::JobServiceClient};
use tidegate_worker::{Delivery, Job, Verdict, Worker};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

const QUEUE: &str = "bench";
const FLOOD_LANES: usize = 1_000;
/// A router that makes the adapter wait longer than that is not being measured any more.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);

async fn add(client: Client, mut jobs: Vec<Value>) {
    if jobs.len() == 1 {
        let job = jobs.remove(0).to_string();
        client.submit_raw(QUEUE, job).send().await.expect("submit a job");
        return;
    }
    let submissions = jobs
        .into_iter()
        .map(|job| Submission::raw(QUEUE, job.to_string()));
    for answer in client.submit_many(submissions).await {
        answer.expect("submit a job");
    }
}

async fn unary(channel: Channel, mut jobs: Vec<Value>) {
    let job = NewJob {
        queue: QUEUE.to_owned(),
        payload: jobs.remove(0).to_string().into(),
        request_id: Uuid::new_v4().to_string(),
        ..NewJob::default()
    };
    let request = SubmitJobRequest { job: Some(job) };
    let answer = JobServiceClient::new(channel).submit_job(request).await;
    answer.expect("submit a job");
}

struct Handler(Arc<Work>);

#[tonic::async_trait]
impl Delivery for Handler {
    async fn deliver(&self, job: Job) -> Verdict {
        let job = serde_json::from_slice(&job.payload).unwrap_or_default();
        self.0.handle(&job).await;
        Verdict::succeeded(Vec::new())
    }
}

async fn submit(router: String, mode: &str, numbers: &[f64]) -> Result<(), Box<dyn std::error::Error>> {
    if mode == "unary" {
        let channel = Endpoint::from_shared(router)?.tcp_nodelay(true).connect().await?;
        adapter::submit("single", numbers, adapter::LANES, move |jobs| {
            unary(channel.clone(), jobs)
        })
        .await;
        return Ok(());
    }
    let client = Client::connect([router])?.timeout(SUBMIT_TIMEOUT);
    let (mode, lanes) = match mode {
        "flood" => ("single", FLOOD_LANES),
        mode => (mode, adapter::LANES),
    };
    adapter::submit(mode, numbers, lanes, move |jobs| add(client.clone(), jobs)).await;
    Ok(())
}

async fn work(router: String, numbers: &[f64]) -> Result<(), Box<dyn std::error::Error>> {
    let work = Work::new(numbers[1]);
    let worker = Worker::connect(router, ())
        .deliver(QUEUE, Handler(Arc::clone(&work)))
        .slots(numbers[0] as u32);
    worker.run_until(reported(work)).await?;
    Ok(())
}

async fn reported(work: Arc<Work>) {
    work.report().await;
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    adapter::runtime().block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (call, mode, numbers) = adapter::args();
    let router = std::env::var("TIDEGATE_ROUTER")?;
    match &*call {
        "submit" => submit(router, &mode, &numbers).await,
        _ => work(router, &numbers).await,
    }
}
