//! A store that is timed: every operation's duration and batch size, and its faults in the log, in one place instead of
//! at each call. What the store says of a fault stays here; callers get generic texts.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tidegate_chassis::{clock::Monotonic, telemetry::trace::Since};
use tidegate_protocol::domain::{Job, JobId, LeaseRef, NewJob, QueueName, SettleResult, Submitted};
use tidegate_store::{
    Action, ActionAnswer, CapAnswer, CapOrder, Grants, JobPage, JobStore, LeaseRequest, ListRequest, Pulse,
    QueueRecord, QueueStats, Reclaim, Reclaimed, RenewAnswer, SessionRelease, SettleItem, StoreError,
    StoreEvent, StoreResult, SweepReport, SweepRequest,
};
use tokio::sync::broadcast;

use crate::{
    metrics::Metrics,
    trace::{self, StoreCalls},
};

/// A store that is down fails thousands of calls a second: one line in this time tells the same.
const LOG_INTERVAL_MS: u64 = 1_000;

/// See the [module](self).
pub struct Observed {
    inner: Arc<dyn JobStore>,
    /// `db.system.name` of its calls' spans.
    system: &'static str,
    metrics: Arc<Metrics>,
    clock: Monotonic,
    /// When the next line about faults may be written, and how many were not told since the last.
    log_at: AtomicU64,
    untold: AtomicU64,
}

impl Observed {
    pub fn new(inner: Arc<dyn JobStore>, system: &'static str, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            system,
            metrics,
            clock: Monotonic::start(),
            log_at: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        }
    }

    async fn timed<R>(&self, op: &'static str, items: usize, call: impl Future<Output = R>) -> R {
        let start = Monotonic::start();
        // Of a request's own call. A batch belongs to many: whoever gathers it makes their spans.
        let span = trace::current().map(|span| (span, Since::now()));
        let answer = call.await;
        if let Some((span, since)) = span {
            let system = self.system;
            StoreCalls { system, op }.done(&span, items, since);
        }
        self.metrics.store_call(op, items, start.seconds());
        answer
    }

    async fn list_of<R>(
        &self,
        op: &'static str,
        items: usize,
        call: impl Future<Output = Vec<StoreResult<R>>>,
    ) -> Vec<StoreResult<R>> {
        let answers = self.timed(op, items, call).await;
        self.log_faults(op, &answers);
        answers
    }

    fn log_faults<R>(&self, op: &'static str, answers: &[StoreResult<R>]) {
        let mut faults = answers
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .filter(|error| error.is_fault());
        if let Some(first) = faults.next() {
            self.log(op, first, 1 + faults.count());
        }
    }

    async fn one<R>(&self, op: &'static str, call: impl Future<Output = StoreResult<R>>) -> StoreResult<R> {
        let answer = self.timed(op, 1, call).await;
        if let Err(error) = &answer
            && error.is_fault()
        {
            self.log(op, error, 1);
        }
        answer
    }

    fn log(&self, op: &'static str, error: &StoreError, items: usize) {
        let now = self.clock.ms();
        let log_at = self.log_at.load(Ordering::Relaxed);
        let next = now + LOG_INTERVAL_MS;
        if now < log_at
            || self
                .log_at
                .compare_exchange(log_at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let untold = self.untold.swap(0, Ordering::Relaxed);
        tracing::warn!(op, %error, items, untold, "the job store failed");
    }
}

#[async_trait]
impl JobStore for Observed {
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
        self.list_of("submit", jobs.len(), self.inner.submit(jobs)).await
    }

    fn hands_over(&self) -> bool {
        self.inner.hands_over()
    }

    async fn submit_and_lease(
        &self,
        jobs: Vec<NewJob>,
        requests: Vec<LeaseRequest>,
    ) -> (Vec<StoreResult<Submitted>>, Vec<StoreResult<Grants>>) {
        let (start, entered, asked) = (Monotonic::start(), jobs.len(), requests.len());
        let (submitted, grants) = self.inner.submit_and_lease(jobs, requests).await;
        // One call, and both.
        self.metrics.store_call("submit", entered, start.seconds());
        self.metrics.store_call("lease", asked, start.seconds());
        self.log_faults("submit", &submitted);
        self.log_faults("lease", &grants);
        (submitted, grants)
    }

    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>> {
        self.list_of("lease", requests.len(), self.inner.lease(requests))
            .await
    }

    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        self.list_of("renew", leases.len(), self.inner.renew(leases))
            .await
    }

    async fn reclaim(&self, reclaim: Reclaim) -> StoreResult<Reclaimed> {
        self.one("reclaim", self.inner.reclaim(reclaim)).await
    }

    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>> {
        self.list_of(
            "release_session",
            releases.len(),
            self.inner.release_session(releases),
        )
        .await
    }

    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        self.list_of("settle", items.len(), self.inner.settle(items))
            .await
    }

    async fn sweep(&self, requests: Vec<SweepRequest>) -> Vec<StoreResult<SweepReport>> {
        self.list_of("sweep", requests.len(), self.inner.sweep(requests))
            .await
    }

    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>> {
        self.list_of("get", ids.len(), self.inner.get(ids)).await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<JobPage> {
        self.one("list", self.inner.list(request)).await
    }

    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>> {
        let op = match action {
            Action::Cancel => "cancel",
            Action::Redrive => "redrive",
            Action::Delete => "delete",
        };
        self.list_of(op, ids.len(), self.inner.act(action, ids)).await
    }

    async fn queues(&self) -> StoreResult<Vec<QueueName>> {
        self.one("queues", self.inner.queues()).await
    }

    async fn stats(&self, queues: Vec<QueueName>) -> Vec<StoreResult<Option<QueueStats>>> {
        self.list_of("stats", queues.len(), self.inner.stats(queues))
            .await
    }

    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>> {
        self.list_of("put_queue", records.len(), self.inner.put_queue(records))
            .await
    }

    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>> {
        self.list_of("set_caps", orders.len(), self.inner.set_caps(orders))
            .await
    }

    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>> {
        self.list_of("pause", queues.len(), self.inner.pause(queues, paused))
            .await
    }

    async fn pulse(&self) -> StoreResult<Pulse> {
        self.one("pulse", self.inner.pulse()).await
    }

    fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        self.inner.subscribe()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
