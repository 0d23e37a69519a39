//! The operator's HTTP port: `/metrics`, `/healthz`, `/readyz`.
//!
//! It is not the gRPC port on purpose: a scraper or a probe must get through when that one is full.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::{Metrics, openmetrics};

/// The Prometheus text format, version 0.0.4.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long requests that are in may take after the shutdown.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Whether this process wants traffic, and why not. A cheap handle; starts as not ready: "starting".
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<ReadyState>>,
}

/// The answer of a [`Readiness`]: `why` is empty or a short reason for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyState {
    pub ready: bool,
    pub why: String,
}

impl Readiness {
    pub fn new() -> Self {
        let state = ReadyState {
            ready: false,
            why: "starting".to_owned(),
        };
        Self {
            state: Arc::new(watch::Sender::new(state)),
        }
    }

    /// Sets the state; watchers are woken only by a change.
    pub fn set(&self, ready: bool, why: impl Into<String>) {
        let next = ReadyState {
            ready,
            why: why.into(),
        };
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            *state = next;
            changed
        });
    }

    pub fn is_ready(&self) -> bool {
        self.state.borrow().ready
    }

    pub fn get(&self) -> ReadyState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ReadyState> {
        self.state.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone)]
struct Admin {
    metrics: Metrics,
    readiness: Readiness,
}

/// Serves the operator's port until `shutdown`. To be scraped through a drain, give it a token that is
/// cancelled after the drain.
///
/// # Errors
/// The listener failed.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Admin { metrics, readiness });
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    // A scraper that reads slowly must not hold up the drain.
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LINGER_MAX).await;
    };
    tokio::select! {
        ended = serving.into_future() => ended,
        () = overdue => Ok(()),
    }
}

/// Prometheus asks for OpenMetrics first; anybody else gets the plain text.
async fn render(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    match accept.is_some_and(|accept| accept.contains(openmetrics::MEDIA_TYPE)) {
        true => (
            [(header::CONTENT_TYPE, openmetrics::CONTENT_TYPE)],
            admin.metrics.render_open(),
        ),
        false => ([(header::CONTENT_TYPE, TEXT_FORMAT)], admin.metrics.render()),
    }
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let ReadyState { ready, why } = admin.readiness.get();
    match ready {
        true => (StatusCode::OK, "ok\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn get_path(address: std::net::SocketAddr, path: &str) -> String {
        get_as(address, path, "*/*").await
    }

    async fn get_as(address: std::net::SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn answers_probes_and_scrapes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let readiness = Readiness::new();
        let shutdown = CancellationToken::new();
        let metrics = Metrics::for_test("tidegate-test");
        metrics.meter().u64_counter("jobs").build().add(3, &[]);
        let tasks = crate::tasks::Tasks::new(shutdown.clone());
        tasks.spawn(
            "admin",
            serve_metrics(listener, metrics, readiness.clone(), shutdown.clone()),
        );

        assert!(get_path(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let waiting = get_path(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("not ready: starting\n"));
        readiness.set(true, "");
        assert!(get_path(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let scrape = get_path(address, "/metrics").await;
        assert!(
            scrape.contains("content-type: text/plain; version=0.0.4"),
            "{scrape}"
        );
        assert!(scrape.contains("jobs_total 3"), "{scrape}");
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let scrape = get_as(address, "/metrics", prometheus).await;
        assert!(
            scrape.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{scrape}"
        );
        assert!(
            scrape.contains("jobs_total 3") && scrape.ends_with("# EOF\n"),
            "{scrape}"
        );

        shutdown.cancel();
        tasks.run().await.expect("it ends with the shutdown");
    }
}
