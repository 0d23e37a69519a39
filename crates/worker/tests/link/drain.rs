//! Leaving: finish what runs, hand back the rest, say bye.

use std::{sync::Arc, time::Duration};

use tidegate_protocol::v1::{self, lease_request::Message as Up};
use tidegate_worker::{JobContext, JobError};
use tokio::sync::Semaphore;

use crate::{
    Running, in_time,
    router::{Router, Session, kind},
    worker,
};

/// All settlements until the bye, each answered.
async fn until_bye(stream: &mut Session) -> Vec<v1::Settlement> {
    let mut settled = Vec::new();
    loop {
        match stream.next().await.expect("open until the bye") {
            Up::Settle(settle) => {
                for settlement in settle.settlements {
                    stream.answer(&settlement, v1::SettleResult::Recorded).await;
                    settled.push(settlement);
                }
            }
            Up::Bye(_) => return settled,
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_runs_is_finished_and_nothing_more_is_taken() {
    let mut router = Router::start();
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let handler = move |_: JobContext, n: u32| {
        let wait = Arc::clone(&wait);
        async move {
            wait.acquire().await.expect("open").forget();
            Ok(n)
        }
    };
    let running = Running::start(worker(&[router.address.clone()], handler));
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream.grant(1, "1").await;
    stream.renewal_naming(1).await;
    running.shutdown.cancel();
    let credit = stream.credit().await;
    assert_eq!(credit.free, 0);
    gate.add_permits(1);
    let settled = until_bye(&mut stream).await;
    assert_eq!(settled.iter().map(kind).collect::<Vec<_>>(), ["succeeded"]);
    drop(stream);
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_handed_back() {
    let mut router = Router::start();
    let handler = |_: JobContext, _: u32| std::future::pending::<Result<u32, JobError>>();
    let worker = worker(&[router.address.clone()], handler).drain_timeout(Duration::from_millis(50));
    let running = Running::start(worker);
    let (mut stream, _) = router.welcome().await;
    stream.credit().await;
    stream
        .grant_with(1, "1", |grant| grant.lease_ttl_ms = 1_000)
        .await;
    stream.renewal_naming(1).await;
    running.shutdown.cancel();
    let settled = in_time(until_bye(&mut stream)).await;
    assert_eq!(settled.iter().map(kind).collect::<Vec<_>>(), ["released"]);
    drop(stream);
    running.stop().await;
}
