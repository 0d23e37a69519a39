//! Against real servers, well-behaved and not.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, http::StatusCode, response::IntoResponse, routing::post};
use tidegate_chassis::tasks::Tasks;
use tidegate_protocol::domain::{FailureClass, Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::JobContext;

async fn deliver(url: &str) -> Verdict {
    let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
    let job = Job {
        context: JobContext::for_test(id),
        payload: "{\"n\":1}".into(),
    };
    let delivery = HttpDelivery::new(url).expect("a valid address");
    tokio::time::timeout(Duration::from_secs(5), delivery.deliver(job))
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
        let error = HttpDelivery::new(url).expect_err(url);
        assert!(matches!(error, HttpError::InvalidUrl { .. }), "{error}");
    }
}
