//! A handler as an application writes it that knows nothing but `tracing`.

use tidegate_worker::{JobContext, JobError};
use tracing::Instrument;

pub(super) async fn work(context: &JobContext) -> Result<(), JobError> {
    look_up().await;
    // A task is in the span that it is given.
    let task = tokio::spawn(send().in_current_span());
    task.await.map_err(|error| JobError::retry(error.to_string()))?;
    context.run_blocking(render).await
}

#[tracing::instrument]
async fn look_up() {
    tracing::info!(rows = 3, "looked up");
    parse().await;
}

#[tracing::instrument]
async fn parse() {
    tokio::task::yield_now().await;
}

#[tracing::instrument]
async fn send() {
    tokio::task::yield_now().await;
}

#[tracing::instrument]
fn render() {}
