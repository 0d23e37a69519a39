//! A cap holds at every moment, whatever workers offer, while it changes and while workers die.

use std::time::{Duration, Instant};

use tidegate_tests::{
    Answer, App, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc, free_address,
};

use crate::producer::{queue_stats, submit_all};

fn capped(cap: u32) -> RouterOptions {
    let policies = format!("[queues.email]\ncosts = {{ pg-main = 1 }}\ncap = {cap}\n");
    RouterOptions {
        policies: Some(policies),
        ..RouterOptions::default()
    }
}

/// Looks at the queue each 100 ms; answers the most slots seen, after checking each sample against the cap.
async fn highest_sample(router: &str, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let (mut cap_before, mut slots_before, mut highest) = (0, 0, 0);
    while Instant::now() < end {
        if let Some(queue) = queue_stats(router, "email").await {
            let cap = u64::from(queue.effective_cap.expect("a queue that costs has a cap"));
            // A lowered cap drains; it never admits. Until it was lowered, jobs were admitted up to the one before.
            let drains_from = if cap < cap_before {
                slots_before.max(cap_before)
            } else {
                slots_before
            };
            assert!(
                queue.slots <= cap.max(drains_from),
                "{} slots under a cap of {cap}, {slots_before} before under {cap_before}",
                queue.slots
            );
            (cap_before, slots_before) = (cap, queue.slots);
            highest = highest.max(queue.slots);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    highest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sample_is_above_the_cap_while_it_changes_and_workers_die() {
    let sandbox = Sandbox::new();
    let store = format!("sqlite:{}", sandbox.path().join("jobs.db").display());
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(40)));
    let put = RouterOptions {
        listen: Some(free_address()),
        ..capped(4)
    };
    let router = Router::start(&sandbox, &store, put).await;
    let listen = router.grpc_address();
    let urls = vec![router.grpc_url()];
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers
            .push(WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default()).await);
    }
    submit_all(&urls, "email", 2_000).await;

    let sampling = highest_sample(&urls[0], Duration::from_secs(8));
    let changing = async {
        let mut router = router;
        for (round, cap) in [9, 2, 6].into_iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            // A router that starts writes its file's caps into the store; what runs at the workers goes on meanwhile.
            router.process.kill9();
            router.process.wait_exit(Duration::from_secs(5)).await;
            router = Router::start(
                &sandbox,
                &store,
                RouterOptions {
                    listen: Some(listen.clone()),
                    ..capped(cap)
                },
            )
            .await;
            if round < 2 {
                workers[round].process.kill9();
                let next =
                    WorkerProc::start(&sandbox, &urls, &app.url(), &["email"], WorkerOptions::default())
                        .await;
                workers.push(next);
            }
        }
        router
    };
    let (highest, _router) = tokio::join!(sampling, changing);
    assert!(highest >= 4, "the cap was never used: {highest}");
    assert!(
        app.max_in_flight() <= 9 + 4,
        "{} in flight at the app",
        app.max_in_flight()
    );
}

/// Two routers grant from one Redis; a third one comes and goes, and each time brings another cap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sample_is_above_the_cap_on_redis_with_several_routers() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(40)));
    let first = Router::start(&sandbox, &redis.url(), capped(4)).await;
    let second = Router::start(&sandbox, &redis.url(), capped(4)).await;
    let urls = vec![first.grpc_url(), second.grpc_url()];
    let mut workers = Vec::new();
    for i in 0..4 {
        let url = &urls[i % 2..=i % 2];
        workers
            .push(WorkerProc::start(&sandbox, url, &app.url(), &["email"], WorkerOptions::default()).await);
    }
    submit_all(&urls, "email", 2_000).await;

    let changing = async {
        for (round, cap) in [9, 2, 6].into_iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let brief = Router::start(&sandbox, &redis.url(), capped(cap)).await;
            brief.process.kill9();
            if round < 2 {
                workers[round].process.kill9();
                let url = &urls[round..=round];
                workers.push(
                    WorkerProc::start(&sandbox, url, &app.url(), &["email"], WorkerOptions::default()).await,
                );
            }
        }
    };
    let (highest, ()) = tokio::join!(highest_sample(&urls[1], Duration::from_secs(8)), changing);
    assert!(highest > 4, "a raised cap was never used: {highest}");
    // What a killed worker left running at the app is still counted as slots, so both together stay bounded.
    assert!(
        app.max_in_flight() <= 9 + 4,
        "{} in flight at the app",
        app.max_in_flight()
    );
}
