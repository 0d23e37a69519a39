//! One stream: grants, credits, renewals, settlements, and leases that are not ours any more.

use std::time::Duration;

use tidegate_protocol::v1::{self, lease_response::Message as Down};
use tidegate_worker::{JobContext, JobError};
use tokio_util::sync::CancellationToken;

use crate::{
    Running, in_time,
    router::{Router, job_id, kind, lease},
    worker,
};

async fn double(_: JobContext, n: u32) -> Result<u32, JobError> {
    Ok(n * 2)
}

/// Never ends by itself.
async fn endless(_: JobContext, _: u32) -> Result<u32, JobError> {
    std::future::pending().await
}

#[tokio::test]
async fn jobs_are_granted_run_and_settled() {
    let mut router = Router::start();
    let running = Running::start(worker(&[router.address.clone()], double));
    let (mut stream, hello) = router.welcome().await;
    assert_eq!(
        (hello.queues, hello.slots, hello.replaces.len()),
        (vec!["email".to_owned()], 4, 0)
    );
    let renewal = stream.renewal().await;
    assert!(
        renewal.leases.is_empty(),
        "the first renewal only says that it lives"
    );
    let credit = stream.credit().await;
    assert_eq!(
        (credit.queue.as_str(), credit.free, credit.last_grant_seq),
        ("email", 4, 0)
    );

    stream.grant(1, "21").await;
    let settled = stream.settled().await;
    assert_eq!(settled.lease, Some(lease(1)));
    assert_eq!(
        settled.outcome,
        Some(v1::settlement::Outcome::Succeeded(v1::Succeeded {
            result: "42".into()
        }))
    );
    let credit = stream.credit().await;
    assert_eq!((credit.free, credit.last_grant_seq), (4, 1));

    stream.grant(2, "\"no number\"").await;
    let settled = stream.settled().await;
    assert_eq!(
        (kind(&settled), settled.failure_class()),
        ("invalid", v1::FailureClass::Job)
    );
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn a_lost_and_a_cancelled_job_are_stopped_and_released() {
    let mut router = Router::start();
    let running = Running::start(worker(&[router.address.clone()], endless));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    for fence in 1..=3 {
        stream
            .grant_with(fence, "1", |grant| grant.lease_ttl_ms = 1_000)
            .await;
    }
    stream.renewal_naming(3).await;
    stream.answer_renewals = false;
    let counter = stream.renewal_naming(3).await.counter;
    let renewed = v1::Renewed {
        counter,
        lost: vec![lease(1)],
        cancelled: vec![lease(2)],
        ..Default::default()
    };
    stream.send(Down::Renewed(renewed)).await;
    stream.answer_renewals = true;
    let mut settled = Vec::new();
    while settled.len() < 2 {
        settled.extend(stream.settlements().await);
    }
    settled.sort_by_key(|settlement| settlement.lease.as_ref().map(|lease| lease.fence));
    for (settlement, fence) in settled.iter().zip(1..) {
        assert_eq!(
            (kind(settlement), &settlement.lease),
            ("released", &Some(lease(fence)))
        );
    }
    running.shutdown.cancel();
}

#[tokio::test]
async fn an_unknown_settlement_is_sent_again_with_the_same_fence() {
    let mut router = Router::start();
    let running = Running::start(worker(&[router.address.clone()], double));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream.grant(1, "1").await;
    let first = stream.settlements().await;
    stream.answer(&first[0], v1::SettleResult::Unknown).await;
    let second = stream.settlements().await;
    assert_eq!(first, second);
    stream.answer(&second[0], v1::SettleResult::Recorded).await;
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn a_router_that_stops_answering_costs_the_job_before_its_lease_ends() {
    let mut router = Router::start();
    let told = CancellationToken::new();
    let tell = told.clone();
    let handler = move |ctx: JobContext, _: u32| {
        let tell = tell.clone();
        async move {
            ctx.cancelled().await;
            tell.cancel();
            Ok(1)
        }
    };
    let running = Running::start(worker(&[router.address.clone()], handler));
    let (mut stream, _) = router.welcome().await;
    stream.renewal().await;
    stream.answer_renewals = false;
    stream.credit().await;
    let granted = tidegate_chassis::clock::Monotonic::start();
    stream.grant_with(1, "1", |grant| grant.lease_ttl_ms = 500).await;
    in_time(told.cancelled()).await;
    let took = granted.ms();
    assert!(
        (200..500).contains(&took),
        "fenced after {took} ms of a lease of 500"
    );
    // It had given the stream up before, and tried to reclaim on another.
    drop(stream);
    let (mut stream, hello) = router.welcome().await;
    assert_eq!((hello.reclaim, hello.replaces.len()), (vec![lease(1)], 1));
    assert_eq!(
        kind(&stream.settled().await),
        "released",
        "what it answered after the fence is discarded"
    );
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn a_handler_that_outlives_its_timeout_is_dropped_and_tried_again() {
    let mut router = Router::start();
    let running = Running::start(worker(&[router.address.clone()], endless));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream
        .grant_with(1, "1", |grant| {
            (grant.timeout_ms, grant.lease_ttl_ms) = (20, 1_000)
        })
        .await;
    let settled = stream.settled().await;
    assert_eq!(
        (kind(&settled), settled.failure_class()),
        ("retry", v1::FailureClass::Error)
    );
    assert!(settled.run_ms >= 20);
    drop(stream);
    running.stop().await;
}

/// The reason for the link's own thread.
#[test]
fn a_handler_that_blocks_its_runtime_loses_no_lease() {
    let mut router = Router::start();
    let address = router.address.clone();
    let block = |_: JobContext, n: u32| async move {
        std::thread::sleep(Duration::from_millis(700));
        Ok(n)
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let _worker = tidegate_chassis::tasks::named_thread("worker", move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let worker = worker(&[address], block);
        runtime
            .block_on(worker.run_until(stop.cancelled_owned()))
            .expect("it ends well");
    })
    .expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut stream, _) = router.welcome().await;
        stream.credit().await;
        stream.grant_with(7, "7", |grant| grant.lease_ttl_ms = 400).await;
        let settled = stream.settled().await;
        assert_eq!(
            (settled.lease.expect("set").job_id, settled.run_ms >= 700),
            (job_id(7), true)
        );
        assert!(stream.renewals >= 4, "{} renewals", stream.renewals);
        assert_eq!(
            settled.outcome,
            Some(v1::settlement::Outcome::Succeeded(v1::Succeeded {
                result: "7".into()
            }))
        );
    });
    shutdown.cancel();
}

#[tokio::test]
async fn cancel_notices_stop_jobs_at_once() {
    let mut router = Router::start();
    let running = Running::start(worker(&[router.address.clone()], endless));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream
        .grant_with(1, "1", |grant| grant.lease_ttl_ms = 1_000)
        .await;
    stream.grant(2, "1").await;
    let cancel = v1::Cancel {
        leases: vec![lease(1)],
        reason: "operator".to_owned(),
    };
    stream.send(Down::Cancel(cancel)).await;
    let settled = stream.settled().await;
    assert_eq!((kind(&settled), settled.lease), ("released", Some(lease(1))));
    running.shutdown.cancel();
}
