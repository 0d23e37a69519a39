//! `tidegate check` against real fleets, well and ill.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tidegate_tests::{
    Answer, App, Postgres, PostgresOptions, Process, Redis, RedisOptions, Sandbox, eventually, free_address,
};

use super::fleet::Fleet;
use crate::producer::submit_all;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it; gives its exit code and each check's (status, hint).
async fn check(sandbox: &Sandbox, args: &[&str]) -> (i32, BTreeMap<String, (String, String)>) {
    let args = ["check", "-o", "json"].iter().chain(args);
    let process = Process::tidegate(sandbox, args, &[]);
    let code = process.wait_exit(PATIENCE).await;
    let report: Value =
        serde_json::from_str(&process.stdout()).unwrap_or_else(|error| panic!("{error}: {}", process.tail()));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let checks = report["checks"].as_array().expect("checks").iter();
    let checks: BTreeMap<_, _> = checks
        .map(|check| (text(&check["id"]), (text(&check["status"]), text(&check["hint"]))))
        .collect();
    assert_eq!(report["ok"], code == 0, "{report}");
    for (id, (status, hint)) in &checks {
        assert_eq!(
            status == "ok",
            hint.is_empty(),
            "{id}: every finding has a hint, and nothing else does"
        );
    }
    (code, checks)
}

fn status<'a>(checks: &'a BTreeMap<String, (String, String)>, id: &str) -> &'a str {
    &checks
        .get(id)
        .unwrap_or_else(|| panic!("no check {id} among {checks:?}"))
        .0
}

/// A fleet that is well, then one fault after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_fleet_and_its_faults() {
    let app = App::start(|_| Answer::ok());
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("maxmemory", "1gb")).await;
    let url = redis.url();
    let fleet = Fleet::on(Sandbox::new(), &url, &app, &[]).await;
    submit_all(&fleet.routers(), "email", 5).await;
    let (router, controller) = (fleet.router.grpc_url(), fleet.controller.grpc_url());
    let args = [
        "--endpoint",
        &router,
        "--controller",
        &controller,
        "--store",
        &url,
    ];
    let checks = eventually(PATIENCE, "a fleet that is well", async || {
        let (code, checks) = check(&sandbox, &args).await;
        (code == 0).then_some(checks)
    })
    .await;
    assert!(checks.len() >= 20, "{} checks: {:?}", checks.len(), checks.keys());
    for id in [
        "store.eviction",
        "store.connections",
        "router.health",
        "controller.leads",
        "fleet.reports",
        "queue.workers",
    ] {
        assert_eq!(status(&checks, id), "ok", "{id}");
    }

    // Jobs that nobody runs, a paused queue, a Redis that takes few connections.
    submit_all(&fleet.routers(), "full", 1).await;
    redis.must(&["CONFIG", "SET", "maxclients", "40"]).await;
    let paused = Process::tidegate(&sandbox, ["queue", "pause", "email", "--endpoint", &router], &[]);
    assert_eq!(paused.wait_exit(PATIENCE).await, 0);
    let (code, checks) = check(&sandbox, &args).await;
    assert_eq!(code, 1);
    assert_eq!(status(&checks, "queue.workers"), "failed");
    assert_eq!(status(&checks, "queue.paused"), "warning");
    assert_eq!(status(&checks, "store.connections"), "failed");

    // A Redis that evicts: its router wants no traffic any more.
    redis
        .must(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    eventually(PATIENCE, "the router not to be ready", async || {
        let (_, checks) = check(&sandbox, &args).await;
        (status(&checks, "store.eviction") == "failed" && status(&checks, "router.health") == "failed")
            .then_some(())
    })
    .await;
    redis
        .must(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;

    // The controller is gone, then the store.
    fleet.controller.process.kill9();
    let (code, checks) = check(&sandbox, &args).await;
    assert_eq!((code, status(&checks, "controller.reachable")), (1, "failed"));
    redis.kill9().await;
    let (code, checks) = check(&sandbox, &args).await;
    assert_eq!((code, status(&checks, "store.reachable")), (1, "failed"));
    // The router is there: what is wrong is behind it.
    assert_eq!(
        (
            status(&checks, "router.reachable"),
            status(&checks, "router.store")
        ),
        ("ok", "failed")
    );

    // And all of it.
    fleet.router.process.kill9();
    let (code, checks) = check(&sandbox, &args).await;
    assert_eq!((code, status(&checks, "router.reachable")), (1, "failed"));
    assert!(
        !checks.contains_key("router.health"),
        "nothing is said of what does not answer"
    );
}

/// The ground that a fleet is to stand on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anything_runs() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let taken = taken.local_addr().expect("bound");
    let policies = sandbox.write("policies.toml", "[queues.email]\nmax = 8\n");
    let free: Vec<String> = (0..4).map(|_| free_address()).collect();
    let config = |router: &str, policies: &str| {
        format!(
            "[router]\nlisten = \"{router}\"\nmetrics_listen = \"{}\"\nstore = \"{}\"\npolicies = \"{policies}\"\n\
             [controller]\nlisten = \"{}\"\nmetrics_listen = \"{}\"\n[worker]\nmetrics_listen = \"{}\"\n",
            free[0],
            redis.url(),
            free[1],
            free[2],
            free[3]
        )
    };
    let good = sandbox.write("good.toml", &config(&free_address(), &policies));
    let (code, checks) = check(
        &sandbox,
        &["--pre", "--config", &good, "--postgres", &postgres.url()],
    )
    .await;
    assert_eq!(code, 0, "{checks:?}");
    assert!(checks.len() >= 20, "{} checks: {:?}", checks.len(), checks.keys());
    for id in [
        "config.valid",
        "config.policies",
        "port.router",
        "store.version",
        "postgres.primary",
    ] {
        assert_eq!(status(&checks, id), "ok", "{id}");
    }
    assert_eq!(
        status(&checks, "postgres.statement_timeout"),
        "warning",
        "Postgres' own default"
    );

    let broken = sandbox.write("broken.toml", "[queues.email]\nmix = 8\n");
    let bad = sandbox.write("bad.toml", &config(&taken.to_string(), &broken));
    let (code, checks) = check(&sandbox, &["--pre", "--config", &bad]).await;
    assert_eq!(code, 1);
    assert_eq!(status(&checks, "port.router"), "failed");
    assert_eq!(status(&checks, "config.policies"), "failed");

    let unknown = sandbox.write("unknown.toml", "[router]\nstoer = \"memory:\"\n");
    let (code, checks) = check(&sandbox, &["--pre", "--config", &unknown]).await;
    assert_eq!((code, status(&checks, "config.valid")), (1, "failed"));

    // A mistake in what was typed is another exit code.
    let usage = Process::tidegate(&sandbox, ["check", "--prre"], &[]);
    assert_eq!(usage.wait_exit(PATIENCE).await, 2);
}
