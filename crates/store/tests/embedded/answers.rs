//! No answer before its commit. Somebody else who writes to the file holds the commits up.

use std::time::Duration;

use tidegate_protocol::domain::SubmitOutcome;
use tidegate_store::{JobStore, StoreError, StoreEvent};

use crate::fixture::{eventually, execute, job, lease, open, stranger, submit};

/// Longer than the store waits for a lock.
const STALL: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_submit_waits_for_the_first_ones_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let keyed = || {
        let mut new = job("a");
        new.idempotency_key = Some("inv-17".into());
        new
    };
    let mut blocker = stranger(&path).await;
    execute(&mut blocker, "BEGIN IMMEDIATE").await;
    let first = submit(&store, keyed());
    let again = async {
        // After the first has been handed over.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut waits = Box::pin(submit(&store, keyed()));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waits).await;
        assert!(early.is_err(), "acknowledged what is not on disk: {early:?}");
        execute(&mut blocker, "ROLLBACK").await;
        waits.await.unwrap()
    };
    let (first, again) = tokio::join!(first, again);
    assert_eq!(
        (again.outcome, again.id),
        (SubmitOutcome::Duplicate, first.unwrap().id)
    );
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_nobody_waited_for_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    assert!(
        lease(&store, 1).await.unwrap().is_empty(),
        "now the queue is hungry"
    );
    let mut events = store.subscribe();
    let mut blocker = stranger(&path).await;
    execute(&mut blocker, "BEGIN IMMEDIATE").await;
    let error = submit(&store, job("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert!(matches!(
        submit(&store, job("b")).await,
        Err(StoreError::Unavailable(_))
    ));
    tokio::time::sleep(STALL).await;
    execute(&mut blocker, "ROLLBACK").await;
    eventually("the store writes again", || async { store.pulse().await.ok() }).await;
    assert_eq!(events.recv().await.unwrap(), StoreEvent::Resync);
    assert_eq!(
        lease(&store, 2).await.unwrap().len(),
        1,
        "the unknown one came true, the refused one did not"
    );
    store.close().await;
}
