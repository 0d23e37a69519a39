//! Rows of the file: domain values to columns and back.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use rusqlite::{CachedStatement, Row, params};
use serde::{Deserialize, Serialize};
use tidegate_protocol::domain::{
    Cap, CapRecord, Incarnation, Job, JobId, JobState, Lane, Lease, OutcomeKind, Policy, QueueName, Session,
    Settled, Version,
};
use uuid::Uuid;

use crate::memory::{
    KeyEntry,
    journal::{Progress, Record},
};

/// Rows of one queue have numbers of their own: more queues or jobs than this leaves room for cannot be.
const NUMBER_BITS: u32 = 40;

pub(super) fn row_id(queue: i64, number: u64) -> i64 {
    (queue << NUMBER_BITS) | number as i64
}

/// (queue, number)
pub(super) fn split(row_id: i64) -> (i64, u64) {
    (row_id >> NUMBER_BITS, (row_id & ((1 << NUMBER_BITS) - 1)) as u64)
}

/// A field that is missing takes its default, so that a newer version reads what an older one wrote.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct RecordRow {
    policy: Policy,
    policy_version: Option<Version>,
    /// cap, retry cap, safe
    cap: Option<(u32, u32, u32)>,
    cap_expires_ms: u64,
    cap_version: Version,
    paused: bool,
    hold_until_ms: u64,
}

pub(super) fn record_text(record: &Record) -> rusqlite::Result<String> {
    let cap = record.cap;
    let row = RecordRow {
        policy: (*record.policy).clone(),
        policy_version: record.policy_version,
        cap: cap.map(|record| (record.cap.cap, record.cap.retry_cap, record.cap.safe)),
        cap_expires_ms: cap.map_or(0, |record| record.expires_ms),
        cap_version: cap.map(|record| record.version).unwrap_or_default(),
        paused: record.paused,
        hold_until_ms: record.hold_until_ms,
    };
    to_json(&row)
}

pub(super) fn record_from(text: &str) -> serde_json::Result<Record> {
    let row: RecordRow = serde_json::from_str(text)?;
    let cap = |(cap, retry_cap, safe)| CapRecord {
        cap: Cap { cap, retry_cap, safe },
        expires_ms: row.cap_expires_ms,
        version: row.cap_version,
    };
    Ok(Record {
        policy: Arc::new(row.policy),
        policy_version: row.policy_version,
        cap: row.cap.map(cap),
        paused: row.paused,
        hold_until_ms: row.hold_until_ms,
    })
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn lane(code: u8) -> Lane {
    if code == Lane::Retry as u8 {
        Lane::Retry
    } else {
        Lane::First
    }
}

pub(super) const ENTER_JOB: &str = "INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)";

pub(super) fn enter(
    statement: &mut CachedStatement<'_>,
    id: i64,
    job: &Job,
    now: &Progress,
) -> rusqlite::Result<usize> {
    let headers = (!job.headers.is_empty())
        .then(|| to_json(&job.headers))
        .transpose()?;
    statement.execute(params![
        id,
        job.id.local.as_bytes(),
        job.payload_hash,
        job.idempotency_key,
        headers,
        job.traceparent,
        job.tracestate,
        job.want_result,
        job.created_ms as i64,
        now.due_ms as i64,
        now.deadline_ms as i64,
        now.position.map(|position| position as i64),
        &job.payload[..],
    ])
}

pub(super) const KEEP_PROGRESS: &str =
    "INSERT OR REPLACE INTO progress VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

pub(super) fn keep_progress(
    statement: &mut CachedStatement<'_>,
    id: i64,
    now: &Progress,
) -> rusqlite::Result<usize> {
    let lease = now.lease.as_ref();
    statement.execute(params![
        id,
        now.state.code(),
        now.lane as u8,
        now.position.map(|position| position as i64),
        now.attempts,
        now.losses,
        now.loss_incarnation.as_ref().map(|blamed| blamed.0.as_bytes()),
        now.releases,
        now.fence as i64,
        now.due_ms as i64,
        now.ran_ms as i64,
        now.deadline_ms as i64,
        now.finished_ms as i64,
        lease.map(|lease| lease.session.0.as_bytes()),
        lease.map(|lease| lease.incarnation.0.as_bytes()),
        lease.map(|lease| lease.until_ms as i64),
        now.settled.map(|settled| settled.fence as i64),
        now.settled.map(|settled| settled.outcome.code()),
        now.error,
        now.reason,
        &now.result[..],
    ])
}

/// Every job, with its progress if there is any.
pub(super) const SELECT_JOBS: &str = "SELECT jobs.id, local, payload_hash, key, headers, traceparent, tracestate, \
    want_result, created_ms, jobs.due_ms, jobs.deadline_ms, jobs.position, payload, \
    state, lane, progress.position, attempts, losses, blamed, releases, fence, progress.due_ms, ran_ms, \
    progress.deadline_ms, finished_ms, session, incarnation, until_ms, settled_fence, settled_outcome, error, \
    reason, result \
    FROM jobs LEFT JOIN progress ON progress.job = jobs.id ORDER BY jobs.id";
/// Column of [`SELECT_JOBS`] at which progress begins.
const PROGRESS: usize = 13;

/// A job of `queue` and its place in the ready list.
pub(super) fn job(row: &Row<'_>, queue: QueueName) -> anyhow::Result<(Job, Option<u64>)> {
    let headers: Option<&str> = row.get_ref(4)?.as_str_or_null()?;
    let due_ms = number(row, 9)?;
    let position: Option<i64> = row.get(11)?;
    let created_ms = number(row, 8)?;
    let mut job = Job {
        id: JobId {
            queue,
            shard: 0,
            local: uuid(row, 1)?,
        },
        state: if position.is_some() {
            JobState::Ready
        } else {
            JobState::Scheduled
        },
        lane: Lane::First,
        payload: Bytes::copy_from_slice(row.get_ref(12)?.as_blob()?),
        payload_hash: row.get(2)?,
        headers: headers.map_or(Ok(Vec::new()), serde_json::from_str)?,
        idempotency_key: row.get(3)?,
        want_result: row.get(7)?,
        traceparent: row.get(5)?,
        tracestate: row.get(6)?,
        attempts: 0,
        losses: 0,
        loss_incarnation: None,
        releases: 0,
        fence: 0,
        created_ms,
        due_ms,
        ran_ms: created_ms,
        deadline_ms: number(row, 10)?,
        finished_ms: 0,
        lease: None,
        settled: None,
        error: String::new(),
        reason: String::new(),
        result: Bytes::new(),
    };
    let position = match row.get(PROGRESS)? {
        Some(state) => progress(row, &mut job, state)?,
        None => position,
    };
    Ok((job, position.map(|position| position as u64)))
}

/// What has become of a job since its submit; its position.
fn progress(row: &Row<'_>, job: &mut Job, state: u8) -> anyhow::Result<Option<i64>> {
    let at = |column| PROGRESS + column;
    job.state =
        JobState::from_code(state).ok_or_else(|| anyhow!("job {} has the unknown state {state}", job.id))?;
    job.lane = lane(row.get(at(1))?);
    job.attempts = row.get(at(3))?;
    job.losses = row.get(at(4))?;
    job.loss_incarnation = maybe_uuid(row, at(5))?.map(Incarnation);
    job.releases = row.get(at(6))?;
    job.fence = number(row, at(7))?;
    job.due_ms = number(row, at(8))?;
    job.ran_ms = number(row, at(9))?;
    job.deadline_ms = number(row, at(10))?;
    job.finished_ms = number(row, at(11))?;
    if let (Some(session), Some(incarnation)) = (maybe_uuid(row, at(12))?, maybe_uuid(row, at(13))?) {
        job.lease = Some(Lease {
            session: Session(session),
            incarnation: Incarnation(incarnation),
            until_ms: number(row, at(14))?,
        });
    }
    if let Some(fence) = row.get::<_, Option<i64>>(at(15))? {
        let code = row.get(at(16))?;
        let outcome = OutcomeKind::from_code(code)
            .ok_or_else(|| anyhow!("job {} has the unknown outcome {code}", job.id))?;
        job.settled = Some(Settled {
            fence: fence as u64,
            outcome,
        });
    }
    anyhow::ensure!(
        (job.state == JobState::Running) == job.lease.is_some(),
        "job {} is {} and has {} lease",
        job.id,
        job.state.as_str(),
        if job.lease.is_some() { "a" } else { "no" }
    );
    job.error = row.get(at(17))?;
    job.reason = row.get(at(18))?;
    job.result = Bytes::copy_from_slice(row.get_ref(at(19))?.as_blob()?);
    Ok(row.get(at(2))?)
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

pub(super) fn uuid(row: &Row<'_>, column: usize) -> anyhow::Result<Uuid> {
    Uuid::from_slice(row.get_ref(column)?.as_blob()?).context("an id of another length")
}

fn maybe_uuid(row: &Row<'_>, column: usize) -> anyhow::Result<Option<Uuid>> {
    let bytes = row.get_ref(column)?.as_blob_or_null()?;
    bytes
        .map(Uuid::from_slice)
        .transpose()
        .context("an id of another length")
}

/// Table of the keys; `request` for request ids.
pub(super) fn key_table(request: bool) -> &'static str {
    if request { "request_ids" } else { "keys" }
}

pub(super) fn keep_key(
    statement: &mut CachedStatement<'_>,
    id: i64,
    key: &str,
    entry: &KeyEntry,
) -> rusqlite::Result<usize> {
    statement.execute(params![
        id,
        key,
        entry.local.as_bytes(),
        entry.hash,
        entry.ended.map_or(0, JobState::code),
        entry.expires_ms as i64,
    ])
}

/// (id, key, local, payload_hash, ended, expires_ms)
pub(super) fn key(row: &Row<'_>) -> anyhow::Result<KeyEntry> {
    Ok(KeyEntry {
        local: uuid(row, 2)?,
        hash: row.get(3)?,
        ended: JobState::from_code(row.get(4)?),
        expires_ms: number(row, 5)?,
    })
}
