//! The journal of the embedded store: gathers changes while a commit runs, and commits them with the next.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};
use tidegate_protocol::domain::QueueName;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use super::{lock::FileLock, write::Gathered};
use crate::{
    Durability, StoreError, StoreResult,
    memory::journal::{Changes, Journal},
};

/// After a commit that failed (disk full), the same changes are tried again this much later.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// The watermark is written when time has moved this much: an idle store costs one small commit in that time.
const WATERMARK_STEP_MS: u64 = 5_000;

/// What the file says about itself.
pub(super) struct Identity {
    pub incarnation: String,
    pub ids: HashMap<QueueName, i64>,
    pub highest: i64,
    pub watermark_ms: u64,
}

/// See the [module](self).
pub struct FileJournal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    writer: Mutex<Option<JoinHandle<()>>>,
    incarnation: String,
    run_id: String,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    gathered: Gathered,
    /// Ticket of the newest change handed over.
    newest: u64,
    watermark_ms: u64,
    closing: bool,
}

/// How far the writer is.
#[derive(Clone, Debug, Default)]
struct Progress {
    committed: u64,
    /// The last commit failed; its changes are kept and tried again.
    broken: Option<StoreError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics under this lock")
    }
}

impl FileJournal {
    #[allow(
        clippy::disallowed_methods,
        reason = "the store's one task; close() joins it, and its death fails every call"
    )]
    pub(super) fn start(connection: SqliteConnection, lock: FileLock, identity: Identity) -> Self {
        let waiting = Waiting {
            watermark_ms: identity.watermark_ms,
            ..Waiting::default()
        };
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            wake: Notify::new(),
        });
        let (report, progress) = watch::channel(Progress::default());
        let incarnation = identity.incarnation.clone();
        let writer = Writer {
            connection,
            _lock: lock,
            identity,
            shared: shared.clone(),
            report,
        };
        Self {
            shared,
            progress,
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            incarnation,
            run_id: Uuid::new_v4().simple().to_string(),
        }
    }
}

#[async_trait]
impl Journal for FileJournal {
    const KEEPS: bool = true;

    fn check(&self) -> StoreResult<()> {
        if self.progress.has_changed().is_err() {
            return Err(StoreError::Unavailable("the embedded store is closed".into()));
        }
        match &self.progress.borrow().broken {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn append(&self, changes: Changes) -> u64 {
        let mut waiting = self.shared.lock();
        waiting.gathered.add(changes);
        waiting.newest += 1;
        self.shared.wake.notify_one();
        waiting.newest
    }

    async fn kept(&self, ticket: u64) -> StoreResult<()> {
        let mut progress = self.progress.clone();
        let done = progress
            .wait_for(|p| p.committed >= ticket || p.broken.is_some())
            .await;
        match done {
            Ok(p) if p.committed >= ticket => Ok(()),
            // The changes stay and are tried again: neither done nor undone.
            Ok(p) => Err(StoreError::Unknown(
                p.broken.as_ref().map(ToString::to_string).unwrap_or_default(),
            )),
            Err(_) => Err(StoreError::Unknown(
                "the embedded store closed before its last commit".into(),
            )),
        }
    }

    async fn watermark(&self, watermark_ms: u64) -> StoreResult<()> {
        let ticket = {
            let mut waiting = self.shared.lock();
            if watermark_ms < waiting.watermark_ms + WATERMARK_STEP_MS {
                return Ok(());
            }
            waiting.watermark_ms = watermark_ms;
            waiting.gathered.watermark_ms = Some(watermark_ms);
            waiting.newest += 1;
            self.shared.wake.notify_one();
            waiting.newest
        };
        self.kept(ticket).await
    }

    fn incarnation(&self) -> &str {
        &self.incarnation
    }

    fn run_id(&self) -> &str {
        &self.run_id
    }

    fn durability(&self) -> Durability {
        Durability::Fsync
    }

    async fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        let writer = self.writer.lock().expect("nothing panics under this lock").take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the embedded store's writer did not end well");
        }
    }
}

struct Writer {
    connection: SqliteConnection,
    _lock: FileLock,
    identity: Identity,
    shared: Arc<Shared>,
    report: watch::Sender<Progress>,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let (gathered, newest, closing) = {
                let mut waiting = self.shared.lock();
                (
                    std::mem::take(&mut waiting.gathered),
                    waiting.newest,
                    waiting.closing,
                )
            };
            if !gathered.is_empty() {
                self.commit(gathered, newest).await;
            } else if closing {
                break;
            } else {
                self.shared.wake.notified().await;
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the embedded store");
        }
    }

    /// Commits, however long it takes: what was handed over is in the state already and must not be dropped.
    async fn commit(&mut self, gathered: Gathered, newest: u64) {
        loop {
            let Identity { ids, highest, .. } = &mut self.identity;
            match gathered.write(&mut self.connection, ids, highest).await {
                Ok(()) => {
                    self.report.send_replace(Progress {
                        committed: newest,
                        broken: None,
                    });
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "a commit of the embedded store failed; it takes no writes until one succeeds");
                    let broken = Some(classify(&error));
                    self.report.send_modify(|progress| progress.broken = broken);
                    if self.shared.lock().closing {
                        return;
                    }
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }
}

/// `SQLITE_FULL` and friends, so that callers hear what is wrong with the disk.
fn classify(error: &sqlx::Error) -> StoreError {
    const FULL: &str = "13";
    const READ_ONLY: &str = "8";
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some(FULL) => StoreError::Full(error.to_string()),
        Some(READ_ONLY) => StoreError::ReadOnly(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
