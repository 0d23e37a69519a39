//! What a controller decides reaches the store, and what the store holds reaches the controller.

use std::sync::Arc;

use tidegate_protocol::v1::{
    self, attach_request::Message as Up, attach_response::Message as Down, command::Command,
};
use tidegate_router::RouterConfig;
use tidegate_store::JobStore;
use tokio::time::timeout;

use super::{
    controller::{Controller, version},
    harness::{Faulty, PATIENCE, Server, eventually},
};

const TTL_MS: u64 = 30_000;

async fn attached(controllers: &[&Controller]) -> Server {
    let config = RouterConfig {
        controllers: controllers
            .iter()
            .map(|controller| controller.address.clone())
            .collect(),
        name: "r-1".to_owned(),
        ..RouterConfig::default()
    };
    Server::with(Arc::<Faulty>::default(), config).await
}

fn order(queue: &str, cap: u32) -> v1::CapOrder {
    v1::CapOrder {
        queue: queue.to_owned(),
        cap: Some(v1::Cap {
            cap,
            retry_cap: 1,
            safe: 1,
            ..Default::default()
        }),
    }
}

fn caps(generation: u64, orders: Vec<v1::CapOrder>) -> v1::Caps {
    v1::Caps {
        version: version(1, generation),
        request_id: format!("r{generation}"),
        orders,
        ttl_ms: TTL_MS,
    }
}

#[tokio::test]
async fn caps_reach_the_store_and_the_answer_counts_slots() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let (mut node, _) = controller.welcome("a", 1).await;
    server.submit_many("email", 3).await;
    let mut worker = server.worker(&["email"]).await;
    worker.take("email", 2).await;

    let answers = node
        .caps(caps(
            5,
            vec![order("email", 2), order("No Such", 1), order("later", 4)],
        ))
        .await;
    assert_eq!(answers.request_id, "r5");
    let [email, bad, later] = &answers.items[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (email.queue.as_str(), email.applied, email.slots),
        ("email", true, 2)
    );
    let cap = email.cap.unwrap();
    assert_eq!((cap.cap, cap.retry_cap, cap.safe), (2, 1, 1));
    assert_eq!(cap.version, version(1, 5));
    assert!(cap.expires_at_ms > 0);
    assert_eq!(bad.error.as_ref().unwrap().reason, "INVALID_QUEUE_NAME");
    assert!(!bad.applied);
    assert_eq!((later.applied, later.slots), (true, 0));
    // The third job waits for the cap.
    worker.credit("email", 5, worker.seq).await;
    assert!(worker.silent().await);

    // Adopting stamps a new version on what is stored.
    let adopt = v1::CapOrder {
        queue: "email".to_owned(),
        cap: None,
    };
    let answers = node.caps(caps(6, vec![adopt])).await;
    let cap = answers.items[0].cap.unwrap();
    assert_eq!((cap.cap, cap.version), (2, version(1, 6)));
    drop(worker);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_older_cap_is_not_even_tried_and_a_store_that_fails_is_told() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let (mut node, _) = controller.welcome("a", 1).await;
    assert!(node.caps(caps(5, vec![order("email", 2)])).await.items[0].applied);
    node.send(Down::Caps(caps(4, vec![order("email", 9)]))).await;
    server.store.fail("set_caps");
    let answers = node.caps(caps(6, vec![order("email", 3)])).await;
    assert_eq!(answers.request_id, "r6", "the older one has no answer");
    let error = answers.items[0].error.as_ref().unwrap();
    assert_eq!(error.reason, "STORE_UNAVAILABLE");
    server.store.heal();
    assert!(node.caps(caps(7, vec![order("email", 3)])).await.items[0].applied);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn policies_are_written_also_by_a_store_that_was_away() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let (mut node, _) = controller.welcome("a", 1).await;
    let policy = |queue: &str, max| v1::Policy {
        queue: queue.to_owned(),
        max,
        ..Default::default()
    };
    let policies = v1::Policies {
        version: version(1, 3),
        policies: vec![policy("email", 7), policy("No Such", 1), policy("report", 9)],
        removed: vec!["old".to_owned()],
    };
    node.send(Down::Policies(policies.clone())).await;
    assert_eq!(node.applied().await, version(1, 3));
    let names = ["email", "report"].map(|name| name.parse().unwrap());
    let stored: Vec<_> = server.store.stats(names.to_vec()).await;
    let stored: Vec<_> = stored
        .into_iter()
        .map(|stats| stats.unwrap().unwrap())
        .map(|stats| (stats.policy.max, stats.policy_version.unwrap().generation))
        .collect();
    assert_eq!(stored, [(7, 3), (9, 3)]);

    // A store that is away for a moment delays it.
    server.store.fail("put_queue");
    node.send(Down::Policies(v1::Policies {
        version: version(1, 4),
        ..policies
    }))
    .await;
    node.report().await;
    server.store.heal();
    assert_eq!(node.applied().await, version(1, 4));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn reports_tell_what_arrived_and_what_waits() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let (mut node, hello) = controller.welcome("a", 1).await;
    assert_eq!((hello.role(), hello.name.as_str()), (v1::NodeRole::Router, "r-1"));
    assert!(!hello.store_incarnation.is_empty() && hello.store_watermark_ms > 0);
    assert_eq!((hello.applied, hello.ledger_id.as_str()), (version(0, 0), ""));

    server.submit_many("email", 3).await;
    server.store.policy("full", |policy| policy.max_depth = 1).await;
    server.submit("full").await;
    let request = v1::SubmitJobRequest {
        job: Some(super::harness::new_job("full")),
    };
    assert!(server.jobs().submit_job(request).await.is_err());

    let (mut submitted, mut refused, mut calls) = (0, 0, 0);
    let counting = async {
        loop {
            let report = node.report().await;
            assert!((1..5_000).contains(&report.window_ms), "{}", report.window_ms);
            calls += report.store_latency.map_or(0, |latency| latency.count);
            let mut facts = None;
            for queue in report.queues {
                submitted += queue.submitted;
                refused += queue.refused;
                facts = queue.store.filter(|_| queue.queue == "email").or(facts);
            }
            if let Some(facts) = facts.filter(|_| submitted == 4 && refused == 1) {
                break facts;
            }
        }
    };
    let facts = timeout(PATIENCE, counting).await.expect("all is told");
    assert_eq!((facts.ready, facts.running, facts.slots), (3, 0, 0));
    assert!(facts.store_clock_ms > 0);
    assert!(calls >= 3, "{calls} submits were timed");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_stream_tells_everything_anew() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let (mut node, _) = controller.welcome("a", 2).await;
    let mut second = caps(9, vec![order("email", 2)]);
    second.version = version(2, 9);
    assert!(node.caps(second).await.items[0].applied);
    // Quiet: told once, and again on the next stream.
    eventually("quiet queues are left out", async || {
        node.report().await.queues.is_empty()
    })
    .await;
    drop(node);
    let (_node, hello) = controller.welcome("a", 2).await;
    assert_eq!((hello.applied, hello.ledger_id.as_str()), (version(2, 9), "a"));
    assert_eq!(hello.state.unwrap().queues[0].queue, "email");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_controller_of_another_ledger_is_refused_while_caps_are_in_force() {
    let (mut first, mut second) = (Controller::start().await, Controller::start().await);
    let server = attached(&[&first, &second]).await;
    let (mut node, _) = first.welcome("a", 4).await;
    let mut short = caps(1, vec![order("email", 2)]);
    (short.version, short.ttl_ms) = (version(4, 1), 1_000);
    assert!(node.caps(short).await.items[0].applied);
    drop((node, first));
    let (mut node, _) = second.welcome("b", 9).await;
    let refusal = node
        .until(|message| match message {
            Up::Refusal(refusal) => Some(refusal),
            _ => None,
        })
        .await;
    assert_eq!((refusal.ledger_id.as_str(), refusal.obeyed), ("a", version(4, 1)));
    eventually("the refusal is counted", async || {
        server
            .metrics
            .render()
            .contains("tidegate_controllers_refused_total 1")
    })
    .await;
    // The caps have run out.
    eventually("the second is obeyed", async || {
        let (mut node, _) = second.welcome("b", 9).await;
        !matches!(node.next().await, Some(Up::Refusal(_)))
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn operators_see_whether_it_is_connected_and_writes_the_caps() {
    let mut controller = Controller::start().await;
    let server = attached(&[&controller]).await;
    let shows = async |text: &str| {
        eventually(text, async || server.metrics.render().contains(text)).await;
    };
    shows("tidegate_controller_connected 0").await;
    let (node, _) = controller.welcome("a", 1).await;
    shows("tidegate_controller_connected 1").await;
    let command = Some(Command::CapWriter(v1::CapWriter { writer: true }));
    node.send(Down::Command(v1::Command { command })).await;
    shows("tidegate_cap_writer 1").await;
    drop(node);
    shows("tidegate_controller_connected 0").await;
    shows("tidegate_cap_writer 0").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_controller_it_keeps_jobs_all_the_same() {
    let config = RouterConfig {
        controllers: vec!["http://127.0.0.1:1".to_owned()],
        ..RouterConfig::default()
    };
    let server = Server::with(Arc::default(), config).await;
    server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    assert_eq!(worker.take("email", 1).await.len(), 1);
    drop(worker);
    server.stop().await.unwrap();
}
