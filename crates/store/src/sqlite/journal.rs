//! The journal of the embedded store: hands changes to the writer and tells how far it is.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    checkup::Checkup,
    writer::{OpenFile, Progress, Shared, Writer},
};
use crate::{
    Durability, StoreError, StoreResult,
    memory::journal::{Changes, Journal, Need},
};

/// The watermark is written when time has moved this much: an idle store costs one small commit in that time.
const WATERMARK_STEP_MS: u64 = 5_000;

/// See the [module](self).
pub struct FileJournal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop_checkup: Arc<AtomicBool>,
    incarnation: String,
    run_id: String,
}

/// An opened file, and what is known about it.
pub(super) struct Opened {
    pub path: PathBuf,
    pub file: OpenFile,
    pub incarnation: String,
    pub watermark_ms: u64,
    /// The last owner closed it.
    pub was_closed: bool,
}

impl FileJournal {
    /// # Errors
    /// A thread or a second connection cannot be had.
    pub(super) async fn start(opened: Opened) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::new(opened.watermark_ms, !opened.was_closed));
        let (report, progress) = watch::channel(Progress::default());
        let report = Arc::new(report);
        let stop_checkup = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if !opened.was_closed {
            let stop = stop_checkup.clone();
            let checkup = Checkup::new(&opened.path, stop, shared.clone(), report.clone()).await?;
            threads.push(thread("tidegate-checkup", checkup.run())?);
        }
        let writer = Writer::new(opened.file, shared.clone(), report);
        threads.push(thread("tidegate-store", writer.run())?);
        Ok(Self {
            shared,
            progress,
            threads: Mutex::new(threads),
            stop_checkup,
            incarnation: opened.incarnation,
            run_id: Uuid::new_v4().simple().to_string(),
        })
    }

    fn take_threads(&self) -> Vec<JoinHandle<()>> {
        self.stop_checkup.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.threads.lock().expect("nothing panics under this lock"))
    }
}

/// A thread that the journal joins, for one task: among the tasks of the caller's runtime a commit would wait, at each
/// of its steps, for everybody else's work.
fn thread(name: &str, task: impl Future<Output = ()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || runtime.block_on(task))
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the embedded store did not end well");
        }
    }
}

impl Drop for FileJournal {
    /// Without [`Journal::close`] nothing more is written, as if the process had died; but the file is free afterwards.
    fn drop(&mut self) {
        self.shared.abandon();
        join(self.take_threads());
    }
}

#[async_trait]
impl Journal for FileJournal {
    const KEEPS: bool = true;

    fn check(&self, need: Need) -> StoreResult<()> {
        let progress = self.progress.borrow();
        if progress.ended {
            return Err(StoreError::Unavailable("the embedded store is closed".into()));
        }
        match need {
            Need::Nothing => Ok(()),
            Need::Room => progress
                .fault()
                .or_else(|| progress.full.clone())
                .map_or(Ok(()), Err),
            Need::Change => progress.fault().map_or(Ok(()), Err),
        }
    }

    fn append(&self, changes: Changes) -> u64 {
        self.shared.append(changes)
    }

    async fn kept(&self, ticket: u64) -> StoreResult<()> {
        let mut progress = self.progress.clone();
        let answered = |p: &Progress| p.committed >= ticket || p.broken.is_some() || p.ended;
        match progress.wait_for(answered).await {
            Ok(p) if p.committed >= ticket => Ok(()),
            // The changes stay and are tried again: neither done nor undone.
            Ok(p) => Err(StoreError::Unknown(p.broken.as_ref().map_or_else(
                || "the embedded store closed before its last commit".to_owned(),
                ToString::to_string,
            ))),
            Err(_) => Err(StoreError::Unknown("the embedded store's writer died".into())),
        }
    }

    async fn watermark(&self, watermark_ms: u64) -> StoreResult<()> {
        match self.shared.watermark(watermark_ms, WATERMARK_STEP_MS) {
            Some(ticket) => self.kept(ticket).await,
            None => Ok(()),
        }
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
        self.shared.close();
        let threads = self.take_threads();
        if let Err(error) = tokio::task::spawn_blocking(move || join(threads)).await {
            tracing::error!(%error, "closing the embedded store");
        }
    }
}
