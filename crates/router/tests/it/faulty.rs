//! A store that can be made to fail, to wait, and to lose its sense of time.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tidegate_protocol::domain::{
    Job, JobId, LeaseRef, NewJob, Policy, QueueName, SettleResult, Submitted, Version,
};
use tidegate_store::{
    Action, ActionAnswer, CapAnswer, CapOrder, Grants, JobPage, JobStore, LeaseRequest, ListRequest, Pulse,
    QueueRecord, QueueStats, Reclaim, Reclaimed, RenewAnswer, SessionRelease, SettleItem, StoreError,
    StoreEvent, StoreResult, SweepReport, SweepRequest, memory::MemoryStore,
};
use tokio::sync::{Semaphore, broadcast};

/// The memory store, and what a test does to it.
pub struct Faulty {
    inner: Arc<dyn JobStore>,
    /// Operations that fail as if the store were away.
    failing: Mutex<HashSet<&'static str>>,
    /// When set, lease calls are made, and answered only when a permit is added.
    lease_gate: Mutex<Option<Arc<Semaphore>>>,
    /// Taken off the clocks of lease answers and pulses.
    pub clock_back_ms: AtomicU64,
    /// Subscribers hear nothing.
    pub silent: AtomicBool,
    pub sweeps: Mutex<Vec<SweepRequest>>,
}

impl Default for Faulty {
    fn default() -> Self {
        Self {
            inner: Arc::new(MemoryStore::default()),
            failing: Mutex::default(),
            lease_gate: Mutex::default(),
            clock_back_ms: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            sweeps: Mutex::default(),
        }
    }
}

impl Faulty {
    pub fn fail(&self, op: &'static str) {
        self.failing.lock().unwrap().insert(op);
    }

    pub fn heal(&self) {
        self.failing.lock().unwrap().clear();
    }

    pub fn hold_leases(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.lease_gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    fn away<R>(&self, op: &'static str, items: usize) -> Option<Vec<StoreResult<R>>> {
        let fails = self.failing.lock().unwrap().contains(op);
        fails.then(|| {
            (0..items)
                .map(|_| Err(StoreError::Unavailable("injected".into())))
                .collect()
        })
    }

    fn back(&self, clock_ms: u64) -> u64 {
        clock_ms - self.clock_back_ms.load(Ordering::SeqCst)
    }

    pub async fn job(&self, id: &str) -> Job {
        self.inner
            .get(vec![id.parse().unwrap()])
            .await
            .pop()
            .unwrap()
            .unwrap()
            .expect("the job exists")
    }

    /// Writes a policy as an operator would have.
    pub async fn policy(&self, queue: &str, change: impl FnOnce(&mut Policy)) {
        let mut policy = Policy::default();
        change(&mut policy);
        let version = Version {
            epoch: 1,
            generation: 1,
        };
        let record = QueueRecord {
            queue: queue.parse().unwrap(),
            policy,
            version,
        };
        assert_eq!(self.inner.put_queue(vec![record]).await, [Ok(true)]);
    }
}

#[async_trait]
impl JobStore for Faulty {
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
        match self.away("submit", jobs.len()) {
            Some(away) => away,
            None => self.inner.submit(jobs).await,
        }
    }
    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>> {
        if let Some(away) = self.away("lease", requests.len()) {
            return away;
        }
        let mut answers = self.inner.lease(requests).await;
        for grants in answers.iter_mut().flatten() {
            grants.clock_ms = self.back(grants.clock_ms);
        }
        let gate = self.lease_gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        answers
    }
    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        match self.away("renew", leases.len()) {
            Some(away) => away,
            None => self.inner.renew(leases).await,
        }
    }
    async fn reclaim(&self, reclaim: Reclaim) -> StoreResult<Reclaimed> {
        self.inner.reclaim(reclaim).await
    }
    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>> {
        match self.away("release", releases.len()) {
            Some(away) => away,
            None => self.inner.release_session(releases).await,
        }
    }
    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        match self.away("settle", items.len()) {
            Some(away) => away,
            None => self.inner.settle(items).await,
        }
    }
    async fn sweep(&self, requests: Vec<SweepRequest>) -> Vec<StoreResult<SweepReport>> {
        self.sweeps.lock().unwrap().extend(requests.clone());
        self.inner.sweep(requests).await
    }
    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>> {
        match self.away("get", ids.len()) {
            Some(away) => away,
            None => self.inner.get(ids).await,
        }
    }
    async fn list(&self, request: ListRequest) -> StoreResult<JobPage> {
        self.inner.list(request).await
    }
    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>> {
        self.inner.act(action, ids).await
    }
    async fn queues(&self) -> StoreResult<Vec<QueueName>> {
        self.inner.queues().await
    }
    async fn stats(&self, queues: Vec<QueueName>) -> Vec<StoreResult<Option<QueueStats>>> {
        self.inner.stats(queues).await
    }
    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>> {
        match self.away("put_queue", records.len()) {
            Some(away) => away,
            None => self.inner.put_queue(records).await,
        }
    }
    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>> {
        match self.away("set_caps", orders.len()) {
            Some(away) => away,
            None => self.inner.set_caps(orders).await,
        }
    }
    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>> {
        self.inner.pause(queues, paused).await
    }
    async fn pulse(&self) -> StoreResult<Pulse> {
        if let Some(mut away) = self.away("pulse", 1) {
            return away.remove(0);
        }
        let pulse = self.inner.pulse().await?;
        Ok(Pulse {
            clock_ms: self.back(pulse.clock_ms),
            ..pulse
        })
    }
    fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        if self.silent.load(Ordering::SeqCst) {
            // Its sender lives as long as the test's process: a channel on which nothing is ever said.
            let sender = Box::leak(Box::new(broadcast::Sender::new(1)));
            return sender.subscribe();
        }
        self.inner.subscribe()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
