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
mod fault;
mod journal;
mod load;
mod lock;
mod reserve;
mod rows;
mod schema;
mod statement;
mod unclean;
mod write;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::task;

pub use self::journal::FileJournal;
use self::{fault::explain, journal::Opened, lock::FileLock, reserve::Reserve, writer::OpenFile};
use crate::{AnchoredClock, Clock, OpenError, memory::LocalStore};

/// See the [module](self).
pub type SqliteStore = LocalStore<FileJournal>;

/// Statements of a commit, in each size that they have.
const STATEMENTS: usize = 64;
/// Rows that are read ahead: each time one side waits for the other costs more than many rows.
const ROWS_AHEAD: usize = 1_000;
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// KiB: the ends of a few tables are all that a commit touches.
const CACHE_KIB: i32 = 8_192;
/// Pages in the log before they are moved into the file, 1 MiB: a commit waits for that, a larger log for longer.
const CHECKPOINT_PAGES: u32 = 250;
/// A log that has grown (while the file was being checked) gives its room back down to this.
const LOG_BYTES_MAX: u32 = 16 << 20;

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
        let (lock, mut reserve) = take(path).await?;
        schema::prepare(path).await?;
        let connected = SqliteConnection::connect_with(&options_of(path)).await;
        let mut connection = connected.map_err(|error| explain(path, &error))?;
        let was_closed = match begin(path, &mut connection).await {
            // The first writes after a start need room like any other.
            Err(OpenError::Io { .. }) if reserve.release() => begin(path, &mut connection).await?,
            begun => begun?,
        };
        let loaded = load::load(&mut connection).await;
        let loaded = loaded.map_err(|error| match error.downcast_ref::<sqlx::Error>() {
            Some(error @ sqlx::Error::Database(_)) => explain(path, error),
            _ => OpenError::unreadable(path, &error),
        })?;
        let clock = options
            .clock
            .unwrap_or_else(|| Arc::new(AnchoredClock::starting_at_least(loaded.state.watermark_ms)));
        let opened = Opened {
            path: path.to_owned(),
            watermark_ms: loaded.identity.watermark_ms,
            incarnation: loaded.identity.incarnation,
            was_closed,
            file: OpenFile {
                connection,
                ids: loaded.identity.ids,
                reserve,
                _lock: lock,
            },
        };
        let journal = FileJournal::start(opened).await;
        let journal = journal.map_err(|error| OpenError::unreadable(path, &error))?;
        Ok(Self::new(clock, loaded.state, journal))
    }
}

/// The file, for this process alone.
async fn take(path: &Path) -> Result<(FileLock, Reserve), OpenError> {
    let path = path.to_owned();
    let taking = task::spawn_blocking(move || {
        if path.is_dir() {
            return Err(OpenError::NotAStore {
                path,
                why: "it is a folder".to_owned(),
            });
        }
        Ok((FileLock::take(&path)?, Reserve::of(&path)))
    });
    taking
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Tables and mark; whether the last owner closed the file.
async fn begin(path: &Path, connection: &mut SqliteConnection) -> Result<bool, OpenError> {
    schema::migrate(path, connection).await?;
    let marked = unclean::mark(connection).await;
    marked.map_err(|error| explain(path, &error))
}

/// A connection as it comes: statements are not logged.
fn plain(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_WAIT)
        .disable_statement_logging()
}

fn options_of(path: &Path) -> SqliteConnectOptions {
    plain(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", (-CACHE_KIB).to_string())
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", LOG_BYTES_MAX.to_string())
        .statement_cache_capacity(STATEMENTS)
        .row_buffer_size(ROWS_AHEAD)
        .thread_name(|n| format!("tidegate-store-{n}"))
}

/// `jobs.db` and `lock` make `jobs.db.lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
