//! Streams that end: no job is interrupted, nothing is lost.

use std::sync::Arc;

use tidegate_protocol::v1::{self, lease_response::Message as Down};
use tidegate_worker::JobContext;
use tokio::sync::Semaphore;

use crate::{
    Running, in_time,
    router::{Router, kind, lease},
    worker,
};

/// A handler that ends when it is let go.
fn held() -> (
    Arc<Semaphore>,
    impl Fn(JobContext, u32) -> Held + Send + Sync + 'static,
) {
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    (gate, move |_: JobContext, n: u32| {
        let wait = Arc::clone(&wait);
        Box::pin(async move {
            wait.acquire().await.expect("open").forget();
            Ok(n)
        })
    })
}

type Held = std::pin::Pin<Box<dyn Future<Output = Result<u32, tidegate_worker::JobError>> + Send>>;

#[tokio::test]
async fn a_broken_stream_is_replaced_and_its_leases_reclaimed() {
    let mut router = Router::start();
    let (gate, handler) = held();
    let running = Running::start(worker(&[router.address.clone()], handler));
    let (mut stream, first) = router.welcome().await;
    stream.credit().await;
    stream.grant(1, "1").await;
    stream.grant(2, "2").await;
    // One has ended, and its outcome is not acknowledged.
    gate.add_permits(1);
    let sent = stream.settlements().await;
    drop(stream);

    let (mut stream, second) = router.welcome().await;
    assert_eq!(second.replaces, std::slice::from_ref(&first.session));
    assert_ne!(second.session, first.session);
    assert_eq!(second.incarnation, first.incarnation);
    let mut reclaim = second.reclaim.clone();
    reclaim.sort_by_key(|lease| lease.fence);
    assert_eq!(reclaim, [lease(1), lease(2)]);
    assert_eq!(
        stream.settlements().await,
        sent,
        "the same outcome, the same fence"
    );
    stream.answer(&sent[0], v1::SettleResult::Recorded).await;
    let credit = stream.credit().await;
    assert_eq!((credit.free, credit.last_grant_seq), (3, 0), "one still runs");
    gate.add_permits(1);
    let other = stream.settled().await;
    assert_eq!(kind(&other), "succeeded");
    assert_ne!(other.lease, sent[0].lease);
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn leases_that_cannot_be_reclaimed_are_stopped() {
    let mut router = Router::start();
    let (_gate, handler) = held();
    let running = Running::start(worker(&[router.address.clone()], handler));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream
        .grant_with(1, "1", |grant| grant.lease_ttl_ms = 1_000)
        .await;
    stream.renewal_naming(1).await;
    drop(stream);
    let (mut stream, hello) = router.hello().await;
    assert_eq!(hello.reclaim, [lease(1)]);
    let welcome = v1::Welcome {
        lost: vec![lease(1)],
        ..Default::default()
    };
    stream.send(Down::Welcome(welcome)).await;
    assert_eq!(kind(&stream.settled().await), "released");
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn a_router_that_goes_away_hands_over_to_the_other() {
    let mut routers = [Router::start(), Router::start()];
    let addresses = [routers[0].address.clone(), routers[1].address.clone()];
    let (gate, handler) = held();
    let running = Running::start(worker(&addresses, handler));
    let [one, other] = &mut routers;
    // The start is random.
    let (mut stream, next) = tokio::select! {
        (stream, _) = one.welcome() => (stream, other),
        (stream, _) = other.welcome() => (stream, one),
    };
    stream.credit().await;
    stream.grant(1, "1").await;
    stream.renewal_naming(1).await;
    stream
        .send(Down::GoAway(v1::GoAway {
            reason: "draining".to_owned(),
        }))
        .await;
    let (mut handed_over, hello) = in_time(next.welcome()).await;
    assert_eq!((hello.reclaim, hello.replaces.len()), (vec![lease(1)], 1));
    gate.add_permits(1);
    assert_eq!(
        kind(&handed_over.settled().await),
        "succeeded",
        "it was not interrupted"
    );
    drop(handed_over);
    running.stop().await;
}

#[tokio::test]
async fn a_router_that_is_not_there_is_passed_over() {
    let mut router = Router::start();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let dead = format!("http://{}", closed.local_addr().expect("bound"));
    drop(closed);
    for _ in 0..4 {
        let (_gate, handler) = held();
        let running = Running::start(worker(&[dead.clone(), router.address.clone()], handler));
        let (stream, hello) = router.welcome().await;
        assert!(
            hello.replaces.is_empty(),
            "a hello that never left replaces nothing"
        );
        drop(stream);
        running.stop().await;
    }
}
