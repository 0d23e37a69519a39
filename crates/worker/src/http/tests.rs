//! Against real servers, well-behaved and not.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::StatusCode, response::IntoResponse, routing::post};
use tidegate_chassis::{tasks::Tasks, telemetry::Metrics};
use tidegate_protocol::domain::{FailureClass, Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::JobContext;

fn job() -> Job {
    let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
    Job {
        context: JobContext::for_test(id),
        payload: "{\"n\":1}".into(),
    }
}

async fn deliver(url: &str) -> Verdict {
    let delivery = HttpDelivery::new(HttpSettings::new(url)).expect("a valid address");
    deliver_by(&delivery).await
}

async fn deliver_by(delivery: &HttpDelivery) -> Verdict {
    tokio::time::timeout(Duration::from_secs(5), delivery.deliver(job()))
        .await
        .expect("in time")
}

/// An app on a free port, until the test's runtime ends.
async fn app(router: Router) -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("app", async move { axum::serve(listener, router).await });
    (address, tasks)
}

/// A server that reads a request, writes these bytes, and closes.
async fn raw(answer: &'static [u8]) -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("raw", async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            streams.push(stream);
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn the_body_travels_untouched_and_the_answer_is_the_result() {
    let seen = Arc::new(Mutex::new(None));
    let see = Arc::clone(&seen);
    let echo = move |headers: axum::http::HeaderMap, body: String| async move {
        *see.lock().unwrap() = Some((headers, body));
        "done"
    };
    let (address, _tasks) = app(Router::new().route("/jobs", post(echo))).await;
    let verdict = deliver(&format!("http://{address}/jobs")).await;
    assert_eq!(
        verdict.outcome,
        Outcome::Succeeded {
            result: "done".into()
        }
    );
    let (headers, body) = seen.lock().unwrap().take().expect("it was called");
    assert_eq!(body, "{\"n\":1}");
    assert_eq!(headers["ce-type"], "email");
    assert_eq!(headers["host"], address.to_string());
    assert_eq!(headers["content-length"], "7");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let followed = Arc::new(Mutex::new(false));
    let follow = Arc::clone(&followed);
    let router = Router::new()
        .route(
            "/",
            post(|| async { (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]) }),
        )
        .route(
            "/elsewhere",
            post(move || async move { *follow.lock().unwrap() = true }),
        );
    let (address, _tasks) = app(router).await;
    let verdict = deliver(&format!("http://{address}/")).await;
    assert!(
        matches!(&verdict.outcome, Outcome::Failed { error } if error.contains("redirects")),
        "{verdict:?}"
    );
    assert!(!*followed.lock().unwrap());
}

#[tokio::test]
async fn an_overloaded_app_says_how_long() {
    let busy = || async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "secret").into_response() };
    let (address, _tasks) = app(Router::new().route("/", post(busy))).await;
    let verdict = deliver(&format!("http://{address}/")).await;
    let Outcome::Throttled { error, after_ms } = verdict.outcome else {
        panic!("{verdict:?}")
    };
    assert_eq!((after_ms, verdict.class), (7_000, Some(FailureClass::Overload)));
    assert!(!error.contains("secret"), "bodies are not quoted: {error}");
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_bound() {
    let endless = || async {
        let chunks =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 10_000])));
        Body::from_stream(chunks)
    };
    let (address, _tasks) = app(Router::new().route("/", post(endless))).await;
    let Outcome::Succeeded { result } = deliver(&format!("http://{address}/")).await.outcome else {
        panic!("it succeeds");
    };
    assert_eq!(result.len(), RESULT_BYTES_MAX);
}

#[tokio::test]
async fn an_app_that_is_not_there_is_down() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port")
        .local_addr()
        .expect("bound");
    for url in [
        format!("http://{closed}/"),
        "http://no-such-host.invalid/".to_owned(),
    ] {
        let verdict = deliver(&url).await;
        assert!(matches!(&verdict.outcome, Outcome::Retry { error, .. } if error.contains("cannot connect")));
        assert_eq!(verdict.class, Some(FailureClass::Down), "{url}");
    }
}

#[tokio::test]
async fn broken_answers_are_not_taken_for_success() {
    for (answer, class, text) in [
        (&b""[..], FailureClass::Down, "no answer"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            FailureClass::Down,
            "broke off",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", FailureClass::Error, "no answer"),
    ] {
        let (address, _tasks) = raw(answer).await;
        let verdict = deliver(&format!("http://{address}/")).await;
        let Outcome::Retry { error, .. } = &verdict.outcome else {
            panic!("{verdict:?}")
        };
        assert!(error.contains(text), "{error}");
        assert_eq!(verdict.class, Some(class), "{error}");
    }
}

/// Answers lookups from a list.
struct Scripted(Mutex<VecDeque<std::io::Result<Vec<IpAddr>>>>);

#[async_trait]
impl Resolve for Scripted {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        assert_eq!(host, "app.example");
        let next = self.0.lock().unwrap().pop_front();
        next.expect("the list is long enough")
    }
}

/// Whoever owns the name may change its addresses between two lookups, or let one fail: each connection is judged anew,
/// and goes to what was judged.
#[tokio::test]
async fn a_name_that_leads_elsewhere_after_a_while_is_not_followed() {
    let metrics = Metrics::for_test("worker");
    let close = || async { ([("connection", "close")], "the app") };
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let router = Router::new().route("/", post(close));
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("app", async move { axum::serve(listener, router).await });
    // What the attacker is after, on the same port of another address.
    let victim = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");

    let allowed: IpAddr = [127, 0, 0, 2].into();
    let loopback: IpAddr = [127, 0, 0, 1].into();
    let metadata: IpAddr = [169, 254, 169, 254].into();
    let none = || Err(std::io::ErrorKind::NotFound.into());
    let script = [
        (Ok(vec![allowed]), None),
        (Ok(vec![loopback]), Some("loopback")),
        (Ok(vec![metadata]), Some("metadata")),
        (Ok(vec![allowed, metadata]), Some("metadata")),
        (
            Ok(vec!["::ffff:127.0.0.1".parse().expect("an address")]),
            Some("mapped"),
        ),
        (none(), Some("no address of")),
        (Ok(vec![loopback]), Some("loopback")),
        (Ok(vec![]), Some("no address of")),
        (Ok(vec![allowed]), None),
    ];
    let (lookups, expected): (VecDeque<_>, Vec<_>) = script.into_iter().unzip();
    let delivery = HttpDelivery::new(HttpSettings {
        allow: vec!["127.0.0.2".to_owned()],
        resolver: Arc::new(Scripted(Mutex::new(lookups))),
        meter: Some(metrics.meter()),
        ..HttpSettings::new(format!("http://app.example:{port}/"))
    })
    .expect("a valid address");
    for text in expected {
        let verdict = deliver_by(&delivery).await;
        match (&verdict.outcome, text) {
            (Outcome::Succeeded { result }, None) => assert_eq!(result, "the app"),
            (Outcome::Retry { error, .. }, Some(text)) => {
                assert!(error.contains(text), "{error}");
                assert_eq!(verdict.class, Some(FailureClass::Down));
            }
            other => panic!("{other:?}"),
        }
    }
    let knocked = tokio::time::timeout(Duration::from_millis(50), victim.accept()).await;
    assert!(knocked.is_err(), "nobody ever connected to it");
    counted(&metrics, "address_refused", 5);
    counted(&metrics, "no_address", 2);
}

fn counted(metrics: &Metrics, result: &str, times: u32) {
    let text = metrics.render();
    let series = format!("tidegate_deliveries_total{{delivery=\"http\",result=\"{result}\"}} {times}");
    assert!(text.contains(&series), "{series} in {text}");
}

async fn measured(url: &str) -> (Verdict, Metrics) {
    let metrics = Metrics::for_test("worker");
    let delivery = HttpDelivery::new(HttpSettings {
        meter: Some(metrics.meter()),
        ..HttpSettings::new(url)
    });
    (deliver_by(&delivery.expect("a valid address")).await, metrics)
}

#[tokio::test]
async fn a_redirect_to_a_metadata_address_is_not_followed() {
    let (address, _tasks) =
        raw(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/latest/meta-data/\r\ncontent-length: 0\r\n\r\n")
            .await;
    let (verdict, metrics) = measured(&format!("http://{address}/")).await;
    assert!(matches!(verdict.outcome, Outcome::Failed { .. }), "{verdict:?}");
    counted(&metrics, "redirect", 1);
}

#[tokio::test]
async fn of_a_gigabyte_64_kib_are_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (done, written) = tokio::sync::oneshot::channel();
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("app", async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
        stream.write_all(head).await.expect("it reads");
        let (chunk, mut written) = (vec![b'x'; 64 * 1024], 0_usize);
        while written < 1 << 30 && stream.write_all(&chunk).await.is_ok() {
            written += chunk.len();
        }
        let _ = done.send(written);
        std::future::pending::<()>().await;
    });
    let (verdict, metrics) = measured(&format!("http://{address}/")).await;
    let Outcome::Succeeded { result } = verdict.outcome else {
        panic!("{verdict:?}")
    };
    assert_eq!(result.len(), RESULT_BYTES_MAX);
    let written = written.await.expect("it says");
    assert!(written < 64 << 20, "the connection was cut after {written} bytes");
    counted(&metrics, "succeeded", 1);
    let text = metrics.render();
    assert!(
        text.contains("tidegate_delivery_results_cut_total{delivery=\"http\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_counted() {
    const LONG: &[u8] = &[b'x'; 200_000];
    let long = |head: &'static str| {
        Box::leak(([head.as_bytes(), LONG].concat()).into_boxed_slice()) as &'static [u8]
    };
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(1_000)).into_bytes();
    for answer in [
        &b"HTTP/1.1 abc OK\r\n\r\n"[..],
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        long("HTTP/1.1 200 OK\r\nx: "),
        long("HTTP/1.1 200 "),
        Box::leak(many.into_boxed_slice()),
    ] {
        let (address, _tasks) = raw(answer).await;
        let (verdict, metrics) = measured(&format!("http://{address}/")).await;
        let what = String::from_utf8_lossy(&answer[..answer.len().min(60)]);
        assert!(
            matches!(verdict.outcome, Outcome::Retry { .. }),
            "{what}: {verdict:?}"
        );
        assert_eq!(verdict.class, Some(FailureClass::Error), "{what}: {verdict:?}");
        counted(&metrics, "not_http", 1);
    }
}

#[tokio::test]
async fn connections_are_used_again_and_are_no_more_than_jobs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let slow = || async { tokio::time::sleep(Duration::from_millis(20)).await };
    let router = Router::new().route("/", post(slow));
    let tasks = Tasks::new(CancellationToken::new());
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    tasks.spawn("app", async move { axum::serve(listener, router).await });
    let delivery = HttpDelivery::new(HttpSettings::new(format!("http://{address}/"))).expect("valid");
    for _ in 0..5 {
        deliver_by(&delivery).await;
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    let all = (0..8).map(|_| deliver_by(&delivery));
    futures_util::future::join_all(all).await;
    let accepted = accepted.load(Ordering::Relaxed);
    assert!((2..=9).contains(&accepted), "{accepted}");
}

#[tokio::test]
async fn an_app_that_hangs_up_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream); // with the request unread: a reset
        }
    });
    let (verdict, metrics) = measured(&format!("http://{address}/")).await;
    assert_eq!(verdict.class, Some(FailureClass::Down), "{verdict:?}");
    counted(&metrics, "reset", 1);
}

#[tokio::test]
async fn deliveries_are_signed_with_every_secret() {
    let echo = |headers: axum::http::HeaderMap| async move {
        headers["webhook-signature"].to_str().unwrap().to_owned()
    };
    let (address, _tasks) = app(Router::new().route("/", post(echo))).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let delivery = HttpDelivery::new(HttpSettings {
        secrets: vec![secret.into(), secret.into()],
        ..HttpSettings::new(format!("http://{address}/"))
    });
    let Outcome::Succeeded { result } = deliver_by(&delivery.expect("valid")).await.outcome else {
        panic!("it succeeds")
    };
    let result = String::from_utf8(result.to_vec()).expect("text");
    let (first, second) = result.split_once(' ').expect("two");
    assert!(first.starts_with("v1,") && first == second, "{result}");
}

#[tokio::test]
async fn an_app_may_call_when_it_is_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let callbacks = Callbacks::new(&base, None).expect("valid");
    let shutdown = CancellationToken::new();
    let tasks = Arc::new(Tasks::new(shutdown.clone()));
    tasks.spawn("callbacks", callbacks.serve(listener, shutdown));
    let later = Arc::clone(&tasks);
    let accept = move |headers: axum::http::HeaderMap| async move {
        let url = headers["tidegate-callback"].to_str().unwrap().to_owned();
        later.spawn("later", async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
            let body = "{\"outcome\":\"succeeded\",\"result\":42}";
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!(
                "POST /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        StatusCode::ACCEPTED
    };
    let (address, _tasks) = app(Router::new().route("/", post(accept))).await;
    let delivery = HttpDelivery::new(HttpSettings::new(format!("http://{address}/"))).expect("valid");
    let outcome = deliver_by(&delivery.clone().with_callbacks(callbacks))
        .await
        .outcome;
    assert_eq!(outcome, Outcome::Succeeded { result: "42".into() });
}

#[tokio::test]
async fn an_app_that_cannot_call_must_not_answer_202() {
    let (address, _tasks) = app(Router::new().route("/", post(|| async { StatusCode::ACCEPTED }))).await;
    let (verdict, metrics) = measured(&format!("http://{address}/")).await;
    assert!(
        matches!(&verdict.outcome, Outcome::Failed { error } if error.contains("--callback-url")),
        "{verdict:?}"
    );
    counted(&metrics, "accepted", 1);
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    for url in [
        "",
        "/jobs",
        "ftp://host/",
        "http://",
        "http://user:secret@host/",
        "127.0.0.1:8080",
    ] {
        let error = HttpDelivery::new(HttpSettings::new(url)).expect_err(url);
        assert!(matches!(error, HttpError::InvalidUrl { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
