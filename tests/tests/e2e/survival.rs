//! Kill what you like: no acknowledged job is lost, and none is recorded twice.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Answer, App, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc, eventually,
    free_address,
};

use crate::producer::{queue_stats, submit_all};

const JOBS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// For a router that has to come back where it was.
fn staying_put() -> RouterOptions {
    RouterOptions {
        listen: Some(free_address()),
        ..RouterOptions::default()
    }
}

/// Waits until every job has succeeded, then checks that nothing was lost, left or counted twice.
async fn all_succeed(router: &str, app: &App, ids: &[String]) {
    eventually(PATIENCE, "every job succeeds", || async {
        queue_stats(router, "email")
            .await
            .filter(|queue| queue.succeeded_total >= ids.len() as u64)
    })
    .await;
    // Long enough for a job that would be run or recorded once more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queue = queue_stats(router, "email").await.expect("the router answers");
    let left = queue.ready + queue.scheduled + queue.running + queue.dead + queue.slots;
    assert_eq!(
        (queue.succeeded_total, queue.submitted_total, left),
        (ids.len() as u64, ids.len() as u64, 0)
    );
    let delivered: HashSet<String> = app
        .deliveries()
        .into_iter()
        .map(|delivery| delivery.job_id)
        .collect();
    let lost: Vec<_> = ids.iter().filter(|id| !delivered.contains(*id)).collect();
    assert!(
        lost.is_empty(),
        "{} acknowledged jobs never reached the app: {:?}",
        lost.len(),
        lost.first()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_survives_kill_9_of_worker_and_router() {
    let sandbox = Sandbox::new();
    let store = format!("sqlite:{}", sandbox.path().join("jobs.db").display());
    let app = App::start(|_| Answer::ok());
    let router = Router::start(&sandbox, &store, staying_put()).await;
    let urls = vec![router.grpc_url()];
    let options = || WorkerOptions {
        slots: Some(32),
        ..WorkerOptions::default()
    };
    let first = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;
    let _second = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;

    let submitting = submit_all(&urls, "email", JOBS);
    let killing = async {
        app.wait_for(JOBS / 10, PATIENCE).await;
        first.process.kill9();
        app.wait_for(JOBS / 5, PATIENCE).await;
        router.process.kill9();
        router.process.wait_exit(PATIENCE).await;
        let listen = Some(router.grpc_address());
        Router::start(
            &sandbox,
            &store,
            RouterOptions {
                listen,
                ..RouterOptions::default()
            },
        )
        .await
    };
    let (ids, router) = tokio::join!(submitting, killing);
    let _third = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;
    all_succeed(&router.grpc_url(), &app, &ids).await;
}

/// Two routers on one Redis, started with its append-only file: kill -9 of a worker, a router and Redis itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_two_routers_survives_kill_9_of_worker_router_and_redis() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|_| Answer::ok());
    let doomed = Router::start(&sandbox, &redis.url(), staying_put()).await;
    let staying = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let urls = vec![doomed.grpc_url(), staying.grpc_url()];
    let options = || WorkerOptions {
        slots: Some(32),
        ..WorkerOptions::default()
    };
    let first = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;
    let _second = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;

    let submitting = submit_all(&urls, "email", JOBS);
    let killing = async {
        app.wait_for(JOBS / 10, PATIENCE).await;
        first.process.kill9();
        app.wait_for(JOBS / 5, PATIENCE).await;
        doomed.process.kill9();
        doomed.process.wait_exit(PATIENCE).await;
        let listen = Some(doomed.grpc_address());
        let heir = RouterOptions {
            listen,
            ..RouterOptions::default()
        };
        let heir = Router::start(&sandbox, &redis.url(), heir).await;
        app.wait_for(JOBS * 2 / 5, PATIENCE).await;
        redis.kill9().await;
        redis.restart().await;
        heir
    };
    let (ids, _heir) = tokio::join!(submitting, killing);
    let _third = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], options()).await;
    all_succeed(&staying.grpc_url(), &app, &ids).await;
}

/// With its defaults, a well-known queue takes 60 s here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_killed_worker_run_again_within_five_seconds() {
    let sandbox = Sandbox::new();
    again_within_five_seconds(&sandbox, "memory:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_killed_worker_run_again_within_five_seconds_on_redis() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    again_within_five_seconds(&sandbox, &redis.url()).await;
}

/// Fifty jobs in flight when it dies.
async fn again_within_five_seconds(sandbox: &Sandbox, store: &str) {
    const IN_FLIGHT: usize = 50;
    let app = App::start(|delivery| {
        if delivery.number < IN_FLIGHT {
            Answer::ok().after(Duration::from_secs(60))
        } else {
            Answer::ok()
        }
    });
    let router = Router::start(sandbox, store, RouterOptions::default()).await;
    let urls = vec![router.grpc_url()];
    let doomed = WorkerProc::start(sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    let ids = submit_all(&urls, "email", IN_FLIGHT).await;
    app.wait_for(IN_FLIGHT, PATIENCE).await;
    let _heir = WorkerProc::start(sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    doomed.process.kill9();
    let killed = Instant::now();
    app.wait_for(2 * IN_FLIGHT, PATIENCE).await;
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "took {:?}",
        killed.elapsed()
    );
    all_succeed(&router.grpc_url(), &app, &ids).await;
    assert_eq!(app.deliveries().len(), 2 * IN_FLIGHT);
}
