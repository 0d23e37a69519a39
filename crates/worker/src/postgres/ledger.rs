//! The table in which effects are remembered. It stands in the database that the effects change, because they and their
//! entry must be committed together.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor};

use super::Connections;

/// What [`create_ledger`] runs, for those who keep their schema in migrations. In the first schema of the search path.
///
/// `created_at` never changes, so that an update touches no index.
pub const LEDGER_SQL: &str = "\
create table if not exists tidegate_once (
    job_id text not null,
    effect text not null,
    fence bigint not null,
    done boolean not null default false,
    result json,
    created_at timestamptz not null default now(),
    primary key (job_id, effect)
);
create index if not exists tidegate_once_created_at on tidegate_once (created_at);
";

/// Makes the table that [`crate::JobContext::once`] needs, if it is not there. Any number of workers may call it at once.
///
/// # Errors
/// As the database says: the role must be allowed to create tables.
pub async fn create_ledger(pool: &impl Connections) -> Result<(), sqlx::Error> {
    let mut connection = pool.connection().await?;
    let mut transaction = connection.begin().await?;
    // "If not exists" alone fails when two do it at the same moment. The number is any that nobody else uses.
    transaction
        .execute("select pg_advisory_xact_lock(8390608411720347237)")
        .await?;
    transaction.execute(sqlx::raw_sql(LEDGER_SQL)).await?;
    transaction.commit().await
}

/// Rows of one statement: short transactions, little for autovacuum to do at a time.
const TRIM_ROWS: u64 = 10_000;

/// Forgets the effects of jobs that began more than `older_than` ago; says how many. Run it now and then, e.g. as a job
/// of its own.
///
/// A job that is tried again after its entry is gone does its effect again. So `older_than` must be longer than any job
/// can live: waiting, retries and redrives included. A week is a good choice where nobody redrives older jobs.
///
/// # Errors
/// As the database says; what was forgotten until then stays so.
pub async fn trim_ledger(pool: &impl Connections, older_than: Duration) -> Result<u64, sqlx::Error> {
    let seconds = older_than.as_secs();
    let sql = format!(
        "delete from tidegate_once where ctid = any(array(select ctid from tidegate_once \
         where created_at < now() - interval '{seconds} seconds' limit {TRIM_ROWS}))"
    );
    let mut trimmed = 0;
    // It ends: each round deletes rows that are older than a time in the past, of which no new ones appear.
    loop {
        let mut connection = pool.connection().await?;
        let sql = AssertSqlSafe(sql.clone()); // made of numbers
        let rows = sqlx::raw_sql(sql)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        trimmed += rows;
        if rows < TRIM_ROWS {
            return Ok(trimmed);
        }
    }
}
