//! The stores under test, on one clock that the test moves.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_protocol::domain::{
    Cap, Incarnation, Job, JobId, LeaseRef, NewJob, Outcome, PayloadHash, Policy, QueueName, ResourceCost,
    Session, SettleResult, Settlement, Submitted, Version,
};
use tidegate_store::{
    CapAnswer, CapOrder, Grants, JobStore, LeaseRequest, ManualClock, OpenOptions, QueueRecord, QueueStats,
    ReleaseCause, RenewAnswer, SessionRelease, SettleItem, StoreResult, SweepReport, SweepRequest, Want,
    memory::MemoryStore, open, redis, sqlite,
};
use tidegate_tests::{Redis, RedisOptions, Sandbox};
use uuid::Uuid;

/// Some time after the epoch: fences are made of it.
pub const START_MS: u64 = 1_700_000_000_000;

/// One store, its clock, and the folder it may live in.
pub struct Fixture {
    pub store: Arc<dyn JobStore>,
    pub clock: Arc<ManualClock>,
    sandbox: Option<Sandbox>,
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_MS))
}

impl Fixture {
    pub fn memory(clock: Arc<ManualClock>) -> Self {
        Self {
            store: Arc::new(MemoryStore::with_clock(clock.clone())),
            clock,
            sandbox: None,
        }
    }

    pub async fn sqlite(clock: Arc<ManualClock>) -> Self {
        let sandbox = Sandbox::new();
        let options = sqlite::SqliteOptions {
            clock: Some(clock.clone()),
        };
        let store = sqlite::SqliteStore::open(&sandbox.path().join("jobs.db"), options)
            .await
            .unwrap();
        Self {
            store: Arc::new(store),
            clock,
            sandbox: Some(sandbox),
        }
    }

    /// Forgets everything that the server holds.
    pub async fn redis(server: &Redis<'_>, clock: Arc<ManualClock>) -> Self {
        server.must(&["FLUSHALL"]).await;
        let options = redis::RedisOptions {
            clock: Some(clock.clone()),
            ..redis::RedisOptions::default()
        };
        let store = redis::RedisStore::connect(&server.url(), options).await.unwrap();
        Self {
            store: Arc::new(store),
            clock,
            sandbox: None,
        }
    }

    /// A Redis as a router opens it, on the server's own clock; `clock` moves nothing.
    pub async fn redis_at(url: &str, min_replica_acks: u32) -> Self {
        let options = OpenOptions { min_replica_acks };
        Self {
            store: open(url, &options).await.unwrap(),
            clock: clock(),
            sandbox: None,
        }
    }

    /// Closes the embedded store and opens its file again; nothing to do for the others.
    pub async fn reopen(&mut self) {
        if let Some(sandbox) = &self.sandbox {
            self.store.close().await;
            let options = sqlite::SqliteOptions {
                clock: Some(self.clock.clone()),
            };
            let store = sqlite::SqliteStore::open(&sandbox.path().join("jobs.db"), options)
                .await
                .unwrap();
            self.store = Arc::new(store);
        }
    }

    pub async fn submit(&self, job: NewJob) -> StoreResult<Submitted> {
        self.store.submit(vec![job]).await.remove(0)
    }

    /// Submits `n` plain jobs.
    pub async fn fill(&self, name: &str, n: usize) -> Vec<JobId> {
        let jobs: Vec<_> = (0..n).map(|i| job(name, &format!("payload {i}"))).collect();
        self.store
            .submit(jobs)
            .await
            .into_iter()
            .map(|answer| answer.unwrap().id)
            .collect()
    }

    pub async fn lease(&self, name: &str, worker: &Worker, max: u32) -> Grants {
        self.try_lease(name, worker, max).await.unwrap()
    }

    pub async fn try_lease(&self, name: &str, worker: &Worker, max: u32) -> StoreResult<Grants> {
        let want = Want {
            session: worker.session,
            incarnation: worker.incarnation,
            max,
        };
        let request = LeaseRequest {
            queue: queue(name),
            wants: vec![want],
        };
        self.store.lease(vec![request]).await.remove(0)
    }

    pub async fn settle(&self, lease: &LeaseRef, outcome: Outcome) -> SettleResult {
        self.try_settle(lease, outcome).await.unwrap()
    }

    pub async fn try_settle(&self, lease: &LeaseRef, outcome: Outcome) -> StoreResult<SettleResult> {
        self.store
            .settle(vec![settlement(lease, outcome)])
            .await
            .remove(0)
    }

    pub async fn renew(&self, lease: &LeaseRef) -> StoreResult<RenewAnswer> {
        self.store.renew(vec![lease.clone()]).await.remove(0)
    }

    pub async fn release(&self, name: &str, worker: &Worker, cause: ReleaseCause) -> u64 {
        let release = SessionRelease {
            queue: queue(name),
            session: worker.session,
            cause,
            seed: 7,
        };
        self.store.release_session(vec![release]).await.remove(0).unwrap()
    }

    pub async fn sweep(&self, name: &str) -> SweepReport {
        self.sweep_until(name, Some(u64::MAX), 0).await
    }

    pub async fn sweep_until(&self, name: &str, reclaim_until_ms: Option<u64>, hold_ms: u64) -> SweepReport {
        let request = SweepRequest {
            queue: queue(name),
            reclaim_until_ms,
            hold_ms,
            limit: 1_000,
            seed: 7,
        };
        self.store.sweep(vec![request]).await.remove(0).unwrap()
    }

    pub async fn stats(&self, name: &str) -> QueueStats {
        self.store
            .stats(vec![queue(name)])
            .await
            .remove(0)
            .unwrap()
            .expect("the queue exists")
    }

    pub async fn get(&self, id: &JobId) -> Job {
        self.store
            .get(vec![id.clone()])
            .await
            .remove(0)
            .unwrap()
            .expect("the job is kept")
    }

    pub async fn put(&self, name: &str, policy: Policy) {
        let record = QueueRecord {
            queue: queue(name),
            policy,
            version: Version::default(),
        };
        assert!(self.store.put_queue(vec![record]).await.remove(0).unwrap());
    }

    pub async fn cap(&self, name: &str, cap: u32, version: (u64, u64), ttl_ms: u64) -> CapAnswer {
        let cap = Cap {
            cap,
            retry_cap: cap,
            safe: 1,
        };
        let version = Version {
            epoch: version.0,
            generation: version.1,
        };
        let order = CapOrder {
            queue: queue(name),
            cap: Some(cap),
            version,
            ttl_ms,
        };
        self.store.set_caps(vec![order]).await.remove(0).unwrap()
    }
}

pub async fn redis_server(sandbox: &Sandbox) -> Redis<'_> {
    Redis::start(sandbox, RedisOptions::default()).await
}

/// A worker process on one stream.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub session: Session,
    pub incarnation: Incarnation,
}

impl Worker {
    pub fn new(n: u128) -> Self {
        Self {
            session: Session(Uuid::from_u128(n)),
            incarnation: Incarnation(Uuid::from_u128(n << 64)),
        }
    }

    /// The same process on a new stream.
    pub fn reconnected(self, n: u128) -> Self {
        Self {
            session: Session(Uuid::from_u128(n)),
            ..self
        }
    }
}

pub fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

pub fn job(name: &str, payload: &str) -> NewJob {
    let id = JobId {
        queue: queue(name),
        shard: 0,
        local: Uuid::now_v7(),
    };
    let mut job = NewJob::new(id, Bytes::copy_from_slice(payload.as_bytes()));
    job.payload_hash = hash(payload);
    job
}

/// Not a real hash: tells the payloads of these tests apart.
pub fn hash(payload: &str) -> PayloadHash {
    let mut hash = PayloadHash::default();
    for (i, byte) in payload.bytes().enumerate() {
        hash[i % hash.len()] ^= byte.rotate_left(i as u32 / 12);
    }
    hash
}

/// A policy under which slots of lost workers stay counted.
pub fn costly() -> Policy {
    Policy {
        costs: vec![ResourceCost {
            resource: "pg-main".into(),
            units: 1,
        }],
        ..Policy::default()
    }
}

pub fn lease_of(job: &Job) -> LeaseRef {
    LeaseRef {
        id: job.id.clone(),
        fence: job.fence,
    }
}

pub fn settlement(lease: &LeaseRef, outcome: Outcome) -> SettleItem {
    let settlement = Settlement {
        lease: lease.clone(),
        outcome,
        class: None,
        run_ms: 1,
    };
    SettleItem {
        settlement,
        random: 0.5,
    }
}

pub fn ok() -> Outcome {
    Outcome::Succeeded {
        result: Bytes::from_static(b"done"),
    }
}

pub fn retry() -> Outcome {
    Outcome::Retry {
        error: "no luck".into(),
        after_ms: 0,
    }
}
