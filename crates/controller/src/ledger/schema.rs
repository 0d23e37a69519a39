//! The ledger's tables, brought to this version before anything is read.

use sqlx::AssertSqlSafe;

use super::{
    LedgerError,
    db::{Db, Tx, rows, within},
};

/// Each step brings the tables from the version before it to its own.
const STEPS: [&str; 1] = [include_str!("../../migrations/0001_ledger.sql")];

/// Safe to be called by several controllers at once, and again.
pub(super) async fn migrate(db: &Db) -> Result<(), LedgerError> {
    let mut tx = db.begin().await?;
    within(make_versions(&mut tx)).await?;
    let newest = "SELECT MAX(version) FROM tidegate_schema";
    let version: Vec<Option<i64>> = within(async { rows!(&mut tx, sqlx::query_scalar(newest)) }).await?;
    let version = version.into_iter().flatten().next().unwrap_or(0);
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > STEPS.len() {
        return Err(LedgerError::Corrupt(format!(
            "its tables are of version {version}, this controller knows {}: start a newer one",
            STEPS.len()
        )));
    }
    for (done, step) in STEPS.iter().enumerate().skip(version) {
        let whole = format!(
            "{step}; INSERT INTO tidegate_schema (version) VALUES ({});",
            done + 1
        );
        within(run(&mut tx, whole)).await?;
    }
    tx.commit().await
}

async fn make_versions(tx: &mut Tx) -> Result<(), sqlx::Error> {
    let mut make = "CREATE TABLE IF NOT EXISTS tidegate_schema (version BIGINT NOT NULL)".to_owned();
    if matches!(tx, Tx::Postgres(_)) {
        // Whoever comes second waits, and finds everything made.
        let exists = "SELECT CAST(to_regclass('tidegate_schema') IS NOT NULL AS INTEGER)";
        let exists: Vec<i32> = rows!(&mut *tx, sqlx::query_scalar(exists))?;
        if exists == [1] {
            make = "LOCK TABLE tidegate_schema IN EXCLUSIVE MODE".to_owned();
        }
    }
    run(tx, make).await
}

/// Several statements, without parameters.
async fn run(tx: &mut Tx, sql: String) -> Result<(), sqlx::Error> {
    let statements = sqlx::raw_sql(AssertSqlSafe(sql));
    match tx {
        Tx::Sqlite(tx) => statements.execute(&mut **tx).await.map(|_| ()),
        Tx::Postgres(tx) => statements.execute(&mut **tx).await.map(|_| ()),
    }
}
