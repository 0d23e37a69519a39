use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_chassis::tasks::Tasks;
use tidegate_client::Queue;
use tidegate_protocol::{domain::Outcome, v1};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Handler, Payload};

const EMAIL: Queue<u32> = Queue::new("email");

/// One attempt by `handler` on payload `1`; told to stop, if `stop_ms` is given, with a grace of as much.
async fn run<F, Fut>(handler: F, stop_ms: Option<u64>) -> Ended
where
    F: Fn(JobContext, Payload<u32>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send + 'static,
{
    let (starts, to_start) = mpsc::channel(1);
    let (report, mut ended) = mpsc::channel(1);
    let delivery: Arc<dyn Delivery> = Handler::<(), u32, _>::into_delivery(handler, ());
    let deliveries = Deliveries::from([(EMAIL.name().parse().expect("valid"), delivery)]);
    let tasks = Tasks::new(CancellationToken::new());
    let instruments = Instruments::new(&tidegate_chassis::telemetry::meter());
    tasks.spawn(
        "attempts",
        run_attempts(to_start, report, deliveries, instruments, Monotonic::start()),
    );
    let stop = Stop::default();
    let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
    let grant = v1::Grant {
        payload: "1".into(),
        ..Default::default()
    };
    let start = Start {
        lease: LeaseRef { id, fence: 9 },
        grant,
        age_ms: 0,
        time_ms: 60_000,
        stop: stop.clone(),
    };
    starts.try_send(start).expect("room");
    if let Some(ms) = stop_ms {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        stop.tell(Duration::from_millis(ms));
    }
    tokio::time::timeout(Duration::from_secs(5), ended.recv())
        .await
        .expect("in time")
        .expect("reported")
}

#[tokio::test]
async fn a_handler_sees_its_attempt_and_its_verdict_is_reported() {
    let handler = |ctx: JobContext, Payload(n): Payload<u32>| async move {
        assert_eq!((n, ctx.fence(), ctx.queue().as_str()), (1, 9, "email"));
        assert!(ctx.time_left() > Duration::from_secs(50));
        Ok(())
    };
    let ended = run(handler, None).await;
    assert_eq!(
        (ended.lease.fence, ended.verdict),
        (9, Some(Verdict::succeeded("")))
    );
}

#[tokio::test]
async fn a_panic_is_that_attempts_failure() {
    let handler = |_: JobContext, _: Payload<u32>| async {
        tokio::task::yield_now().await;
        panic!("no rows")
    };
    let verdict = run(handler, None).await.verdict.expect("it has one");
    assert!(
        matches!(&verdict.outcome, Outcome::Retry { error, .. } if error.contains("no rows")),
        "{verdict:?}"
    );
    assert_eq!(verdict.class, Some(FailureClass::Job));
}

#[tokio::test]
async fn a_stop_is_told_first_and_dropped_after_the_grace() {
    let polite = |ctx: JobContext, _: Payload<u32>| async move {
        ctx.cancelled().await;
        Err(JobError::failed("told"))
    };
    let verdict = run(polite, Some(5)).await.verdict.expect("it ended by itself");
    assert_eq!(verdict.outcome, Outcome::Failed { error: "told".into() });
    let deaf = |_: JobContext, _: Payload<u32>| std::future::pending();
    assert_eq!(run(deaf, Some(5)).await.verdict, None);
}

#[tokio::test]
async fn an_attempt_lasts_until_its_thread_has_ended() {
    let let_go = Arc::new(AtomicBool::new(false));
    let gone = Arc::new(AtomicBool::new(false));
    let (hold, mark) = (Arc::clone(&let_go), Arc::clone(&gone));
    let handler = move |ctx: JobContext, _: Payload<u32>| {
        let (hold, mark) = (Arc::clone(&hold), Arc::clone(&mark));
        async move {
            let work = move || {
                while !hold.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                mark.store(true, Ordering::Relaxed);
            };
            ctx.run_blocking(work).await
        }
    };
    let open = async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let_go.store(true, Ordering::Relaxed);
    };
    let (ended, ()) = tokio::join!(run(handler, Some(5)), open);
    assert_eq!(ended.verdict, None, "stopped");
    assert!(
        gone.load(Ordering::Relaxed),
        "reported only after its thread had ended"
    );
}

#[tokio::test]
async fn a_panic_while_dropping_is_reported_too() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "boom");
        }
    }
    let handler = |_: JobContext, _: Payload<u32>| async {
        let _bomb = Bomb;
        std::future::pending().await
    };
    assert_eq!(run(handler, Some(5)).await.verdict, None);
}
