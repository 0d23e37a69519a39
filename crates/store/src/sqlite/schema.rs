//! What kind of file it is, told before anything is written to it; and its tables.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::{fault::explain, plain};
use crate::OpenError;

/// In the header of the file (`PRAGMA application_id`): "tdgt". Another application's database is left alone.
const APPLICATION_ID: i32 = 0x7464_6774;
/// Each step brings a file from the version before it to its own; `PRAGMA user_version` counts them.
const STEPS: [&str; 1] = [include_str!("../../migrations/sqlite/0001_jobs.sql")];

const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 72;
const APPLICATION_ID_AT: usize = 68;

/// Refuses what is no store's file, and makes an empty one where there is nothing.
pub(super) async fn prepare(path: &Path) -> Result<(), OpenError> {
    let not_a_store = |why: &str| OpenError::NotAStore {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let header = match header(path) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(not_a_store("it is a folder"));
        }
        Err(error) => return Err(OpenError::io(path, &error)),
    };
    if header.is_empty() {
        return make(path).await.map_err(|error| explain(path, &error));
    }
    if !header.starts_with(MAGIC) {
        return Err(not_a_store("it is no SQLite database"));
    }
    if header.get(APPLICATION_ID_AT..) != Some(&APPLICATION_ID.to_be_bytes()) {
        return Err(not_a_store("it is a database of another application"));
    }
    Ok(())
}

fn header(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut header = Vec::new();
    File::open(path)?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut header)?;
    Ok(header)
}

/// Before the file gets its write-ahead log, so that the id is in the file itself from the first moment on.
async fn make(path: &Path) -> sqlx::Result<()> {
    let options = plain(path).create_if_missing(true);
    let options = options.pragma("application_id", APPLICATION_ID.to_string());
    SqliteConnection::connect_with(&options).await?.close().await
}

/// Brings the tables to this version.
pub(super) async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let explain = |error| explain(path, &error);
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection);
    let version: i32 = version.await.map_err(explain)?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > STEPS.len() {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            version,
            known: STEPS.len(),
        });
    }
    for (done, step) in STEPS.iter().enumerate().skip(version) {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(explain)?;
        let whole = format!("{step}; PRAGMA user_version = {}", done + 1);
        let made = sqlx::raw_sql(AssertSqlSafe(whole)).execute(&mut *transaction);
        made.await.map_err(explain)?;
        transaction.commit().await.map_err(explain)?;
    }
    Ok(())
}
