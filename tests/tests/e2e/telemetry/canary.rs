//! What must never leave a service by its telemetry: payloads, results, keys, headers, secrets.

use std::time::Duration;

use tidegate_tests::{
    Answer, App, Collector, Process, Redis, RedisOptions, START_TIMEOUT, Sandbox, eventually,
};

use super::{fleet::Fleet, traces::router};
use crate::{
    delivery::{job, submit},
    producer::{new_job, try_batch},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each goes in at another place.
const PAYLOAD: &str = "canary-payload-7f3a";
const RESULT: &str = "canary-result-7f3a";
const KEY: &str = "canary-key-7f3a";
const HEADER: &str = "canary-header-7f3a";
const PASSWORD: &str = "canary-password-7f3a";
const ALL: [&str; 5] = [PAYLOAD, RESULT, KEY, HEADER, PASSWORD];

fn assert_clean(place: &str, text: &str) {
    for canary in ALL {
        assert!(!text.contains(canary), "{canary} is in {place}:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_and_secrets_are_in_no_log_metric_or_trace() {
    let collector = Collector::start();
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    redis
        .must(&[
            "ACL",
            "SETUSER",
            "tidegate",
            "on",
            &format!(">{PASSWORD}"),
            "~*",
            "&*",
            "+@all",
        ])
        .await;
    let store = redis
        .url()
        .replace("redis://", &format!("redis://tidegate:{PASSWORD}@"));
    let app = App::start(|delivery| match delivery.attempt {
        1 => Answer::status(500).body(RESULT),
        _ => Answer::ok().body(RESULT),
    });
    let mut env = collector.env();
    // As loud as it gets for our own crates.
    let loud =
        "info,tidegate_router=trace,tidegate_store=trace,tidegate_worker=trace,tidegate_controller=trace";
    env.push(("RUST_LOG".to_owned(), loud.to_owned()));
    let processes = {
        let fleet = Fleet::on(Sandbox::new(), &store, &app, &env).await;
        let mut job = new_job("email", format!("{{\"to\":\"{PAYLOAD}\"}}"));
        job.idempotency_key = KEY.to_owned();
        job.headers.insert("x-note".to_owned(), HEADER.to_owned());
        job.want_result = true;
        let url = fleet.router.grpc_url();
        try_batch(url.clone(), &[job.clone()]).await.expect("taken");
        app.wait_for_answers(2, PATIENCE).await;
        // The same key for another payload, and a header that is refused: errors that must not repeat what they refuse.
        let again = tidegate_protocol::v1::NewJob {
            payload: PAYLOAD.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..job.clone()
        };
        let error = try_batch(url.clone(), &[again])
            .await
            .expect_err("another payload");
        assert!(error.contains("IDEMPOTENCY_KEY_REUSED"), "{error}");
        assert_clean("the error", &error);
        let mut bad = new_job("email", PAYLOAD.to_owned());
        bad.headers.insert("Bad Header".to_owned(), HEADER.to_owned());
        let error = try_batch(url, &[bad]).await.expect_err("a bad header");
        assert_clean("the error", &error);
        collector
            .wait_for(PATIENCE, "the second attempt", |spans| {
                spans
                    .iter()
                    .filter(|received| received.span.name == "settle email")
                    .count()
                    == 2
            })
            .await;
        for (service, page) in fleet.pages().await {
            assert_clean(&format!("the metrics of the {service}"), &page);
        }
        let logs = |process: &Process| format!("{}{}", process.stdout(), process.stderr());
        [
            &fleet.router.process,
            &fleet.controller.process,
            &fleet.worker.process,
        ]
        .map(logs)
    };
    for log in &processes {
        assert_clean("a log", log);
        is_structured(log);
    }
    assert_clean("the spans", &format!("{:?}", collector.spans()));
    assert!(
        processes[2].contains("\"trace_id\""),
        "a line of an attempt names its trace:\n{}",
        processes[2]
    );
}

/// What a command writes is the job's error, for who may read the job, and in no log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_writes_is_in_no_log() {
    let sandbox = Sandbox::new();
    let router = router(&sandbox, "memory:", &[]).await;
    let url = router.grpc_url();
    let mut args = vec!["worker", "--metrics-listen", "127.0.0.1:0", "--router", &url];
    args.extend(["--queue", "email", "--exec", "sh", "-c", "cat >&2; exit 1"]);
    let worker = Process::tidegate(&sandbox, args, &[("RUST_LOG", "info,tidegate_worker=trace")]);
    worker.wait_for_line("ready role=worker ", START_TIMEOUT).await;
    let id = submit(&router, "email", PAYLOAD, |_| {}).await;
    worker.wait_for_line("command failed", PATIENCE).await;
    let error = eventually(PATIENCE, "the error", async || {
        let error = job(&router, &id).await?.error;
        (!error.is_empty()).then_some(error)
    })
    .await;
    assert!(error.contains(PAYLOAD), "{error}");
    assert_clean(
        "a log",
        &format!(
            "{}{}{}",
            worker.stdout(),
            worker.stderr(),
            router.process.stdout()
        ),
    );
}

/// Every line is one JSON object with a sentence; only the ready line is for programs of another kind.
fn is_structured(log: &str) {
    for line in log.lines().filter(|line| !line.starts_with("ready role=")) {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
}

/// A store that refuses us is told of without the password.
#[tokio::test]
async fn an_error_at_the_start_does_not_show_the_password() {
    let sandbox = Sandbox::new();
    let store = format!("redis://tidegate:{PASSWORD}@127.0.0.1:1/0");
    let args = [
        "router",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--store",
        &store,
    ];
    let router = Process::tidegate(&sandbox, args, &[]);
    assert_eq!(router.wait_exit(PATIENCE).await, 5);
    assert_clean("the error", &format!("{}{}", router.stdout(), router.stderr()));
    let printed = Process::tidegate(
        &sandbox,
        ["config", "print"],
        &[("TIDEGATE_ROUTER__STORE", &store)],
    );
    assert_eq!(printed.wait_exit(PATIENCE).await, 0);
    assert_clean("the configuration", &printed.stdout());
}
