//! What is stored is not what this version writes, or not what it wrote; and what is large.

use tidegate_protocol::domain::{JobState, Policy, SettleResult, SubmitOutcome};
use tidegate_store::{ITEMS_PER_CALL_MAX, OpenError, OpenOptions, StoreError, open};
use tidegate_tests::{Redis, RedisOptions, Sandbox};

use super::life;
use crate::fixture::{Fixture, Worker, job, lease_of, ok, redis_server};

const STORE: &str = "{tg}:store";

/// Why a router that starts now does not use this Redis.
async fn unsuitable(redis: &Redis<'_>) -> String {
    let opened = open(&redis.url(), &OpenOptions::default()).await;
    match opened.err() {
        Some(OpenError::Unsuitable(text)) => text,
        other => panic!("it was not refused as unsuitable: {other:?}"),
    }
}

/// The library that the server keeps counts room in advance: what it has not seen itself must not be taken for room, be it of
/// another database or of another version of the library.
#[tokio::test]
async fn room_that_was_counted_is_not_spent_on_what_others_have_filled() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let one = Fixture::redis_at(&redis.url(), 0).await;
    let other = Fixture::redis_at(&redis.url().replace("/0", "/1"), 0).await;
    let policy = Policy {
        max_depth: 3,
        ..Policy::default()
    };
    one.put("email", policy.clone()).await;
    other.put("email", policy).await;
    other.fill("email", 3).await;
    one.fill("email", 1).await;
    let full = Err(StoreError::QueueFull { depth: 3, max: 3 });
    assert_eq!(other.submit(job("email", "a fourth")).await, full);
    assert!(one.submit(job("email", "a second")).await.is_ok());
}

#[tokio::test]
async fn a_server_that_forgets_its_functions_is_given_them_again() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    let forget = async || redis.must(&["FUNCTION", "FLUSH"]).await;
    forget().await;
    life.submit(&f).await.unwrap();
    forget().await;
    f.renew(&life.lease).await.unwrap();
    forget().await;
    f.sweep("email").await;
    forget().await;
    let granted = f.lease("email", &Worker::new(2), 1).await.grants.remove(0);
    forget().await;
    let recorded = SettleResult::Recorded(JobState::Succeeded);
    assert_eq!(f.settle(&lease_of(&granted.job), ok()).await, recorded);
    forget().await;
    life.ids.retain(|id| *id != granted.job.id);
    assert_eq!(f.settle(&life.lease, ok()).await, recorded);
    assert_eq!(f.stats("email").await.ready, 2);
    f.store.close().await;
}

#[tokio::test]
async fn a_store_of_another_version_is_refused_and_left_as_it_is() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    f.store.pulse().await.unwrap();
    let corrupt = async || match f.store.pulse().await {
        Err(StoreError::Corrupt(text)) => text,
        other => panic!("the pulse answered {other:?}"),
    };

    redis.must(&["HSET", STORE, "schema", "99"]).await;
    for text in [unsuitable(&redis).await, corrupt().await] {
        assert!(
            text.contains("newer Tidegate: use that version") && text.contains("schema 99"),
            "{text}"
        );
    }
    redis.must(&["HDEL", STORE, "schema"]).await;
    for text in [unsuitable(&redis).await, corrupt().await] {
        assert!(
            text.contains("older Tidegate") && text.contains("or use another database"),
            "{text}"
        );
    }
    redis.must(&["HSET", STORE, "schema", "2"]).await;
    f.store.pulse().await.unwrap();
    f.store.close().await;
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let sandbox = Sandbox::new();
    let options = RedisOptions::default().with("maxmemory-policy", "allkeys-lru");
    let redis = Redis::start(&sandbox, options).await;
    let text = unsuitable(&redis).await;
    assert!(text.contains("set maxmemory-policy noeviction"), "{text}");

    // One that begins to, under a running router, is noticed by the next pulse.
    let policy = async |policy: &str| redis.must(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
    policy("noeviction").await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    f.store.pulse().await.unwrap();
    policy("allkeys-random").await;
    let answer = f.store.pulse().await;
    assert!(
        matches!(&answer, Err(StoreError::Unavailable(text)) if text.contains("allkeys-random")),
        "{answer:?}"
    );
    policy("noeviction").await;
    f.store.pulse().await.unwrap();
    f.store.close().await;
}

#[tokio::test]
async fn lists_of_any_length_and_the_longest_keys_are_worked_off() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let n = 2 * ITEMS_PER_CALL_MAX + 1;
    let jobs: Vec<_> = (0..n)
        .map(|i| {
            let mut new = job("email", "{}");
            new.idempotency_key = Some(format!("{i:0>255}"));
            new
        })
        .collect();
    for outcome in [SubmitOutcome::Created, SubmitOutcome::Duplicate] {
        let answers = f.store.submit(jobs.clone()).await;
        assert_eq!(answers.len(), n);
        for (answer, job) in answers.into_iter().zip(&jobs) {
            let answer = answer.unwrap();
            assert_eq!((answer.outcome, &answer.id), (outcome, &job.id));
        }
    }
    // A lease is one call: what it does not grant, the next one does.
    let worker = Worker::new(1);
    let mut leases = Vec::new();
    while leases.len() < n {
        let grants = f.lease("email", &worker, n as u32).await.grants;
        assert!(!grants.is_empty() && grants.len() <= ITEMS_PER_CALL_MAX);
        leases.extend(grants.iter().map(|grant| lease_of(&grant.job)));
    }
    let renewed = f.store.renew(leases.clone()).await;
    assert!(renewed.len() == n && renewed.iter().all(Result::is_ok));
    for lease in &leases[..3] {
        f.settle(lease, ok()).await;
    }
    assert_eq!(f.stats("email").await.slots, n as u64 - 3);
    f.store.close().await;
}
