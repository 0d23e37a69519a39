//! The app that jobs are delivered to: each is as many sessions at work as it costs, for half a second to one and a half.
//! A worker that hangs up ends them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router as Web,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

#[derive(Default)]
struct Counts {
    done: AtomicUsize,
    failed: AtomicUsize,
}

#[derive(Clone)]
struct Shared {
    postgres: String,
    counts: Arc<Counts>,
}

/// Ends with its value.
pub struct App {
    pub url: String,
    shared: Shared,
    serving: JoinHandle<std::io::Result<()>>,
}

impl App {
    pub async fn start(postgres: String) -> Self {
        let shared = Shared {
            postgres,
            counts: Arc::default(),
        };
        let web = Web::new().fallback(post(work)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, web).await });
        Self {
            url: format!("http://{address}/"),
            shared,
            serving,
        }
    }

    pub fn done(&self) -> usize {
        self.shared.counts.done.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> usize {
        self.shared.counts.failed.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn work(State(shared): State<Shared>, headers: HeaderMap) -> StatusCode {
    let queue = headers.get("ce-type").and_then(|queue| queue.to_str().ok());
    let sleep = format!("SELECT pg_sleep({})", 0.5 + fastrand::f64());
    let session = async || {
        let mut session = PgConnection::connect(&shared.postgres).await?;
        sqlx::raw_sql(AssertSqlSafe(sleep.clone()))
            .execute(&mut session)
            .await?;
        session.close().await
    };
    let worked = match queue {
        Some("pdf") => tokio::try_join!(session(), session()).map(drop),
        _ => session().await,
    };
    match worked {
        Ok(()) => {
            shared.counts.done.fetch_add(1, Ordering::Relaxed);
            StatusCode::OK
        }
        Err(_) => {
            shared.counts.failed.fetch_add(1, Ordering::Relaxed);
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
