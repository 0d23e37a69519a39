//! The load test of the checklist as an operator runs it: short and slow here, so that its figures are not judged, but
//! everything that must hold whatever the speed is.

use std::{collections::BTreeMap, process::Command, time::Duration};

use serde_json::Value;
use tidegate_tests::{Cluster, Process, Sandbox, built};

const PATIENCE: Duration = Duration::from_secs(180);
/// Goals in milliseconds are for a release build on a machine of its own.
const OF_SPEED: [&str; 3] = ["peak.p99", "recovery.p99", "peak.refused"];

/// Runs it; gives its exit code and its answer.
async fn load(sandbox: &Sandbox, args: &[&str]) -> (i32, Value) {
    let (json, report) = (sandbox.path().join("load.json"), sandbox.path().join("report"));
    let mut command = Command::new(built("load"));
    command
        .args(["--seconds", "3", "--rate", "30", "--json"])
        .arg(&json);
    command.arg("--report").arg(&report).args(args);
    let load = Process::start(sandbox, command);
    let code = load.wait_exit(PATIENCE).await;
    let text = std::fs::read(json).unwrap_or_else(|error| panic!("{error}: {}", load.tail()));
    let page = std::fs::read_to_string(report.join("index.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 5, "five pictures");
    (code, serde_json::from_slice(&text).unwrap())
}

fn checks(answer: &Value) -> BTreeMap<&str, Option<bool>> {
    let checks = answer["checks"].as_array().unwrap().iter();
    checks
        .map(|check| (check["id"].as_str().unwrap(), check["holds"].as_bool()))
        .collect()
}

fn holds_but_for_speed(code: i32, answer: &Value) {
    let failed: Vec<&str> = checks(answer)
        .into_iter()
        .filter(|(_, holds)| *holds == Some(false))
        .map(|(id, _)| id)
        .collect();
    assert!(
        failed.iter().all(|id| OF_SPEED.contains(id)),
        "{failed:?}: {answer:#}"
    );
    assert_eq!(code == 0, failed.is_empty(), "{answer:#}");
    let sent = |name: &str| {
        let phases = answer["phases"].as_array().unwrap().iter();
        let of = phases.filter(|one| one["phase"] == name && one["queue"] == "load-short");
        of.map(|one| one["sent"].as_u64().unwrap()).sum::<u64>() as f64
    };
    assert!(sent("peak") > 2.0 * sent("baseline"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_fleet_of_its_own() {
    let sandbox = Sandbox::new();
    let (code, answer) = load(&sandbox, &[]).await;
    holds_but_for_speed(code, &answer);
    for id in ["saturation", "exporter", "redis.clients", "idempotency"] {
        assert_eq!(checks(&answer)[id], Some(true), "{answer:#}");
    }
}

/// It leaves the fleet as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn against_a_running_fleet() {
    let sandbox = Sandbox::new();
    let before = "[queues.email]\nmax = 8\n";
    let fleet = Cluster::builder().sqlite().policies(before).controllers(1, "");
    let fleet = fleet.start(&sandbox).await;
    let (router, controller) = (fleet.routers[0].grpc_url(), fleet.controllers[0].grpc_url());
    let args = ["--router", &router, "--controller", &controller];
    let (code, answer) = load(&sandbox, &args).await;
    holds_but_for_speed(code, &answer);
    let checks = checks(&answer);
    assert_eq!(
        (checks["exporter"], checks["redis.clients"]),
        (None, None),
        "{answer:#}"
    );
    let listed = |what: &'static str| {
        let args = ["control", what, "list", "-o", "json", "--controller", &controller];
        Process::tidegate(&sandbox, args, &[])
    };
    let resources = listed("resource");
    assert_eq!(resources.wait_exit(PATIENCE).await, 0);
    assert!(!resources.stdout().contains("load-pg"), "{}", resources.stdout());
    for (queue, code) in [("load-short", 3), ("email", 0)] {
        let args = ["control", "policy", "get", queue, "--controller", &controller];
        let policy = Process::tidegate(&sandbox, args, &[]);
        assert_eq!(
            policy.wait_exit(PATIENCE).await,
            code,
            "{queue}: {}",
            policy.tail()
        );
    }

    let half = Process::built(&sandbox, "load", ["--router", &router], &[]);
    assert_eq!(half.wait_exit(PATIENCE).await, 1);
    assert!(
        half.stderr().contains("--router without --controller"),
        "{}",
        half.stderr()
    );
}
