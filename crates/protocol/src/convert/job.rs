//! Jobs on their way in, and as the store knows them on their way out.

use std::collections::HashMap;

use crate::{
    domain::{Job, JobId, JobState, Loss, NewJob, PayloadHash, QueueName, SubmitOutcome, Submitted},
    limits, reason, v1,
};

use super::{Invalid, queue_name};

/// The last millisecond of the year 9999. Far below 2^53, so that a store may keep times as floats.
pub const TIME_MS_MAX: u64 = 253_402_300_799_999;
/// Ten years: longer waits are mistakes of unit, and sums with the clock must not overflow.
pub const DELAY_MS_MAX: u64 = 315_576_000_000;

/// W3C trace context, version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
const TRACEPARENT_BYTES: usize = 55;
/// What W3C asks everyone to carry.
const TRACESTATE_BYTES_MAX: usize = 512;

/// Checks a job to enter and completes it: `id` makes the id in the job's queue, `hash` is of the payload.
pub fn new_job(
    wire: v1::NewJob,
    id: impl FnOnce(QueueName) -> JobId,
    hash: impl FnOnce(&[u8]) -> PayloadHash,
) -> Result<NewJob, Invalid> {
    let queue = queue_name("queue", &wire.queue)?;
    let bytes = wire.payload.len();
    if bytes > limits::PAYLOAD_BYTES_MAX {
        let message = format!("{bytes} bytes; at most {} are taken", limits::PAYLOAD_BYTES_MAX);
        return Err(Invalid::new("payload", reason::PAYLOAD_TOO_LARGE, message));
    }
    check_times(&wire)?;
    Ok(NewJob {
        id: id(queue),
        payload_hash: hash(&wire.payload),
        payload: wire.payload,
        headers: headers(wire.headers)?,
        idempotency_key: key("idempotency_key", wire.idempotency_key, limits::KEY_BYTES_MAX)?,
        request_id: key("request_id", wire.request_id, limits::REQUEST_ID_BYTES_MAX)?,
        run_at_ms: wire.run_at_ms,
        delay_ms: wire.delay_ms,
        deadline_ms: wire.deadline_ms,
        deadline_after_ms: wire.deadline_after_ms,
        want_result: wire.want_result,
        traceparent: Some(wire.traceparent).filter(|text| is_traceparent(text)),
        tracestate: Some(wire.tracestate).filter(|text| is_tracestate(text)),
    })
}

fn check_times(wire: &v1::NewJob) -> Result<(), Invalid> {
    let exclusive = |field, one, other| {
        let message = format!("{one} and {other} exclude each other");
        Err(Invalid::new(field, reason::INVALID_TIME, message))
    };
    if wire.run_at_ms > 0 && wire.delay_ms > 0 {
        return exclusive("delay_ms", "run_at_ms", "delay_ms");
    }
    if wire.deadline_ms > 0 && wire.deadline_after_ms > 0 {
        return exclusive("deadline_after_ms", "deadline_ms", "deadline_after_ms");
    }
    for (field, value, max) in [
        ("run_at_ms", wire.run_at_ms, TIME_MS_MAX),
        ("deadline_ms", wire.deadline_ms, TIME_MS_MAX),
        ("delay_ms", wire.delay_ms, DELAY_MS_MAX),
        ("deadline_after_ms", wire.deadline_after_ms, DELAY_MS_MAX),
    ] {
        if value > max {
            let message = format!("{value} is above {max}; times are milliseconds");
            return Err(Invalid::new(field, reason::INVALID_TIME, message));
        }
    }
    Ok(())
}

/// Empty means not given.
fn key(field: &str, text: String, bytes_max: usize) -> Result<Option<String>, Invalid> {
    match text.len() {
        0 => Ok(None),
        bytes if bytes > bytes_max => {
            let message = format!("{bytes} bytes; at most {bytes_max} are taken");
            Err(Invalid::new(field, reason::INVALID_KEY, message))
        }
        _ => Ok(Some(text)),
    }
}

/// In name order, so that equal jobs are stored as equal bytes.
fn headers(wire: HashMap<String, String>) -> Result<Vec<(String, String)>, Invalid> {
    if wire.len() > limits::HEADERS_MAX {
        let message = format!(
            "{} entries; at most {} are taken",
            wire.len(),
            limits::HEADERS_MAX
        );
        return Err(Invalid::new("headers", reason::INVALID_HEADER, message));
    }
    let mut headers: Vec<_> = wire.into_iter().collect();
    headers.sort_unstable();
    for (name, value) in &headers {
        header(name, value)?;
    }
    Ok(headers)
}

/// One header of a job. Control characters are refused here because they could never be delivered over HTTP.
pub fn header(name: &str, value: &str) -> Result<(), Invalid> {
    let valid = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let message = if name.is_empty() || name.len() > limits::HEADER_NAME_BYTES_MAX || !name.bytes().all(valid)
    {
        // Never the name itself: it may be of any length and hold anything.
        "names are 1 to 64 of a-z, 0-9 and '-'".to_owned()
    } else if value.len() > limits::HEADER_VALUE_BYTES_MAX {
        format!(
            "{name}: {} bytes; at most {} are taken",
            value.len(),
            limits::HEADER_VALUE_BYTES_MAX
        )
    } else if value.chars().any(|c| c.is_control() && c != '\t') {
        format!("{name}: control characters are not taken")
    } else {
        return Ok(());
    };
    Err(Invalid::new("headers", reason::INVALID_HEADER, message))
}

/// As W3C asks, a malformed trace context is dropped: it is no reason to refuse the job.
fn is_traceparent(text: &str) -> bool {
    text.len() == TRACEPARENT_BYTES
        && text.bytes().enumerate().all(|(at, b)| match at {
            2 | 35 | 52 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn is_tracestate(text: &str) -> bool {
    !text.is_empty() && text.len() <= TRACESTATE_BYTES_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// A job for people and programs. `max_attempts` is the queue's: a job does not carry it.
pub fn job(job: Job, max_attempts: u32) -> v1::Job {
    let (session, lease_until_ms) = match &job.lease {
        Some(lease) => (lease.session.to_string(), lease.until_ms),
        None => (String::new(), 0),
    };
    v1::Job {
        id: job.id.to_string(),
        queue: job.id.queue.to_string(),
        state: v1::JobState::from(job.state).into(),
        payload: job.payload,
        headers: job.headers.into_iter().collect(),
        idempotency_key: job.idempotency_key.unwrap_or_default(),
        attempts: job.attempts,
        max_attempts,
        losses: job.losses,
        lost: job.lost.iter().map(v1::LeaseLoss::from).collect(),
        fence: job.fence,
        created_at_ms: job.created_ms,
        due_at_ms: job.due_ms,
        deadline_ms: job.deadline_ms,
        finished_at_ms: job.finished_ms,
        error: job.error,
        reason: job.reason,
        result: job.result,
        lease_until_ms,
        session,
        traceparent: job.traceparent.unwrap_or_default(),
        tracestate: job.tracestate.unwrap_or_default(),
    }
}

impl From<&Loss> for v1::LeaseLoss {
    fn from(loss: &Loss) -> Self {
        Self {
            at_ms: loss.at_ms,
            incarnation: loss.incarnation.to_string(),
        }
    }
}

impl From<Submitted> for v1::SubmittedJob {
    fn from(submitted: Submitted) -> Self {
        Self {
            job_id: submitted.id.text(),
            outcome: match submitted.outcome {
                SubmitOutcome::Created => v1::SubmitOutcome::Created,
                SubmitOutcome::Duplicate => v1::SubmitOutcome::Duplicate,
            }
            .into(),
            state: submitted
                .state
                .map_or(v1::JobState::Unspecified, v1::JobState::from)
                .into(),
            result: submitted.result.unwrap_or_default(),
            result_expired: submitted.result_expired,
        }
    }
}

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Scheduled => v1::JobState::Scheduled,
            JobState::Ready => v1::JobState::Ready,
            JobState::Running => v1::JobState::Running,
            JobState::Succeeded => v1::JobState::Succeeded,
            JobState::Dead => v1::JobState::Dead,
            JobState::Cancelled => v1::JobState::Cancelled,
            JobState::Expired => v1::JobState::Expired,
        }
    }
}

/// Unspecified and numbers of a newer contract are refused.
pub fn job_state(field: &str, code: i32) -> Result<JobState, Invalid> {
    match v1::JobState::try_from(code) {
        Ok(v1::JobState::Scheduled) => Ok(JobState::Scheduled),
        Ok(v1::JobState::Ready) => Ok(JobState::Ready),
        Ok(v1::JobState::Running) => Ok(JobState::Running),
        Ok(v1::JobState::Succeeded) => Ok(JobState::Succeeded),
        Ok(v1::JobState::Dead) => Ok(JobState::Dead),
        Ok(v1::JobState::Cancelled) => Ok(JobState::Cancelled),
        Ok(v1::JobState::Expired) => Ok(JobState::Expired),
        Ok(v1::JobState::Unspecified) | Err(_) => Err(Invalid::new(
            field,
            reason::INVALID_ARGUMENT,
            "must name a state, e.g. JOB_STATE_DEAD",
        )),
    }
}
