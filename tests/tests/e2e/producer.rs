//! A producer as other languages would write one: the generated client, retries with the same request id, nothing else.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_protocol::v1::{
    GetQueueRequest, NewJob, Queue, SubmitJobsRequest, job_service_client::JobServiceClient,
    queue_service_client::QueueServiceClient, submit_jobs_response::item,
};
use uuid::Uuid;

pub fn new_job(queue: &str, payload: String) -> NewJob {
    NewJob {
        queue: queue.to_owned(),
        payload: Bytes::from(payload),
        request_id: Uuid::new_v4().to_string(),
        ..NewJob::default()
    }
}

/// Submits `count` jobs in batches, at whichever router answers, until every one is acknowledged. Answers their ids.
pub async fn submit_all(routers: &[String], queue: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    let jobs: Vec<_> = (0..count)
        .map(|i| new_job(queue, format!("{{\"n\":{i}}}")))
        .collect();
    for (number, batch) in jobs.chunks(250).enumerate() {
        ids.extend(submit_batch(routers, number, batch).await);
    }
    ids
}

async fn submit_batch(routers: &[String], mut turn: usize, batch: &[NewJob]) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = String::new();
    while Instant::now() < deadline {
        let router = routers[turn % routers.len()].clone();
        turn += 1;
        match try_batch(router, batch).await {
            Ok(ids) => return ids,
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no router acknowledged a batch within a minute; the last error: {last}");
}

/// One batch to one router, once.
pub async fn try_batch(router: String, batch: &[NewJob]) -> Result<Vec<String>, String> {
    let mut client = JobServiceClient::connect(router)
        .await
        .map_err(|error| error.to_string())?;
    let mut request = tonic::Request::new(SubmitJobsRequest { jobs: batch.to_vec() });
    request.set_timeout(Duration::from_secs(10));
    let answer = client
        .submit_jobs(request)
        .await
        // The reason is one of the texts among the details.
        .map_err(|status| format!("{status} {}", String::from_utf8_lossy(status.details())))?
        .into_inner();
    let id = |item: tidegate_protocol::v1::submit_jobs_response::Item| match item.result {
        Some(item::Result::Job(job)) => Ok(job.job_id),
        Some(item::Result::Error(error)) => Err(format!("{}: {}", error.reason, error.message)),
        None => Err("an item without an answer".to_owned()),
    };
    answer.items.into_iter().map(id).collect()
}

/// A queue's exact numbers; `None` while no answer is to be had.
pub async fn queue_stats(router: &str, queue: &str) -> Option<Queue> {
    let mut client = QueueServiceClient::connect(router.to_owned()).await.ok()?;
    let answer = client
        .get_queue(GetQueueRequest {
            name: queue.to_owned(),
        })
        .await
        .ok()?;
    answer.into_inner().queue
}
