//! A new version is rolled out under full load: nobody notices.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_tests::{Answer, App, Cluster, Runs, Sandbox, sampler};

use super::{PATIENCE, all_succeeded, is_long};
use crate::producer::submit_all;

const WORKERS: usize = 5;
const ROUTERS: usize = 2;
const SLOTS: u32 = 8;
const JOB: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_costs_no_attempt_and_runs_nothing_twice() {
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok().after(JOB));
    let mut cluster = Cluster::builder()
        .redis()
        .routers(ROUTERS)
        .workers(WORKERS, Runs::app(app.url(), &["email"]))
        .slots(SLOTS)
        .start(&sandbox)
        .await;
    let client = cluster.client();
    // More than can be done while everything is restarted, so that every slot is taken all the time.
    let jobs = if is_long() { 12_000 } else { 4_000 };
    let ids = submit_all(&cluster.direct_urls(), "email", jobs).await;
    app.wait_for(jobs / 20, PATIENCE).await;
    let slots = sampler::slots(&client, "email");

    for _ in 0..WORKERS {
        assert_eq!(cluster.roll_worker(0).await, 0, "a drained worker ends well");
    }
    for router in 0..ROUTERS {
        assert_eq!(cluster.roll_router(router).await, 0, "a drained router ends well");
    }
    let at_the_end = app.deliveries().len();
    let all = u64::from(SLOTS) * (WORKERS as u64 + 1); // the old one drains while the new one starts
    slots.stop().await.never_above(all);
    assert!(at_the_end < jobs, "the load ended before the restarts did");

    all_succeeded(&client, "email", jobs as u64).await;
    let mut runs: HashMap<String, (u32, u32)> = HashMap::new();
    for delivery in app.deliveries() {
        let run = runs.entry(delivery.job_id).or_default();
        *run = (run.0 + 1, run.1.max(delivery.attempt));
    }
    let other: Vec<_> = ids
        .iter()
        .map(|id| (id, runs.get(id).copied().unwrap_or_default()))
        .filter(|(_, run)| *run != (1, 1))
        .collect();
    assert!(
        other.is_empty(),
        "{} jobs did not run once, at the first attempt: (runs, highest attempt) {:?}",
        other.len(),
        &other[..other.len().min(5)]
    );
}
