//! Rows of the file: domain values to columns and back.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, sqlite::SqliteRow};
use tidegate_protocol::{
    domain::{
        Cap, CapRecord, Incarnation, Job, JobId, JobState, Lane, Lease, NewJob, OutcomeKind, Policy,
        QueueName, Session, Settled, Version,
    },
    reason,
};
use uuid::Uuid;

use super::statement::{Many, Values};
use crate::{
    lifecycle,
    memory::{
        KeyEntry,
        journal::{Progress, Record},
        queue::Counters,
        slots::Slot,
    },
    tail,
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

fn record_text(record: &Record) -> sqlx::Result<String> {
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

fn to_json<T: Serialize>(value: &T) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn lane(code: u8) -> Lane {
    if code == Lane::Retry as u8 {
        Lane::Retry
    } else {
        Lane::First
    }
}

pub(super) static RECORDS: Many = Many::insert("INSERT OR REPLACE INTO queues", 3);

pub(super) fn put_record(
    values: &mut Values,
    (queue, name, record): &(i64, &QueueName, &Record),
) -> sqlx::Result<()> {
    let text = record_text(record)?;
    values.put(*queue)?.put(name.as_str())?.put(text)?;
    Ok(())
}

pub(super) static COUNTERS: Many = Many::insert("INSERT OR REPLACE INTO counters", 5);

pub(super) fn put_counters(values: &mut Values, (queue, counters): &(i64, Counters)) -> sqlx::Result<()> {
    values
        .put(*queue)?
        .put(counters.turn as i64)?
        .put(counters.submitted as i64)?
        .put(counters.succeeded as i64)?
        .put(counters.dead as i64)?;
    Ok(())
}

pub(super) static JOBS: Many = Many::insert("INSERT INTO jobs", 13);
/// With their progress.
pub(super) const DELETE_JOBS: &str = "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?)); \
    DELETE FROM progress WHERE job IN (SELECT value FROM json_each(?))";

pub(super) fn put_job(values: &mut Values, (id, job, now): &(i64, &Job, &Progress)) -> sqlx::Result<()> {
    let headers = (!job.headers.is_empty()).then(|| to_json(&job.headers));
    values
        .put(*id)?
        .put(&job.id.local.as_bytes()[..])?
        .put(&job.payload_hash[..])?
        .put(job.idempotency_key.as_deref())?
        .put(headers.transpose()?)?
        .put(job.traceparent.as_deref())?
        .put(job.tracestate.as_deref())?
        .put(job.want_result)?
        .put(job.created_ms as i64)?
        .put(now.due_ms as i64)?
        .put(now.deadline_ms as i64)?
        .put(now.position.map(|position| position as i64))?
        .put_blob(&job.payload)?;
    Ok(())
}

pub(super) static PROGRESS: Many = Many::insert("INSERT OR REPLACE INTO progress", 20);

pub(super) fn put_progress(values: &mut Values, (id, now): &(i64, &Progress)) -> sqlx::Result<()> {
    let lease = now.lease.as_ref();
    values
        .put(*id)?
        .put(i64::from(now.state.code()))?
        .put(now.lane as i64)?
        .put(now.position.map(|position| position as i64))?
        .put(now.attempts)?
        .put(now.losses)?
        .put(
            now.loss_incarnation
                .as_ref()
                .map(|blamed| &blamed.0.as_bytes()[..]),
        )?
        .put(now.releases)?
        .put(now.fence as i64)?
        .put(now.due_ms as i64)?
        .put(now.ran_ms as i64)?
        .put(now.deadline_ms as i64)?
        .put(now.finished_ms as i64)?
        .put(lease.map(holder))?
        .put(lease.map(|lease| lease.until_ms as i64))?
        .put(now.settled.map(|settled| settled.fence as i64))?
        .put(now.settled.map(|settled| i64::from(settled.outcome.code())))?
        .put(non_empty(&now.error))?
        .put(non_empty(&now.reason))?;
    if now.tail.is_empty() {
        values.put(None::<&[u8]>)?;
    } else {
        values.put_blob(&now.tail)?;
    }
    Ok(())
}

/// Most are, and NULL is cheaper.
fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Session and incarnation of a lease.
fn holder(lease: &Lease) -> Vec<u8> {
    [*lease.session.0.as_bytes(), *lease.incarnation.0.as_bytes()].concat()
}

/// Two columns of the same meaning are told apart by their places: first the job's, then its progress's.
const JOB_COLUMNS: &str = "jobs.id, local, payload_hash, key, headers, traceparent, tracestate, want_result, created_ms, \
    jobs.due_ms, jobs.deadline_ms, jobs.position, payload";
const PROGRESS_COLUMNS: &str = "state, lane, progress.position, attempts, losses, blamed, releases, fence, \
    progress.due_ms, ran_ms, progress.deadline_ms, finished_ms, holder, until_ms, settled_fence, settled_outcome, \
    error, reason, result";
/// Column at which progress begins.
const PROGRESS_AT: usize = 13;

/// Jobs that wait as they were submitted, and those with progress: most of many are the former, and each column of a row
/// has its price, also an empty one.
pub(super) fn select_jobs() -> [String; 2] {
    [
        format!(
            "SELECT {JOB_COLUMNS} FROM jobs WHERE NOT EXISTS (SELECT 1 FROM progress WHERE job = jobs.id) ORDER BY jobs.id"
        ),
        format!(
            "SELECT {JOB_COLUMNS}, {PROGRESS_COLUMNS} FROM progress JOIN jobs ON jobs.id = progress.job ORDER BY progress.job"
        ),
    ]
}

/// A job of `queue` and its position.
pub(super) fn job(row: &SqliteRow, queue: QueueName) -> anyhow::Result<(Job, Option<u64>)> {
    let (mut job, mut position) = submitted(row, queue)?;
    if row.len() > PROGRESS_AT {
        position = progress(row, &mut job)?;
    }
    Ok((job, position.map(|position| position as u64)))
}

/// What stands for a job whose row cannot be read: a dead one, with what was submitted if that is whole. The row stays as it
/// is until the job is deleted, so each start comes to the same.
pub(super) fn unreadable(
    row: &SqliteRow,
    queue: QueueName,
    row_id: i64,
    at_ms: u64,
    why: &anyhow::Error,
) -> Job {
    let id = JobId {
        queue: queue.clone(),
        shard: 0,
        local: uuid(row, 1).unwrap_or_else(|_| Uuid::from_u128(row_id as u128)),
    };
    let job = submitted(row, queue).map_or_else(
        |_| lifecycle::submitted(NewJob::new(id, Bytes::new()), at_ms),
        |(job, _)| job,
    );
    Job {
        state: JobState::Dead,
        reason: reason::UNREADABLE.to_owned(),
        error: format!(
            "what is stored of this job cannot be read; its rows are kept (jobs.id = {row_id}): {why:#}"
        ),
        finished_ms: at_ms,
        ..job
    }
}

fn submitted(row: &SqliteRow, queue: QueueName) -> anyhow::Result<(Job, Option<i64>)> {
    let headers: Option<&str> = row.try_get(4)?;
    let created_ms = number(row, 8)?;
    let position: Option<i64> = row.try_get(11)?;
    let hash: &[u8] = row.try_get(2)?;
    let job = Job {
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
        payload: Bytes::copy_from_slice(row.try_get(12)?),
        payload_hash: hash.try_into().context("a payload hash of another length")?,
        headers: headers.map_or(Ok(Vec::new()), serde_json::from_str)?,
        idempotency_key: row.try_get(3)?,
        want_result: row.try_get(7)?,
        traceparent: row.try_get(5)?,
        tracestate: row.try_get(6)?,
        attempts: 0,
        losses: 0,
        loss_incarnation: None,
        lost: Vec::new(),
        releases: 0,
        fence: 0,
        created_ms,
        due_ms: number(row, 9)?,
        ran_ms: created_ms,
        deadline_ms: number(row, 10)?,
        finished_ms: 0,
        lease: None,
        settled: None,
        error: String::new(),
        reason: String::new(),
        result: Bytes::new(),
    };
    Ok((job, position))
}

/// What has become of a job since its submit; its position.
fn progress(row: &SqliteRow, job: &mut Job) -> anyhow::Result<Option<i64>> {
    let at = |column| PROGRESS_AT + column;
    let state = row.try_get(at(0))?;
    job.state =
        JobState::from_code(state).ok_or_else(|| anyhow!("job {} has the unknown state {state}", job.id))?;
    job.lane = lane(row.try_get(at(1))?);
    job.attempts = row.try_get(at(3))?;
    job.losses = row.try_get(at(4))?;
    job.loss_incarnation = maybe_uuid(row, at(5))?.map(Incarnation);
    job.releases = row.try_get(at(6))?;
    job.fence = number(row, at(7))?;
    job.due_ms = number(row, at(8))?;
    job.ran_ms = number(row, at(9))?;
    job.deadline_ms = number(row, at(10))?;
    job.finished_ms = number(row, at(11))?;
    if let Some(holder) = row.try_get::<Option<&[u8]>, _>(at(12))? {
        let (session, incarnation) = holder.split_at_checked(16).context("half a holder")?;
        job.lease = Some(Lease {
            session: Session(Uuid::from_slice(session)?),
            incarnation: Incarnation(Uuid::from_slice(incarnation)?),
            until_ms: number(row, at(13))?,
        });
    }
    if let Some(fence) = row.try_get::<Option<i64>, _>(at(14))? {
        let code = row.try_get(at(15))?;
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
    job.error = row.try_get::<Option<_>, _>(at(16))?.unwrap_or_default();
    job.reason = row.try_get::<Option<_>, _>(at(17))?.unwrap_or_default();
    let tail = row.try_get::<Option<_>, _>(at(18))?.unwrap_or_default();
    (job.result, job.lost) =
        tail::read(job.state, tail).with_context(|| format!("losses of job {}", job.id))?;
    Ok(row.try_get(at(2))?)
}

pub(super) fn number(row: &SqliteRow, column: usize) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(column).map(|number| number as u64)
}

pub(super) fn uuid(row: &SqliteRow, column: usize) -> anyhow::Result<Uuid> {
    Uuid::from_slice(row.try_get(column)?).context("an id of another length")
}

fn maybe_uuid(row: &SqliteRow, column: usize) -> anyhow::Result<Option<Uuid>> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    bytes
        .map(Uuid::from_slice)
        .transpose()
        .context("an id of another length")
}

pub(super) static GHOSTS: Many = Many::insert("INSERT OR REPLACE INTO ghosts", 5);

/// A ghost of a queue: its slot, lane and end.
pub(super) fn put_ghost(
    values: &mut Values,
    (queue, slot, (lane, until_ms)): &(i64, Slot, (Lane, u64)),
) -> sqlx::Result<()> {
    put_slot(values, &(*queue, *slot))?;
    values.put(*lane as i64)?.put(*until_ms as i64)?;
    Ok(())
}

pub(super) static GONE_GHOSTS: Many = Many::delete("DELETE FROM ghosts WHERE", &["queue", "local", "fence"]);

pub(super) fn put_slot(values: &mut Values, (queue, (local, fence)): &(i64, Slot)) -> sqlx::Result<()> {
    values
        .put(*queue)?
        .put(&local.as_bytes()[..])?
        .put(*fence as i64)?;
    Ok(())
}

/// Idempotency keys, or request ids.
pub(super) struct KeyTable {
    pub insert: Many,
    pub delete: &'static str,
    pub select: &'static str,
}

pub(super) static KEY_TABLES: [KeyTable; 2] = [
    KeyTable {
        insert: Many::insert("INSERT OR REPLACE INTO keys", 6),
        delete: "DELETE FROM keys WHERE id IN (SELECT value FROM json_each(?))",
        select: "SELECT * FROM keys",
    },
    KeyTable {
        insert: Many::insert("INSERT OR REPLACE INTO request_ids", 6),
        delete: "DELETE FROM request_ids WHERE id IN (SELECT value FROM json_each(?))",
        select: "SELECT * FROM request_ids",
    },
];

pub(super) fn put_key(values: &mut Values, (id, key, entry): &(i64, &str, KeyEntry)) -> sqlx::Result<()> {
    values
        .put(*id)?
        .put(*key)?
        .put(&entry.local.as_bytes()[..])?
        .put(&entry.hash[..])?
        .put(i64::from(entry.ended.map_or(0, JobState::code)))?
        .put(entry.expires_ms as i64)?;
    Ok(())
}

/// A row of a [`KeyTable`].
pub(super) fn key(row: &SqliteRow) -> anyhow::Result<KeyEntry> {
    let hash: &[u8] = row.try_get(3)?;
    Ok(KeyEntry {
        local: uuid(row, 2)?,
        hash: hash.try_into().context("a payload hash of another length")?,
        ended: JobState::from_code(row.try_get(4)?),
        expires_ms: number(row, 5)?,
    })
}
