//! Jobs and queues as callers see them, made from the wire's messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_protocol::{
    convert,
    domain::{CapRecord, JobId, JobState, Policy, QueueName, SubmitOutcome, Submitted},
    v1,
};

use crate::ClientError;

/// A job as the store knows it. Times are milliseconds since the Unix epoch by the store's clock; 0 = not set.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub id: JobId,
    pub state: JobState,
    /// Empty in lists.
    pub payload: Bytes,
    pub headers: BTreeMap<String, String>,
    pub idempotency_key: Option<String>,
    /// Used up so far; the running one is not counted yet.
    pub attempts: u32,
    pub max_attempts: u32,
    /// Leases lost because the holding process died.
    pub losses: u32,
    /// Who lost it and when, oldest first. Empty once it has succeeded.
    pub lost: Vec<LossView>,
    pub fence: u64,
    pub created_ms: u64,
    /// Scheduled: when it becomes ready. Ready: since when it is.
    pub due_ms: u64,
    pub deadline_ms: u64,
    pub finished_ms: u64,
    /// Of the last attempt; empty if none.
    pub error: String,
    /// Why it is dead; empty otherwise.
    pub reason: String,
    /// Empty in lists.
    pub result: Bytes,
    pub lease_until_ms: u64,
    pub session: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// A lease that ended because its worker process was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossView {
    /// When the store noticed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The process that held it, as the logs of workers and routers name it.
    pub incarnation: String,
}

impl From<v1::LeaseLoss> for LossView {
    fn from(loss: v1::LeaseLoss) -> Self {
        Self {
            at_ms: loss.at_ms,
            incarnation: loss.incarnation,
        }
    }
}

impl JobView {
    pub fn queue(&self) -> &QueueName {
        &self.id.queue
    }
}

impl TryFrom<v1::Job> for JobView {
    type Error = ClientError;

    fn try_from(job: v1::Job) -> Result<Self, ClientError> {
        Ok(Self {
            id: job_id(&job.id)?,
            state: convert::job_state("state", job.state).map_err(ClientError::bad_answer)?,
            payload: job.payload,
            headers: job.headers.into_iter().collect(),
            idempotency_key: set(job.idempotency_key),
            attempts: job.attempts,
            max_attempts: job.max_attempts,
            losses: job.losses,
            lost: job.lost.into_iter().map(LossView::from).collect(),
            fence: job.fence,
            created_ms: job.created_at_ms,
            due_ms: job.due_at_ms,
            deadline_ms: job.deadline_ms,
            finished_ms: job.finished_at_ms,
            error: job.error,
            reason: job.reason,
            result: job.result,
            lease_until_ms: job.lease_until_ms,
            session: set(job.session),
            traceparent: set(job.traceparent),
            tracestate: set(job.tracestate),
        })
    }
}

/// One page of jobs; ask for the next with `next_page_token`, `None` on the last page.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPage {
    pub jobs: Vec<JobView>,
    pub next_page_token: Option<String>,
}

/// What became of one job of a cancel, redrive or delete.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionResult {
    pub job_id: String,
    /// After the call; `None` if the job is gone.
    pub state: Option<JobState>,
    /// Set when nothing was done.
    pub error: Option<ClientError>,
}

impl From<v1::JobActionResult> for ActionResult {
    fn from(result: v1::JobActionResult) -> Self {
        Self {
            job_id: result.job_id,
            state: convert::job_state("state", result.state).ok(),
            error: result.error.map(ClientError::from),
        }
    }
}

/// A queue's policy, cap and counters.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueView {
    pub name: String,
    pub paused: bool,
    pub scheduled: u64,
    /// Ready first attempts and ready retries.
    pub ready: u64,
    pub ready_retries: u64,
    pub running: u64,
    /// What counts against the cap: running jobs, and leases whose worker may still be at work.
    pub slots: u64,
    pub dead: u64,
    pub succeeded: u64,
    pub cancelled: u64,
    pub expired: u64,
    pub submitted_total: u64,
    pub succeeded_total: u64,
    pub dead_total: u64,
    pub oldest_ready_age_ms: u64,
    /// `None`: the queue has no record and runs with the defaults.
    pub policy: Option<Policy>,
    /// `None`: no cap was ever set.
    pub cap: Option<CapRecord>,
    /// What is enforced now; `None` = unlimited.
    pub effective_cap: Option<u32>,
    /// Workers of this queue connected to the answering router.
    pub sessions: u32,
}

impl TryFrom<v1::Queue> for QueueView {
    type Error = ClientError;

    fn try_from(queue: v1::Queue) -> Result<Self, ClientError> {
        let policy = queue
            .policy
            .map(convert::policy)
            .transpose()
            .map_err(ClientError::bad_answer)?;
        Ok(Self {
            name: queue.name,
            paused: queue.paused,
            scheduled: queue.scheduled,
            ready: queue.ready,
            ready_retries: queue.ready_retries,
            running: queue.running,
            slots: queue.slots,
            dead: queue.dead,
            succeeded: queue.succeeded,
            cancelled: queue.cancelled,
            expired: queue.expired,
            submitted_total: queue.submitted_total,
            succeeded_total: queue.succeeded_total,
            dead_total: queue.dead_total,
            oldest_ready_age_ms: queue.oldest_ready_age_ms,
            policy: policy.map(|(_, policy)| policy),
            cap: queue.cap.map(convert::cap_record),
            effective_cap: queue.effective_cap,
            sessions: queue.sessions,
        })
    }
}

/// One page of queues.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePage {
    pub queues: Vec<QueueView>,
    pub next_page_token: Option<String>,
}

pub(crate) fn submitted(wire: v1::SubmittedJob) -> Result<Submitted, ClientError> {
    let outcome = match v1::SubmitOutcome::try_from(wire.outcome) {
        Ok(v1::SubmitOutcome::Created) => SubmitOutcome::Created,
        Ok(v1::SubmitOutcome::Duplicate) => SubmitOutcome::Duplicate,
        _ => return Err(ClientError::bad_answer("an unknown submit outcome")),
    };
    let state = convert::job_state("state", wire.state).ok();
    // An empty result of a succeeded job is a result too.
    let has_result =
        outcome == SubmitOutcome::Duplicate && state == Some(JobState::Succeeded) && !wire.result_expired;
    Ok(Submitted {
        id: job_id(&wire.job_id)?,
        outcome,
        state,
        result: has_result.then_some(wire.result),
        result_expired: wire.result_expired,
    })
}

/// The wire's "not set".
pub(crate) fn set(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn job_id(text: &str) -> Result<JobId, ClientError> {
    text.parse().map_err(ClientError::bad_answer)
}
