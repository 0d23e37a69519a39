//! Jobs, and what callers do with them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_protocol::domain::{
    Cap, Incarnation, JobId, LeaseRef, NewJob, Outcome, Policy, QueueName, ResourceCost, Session, Settlement,
    Version,
};
use tidegate_store::{CapOrder, Grant, JobStore, LeaseRequest, QueueRecord, SettleItem, Want};
use uuid::Uuid;

use crate::timed;

const BATCH: usize = 256;
const CALLERS: usize = 4;
const PAYLOAD_BYTES: usize = 200;
const CAP: u32 = 1_000_000;

pub fn queue() -> QueueName {
    "bench".parse().unwrap()
}

/// A queue that costs a resource, so that every lease is under a cap.
pub async fn prepare(store: &Arc<dyn JobStore>) {
    let policy = Policy {
        costs: vec![ResourceCost {
            resource: "pg-main".into(),
            units: 1,
        }],
        max_depth: 10_000_000,
        ..Policy::default()
    };
    let record = QueueRecord {
        queue: queue(),
        policy,
        version: Version::default(),
    };
    store.put_queue(vec![record]).await.remove(0).unwrap();
    let order = CapOrder {
        queue: queue(),
        cap: Some(Cap {
            cap: CAP,
            retry_cap: CAP,
            safe: CAP,
        }),
        version: Version::default(),
        ttl_ms: 0,
    };
    store.set_caps(vec![order]).await.remove(0).unwrap();
}

pub fn jobs(n: usize) -> Vec<NewJob> {
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let job = |_| {
        let local = Uuid::now_v7();
        let id = JobId {
            queue: queue(),
            shard: 0,
            local,
        };
        NewJob {
            idempotency_key: Some(format!("order-{}", &local.simple().to_string()[16..])),
            // Of its own, as a router's are: each payload arrives in a message.
            ..NewJob::new(id, Bytes::copy_from_slice(&payload))
        }
    };
    (0..n).map(job).collect()
}

/// Submits `n` jobs a thousand at a time; the slowest call in ms.
pub async fn fill(store: &Arc<dyn JobStore>, n: usize) -> f64 {
    let mut slowest: f64 = 0.0;
    for _ in 0..n.div_ceil(1_000) {
        let (ms, answers) = timed(store.submit(jobs(1_000))).await;
        assert!(answers.iter().all(Result::is_ok));
        slowest = slowest.max(ms);
    }
    slowest
}

pub async fn lease(store: &dyn JobStore, n: usize) -> Vec<Grant> {
    let want = Want {
        session: Session(Uuid::new_v4()),
        incarnation: Incarnation(Uuid::nil()),
        max: n as u32,
    };
    let request = LeaseRequest {
        queue: queue(),
        wants: vec![want],
    };
    store.lease(vec![request]).await.remove(0).unwrap().grants
}

pub async fn settle(store: &dyn JobStore, grants: Vec<Grant>) {
    let item = |grant: Grant| SettleItem {
        settlement: Settlement {
            lease: LeaseRef {
                id: grant.job.id,
                fence: grant.job.fence,
            },
            outcome: Outcome::Succeeded { result: Bytes::new() },
            class: None,
            run_ms: 1,
        },
        random: 0.5,
    };
    let answers = store.settle(grants.into_iter().map(item).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
}

pub async fn finish(store: &Arc<dyn JobStore>, n: usize) {
    settle(&**store, lease(&**store, n).await).await;
}

/// Lifecycles a second.
pub async fn lifecycles(store: &Arc<dyn JobStore>, seconds: f64) -> f64 {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(seconds);
    let caller = || {
        let store = store.clone();
        async move {
            let mut done = 0;
            while Instant::now() < end {
                for answer in store.submit(jobs(BATCH)).await {
                    answer.unwrap();
                }
                let grants = lease(&*store, BATCH).await;
                done += grants.len();
                settle(&*store, grants).await;
            }
            done
        }
    };
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(caller())).collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.unwrap();
    }
    done as f64 / started.elapsed().as_secs_f64()
}
