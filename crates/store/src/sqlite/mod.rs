//! The embedded job store: one SQLite file, one process, no server.
//!
//! The state machine is the one of [`crate::memory`]; this module is its journal. Every operation's changes are handed
//! over in order; one writer task puts everything that gathered while the last commit ran into the next one (group
//! commit, `synchronous=FULL`), coalesced to the newest version of each row; an answer leaves only after its commit. So
//! acknowledged means on disk, and the file is always the state as of some commit: `kill -9` needs no recovery of ours.
//!
//! The price is memory in proportion to the backlog. In return every read is a memory read, and an idle store writes
//! nothing but its watermark every few seconds.

mod file;
mod load;
mod lock;
mod rows;
mod write;

use std::{path::Path, sync::Arc};

use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};

use self::{file::FileJournal, lock::FileLock};
use crate::{AnchoredClock, Clock, OpenError, memory::LocalStore};

/// See the [module](self).
pub type SqliteStore = LocalStore<FileJournal>;

#[derive(Clone, Default)]
pub struct SqliteOptions {
    /// For tests: a clock moved by hand. Default: the machine's, anchored, never below what the file has seen.
    pub clock: Option<Arc<dyn Clock>>,
}

impl LocalStore<FileJournal> {
    /// Opens or makes the file and takes it for this process alone.
    pub async fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let lock = FileLock::take(path)?;
        let mut connection = connect(path).await?;
        sqlx::migrate!("migrations/sqlite")
            .run(&mut connection)
            .await
            .map_err(|error| OpenError::unreadable(path, &error))?;
        let loaded = load::load(&mut connection)
            .await
            .map_err(|error| OpenError::unreadable(path, &error))?;
        let clock = options
            .clock
            .unwrap_or_else(|| Arc::new(AnchoredClock::starting_at_least(loaded.state.watermark_ms)));
        let journal = FileJournal::start(connection, lock, loaded.identity);
        Ok(Self::new(clock, loaded.state, journal))
    }
}

async fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(2))
        .pragma("cache_size", "-8192")
        .disable_statement_logging();
    options
        .connect()
        .await
        .map_err(|error| OpenError::unreadable(path, &error))
}
