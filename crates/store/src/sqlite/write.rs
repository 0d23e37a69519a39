//! Puts gathered changes into one transaction: the newest version of each row, in the order of the rows, so that a
//! commit touches few pages.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
};

use sqlx::SqliteConnection;
use tidegate_protocol::domain::{Lane, QueueName};

use super::{
    rows::{self, KEY_TABLES, KeyTable, row_id},
    statement::{Statement, Values, delete, run_all},
};
use crate::memory::{
    KeyEntry,
    journal::{Changes, JobChange, Record},
    keys::Kept,
    queue::Counters,
    slots::Slot,
};

/// Changes of one queue, the newest of each row.
#[derive(Default)]
struct Rows {
    record: Option<Record>,
    counters: Option<Counters>,
    jobs: BTreeMap<u64, JobChange>,
    ghosts: HashMap<Slot, Option<(Lane, u64)>>,
    /// Idempotency keys and request ids.
    keys: [BTreeMap<u64, Kept>; 2],
}

/// Everything that waits for the next commit.
#[derive(Default)]
pub(super) struct Gathered {
    queues: HashMap<QueueName, Rows>,
    pub watermark_ms: Option<u64>,
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.watermark_ms.is_none()
    }

    pub fn add(&mut self, changes: Changes) {
        for change in changes.0 {
            let rows = self.queues.entry(change.queue).or_default();
            rows.record = change.record.or(rows.record.take());
            rows.counters = change.counters.or(rows.counters);
            for mut job in change.jobs {
                // Entered and changed within one commit: still new to the file.
                if let Some(earlier) = rows
                    .jobs
                    .get_mut(&job.number)
                    .and_then(|earlier| earlier.entered.take())
                {
                    if job.now.is_none() {
                        rows.jobs.remove(&job.number);
                        continue;
                    }
                    job.entered = Some(earlier);
                }
                rows.jobs.insert(job.number, job);
            }
            rows.ghosts.extend(change.ghosts);
            for (all, new) in rows.keys.iter_mut().zip(change.keys) {
                all.extend(new);
            }
        }
    }

    /// Writes everything in one transaction. `ids` learns the queues that are new.
    pub async fn write(
        &self,
        connection: &mut SqliteConnection,
        ids: &mut HashMap<QueueName, i64>,
    ) -> sqlx::Result<()> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (name, rows) in &self.queues {
            // An id given out by a transaction that then failed is simply used again: the row is new then, too.
            let next = ids.len() as i64 + 1;
            let id = *ids.entry(name.clone()).or_insert(next);
            queues.push((id, name, rows));
        }
        queues.sort_unstable_by_key(|(id, ..)| *id);
        // Not the library's transactions: SQLite ends one by itself when the disk is full, which they do not expect.
        let statements = iter::once(Ok(Statement::new("BEGIN IMMEDIATE")))
            .chain(self.watermark_ms.map(watermark))
            .chain(of_queues(&queues))
            .chain(of_jobs(&queues))
            .chain(of_ghosts(&queues))
            .chain(of_keys(&queues, &KEY_TABLES[0], 0))
            .chain(of_keys(&queues, &KEY_TABLES[1], 1))
            .chain(iter::once(Ok(Statement::new("COMMIT"))));
        let written = run_all(connection, statements).await;
        if written.is_err() {
            // There may be none to end.
            Statement::new("ROLLBACK").run(connection).await.ok();
        }
        written
    }
}

fn watermark(watermark_ms: u64) -> sqlx::Result<Statement> {
    let mut values = Values::default();
    values.put(watermark_ms.to_string())?;
    let text = "INSERT OR REPLACE INTO store VALUES ('watermark', ?)";
    Ok(Statement::with(text, values))
}

/// Rows of several queues with the numbers of these.
type Queues<'g> = [(i64, &'g QueueName, &'g Rows)];

fn of_queues<'g>(queues: &Queues<'g>) -> impl Iterator<Item = sqlx::Result<Statement>> + use<'g> {
    let mut records = Vec::new();
    let mut counters = Vec::new();
    for (id, name, rows) in queues {
        records.extend(rows.record.as_ref().map(|record| (*id, *name, record)));
        counters.extend(rows.counters.map(|counters| (*id, counters)));
    }
    let records = rows::RECORDS.of(records, rows::put_record);
    records.chain(rows::COUNTERS.of(counters, rows::put_counters))
}

/// One table after the other: each statement finds its pages where the last one left them.
fn of_jobs<'g>(queues: &Queues<'g>) -> impl Iterator<Item = sqlx::Result<Statement>> + use<'g> {
    let (mut entered, mut progress, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (queue, _, rows) in queues {
        for (number, job) in &rows.jobs {
            let id = row_id(*queue, *number);
            match (&job.entered, &job.now) {
                (Some(new), Some(now)) => {
                    entered.push((id, &**new, &**now));
                    if !now.is_untouched() {
                        progress.push((id, &**now));
                    }
                }
                (None, Some(now)) => progress.push((id, &**now)),
                (_, None) => gone.push(id),
            }
        }
    }
    let jobs = rows::JOBS.of(entered, rows::put_job);
    let progress = rows::PROGRESS.of(progress, rows::put_progress);
    let gone = delete(rows::DELETE_JOBS, 2, gone);
    jobs.chain(progress).chain(gone)
}

fn of_ghosts<'g>(queues: &Queues<'g>) -> impl Iterator<Item = sqlx::Result<Statement>> + use<'g> {
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for (queue, _, rows) in queues {
        for (slot, ghost) in &rows.ghosts {
            match ghost {
                Some(ghost) => kept.push((*queue, *slot, *ghost)),
                None => gone.push((*queue, *slot)),
            }
        }
    }
    let kept = rows::GHOSTS.of(kept, rows::put_ghost);
    kept.chain(rows::GONE_GHOSTS.of(gone, rows::put_slot))
}

/// `kind`: of the keys, see [`Rows`].
fn of_keys<'g>(
    queues: &Queues<'g>,
    table: &'static KeyTable,
    kind: usize,
) -> impl Iterator<Item = sqlx::Result<Statement>> + use<'g> {
    let (mut kept, mut gone) = (Vec::<(i64, &str, KeyEntry)>::new(), Vec::new());
    for (queue, _, rows) in queues {
        for (number, (key, entry)) in &rows.keys[kind] {
            let id = row_id(*queue, *number);
            match entry {
                Some(entry) => kept.push((id, key, *entry)),
                None => gone.push(id),
            }
        }
    }
    let kept = table.insert.of(kept, rows::put_key);
    kept.chain(delete(table.delete, 1, gone))
}
