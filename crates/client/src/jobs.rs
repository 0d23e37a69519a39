//! Looking at jobs and steering them.

use std::{fmt::Display, time::Duration};

use tidegate_protocol::{domain::JobState, limits::BATCH_ITEMS_MAX, v1};
use tonic::Streaming;

use crate::{
    ActionResult, Client, ClientError, JobFilter, JobPage, JobView,
    call::{Plan, jitter},
    client::jobs,
    deadline::Deadline,
};

impl Client {
    /// One job, payload and result included.
    pub async fn get(&self, job_id: impl Display) -> Result<JobView, ClientError> {
        let request = v1::GetJobRequest {
            job_id: job_id.to_string(),
        };
        let send = |channel, request| async move { jobs(channel).get_job(request).await };
        let response = self
            .caller
            .call(self.read_plan("tidegate.v1.JobService/GetJob"), request, send)
            .await?;
        job_of(response.job)
    }

    /// Jobs of one queue in one state, without payloads and results. `page_size` 0 = 100, at most 1,000; `page_token` is
    /// empty or the previous page's. Pages are not a snapshot.
    pub async fn list(
        &self,
        queue: impl Into<String>,
        state: JobState,
        page_size: u32,
        page_token: impl Into<String>,
    ) -> Result<JobPage, ClientError> {
        let filter = JobFilter::of(queue).state(state);
        self.search(filter, page_size, page_token).await
    }

    /// Cancels jobs that are not finished. A running handler is told with its next renewal. One result per id.
    pub async fn cancel(
        &self,
        job_ids: impl IntoIterator<Item = impl Display>,
    ) -> Result<Vec<ActionResult>, ClientError> {
        let mut results = Vec::new();
        for job_ids in calls(job_ids) {
            let request = v1::CancelJobsRequest { job_ids };
            let send = |channel, request| async move { jobs(channel).cancel_jobs(request).await };
            results.extend(
                self.caller
                    .call(
                        self.write_plan("tidegate.v1.JobService/CancelJobs"),
                        request,
                        send,
                    )
                    .await?
                    .results,
            );
        }
        Ok(results.into_iter().map(ActionResult::from).collect())
    }

    /// Puts dead jobs back to ready with their attempts reset. One result per id.
    pub async fn redrive(
        &self,
        job_ids: impl IntoIterator<Item = impl Display>,
    ) -> Result<Vec<ActionResult>, ClientError> {
        let mut results = Vec::new();
        for job_ids in calls(job_ids) {
            let request = v1::RedriveJobsRequest { job_ids };
            let send = |channel, request| async move { jobs(channel).redrive_jobs(request).await };
            results.extend(
                self.caller
                    .call(
                        self.write_plan("tidegate.v1.JobService/RedriveJobs"),
                        request,
                        send,
                    )
                    .await?
                    .results,
            );
        }
        Ok(results.into_iter().map(ActionResult::from).collect())
    }

    /// Removes jobs in whatever state. One result per id.
    pub async fn delete(
        &self,
        job_ids: impl IntoIterator<Item = impl Display>,
    ) -> Result<Vec<ActionResult>, ClientError> {
        let mut results = Vec::new();
        for job_ids in calls(job_ids) {
            let request = v1::DeleteJobsRequest { job_ids };
            let send = |channel, request| async move { jobs(channel).delete_jobs(request).await };
            results.extend(
                self.caller
                    .call(
                        self.write_plan("tidegate.v1.JobService/DeleteJobs"),
                        request,
                        send,
                    )
                    .await?
                    .results,
            );
        }
        Ok(results.into_iter().map(ActionResult::from).collect())
    }

    /// The job now and at each change that the router learns of. Ends with the terminal state, or early when the router
    /// drains: [`Client::wait`] goes on by itself.
    pub async fn watch(&self, job_id: impl Display) -> Result<Watch, ClientError> {
        self.watch_until(&job_id.to_string(), self.deadline()).await
    }

    /// Waits until the job is terminal, over lost connections and draining routers. Submit with `want_result`, or a
    /// finished job may be gone from the store before it is seen.
    pub async fn wait(&self, job_id: impl Display, timeout: Duration) -> Result<JobView, ClientError> {
        let job_id = job_id.to_string();
        let deadline = Deadline::after(timeout);
        match tokio::time::timeout_at(deadline.instant(), self.wait_until(&job_id, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::timeout(format!("{job_id} is not finished"))),
        }
    }

    /// Bounded by the caller's timeout.
    async fn wait_until(&self, job_id: &str, deadline: Deadline) -> Result<JobView, ClientError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let ended = match self.watch_until(job_id, deadline).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Some(Ok(job)) if job.state.is_terminal() => return Ok(job),
                        // The router works: the next break is a new one.
                        Some(Ok(_)) => tries = 1,
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                },
                Err(error) => Some(error),
            };
            match ended {
                None | Some(ClientError::Unavailable { .. } | ClientError::Timeout { .. }) => {}
                Some(error) => return Err(error),
            }
            tokio::time::sleep(jitter(tries)).await;
        }
    }

    async fn watch_until(&self, job_id: &str, deadline: Deadline) -> Result<Watch, ClientError> {
        let plan = Plan {
            stream: true,
            ..Plan::repeatable("tidegate.v1.JobService/WatchJob", deadline)
        };
        let request = v1::WatchJobRequest {
            job_id: job_id.to_owned(),
        };
        let send = |channel, request| async move { jobs(channel).watch_job(request).await };
        let stream = self.caller.call(plan, request, send).await?;
        Ok(Watch { stream })
    }
}

/// A job's changes, from [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<v1::WatchJobResponse>,
}

impl Watch {
    /// `None`: the stream ended.
    pub async fn next(&mut self) -> Option<Result<JobView, ClientError>> {
        match self.stream.message().await {
            Ok(Some(response)) => Some(job_of(response.job)),
            Ok(None) => None,
            Err(status) => Some(Err(status.into())),
        }
    }
}

fn job_of(job: Option<v1::Job>) -> Result<JobView, ClientError> {
    job.ok_or_else(|| ClientError::bad_answer("no job in it"))?
        .try_into()
}

/// Ids in parts that one call takes.
fn calls(job_ids: impl IntoIterator<Item = impl Display>) -> Vec<Vec<String>> {
    let ids: Vec<String> = job_ids.into_iter().map(|id| id.to_string()).collect();
    ids.chunks(BATCH_ITEMS_MAX).map(<[String]>::to_vec).collect()
}
