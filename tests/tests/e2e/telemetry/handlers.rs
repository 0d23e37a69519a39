//! What a handler in Rust makes with `tracing`, and what a command is told, at a real collector.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_tests::{Collector, Process, Received, START_TIMEOUT, Sandbox, TestWorkerOptions, WorkerProc};

use super::sampling::all_done;
use super::traces::{attempts, hex, named, router};
use crate::delivery::{result, submit};
use crate::producer::{new_job, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);
const KEPT: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const DROPPED: &str = "00-33333333333333333333333333333333-4444444444444444-00";
/// (span of the handler, its parent)
const SPANS: [(&str, &str); 4] = [
    ("look_up", "process email"),
    ("parse", "look_up"),
    ("send", "process email"),
    ("render", "process email"),
];

async fn worker(sandbox: &Sandbox, router: &str, env: Vec<(String, String)>) -> WorkerProc {
    let options = TestWorkerOptions {
        queues: vec![("email".to_owned(), "traced".to_owned())],
        name: "traced".to_owned(),
        env,
        ..TestWorkerOptions::default()
    };
    WorkerProc::start_test_worker(sandbox, &[router.to_owned()], options).await
}

/// The fields of the line that the handler writes in `look_up`, for the trace of each job.
fn lines(worker: &WorkerProc) -> Vec<serde_json::Value> {
    let lines = worker.process.stdout();
    let json = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
    json.filter(|line: &serde_json::Value| line["message"] == "looked up")
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_a_handler_belong_to_its_attempt_and_follow_its_decision() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let router = router(&sandbox, "memory:", &collector.env()).await;
    let worker = worker(&sandbox, &router.grpc_url(), collector.env()).await;
    for (done, traceparent) in [(1, DROPPED), (2, KEPT)] {
        let mut job = new_job("email", "{}".to_owned());
        job.traceparent = traceparent.to_owned();
        try_batch(router.grpc_url(), &[job]).await.expect("taken");
        all_done(&router.grpc_url(), done).await;
    }

    // Those of the job that is not kept came first: they would be there by now.
    let whole = |spans: &[Received]| {
        let has = |name: &&str| !named(spans, name).is_empty();
        SPANS.iter().all(|(name, _)| has(name)) && has(&"process email") && has(&"settle email")
    };
    let spans = collector.wait_for(PATIENCE, "the handler's", whole).await;
    let [attempt] = attempts(&spans)[..] else {
        panic!("{spans:?}")
    };
    for (name, parent) in SPANS {
        let [made] = named(&spans, name)[..] else {
            panic!("{name}: {spans:?}")
        };
        let parent = named(&spans, parent)[0];
        assert_eq!(made.span.parent_span_id, parent.span.span_id, "{name}");
        assert_eq!(made.span.trace_id, attempt.span.trace_id, "{name}");
    }
    let looked_up = named(&spans, "look_up")[0];
    let events: Vec<_> = looked_up.span.events.iter().map(|event| &*event.name).collect();
    assert_eq!(events, ["looked up"]);
    let of_worker = spans.iter().filter(|received| received.service == "test-worker");
    let traces: BTreeSet<_> = of_worker.map(|received| hex(&received.span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([hex(&attempt.span.trace_id)]));

    // Log lines name the trace, whether it is kept or not.
    let lines = lines(&worker);
    let traces: Vec<_> = lines.iter().map(|line| line["trace_id"].as_str()).collect();
    assert_eq!(
        traces,
        [Some(&DROPPED[3..35]), Some(&*hex(&attempt.span.trace_id))]
    );
    assert_eq!(lines[1]["span_id"].as_str(), Some(&*hex(&looked_up.span.span_id)));
}

/// Nobody collects anything: the lines of an attempt still say whose trace it belongs to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_name_the_trace_without_a_collector() {
    let sandbox = Sandbox::new();
    let router = router(&sandbox, "memory:", &[]).await;
    let worker = worker(&sandbox, &router.grpc_url(), Vec::new()).await;
    let mut job = new_job("email", "{}".to_owned());
    job.traceparent = KEPT.to_owned();
    try_batch(router.grpc_url(), &[job]).await.expect("taken");
    all_done(&router.grpc_url(), 1).await;
    let lines = lines(&worker);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["trace_id"].as_str(), Some(&KEPT[3..35]), "{lines:?}");
}

/// It runs in a task of its own, and is in the attempt all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_told_the_span_of_its_attempt() {
    let sandbox = Sandbox::new();
    let collector = Collector::start();
    let router = router(&sandbox, "memory:", &collector.env()).await;
    let url = router.grpc_url();
    let mut args = vec!["worker", "--metrics-listen", "127.0.0.1:0", "--router", &url];
    args.extend([
        "--queue",
        "email",
        "--exec",
        "sh",
        "-c",
        "printf $TIDEGATE_TRACEPARENT",
    ]);
    let env = collector.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let worker = Process::tidegate(&sandbox, args, &env);
    worker.wait_for_line("ready role=worker ", START_TIMEOUT).await;
    let id = submit(&router, "email", "{}", |_| {}).await;
    let told = result(&router, &id).await;
    let ended = |spans: &[Received]| !attempts(spans).is_empty();
    let spans = collector.wait_for(PATIENCE, "the attempt", ended).await;
    let attempt = &attempts(&spans)[0].span;
    assert_eq!(
        told,
        format!("00-{}-{}-01", hex(&attempt.trace_id), hex(&attempt.span_id))
    );
}
