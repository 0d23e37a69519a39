//! Old records go: in small steps, so that nobody waits for it.

use sqlx::AssertSqlSafe;

use super::{
    Ledger, LedgerError,
    db::{change, rows, within},
};

/// A week: who asks why later has the metrics.
const KEPT_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Decisions at most: some hundreds of MiB.
const DECISIONS_MAX: i64 = 1_000_000;
/// Ticks at most: with a hundred queues a tick has some ten KiB.
const TICKS_MAX: i64 = 50_000;
/// Rows of one step.
const STEP: i64 = 500;
/// Steps of one round; the next round goes on.
const STEPS_MAX: usize = 20;

/// A table, its number within an epoch, and how many rows it may have.
const TABLES: [(&str, &str, i64); 3] = [
    ("tidegate_decisions", "seq", DECISIONS_MAX),
    ("tidegate_ticks", "tick", TICKS_MAX),
    ("tidegate_snapshots", "tick", TICKS_MAX),
];

impl Ledger {
    /// Removes what is older than a week or more than its table may have; gives how many rows went.
    pub(super) async fn trim(&self, wall_ms: u64) -> Result<u64, LedgerError> {
        let mut gone = 0;
        for (table, number, max) in TABLES {
            let over = self.count(table).await? - max;
            gone += self.trim_table(table, number, over, wall_ms).await?;
        }
        Ok(gone)
    }

    async fn count(&self, table: &str) -> Result<i64, LedgerError> {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let mut tx = self.db.begin_to_read().await?;
        let counted: Vec<i64> =
            within(async { rows!(&mut tx, sqlx::query_scalar(AssertSqlSafe(sql.as_str()))) }).await?;
        tx.commit().await?;
        Ok(counted.first().copied().unwrap_or(0))
    }

    /// The oldest `over` rows go whatever their age.
    async fn trim_table(
        &self,
        table: &str,
        number: &str,
        mut over: i64,
        wall_ms: u64,
    ) -> Result<u64, LedgerError> {
        let oldest =
            format!("SELECT epoch, {number}, at_ms FROM {table} ORDER BY epoch, {number} LIMIT {STEP}");
        let delete = format!("DELETE FROM {table} WHERE epoch < $1 OR (epoch = $1 AND {number} <= $2)");
        let kept_from_ms = wall_ms.saturating_sub(KEPT_MS) as i64;
        let mut gone = 0;
        for _ in 0..STEPS_MAX {
            let mut tx = self.db.begin().await?;
            let found: Vec<(i64, i64, i64)> =
                within(async { rows!(&mut tx, sqlx::query_as(AssertSqlSafe(oldest.as_str()))) }).await?;
            let Some((epoch, last)) = last_to_go(&found, over, kept_from_ms) else {
                return Ok(gone);
            };
            let deleted = within(async {
                change!(
                    &mut tx,
                    sqlx::query(AssertSqlSafe(delete.as_str())).bind(epoch).bind(last)
                )
            })
            .await?;
            tx.commit().await?;
            gone += deleted;
            over -= deleted as i64;
        }
        Ok(gone)
    }
}

/// Of rows in their order: the last one that is too old or too many.
fn last_to_go(rows: &[(i64, i64, i64)], over: i64, kept_from_ms: i64) -> Option<(i64, i64)> {
    let is_over = |(at, row): &(usize, &(i64, i64, i64))| (*at as i64) < over || row.2 < kept_from_ms;
    let last = rows.iter().enumerate().take_while(is_over).last();
    last.map(|(_, (epoch, number, _))| (*epoch, *number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_by_age_or_by_number() {
        let rows = [(1, 1, 10), (1, 2, 20), (2, 1, 30), (2, 2, 40)];
        assert_eq!(last_to_go(&rows, 0, 0), None);
        assert_eq!(last_to_go(&rows, -5, 25), Some((1, 2)));
        assert_eq!(last_to_go(&rows, 3, 0), Some((2, 1)));
        assert_eq!(last_to_go(&rows, 9, 0), Some((2, 2)));
        assert_eq!(last_to_go(&[], 9, 9), None);
    }
}
