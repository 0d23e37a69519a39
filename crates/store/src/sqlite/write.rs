//! Puts gathered changes into one transaction: the newest version of each row, in the order of the rows, so that a
//! commit touches few pages.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tidegate_protocol::domain::{Lane, LocalId, QueueName};

use super::rows::{self, row_id};
use crate::memory::{
    journal::{Changes, JobChange, Record},
    keys::Kept,
    queue::Counters,
};

/// Changes of one queue, the newest of each row.
#[derive(Default)]
struct Rows {
    record: Option<Record>,
    counters: Option<Counters>,
    jobs: BTreeMap<u64, JobChange>,
    ghosts: HashMap<(LocalId, u64), Option<(Lane, u64)>>,
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
    pub fn write(
        &self,
        connection: &mut Connection,
        ids: &mut HashMap<QueueName, i64>,
    ) -> rusqlite::Result<()> {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(watermark_ms) = self.watermark_ms {
            tx.prepare_cached("INSERT OR REPLACE INTO store VALUES ('watermark', ?)")?
                .execute([watermark_ms.to_string()])?;
        }
        for (name, rows) in &self.queues {
            // An id given out by a transaction that then failed is simply used again: the row is new then, too.
            let next = ids.len() as i64 + 1;
            let id = *ids.entry(name.clone()).or_insert(next);
            rows.write(&tx, id, name)?;
        }
        tx.commit()
    }
}

impl Rows {
    fn write(&self, tx: &Transaction<'_>, queue: i64, name: &QueueName) -> rusqlite::Result<()> {
        if let Some(record) = &self.record {
            let insert = "INSERT INTO queues VALUES (?, ?, ?, 0, 0, 0, 0) \
                          ON CONFLICT DO UPDATE SET record = excluded.record";
            tx.prepare_cached(insert)?
                .execute(params![queue, name.as_str(), rows::record_text(record)?])?;
        }
        if let Some(counters) = self.counters {
            let update = "UPDATE queues SET turn = ?, submitted_total = ?, succeeded_total = ?, dead_total = ? \
                          WHERE id = ?";
            tx.prepare_cached(update)?.execute(params![
                counters.turn as u8,
                counters.submitted as i64,
                counters.succeeded as i64,
                counters.dead as i64,
                queue,
            ])?;
        }
        self.write_jobs(tx, queue)?;
        self.write_ghosts(tx, queue)?;
        for (keys, request) in self.keys.iter().zip([false, true]) {
            write_keys(tx, queue, keys, rows::key_table(request))?;
        }
        Ok(())
    }

    /// One table after the other: each statement finds its pages where the last one left them.
    fn write_jobs(&self, tx: &Transaction<'_>, queue: i64) -> rusqlite::Result<()> {
        let mut enter = tx.prepare_cached(rows::ENTER_JOB)?;
        let mut keep = tx.prepare_cached(rows::KEEP_PROGRESS)?;
        let mut leave = tx.prepare_cached("DELETE FROM jobs WHERE id = ?")?;
        let mut forget = tx.prepare_cached("DELETE FROM progress WHERE job = ?")?;
        for (number, job) in &self.jobs {
            match (&job.entered, &job.now) {
                (Some(entered), Some(now)) => rows::enter(&mut enter, row_id(queue, *number), entered, now)?,
                (None, None) => leave.execute([row_id(queue, *number)])?,
                _ => 0,
            };
        }
        for (number, job) in &self.jobs {
            let id = row_id(queue, *number);
            match &job.now {
                Some(now) if job.entered.is_some() && now.is_untouched() => 0,
                Some(now) => rows::keep_progress(&mut keep, id, now)?,
                None => forget.execute([id])?,
            };
        }
        Ok(())
    }

    fn write_ghosts(&self, tx: &Transaction<'_>, queue: i64) -> rusqlite::Result<()> {
        for ((local, fence), ghost) in &self.ghosts {
            let (local, fence) = (local.as_bytes(), *fence as i64);
            match ghost {
                Some((lane, until_ms)) => tx
                    .prepare_cached("INSERT OR REPLACE INTO ghosts VALUES (?, ?, ?, ?, ?)")?
                    .execute(params![queue, local, fence, *lane as u8, *until_ms as i64])?,
                None => tx
                    .prepare_cached("DELETE FROM ghosts WHERE queue = ? AND local = ? AND fence = ?")?
                    .execute(params![queue, local, fence])?,
            };
        }
        Ok(())
    }
}

fn write_keys(
    tx: &Transaction<'_>,
    queue: i64,
    keys: &BTreeMap<u64, Kept>,
    table: &str,
) -> rusqlite::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut keep = tx.prepare_cached(&format!(
        "INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?)"
    ))?;
    let mut forget = tx.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?"))?;
    for (number, (key, entry)) in keys {
        let id = row_id(queue, *number);
        match entry {
            Some(entry) => rows::keep_key(&mut keep, id, key, entry)?,
            None => forget.execute([id])?,
        };
    }
    Ok(())
}
