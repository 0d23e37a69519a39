//! Rebuilds the state from the file, once, at start.

use std::{
    collections::HashMap,
    sync::mpsc::{self, SyncSender},
    thread,
};

use anyhow::{Context as _, anyhow};
use rusqlite::{Connection, OptionalExtension as _};
use tidegate_protocol::domain::{Job, QueueName};
use uuid::Uuid;

use super::rows::{self, lane, split};
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

/// Jobs that are handed from the reading to the indexing thread at once, and how often before it waits.
const BATCH: usize = 1_000;
const BATCHES_AHEAD: usize = 8;

pub(super) fn load(connection: &Connection) -> anyhow::Result<Loaded> {
    let incarnation = match fact(connection, "incarnation")? {
        Some(known) => known,
        None => {
            let new = Uuid::new_v4().simple().to_string();
            connection.execute("INSERT INTO store VALUES ('incarnation', ?)", [&new])?;
            new
        }
    };
    let watermark = fact(connection, "watermark")?;
    let watermark_ms = watermark
        .map_or(Ok(0), |text| text.parse())
        .context("the watermark is no number")?;
    let mut state = State {
        watermark_ms,
        ..State::default()
    };
    let queues = load_queues(connection, &mut state)?;
    load_keys(connection, &mut state, &queues, false)?;
    load_keys(connection, &mut state, &queues, true)?;
    load_jobs(connection, &mut state, &queues)?;
    load_ghosts(connection, &mut state, &queues)?;
    let identity = Identity {
        incarnation,
        ids: queues.into_iter().map(|(id, name)| (name, id)).collect(),
        watermark_ms,
    };
    Ok(Loaded { state, identity })
}

pub(super) fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare("SELECT value FROM store WHERE name = ?")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

fn load_queues(connection: &Connection, state: &mut State) -> anyhow::Result<Queues> {
    let mut queues = Queues::new();
    let query = "SELECT id, name, record, turn, submitted_total, succeeded_total, dead_total FROM queues";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: QueueName = row.get_ref(1)?.as_str()?.parse()?;
        let record = rows::record_from(row.get_ref(2)?.as_str()?).with_context(|| format!("queue {name}"))?;
        let counters = Counters {
            turn: lane(row.get(3)?),
            submitted: rows::number(row, 4)?,
            succeeded: rows::number(row, 5)?,
            dead: rows::number(row, 6)?,
        };
        state.restore_queue(name.clone(), record, counters);
        queues.insert(row.get(0)?, name);
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

/// Reading rows and indexing jobs take the same time: a thread each.
fn load_jobs(connection: &Connection, state: &mut State, queues: &Queues) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(BATCHES_AHEAD);
    thread::scope(|scope| {
        let indexing = scope.spawn(move || receiver.into_iter().try_for_each(|batch| index(batch, state)));
        let read = read_jobs(connection, queues, sender);
        let indexed = indexing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What went wrong over there ends the reading here.
        indexed.and(read)
    })
}

/// A job, its number and its position.
type Read = (Job, u64, Option<u64>);

fn read_jobs(connection: &Connection, queues: &Queues, sender: SyncSender<Vec<Read>>) -> anyhow::Result<()> {
    let mut statement = connection.prepare(rows::SELECT_JOBS)?;
    let mut rows = statement.query([])?;
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(row) = rows.next()? {
        let (queue, number) = split(row.get(0)?);
        let name = queues.get(&queue).ok_or_else(|| unknown(queue))?;
        let (job, position) = rows::job(row, name.clone())?;
        batch.push((job, number, position));
        if batch.len() == BATCH {
            sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))?;
        }
    }
    Ok(sender.send(batch)?)
}

fn index(batch: Vec<Read>, state: &mut State) -> anyhow::Result<()> {
    for (job, number, position) in batch {
        let queue = state.queues.get_mut(&job.id.queue);
        let queue = queue.with_context(|| format!("queue {} was not restored", job.id.queue))?;
        queue.restore_job(job, number, position);
    }
    Ok(())
}

fn load_ghosts(connection: &Connection, state: &mut State, queues: &Queues) -> anyhow::Result<()> {
    let mut statement = connection.prepare("SELECT queue, local, fence, lane, until_ms FROM ghosts")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let queue = queue_of(row.get(0)?, state, queues)?;
        let slot = (rows::uuid(row, 1)?, rows::number(row, 2)?);
        queue.restore_ghost(slot, lane(row.get(3)?), rows::number(row, 4)?);
    }
    Ok(())
}

fn load_keys(
    connection: &Connection,
    state: &mut State,
    queues: &Queues,
    request: bool,
) -> anyhow::Result<()> {
    let table = rows::key_table(request);
    let query = format!("SELECT id, key, local, payload_hash, ended, expires_ms FROM {table}");
    let mut statement = connection.prepare(&query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (queue, number) = split(row.get(0)?);
        let queue = queue_of(queue, state, queues)?;
        queue.restore_key(request, row.get_ref(1)?.as_str()?, number, rows::key(row)?);
    }
    Ok(())
}
