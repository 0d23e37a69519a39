//! What a visitor sees first.

use std::{process::Command, time::Duration};

use tidegate_tests::{Process, Sandbox, built};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_accounts_for_every_job_and_adaptive_fails_less() {
    let sandbox = Sandbox::new();
    let json = sandbox.path().join("demo.json");
    let mut command = Command::new(built("demo"));
    command.args(["--seconds", "15", "--json"]).arg(&json);
    let demo = Process::start(&sandbox, command);
    assert_eq!(
        demo.wait_exit(Duration::from_secs(120)).await,
        0,
        "{}",
        demo.tail()
    );

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let number = |lane: &str, name: &str| {
        let value = &report["lanes"][lane][name];
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{lane}.{name} in {report}"))
    };
    for lane in ["fixed", "adaptive"] {
        let ended = number(lane, "succeeded") + number(lane, "dead") + number(lane, "open");
        assert!(number(lane, "submitted") > 1_000.0, "{report}");
        assert_eq!(number(lane, "submitted"), ended, "{report}");
        assert!(number(lane, "p99_ms") > number(lane, "p50_ms"), "{report}");
    }
    assert!(
        number("adaptive", "http_errors") < number("fixed", "http_errors"),
        "{report}"
    );
    assert!(number("adaptive", "target_changes") > 0.0, "{report}");
    assert!(demo.stdout().contains("failed deliveries"), "{}", demo.stdout());
}
