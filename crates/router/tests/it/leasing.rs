//! Credit, grants, renewals and settlements.

use std::time::Duration;

use tidegate_protocol::{
    limits, reason as why,
    v1::{self, lease_request::Message as Up, lease_response::Message as Down, settlement::Outcome},
};
use tokio::time::timeout;
use tonic::Code;

use super::harness::*;

#[tokio::test]
async fn grants_stay_within_the_credit_and_echo_the_counter() {
    let server = Server::start().await;
    let mut worker = server.worker(&["email"]).await;
    let counter = worker.credit("email", 3, 0).await;
    assert!(worker.silent().await, "nothing is ready");
    server.submit_many("email", 5).await;
    let mut got = Vec::new();
    while got.len() < 3 {
        let grants = worker.grants().await;
        assert_eq!((grants.counter, grants.seq), (counter, worker.seq));
        assert!(grants.store_clock_ms > 0);
        got.extend(grants.grants);
    }
    assert_eq!(got.len(), 3);
    let grant = &got[0];
    assert_eq!(
        (
            grant.attempt,
            grant.max_attempts,
            grant.lease_ttl_ms,
            grant.timeout_ms
        ),
        (1, 3, 10_000, 300_000)
    );
    assert_eq!((&grant.payload[..], grant.queue.as_str()), (&b"{}"[..], "email"));
    assert!(worker.silent().await, "the credit is used up");

    // The same credit again, from before the grants were seen, is no new one.
    worker.credit("email", 3, 0).await;
    assert!(worker.silent().await);
    let renewed = worker.renew(got.iter().map(lease_of).collect()).await;
    assert!(renewed.lost.is_empty() && renewed.unknown.is_empty() && renewed.store_clock_ms > 0);
    let counter = worker.credit("email", 2, worker.seq).await;
    let grants = worker.grants().await;
    assert_eq!((grants.counter, grants.grants.len()), (counter, 2));
}

#[tokio::test]
async fn random_credits_are_never_exceeded() {
    let server = Server::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    server.submit_many("email", 1_000).await;
    let mut worker = server.worker(&["email"]).await;
    // Jobs received by seq, and every credit sent: (free, seq).
    let mut received: Vec<usize> = vec![0];
    let mut credits: Vec<(u32, u64)> = Vec::new();
    for _ in 0..60 {
        let credit = (
            random.u32(0..20),
            random.u64(credits.last().map_or(0, |c| c.1)..=worker.seq),
        );
        worker.credit("email", credit.0, credit.1).await;
        credits.push(credit);
        while let Ok(message) = timeout(Duration::from_millis(5), worker.next()).await {
            let Ok(Down::Grants(grants)) = message else {
                panic!("{message:?}")
            };
            worker.seq = grants.seq;
            received.push(grants.grants.len());
            // The counter says which credit the router had seen at least; any later one may have been in force.
            let allowed = |&(free, seq): &(u32, u64)| {
                received[seq as usize + 1..].iter().sum::<usize>() <= free as usize
            };
            let seen = grants.counter as usize - 1;
            assert!(credits[seen..].iter().any(allowed), "{credits:?} {received:?}");
        }
    }
    assert!(received.iter().sum::<usize>() > 20);
}

#[tokio::test]
async fn two_sessions_share_evenly() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.worker(&["email"]).await, server.worker(&["email"]).await);
    one.credit("email", 100, 0).await;
    two.credit("email", 100, 0).await;
    assert!(one.silent().await && two.silent().await);
    for _ in 0..20 {
        server.submit("email").await;
    }
    server.submit_many("email", 60).await;
    let mut counts = [0, 0];
    while counts.iter().sum::<usize>() < 80 {
        tokio::select! {
            grants = one.grants() => counts[0] += grants.grants.len(),
            grants = two.grants() => counts[1] += grants.grants.len(),
        }
    }
    assert!(counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
}

#[tokio::test]
async fn a_payload_that_does_not_fit_one_message_comes_in_several() {
    let server = Server::start().await;
    let job = v1::NewJob {
        payload: vec![7; limits::PAYLOAD_BYTES_MAX].into(),
        ..new_job("email")
    };
    for _ in 0..4 {
        let request = v1::SubmitJobsRequest {
            jobs: vec![job.clone(); 8],
        };
        server.jobs().submit_jobs(request).await.unwrap();
    }
    let mut worker = server.worker(&["email"]).await;
    assert_eq!(worker.take("email", 32).await.len(), 32);
    assert!(worker.seq > 2);
}

#[tokio::test]
async fn a_settlement_is_answered_by_what_became_of_it() {
    let server = Server::start().await;
    server.submit_many("email", 3).await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 3).await;
    let leases: Vec<_> = grants.iter().map(lease_of).collect();
    let stale = v1::LeaseRef {
        fence: leases[0].fence - 1,
        ..leases[0].clone()
    };
    let large = Outcome::Succeeded(v1::Succeeded {
        result: vec![0; limits::RESULT_BYTES_MAX + 1].into(),
    });
    let items = worker
        .settle(vec![
            settlement(leases[0].clone(), large),
            settlement(stale, success()),
            settlement(leases[0].clone(), success()),
            settlement(leases[0].clone(), success()),
            settlement(
                leases[1].clone(),
                Outcome::Failed(v1::Failed { error: "no".into() }),
            ),
            settlement(leases[2].clone(), Outcome::Released(v1::Released::default())),
            settlement(
                v1::LeaseRef {
                    job_id: "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".into(),
                    fence: 1,
                },
                success(),
            ),
        ])
        .await;
    let answers: Vec<_> = items.iter().map(|item| (item.result(), item.state())).collect();
    use v1::{JobState, SettleResult};
    assert_eq!(
        answers,
        [
            (SettleResult::Refused, JobState::Unspecified),
            (SettleResult::Stale, JobState::Running),
            (SettleResult::Recorded, JobState::Succeeded),
            (SettleResult::Recorded, JobState::Succeeded),
            (SettleResult::Recorded, JobState::Dead),
            (SettleResult::Recorded, JobState::Ready),
            (SettleResult::NotFound, JobState::Unspecified),
        ]
    );
    let error = items[0].error.as_ref().unwrap();
    assert_eq!(error.reason, why::PAYLOAD_TOO_LARGE);
    assert_eq!(error.metadata["field"], "settlements[0].succeeded.result");
    let text = server.metrics.render();
    for line in [
        r#"tidegate_jobs_settled_total{outcome="failed",queue="email"} 1"#,
        r#"tidegate_stale_settles_total{queue="email"} 2"#,
        r#"tidegate_job_wait_duration_seconds_count{queue="email"} 3"#,
        "tidegate_workers_connected 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_renewal_tells_what_is_lost_and_what_was_cancelled() {
    let server = Server::start().await;
    server.submit_many("email", 2).await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 2).await;
    let job_ids = vec![grants[1].job_id.clone()];
    server
        .jobs()
        .cancel_jobs(v1::CancelJobsRequest { job_ids })
        .await
        .unwrap();
    let old = v1::LeaseRef {
        fence: 1,
        ..lease_of(&grants[0])
    };
    let nonsense = v1::LeaseRef {
        job_id: "nonsense".into(),
        fence: 1,
    };
    let leases = vec![
        lease_of(&grants[0]),
        old.clone(),
        lease_of(&grants[1]),
        nonsense.clone(),
    ];
    let renewed = worker.renew(leases).await;
    assert_eq!(renewed.lost, [nonsense, old]);
    assert_eq!(renewed.cancelled, [lease_of(&grants[1])]);
    assert!(
        worker.renew(Vec::new()).await.lost.is_empty(),
        "an idle worker renews too"
    );
}

#[tokio::test]
async fn wrong_streams_are_refused() {
    let server = Server::start().await;
    let good = hello(&["email"]);
    for (name, hello) in [
        (
            "no session",
            v1::Hello {
                session: String::new(),
                ..good.clone()
            },
        ),
        (
            "no incarnation",
            v1::Hello {
                incarnation: "x".into(),
                ..good.clone()
            },
        ),
        (
            "wrong queue",
            v1::Hello {
                queues: vec!["E mail".into()],
                ..good.clone()
            },
        ),
        (
            "replaces itself",
            v1::Hello {
                replaces: vec![good.session.clone()],
                ..good.clone()
            },
        ),
    ] {
        let mut worker = Worker::dial(&server, hello).await.unwrap();
        let status = worker.end().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
    }
    let mut worker = Worker::open(&server).await.unwrap();
    worker.say(Up::Bye(v1::Bye {})).await;
    assert_eq!(
        worker.end().await.unwrap_err().code(),
        Code::InvalidArgument,
        "no hello"
    );

    let mut first = Worker::connect(&server, good.clone()).await.0;
    let mut second = Worker::dial(&server, good.clone()).await.unwrap();
    assert_eq!(
        second.end().await.unwrap_err().code(),
        Code::AlreadyExists,
        "a live session"
    );
    first.say(Up::Hello(good)).await;
    assert_eq!(
        first.end().await.unwrap_err().code(),
        Code::InvalidArgument,
        "a second hello"
    );

    let mut worker = server.worker(&["email"]).await;
    worker.credit("other", 1, 0).await;
    assert_eq!(
        worker.end().await.unwrap_err().code(),
        Code::InvalidArgument,
        "a queue not in the hello"
    );
    let mut worker = server.worker(&["email"]).await;
    let lease = v1::LeaseRef {
        job_id: "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".into(),
        fence: 1,
    };
    let leases = vec![lease; limits::LEASES_PER_STREAM_MAX + 1];
    worker.say(Up::Renew(v1::Renew { counter: 1, leases })).await;
    assert_eq!(reason(&worker.end().await.unwrap_err()), why::BATCH_TOO_LARGE);
}

#[tokio::test]
async fn a_stream_without_a_hello_ends() {
    let server = Server::start().await;
    let mut worker = Worker::open(&server).await.unwrap();
    assert_eq!(worker.end().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_most_leases_of_a_stream_are_renewed_in_one_message() {
    let server = Server::start().await;
    let mut worker = server.worker(&["email"]).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        server.submit_many("email", 1_000).await;
        held.extend(worker.take("email", 1_000).await.iter().map(lease_of));
    }
    assert_eq!(held.len(), limits::LEASES_PER_STREAM_MAX);
    let renewed = worker.renew(held.clone()).await;
    assert!(renewed.lost.is_empty() && renewed.unknown.is_empty());
    let (mut worker, welcome) = Worker::connect(&server, worker.successor(held.clone())).await;
    assert_eq!((welcome.reclaimed.len(), welcome.lost.len()), (held.len(), 0));
    let settlements: Vec<_> = held
        .into_iter()
        .map(|lease| settlement(lease, success()))
        .collect();
    worker
        .say(Up::Settle(v1::Settle {
            settlements,
            ..Default::default()
        }))
        .await;
    let mut recorded = 0;
    while recorded < limits::LEASES_PER_STREAM_MAX {
        let Ok(Down::Settled(settled)) = worker.next().await else {
            panic!("not settled")
        };
        recorded += settled
            .items
            .iter()
            .filter(|item| item.result() == v1::SettleResult::Recorded)
            .count();
    }
}
