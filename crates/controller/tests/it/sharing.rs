//! The loop over real streams: budgets, targets, and what happens when somebody leaves.

use std::sync::{Arc, Mutex};

use super::harness::{POLICIES, Router, Server, Store, Worker, eventually};

fn store() -> Arc<Mutex<Store>> {
    Arc::default()
}

/// Jobs fill their caps at once and end one by one.
fn work(store: &Mutex<Store>) {
    let mut store = store.lock().unwrap();
    for queue in store.queues.values_mut() {
        queue.ready = 500;
        let cap = u64::from(queue.cap.unwrap_or(0));
        queue.running = if queue.running > cap {
            queue.running - 1
        } else {
            cap
        };
    }
}

#[tokio::test]
async fn two_queues_share_a_resource_and_never_exceed_it() {
    let server = Server::start(POLICIES).await;
    let router = Router::start(&server, store()).await;
    let worker = Worker::start(&server, &["a"], 64).await;
    eventually("a alone takes all but the other's floor", async || {
        work(&router.store);
        router.cap("a") == 34
    })
    .await;
    let other = Worker::start(&server, &["b"], 64).await;
    eventually("both have their share", async || {
        work(&router.store);
        (router.cap("a"), router.cap("b")) == (18, 17)
    })
    .await;
    eventually("workers are told", async || {
        (worker.target("a"), other.target("b")) == (18, 17)
    })
    .await;
    assert!(router.store.lock().unwrap().held_max <= 35);
    let fleet = server.fleet().await;
    assert!(fleet.leader && fleet.nodes.len() == 3);
    assert_eq!((fleet.resources[0].budget, fleet.resources[0].capacity), (35, 50));
    assert_eq!(fleet.queues.len(), 2);
    assert_eq!(fleet.decisions.len(), 2);
    let metrics = server.metrics.render();
    for line in [
        "tidegate_concurrency_cap{queue=\"a\"} 18",
        "tidegate_concurrency_target{queue=\"b\"} 17",
        "tidegate_resource_budget{resource=\"pg\"} 35",
        "tidegate_workers_connected 2",
        "tidegate_control_decisions_total{",
        "tidegate_control_last_tick_timestamp_seconds",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn another_router_takes_over_and_adopts() {
    let server = Server::start(POLICIES).await;
    let store = store();
    let first = Router::start(&server, store.clone()).await;
    let _worker = Worker::start(&server, &["a", "b"], 64).await;
    eventually("caps are set", async || {
        work(&store);
        first.cap("a") + first.cap("b") == 35
    })
    .await;
    let second = Router::start(&server, store.clone()).await;
    first.kill();
    eventually("the second writes", async || {
        work(&store);
        let orders = second.orders.lock().unwrap();
        let adopts = |order: &_| match order {
            tidegate_protocol::v1::attach_response::Message::Caps(caps) => {
                caps.orders.iter().all(|order| order.cap.is_none())
            }
            _ => false,
        };
        orders.iter().any(adopts) && orders.len() > 6
    })
    .await;
    assert_eq!(first.cap("a") + first.cap("b"), 35);
    assert!(store.lock().unwrap().held_max <= 35);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_leaves_gives_its_share_to_the_others() {
    let server = Server::start(POLICIES).await;
    let router = Router::start(&server, store()).await;
    let (one, two) = (
        Worker::start(&server, &["a"], 20).await,
        Worker::start(&server, &["a"], 20).await,
    );
    eventually("divided", async || {
        work(&router.store);
        one.target("a") == 17 && two.target("a") == 17
    })
    .await;
    one.kill();
    eventually("the other has all its slots allow", async || {
        work(&router.store);
        two.target("a") == 20
    })
    .await;
    server.stop().await.unwrap();
}
