//! Acknowledged only when a replica has it.

use tidegate_protocol::domain::{JobState, SettleResult, SubmitOutcome};
use tidegate_store::{Durability, OpenOptions, RenewAnswer, StoreError, open};
use tidegate_tests::Sandbox;

use super::{answered, failover::follow, life};
use crate::fixture::{Fixture, Worker, job, lease_of, ok, redis_server};

const UNCONFIRMED: StoreError = StoreError::Unconfirmed {
    confirmed: 0,
    wanted: 1,
};

fn keyed() -> tidegate_protocol::domain::NewJob {
    let mut new = job("email", "{}");
    new.idempotency_key = Some("inv-17".into());
    new
}

#[tokio::test]
async fn nothing_is_acknowledged_that_no_replica_has() {
    let sandbox = Sandbox::new();
    let (primary, replica) = tokio::join!(redis_server(&sandbox), redis_server(&sandbox));
    follow(&replica, &primary).await;
    let f = Fixture::redis_at(&primary.url(), 1).await;
    let durability = f.store.pulse().await.unwrap().durability;
    assert!(
        matches!(durability, Durability::Replicated { acks: 1, .. }),
        "{durability:?}"
    );
    let life = life(&f).await;

    replica.process().freeze();
    let new = keyed();
    assert_eq!(f.submit(new.clone()).await, Err(UNCONFIRMED));
    // It is there, and the replica still does not have it.
    assert_eq!(f.submit(new.clone()).await, Err(UNCONFIRMED));
    assert_eq!(f.try_settle(&life.lease, ok()).await, Err(UNCONFIRMED));
    // Nobody is promised a lease: renewals and grants do not wait for replicas.
    let granted = f.lease("email", &Worker::new(2), 1).await.grants.remove(0);

    // Nor do they stand behind a settle that does.
    let renewing = async {
        answered(&primary, &["INFO", "clients"], "blocked_clients:1").await;
        f.store.renew(vec![lease_of(&granted.job)]).await.remove(0)
    };
    tokio::select! {
        renewed = renewing => assert!(matches!(renewed, Ok(RenewAnswer::Held { .. })), "{renewed:?}"),
        settled = f.try_settle(&life.lease, ok()) => panic!("answered before a renewal: {settled:?}"),
    }

    replica.process().thaw();
    answered(&primary, &["WAIT", "1", "1000"], "1").await;
    let again = f.submit(new.clone()).await.unwrap();
    assert_eq!((again.outcome, &again.id), (SubmitOutcome::Duplicate, &new.id));
    let recorded = SettleResult::Recorded(JobState::Succeeded);
    assert_eq!(f.try_settle(&life.lease, ok()).await, Ok(recorded));
    // The server forgets its functions: the library is loaded, and the call confirmed, in one.
    primary.must(&["FUNCTION", "FLUSH"]).await;
    assert_eq!(f.try_settle(&lease_of(&granted.job), ok()).await, Ok(recorded));
    primary.must(&["FUNCTION", "FLUSH"]).await;
    assert_eq!(
        f.submit(job("email", "{}")).await.unwrap().outcome,
        SubmitOutcome::Created
    );
    assert_eq!(f.stats("email").await.submitted_total, 5);
    f.store.close().await;
}

#[tokio::test]
async fn a_primary_that_is_demoted_under_the_wait_leaves_the_outcome_unknown() {
    let sandbox = Sandbox::new();
    let (primary, replica) = tokio::join!(redis_server(&sandbox), redis_server(&sandbox));
    follow(&replica, &primary).await;
    let f = Fixture::redis_at(&primary.url(), 1).await;
    f.fill("email", 1).await;
    replica.process().freeze();
    let new = keyed();
    let demote = async {
        answered(&primary, &["INFO", "clients"], "blocked_clients:1").await;
        primary.must(&["REPLICAOF", "127.0.0.1", "1"]).await;
    };
    let (answer, ()) = tokio::join!(f.submit(new.clone()), demote);
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");

    primary.must(&["REPLICAOF", "NO", "ONE"]).await;
    replica.process().thaw();
    follow(&replica, &primary).await;
    let again = f.submit(new.clone()).await.unwrap();
    assert_eq!((again.outcome, again.id), (SubmitOutcome::Duplicate, new.id));
    assert_eq!(f.stats("email").await.ready, 2);
    f.store.close().await;
}

#[tokio::test]
async fn without_any_replica_nothing_is_acknowledged() {
    let sandbox = Sandbox::new();
    let server = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&server.url(), 1).await;
    assert_eq!(f.submit(keyed()).await, Err(UNCONFIRMED));
    f.store.close().await;
}

#[tokio::test]
async fn a_store_without_replicas_refuses_to_wait_for_them() {
    let options = OpenOptions { min_replica_acks: 1 };
    for url in ["memory:", "sqlite:jobs.db"] {
        let error = open(url, &options)
            .await
            .err()
            .expect("it is refused")
            .to_string();
        assert!(
            error.contains("min_replica_acks") && error.contains("set it to 0 or use redis://"),
            "{url}: {error}"
        );
    }
}
