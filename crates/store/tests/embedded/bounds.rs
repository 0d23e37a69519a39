//! Work in pieces and lists in pages: many small steps must come to the same as one large one.

use std::{collections::HashSet, sync::Arc};

use tidegate_protocol::domain::{Incarnation, JobId, JobState, Session};
use tidegate_store::{
    Action, JobStore, ListRequest, ManualClock, Reclaim, ReleaseCause, SessionRelease, StoreError,
    SweepRequest, memory::MemoryStore,
};
use uuid::Uuid;

use crate::fixture::{job, lease, queue, stats, submit_all};

const START_MS: u64 = 1_700_000_000_000;
/// Several pieces of each kind, and no whole number of them.
const MANY: usize = 1_234;

fn store() -> (MemoryStore, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START_MS));
    (MemoryStore::with_clock(clock.clone()), clock)
}

async fn lease_all(store: &MemoryStore) {
    let mut held = 0;
    while held < MANY {
        held += lease(store, 1_000).await.unwrap().len();
    }
}

#[tokio::test]
async fn sweeps_move_everything_that_is_due() {
    let (store, clock) = store();
    let later = |n: usize| {
        let mut job = job(format!("payload {n}"));
        job.delay_ms = 1_000;
        job
    };
    submit_all(&store, (0..MANY).map(later).collect()).await;
    clock.advance(1_000);
    let request = SweepRequest {
        queue: queue(),
        reclaim_until_ms: Some(u64::MAX),
        hold_ms: 0,
        limit: 1_000,
        seed: 7,
    };
    let (mut promoted, mut calls) = (0, 0);
    loop {
        let report = store.sweep(vec![request.clone()]).await.remove(0).unwrap();
        assert!(report.promoted <= request.limit);
        promoted += report.promoted as usize;
        calls += 1;
        if !report.more {
            break;
        }
    }
    assert_eq!((promoted, stats(&store).await.ready), (MANY, MANY as u64));
    assert!(calls > 1, "one call did it all");

    // A call that may do little does little.
    lease_all(&store).await;
    clock.advance(60_000);
    let little = SweepRequest { limit: 7, ..request };
    let report = store.sweep(vec![little]).await.remove(0).unwrap();
    assert_eq!((report.reclaimed, report.more), (7, true));
}

#[tokio::test]
async fn a_session_gives_back_all_of_its_jobs() {
    for cause in [ReleaseCause::Bye, ReleaseCause::Broken] {
        let (store, _) = store();
        submit_all(&store, (0..MANY).map(|_| job("a")).collect()).await;
        lease_all(&store).await;
        let release = SessionRelease {
            queue: queue(),
            session: Session(Uuid::from_u128(1)),
            cause,
            seed: 7,
        };
        assert_eq!(store.release_session(vec![release]).await, [Ok(MANY as u64)]);
        let after = stats(&store).await;
        assert_eq!((after.ready, after.running, after.slots), (MANY as u64, 0, 0));
        let losses = if cause == ReleaseCause::Broken {
            MANY as u64
        } else {
            0
        };
        assert_eq!(after.ready_retries, losses, "a loss makes it a retry");
    }
}

#[tokio::test]
async fn a_hello_takes_back_every_loss_and_returns_every_lease() {
    let (store, clock) = store();
    submit_all(&store, (0..MANY).map(|_| job("a")).collect()).await;
    lease_all(&store).await;
    clock.advance(60_000);
    let sweep = SweepRequest {
        queue: queue(),
        reclaim_until_ms: Some(u64::MAX),
        hold_ms: 0,
        limit: 1_000,
        seed: 7,
    };
    while store.sweep(vec![sweep.clone()]).await.remove(0).unwrap().more {}
    lease_all(&store).await;
    let reclaim = Reclaim {
        session: Session(Uuid::from_u128(2)),
        incarnation: Incarnation(Uuid::from_u128(1)),
        replaces: vec![Session(Uuid::from_u128(1))],
        queues: vec![queue()],
        leases: Vec::new(),
    };
    assert_eq!(store.reclaim(reclaim).await.unwrap().returned, MANY as u64);
    let ready = pages(&store, JobState::Ready, 100).await;
    for answer in store.get(ready).await {
        assert_eq!(answer.unwrap().unwrap().losses, 0);
    }
}

async fn page(
    store: &MemoryStore,
    state: JobState,
    limit: u32,
    cursor: Option<String>,
) -> (Vec<JobId>, Option<String>) {
    let request = ListRequest {
        queue: queue(),
        state,
        limit,
        cursor,
    };
    let page = store.list(request).await.unwrap();
    (page.jobs.into_iter().map(|job| job.id).collect(), page.next)
}

async fn pages(store: &MemoryStore, state: JobState, limit: u32) -> Vec<JobId> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let (ids, next) = page(store, state, limit, cursor).await;
        all.extend(ids);
        if next.is_none() {
            return all;
        }
        cursor = next;
    }
}

#[tokio::test]
async fn pages_of_every_state_show_each_job_once() {
    let (store, _) = store();
    submit_all(&store, (0..40).map(|_| job("a")).collect()).await;
    lease(&store, 10).await.unwrap();
    let mut later = job("b");
    later.delay_ms = 5_000;
    submit_all(
        &store,
        vec![later.clone(), {
            later.id = job("").id;
            later
        }],
    )
    .await;
    let ready = pages(&store, JobState::Ready, 100).await;
    store.act(Action::Cancel, ready[..11].to_vec()).await;
    for (state, count) in [
        (JobState::Scheduled, 2),
        (JobState::Ready, 19),
        (JobState::Running, 10),
        (JobState::Cancelled, 11),
    ] {
        for limit in [1, 3, 10, 11, 100] {
            let ids = pages(&store, state, limit).await;
            let distinct: HashSet<_> = ids.iter().collect();
            assert_eq!(
                (ids.len(), distinct.len()),
                (count, count),
                "{state:?} by {limit}"
            );
        }
    }
}

#[tokio::test]
async fn a_job_that_leaves_moves_no_other_from_the_next_page() {
    let (store, _) = store();
    submit_all(&store, (0..10).map(|_| job("a")).collect()).await;
    let all = pages(&store, JobState::Ready, 100).await;
    let (first, next) = page(&store, JobState::Ready, 4, None).await;
    assert_eq!(first, all[..4]);
    store
        .act(Action::Delete, vec![all[1].clone(), all[4].clone()])
        .await;
    let (second, _) = page(&store, JobState::Ready, 4, next).await;
    assert_eq!(second, all[5..9]);
}

#[tokio::test]
async fn a_token_of_another_kind_is_refused() {
    let (store, _) = store();
    submit_all(&store, vec![job("a")]).await;
    for cursor in ["", "7", "1.2", "x.0.0", "0.0.0190163d8694739b8e1cdbf4a7ee1b8e.0"] {
        for state in JobState::ALL {
            let request = ListRequest {
                queue: queue(),
                state,
                limit: 1,
                cursor: Some(cursor.to_owned()),
            };
            assert!(
                matches!(store.list(request).await, Err(StoreError::Invalid(_))),
                "{cursor:?}"
            );
        }
    }
}
