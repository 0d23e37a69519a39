//! The app of `tidegate dev` when none is given: a real HTTP server that answers with what it got.

use std::{io, net::SocketAddr};

use axum::{Router, body::Bytes, http::HeaderMap, routing::any};
use tidegate_chassis::CancellationToken;
use tokio::net::TcpListener;

/// Binds a free port on loopback.
pub async fn bind() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

pub async fn serve(listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let app = Router::new().fallback(any(echo));
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

async fn echo(headers: HeaderMap, body: Bytes) -> Bytes {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("-")
    };
    tracing::info!(
        job = header("ce-id"),
        queue = header("ce-type"),
        attempt = header("ce-tidegateattempt"),
        bytes = body.len(),
        "the echo app got a job"
    );
    body
}
