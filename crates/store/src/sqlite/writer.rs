//! The one thread that writes: what gathers while a commit runs goes into the next one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sqlx::{Connection as _, SqliteConnection};
use tidegate_protocol::domain::QueueName;
use tokio::{
    sync::{Notify, watch},
    time,
};

use super::{
    fault::{Fault, classify},
    lock::FileLock,
    reserve::Reserve,
    unclean,
    write::Gathered,
};
use crate::{StoreError, memory::journal::Changes};

/// After a commit that failed, the same changes are tried again this much later.
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// A store that refuses submits for want of room looks this often whether there is some.
const ROOM_WAIT: Duration = Duration::from_millis(500);

/// What callers and the writer share.
pub(super) struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    gathered: Gathered,
    /// Ticket of the newest change handed over.
    newest: u64,
    watermark_ms: u64,
    /// Write what has gathered, then end.
    closing: bool,
    /// End at once.
    abandoned: bool,
    /// The file has not been looked over since an owner died: closing must not say that all is well.
    unchecked: bool,
}

/// How far the writer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub committed: u64,
    /// The last commit failed; its changes are kept and tried again.
    pub broken: Option<StoreError>,
    /// The disk has only the reserve left.
    pub full: Option<StoreError>,
    /// The file is damaged: nothing is built on it any more.
    pub corrupt: Option<StoreError>,
    pub ended: bool,
}

impl Progress {
    /// Why no change is taken.
    pub fn fault(&self) -> Option<StoreError> {
        self.corrupt.clone().or_else(|| self.broken.clone())
    }
}

impl Shared {
    pub fn new(watermark_ms: u64, unchecked: bool) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                watermark_ms,
                unchecked,
                ..Waiting::default()
            }),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics under this lock")
    }

    pub fn append(&self, changes: Changes) -> u64 {
        let mut waiting = self.lock();
        if !changes.is_empty() {
            waiting.gathered.add(changes);
            waiting.newest += 1;
            self.wake.notify_one();
        }
        waiting.newest
    }

    /// A ticket if it is time to write it.
    pub fn watermark(&self, watermark_ms: u64, step_ms: u64) -> Option<u64> {
        let mut waiting = self.lock();
        if watermark_ms < waiting.watermark_ms + step_ms {
            return None;
        }
        waiting.watermark_ms = watermark_ms;
        waiting.gathered.watermark_ms = Some(watermark_ms);
        waiting.newest += 1;
        self.wake.notify_one();
        Some(waiting.newest)
    }

    pub fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.wake.notify_one();
    }

    pub fn checked(&self) {
        self.lock().unchecked = false;
    }
}

/// What it takes to write.
pub(super) struct OpenFile {
    pub connection: SqliteConnection,
    pub ids: HashMap<QueueName, i64>,
    pub reserve: Reserve,
    /// Given back last: the next owner finds everything written.
    pub _lock: FileLock,
}

pub(super) struct Writer {
    file: OpenFile,
    shared: Arc<Shared>,
    report: Arc<watch::Sender<Progress>>,
}

/// What the writer does next.
enum Turn {
    Commit(Gathered, u64),
    Close {
        unchecked: bool,
    },
    Abandon,
    /// Nothing, until it is woken.
    Wait,
}

impl Writer {
    pub fn new(file: OpenFile, shared: Arc<Shared>, report: Arc<watch::Sender<Progress>>) -> Self {
        Self { file, shared, report }
    }

    pub async fn run(mut self) {
        let ended = Ended(self.report.clone());
        self.look_for_room().await;
        loop {
            match self.turn() {
                Turn::Commit(gathered, newest) => {
                    self.commit(&gathered, newest).await;
                    self.look_for_room().await;
                }
                Turn::Wait if self.file.reserve.is_there() => self.shared.wake.notified().await,
                Turn::Wait => {
                    let woken = time::timeout(ROOM_WAIT, self.shared.wake.notified()).await;
                    if woken.is_err() {
                        self.look_for_room().await;
                    }
                }
                Turn::Close { unchecked } => {
                    if !unchecked && let Err(error) = unclean::clear(&mut self.file.connection).await {
                        tracing::warn!(%error, "closing the embedded store: it will be checked at the next start");
                    }
                    break;
                }
                Turn::Abandon => break,
            }
        }
        if let Err(error) = self.file.connection.close().await {
            tracing::warn!(%error, "closing the embedded store");
        }
        drop(ended);
    }

    fn turn(&self) -> Turn {
        let mut waiting = self.shared.lock();
        if waiting.abandoned {
            return Turn::Abandon;
        }
        if !waiting.gathered.is_empty() {
            return Turn::Commit(std::mem::take(&mut waiting.gathered), waiting.newest);
        }
        if waiting.closing {
            let damaged = self.report.borrow().corrupt.is_some();
            return Turn::Close {
                unchecked: waiting.unchecked || damaged,
            };
        }
        Turn::Wait
    }

    /// Commits, however long it takes: what was handed over is in the state already and must not be dropped.
    async fn commit(&mut self, gathered: &Gathered, newest: u64) {
        loop {
            let written = gathered.write(&mut self.file.connection, &mut self.file.ids);
            match written.await {
                Ok(()) => {
                    let was_broken = self.report.borrow().broken.is_some();
                    self.report.send_modify(|progress| {
                        progress.committed = newest;
                        progress.broken = None;
                    });
                    if was_broken {
                        tracing::info!("the embedded store writes again");
                    }
                    return;
                }
                Err(error) if Fault::of(&error) == Fault::Full && self.file.reserve.release() => {
                    self.tell_full()
                }
                Err(error) => {
                    self.tell_broken(&error);
                    if self.wait_to_retry().await {
                        return;
                    }
                }
            }
        }
    }

    fn tell_full(&self) {
        tracing::error!(
            "the disk of the embedded store is full: submits are refused until there is room, jobs go on"
        );
        let text = "the disk is full: make room, submits are taken again by themselves";
        self.report
            .send_modify(|progress| progress.full = Some(StoreError::Full(text.to_owned())));
    }

    fn tell_broken(&self, error: &sqlx::Error) {
        let broken = classify(error);
        // Said once: the retries would say it twice a second.
        if self.report.borrow().broken.as_ref() != Some(&broken) {
            tracing::error!(%error, "a commit of the embedded store failed; it takes no writes until one succeeds");
        }
        self.report.send_modify(|progress| progress.broken = Some(broken));
    }

    /// True if the store is to end instead.
    async fn wait_to_retry(&self) -> bool {
        let ends = || {
            let waiting = self.shared.lock();
            waiting.closing || waiting.abandoned
        };
        let told = async {
            while !ends() {
                self.shared.wake.notified().await;
            }
        };
        time::timeout(RETRY_WAIT, told).await.is_ok()
    }

    /// Takes submits again when the reserve has its room back.
    async fn look_for_room(&mut self) {
        if self.file.reserve.is_there() && self.report.borrow().full.is_none() {
            return;
        }
        if self.file.reserve.restore() {
            if self.report.borrow().full.is_some() {
                tracing::info!("the disk of the embedded store has room again: submits are taken");
            }
            self.report.send_modify(|progress| progress.full = None);
        } else if self.report.borrow().full.is_none() {
            self.tell_full();
        }
    }
}

/// Whoever waits for the writer hears of its end, also when it panics.
struct Ended(Arc<watch::Sender<Progress>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|progress| progress.ended = true);
    }
}
