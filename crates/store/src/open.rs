//! From a store URL to a store.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    JobStore,
    memory::MemoryStore,
    redis::{RedisOptions, RedisStore},
    sqlite::{SqliteOptions, SqliteStore},
};

#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Replicas of Redis that must have a change before it is acknowledged; 0 = none.
    pub min_replica_acks: u32,
}

/// Why a store could not be opened; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("unknown store {0:?}: use redis://HOST:PORT/DB, sqlite:PATH or memory:")]
    UnknownUrl(String),
    #[error("cannot reach the job store at {what}: {why}")]
    Unreachable { what: String, why: String },
    /// It answers, but must not be used as it is.
    #[error("{0}")]
    Unsuitable(String),
    #[error("{} is in use by {}: stop that one, or choose another file", path.display(), owner(*pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{} is not a job store: {why}; choose another file", path.display())]
    NotAStore { path: PathBuf, why: String },
    #[error(
        "{} was written by a newer version (its tables are version {version}, this one knows {known}): start that \
         version, or restore a copy from before the upgrade", path.display()
    )]
    Newer {
        path: PathBuf,
        version: usize,
        known: usize,
    },
    #[error(
        "{} is damaged: {why}; restore a copy, or save what can be read with `sqlite3 {} .recover | sqlite3 NEW_FILE`",
        path.display(), path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("cannot read {what}: {why}; is it a Tidegate store, and not of a newer version?")]
    Unreadable { what: String, why: String },
    #[error("cannot use {}: {error}", path.display())]
    Io { path: PathBuf, error: String },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl OpenError {
    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error: error.to_string(),
        }
    }

    pub(crate) fn unreadable(path: &Path, why: &impl Display) -> Self {
        Self::Unreadable {
            what: path.display().to_string(),
            why: format!("{why:#}"),
        }
    }
}

/// Opens `memory:`, `sqlite:PATH` or `redis://...`.
pub async fn open(url: &str, options: &OpenOptions) -> Result<Arc<dyn JobStore>, OpenError> {
    let is_redis = url.starts_with("redis://");
    if options.min_replica_acks > 0 && !is_redis {
        return Err(OpenError::Unsuitable(
            "min_replica_acks asks for replicas, which only a Redis has: set it to 0 or use redis://HOST:PORT/DB"
                .to_owned(),
        ));
    }
    if url == "memory:" {
        return Ok(Arc::new(MemoryStore::default()));
    }
    if is_redis {
        let redis = RedisOptions {
            min_replica_acks: options.min_replica_acks,
            ..RedisOptions::default()
        };
        let connecting = RedisStore::connect(url, redis);
        return Ok(Arc::new(Box::pin(connecting).await?));
    }
    match url
        .strip_prefix("sqlite:")
        .map(|path| path.trim_start_matches("//"))
    {
        Some(path) if !path.is_empty() => Ok(Arc::new(
            SqliteStore::open(Path::new(path), SqliteOptions::default()).await?,
        )),
        _ => Err(OpenError::UnknownUrl(url.to_owned())),
    }
}
