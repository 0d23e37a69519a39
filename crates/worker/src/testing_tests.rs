use super::*;
use crate::{JobContext, JobError, Payload};

const COUNT: Queue<u32> = Queue::new("count");

fn queues<M>(handler: impl crate::Handler<(), u32, M>) -> TestQueues {
    let worker = Worker::connect("127.0.0.1:1", ()).handle(COUNT, handler);
    TestQueues::of(&worker).expect("put together well")
}

#[tokio::test]
async fn a_job_is_tried_as_often_as_the_policy_says() {
    let mut jobs = queues(async |ctx: JobContext, Payload(good): Payload<u32>| {
        let n = ctx.attempt();
        if n < good {
            Err(JobError::retry(format!("attempt {n}")))
        } else {
            Ok(n)
        }
    });
    let (second, fourth) = (jobs.submit(&COUNT, 2), jobs.submit(&COUNT, 4));
    jobs.drain().await;
    let (second, fourth) = (jobs.job(&second), jobs.job(&fourth));
    assert_eq!((second.state, second.result()), (JobState::Succeeded, &b"2"[..]));
    // Half of 2 s, then half of 4 s.
    let began: Vec<u64> = fourth.attempts.iter().map(|attempt| attempt.began_ms).collect();
    assert_eq!((fourth.state, began), (JobState::Dead, vec![0, 1_000, 3_000]));
    assert_eq!(fourth.error(), "attempt 3");
    let fences: Vec<u64> = fourth.attempts.iter().map(|attempt| attempt.fence).collect();
    assert!(fences.is_sorted() && fences[0] < fences[1], "{fences:?}");
}

#[tokio::test]
async fn outcomes_say_what_happens_next() {
    let mut jobs = queues(
        async |ctx: JobContext, Payload(kind): Payload<u32>| match (kind, ctx.fence()) {
            (0, _) => Err(JobError::failed("no")),
            (1, fence) if fence < 4 => Err(JobError::throttled("full", Duration::from_secs(7))),
            (2, fence) if fence < 4 => Err(JobError::released("elsewhere")),
            (3, 1) => Err(JobError::retry_after("later", Duration::from_secs(9))),
            _ => Ok(()),
        },
    )
    .random(0.0);
    for (kind, state, began) in [
        (0, JobState::Dead, vec![0]),
        (1, JobState::Succeeded, vec![0, 7_000, 14_000, 21_000]),
        (2, JobState::Succeeded, vec![0, 0, 0, 1_000]),
        (3, JobState::Succeeded, vec![0, 9_000]),
    ] {
        (jobs.now_ms, jobs.fence) = (0, 0);
        let id = jobs.submit(&COUNT, kind);
        jobs.drain().await;
        let job = jobs.job(&id);
        let times: Vec<u64> = job.attempts.iter().map(|attempt| attempt.began_ms).collect();
        assert_eq!((job.state, times), (state, began), "{kind}");
        let used = job.attempts.last().map(|attempt| attempt.number);
        assert_eq!(
            used,
            Some(if kind == 3 { 2 } else { 1 }),
            "throttled and released use no attempt"
        );
    }
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_dead_at_once() {
    let mut jobs = queues(async |_: Payload<u32>| {});
    let id = jobs.submit_raw("count", "\"x\"", BTreeMap::new());
    jobs.drain().await;
    let job = jobs.job(&id);
    assert_eq!((job.state, job.attempts.len()), (JobState::Dead, 1));
    assert!(job.error().contains("invalid type: string"), "{}", job.error());
}

#[tokio::test]
async fn a_job_that_is_throttled_for_ever_is_left_waiting() {
    let mut jobs = queues(async || Err::<(), _>(JobError::throttled("full", Duration::ZERO)));
    let id = jobs.submit(&COUNT, 1);
    jobs.drain().await;
    assert_eq!(
        (jobs.job(&id).state, jobs.job(&id).attempts.len()),
        (JobState::Scheduled, TRIES_MAX)
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_stopped_by_its_timeout() {
    let mut jobs = queues(async |ctx: JobContext| {
        ctx.heartbeat("row 7");
        std::future::pending::<()>().await;
    })
    .timeout(Duration::from_secs(60));
    jobs.submit(&COUNT, 1);
    let began = clock::now();
    let attempt = jobs.run_next().await.expect("one job");
    assert_eq!(
        attempt.verdict.outcome.error(),
        "timed out after 60000 ms; last progress: row 7"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(60) + GRACE);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_heartbeat_is_stopped_long_before() {
    let mut jobs = queues(async |ctx: JobContext| {
        for row in 1..=5 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            ctx.heartbeat(format!("row {row}"));
        }
        ctx.cancelled().await;
    })
    .heartbeat_timeout(Duration::from_secs(5));
    jobs.submit(&COUNT, 1);
    let began = clock::now();
    let attempt = jobs.run_next().await.expect("one job");
    assert_eq!(
        attempt.verdict.outcome.error(),
        "no heartbeat for 5000 ms; last progress: row 5"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(25));
}

#[tokio::test]
async fn a_panic_is_a_retry() {
    let mut jobs = queues(async |Payload(n): Payload<u32>| assert_eq!(n, 0, "no zero"));
    let id = jobs.submit(&COUNT, 1);
    jobs.drain().await;
    let job = jobs.job(&id);
    assert_eq!((job.state, job.attempts.len()), (JobState::Dead, 3));
    assert_eq!(job.attempts[0].verdict.class, Some(FailureClass::Job));
}

#[tokio::test]
#[should_panic(expected = "no handler for queue other")]
async fn a_queue_without_a_handler_is_a_mistake_of_the_test() {
    queues(async || {}).submit_raw("other", "1", BTreeMap::new());
}
