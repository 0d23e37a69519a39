//! Answers that come too late, half, or never: what was asked for may have happened, and a repeat is safe.

use std::time::Duration;

use tidegate_protocol::domain::{JobState, NewJob, Policy, SettleResult, SubmitOutcome};
use tidegate_store::{StoreError, StoreResult};
use tidegate_tests::{Proxy, Sandbox, eventually};

use super::{PATIENCE, life};
use crate::fixture::{Fixture, Worker, job, lease_of, ok, queue, redis_server};

const SUBMIT: &str = "tidegate_submit";
const SETTLE: &str = "tidegate_settle";

fn keyed(key: &str) -> NewJob {
    let mut new = job("email", "{}");
    new.idempotency_key = Some(key.into());
    new
}

#[track_caller]
fn demand_unknown<T: std::fmt::Debug>(answer: &StoreResult<T>) {
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
}

/// A queue whose leases end after a second.
async fn hasty(f: &Fixture, name: &str) {
    let policy = Policy {
        lease_ttl_ms: 1_000,
        ..Policy::default()
    };
    f.put(name, policy).await;
}

/// Two stores: one has seen the server's clock and says until when it waits for grants, the other one has not.
#[tokio::test]
async fn a_server_that_stalls_leaves_outcomes_unknown_and_loses_nothing() {
    let sandbox = Sandbox::new();
    let server = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&server.url(), 0).await;
    let blind = Fixture::redis_at(&server.url(), 0).await;
    f.store.pulse().await.unwrap();
    let life = life(&f).await;
    for name in ["sms", "push"] {
        hasty(&f, name).await;
        f.fill(name, 1).await;
    }
    assert!(blind.lease("push", &Worker::new(4), 0).await.grants.is_empty());

    let new = keyed("inv-17");
    let worker = Worker::new(5);
    // Longer than a call waits for its answer.
    let stall = server.must(&["DEBUG", "SLEEP", "3"]);
    let calls = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::join!(
            f.submit(new.clone()),
            f.try_settle(&life.lease, ok()),
            f.try_lease("sms", &worker, 1),
            blind.try_lease("push", &worker, 1),
        )
    };
    let (submitted, settled, leased, leased_blindly) = tokio::join!(calls, stall).0;
    demand_unknown(&submitted);
    demand_unknown(&settled);
    demand_unknown(&leased);
    demand_unknown(&leased_blindly);

    let again = f.submit(new.clone()).await.unwrap();
    assert_eq!((again.outcome, again.id), (SubmitOutcome::Duplicate, new.id));
    assert_eq!(f.stats("email").await.submitted_total, 4);
    let recorded = SettleResult::Recorded(JobState::Succeeded);
    assert_eq!(f.settle(&life.lease, ok()).await, recorded);
    // The server knew that nobody waited any more, and granted nothing.
    assert_eq!(f.stats("sms").await.ready, 1);
    // Here it did not: the job runs with nobody until its lease ends, and comes back.
    assert_eq!(f.stats("push").await.running, 1);
    let grant = eventually(PATIENCE, "the job comes back by time", async || {
        f.sweep("push").await;
        f.lease("push", &worker, 1).await.grants.pop()
    })
    .await;
    assert_eq!(f.settle(&lease_of(&grant.job), ok()).await, recorded);
    f.store.close().await;
    blind.store.close().await;
}

#[tokio::test]
async fn a_submit_that_is_cut_off_is_unknown_and_its_repeat_one_job() {
    let sandbox = Sandbox::new();
    let server = redis_server(&sandbox).await;
    let proxy = Proxy::start(server.port()).await;
    let f = Fixture::redis_at(&proxy.redis_url(), 0).await;
    f.fill("email", 1).await;
    type Cut<'a> = (&'a dyn Fn(), SubmitOutcome);
    let cuts: [Cut<'_>; 4] = [
        (&|| proxy.cut_request(SUBMIT, 0), SubmitOutcome::Created),
        (&|| proxy.cut_request(SUBMIT, 60), SubmitOutcome::Created),
        (&|| proxy.cut_reply(SUBMIT, 0), SubmitOutcome::Duplicate),
        (&|| proxy.cut_reply(SUBMIT, 3), SubmitOutcome::Duplicate),
    ];
    for (n, (cut, outcome)) in cuts.into_iter().enumerate() {
        let new = keyed(&format!("inv-{n}"));
        cut();
        demand_unknown(&f.submit(new.clone()).await);
        assert!(proxy.has_cut(), "cut {n}");
        let again = f.submit(new.clone()).await.unwrap();
        assert_eq!((again.outcome, again.id), (outcome, new.id), "cut {n}");
    }
    assert_eq!(f.stats("email").await.submitted_total, 5);
    f.store.close().await;
}

#[tokio::test]
async fn a_settlement_that_is_cut_off_is_unknown_and_its_repeat_gets_the_answer() {
    let sandbox = Sandbox::new();
    let server = redis_server(&sandbox).await;
    let proxy = Proxy::start(server.port()).await;
    let f = Fixture::redis_at(&proxy.redis_url(), 0).await;
    f.fill("email", 4).await;
    let grants = f.lease("email", &Worker::new(1), 4).await.grants;
    let cuts: [&dyn Fn(); 4] = [
        &|| proxy.cut_request(SETTLE, 0),
        &|| proxy.cut_request(SETTLE, 60),
        &|| proxy.cut_reply(SETTLE, 0),
        &|| proxy.cut_reply(SETTLE, 3),
    ];
    for (grant, cut) in grants.iter().zip(cuts) {
        cut();
        let lease = lease_of(&grant.job);
        demand_unknown(&f.try_settle(&lease, ok()).await);
        assert!(proxy.has_cut());
        let recorded = SettleResult::Recorded(JobState::Succeeded);
        assert_eq!(f.settle(&lease, ok()).await, recorded);
    }
    let stats = f.stats("email").await;
    assert_eq!((stats.succeeded_total, stats.slots), (4, 0));
    f.store.close().await;
}

/// Grants whose answer is cut off run with nobody, until the worker's next stream says that it does not have them.
#[tokio::test]
async fn grants_that_are_cut_off_come_back() {
    let sandbox = Sandbox::new();
    let server = redis_server(&sandbox).await;
    let proxy = Proxy::start(server.port()).await;
    let f = Fixture::redis_at(&proxy.redis_url(), 0).await;
    hasty(&f, "email").await;
    let id = f.fill("email", 1).await.remove(0);
    f.lease("email", &Worker::new(1), 0).await;
    proxy.cut_reply("tidegate_lease", 20);
    let worker = Worker::new(2);
    demand_unknown(&f.try_lease("email", &worker, 1).await);
    assert_eq!(f.get(&id).await.state, JobState::Running);
    let grant = eventually(PATIENCE, "the job comes back by time", async || {
        f.sweep("email").await;
        f.lease("email", &worker, 1).await.grants.pop()
    })
    .await;
    assert_eq!(grant.job.id, id);
    assert_eq!(f.store.queues().await, Ok(vec![queue("email")]));
    f.store.close().await;
}
