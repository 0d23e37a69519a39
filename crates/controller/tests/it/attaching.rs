//! Streams: hello, refusals, slow and rude nodes.

use tidegate_protocol::v1::{
    self, attach_request::Message as Up, attach_response::Message as Down, command::Command,
};
use tonic::Code;

use super::harness::{Node, POLICIES, Server, Store, eventually, hello, reason};

#[tokio::test]
async fn a_router_hears_everything_it_needs_at_once() {
    let server = Server::start(POLICIES).await;
    let mut node = Node::attach(&server, hello(v1::NodeRole::Router, &[], 0)).await;
    match node.next().await.unwrap() {
        Some(Down::Welcome(welcome)) => {
            assert_eq!(welcome.controller, "under-test");
            assert!(welcome.version.unwrap().epoch >= 1);
            assert!(!welcome.ledger_id.is_empty());
        }
        other => panic!("not a welcome: {other:?}"),
    }
    let is_writer = |message| match message {
        Down::Command(v1::Command {
            command: Some(Command::CapWriter(writer)),
        }) => Some(writer.writer),
        _ => None,
    };
    assert!(node.find("to be writer", is_writer).await);
    // What is in the store is asked for first, by a new ledger twice: it leaves its first epoch.
    let mut store = Store::default();
    let policies = loop {
        match node.next().await.unwrap().expect("policies") {
            Down::Caps(caps) => {
                assert!(caps.orders.iter().all(|order| order.cap.is_none()) && caps.ttl_ms == 30_000);
                let answers = store.set_caps(caps);
                node.say(Up::CapAnswers(answers)).await;
            }
            Down::Policies(policies) => break policies.policies.len(),
            _ => {}
        }
    };
    assert_eq!(policies, 2);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_field() {
    let server = Server::start("").await;
    let mut mute = Node::open(&server).await;
    mute.say(Up::Report(v1::Report::default())).await;
    let status = mute.next().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "INVALID_ARGUMENT")
    );

    let mut nobody = Node::attach(&server, v1::NodeHello::default()).await;
    let status = nobody.next().await.unwrap_err();
    assert!(status.message().starts_with("hello.role"), "{status}");

    let mut odd = Node::attach(&server, hello(v1::NodeRole::Worker, &["Not A Name"], 1)).await;
    let status = odd.next().await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_QUEUE_NAME");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_shown_until_a_node_obeys() {
    let server = Server::start("").await;
    let mut node = Node::attach(&server, hello(v1::NodeRole::Router, &[], 0)).await;
    node.next().await.unwrap();
    let refusal = v1::Refusal {
        obeyed: Some(v1::Version {
            epoch: 41,
            generation: 3,
        }),
        ledger_id: "other".into(),
        reason: "its caps are in force".into(),
    };
    node.say(Up::Refusal(refusal)).await;
    eventually("not ready", async || !server.readiness.is_ready()).await;
    let fleet = server.fleet().await;
    assert!(!fleet.leader);
    assert!(
        fleet.standby_reason.starts_with("another controller leads:"),
        "{}",
        fleet.standby_reason
    );
    let again = Node::attach(&server, hello(v1::NodeRole::Router, &[], 0)).await;
    let applied = v1::Applied {
        version: fleet.version,
    };
    again.say(Up::Applied(applied)).await;
    eventually("ready", async || server.readiness.is_ready()).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_left_or_replaced_is_forgotten() {
    let server = Server::start("").await;
    let first = hello(v1::NodeRole::Worker, &["a"], 8);
    let node = Node::attach(&server, first.clone()).await;
    eventually("it is there", async || server.fleet().await.nodes.len() == 1).await;
    let again = Node::attach(&server, first).await;
    eventually("still one", async || server.fleet().await.nodes.len() == 1).await;
    drop(node);
    assert_eq!(server.fleet().await.nodes.len(), 1);
    drop(again);
    eventually("none", async || server.fleet().await.nodes.is_empty()).await;
    server.stop().await.unwrap();
}
