//! One process owns the file, and the file survives it.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use sqlx::Connection as _;
use tidegate_protocol::domain::JobState;
use tidegate_store::{Durability, JobStore, OpenError, StoreError};

use crate::{
    child::{JOBS, Owner, work_until_killed},
    fixture::{eventually, get, job, lease, open, settle, stats, stranger, submit},
};

/// Where the header of an SQLite file counts its free pages.
const FREE_PAGES_AT: u64 = 36;

#[tokio::test]
async fn a_second_owner_is_refused_and_told_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let mut owner = Owner::start(&path);
    owner.wait_ready();
    let refused = open(&path).await.err().expect("the file has an owner");
    assert!(
        matches!(&refused, OpenError::Locked { pid: Some(pid), .. } if *pid == owner.pid()),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains(&format!("in use by process {}", owner.pid()))
    );
    owner.kill9();
    open(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn acknowledged_jobs_survive_kill_9_and_the_file_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let mut owner = Owner::start(&path);
    let ids = owner.wait_ready();
    owner.kill9();
    assert_eq!(ids.len(), JOBS);
    assert!(is_marked(&path).await, "nobody closed the file");

    let store = open(&path).await.unwrap();
    for id in ids {
        assert!(get(&store, &id.parse().unwrap()).await.is_some(), "{id} is lost");
    }
    assert_eq!(stats(&store).await.submitted_total, JOBS as u64);
    assert_eq!(store.pulse().await.unwrap().durability, Durability::Fsync);
    store.close().await;
    // A check that close() interrupted is made up at the next start.
    for _ in 0..100 {
        let store = open(&path).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        store.close().await;
        if !is_marked(&path).await {
            return;
        }
    }
    panic!("the file is whole, and no check says so");
}

#[tokio::test]
async fn whatever_was_answered_survives_kill_9_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let (mut entered, mut settled) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let (jobs, done) = work_until_killed(&path, 200 + 77 * round);
        entered.extend(jobs);
        settled.extend(done);
        let store = open(&path).await.unwrap();
        for id in &entered {
            assert!(get(&store, &id.parse().unwrap()).await.is_some(), "{id} is lost");
        }
        for id in &settled {
            let job = get(&store, &id.parse().unwrap()).await.unwrap();
            assert_eq!(job.state, JobState::Succeeded, "{id} forgot its end");
        }
        let stats = stats(&store).await;
        assert_eq!(
            stats.submitted_total,
            stats.ready + stats.running + stats.succeeded
        );
        assert_eq!(stats.slots, stats.running);
        drop(store);
    }
    assert!(
        entered.len() > 500 && settled.len() > 200,
        "{} and {}",
        entered.len(),
        settled.len()
    );
}

#[tokio::test]
async fn a_file_that_was_closed_is_not_checked_and_one_that_was_dropped_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    submit(&store, job("a")).await.unwrap();
    store.close().await;
    assert!(!is_marked(&path).await);
    drop(open(&path).await.unwrap());
    assert!(is_marked(&path).await);
}

/// A page that says what is not so, as a disk that lied would leave it. Nothing of it is read at the start: only the
/// check can find it.
#[tokio::test]
async fn a_damaged_file_takes_no_writes_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let mut owner = Owner::start(&path);
    let ids = owner.wait_ready();
    owner.kill9();
    damage(&path).await;

    for _ in 0..2 {
        let store = open(&path).await.unwrap();
        let error = eventually("a submit is refused", || async {
            submit(&store, job("a")).await.err()
        })
        .await;
        let StoreError::Corrupt(text) = &error else {
            panic!("{error}");
        };
        assert!(text.contains(".recover") && text.contains("jobs.db"), "{text}");
        assert_eq!(lease(&store, 1).await.unwrap_err(), error);
        assert_eq!(store.pulse().await.unwrap_err(), error);
        assert!(
            get(&store, &ids[0].parse().unwrap()).await.is_some(),
            "reads go on"
        );
        store.close().await;
    }
}

#[tokio::test]
async fn everything_about_a_job_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let mut new = job(vec![0, 159, 255]);
    new.payload_hash = [7; 12];
    new.headers = vec![("x-a".into(), "1".into()), ("x-a".into(), "\u{1F30A}".into())];
    new.idempotency_key = Some("inv-17".into());
    new.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    new.tracestate = Some("vendor=x".into());
    new.want_result = true;
    new.deadline_after_ms = 3_600_000;
    let waiting = submit(&store, new.clone()).await.unwrap().id;
    new.id = job("").id;
    new.idempotency_key = Some("inv-18".into());
    new.delay_ms = 60_000;
    let scheduled = submit(&store, new.clone()).await.unwrap().id;
    let before = [get(&store, &waiting).await, get(&store, &scheduled).await];
    store.close().await;
    let store = open(&path).await.unwrap();
    assert_eq!(
        [get(&store, &waiting).await, get(&store, &scheduled).await],
        before
    );

    // Leased, and settled.
    let held = lease(&store, 1).await.unwrap().remove(0);
    let running = get(&store, &waiting).await;
    store.close().await;
    let store = open(&path).await.unwrap();
    assert_eq!(get(&store, &waiting).await, running);
    settle(&store, &held).await.unwrap();
    let done = get(&store, &waiting).await;
    store.close().await;
    let store = open(&path).await.unwrap();
    assert_eq!(get(&store, &waiting).await, done);

    // The keys, too: one of a live job, one of a job that has ended.
    for (key, id) in [("inv-17", &waiting), ("inv-18", &scheduled)] {
        new.id = job("").id;
        new.idempotency_key = Some(key.into());
        assert_eq!(&submit(&store, new.clone()).await.unwrap().id, id);
    }
    store.close().await;
}

async fn is_marked(path: &Path) -> bool {
    let mut connection = stranger(path).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM store WHERE name = 'open'");
    let count: i64 = count.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count == 1
}

async fn damage(path: &Path) {
    // Out of the log and into the file.
    let mut connection = stranger(path).await;
    let busy = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)");
    let busy: i64 = busy.fetch_one(&mut connection).await.unwrap();
    assert_eq!(busy, 0);
    connection.close().await.unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(FREE_PAGES_AT)).unwrap();
    file.write_all(&77_u32.to_be_bytes()).unwrap();
}
