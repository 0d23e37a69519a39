//! The history's writer: the owner hands records over and never waits.
//!
//! A database that is away makes them pile up to a bound, and is caught up with when it is back; beyond the bound the
//! oldest are dropped, counted and told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidegate_chassis::{CancellationToken, clock};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{Ledger, LedgerError, Snapshot, StoreMark, Tick};
use crate::core::model::Decision;

/// Bytes that wait for the database at most: an hour of a fleet of a few queues.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Of one transaction: it holds up a lease for some milliseconds at most.
const BATCH_MAX: usize = 200;
/// A batch that failed is tried again after this.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// For what is written in a moment.
const GATHER: Duration = Duration::from_millis(20);
/// Old rows are looked for this often.
const TRIM_MS: u64 = 60_000;
/// For the last words at the end.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// One thing to be kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Decision(Decision),
    Tick(Tick),
    Snapshot(Snapshot),
    Store { epoch: u64, mark: StoreMark },
}

impl Record {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        const PLAIN: usize = 200;
        PLAIN
            + match self {
                Record::Decision(decision) => decision.text.len() + decision.inputs.len() * 32,
                Record::Tick(tick) => tick.inputs.len() + tick.decisions.len(),
                Record::Snapshot(snapshot) => snapshot.state.len(),
                Record::Store { mark, .. } => mark.refused.len(),
            }
    }
}

/// How the writing goes, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub waiting: usize,
    pub dropped: u64,
    /// Why nothing is written now; empty: it is.
    pub error: String,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Record>,
    bytes: usize,
    /// Being written now.
    writing: usize,
    dropped: u64,
    error: String,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// Hands records over.
#[derive(Clone)]
pub struct Scribe(Arc<Shared>);

/// The task.
pub struct Writing {
    shared: Arc<Shared>,
    ledger: Arc<Ledger>,
}

impl Scribe {
    pub fn new(ledger: Arc<Ledger>) -> (Self, Writing) {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            wake: Notify::new(),
        });
        let writing = Writing {
            shared: shared.clone(),
            ledger,
        };
        (Self(shared), writing)
    }

    /// Never waits.
    pub fn write(&self, record: Record) {
        let mut waiting = self.0.lock();
        waiting.bytes += record.bytes();
        waiting.records.push_back(record);
        while waiting.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = waiting.records.pop_front() else {
                break;
            };
            waiting.bytes -= oldest.bytes();
            if waiting.dropped == 0 {
                tracing::error!("the ledger is away for so long that its history has gaps: the oldest goes");
            }
            waiting.dropped += 1;
        }
        self.0.wake.notify_one();
    }

    pub fn condition(&self) -> Condition {
        let waiting = self.0.lock();
        Condition {
            waiting: waiting.records.len() + waiting.writing,
            dropped: waiting.dropped,
            error: waiting.error.clone(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    /// Until `stop`, and then what is left.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep_writing() => {}
        }
        if timeout(FLUSH_MAX, self.flush()).await.is_err() {
            let left = self.shared.lock().records.len();
            tracing::warn!(left, "the history's last records could not be written");
        }
    }

    async fn keep_writing(&self) {
        let mut trimmed_ms = 0;
        loop {
            self.shared.wake.notified().await;
            sleep(GATHER).await;
            self.flush().await;
            let now_ms = clock::wall_ms();
            if now_ms.saturating_sub(trimmed_ms) >= TRIM_MS {
                trimmed_ms = now_ms;
                if let Err(error) = self.ledger.trim(now_ms).await {
                    tracing::warn!(%error, "old records of the ledger could not be removed");
                }
            }
        }
    }

    /// Everything that waits. A batch goes back when it is not written, also when this is given up half-way.
    async fn flush(&self) {
        while let Some(batch) = Batch::take(&self.shared) {
            match self.ledger.write(&batch.records).await {
                Ok(()) => batch.written(),
                Err(error) => {
                    batch.failed(&error);
                    sleep(RETRY_WAIT).await;
                }
            }
        }
    }
}

/// Records on their way; they return to the front of the queue unless they are written.
struct Batch<'a> {
    shared: &'a Shared,
    records: Vec<Record>,
}

impl<'a> Batch<'a> {
    fn take(shared: &'a Shared) -> Option<Self> {
        let mut waiting = shared.lock();
        let count = waiting.records.len().min(BATCH_MAX);
        if count == 0 {
            return None;
        }
        waiting.writing = count;
        let records = waiting.records.drain(..count).collect();
        drop(waiting);
        Some(Self { shared, records })
    }

    fn written(mut self) {
        let mut waiting = self.shared.lock();
        waiting.bytes -= self.records.iter().map(Record::bytes).sum::<usize>();
        self.records.clear();
        if !waiting.error.is_empty() {
            tracing::info!(dropped = waiting.dropped, "the ledger is written again");
            waiting.error.clear();
        }
    }

    fn failed(self, error: &LedgerError) {
        let mut waiting = self.shared.lock();
        if waiting.error.is_empty() {
            tracing::warn!(%error, "the ledger takes no history: it is kept until it does");
        }
        waiting.error = error.to_string();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.writing = 0;
        for record in self.records.drain(..).rev() {
            waiting.records.push_front(record);
        }
    }
}
