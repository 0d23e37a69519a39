//! Rows of the file: domain values to text and back. A field that is missing takes its default, so that a newer version
//! reads what an older one wrote.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_protocol::domain::{
    Cap, CapRecord, Incarnation, Job, JobId, JobState, Lane, Lease, OutcomeKind, Policy, Session, Settled,
    Version,
};
use uuid::Uuid;

use crate::memory::journal::Meta;

#[derive(Serialize, Deserialize)]
pub(super) struct MetaRow {
    policy: Policy,
    policy_version: Option<Version>,
    /// cap, retry cap, safe
    cap: Option<(u32, u32, u32)>,
    cap_expires_ms: u64,
    cap_version: Version,
    paused: bool,
    turn: u8,
    hold_until_ms: u64,
    totals: [u64; 3],
}

impl MetaRow {
    pub(super) fn of(meta: &Meta) -> Self {
        Self {
            policy: meta.policy.clone(),
            policy_version: meta.policy_version,
            cap: meta
                .cap
                .map(|record| (record.cap.cap, record.cap.retry_cap, record.cap.safe)),
            cap_expires_ms: meta.cap.map_or(0, |record| record.expires_ms),
            cap_version: meta.cap.map(|record| record.version).unwrap_or_default(),
            paused: meta.paused,
            turn: meta.turn as u8,
            hold_until_ms: meta.hold_until_ms,
            totals: [meta.submitted_total, meta.succeeded_total, meta.dead_total],
        }
    }

    pub(super) fn into_meta(self) -> Meta {
        let [submitted_total, succeeded_total, dead_total] = self.totals;
        let record = |(cap, retry_cap, safe)| CapRecord {
            cap: Cap { cap, retry_cap, safe },
            expires_ms: self.cap_expires_ms,
            version: self.cap_version,
        };
        Meta {
            policy: self.policy,
            policy_version: self.policy_version,
            cap: self.cap.map(record),
            paused: self.paused,
            turn: lane(self.turn),
            hold_until_ms: self.hold_until_ms,
            submitted_total,
            succeeded_total,
            dead_total,
        }
    }
}

pub(super) fn lane(code: u8) -> Lane {
    if code == Lane::Retry as u8 {
        Lane::Retry
    } else {
        Lane::First
    }
}

/// A job without its id and payload.
#[derive(Serialize, Deserialize)]
pub(super) struct JobRow {
    state: u8,
    lane: u8,
    payload_hash: [u8; 16],
    headers: Vec<(String, String)>,
    key: Option<String>,
    want_result: bool,
    traceparent: Option<String>,
    tracestate: Option<String>,
    attempts: u32,
    losses: u32,
    loss_incarnation: Option<Uuid>,
    releases: u32,
    fence: u64,
    created_ms: u64,
    due_ms: u64,
    ran_ms: u64,
    deadline_ms: u64,
    finished_ms: u64,
    /// session, incarnation, until
    lease: Option<(Uuid, Uuid, u64)>,
    /// fence, outcome
    settled: Option<(u64, u8)>,
    error: String,
    reason: String,
    result: Vec<u8>,
}

impl JobRow {
    pub(super) fn of(job: &Job) -> Self {
        Self {
            state: job.state.code(),
            lane: job.lane as u8,
            payload_hash: job.payload_hash,
            headers: job.headers.clone(),
            key: job.idempotency_key.clone(),
            want_result: job.want_result,
            traceparent: job.traceparent.clone(),
            tracestate: job.tracestate.clone(),
            attempts: job.attempts,
            losses: job.losses,
            loss_incarnation: job.loss_incarnation.map(|incarnation| incarnation.0),
            releases: job.releases,
            fence: job.fence,
            created_ms: job.created_ms,
            due_ms: job.due_ms,
            ran_ms: job.ran_ms,
            deadline_ms: job.deadline_ms,
            finished_ms: job.finished_ms,
            lease: job
                .lease
                .as_ref()
                .map(|lease| (lease.session.0, lease.incarnation.0, lease.until_ms)),
            settled: job.settled.map(|settled| (settled.fence, settled.outcome.code())),
            error: job.error.clone(),
            reason: job.reason.clone(),
            result: job.result.to_vec(),
        }
    }

    /// `None`: a state or outcome that this version does not know.
    pub(super) fn into_job(self, id: JobId, payload: Bytes) -> Option<Job> {
        let lease = |(session, incarnation, until_ms)| Lease {
            session: Session(session),
            incarnation: Incarnation(incarnation),
            until_ms,
        };
        let settled = match self.settled {
            Some((fence, code)) => Some(Settled {
                fence,
                outcome: OutcomeKind::from_code(code)?,
            }),
            None => None,
        };
        Some(Job {
            id,
            state: JobState::from_code(self.state)?,
            lane: lane(self.lane),
            payload,
            payload_hash: self.payload_hash,
            headers: self.headers,
            idempotency_key: self.key,
            want_result: self.want_result,
            traceparent: self.traceparent,
            tracestate: self.tracestate,
            attempts: self.attempts,
            losses: self.losses,
            loss_incarnation: self.loss_incarnation.map(Incarnation),
            releases: self.releases,
            fence: self.fence,
            created_ms: self.created_ms,
            due_ms: self.due_ms,
            ran_ms: self.ran_ms,
            deadline_ms: self.deadline_ms,
            finished_ms: self.finished_ms,
            lease: self.lease.map(lease),
            settled,
            error: self.error,
            reason: self.reason,
            result: self.result.into(),
        })
    }
}
