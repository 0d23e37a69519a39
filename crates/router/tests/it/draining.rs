//! A router that is told to stop.

use std::time::Duration;

use tidegate_protocol::{
    domain::JobState,
    reason as why,
    v1::{self, lease_request::Message as Up, lease_response::Message as Down},
};
use tidegate_router::RouterConfig;
use tokio::time::sleep;
use tonic::Code;

use super::harness::*;

#[tokio::test]
async fn workers_are_told_to_go_and_may_finish() {
    let config = RouterConfig {
        drain_notice: Duration::from_secs(3),
        ..RouterConfig::default()
    };
    let server = Server::with(Default::default(), config).await;
    let id = server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    let grant = worker.take("email", 1).await.remove(0);
    server.shutdown.cancel();
    let Ok(Down::GoAway(go_away)) = worker.next().await else {
        panic!("not told to go")
    };
    assert_eq!(go_away.reason, why::DRAINING);

    let request = v1::SubmitJobRequest {
        job: Some(new_job("email")),
    };
    let refused = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, why::DRAINING)
    );
    let Err(refused) = Worker::open(&server).await else {
        panic!("a new stream was taken")
    };
    assert_eq!(reason(&refused), why::DRAINING);
    let answer = server
        .jobs()
        .get_job(v1::GetJobRequest { job_id: id.clone() })
        .await;
    assert!(answer.is_ok(), "reads go on");

    worker.credit("email", 5, worker.seq).await;
    let items = worker.settle(vec![settlement(lease_of(&grant), success())]).await;
    assert_eq!(items[0].result(), v1::SettleResult::Recorded);
    worker.say(Up::Bye(v1::Bye {})).await;
    worker.end().await.expect("a good end");
    drop(worker);
    server.ended().await.expect("nothing is left behind");
}

#[tokio::test]
async fn a_draining_router_does_not_release_its_sessions() {
    let server = Server::start().await;
    let store = server.store.clone();
    let id = server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    worker.take("email", 1).await;
    server.shutdown.cancel();
    let Ok(Down::GoAway(_)) = worker.next().await else {
        panic!("not told to go")
    };
    // It goes to another router, and reclaims there.
    drop(worker);
    server.ended().await.unwrap();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(store.job(&id).await.state, JobState::Running);
}

#[tokio::test]
async fn a_worker_that_stays_is_left_within_the_time() {
    let config = RouterConfig {
        drain_timeout: Duration::from_secs(1),
        ..RouterConfig::default()
    };
    let server = Server::with(Default::default(), config).await;
    let mut worker = server.worker(&["email"]).await;
    server.shutdown.cancel();
    let status = worker.end().await.unwrap_err();
    assert_eq!(reason(&status), why::DRAINING);
    drop(worker);
    server.ended().await.unwrap();
}
