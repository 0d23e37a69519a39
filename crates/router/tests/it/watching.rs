//! Following a job.

use std::time::Duration;

use tidegate_protocol::{reason as why, v1};
use tokio::time::timeout;
use tonic::Streaming;

use super::harness::*;

async fn watch(server: &Server, id: &str) -> Streaming<v1::WatchJobResponse> {
    server
        .jobs()
        .watch_job(v1::WatchJobRequest { job_id: id.into() })
        .await
        .unwrap()
        .into_inner()
}

async fn next(stream: &mut Streaming<v1::WatchJobResponse>) -> v1::JobState {
    let update = timeout(PATIENCE, stream.message())
        .await
        .expect("an update")
        .unwrap();
    update.unwrap().job.unwrap().state()
}

#[tokio::test]
async fn a_watch_shows_changes_and_ends_with_the_job() {
    let server = Server::start().await;
    let job = v1::NewJob {
        want_result: true,
        ..new_job("email")
    };
    let answer = server
        .jobs()
        .submit_job(v1::SubmitJobRequest { job: Some(job) })
        .await
        .unwrap();
    let id = answer.into_inner().job.unwrap().job_id;
    let mut updates = watch(&server, &id).await;
    assert_eq!(next(&mut updates).await, v1::JobState::Ready);

    let mut worker = server.worker(&["email"]).await;
    let grant = worker.take("email", 1).await.remove(0);
    assert_eq!(next(&mut updates).await, v1::JobState::Running);
    worker.settle(vec![settlement(lease_of(&grant), success())]).await;
    let told = timeout(Duration::from_millis(700), next(&mut updates)).await;
    assert_eq!(
        told.expect("woken by the end, not by the next look"),
        v1::JobState::Succeeded
    );
    assert!(
        updates.message().await.unwrap().is_none(),
        "a finished job has no more to tell"
    );

    let missing = v1::WatchJobRequest {
        job_id: "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".into(),
    };
    assert_eq!(
        reason(&server.jobs().watch_job(missing).await.unwrap_err()),
        why::JOB_NOT_FOUND
    );
}

#[tokio::test]
async fn a_watch_ends_with_the_drain() {
    let server = Server::start().await;
    let id = server.submit("email").await;
    let mut updates = watch(&server, &id).await;
    assert_eq!(next(&mut updates).await, v1::JobState::Ready);
    server.shutdown.cancel();
    let status = timeout(PATIENCE, updates.message()).await.unwrap().unwrap_err();
    assert_eq!(reason(&status), why::DRAINING);
    server.ended().await.unwrap();
}
