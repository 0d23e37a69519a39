//! The embedded job store: one SQLite file, one process, no server.
//!
//! The state machine is the one of [`crate::memory`]; this module is its journal. Every operation's changes are handed
//! over in order; one writer thread puts everything that gathered while the last commit ran into the next one (group
//! commit, `synchronous=FULL`), coalesced to the newest version of each row; an answer leaves only after its commit. So
//! acknowledged means on disk, and the file is always the state as of some commit: `kill -9` needs no recovery of ours.
//!
//! The price is memory in proportion to the backlog. In return every read is a memory read, and an idle store writes
//! nothing but its watermark every few seconds.
//!
//! On a full disk [`reserve`] keeps jobs going while submits are refused; after an owner that died [`checkup`] looks
//! over the file.

mod checkup;
mod journal;
mod load;
mod lock;
mod reserve;
mod rows;
mod schema;
mod unclean;
mod write;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;

pub use self::journal::FileJournal;
use self::{journal::Opened, lock::FileLock, reserve::Reserve};
use crate::{AnchoredClock, Clock, OpenError, memory::LocalStore};

/// See the [module](self).
pub type SqliteStore = LocalStore<FileJournal>;

/// Statements of a commit, prepared once.
const STATEMENTS: usize = 32;
/// KiB: the ends of a few tables are all that a commit touches.
const CACHE_KIB: i64 = 8_192;
/// Pages in the log before they are moved into the file, 1 MiB: a commit waits for that, a larger log for longer.
const CHECKPOINT_PAGES: i64 = 250;
/// A log that has grown (while the file was being checked) gives its room back down to this.
const LOG_BYTES_MAX: i64 = 16 << 20;

#[derive(Clone, Default)]
pub struct SqliteOptions {
    /// For tests: a clock moved by hand. Default: the machine's, anchored, never below what the file has seen.
    pub clock: Option<Arc<dyn Clock>>,
}

impl LocalStore<FileJournal> {
    /// Opens or makes the file and takes it for this process alone. Takes time in proportion to the jobs in it.
    ///
    /// # Errors
    /// Each variant of [`OpenError`] says what to do.
    pub async fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || open_blocking(&path, options));
        opening
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn open_blocking(path: &Path, options: SqliteOptions) -> Result<SqliteStore, OpenError> {
    if path.is_dir() {
        return Err(OpenError::NotAStore {
            path: path.to_owned(),
            why: "it is a folder".to_owned(),
        });
    }
    let lock = FileLock::take(path)?;
    let mut reserve = Reserve::of(path);
    schema::prepare(path)?;
    let mut connection = connect(path).map_err(|error| schema::explain(path, &error))?;
    let was_closed = match begin(path, &mut connection) {
        // The first writes after a start need room like any other.
        Err(OpenError::Io { .. }) if reserve.release() => begin(path, &mut connection)?,
        begun => begun?,
    };
    let loaded = load::load(&connection).map_err(|error| match error.downcast::<rusqlite::Error>() {
        Ok(error) => schema::explain(path, &error),
        Err(error) => OpenError::unreadable(path, &error),
    })?;
    reserve.restore();
    let clock = options
        .clock
        .unwrap_or_else(|| Arc::new(AnchoredClock::starting_at_least(loaded.state.watermark_ms)));
    let opened = Opened {
        path: path.to_owned(),
        connection,
        lock,
        identity: loaded.identity,
        reserve,
        was_closed,
    };
    let journal = FileJournal::start(opened).map_err(|error| OpenError::unreadable(path, &error))?;
    Ok(SqliteStore::new(clock, loaded.state, journal))
}

/// Tables and mark; whether the last owner closed the file.
fn begin(path: &Path, connection: &mut Connection) -> Result<bool, OpenError> {
    schema::migrate(path, connection)?;
    unclean::mark(connection).map_err(|error| schema::explain(path, &error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// `jobs.db` and `lock` make `jobs.db.lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
