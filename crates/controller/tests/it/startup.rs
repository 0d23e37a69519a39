//! How it starts, and how it does not.

use tidegate_chassis::{CancellationToken, admin::Readiness};
use tidegate_controller::{ControllerConfig, Host, RunError};
use tokio::net::TcpListener;

use super::harness::{Server, config};

async fn refused(policies: &str) -> RunError {
    let dir = tempfile::tempdir().unwrap();
    let host = Host {
        grpc: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        admin: None,
        readiness: Readiness::new(),
    };
    let config: ControllerConfig = config(&dir, policies);
    let started = tidegate_controller::run_on(config, host, CancellationToken::new(), |_| {});
    started.await.expect_err("it does not start")
}

#[tokio::test]
async fn mistakes_in_the_policies_are_told_before_anything_is_served() {
    for (text, expected) in [
        (
            "[queues.a]\nmxa = 3",
            "policies.toml: queues.a: unknown key `mxa`; did you mean `max`?",
        ),
        (
            "[resources.pg]\nheadroom = 1",
            "resources.pg: capacity: say how many units",
        ),
        (
            "[queues.a]\ncosts = { pg = 1 }",
            "queues.a.costs[0].resource: there is no resource pg: apply it first",
        ),
        (
            "[resources.pg]\ncapacity = 10\n[queues.a]\nmin = 8\ncosts = { pg = 1 }",
            "queues.a.min: 8 x 1 units of pg",
        ),
    ] {
        let error = refused(text).await;
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn it_is_ready_when_it_serves_and_ends_when_told() {
    let server = Server::start("").await;
    assert!(server.readiness.is_ready());
    let readiness = server.readiness.clone();
    server.stop().await.unwrap();
    assert_eq!(readiness.get().why, "draining");
}
