//! Puts gathered changes into one transaction, in few statements of many rows (each statement costs two thread
//! hand-offs, so rows are cheap and statements are not).

use std::collections::HashMap;

use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection};
use tidegate_protocol::domain::{Lane, LocalId, QueueName};

use super::rows::{JobRow, MetaRow};
use crate::memory::{
    KeyEntry,
    journal::{Changes, JobChange, Meta},
};

/// Rows of one statement: SQLite allows 32,766 bound values, a row here has at most seven.
const ROWS_PER_STATEMENT: usize = 200;

type Key = (bool, String);
type Slot = (LocalId, u64);

/// Changes of one queue, the newest of each row.
#[derive(Default)]
struct Rows {
    meta: Option<Meta>,
    jobs: HashMap<LocalId, JobChange>,
    ghosts: HashMap<Slot, Option<(Lane, u64)>>,
    keys: HashMap<Key, Option<KeyEntry>>,
}

/// Everything that waits for the next commit.
#[derive(Default)]
pub(super) struct Gathered {
    queues: HashMap<QueueName, Rows>,
    pub watermark_ms: Option<u64>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.watermark_ms.is_none()
    }

    pub(super) fn add(&mut self, changes: Changes) {
        for change in changes.0 {
            let rows = self.queues.entry(change.queue).or_default();
            if change.meta.is_some() {
                rows.meta = change.meta;
            }
            for mut job in change.jobs {
                let waits = rows.jobs.get(&job.local);
                // Entered and changed within one commit: still new to the file.
                job.entered |= waits.is_some_and(|earlier| earlier.entered && earlier.now.is_some());
                rows.jobs.insert(job.local, job);
            }
            rows.ghosts.extend(change.ghosts);
            rows.keys.extend(
                change
                    .keys
                    .into_iter()
                    .map(|key| ((key.request, key.key), key.now)),
            );
        }
    }

    /// Writes everything in one transaction. `ids` learns the queues that are new.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        ids: &mut HashMap<QueueName, i64>,
        highest: &mut i64,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        if let Some(watermark_ms) = self.watermark_ms {
            sqlx::query(
                "INSERT INTO store VALUES ('watermark', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            )
            .bind(watermark_ms.to_string())
            .execute(&mut *transaction)
            .await?;
        }
        for (name, rows) in &self.queues {
            // An id given out by a transaction that then failed is simply used again: the row is an upsert.
            let id = *ids.entry(name.clone()).or_insert_with(|| {
                *highest += 1;
                *highest
            });
            rows.write(&mut transaction, id, name).await?;
        }
        transaction.commit().await
    }
}

impl Rows {
    async fn write(&self, tx: &mut SqliteConnection, id: i64, name: &QueueName) -> Result<(), sqlx::Error> {
        if let Some(meta) = &self.meta {
            let text = encode(&MetaRow::of(meta))?;
            sqlx::query("INSERT INTO queues VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET meta = excluded.meta")
                .bind(id)
                .bind(name.as_str())
                .bind(text)
                .execute(&mut *tx)
                .await?;
        }
        let kept = |job: &&JobChange| job.now.is_some();
        let (entered, changed): (Vec<_>, Vec<_>) =
            self.jobs.values().filter(kept).partition(|job| job.entered);
        enter_jobs(tx, id, &entered).await?;
        change_jobs(tx, id, &changed).await?;
        let gone = self.jobs.values().filter(|job| job.now.is_none());
        let gone: Vec<_> = gone.map(|job| job.local).collect();
        for chunk in gone.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM jobs WHERE queue = ");
            query.push_bind(id).push(" AND local IN (");
            let mut list = query.separated(", ");
            for local in chunk {
                list.push_bind(local.as_bytes().to_vec());
            }
            query.push(")").build().execute(&mut *tx).await?;
        }
        self.write_ghosts(tx, id).await?;
        self.write_keys(tx, id).await
    }

    async fn write_ghosts(&self, tx: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
        let all: Vec<_> = self.ghosts.iter().collect();
        let (there, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, ghost)| ghost.is_some());
        for chunk in gone.chunks(ROWS_PER_STATEMENT) {
            // Alternatives, not a list of row values: for that SQLite walks over the whole table.
            let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM ghosts WHERE ");
            for (i, ((local, fence), _)) in chunk.iter().enumerate() {
                query
                    .push(if i == 0 { "(queue = " } else { " OR (queue = " })
                    .push_bind(id);
                query.push(" AND local = ").push_bind(local.as_bytes().to_vec());
                query.push(" AND fence = ").push_bind(*fence as i64).push(")");
            }
            query.build().execute(&mut *tx).await?;
        }
        for chunk in there.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO ghosts ");
            query.push_values(chunk, |mut row, ((local, fence), ghost)| {
                let (lane, until_ms) = ghost.unwrap_or((Lane::First, 0));
                row.push_bind(id)
                    .push_bind(local.as_bytes().to_vec())
                    .push_bind(*fence as i64);
                row.push_bind(lane as u8).push_bind(until_ms as i64);
            });
            query.build().execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn write_keys(&self, tx: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
        for request in [false, true] {
            let gone = self
                .keys
                .iter()
                .filter(|((of, _), entry)| *of == request && entry.is_none());
            let gone: Vec<_> = gone.map(|((_, key), _)| key).collect();
            for chunk in gone.chunks(ROWS_PER_STATEMENT) {
                let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM keys WHERE queue = ");
                query
                    .push_bind(id)
                    .push(" AND request = ")
                    .push_bind(request)
                    .push(" AND key IN (");
                let mut list = query.separated(", ");
                for key in chunk {
                    list.push_bind((*key).clone());
                }
                query.push(")").build().execute(&mut *tx).await?;
            }
        }
        let there: Vec<_> = self
            .keys
            .iter()
            .filter_map(|(key, entry)| entry.map(|entry| (key, entry)))
            .collect();
        for chunk in there.chunks(ROWS_PER_STATEMENT) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO keys ");
            query.push_values(chunk, |mut row, ((request, key), entry)| {
                row.push_bind(id).push_bind(*request).push_bind(key.clone());
                row.push_bind(entry.local.as_bytes().to_vec())
                    .push_bind(entry.hash.to_vec());
                row.push_bind(entry.ended.map_or(0, |state| state.code()))
                    .push_bind(entry.expires_ms as i64);
            });
            query.build().execute(&mut *tx).await?;
        }
        Ok(())
    }
}

async fn enter_jobs(tx: &mut SqliteConnection, id: i64, jobs: &[&JobChange]) -> Result<(), sqlx::Error> {
    for chunk in jobs.chunks(ROWS_PER_STATEMENT) {
        let bodies = bodies(chunk)?;
        let mut query = QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO jobs ");
        query.push_values(chunk.iter().zip(bodies), |mut row, (job, body)| {
            let payload = job
                .now
                .as_ref()
                .map(|job| job.payload.to_vec())
                .unwrap_or_default();
            row.push_bind(id).push_bind(job.local.as_bytes().to_vec());
            row.push_bind(job.position.map(|position| position as i64))
                .push_bind(body)
                .push_bind(payload);
        });
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// Jobs that the file knows: their payload stays as it is. An upsert, because it looks each row up by its key; an
/// `UPDATE ... FROM` lets SQLite walk over the whole queue instead.
async fn change_jobs(tx: &mut SqliteConnection, id: i64, jobs: &[&JobChange]) -> Result<(), sqlx::Error> {
    for chunk in jobs.chunks(ROWS_PER_STATEMENT) {
        let bodies = bodies(chunk)?;
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO jobs ");
        query.push_values(chunk.iter().zip(bodies), |mut row, (job, body)| {
            row.push_bind(id).push_bind(job.local.as_bytes().to_vec());
            row.push_bind(job.position.map(|position| position as i64))
                .push_bind(body)
                .push_bind(Vec::new());
        });
        query.push(" ON CONFLICT DO UPDATE SET position = excluded.position, body = excluded.body");
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

fn bodies(jobs: &[&JobChange]) -> Result<Vec<String>, sqlx::Error> {
    jobs.iter()
        .filter_map(|job| job.now.as_ref())
        .map(|job| encode(&JobRow::of(job)))
        .collect()
}

fn encode<T: serde::Serialize>(row: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(row).map_err(|error| sqlx::Error::Encode(error.into()))
}
