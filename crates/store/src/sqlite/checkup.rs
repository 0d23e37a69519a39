//! After an owner that died: is the file whole? Looked at in the background, because the store can go on meanwhile (the
//! write-ahead log recovers by itself; what this finds is a disk or a file system that lied).

use std::{path::Path, sync::Arc, thread::JoinHandle};

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use tokio::sync::watch;

use super::{
    journal::thread,
    writer::{Progress, Shared},
};
use crate::StoreError;

/// Starts the check on a connection of its own; its handle and how to stop it.
///
/// # Errors
/// There is no connection or thread to be had.
pub(super) fn start(
    path: &Path,
    shared: Arc<Shared>,
    report: Arc<watch::Sender<Progress>>,
) -> anyhow::Result<(JoinHandle<()>, InterruptHandle)> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let interrupt = connection.get_interrupt_handle();
    let file = path.display().to_string();
    let check = move || match quick_check(&connection) {
        Ok(None) => {
            tracing::info!(
                file,
                "the last owner of the embedded store died; its file is whole"
            );
            shared.checked();
        }
        Ok(Some(damage)) => condemn(&report, &file, &damage),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                condemn(&report, &file, &error.to_string());
            }
            _ => {
                tracing::warn!(%error, file, "the embedded store could not be checked; tried again at the next start")
            }
        },
    };
    Ok((thread("tidegate-checkup", check)?, interrupt))
}

/// The first damage, if there is any.
fn quick_check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let first: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((first != "ok").then_some(first))
}

fn condemn(report: &watch::Sender<Progress>, file: &str, damage: &str) {
    let todo = format!(
        "{file} is damaged: stop this process, then restore a copy, or save what can be read with \
         `sqlite3 {file} .recover | sqlite3 NEW_FILE`"
    );
    tracing::error!(damage, "{todo}; until then every write is refused");
    report.send_modify(|progress| progress.corrupt = Some(StoreError::Corrupt(format!("{todo} ({damage})"))));
}
