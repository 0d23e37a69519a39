//! Routers and workers that go away, for good or for a while.

use std::time::{Duration, Instant};

use tidegate_tests::{Answer, App, Cluster, End, Process, Runs, Sandbox, eventually};

use super::{PATIENCE, all_succeeded, is_long, job_when};
use crate::producer::submit_all;

/// Jobs end while no router is there: their outcomes wait, and nothing is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_router_gone_for_a_while_loses_no_finished_jobs_outcome() {
    const JOBS: usize = 32;
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok().after(Duration::from_secs(3)));
    let mut cluster = Cluster::builder()
        .redis()
        .routers(2)
        .workers(2, Runs::app(app.url(), &["email"]))
        .start(&sandbox)
        .await;
    let client = cluster.client();
    submit_all(&cluster.direct_urls(), "email", JOBS).await;
    app.wait_for(JOBS, PATIENCE).await;
    for router in &cluster.routers {
        router.process.kill9();
        router.process.wait_exit(PATIENCE).await;
    }
    let gone = Instant::now();
    app.wait_for_answers(JOBS, PATIENCE).await;
    // Leases last 10 s.
    let outage = Duration::from_secs(if is_long() { 30 } else { 11 });
    tokio::time::sleep(outage.saturating_sub(gone.elapsed())).await;
    for router in 0..2 {
        cluster.restart_router(router).await;
    }
    all_succeeded(&client, "email", JOBS as u64).await;
    let deliveries = app.deliveries();
    assert_eq!(deliveries.len(), JOBS, "nothing that had ended ran again");
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery.end == End::Answered(200))
    );
}

/// A job that kills every worker that runs it: three processes, and then it is dead, with its history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_workers_is_dead_after_three_of_them() {
    let sandbox = Sandbox::new();
    let mut cluster = Cluster::builder()
        .workers(1, Runs::work(&[("poison", "abort"), ("good", "noop")]))
        .start(&sandbox)
        .await;
    let client = cluster.client();
    let id = submit_all(&cluster.direct_urls(), "poison", 1).await.remove(0);
    let mut killed = Vec::new();
    for losses in 1..=3 {
        let worker = cluster.workers.pop().expect("there is one");
        worker.process.wait_exit(PATIENCE).await;
        let said = worker.process.wait_for_line("worker starts", PATIENCE).await;
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        killed.push(said["incarnation"].as_str().expect("who it is").to_owned());
        let job = job_when(&client, &id, "is lost once more", |job| job.losses == losses).await;
        assert_eq!(
            (job.attempts, job.state.is_terminal()),
            (0, losses == 3),
            "{job:?}"
        );
        cluster.start_worker().await;
    }
    let good = submit_all(&cluster.direct_urls(), "good", 1).await.remove(0);
    job_when(&client, &good, "succeeds", |job| job.state.is_terminal()).await;

    let router = &cluster.direct_urls()[0];
    let shown = Process::tidegate(
        &sandbox,
        ["job", "get", &id, "-o", "json", "--endpoint", router],
        &[],
    );
    assert_eq!(shown.wait_exit(PATIENCE).await, 0, "{}", shown.tail());
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout()).expect("JSON");
    assert_eq!(
        (
            &shown["state"],
            &shown["reason"],
            &shown["losses"],
            &shown["attempts"]
        ),
        (&"dead".into(), &"LEASE_LOST".into(), &3.into(), &0.into()),
        "{shown}"
    );
    let lost = shown["lost"].as_array().expect("its history");
    let blamed: Vec<_> = lost
        .iter()
        .filter_map(|loss| loss["incarnation"].as_str())
        .collect();
    assert_eq!(blamed, killed, "the processes that it took down, in turn");
    let when: Vec<_> = lost.iter().filter_map(|loss| loss["at_ms"].as_u64()).collect();
    assert!(when.len() == 3 && when.is_sorted() && when[0] > 0, "{when:?}");
    let error = shown["error"].as_str().unwrap_or_default();
    assert!(error.contains("the worker process died"), "{error}");
}

/// The first SIGTERM waits for what runs; the second one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_a_worker_at_once() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::builder()
        .workers(1, Runs::work(&[("long", "never")]))
        .start(&sandbox)
        .await;
    let client = cluster.client();
    let id = submit_all(&cluster.direct_urls(), "long", 1).await.remove(0);
    job_when(&client, &id, "runs", |job| job.state.as_str() == "running").await;
    let worker = &cluster.workers[0].process;
    worker.sigterm();
    worker.wait_for_line("worker drains", PATIENCE).await;
    let before = worker.exit_code();
    worker.sigterm();
    let asked_twice = Instant::now();
    assert_eq!((before, worker.wait_exit(PATIENCE).await), (None, 128 + 15));
    assert!(asked_twice.elapsed() < Duration::from_secs(5));
    // Its stream is gone, so the job is back before its lease would have ended.
    eventually(Duration::from_secs(8), "the job waits again", async || {
        let queue = client.get_queue("long").await.ok()?;
        (queue.ready == 1).then_some(())
    })
    .await;
}
