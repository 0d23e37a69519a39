//! Who waits for the end of which job. One task listens to the store for all of them, because a subscription a waiter
//! would have each of them read every event of every queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_chassis::CancellationToken;
use tidegate_protocol::domain::JobId;
use tidegate_store::StoreEvent;
use tokio::sync::{broadcast, watch};

/// Bounded by the number of watchers.
#[derive(Default)]
pub struct Waiters(Mutex<HashMap<JobId, Entry>>);

struct Entry {
    changed: watch::Sender<()>,
    waiting: usize,
}

/// Someone's interest in one job; ends with its drop.
pub struct Waiting {
    id: JobId,
    changed: watch::Receiver<()>,
    waiters: Arc<Waiters>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait_for(self: &Arc<Self>, id: &JobId) -> Waiting {
        let mut entries = self.lock();
        let fresh = || Entry {
            changed: watch::Sender::new(()),
            waiting: 0,
        };
        let entry = entries.entry(id.clone()).or_insert_with(fresh);
        entry.waiting += 1;
        Waiting {
            id: id.clone(),
            changed: entry.changed.subscribe(),
            waiters: self.clone(),
        }
    }

    /// Listens until `stop`.
    pub async fn listen(
        self: Arc<Self>,
        mut events: broadcast::Receiver<StoreEvent>,
        stop: CancellationToken,
    ) {
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(StoreEvent::Finished(id)) => {
                    if let Some(entry) = self.lock().get(&id) {
                        entry.changed.send_replace(());
                    }
                }
                Ok(StoreEvent::Wake(_)) => {}
                Ok(StoreEvent::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.lock()
                        .values()
                        .for_each(|entry| entry.changed.send_replace(()));
                }
                // The store has closed: the periodic looks tell the rest.
                Err(broadcast::error::RecvError::Closed) => return stop.cancelled().await,
            }
        }
    }
}

impl Waiting {
    /// The job may have ended since the last call.
    pub async fn changed(&mut self) {
        // The sender lives in the entry, and the entry as long as this.
        let _ = self.changed.changed().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut entries = self.waiters.lock();
        if let Some(entry) = entries.get_mut(&self.id) {
            entry.waiting -= 1;
            if entry.waiting == 0 {
                entries.remove(&self.id);
            }
        }
    }
}
