//! A mark in the file while it is open: found at the next start, the last owner died.

use rusqlite::{Connection, params};

use super::load::fact;

const MARK: &str = "open";

/// Sets the mark; whether there was none, that is, whether the last owner closed the file.
pub(super) fn mark(connection: &Connection) -> rusqlite::Result<bool> {
    let was_closed = fact(connection, MARK)?.is_none();
    let owner = format!("process {}", std::process::id());
    connection.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", params![MARK, owner])?;
    Ok(was_closed)
}

pub(super) fn clear(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("DELETE FROM store WHERE name = ?", [MARK])
}
