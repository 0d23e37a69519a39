//! A server that is busy, loading, full, or without the connections or replicas that it needs.

use tidegate_protocol::domain::JobState;
use tidegate_store::{Action, ActionAnswer, OpenOptions, ReleaseCause, RenewAnswer, StoreError, open};
use tidegate_tests::{Redis, RedisOptions, Sandbox};
use tokio::net::TcpStream;

use super::{Life, PATIENCE, READS, all_but, answered, demand, life};
use crate::fixture::{Fixture, Worker, job, lease_of, ok, redis_server, retry};

fn is_busy(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy(_))
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Full(_))
}

fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}

/// What a router would say that starts now.
async fn refusal(redis: &Redis<'_>) -> String {
    let opened = open(&redis.url(), &OpenOptions::default()).await;
    opened.err().expect("it is refused").to_string()
}

#[tokio::test]
async fn a_long_script_makes_the_store_busy_until_it_is_killed() {
    let sandbox = Sandbox::new();
    let options = RedisOptions::default().with("busy-reply-threshold", "50");
    let redis = Redis::start(&sandbox, options).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    let looping = redis.command(&["EVAL", "while true do end", "0"]);
    let calls = async {
        answered(&redis, &["PING"], "-BUSY").await;
        demand(life.each(&f).await, &all_but(&[]), is_busy);
        let refusal = refusal(&redis).await;
        assert!(refusal.contains("busy"), "{refusal}");
        redis.must(&["SCRIPT", "KILL"]).await;
    };
    let (killed, ()) = tokio::join!(looping, calls);
    assert!(killed.unwrap().contains("killed"));
    life.goes_on(&f).await;
}

#[tokio::test]
async fn a_store_that_loads_is_busy_until_it_has_loaded() {
    let sandbox = Sandbox::new();
    // A snapshot that takes some seconds to load, with an ear for clients all along.
    let options = RedisOptions::default()
        .with("appendonly", "no")
        .with("rdbcompression", "no")
        .with("loading-process-events-interval-bytes", "1024")
        .with("key-load-delay", "20000");
    let redis = Redis::start(&sandbox, options).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    let filler = "for i = 1, 200 do redis.call('SET', 'filler' .. i, ('x'):rep(2000)) end";
    redis.must(&["EVAL", filler, "0"]).await;
    redis.must(&["SAVE"]).await;
    redis.kill9().await;
    redis.start_again();
    answered(&redis, &["PING"], "-LOADING").await;
    // The first calls find out that their connections are gone.
    life.each(&f).await;
    demand(life.each(&f).await, &all_but(&[]), is_busy);
    let refusal = refusal(&redis).await;
    assert!(refusal.contains("LOADING"), "{refusal}");
    redis.comes_back().await;
    life.goes_on(&f).await;
}

#[tokio::test]
async fn full_memory_stops_submits_and_nothing_else() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    let waiting = f.fill("fax", 3).await;
    redis.must(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    demand(life.each(&f).await, &["submit"], is_full);
    // What is there is worked off, all the way.
    let worker = Worker::new(6);
    let grants = f.lease("fax", &worker, 2).await.grants;
    let [done, failed] = [0, 1].map(|i| lease_of(&grants[i].job));
    assert!(matches!(f.renew(&done).await, Ok(RenewAnswer::Held { .. })));
    f.settle(&done, ok()).await;
    f.settle(&failed, retry()).await;
    f.cap("fax", 5, (1, 1), 0).await;
    let cancelled = f
        .store
        .act(Action::Cancel, vec![waiting[2].clone()])
        .await
        .remove(0);
    assert_eq!(cancelled, Ok(ActionAnswer::Done(Some(JobState::Cancelled))));
    f.release("fax", &worker, ReleaseCause::Bye).await;
    f.sweep("fax").await;
    let states = [&waiting[0], &waiting[1], &waiting[2]].map(|id| f.get(id));
    let states = futures_util::future::join_all(states).await;
    let states: Vec<_> = states.into_iter().map(|job| job.state).collect();
    assert_eq!(
        states,
        [JobState::Succeeded, JobState::Scheduled, JobState::Cancelled]
    );
    // A router that starts now can work off what is there, and a queue's name may be new to the store.
    let other = Fixture::redis_at(&redis.url(), 0).await;
    assert!(other.lease("sms", &Worker::new(5), 1).await.grants.is_empty());
    other.put("push", Default::default()).await;
    assert_eq!(other.store.queues().await.unwrap().len(), 4);
    assert!(
        f.submit(job("new", "{}"))
            .await
            .is_err_and(|error| is_full(&error))
    );
    other.store.close().await;
    redis.must(&["CONFIG", "SET", "maxmemory", "0"]).await;
    life.goes_on(&f).await;
}

/// Redis refuses *every* write then, so renewals and settlements wait, too: a worker keeps its outcomes and repeats them,
/// and stops a handler whose lease it could not renew in time.
#[tokio::test]
async fn a_disk_that_takes_no_snapshot_stops_every_write() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("save", "900 1")).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    // No snapshot can take the place of a directory.
    let in_the_way = redis.dir().join("dump.rdb");
    std::fs::create_dir(&in_the_way).unwrap();
    redis.must(&["BGSAVE"]).await;
    answered(&redis, &["INFO", "persistence"], "rdb_last_bgsave_status:err").await;
    demand(life.each(&f).await, &all_but(&READS), is_full);
    std::fs::remove_dir(&in_the_way).unwrap();
    redis.must(&["BGSAVE"]).await;
    answered(&redis, &["INFO", "persistence"], "rdb_last_bgsave_status:ok").await;
    life.goes_on(&f).await;
}

#[tokio::test]
async fn a_server_that_misses_its_replicas_is_unavailable() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut life = life(&f).await;
    redis.must(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    demand(life.each(&f).await, &all_but(&READS), is_unavailable);
    redis.must(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    life.goes_on(&f).await;
}

#[tokio::test]
async fn a_server_without_a_free_connection_says_so() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let life: Life = life(&f).await;
    redis.must(&["CONFIG", "SET", "maxclients", "12"]).await;
    let mut taken = Vec::new();
    let full = async || {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).await.ok()?;
        taken.push(stream);
        let answer = redis.command(&["PING"]).await;
        (answer.is_err() || answer.is_ok_and(|text| text.contains("max number"))).then_some(())
    };
    tidegate_tests::eventually(PATIENCE, "no connection is free", full).await;
    let refusal = refusal(&redis).await;
    assert!(refusal.contains("max number of clients"), "{refusal}");
    // Who has a connection is served.
    f.renew(&life.lease).await.unwrap();
    drop(taken);
    answered(&redis, &["PING"], "PONG").await;
    life.goes_on(&f).await;
}
