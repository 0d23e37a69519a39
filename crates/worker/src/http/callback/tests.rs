//! Calls over real connections, honest and not.

use tidegate_chassis::{tasks::Tasks, telemetry::Metrics};
use tidegate_protocol::domain::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::*;

const DONE: &str = r#"{"outcome":"succeeded","result":{"n":1}}"#;

struct Bench {
    callbacks: Callbacks,
    metrics: Metrics,
    _tasks: Tasks,
}

impl Bench {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let base = format!("http://{}/", listener.local_addr().expect("bound"));
        let metrics = Metrics::for_test("worker");
        let callbacks = Callbacks::new(&base, Some(metrics.meter())).expect("valid");
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("callbacks", callbacks.serve(listener, shutdown));
        Self {
            callbacks,
            metrics,
            _tasks: tasks,
        }
    }

    fn counted(&self, result: &str) -> bool {
        let series = format!("tidegate_callbacks_total{{result=\"{result}\"}} 1");
        self.metrics.render().contains(&series)
    }
}

fn context(fence: u64) -> JobContext {
    JobContext::for_test_with_fence(
        "email:0:00000000000000000000000000000001".parse().expect("valid"),
        fence,
    )
}

/// The status and the body.
async fn send(url: &str, head: &str, body: &str) -> (u16, String) {
    let address = url.trim_start_matches("http://");
    let (address, path) = address.split_once('/').expect("a path");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("POST /{path} HTTP/1.1\r\nhost: {address}\r\n{head}\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.unwrap_or_default())
}

async fn call(url: &str, body: &str) -> (u16, String) {
    send(url, &format!("content-length: {}\r\n", body.len()), body).await
}

#[tokio::test]
async fn a_call_completes_its_attempt_once() {
    let bench = Bench::start().await;
    let expected = bench.callbacks.expect(&context(7));
    let url = expected.url();
    let (status, error) = call(&url, r#"{"outcome":"done"}"#).await;
    assert!(status == 400 && error.contains("unknown variant"), "{error}");
    assert_eq!(call(&url, r#"{"progress":"page 1"}"#).await.0, 204);
    assert_eq!(call(&url, DONE).await, (204, String::new()));
    let verdict = expected.call().await;
    assert_eq!(
        verdict.outcome,
        Outcome::Succeeded {
            result: r#"{"n":1}"#.into()
        }
    );
    let (status, error) = call(&url, DONE).await;
    assert!(status == 409 && error.contains("completed already"), "{error}");
    for result in ["accepted", "heartbeat", "invalid", "replayed"] {
        assert!(bench.counted(result), "{result}");
    }
}

#[tokio::test]
async fn forged_stale_and_late_calls_are_refused() {
    let bench = Bench::start().await;
    let old = bench.callbacks.expect(&context(7));
    let old_url = old.url();
    drop(old); // timed out
    assert_eq!(call(&old_url, DONE).await.0, 410);

    let new = bench.callbacks.expect(&context(8));
    let (status, error) = call(&old_url, DONE).await;
    assert!(status == 409 && error.contains("newer attempt"), "{error}");

    // The new fence under the old signature; another job; another process's key.
    let forged = old_url.replace("/7/", "/8/");
    let other_job = new.url().replace("1/8", "2/8");
    let other = Callbacks::new("http://elsewhere", None).expect("valid");
    let other_key = other.expect(&context(8)).url();
    let other_key = other_key.replace("http://elsewhere", &bench.callbacks.shared.base);
    for url in [&forged, &other_job, &other_key, &new.url().replace("/8/", "/8/x")] {
        // Not even the body's mistakes are told to whoever has no signature.
        let (status, error) = call(url, "not json").await;
        assert!(
            status == 403 && error.contains("not a callback URL"),
            "{url} {status} {error}"
        );
    }
    assert!(bench.counted("late") && bench.counted("stale"));

    let stopped = context(9);
    let waiting = bench.callbacks.expect(&stopped);
    stopped.token().cancel();
    assert_eq!(call(&waiting.url(), DONE).await.0, 410, "it was told to stop");
    assert_eq!(new.called_already(), None);
}

#[tokio::test]
async fn a_call_that_comes_before_the_answer_counts_and_none_after_another_answer() {
    let bench = Bench::start().await;
    let expected = bench.callbacks.expect(&context(7));
    assert_eq!(
        call(&expected.url(), r#"{"outcome":"failed","error":"x"}"#)
            .await
            .0,
        204
    );
    let verdict = expected.called_already().expect("it was called");
    assert_eq!(verdict.outcome, Outcome::Failed { error: "x".into() });

    let expected = bench.callbacks.expect(&context(8));
    let url = expected.url();
    assert_eq!(expected.called_already(), None);
    assert_eq!(call(&url, DONE).await.0, 410);
}

#[tokio::test]
async fn other_requests_get_nowhere() {
    let bench = Bench::start().await;
    let expected = bench.callbacks.expect(&context(7));
    let url = expected.url();
    let base = &bench.callbacks.shared.base;
    assert_eq!(call(&format!("{base}/"), "").await.0, 404);
    assert_eq!(call(&url.replace("/7/", "/seven/"), DONE).await.0, 400);
    let large = "x".repeat(100_000);
    assert_eq!(send(&url, "content-length: 100000\r\n", &large[..1]).await.0, 413);
    assert_eq!(call(&url, DONE).await.0, 204, "it still counts");
    for base in ["ftp://x", "", "http://", "http://x/?a=b"] {
        let error = Callbacks::new(base, None).expect_err(base);
        assert!(error.to_string().contains("--callback-url"), "{error}");
    }
}
