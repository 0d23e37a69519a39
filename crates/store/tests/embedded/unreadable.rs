//! Jobs whose rows are not what was written: each is dead with its rows kept, and the file opens.

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
