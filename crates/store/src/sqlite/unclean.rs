//! A mark in the file while it is open: found at the next start, the last owner died.

use sqlx::SqliteConnection;

use super::load::fact;

const MARK: &str = "open";

/// Sets the mark; whether there was none, that is, whether the last owner closed the file.
pub(super) async fn mark(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    let was_closed = fact(connection, MARK).await?.is_none();
    sqlx::query("INSERT OR REPLACE INTO store VALUES (?, ?)")
        .bind(MARK)
        .bind(format!("process {}", std::process::id()))
        .execute(connection)
        .await?;
    Ok(was_closed)
}

pub(super) async fn clear(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let delete = sqlx::query("DELETE FROM store WHERE name = ?").bind(MARK);
    delete.execute(connection).await?;
    Ok(())
}
