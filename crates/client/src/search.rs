//! Finding jobs, and doing one thing to all of them.

use std::time::SystemTime;

use tidegate_protocol::{domain::JobState, v1};
use tonic::Streaming;

use crate::{Client, ClientError, JobPage, JobView, call::Plan, client::jobs, submit::epoch_ms, view::set};

/// Which jobs of a queue. What is not set does not narrow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    wire: v1::JobFilter,
}

impl JobFilter {
    /// All jobs of a queue.
    pub fn of(queue: impl Into<String>) -> Self {
        let queue = queue.into();
        Self {
            wire: v1::JobFilter {
                queue,
                ..Default::default()
            },
        }
    }

    #[must_use]
    pub fn state(mut self, state: JobState) -> Self {
        self.wire.state = v1::JobState::from(state).into();
        self
    }

    /// Submitted at this time or later, by the store's clock.
    #[must_use]
    pub fn created_from(mut self, time: SystemTime) -> Self {
        self.wire.created_from_ms = epoch_ms(time);
        self
    }

    /// Submitted before this time.
    #[must_use]
    pub fn created_before(mut self, time: SystemTime) -> Self {
        self.wire.created_before_ms = epoch_ms(time);
        self
    }

    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.wire.idempotency_key = key.into();
        self
    }
}

/// What is done to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAction {
    /// Of jobs that are not finished; a running handler is told with its next renewal.
    Cancel,
    /// Of dead jobs.
    Redrive,
    Delete,
}

/// Sums so far of [`Client::act_on`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActProgress {
    pub examined: u64,
    pub done: u64,
    /// They fitted and could not be changed, e.g. because they had ended.
    pub refused: u64,
    pub finished: bool,
}

/// How far an action is, from [`Client::act_on`]. Dropping it ends the action.
#[derive(Debug)]
pub struct Acting {
    stream: Streaming<v1::ActOnJobsResponse>,
}

impl Client {
    /// Jobs that fit, without payloads and results. As [`Client::list`]; with times or a key a page may be short, even
    /// empty, and not be the last.
    pub async fn search(
        &self,
        filter: JobFilter,
        page_size: u32,
        page_token: impl Into<String>,
    ) -> Result<JobPage, ClientError> {
        let wire = filter.wire;
        let request = v1::ListJobsRequest {
            queue: wire.queue,
            state: wire.state,
            page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
            page_token: page_token.into(),
            created_from_ms: wire.created_from_ms,
            created_before_ms: wire.created_before_ms,
            idempotency_key: wire.idempotency_key,
        };
        let send = |channel, request| async move { jobs(channel).list_jobs(request).await };
        let response = self
            .caller
            .call(self.read_plan("tidegate.v1.JobService/ListJobs"), request, send)
            .await?;
        Ok(JobPage {
            jobs: response
                .jobs
                .into_iter()
                .map(JobView::try_from)
                .collect::<Result<_, _>>()?,
            next_page_token: set(response.next_page_token),
        })
    }

    /// Does one thing to all jobs that fit and are there now, in batches of the router. After an error, calling again goes
    /// on: what is done no longer fits.
    pub async fn act_on(&self, action: JobAction, filter: JobFilter) -> Result<Acting, ClientError> {
        let action = match action {
            JobAction::Cancel => v1::JobAction::Cancel,
            JobAction::Redrive => v1::JobAction::Redrive,
            JobAction::Delete => v1::JobAction::Delete,
        };
        let request = v1::ActOnJobsRequest {
            filter: Some(filter.wire),
            action: action.into(),
        };
        let plan = Plan {
            stream: true,
            ..Plan::repeatable("tidegate.v1.JobService/ActOnJobs", self.deadline())
        };
        let send = |channel, request| async move { jobs(channel).act_on_jobs(request).await };
        let stream = self.caller.call(plan, request, send).await?;
        Ok(Acting { stream })
    }
}

impl Acting {
    /// The next sums. `None` without a `finished` one before: the router went away.
    pub async fn next(&mut self) -> Option<Result<ActProgress, ClientError>> {
        match self.stream.message().await {
            Ok(Some(sums)) => Some(Ok(ActProgress {
                examined: sums.examined,
                done: sums.done,
                refused: sums.refused,
                finished: sums.finished,
            })),
            Ok(None) => None,
            Err(status) => Some(Err(status.into())),
        }
    }
}
