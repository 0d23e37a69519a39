//! What a Redis in trouble costs: errors that say what is wrong, and no acknowledged job.

use std::{io::Write, path::Path, time::Duration};

use tidegate_tests::{
    Answer, App, Proxy, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc,
    eventually, http_get,
};

use crate::producer::{new_job, queue_stats, submit_all, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);

/// A few pulses of a router, on a busy machine.
const NOTICE: Duration = Duration::from_secs(15);

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

    let refused = try_batch(urls[0].clone(), &[new_job("email", "{}".to_owned())]).await;
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

async fn all_ready(router: &Router) {
    eventually(PATIENCE, "the router is ready", async || {
        (http_get(&router.metrics_url(), "/readyz").await.0 == 200).then_some(())
    })
    .await;
}

/// Waits until a submit (to a queue that nothing else is about) is refused for that reason, and the router says that it is not ready and why.
async fn refused(router: &Router, reason: &str, not_ready: &str) {
    eventually(NOTICE, format!("submits are refused as {reason}"), async || {
        let answer = try_batch(router.grpc_url(), &[new_job("probe", "{}".to_owned())]).await;
        answer.err().filter(|error| error.contains(reason)).map(drop)
    })
    .await;
    eventually(NOTICE, "the router is not ready", async || {
        let (status, text) = http_get(&router.metrics_url(), "/readyz").await;
        (status == 503 && text.contains(not_ready)).then_some(())
    })
    .await;
}

const REWOUND: (&str, &str) = ("STORE_REWOUND", "older than it was");

fn one_slot() -> WorkerOptions {
    WorkerOptions {
        slots: Some(1),
        ..WorkerOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_and_workers_follow_a_failover() {
    let sandbox = Sandbox::new();
    let options = RedisOptions::default;
    let (old, new) = tokio::join!(
        Redis::start(&sandbox, options()),
        Redis::start(&sandbox, options())
    );
    let proxy = Proxy::start(old.port()).await;
    new.must(&["REPLICAOF", "127.0.0.1", &old.port().to_string()])
        .await;
    eventually(PATIENCE, "the replica has caught up", async || {
        let info = new.must(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let router = Router::start(&sandbox, &proxy.redis_url(), RouterOptions::default()).await;
    let urls = vec![router.grpc_url()];
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(20)));
    let _worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await;
    submit_all(&urls, "email", JOBS).await;

    // As a careful failover goes: nothing is written any more, the replica has all of it, the name moves.
    old.must(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    old.must(&["WAIT", "1", "5000"]).await;
    new.must(&["REPLICAOF", "NO", "ONE"]).await;
    proxy.lead_to(new.port());
    old.must(&["REPLICAOF", "127.0.0.1", &new.port().to_string()])
        .await;
    old.must(&["CLIENT", "UNPAUSE"]).await;
    submit_all(&urls, "email", JOBS).await;
    all_done(&urls[0], 2 * JOBS).await;
    all_ready(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_is_noticed_and_takes_nothing_until_a_router_is_started_on_it() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    submit_all(&[router.grpc_url()], "email", 3).await;
    all_ready(&router).await;
    redis.must(&["FLUSHALL"]).await;
    refused(&router, REWOUND.0, REWOUND.1).await;

    // Whoever starts a router on it accepts it as it is.
    let next = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    submit_all(&[next.grpc_url()], "email", 1).await;
    refused(&router, REWOUND.0, REWOUND.1).await;
}

/// A copy of the append-only file is put back under the running router, with a watermark of a minute before: what a
/// backup of a minute before would hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_is_noticed_and_only_what_runs_is_finished() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("appendfsync", "always")).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let urls = vec![router.grpc_url()];
    // Long enough for the restart and the notice; renewed meanwhile.
    let app = App::start(|_| Answer::ok().after(Duration::from_secs(6)));
    let _worker = WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], one_slot()).await;
    submit_all(&urls, "email", 3).await;
    app.wait_for(1, PATIENCE).await;

    let files = redis.dir().join("appendonlydir");
    let backup = sandbox.path().join("backup");
    copy_all(&files, &backup);
    age(
        &backup,
        &redis.must(&["HGET", "{tg}:store", "watermark_ms"]).await,
    );
    submit_all(&urls, "email", 1).await;
    redis.shutdown().await;
    std::fs::remove_dir_all(&files).unwrap();
    copy_all(&backup, &files);
    redis.restart().await;

    refused(&router, REWOUND.0, REWOUND.1).await;
    // The holder's word counts, and no other job is given to it.
    let finished = eventually(PATIENCE, "the running job is settled", async || {
        let queue = queue_stats(&urls[0], "email").await?;
        (queue.succeeded_total == 1).then_some(queue)
    })
    .await;
    assert_eq!((finished.ready, finished.slots), (2, 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(app.deliveries().len(), 1);
    refused(&router, REWOUND.0, REWOUND.1).await;
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Appends to the copied file what sets the watermark a minute back.
fn age(backup: &Path, watermark_ms: &str) {
    let before = (watermark_ms.parse::<u64>().unwrap() - 60_000).to_string();
    let words = ["HSET", "{tg}:store", "watermark_ms", &before];
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let files = std::fs::read_dir(backup).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let newest = paths
        .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .max();
    let file = std::fs::OpenOptions::new().append(true).open(newest.unwrap());
    file.unwrap().write_all(command.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_a_newer_version_took_over_stops_this_one() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    all_ready(&router).await;
    redis.must(&["HSET", "{tg}:store", "schema", "99"]).await;
    eventually(NOTICE, "the router is not ready", async || {
        (http_get(&router.metrics_url(), "/readyz").await.0 == 503).then_some(())
    })
    .await;
}
