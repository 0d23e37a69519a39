//! What happens when much becomes due at once: how long a sweep keeps its caller, and how long a submit or settle waits
//! meanwhile.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tidegate_store::{JobStore, ManualClock, SweepReport, SweepRequest, memory::MemoryStore, sqlite};

use crate::{
    load::{finish, jobs, lease, prepare, queue},
    say, spread, timed,
};

const DUE: usize = 100_000;
const LOST: usize = 50_000;
const START_MS: u64 = 1_700_000_000_000;
const DELAY_MS: u64 = 5_000;
/// As routers ask.
const LIMIT: u32 = 1_000;

pub async fn measure(url: &str) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(START_MS));
    let store = open(url, dir.path(), clock.clone()).await;
    prepare(&store).await;

    for _ in 0..DUE / 1_000 {
        let later = |mut job: tidegate_protocol::domain::NewJob| {
            job.delay_ms = DELAY_MS;
            job
        };
        let answers = store.submit(jobs(1_000).into_iter().map(later).collect()).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    clock.advance(DELAY_MS);
    let promoted = work_off(&store, &format!("{url} 100,000 due")).await;
    assert_eq!(promoted as usize, DUE);

    let mut held = 0;
    while held < LOST {
        held += lease(&*store, 1_000).await.len();
    }
    clock.advance(60_000);
    let reclaimed = work_off(&store, &format!("{url} 50,000 leases lost")).await;
    assert!(reclaimed as usize >= LOST);
    store.close().await;
}

async fn open(url: &str, dir: &Path, clock: Arc<ManualClock>) -> Arc<dyn JobStore> {
    if url == "memory:" {
        return Arc::new(MemoryStore::with_clock(clock));
    }
    let options = sqlite::SqliteOptions { clock: Some(clock) };
    let path = dir.join("jobs.db");
    Arc::new(sqlite::SqliteStore::open(&path, options).await.unwrap())
}

/// Sweeps until there is nothing more, beside one caller that submits, leases and settles; how many items moved.
async fn work_off(store: &Arc<dyn JobStore>, what: &str) -> u32 {
    let done = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let mut rounds = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let (submit, _) = timed(store.submit(jobs(10))).await;
                let (settle, ()) = timed(finish(&store, 10)).await;
                rounds.push(submit.max(settle / 2.0));
            }
            rounds
        }
    });
    let request = SweepRequest {
        queue: queue(),
        reclaim_until_ms: Some(u64::MAX),
        hold_ms: 0,
        limit: LIMIT,
        seed: 7,
    };
    let (mut sweeps, mut moved, mut total) = (Vec::new(), 0, 0.0);
    loop {
        let (ms, report) = timed(store.sweep(vec![request.clone()])).await;
        let report: SweepReport = report.into_iter().next().unwrap().unwrap();
        sweeps.push(ms);
        total += ms;
        moved += report.promoted + report.reclaimed;
        if !report.more {
            break;
        }
    }
    done.store(true, Ordering::Relaxed);
    let others = beside.await.unwrap();
    say(&format!("{what}: calls"), sweeps.len());
    say(&format!("{what}: total ms"), format!("{total:.0}"));
    for (name, times) in [("sweep", sweeps), ("a call beside it", others)] {
        let (p50, max) = spread(times);
        say(
            &format!("{what}: {name} p50 / max ms"),
            format!("{p50:.2} / {max:.2}"),
        );
    }
    moved
}
