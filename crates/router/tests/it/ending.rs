//! How streams end, and what becomes of the jobs.

use std::time::{Duration, Instant};

use tidegate_protocol::{
    domain::JobState,
    v1::{self, lease_request::Message as Up},
};
use tokio::time::sleep;
use tonic::Code;

use super::harness::*;

#[tokio::test]
async fn the_jobs_of_a_broken_stream_go_back_after_two_seconds() {
    let server = Server::start().await;
    let id = server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    worker.take("email", 1).await;
    let broke = Instant::now();
    drop(worker);
    let mut other = server.worker(&["email"]).await;
    let grant = other.take("email", 1).await.remove(0);
    let after = broke.elapsed();
    assert!(
        (Duration::from_millis(1_900)..Duration::from_secs(6)).contains(&after),
        "{after:?}"
    );
    assert_eq!((grant.job_id, server.store.job(&id).await.losses), (id, 1));
    let text = server.metrics.render();
    assert!(
        text.contains(r#"tidegate_leases_lost_total{queue="email"} 1"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_goodbye_gives_jobs_back_at_once_and_uncounted() {
    let server = Server::start().await;
    let ids = server.submit_many("email", 2).await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 2).await;
    let settled = settlement(lease_of(&grants[0]), success());
    worker
        .say(Up::Settle(v1::Settle {
            settlements: vec![settled],
            ..Default::default()
        }))
        .await;
    worker.say(Up::Bye(v1::Bye {})).await;
    worker.end().await.expect("a good end");
    let of = |id: &str| {
        ids.iter()
            .find(|other| *other == id)
            .expect("one of ours")
            .clone()
    };
    let first = server.store.job(&of(&grants[0].job_id)).await;
    assert_eq!(
        first.state,
        JobState::Succeeded,
        "what was settled before is recorded"
    );
    let second = server.store.job(&of(&grants[1].job_id)).await;
    assert_eq!((second.state, second.losses), (JobState::Ready, 0));
}

#[tokio::test]
async fn a_successor_keeps_what_it_names_and_gives_back_the_rest() {
    let server = Server::start().await;
    server.submit_many("email", 3).await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 3).await;
    let (kept, lost) = (
        lease_of(&grants[0]),
        v1::LeaseRef {
            fence: 5,
            ..lease_of(&grants[1])
        },
    );
    // The old stream is still open here: the hello closes it.
    let hello = worker.successor(vec![kept.clone(), lost.clone()]);
    let (mut next, welcome) = Worker::connect(&server, hello).await;
    assert_eq!(
        (welcome.reclaimed, welcome.lost),
        (vec![kept.clone()], vec![lost])
    );
    assert_eq!(worker.end().await.unwrap_err().code(), Code::Aborted);
    for grant in &grants[1..] {
        let job = server.store.job(&grant.job_id).await;
        assert_eq!(
            (job.state, job.losses),
            (JobState::Ready, 0),
            "lost on the wire: back at once, uncounted"
        );
    }
    // The old session's release must not touch what the new one holds.
    sleep(Duration::from_millis(2_500)).await;
    assert!(next.renew(vec![kept.clone()]).await.lost.is_empty());
    let items = next.settle(vec![settlement(kept, success())]).await;
    assert_eq!(items[0].result(), v1::SettleResult::Recorded);
}

#[tokio::test]
async fn a_broken_stream_that_comes_back_in_time_loses_nothing() {
    let server = Server::start().await;
    server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 1).await;
    let hello = worker.successor(vec![lease_of(&grants[0])]);
    drop(worker);
    sleep(Duration::from_millis(500)).await;
    let (mut next, welcome) = Worker::connect(&server, hello).await;
    assert_eq!(welcome.reclaimed.len(), 1);
    sleep(Duration::from_millis(2_500)).await;
    assert!(next.renew(vec![lease_of(&grants[0])]).await.lost.is_empty());
    // And breaks for good, without a grant of its own: what it took over goes back too.
    drop(next);
    eventually("the reclaimed job goes back", async || {
        server.store.job(&grants[0].job_id).await.state == JobState::Ready
    })
    .await;
}

#[tokio::test]
async fn a_grant_that_finds_its_stream_gone_goes_back_at_once() {
    let server = Server::start().await;
    let id = server.submit("email").await;
    let gate = server.store.hold_leases();
    let mut worker = server.worker(&["email"]).await;
    worker.credit("email", 1, 0).await;
    eventually("the call is in flight", async || {
        server.store.job(&id).await.state == JobState::Running
    })
    .await;
    drop(worker);
    eventually("the stream is gone", async || {
        server.metrics.render().contains("tidegate_workers_connected 0")
    })
    .await;
    let released = Instant::now();
    gate.add_permits(1_000);
    eventually("it is handed back", async || {
        server.store.job(&id).await.state == JobState::Ready
    })
    .await;
    assert!(released.elapsed() < Duration::from_millis(1_000));
    assert_eq!(server.store.job(&id).await.losses, 0);
}

#[tokio::test]
async fn credit_taken_back_during_a_call_is_respected() {
    let server = Server::start().await;
    let ids = server.submit_many("email", 3).await;
    let gate = server.store.hold_leases();
    let mut worker = server.worker(&["email"]).await;
    worker.credit("email", 3, 0).await;
    eventually("the call is in flight", async || {
        server.store.job(&ids[0]).await.state == JobState::Running
    })
    .await;
    worker.credit("email", 1, 0).await;
    sleep(SILENCE).await;
    gate.add_permits(1_000);
    assert_eq!(worker.grants().await.grants.len(), 1);
    eventually("the others are handed back", async || {
        let mut ready = 0;
        for id in &ids {
            ready += usize::from(server.store.job(id).await.state == JobState::Ready);
        }
        ready == 2
    })
    .await;
    assert!(worker.silent().await);
}

#[tokio::test]
async fn a_worker_that_does_not_read_is_let_go() {
    let server = Server::start().await;
    let mut worker = server.worker(&["email"]).await;
    let lease = v1::LeaseRef {
        job_id: "nonsense".repeat(4),
        fence: 1,
    };
    let leases = vec![lease; 10_000];
    for counter in 1..=200 {
        worker
            .say(Up::Renew(v1::Renew {
                counter,
                leases: leases.clone(),
            }))
            .await;
    }
    let start = Instant::now();
    let gone = async || server.metrics.render().contains("tidegate_workers_connected 0");
    while !gone().await {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it holds its place for ever"
        );
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "a pause is not yet a reason"
    );
}
