//! The port that completion calls come in on. Apps are not trusted: every size and time has a bound.

use std::{future::Future, io, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tidegate_protocol::{domain::LeaseRef, limits::RESULT_BYTES_MAX};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Callbacks, Refusal,
    completion::{self, Said},
};

pub(super) const PATH: &str = "/tidegate/callback";

/// A result, an error text, and what JSON puts around them.
const BODY_BYTES_MAX: usize = RESULT_BYTES_MAX + 16 * 1024;
/// Calls at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// One call, from its connection to its answer.
const CALL_MAX: Duration = Duration::from_secs(15);
const HEAD_MAX: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors): for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Callbacks {
    /// Answers calls until `shutdown`. To complete what runs during a drain, give it a token that is cancelled after it.
    ///
    /// # Errors
    /// None today; a listener that fails for a moment is tried again.
    pub fn serve(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let route = format!("{PATH}/{{id}}/{{fence}}/{{signature}}");
        let app = Router::new().route(&route, post(call)).with_state(self.clone());
        async move {
            let mut calls = JoinSet::new();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    accepted = listener.accept(), if calls.len() < CONNECTIONS_MAX => match accepted {
                        Ok((stream, _)) => {
                            let serving = http1::Builder::new()
                                .timer(TokioTimer::new())
                                .header_read_timeout(HEAD_MAX)
                                .keep_alive(false) // so that each call is a connection, and counts
                                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
                            calls.spawn(tokio::time::timeout(CALL_MAX, serving));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a completion call was not accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    // How a connection ended is the app's affair; its call has been answered or not.
                    Some(_) = calls.join_next() => {}
                }
            }
            Ok(())
        }
    }
}

async fn call(
    State(callbacks): State<Callbacks>,
    Path((id, fence, signature)): Path<(String, u64, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let announced: Option<usize> = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let body = match announced {
        // Said before it is sent, so that it need not be.
        Some(length) if length > BODY_BYTES_MAX => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        _ => axum::body::to_bytes(body, BODY_BYTES_MAX).await,
    };
    let Ok(body) = body else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let result = match id.parse() {
        Ok(id) => take(&callbacks, &LeaseRef { id, fence }, &signature, &body),
        Err(_) => Err((Refusal::Forged, String::new())),
    };
    callbacks.count(match &result {
        Ok(word) => word,
        Err((refusal, _)) => refusal.word(),
    });
    let Err((refusal, message)) = result else {
        return StatusCode::NO_CONTENT.into_response();
    };
    tracing::warn!(job_id = id, fence, ?refusal, "completion call refused");
    let (status, error) = match refusal {
        Refusal::Forged => (StatusCode::FORBIDDEN, "not a callback URL of this worker"),
        Refusal::Replayed => (StatusCode::CONFLICT, "this attempt has been completed already"),
        Refusal::Stale => (StatusCode::CONFLICT, "a newer attempt of the job runs"),
        Refusal::Late => (StatusCode::GONE, "the attempt does not wait any more"),
        Refusal::Invalid => (StatusCode::BAD_REQUEST, message.as_str()),
    };
    (status, Json(json!({ "error": error }))).into_response()
}

/// The word that the call is counted as. Nothing is said about a body before the signature is known to be ours.
fn take(
    callbacks: &Callbacks,
    lease: &LeaseRef,
    signature: &str,
    body: &[u8],
) -> Result<&'static str, (Refusal, String)> {
    let refused = |refusal| (refusal, String::new());
    callbacks.verify(lease, signature).map_err(refused)?;
    match completion::parse(body).map_err(|message| (Refusal::Invalid, message))? {
        Said::Ended(verdict) => callbacks.complete(lease, verdict).map(|()| "accepted"),
        Said::Working(progress) => callbacks.beat(lease, progress).map(|()| "heartbeat"),
    }
    .map_err(refused)
}
