//! Starting, with and without what it needs.

use std::sync::Arc;

use tidegate_chassis::{CancellationToken, telemetry::Metrics};
use tidegate_protocol::domain::{Cap, Version};
use tidegate_router::{
    RouterConfig, RunError,
    policies::{apply, parse},
    run,
};
use tidegate_store::{CapOrder, JobStore};
use tokio::net::TcpListener;

use super::harness::*;

async fn start(config: RouterConfig) -> RunError {
    let shutdown = CancellationToken::new();
    let metrics = Metrics::for_test("tidegate-router");
    let any = "127.0.0.1:0".parse().unwrap();
    let config = RouterConfig {
        metrics_listen: any,
        ..config
    };
    run(config, metrics, shutdown, |_| panic!("it must not start"))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn what_is_missing_is_said_and_has_an_exit_code() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = RouterConfig {
        listen: taken.local_addr().unwrap(),
        store: "memory:".into(),
        ..Default::default()
    };
    let error = start(config).await;
    assert!(
        error.to_string().contains("choose another with --listen"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);

    let any = RouterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        store: "memory:".into(),
        ..Default::default()
    };
    let error = start(RouterConfig {
        store: "mysql://x".into(),
        ..any.clone()
    })
    .await;
    assert_eq!(error.exit_code(), 2);
    let error = start(RouterConfig {
        policies: Some("/nonexistent.toml".into()),
        ..any.clone()
    })
    .await;
    assert!(error.to_string().contains("/nonexistent.toml"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn a_store_without_a_pulse_is_not_served_from() {
    let store = Arc::new(Faulty::default());
    store.fail("pulse");
    let host = tidegate_router::Host {
        grpc: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        admin: None,
        readiness: Default::default(),
    };
    let shutdown = CancellationToken::new();
    let started = tidegate_router::serve(&RouterConfig::default(), store, host, shutdown, |_| {
        panic!("ready")
    })
    .await;
    assert_eq!(started.unwrap_err().exit_code(), 5);
}

#[tokio::test]
async fn the_ready_line_is_the_contract() {
    let any = "127.0.0.1:0".parse().unwrap();
    let config = RouterConfig {
        listen: any,
        metrics_listen: any,
        store: "memory:".into(),
        ..Default::default()
    };
    let shutdown = CancellationToken::new();
    let mut line = String::new();
    let ready = |ready: tidegate_router::Ready| {
        line = ready.to_string();
        shutdown.cancel();
    };
    run(
        config,
        Metrics::for_test("tidegate-router"),
        shutdown.clone(),
        ready,
    )
    .await
    .unwrap();
    assert!(
        line.starts_with("ready role=router grpc=127.0.0.1:") && line.contains(" metrics=127.0.0.1:"),
        "{line}"
    );
}

#[tokio::test]
async fn a_policies_file_never_overrules_a_controller() {
    let store: Arc<dyn JobStore> = Arc::new(Faulty::default());
    let text = "[queues.email]\nmax = 7\ncap = 5\n[queues.report]\nmax = 8\ncap = 6\n";
    let file = || parse("policies.toml".as_ref(), text).unwrap();
    let newer = Version {
        epoch: 3,
        generation: 1,
    };
    let cap = Some(Cap {
        cap: 2,
        retry_cap: 2,
        safe: 2,
    });
    let order = CapOrder {
        queue: "report".parse().unwrap(),
        cap,
        version: newer,
        ttl_ms: 0,
    };
    assert!(store.set_caps(vec![order]).await[0].as_ref().unwrap().applied);
    apply(&store, file()).await.unwrap();
    apply(&store, file()).await.expect("at every start");
    let names = ["email", "report"].map(|name| name.parse().unwrap());
    let stats: Vec<_> = store
        .stats(names.to_vec())
        .await
        .into_iter()
        .map(|s| s.unwrap().unwrap())
        .collect();
    assert_eq!((stats[0].policy.max, stats[0].cap.unwrap().cap.cap), (7, 5));
    assert_eq!(
        (stats[1].policy.max, stats[1].cap.unwrap().cap.cap),
        (8, 2),
        "the controller's cap stands"
    );
}
