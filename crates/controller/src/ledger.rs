//! What outlives a controller: policies and resources with who changed them and why, who leads, every decision with its
//! inputs, and the governor's memory. SQLite beside the controller, or Postgres for several.
//!
//! ```text
//!   keeper ---- lease ----+
//!   edits ------ edits ---+--> one database
//!   owner --> scribe -----+      (decisions, ticks, snapshots: in the background, bounded, dropped when it must be)
//! ```
//!
//! Nothing on a tick's path waits for the database. An edit does: it is in force when it is kept, or refused.

mod db;
mod edits;
mod lease;
mod lock;
mod records;
mod schema;
mod scribe;
mod trim;

use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;
use uuid::Uuid;

use self::db::Db;
#[cfg(test)]
pub use self::edits::StoredPolicy;
pub use self::{
    edits::{Note, Override, Row, StoreMark, Stored},
    lease::{Claim, LEASE_MS, Leader},
    records::{PastDecision, Place, Snapshot, Tick},
    scribe::{Condition, Record, Scribe},
};

/// Why a ledger cannot be opened. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("unknown ledger: use sqlite:PATH, postgres://USER@HOST/DATABASE or memory:")]
    UnknownUrl,
    #[error("the ledger's URL cannot be used: {0}")]
    Url(String),
    #[error(
        "the ledger {} is in use by {owner}: stop that one, choose another file, or use a Postgres for several controllers",
        path.display()
    )]
    Locked { path: PathBuf, owner: String },
    #[error("cannot use the ledger {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl OpenError {
    fn file(path: &Path, why: &impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Nothing has changed.
    #[error("the ledger's database cannot be reached: {0}")]
    Unavailable(String),
    /// The commit had no answer: it may have happened.
    #[error("the ledger's database did not answer, the change may have been kept: {0}")]
    Unknown(String),
    /// Another controller has taken over.
    #[error("this controller does not lead any more")]
    NotLeader,
    #[error("the ledger cannot be read: {0}")]
    Corrupt(String),
}

impl LedgerError {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// See the [module](self).
pub struct Ledger {
    db: Db,
    /// This process, as the lease names it.
    me: String,
    leader: Leader,
    migrated: OnceCell<()>,
}

impl Ledger {
    /// `leader` is how others are told of this controller.
    ///
    /// # Errors
    /// Each variant of [`OpenError`] says what to do. A Postgres that does not answer is no error: it may come up later.
    pub async fn open(url: &str, leader: Leader) -> Result<Self, OpenError> {
        let ledger = Self::of(Db::open(url).await?, leader);
        if ledger.db.is_exclusive() {
            ledger.prepare().await?;
        }
        Ok(ledger)
    }

    /// Beside the controller that has it open.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_to_read(url: &str) -> Result<Self, OpenError> {
        Ok(Self::of(Db::open_to_read(url).await?, Leader::default()))
    }

    fn of(db: Db, leader: Leader) -> Self {
        Self {
            db,
            me: Uuid::new_v4().to_string(),
            leader,
            migrated: OnceCell::new(),
        }
    }

    /// Its tables, once.
    async fn prepare(&self) -> Result<(), LedgerError> {
        let migrated = self.migrated.get_or_try_init(|| schema::migrate(&self.db));
        migrated.await?;
        Ok(())
    }

    /// `sqlite` or `postgres`.
    pub fn kind(&self) -> &'static str {
        self.db.kind()
    }

    /// A lease that cannot run out: the database is this process's alone.
    pub fn is_exclusive(&self) -> bool {
        self.db.is_exclusive()
    }

    /// After the last call.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

#[cfg(test)]
mod tests;
