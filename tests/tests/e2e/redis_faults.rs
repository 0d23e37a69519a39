//! What a Redis in trouble costs: errors that say what is wrong, and no acknowledged job.

use std::time::Duration;

use tidegate_store::{StoreError, open};
use tidegate_tests::{
    Answer, App, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc, eventually,
};

use crate::producer::{new_job, queue_stats, submit_all};

const PATIENCE: Duration = Duration::from_secs(60);

/// Jobs enough to fill what little memory the test leaves.
const JOBS: usize = 200;

async fn all_done(router: &str, jobs: usize) {
    eventually(PATIENCE, "every job succeeds", || async {
        queue_stats(router, "email")
            .await
            .filter(|queue| queue.succeeded_total == jobs as u64)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_submits_and_lets_what_is_there_be_finished() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let urls = vec![router.grpc_url()];
    submit_all(&urls, "email", JOBS).await;
    redis.must(&["CONFIG", "SET", "maxmemory", "1mb"]).await;

    let refused = crate::producer::try_batch(urls[0].clone(), &[new_job("email", "{}".to_owned())]).await;
    let error = refused.expect_err("a full store takes no job");
    assert!(error.contains("STORE_FULL"), "{error}");

    // Lease, renew, settle and sweep need memory, too; they are allowed to take it.
    let app = App::start(|_| Answer::ok());
    let _worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    all_done(&urls[0], JOBS).await;

    redis.must(&["CONFIG", "SET", "maxmemory", "0"]).await;
    submit_all(&urls, "email", 1).await;
    all_done(&urls[0], JOBS + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_its_functions_or_stalls_costs_no_job() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let urls = vec![router.grpc_url()];
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(5)));
    let _worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    let disturbing = async {
        redis.must(&["FUNCTION", "FLUSH"]).await;
        app.wait_for(JOBS, PATIENCE).await;
        // Longer than a call may take: outcomes become unknown, and are asked for again.
        redis.must(&["DEBUG", "SLEEP", "3"]).await;
        redis.must(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        redis.must(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    };
    let (ids, ()) = tokio::join!(submit_all(&urls, "email", 10 * JOBS), disturbing);
    all_done(&urls[0], ids.len()).await;
}

#[tokio::test]
async fn a_replica_and_one_that_lost_its_replicas_take_no_writes() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let store = open(&redis.url(), &Default::default()).await.unwrap();
    store.pulse().await.unwrap();
    redis.must(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = store.pulse().await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    redis.must(&["REPLICAOF", "NO", "ONE"]).await;
    store.pulse().await.unwrap();
    redis.must(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let refused = store.pulse().await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    redis.must(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    store.pulse().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_store_that_another_version_wrote_is_named_as_such() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let store = open(&redis.url(), &Default::default()).await.unwrap();
    let id: tidegate_protocol::domain::JobId = "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".parse().unwrap();
    let job = tidegate_protocol::domain::NewJob::new(id.clone(), "{}");
    store.submit(vec![job]).await.remove(0).unwrap();
    // The first byte of a job is its format.
    let newer = "local jobs = '{tg:email:0}:jobs' local id = redis.call('HKEYS', jobs)[1] \
        local blob = redis.call('HGET', jobs, id) return redis.call('HSET', jobs, id, '\\9' .. blob:sub(2))";
    redis.must(&["EVAL", newer, "0"]).await;
    let answer = store.get(vec![id]).await.remove(0);
    assert!(
        matches!(&answer, Err(StoreError::Corrupt(text)) if text.contains("unknown format 9")),
        "{answer:?}"
    );
    store.close().await;
}
