//! A worker that stands still longer than its leases, with statements at work in a database.

use std::time::Duration;

use tidegate_tests::{Cluster, PostgresOptions, Runs, Sandbox, eventually, sampler};

use super::{PATIENCE, all_succeeded};
use crate::producer::{new_job, try_batch};

const CAP: i64 = 6;
/// A ttl of 3 s: half of it is how long a session may stand still.
const POLICIES: &str = "[queues.pg]\ncosts = { pg-main = 1 }\ncap = 6\nretry_cap = 6\nlease_ttl = \"3s\"\n";
const AT_WORK: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT work(%'";
const HELD: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_inside_its_statements_records_nothing_and_no_session_is_above_the_cap() {
    frozen_past_its_leases("{\"ms\":1200}", AT_WORK).await;
}

/// What follows would begin when it goes on, before it is told that its leases are over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_between_two_statements_does_not_begin_the_second() {
    frozen_past_its_leases("{\"ms\":1200,\"pause_ms\":1000}", HELD).await;
}

/// Stands still when as many sessions as its cap are in the state that `until` counts.
async fn frozen_past_its_leases(payload: &str, until: &str) {
    const JOBS: u64 = 36;
    let sandbox = Sandbox::new();
    let mut cluster = Cluster::builder()
        .redis()
        .postgres(PostgresOptions::default(), 50)
        .policies(POLICIES)
        .workers(1, Runs::work(&[("pg", "postgres")]))
        .worker_args(&["--cut-off-ms", "1500"])
        .start(&sandbox)
        .await;
    let postgres = cluster.postgres.as_ref().expect("it was asked for");
    let (client, url) = (cluster.client(), postgres.url());
    let at_work = sampler::at_work(&url, "app");
    let slots = sampler::slots(&client, "pg");
    let jobs: Vec<_> = (0..JOBS).map(|_| new_job("pg", payload.to_owned())).collect();
    try_batch(cluster.direct_urls().remove(0), &jobs)
        .await
        .expect("acknowledged");
    eventually(PATIENCE, "the worker is at its cap", async || {
        (postgres.number(until).await == CAP).then_some(())
    })
    .await;
    cluster.workers[0].process.freeze();
    cluster.start_worker().await;
    // Its leases end, their ghosts with them, and all of their jobs run again elsewhere.
    let postgres = cluster.postgres.as_ref().expect("it was asked for");
    let again = "SELECT count(*) FROM (SELECT job FROM runs GROUP BY job HAVING count(*) > 1) AS again";
    eventually(PATIENCE, "the frozen worker's jobs run again", async || {
        (postgres.number(again).await >= 1).then_some(())
    })
    .await;
    cluster.workers[0].process.thaw();

    all_succeeded(&client, "pg", JOBS).await;
    let at_work = at_work.stop().await;
    assert_eq!(at_work.never_above(CAP).highest(), Some(CAP));
    assert_eq!(
        slots.stop().await.never_above(CAP as u64).highest(),
        Some(CAP as u64)
    );
    assert_eq!(
        postgres.number("SELECT count(DISTINCT job) FROM runs").await,
        JOBS as i64
    );
    assert!(
        postgres.number(again).await <= CAP,
        "only what the frozen worker held"
    );
    // Either its handlers spoke first and were refused, or the worker found its leases over and discarded what they said.
    let router = cluster.routers[0].metrics().await;
    let refused = sampler::metric(&router, "tidegate_stale_settles_total", "pg").unwrap_or(0.0);
    let log = cluster.workers[0].process.stdout();
    let discarded = log.lines().filter(|line| line.contains("stopping a job")).count();
    assert!(refused + discarded as f64 >= 1.0, "{log}");
    // It has survived, and works on.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.workers[0].process.exit_code(), None);
}
