//! Several routers on one Redis are one: whatever is submitted at one wakes workers at the others, and one that dies costs
//! its workers a reconnect and its producers nothing.

use std::time::{Duration, Instant};

use tidegate_client::Client;
use tidegate_tests::{
    Answer, App, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc, eventually,
};
use tokio::task::JoinSet;

use crate::producer::queue_stats;

const PATIENCE: Duration = Duration::from_secs(60);
const CONNECTED: &str = "connected to a router";

async fn routers(sandbox: &Sandbox, redis: &Redis<'_>) -> [Router; 2] {
    let url = redis.url();
    let start = || Router::start(sandbox, &url, RouterOptions::default());
    [start().await, start().await]
}

/// The fallback poll, once a second, would find them too, half a second late on average. Jobs come one at a time, while the
/// one before may still be settled: then a wake may meet the router in the middle of asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_submitted_at_one_router_wakes_a_worker_at_another() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|_| Answer::ok());
    let [one, other] = routers(&sandbox, &redis).await;
    let urls = [other.grpc_url()];
    let _worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    let client = Client::connect([one.grpc_url()]).expect("an address");
    let mut waits = Vec::new();
    for n in 1..=60 {
        let sent = Instant::now();
        client.submit_raw("email", "{}").send().await.expect("taken");
        app.wait_for(n, PATIENCE).await;
        waits.push(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8))).await;
    }
    waits.sort();
    let (median, late) = (waits[30], waits[54]);
    assert!(
        median < Duration::from_millis(100) && late < Duration::from_millis(300),
        "half of the jobs took over {median:?}, a tenth over {late:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_costs_its_workers_one_reconnect_and_its_producers_nothing() {
    const JOBS: usize = 3_000;
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|_| Answer::ok());
    let [one, other] = routers(&sandbox, &redis).await;
    let urls = [one.grpc_url(), other.grpc_url()];
    let worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    let line = worker.process.wait_for_line(CONNECTED, PATIENCE).await;
    // The one that the worker is at.
    let (dying, staying) = match line.contains(&one.grpc_address()) {
        true => (one, other),
        false => (other, one),
    };
    let submitting = async {
        // Each its own client, so that some are at the router that dies.
        let clients: Vec<_> = (0..8)
            .map(|_| Client::connect(&urls).expect("addresses"))
            .collect();
        let mut submits = JoinSet::new();
        for n in 0..JOBS {
            let submit = clients[n % clients.len()].submit_raw("email", format!("{{\"n\":{n}}}"));
            submits.spawn(submit.send());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        submits.join_all().await
    };
    let killing = async {
        app.wait_for(JOBS / 6, PATIENCE).await;
        dying.process.kill9();
    };
    let (answers, ()) = tokio::join!(submitting, killing);
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert!(
        refused.is_empty(),
        "{} submits failed: {:?}",
        refused.len(),
        refused[0]
    );
    eventually(PATIENCE, "every job succeeds", || async {
        queue_stats(&staying.grpc_url(), "email")
            .await
            .filter(|queue| queue.succeeded_total >= JOBS as u64)
    })
    .await;
    let queue = queue_stats(&staying.grpc_url(), "email")
        .await
        .expect("it answers");
    assert_eq!(
        (queue.submitted_total, queue.succeeded_total),
        (JOBS as u64, JOBS as u64)
    );
    let output = worker.process.stdout() + &worker.process.stderr();
    assert_eq!(
        output.matches(CONNECTED).count(),
        2,
        "the start and one reconnect"
    );
}
