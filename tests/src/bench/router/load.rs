//! Ways to submit as much as goes: in a closed loop, each caller waits for its answers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tidegate_client::Client;
use tidegate_protocol::{
    limits::MESSAGE_BYTES_MAX,
    v1::{self, job_service_client::JobServiceClient, submit_jobs_response::item::Result as ItemResult},
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{QUEUE, payload};

#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The client library's: many tasks submit one job each, and the library makes batches of what is there.
    Client,
    /// The client library's for who has a list.
    Many,
    /// A call a job.
    Unary,
    /// Calls of 64 jobs.
    Batch,
}

pub(super) const WAYS: [(&str, Way); 4] = [
    ("lifecycle_client", Way::Client),
    ("lifecycle_client_many", Way::Many),
    ("lifecycle_unary64", Way::Unary),
    ("lifecycle_batch64", Way::Batch),
];

/// Tasks that submit at once through the library.
const CLIENT_TASKS: usize = 2_000;
/// Jobs of a list, and lists at once.
const MANY: usize = 1_000;
const MANY_TASKS: usize = 2;
/// Calls in flight.
const UNARY_CALLS: usize = 64;
const BATCH: usize = 64;
const BATCH_CALLS: usize = 4;

/// Submits for so long, on one thread as a producer beside three other processes has it; answers how many jobs were
/// entered.
pub(super) async fn run(way: Way, url: &str, time: Duration) -> anyhow::Result<u64> {
    let url = url.to_owned();
    let producer = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(submit(way, &url, time))
    };
    tokio::task::spawn_blocking(producer).await?
}

async fn submit(way: Way, url: &str, time: Duration) -> anyhow::Result<u64> {
    let end = Instant::now() + time;
    let client = Client::connect([url])?;
    let channel = Endpoint::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut tasks = JoinSet::new();
    let callers = match way {
        Way::Client => CLIENT_TASKS,
        Way::Many => MANY_TASKS,
        Way::Unary => UNARY_CALLS,
        Way::Batch => BATCH_CALLS,
    };
    for _ in 0..callers {
        let (client, channel) = (client.clone(), channel.clone());
        tasks.spawn(async move {
            let mut raw = raw(channel);
            let mut entered = 0;
            while Instant::now() < end {
                entered += match way {
                    Way::Client => single(&client).await?,
                    Way::Many => many(&client).await?,
                    Way::Unary => unary(&mut raw).await?,
                    Way::Batch => batch(&mut raw).await?,
                };
            }
            anyhow::Ok(entered)
        });
    }
    let mut entered = 0;
    while let Some(joined) = tasks.join_next().await {
        entered += joined??;
    }
    client.close().await;
    Ok(entered)
}

fn raw(channel: Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

async fn single(client: &Client) -> anyhow::Result<u64> {
    client.submit_raw(QUEUE, payload(0)).send().await?;
    Ok(1)
}

async fn many(client: &Client) -> anyhow::Result<u64> {
    let submissions = (0..MANY).map(|_| tidegate_client::Submission::raw(QUEUE, payload(0)));
    for answer in client.submit_many(submissions).await {
        answer?;
    }
    Ok(MANY as u64)
}

fn job() -> v1::NewJob {
    v1::NewJob {
        queue: QUEUE.to_owned(),
        payload: payload(0),
        request_id: Uuid::new_v4().to_string(),
        ..v1::NewJob::default()
    }
}

async fn unary(raw: &mut JobServiceClient<Channel>) -> anyhow::Result<u64> {
    let request = v1::SubmitJobRequest { job: Some(job()) };
    let answer = raw.submit_job(request).await?.into_inner();
    answer.job.context("an answer without a job")?;
    Ok(1)
}

async fn batch(raw: &mut JobServiceClient<Channel>) -> anyhow::Result<u64> {
    let jobs = (0..BATCH).map(|_| job()).collect();
    let answer = raw
        .submit_jobs(v1::SubmitJobsRequest { jobs })
        .await?
        .into_inner();
    let is_job = |item: &v1::submit_jobs_response::Item| matches!(item.result, Some(ItemResult::Job(_)));
    ensure!(
        answer.items.len() == BATCH && answer.items.iter().all(is_job),
        "a job was refused: {:?}",
        answer.items.iter().find(|item| !is_job(item))
    );
    Ok(BATCH as u64)
}
