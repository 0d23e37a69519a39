//! What a controller says is obeyed, and what happens is reported.

use std::time::Duration;

use tidegate_chassis::clock::Monotonic;
use tidegate_protocol::{
    domain::FailureClass,
    v1::{self, attach_request::Message as Up, attach_response::Message as Down},
};
use tidegate_worker::{JobContext, JobError};
use tokio::sync::mpsc;

use crate::{
    Running, controlled,
    controller::{Controller, Node, version},
    in_time,
    router::{Router, Session, kind, lease},
};

const TTL_MS: u64 = 30_000;

async fn double(_: JobContext, n: u32) -> Result<u32, JobError> {
    Ok(n * 2)
}

/// A worker of four slots, taken in by both.
async fn attached<F, Fut>(
    router: &mut Router,
    controller: &mut Controller,
    handler: F,
) -> (Running, Session, Node)
where
    F: Fn(JobContext, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<u32, JobError>> + Send + 'static,
{
    let routers = std::slice::from_ref(&router.address);
    let worker = controlled(routers, &[&controller.address], handler).name("w-1");
    let running = Running::start(worker);
    let (mut session, _) = router.welcome().await;
    assert_eq!(session.credit().await.free, 4);
    let (node, _) = controller.welcome("a", 1).await;
    (running, session, node)
}

#[tokio::test]
async fn targets_become_permits_at_once() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let (running, mut session, mut node) = attached(&mut router, &mut controller, double).await;
    for (generation, target, credit) in [(1, 2, 2), (2, 0, 0), (3, 99, 4), (4, 1, 1)] {
        let took = Monotonic::start();
        node.target(version(1, generation), target, TTL_MS).await;
        assert_eq!(session.credit().await.free, credit, "target {target}");
        // 100 ms are promised; the rest is for a machine that does other things.
        assert!(took.ms() < 1_000, "{} ms", took.ms());
        assert_eq!(node.applied().await, version(1, generation));
    }
    // A queue that is not named keeps its target.
    let other = v1::Targets {
        version: version(1, 5),
        ttl_ms: TTL_MS,
        ..Default::default()
    };
    node.send(Down::Targets(other)).await;
    assert_eq!(node.applied().await, version(1, 5));
    let (_, queue) = node.report().await;
    assert_eq!((queue.target, queue.reflex_limit), (1, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_lower_target_ends_no_job_that_runs() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let (tell, mut told) = mpsc::channel::<mpsc::Sender<()>>(4);
    let handler = move |_: JobContext, n: u32| {
        let tell = tell.clone();
        async move {
            let (end, mut ended) = mpsc::channel(1);
            tell.send(end).await.map_err(JobError::retry)?;
            ended.recv().await;
            Ok(n)
        }
    };
    let (running, mut session, mut node) = attached(&mut router, &mut controller, handler).await;
    session.grant(1, "1").await;
    session.grant(2, "2").await;
    let ends = [in_time(told.recv()).await, in_time(told.recv()).await];
    node.target(version(1, 1), 1, TTL_MS).await;
    assert_eq!(node.applied().await, version(1, 1));
    // It crosses the lower target on its way: handed back and not run.
    session.grant(3, "3").await;
    let back = session.settled().await;
    assert_eq!((kind(&back), back.lease), ("released", Some(lease(3))));
    let (_, queue) = node.report().await;
    assert_eq!((queue.in_flight, queue.target), (2, 1));
    for end in ends.into_iter().flatten() {
        end.send(()).await.expect("it runs");
        assert_eq!(kind(&session.settled().await), "succeeded");
    }
    let credit = session.until(|message| match message {
        v1::lease_request::Message::Credits(credits) => Some(credits.credits[0].free).filter(|n| *n > 0),
        _ => None,
    });
    assert_eq!(credit.await, 1);
    running.stop().await;
}

#[tokio::test]
async fn an_older_decision_is_ignored() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let (running, mut session, mut node) = attached(&mut router, &mut controller, double).await;
    for (epoch, generation, target) in [(1, 5, 2), (1, 4, 3), (0, 9, 3), (1, 6, 1)] {
        node.target(version(epoch, generation), target, TTL_MS).await;
    }
    // Credits may be merged, so the versions tell.
    assert_eq!(node.applied().await, version(1, 5));
    assert_eq!(node.applied().await, version(1, 6));
    while session.credit().await.free != 1 {}
    running.stop().await;
}

#[tokio::test]
async fn another_ledger_is_obeyed_only_after_the_first_one_has_run_out() {
    let mut router = Router::start();
    let (mut first, mut second) = (Controller::start(), Controller::start());
    let routers = std::slice::from_ref(&router.address);
    let worker = controlled(routers, &[&first.address, &second.address], double);
    let running = Running::start(worker);
    let (mut session, _) = router.welcome().await;
    assert_eq!(session.credit().await.free, 4);
    let (mut node, _) = first.welcome("a", 7).await;
    node.target(version(7, 1), 2, 1_500).await;
    assert_eq!(node.applied().await, version(7, 1));
    let in_force = Monotonic::start();
    assert_eq!(session.credit().await.free, 2);
    drop((node, first)); // it is gone for good

    let (mut node, _) = second.welcome("b", 1).await;
    let Some(Up::Refusal(refusal)) = node.next().await else {
        panic!("the first one's word is in force");
    };
    assert_eq!((refusal.ledger_id.as_str(), refusal.obeyed), ("a", version(7, 1)));
    assert!(refusal.reason.contains("in force"), "{}", refusal.reason);
    assert!(node.next().await.is_none(), "the stream ends");

    let mut node = loop {
        let (mut node, hello) = second.welcome("b", 1).await;
        assert_eq!(hello.ledger_id, "a");
        node.target(version(1, 1), 3, 1_500).await;
        match node.next().await {
            Some(Up::Refusal(_)) => continue,
            Some(Up::Applied(applied)) => {
                assert_eq!(applied.version, version(1, 1));
                break node;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(in_force.ms() >= 1_400, "{} ms", in_force.ms());
    // In between it kept the last target.
    assert_eq!(session.credit().await.free, 3);
    let (report, _) = node.report().await;
    assert!(!report.alarm);
    running.stop().await;
}

#[tokio::test]
async fn a_new_stream_begins_with_everything_there_is_to_know() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let (running, mut session, mut node) = attached(&mut router, &mut controller, double).await;
    node.target(version(1, 8), 3, TTL_MS).await;
    assert_eq!(node.applied().await, version(1, 8));
    assert_eq!(session.credit().await.free, 3);
    drop(node);
    let (_node, hello) = controller.welcome("a", 1).await;
    assert_eq!((hello.applied, hello.ledger_id.as_str()), (version(1, 8), "a"));
    assert_eq!((hello.role(), hello.name.as_str()), (v1::NodeRole::Worker, "w-1"));
    assert_eq!((hello.queues, hello.slots), (vec!["email".to_owned()], 4));
    let state = hello.state.expect("the full state");
    assert_eq!((state.queues[0].target, state.slots), (3, 4));
    running.stop().await;
}

#[tokio::test]
async fn reports_count_what_ran() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let handler = |_: JobContext, n: u32| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match n {
            0 => Err(JobError::failed("no")),
            n => Ok(n),
        }
    };
    let (running, mut session, mut node) = attached(&mut router, &mut controller, handler).await;
    for (fence, payload) in [(1, "1"), (2, "0"), (3, "3")] {
        session.grant(fence, payload).await;
    }
    let mut settled = 0;
    while settled < 3 {
        for settlement in session.settlements().await {
            session.answer(&settlement, v1::SettleResult::Recorded).await;
            settled += 1;
        }
    }
    let (mut succeeded, mut failed, mut job_ms) = (0, 0, 0.0);
    in_time(async {
        while succeeded + failed < 3 {
            let (report, queue) = node.report().await;
            job_ms += queue.mean_in_flight * report.window_ms as f64;
            succeeded += queue.run_time.map_or(0, |run_time| run_time.count);
            for failure in queue.failures {
                assert_eq!(failure.class(), v1::FailureClass::Job);
                failed += failure.count;
            }
        }
    })
    .await;
    assert_eq!((succeeded, failed), (2, 1));
    assert!((50.0..3_000.0).contains(&job_ms), "{job_ms} job-milliseconds");
    running.stop().await;
}

#[tokio::test]
async fn what_is_down_is_reported_at_once_and_costs_no_attempts() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let handler = |_: JobContext, _: u32| async {
        Err(JobError::retry("connection refused").with_class(FailureClass::Down))
    };
    let (running, mut session, mut node) = attached(&mut router, &mut controller, handler).await;
    let mut kinds = Vec::new();
    for fence in 1..=5 {
        session.grant(fence, "1").await;
        kinds.push(kind(&session.settled().await));
    }
    assert_eq!(kinds, ["retry", "retry", "retry", "retry", "throttled"]);
    let queue = loop {
        let (report, queue) = node.report().await;
        if report.alarm {
            break queue;
        }
        assert!(!queue.down);
    };
    assert!(queue.down);
    assert_eq!((queue.reflex_limit, queue.target), (1, 4));
    while session.credit().await.free != 0 {}
    // Half a second later one is tried.
    while session.credit().await.free != 1 {}
    session.grant(6, "1").await;
    assert_eq!(kind(&session.settled().await), "throttled");
    running.stop().await;
}

#[tokio::test]
async fn a_lost_lease_is_reported_at_once() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let handler = |context: JobContext, n: u32| async move {
        context.cancelled().await;
        Ok(n)
    };
    let (running, mut session, mut node) = attached(&mut router, &mut controller, handler).await;
    session.grant(1, "1").await;
    session.answer_renewals = false;
    let renewal = session.renewal_naming(1).await;
    let renewed = v1::Renewed {
        counter: renewal.counter,
        lost: vec![lease(1)],
        ..Default::default()
    };
    session.send(v1::lease_response::Message::Renewed(renewed)).await;
    session.answer_renewals = true;
    in_time(async { while !node.report().await.0.alarm {} }).await;
    assert_eq!(kind(&session.settled().await), "released");
    running.stop().await;
}

#[tokio::test]
async fn who_does_not_lead_is_left_for_the_next() {
    let mut router = Router::start();
    let (mut standby, mut leader) = (Controller::start(), Controller::start());
    let routers = std::slice::from_ref(&router.address);
    let worker = controlled(routers, &[&standby.address, &leader.address], double);
    let running = Running::start(worker);
    let (mut session, _) = router.welcome().await;
    let (node, _) = standby.hello().await;
    node.send(Down::Refused(v1::Refused::default())).await;
    let (node, _) = leader.welcome("a", 2).await;
    node.target(version(2, 1), 1, TTL_MS).await;
    while session.credit().await.free != 1 {}
    running.stop().await;
}

#[tokio::test]
async fn a_controller_can_send_a_worker_home() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let (running, mut session, node) = attached(&mut router, &mut controller, double).await;
    let drain = v1::command::Command::Drain(v1::Drain {});
    node.send(Down::Command(v1::Command { command: Some(drain) }))
        .await;
    session
        .until(|message| matches!(message, v1::lease_request::Message::Bye(_)).then_some(()))
        .await;
    drop(session);
    let ended = in_time(running.tasks.run()).await;
    assert!(ended.is_err(), "nobody else told it to end: {ended:?}");
}

#[tokio::test]
async fn without_a_controller_every_slot_is_used() {
    let mut router = Router::start();
    let routers = std::slice::from_ref(&router.address);
    let worker = controlled(routers, &["http://127.0.0.1:1"], double);
    let running = Running::start(worker);
    let (mut session, _) = router.welcome().await;
    assert_eq!(session.credit().await.free, 4);
    session.grant(1, "21").await;
    assert_eq!(kind(&session.settled().await), "succeeded");
    running.stop().await;
}
