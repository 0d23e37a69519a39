//! Rows that are not what was written: the file opens all the same. A job is dead with its rows kept, a key is forgotten.

use bytes::Bytes;
use tidegate_protocol::{domain::JobState, reason};
use tidegate_store::{Action, ActionAnswer, JobStore, ListRequest};

use crate::fixture::{execute_on, get, job, lease, open, queue, settle, stats, submit};

/// Seven jobs of which two run, closed; then `damage`.
#[tokio::test]
async fn rows_that_cannot_be_read_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(submit(&store, job(format!("payload {n}"))).await.unwrap().id);
    }
    let leases = lease(&store, 2).await.unwrap();
    store.close().await;
    // Numbers of rows are those of the jobs, from 0, in the first queue.
    let row = |n: u64| (1_u64 << 40) + n;
    let damage = [
        format!("UPDATE progress SET state = 42 WHERE job = {}", row(0)),
        format!("UPDATE jobs SET payload_hash = x'00' WHERE id = {}", row(2)),
        format!("UPDATE jobs SET local = x'0102' WHERE id = {}", row(3)),
        format!("UPDATE jobs SET headers = 'no json' WHERE id = {}", row(4)),
        format!("UPDATE jobs SET created_ms = 'noon' WHERE id = {}", row(5)),
    ];
    execute_on(&path, &damage.join("; ")).await;

    // Each start comes to the same.
    for _ in 0..2 {
        let store = open(&path).await.unwrap();
        let stats = stats(&store).await;
        assert_eq!((stats.dead, stats.unreadable), (5, 5), "{stats:?}");
        assert_eq!((stats.ready, stats.running), (1, 1), "{stats:?}");
        store.close().await;
    }
    let store = open(&path).await.unwrap();
    let page = ListRequest {
        queue: queue(),
        state: JobState::Dead,
        limit: 10,
        cursor: None,
    };
    let dead = store.list(page).await.unwrap().jobs;
    assert_eq!(dead.len(), 5);
    for job in &dead {
        assert_eq!(job.reason, reason::UNREADABLE);
        assert!(job.error.contains("its rows are kept (jobs.id = "), "{job:?}");
    }
    let first = get(&store, &ids[0]).await.unwrap();
    assert!(first.error.contains("unknown state 42"), "{first:?}");
    // What was submitted is whole.
    assert_eq!(first.payload, Bytes::from("payload 0"));
    assert_eq!(get(&store, &ids[2]).await.unwrap().payload, Bytes::new());

    let dead: Vec<_> = dead.into_iter().map(|job| job.id).collect();
    for answer in store.act(Action::Redrive, dead.clone()).await {
        assert_eq!(answer, Ok(ActionAnswer::WrongState(JobState::Dead)));
    }
    settle(&store, &leases[1]).await.unwrap();
    let granted = lease(&store, 10).await.unwrap();
    assert_eq!(
        granted.iter().map(|lease| &lease.id).collect::<Vec<_>>(),
        [&ids[6]]
    );
    settle(&store, &granted[0]).await.unwrap();
    for answer in store.act(Action::Delete, dead).await {
        assert_eq!(answer, Ok(ActionAnswer::Done(None)));
    }
    store.close().await;
    let store = open(&path).await.unwrap();
    let stats = stats(&store).await;
    assert_eq!(
        (stats.dead, stats.unreadable, stats.succeeded),
        (0, 0, 2),
        "{stats:?}"
    );
    store.close().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_forgotten_and_the_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let keyed = |n: u64| {
        let mut new = job("the same");
        new.idempotency_key = Some(format!("inv-{n}"));
        new
    };
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(submit(&store, keyed(n)).await.unwrap().id);
    }
    store.close().await;
    let row = |n: u64| (1_u64 << 40) + n;
    let damage = [
        format!("UPDATE keys SET payload_hash = x'00' WHERE id = {}", row(0)),
        format!("UPDATE keys SET local = x'0102' WHERE id = {}", row(1)),
        format!("UPDATE keys SET expires_ms = 'noon' WHERE id = {}", row(2)),
        format!("UPDATE keys SET key = x'ff' WHERE id = {}", row(3)),
    ];
    execute_on(&path, &damage.join("; ")).await;

    let store = open(&path).await.unwrap();
    assert_eq!(stats(&store).await.ready, 5, "no job is lost");
    assert_eq!(submit(&store, keyed(4)).await.unwrap().id, ids[4]);
    let mut again = Vec::new();
    for n in 0..4 {
        again.push(submit(&store, keyed(n)).await.unwrap().id);
    }
    assert!(again.iter().all(|id| !ids.contains(id)), "{again:?}");
    store.close().await;

    // What was entered since is known, whatever became of the damaged rows.
    let store = open(&path).await.unwrap();
    for n in 0..4 {
        assert_eq!(submit(&store, keyed(n)).await.unwrap().id, again[n as usize]);
    }
    assert_eq!(stats(&store).await.ready, 9);
    store.close().await;
}
