//! Rebuilds the state from the file, once, at start.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};
use tidegate_protocol::domain::{Job, QueueName};
use tokio::{sync::mpsc, task};
use uuid::Uuid;

use super::rows::{self, KEY_TABLES, lane, split};
use crate::memory::{Queue, State, queue::Counters};

/// What the file says about itself.
pub(super) struct Identity {
    pub incarnation: String,
    pub ids: HashMap<QueueName, i64>,
    pub watermark_ms: u64,
}

pub(super) struct Loaded {
    pub state: State,
    pub identity: Identity,
}

type Queues = HashMap<i64, QueueName>;

/// Jobs that are handed from who reads to who indexes at once, and how often before the reader waits.
const BATCH: usize = 1_000;
const BATCHES_AHEAD: usize = 8;

pub(super) async fn load(connection: &mut SqliteConnection) -> anyhow::Result<Loaded> {
    let incarnation = match fact(connection, "incarnation").await? {
        Some(known) => known,
        None => {
            let new = Uuid::new_v4().simple().to_string();
            let insert = sqlx::query("INSERT INTO store VALUES ('incarnation', ?)").bind(&new);
            insert.execute(&mut *connection).await?;
            new
        }
    };
    let watermark = fact(connection, "watermark").await?;
    let watermark_ms = watermark
        .map_or(Ok(0), |text| text.parse())
        .context("the watermark is no number")?;
    let mut state = State {
        watermark_ms,
        ..State::default()
    };
    let queues = load_queues(connection, &mut state).await?;
    for request in [false, true] {
        load_keys(connection, &mut state, &queues, request).await?;
    }
    state = load_jobs(connection, state, &queues).await?;
    load_ghosts(connection, &mut state, &queues).await?;
    let identity = Identity {
        incarnation,
        ids: queues.into_iter().map(|(id, name)| (name, id)).collect(),
        watermark_ms,
    };
    Ok(Loaded { state, identity })
}

pub(super) async fn fact(connection: &mut SqliteConnection, name: &str) -> sqlx::Result<Option<String>> {
    let select = sqlx::query_scalar("SELECT value FROM store WHERE name = ?").bind(name);
    select.fetch_optional(connection).await
}

async fn load_queues(connection: &mut SqliteConnection, state: &mut State) -> anyhow::Result<Queues> {
    let mut queues = Queues::new();
    let query = "SELECT id, name, record, turn, submitted_total, succeeded_total, dead_total \
                 FROM queues JOIN counters ON counters.queue = queues.id";
    let mut rows = sqlx::query(query).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let name: QueueName = row.try_get::<&str, _>(1)?.parse()?;
        let record = rows::record_from(row.try_get(2)?).with_context(|| format!("queue {name}"))?;
        let counters = Counters {
            turn: lane(row.try_get(3)?),
            submitted: rows::number(&row, 4)?,
            succeeded: rows::number(&row, 5)?,
            dead: rows::number(&row, 6)?,
        };
        state.restore_queue(name.clone(), record, counters);
        queues.insert(row.try_get(0)?, name);
    }
    Ok(queues)
}

fn queue_of<'s>(id: i64, state: &'s mut State, queues: &Queues) -> anyhow::Result<&'s mut Queue> {
    let name = queues.get(&id);
    name.and_then(|name| state.queues.get_mut(name))
        .ok_or_else(|| unknown(id))
}

fn unknown(queue: i64) -> anyhow::Error {
    anyhow!("a row of the unknown queue {queue}")
}

/// Reading rows and indexing jobs take the same time: they go on side by side.
async fn load_jobs(
    connection: &mut SqliteConnection,
    mut state: State,
    queues: &Queues,
) -> anyhow::Result<State> {
    let at_ms = state.watermark_ms;
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
    let indexing = task::spawn_blocking(move || {
        while let Some(batch) = batches.blocking_recv() {
            index(batch, &mut state)?;
        }
        anyhow::Ok(state)
    });
    let read = read_jobs(connection, queues, at_ms, sender).await;
    // What went wrong over there ended the reading here.
    let state = indexing
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    read.map(|()| state)
}

/// A job, its number and its position.
type Read = (Job, u64, Option<u64>);

async fn read_jobs(
    connection: &mut SqliteConnection,
    queues: &Queues,
    at_ms: u64,
    sender: mpsc::Sender<Vec<Read>>,
) -> anyhow::Result<()> {
    for query in rows::select_jobs() {
        let mut rows = sqlx::query(AssertSqlSafe(query)).fetch(&mut *connection);
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(row) = rows.try_next().await? {
            let row_id = row.try_get(0)?;
            let (queue, number) = split(row_id);
            let name = queues.get(&queue).ok_or_else(|| unknown(queue))?;
            let (job, position) = rows::job(&row, name.clone())
                .unwrap_or_else(|why| (rows::unreadable(&row, name.clone(), row_id, at_ms, &why), None));
            batch.push((job, number, position));
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                sender.send(full).await?;
            }
        }
        sender.send(batch).await?;
    }
    Ok(())
}

fn index(batch: Vec<Read>, state: &mut State) -> anyhow::Result<()> {
    for (job, number, position) in batch {
        let queue = state.queues.get_mut(&job.id.queue);
        let queue = queue.with_context(|| format!("queue {} was not restored", job.id.queue))?;
        queue.restore_job(job, number, position);
    }
    Ok(())
}

async fn load_ghosts(
    connection: &mut SqliteConnection,
    state: &mut State,
    queues: &Queues,
) -> anyhow::Result<()> {
    let query = "SELECT queue, local, fence, lane, until_ms FROM ghosts";
    let mut rows = sqlx::query(query).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let queue = queue_of(row.try_get(0)?, state, queues)?;
        let slot = (rows::uuid(&row, 1)?, rows::number(&row, 2)?);
        queue.restore_ghost(slot, lane(row.try_get(3)?), rows::number(&row, 4)?);
    }
    Ok(())
}

/// A name that cannot be read is forgotten: a repeat of its submit is a new job, which is better than no jobs at all. Its row
/// stays, and is told of at every start.
async fn load_keys(
    connection: &mut SqliteConnection,
    state: &mut State,
    queues: &Queues,
    request: bool,
) -> anyhow::Result<()> {
    let (mut forgotten, mut example) = (0_u64, None);
    let mut rows = sqlx::query(KEY_TABLES[usize::from(request)].select).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let row_id = row.try_get(0)?;
        let (queue, number) = split(row_id);
        let queue = queue_of(queue, state, queues)?;
        let entry = row.try_get(1).map_err(Into::into);
        match entry.and_then(|name| anyhow::Ok((name, rows::key(&row)?))) {
            Ok((name, entry)) => queue.restore_key(request, name, number, entry),
            Err(why) => {
                forgotten += 1;
                example.get_or_insert((row_id, why));
            }
        }
    }
    if let Some((row_id, why)) = example {
        let table = ["keys", "request_ids"][usize::from(request)];
        let error = format!("{why:#}");
        tracing::error!(
            table,
            row_id,
            forgotten,
            error,
            "names of submits cannot be read: repeats of these are new jobs"
        );
    }
    Ok(())
}
