//! The primary gives way to its replica, while the store's connections still lead to the old one.

use tidegate_protocol::domain::{JobState, SettleResult};
use tidegate_store::{StoreError, StoreEvent};
use tidegate_tests::{Proxy, Redis, Sandbox, eventually};
use tokio::sync::broadcast::Receiver;

use super::{Life, PATIENCE, answered, demand, life};
use crate::fixture::{Fixture, job, ok, redis_server};

/// Makes `replica` one of `primary`, and waits until it has everything.
pub(super) async fn follow(replica: &Redis<'_>, primary: &Redis<'_>) {
    let port = primary.port().to_string();
    replica.must(&["REPLICAOF", "127.0.0.1", &port]).await;
    answered(replica, &["INFO", "replication"], "master_link_status:up").await;
    // Acknowledges once a second; a new one is counted when it has.
    answered(primary, &["INFO", "replication"], "state=online").await;
}

async fn heard(events: &mut Receiver<StoreEvent>, awaited: StoreEvent) {
    eventually(PATIENCE, format!("{awaited:?}"), async || {
        (events.recv().await.ok()? == awaited).then_some(())
    })
    .await;
}

async fn subscribers(redis: &Redis<'_>) -> usize {
    let clients = redis.must(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    clients.lines().filter(|line| line.contains("addr=")).count()
}

/// The store over a proxy at its primary, and after the failover: the name leads to the new one.
async fn failed_over<'a>(
    sandbox: &'a Sandbox,
    acks: u32,
) -> (Redis<'a>, Redis<'a>, Proxy, Fixture, Life, Receiver<StoreEvent>) {
    let (old, new) = tokio::join!(redis_server(sandbox), redis_server(sandbox));
    let proxy = Proxy::start(old.port()).await;
    follow(&new, &old).await;
    let f = Fixture::redis_at(&proxy.redis_url(), acks).await;
    let mut events = f.store.subscribe();
    heard(&mut events, StoreEvent::Resync).await;
    let mut life = life(&f).await;
    // Each connection has been used.
    demand(life.each(&f).await, &[], |_| false);
    old.must(&["WAIT", "1", "5000"]).await;
    new.must(&["REPLICAOF", "NO", "ONE"]).await;
    proxy.lead_to(new.port());
    follow(&old, &new).await;
    (old, new, proxy, f, life, events)
}

#[tokio::test]
async fn one_refusal_of_a_demoted_primary_moves_every_connection() {
    let sandbox = Sandbox::new();
    let (old, new, _proxy, f, life, mut events) = failed_over(&sandbox, 0).await;
    assert_eq!(subscribers(&old).await, 1);
    let refused = f.submit(job("email", "{}")).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");

    // Also those that have not met it: the next call of each kind is the new primary's.
    heard(&mut events, StoreEvent::Resync).await;
    assert_eq!((subscribers(&old).await, subscribers(&new).await), (0, 1));
    life.goes_on(&f).await;
}

/// Only the holder's word is awaited: it meets the refusal, and its repeat is recorded at the new primary.
#[tokio::test]
async fn a_settlement_that_meets_a_demoted_primary_is_repeated_at_the_new_one() {
    let sandbox = Sandbox::new();
    let (_old, _new, _proxy, f, life, _events) = failed_over(&sandbox, 0).await;
    let refused = f.try_settle(&life.lease, ok()).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    let recorded = Ok(SettleResult::Recorded(JobState::Succeeded));
    assert_eq!(f.try_settle(&life.lease, ok()).await, recorded);
    for id in &life.ids {
        f.get(id).await;
    }
    f.store.close().await;
}
