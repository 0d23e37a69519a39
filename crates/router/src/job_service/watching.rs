//! Following one job until it ends.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, clock};
use tidegate_protocol::{
    convert,
    domain::{Job, JobId},
    v1,
};
use tidegate_store::JobStore;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Jobs;
use crate::{catalog::Catalog, status::Refusal, waiters::Waiting};

/// Jobs at once that are followed on this router; each costs a read a second.
pub const WATCHERS_MAX: usize = 512;
/// Not every change is published, so each watched job is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Updates that a slow reader may be behind; then it is waited for.
const UPDATES_QUEUED: usize = 4;
/// A reader that takes nothing for this long is let go.
const READER_PATIENCE: Duration = Duration::from_secs(30);
/// Looks that may fail in a row before the watch ends with the error.
const FAILURES_MAX: u32 = 5;

type Update = Result<v1::WatchJobResponse, Status>;

impl Jobs {
    pub(super) async fn watch(&self, id: JobId) -> Result<ReceiverStream<Update>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::draining());
        }
        // Subscribed before the first look: an end in between is not missed.
        let waiting = self.waiters.wait_for(&id);
        let first = self.fetch(&id).await?;
        let (updates, stream) = mpsc::channel(UPDATES_QUEUED);
        let watcher = Watcher {
            id,
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            draining: self.draining.clone(),
            updates,
        };
        self.watchers
            .spawn(watcher.follow(first, waiting))
            .map_err(|why| Refusal::group(&why, "watched jobs"))?;
        Ok(ReceiverStream::new(stream))
    }
}

struct Watcher {
    id: JobId,
    store: Arc<dyn JobStore>,
    catalog: Arc<Catalog>,
    draining: CancellationToken,
    updates: mpsc::Sender<Update>,
}

impl Watcher {
    async fn follow(self, first: Job, mut waiting: Waiting) {
        let mut shown = None;
        let mut seen = Some(first);
        let mut failures = 0;
        loop {
            if let Some(job) = seen.take()
                && shown.as_ref() != Some(&job)
            {
                let terminal = job.state.is_terminal();
                let max_attempts = self.catalog.max_attempts(&job.id.queue);
                let update = v1::WatchJobResponse {
                    job: Some(convert::job(job.clone(), max_attempts)),
                };
                if !self.send(Ok(update)).await || terminal {
                    return;
                }
                shown = Some(job);
            }
            let look_at = clock::now() + LOOK_INTERVAL;
            tokio::select! {
                biased;
                () = self.draining.cancelled() => {
                    self.send(Err(Refusal::draining().into_status())).await;
                    return;
                }
                () = self.updates.closed() => return,
                () = waiting.changed() => {}
                () = tokio::time::sleep_until(look_at) => {}
            }
            match self.store.get(vec![self.id.clone()]).await.pop() {
                Some(Ok(Some(job))) => (seen, failures) = (Some(job), 0),
                Some(Ok(None)) | None => {
                    // Deleted, or its retention is over.
                    self.send(Err(Refusal::job_not_found(&self.id).into_status()))
                        .await;
                    return;
                }
                Some(Err(error)) => {
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        self.send(Err(Refusal::store(&error, &self.id.queue).into_status()))
                            .await;
                        return;
                    }
                }
            }
        }
    }

    /// False if nobody reads any more.
    async fn send(&self, update: Update) -> bool {
        matches!(
            timeout(READER_PATIENCE, self.updates.send(update)).await,
            Ok(Ok(()))
        )
    }
}
