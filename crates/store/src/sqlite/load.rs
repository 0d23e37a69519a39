//! Rebuilds the state from the file, once, at start.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tidegate_protocol::domain::{JobId, JobState, QueueName};
use uuid::Uuid;

use super::{
    file::Identity,
    rows::{JobRow, MetaRow, lane},
};
use crate::memory::{KeyEntry, Queue, State};

pub(super) struct Loaded {
    pub state: State,
    pub identity: Identity,
}

type Queues = HashMap<i64, QueueName>;

pub(super) async fn load(connection: &mut SqliteConnection) -> anyhow::Result<Loaded> {
    let incarnation = fact(connection, "incarnation").await?;
    let watermark = fact(connection, "watermark").await?;
    let incarnation = match incarnation {
        Some(known) => known,
        None => {
            let new = Uuid::new_v4().simple().to_string();
            sqlx::query("INSERT INTO store (name, value) VALUES ('incarnation', ?)")
                .bind(&new)
                .execute(&mut *connection)
                .await?;
            new
        }
    };
    let mut state = State {
        watermark_ms: watermark
            .map_or(Ok(0), |text| text.parse())
            .context("the watermark is no number")?,
        ..State::default()
    };
    let queues = load_queues(connection, &mut state).await?;
    let highest = queues.keys().copied().max().unwrap_or(0);
    load_jobs(connection, &mut state, &queues).await?;
    load_ghosts(connection, &mut state, &queues).await?;
    load_keys(connection, &mut state, &queues).await?;
    let ids = queues.into_iter().map(|(id, name)| (name, id)).collect();
    let watermark_ms = state.watermark_ms;
    Ok(Loaded {
        state,
        identity: Identity {
            incarnation,
            ids,
            highest,
            watermark_ms,
        },
    })
}

async fn fact(connection: &mut SqliteConnection, name: &str) -> anyhow::Result<Option<String>> {
    let row = sqlx::query("SELECT value FROM store WHERE name = ?")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn load_queues(connection: &mut SqliteConnection, state: &mut State) -> anyhow::Result<Queues> {
    let mut queues = Queues::new();
    let mut rows = sqlx::query("SELECT id, name, meta FROM queues").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let name: QueueName = row.try_get::<String, _>(1)?.parse()?;
        let meta: MetaRow = serde_json::from_str(row.try_get(2)?).with_context(|| format!("queue {name}"))?;
        state.restore_queue(name.clone(), meta.into_meta());
        queues.insert(row.try_get(0)?, name);
    }
    Ok(queues)
}

fn queue_of<'s>(
    row: &SqliteRow,
    state: &'s mut State,
    queues: &Queues,
) -> anyhow::Result<(QueueName, &'s mut Queue)> {
    let id: i64 = row.try_get(0)?;
    let name = queues
        .get(&id)
        .ok_or_else(|| anyhow!("a row of the unknown queue {id}"))?;
    let queue = state
        .queues
        .get_mut(name)
        .ok_or_else(|| anyhow!("queue {name} was not restored"))?;
    Ok((name.clone(), queue))
}

fn local_of(row: &SqliteRow, column: usize) -> anyhow::Result<Uuid> {
    Ok(Uuid::from_slice(row.try_get::<&[u8], _>(column)?)?)
}

async fn load_jobs(
    connection: &mut SqliteConnection,
    state: &mut State,
    queues: &Queues,
) -> anyhow::Result<()> {
    let mut rows = sqlx::query("SELECT queue, local, position, body, payload FROM jobs").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (name, queue) = queue_of(&row, state, queues)?;
        let id = JobId {
            queue: name,
            shard: 0,
            local: local_of(&row, 1)?,
        };
        let position: Option<i64> = row.try_get(2)?;
        let body: JobRow = serde_json::from_str(row.try_get(3)?).with_context(|| format!("job {id}"))?;
        let payload = Bytes::from(row.try_get::<Vec<u8>, _>(4)?);
        let job = body
            .into_job(id.clone(), payload)
            .ok_or_else(|| anyhow!("job {id} has an unknown state"))?;
        queue.restore_job(job, position.map(|position| position as u64));
    }
    Ok(())
}

async fn load_ghosts(
    connection: &mut SqliteConnection,
    state: &mut State,
    queues: &Queues,
) -> anyhow::Result<()> {
    let mut rows = sqlx::query("SELECT queue, local, fence, lane, until_ms FROM ghosts").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (_, queue) = queue_of(&row, state, queues)?;
        let fence: i64 = row.try_get(2)?;
        let until_ms: i64 = row.try_get(4)?;
        queue.restore_ghost(
            (local_of(&row, 1)?, fence as u64),
            lane(row.try_get(3)?),
            until_ms as u64,
        );
    }
    Ok(())
}

async fn load_keys(
    connection: &mut SqliteConnection,
    state: &mut State,
    queues: &Queues,
) -> anyhow::Result<()> {
    let query = "SELECT queue, request, key, local, hash, ended, expires_ms FROM keys";
    let mut rows = sqlx::query(query).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (_, queue) = queue_of(&row, state, queues)?;
        let expires_ms: i64 = row.try_get(6)?;
        let entry = KeyEntry {
            local: local_of(&row, 3)?,
            hash: row
                .try_get::<&[u8], _>(4)?
                .try_into()
                .context("a payload hash of another length")?,
            ended: JobState::from_code(row.try_get(5)?),
            expires_ms: expires_ms as u64,
        };
        queue.restore_key(row.try_get(1)?, row.try_get(2)?, entry);
    }
    Ok(())
}
