//! Two databases behind one door. Every statement is part of an explicit transaction and prepared for it alone: a
//! PgBouncer in transaction mode keeps one server for a transaction and for nothing longer.

use std::{path::PathBuf, time::Duration};

use sqlx::{
    ConnectOptions as _, PgPool, Postgres, Sqlite, SqlitePool, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::timeout;

use super::{LedgerError, OpenError, lock::FileLock};

/// One call. A lease of 10 s must see several of them fail before it runs out.
const CALL_MAX: Duration = Duration::from_secs(2);
/// The lease, an edit, the history's writer, and readers.
const CONNECTIONS_MAX: u32 = 4;
/// A writer of the same file is done sooner.
const BUSY_WAIT: Duration = Duration::from_millis(1_500);

pub(super) enum Db {
    Sqlite {
        pool: SqlitePool,
        _lock: Option<FileLock>,
    },
    Postgres(PgPool),
}

pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A statement on either connection; gives how many rows it changed.
macro_rules! change {
    ($tx:expr, $query:expr) => {
        match $tx {
            $crate::ledger::db::Tx::Sqlite(tx) => {
                let done = $query.persistent(false).execute(&mut **tx).await;
                done.map(|done| done.rows_affected())
            }
            $crate::ledger::db::Tx::Postgres(tx) => {
                let done = $query.persistent(false).execute(&mut **tx).await;
                done.map(|done| done.rows_affected())
            }
        }
    };
}

/// A question to either connection; gives its rows, as tuples.
macro_rules! rows {
    ($tx:expr, $query:expr) => {
        match $tx {
            $crate::ledger::db::Tx::Sqlite(tx) => $query.persistent(false).fetch_all(&mut **tx).await,
            $crate::ledger::db::Tx::Postgres(tx) => $query.persistent(false).fetch_all(&mut **tx).await,
        }
    };
}
pub(super) use {change, rows};

impl Db {
    /// # Errors
    /// The URL is none, or the file cannot be used. A Postgres is not asked yet: it may come up later.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        if url == "memory:" {
            return Self::in_memory().await;
        }
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = PathBuf::from(path.trim_start_matches("//"));
            let lock = FileLock::take(&path)?;
            return Self::file(path, Some(lock)).await;
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Self::postgres(url);
        }
        Err(OpenError::UnknownUrl)
    }

    /// For looking only, beside the process that owns it.
    pub async fn open_to_read(url: &str) -> Result<Self, OpenError> {
        match url.strip_prefix("sqlite:") {
            Some(path) => {
                let path = PathBuf::from(path.trim_start_matches("//"));
                match path.is_file() {
                    true => Self::file(path, None).await,
                    false => Err(OpenError::file(&path, &"there is no such file")),
                }
            }
            None => Self::open(url).await,
        }
    }

    async fn in_memory() -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .in_memory(true)
            .disable_statement_logging();
        // Its one connection is the database.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await;
        let pool = pool.map_err(|error| OpenError::file(&PathBuf::from("memory:"), &error))?;
        Ok(Self::Sqlite { pool, _lock: None })
    }

    async fn file(path: PathBuf, lock: Option<FileLock>) -> Result<Self, OpenError> {
        let is_owner = lock.is_some();
        let mut options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(is_owner)
            .busy_timeout(BUSY_WAIT)
            .disable_statement_logging();
        if is_owner {
            options = options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CALL_MAX)
            .connect_with(options)
            .await;
        let pool = pool.map_err(|error| OpenError::file(&path, &error))?;
        Ok(Self::Sqlite { pool, _lock: lock })
    }

    fn postgres(url: &str) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| OpenError::Url(error.to_string()))?;
        // PgBouncer refuses parameters that it does not know.
        let options = options
            .extra_float_digits(None)
            .application_name("tidegate-controller")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CALL_MAX)
            .connect_lazy_with(options);
        Ok(Self::Postgres(pool))
    }

    /// Milliseconds since 1970 by the database's clock.
    pub fn now(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres(_) => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// Whether the holder of the database is alone with it.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    pub async fn begin(&self) -> Result<Tx, LedgerError> {
        let begun = async {
            Ok(match self {
                Self::Sqlite { pool, .. } => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
                Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
            })
        };
        within(begun).await
    }

    /// Reads only, so that a writer of the file does not wait for it.
    pub async fn begin_to_read(&self) -> Result<Tx, LedgerError> {
        match self {
            Self::Sqlite { pool, .. } => within(async { Ok(Tx::Sqlite(pool.begin().await?)) }).await,
            Self::Postgres(_) => self.begin().await,
        }
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite { pool, .. } => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    /// Without an answer it may have happened.
    pub async fn commit(self) -> Result<(), LedgerError> {
        let commit = async {
            match self {
                Tx::Sqlite(transaction) => transaction.commit().await,
                Tx::Postgres(transaction) => transaction.commit().await,
            }
        };
        within(commit)
            .await
            .map_err(|error| LedgerError::Unknown(error.to_string()))
    }
}

/// One call with its bound.
pub(super) async fn within<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LedgerError> {
    match timeout(CALL_MAX, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(LedgerError::of(&error)),
        Err(_) => {
            let text = format!("no answer within {} s", CALL_MAX.as_secs());
            Err(LedgerError::Unavailable(text))
        }
    }
}
