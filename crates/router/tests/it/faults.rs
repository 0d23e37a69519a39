//! A store that fails, stalls, or comes back older.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tidegate_protocol::{domain::JobState, reason as why, v1};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::*;

async fn try_submit(server: &Server) -> Result<(), Status> {
    server
        .jobs()
        .submit_job(v1::SubmitJobRequest {
            job: Some(new_job("email")),
        })
        .await
        .map(drop)
}

#[tokio::test]
async fn the_circuit_opens_refuses_at_once_and_closes_again() {
    let server = Server::start().await;
    server.store.fail("submit");
    server.store.fail("pulse");
    for _ in 0..5 {
        let status = try_submit(&server).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, why::STORE_UNAVAILABLE)
        );
        assert!(
            !format!("{status:?}").contains("injected"),
            "the store's text stays inside"
        );
    }
    let mut times = Vec::new();
    for _ in 0..300 {
        let start = Instant::now();
        let status = try_submit(&server).await.unwrap_err();
        times.push(start.elapsed());
        assert_eq!(reason(&status), why::CIRCUIT_OPEN);
        assert!(status.get_error_details().retry_info().is_some());
    }
    times.sort_unstable();
    let (p50, p99) = (times[150], times[297]);
    println!("a refusal of the open circuit: p50 {p50:.2?}, p99 {p99:.2?}");
    assert!(p50 < Duration::from_millis(5), "{p50:?}");
    assert!(
        p99 < Duration::from_millis(100),
        "{p99:?}: the machine is busy, and still"
    );
    let get = v1::GetJobRequest {
        job_id: "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".into(),
    };
    assert_eq!(
        reason(&server.jobs().get_job(get).await.unwrap_err()),
        why::CIRCUIT_OPEN,
        "reads as well"
    );
    let text = server.metrics.render();
    assert!(
        text.contains(r#"tidegate_circuit_state{scope="store",state="open"} 1"#),
        "{text}"
    );

    server.store.heal();
    let healed = Instant::now();
    eventually("submits are taken again", async || {
        try_submit(&server).await.is_ok()
    })
    .await;
    assert!(
        healed.elapsed() < Duration::from_secs(3),
        "the next good pulse allows a trial"
    );
}

#[tokio::test]
async fn leases_go_on_while_the_circuit_is_open() {
    let server = Server::start().await;
    server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    let grant = worker.take("email", 1).await.remove(0);
    server.store.fail("submit");
    for _ in 0..6 {
        try_submit(&server).await.unwrap_err();
    }
    assert!(worker.renew(vec![lease_of(&grant)]).await.unknown.is_empty());
    let items = worker.settle(vec![settlement(lease_of(&grant), success())]).await;
    assert_eq!(items[0].result(), v1::SettleResult::Recorded);
}

#[tokio::test]
async fn what_the_store_does_not_answer_is_unknown_not_lost() {
    let server = Server::start().await;
    server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    let lease = lease_of(&worker.take("email", 1).await[0]);
    server.store.fail("renew");
    server.store.fail("settle");
    let start = Instant::now();
    let renewed = worker.renew(vec![lease.clone()]).await;
    assert_eq!((renewed.unknown, renewed.lost), (vec![lease.clone()], vec![]));
    let items = worker.settle(vec![settlement(lease.clone(), success())]).await;
    assert_eq!(items[0].result(), v1::SettleResult::Unknown);
    assert_eq!(items[0].error.as_ref().unwrap().reason, why::STORE_UNAVAILABLE);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "tried again within a bound"
    );

    // A short outage is not seen by the worker at all.
    let heal = async {
        sleep(Duration::from_millis(300)).await;
        server.store.heal();
    };
    let (items, ()) = tokio::join!(worker.settle(vec![settlement(lease, success())]), heal);
    assert_eq!(items[0].result(), v1::SettleResult::Recorded);
}

#[tokio::test]
async fn a_release_waits_for_the_store() {
    let server = Server::start().await;
    let id = server.submit("email").await;
    let mut worker = server.worker(&["email"]).await;
    worker.take("email", 1).await;
    server.store.fail("release");
    drop(worker);
    sleep(Duration::from_millis(2_600)).await;
    assert_eq!(server.store.job(&id).await.state, JobState::Running);
    server.store.heal();
    eventually("the job goes back", async || {
        server.store.job(&id).await.state == JobState::Ready
    })
    .await;
}

#[tokio::test]
async fn a_lost_wake_costs_at_most_the_poll() {
    let store = Arc::new(Faulty::default());
    store.silent.store(true, Ordering::SeqCst);
    let server = Server::on(store).await;
    let mut worker = server.worker(&["email"]).await;
    worker.credit("email", 1, 0).await;
    assert!(worker.silent().await);
    server.submit("email").await;
    let start = Instant::now();
    worker.grants().await;
    assert!(
        start.elapsed() < Duration::from_millis(1_800),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn grants_under_a_clock_that_went_back_are_handed_back() {
    let server = Server::start().await;
    let mut worker = server.worker(&["email"]).await;
    server.submit("email").await;
    worker.take("email", 1).await;
    server.store.clock_back_ms.store(3_000, Ordering::SeqCst);
    let id = server.submit("email").await;
    worker.credit("email", 1, worker.seq).await;
    let back = async || {
        let job = server.store.job(&id).await;
        job.state == JobState::Ready && job.releases == 1
    };
    eventually("it is handed back", back).await;
    assert!(worker.silent().await);
    server.store.clock_back_ms.store(0, Ordering::SeqCst);
    assert_eq!(
        worker.grants().await.grants[0].job_id,
        id,
        "granted once the clock has passed the highest"
    );
}

#[tokio::test]
async fn a_store_that_came_back_older_takes_no_submits_and_gives_no_jobs() {
    let server = Server::start().await;
    server.submit_many("email", 2).await;
    let mut worker = server.worker(&["email"]).await;
    let grant = worker.take("email", 1).await.remove(0);
    server.store.clock_back_ms.store(60_000, Ordering::SeqCst);
    eventually("submits are refused", async || {
        try_submit(&server)
            .await
            .is_err_and(|status| reason(&status) == why::STORE_REWOUND)
    })
    .await;
    worker.credit("email", 1, worker.seq).await;
    assert!(worker.silent().await);
    assert!(
        worker.renew(vec![lease_of(&grant)]).await.lost.is_empty(),
        "renewals go on"
    );
    let items = worker.settle(vec![settlement(lease_of(&grant), success())]).await;
    assert_eq!(items[0].result(), v1::SettleResult::Recorded, "settlements go on");
}

#[tokio::test]
async fn leases_are_taken_back_by_time_only_after_one_ttl() {
    let store = Arc::new(Faulty::default());
    store.policy("email", |policy| policy.lease_ttl_ms = 2_000).await;
    let start = Instant::now();
    let server = Server::on(store).await;
    let reclaims = || {
        let sweeps = server.store.sweeps.lock().unwrap();
        sweeps.iter().any(|sweep| sweep.reclaim_until_ms.is_some())
    };
    server.submit("email").await;
    eventually("a sweep", async || {
        !server.store.sweeps.lock().unwrap().is_empty()
    })
    .await;
    eventually("a sweep that takes back", async || {
        let early = reclaims();
        assert!(
            !early || start.elapsed() >= Duration::from_millis(1_990),
            "{:?}",
            start.elapsed()
        );
        early
    })
    .await;
    assert!(
        server
            .store
            .sweeps
            .lock()
            .unwrap()
            .iter()
            .all(|sweep| sweep.hold_ms == 0)
    );
}

#[tokio::test]
async fn a_clock_jump_holds_every_routers_sweep() {
    let server = Server::start().await;
    server.submit("email").await;
    eventually("a sweep", async || {
        !server.store.sweeps.lock().unwrap().is_empty()
    })
    .await;
    server.store.clock_back_ms.store(3_000, Ordering::SeqCst);
    let holds = || {
        let sweeps = server.store.sweeps.lock().unwrap();
        sweeps
            .iter()
            .filter(|sweep| sweep.hold_ms == 10_000 && sweep.reclaim_until_ms.is_none())
            .count()
    };
    eventually("a hold is written", async || holds() > 0).await;
    let written = holds();
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(holds(), written, "once");
}
