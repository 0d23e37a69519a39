//! Submitting across routers: repeats are one job, waiters are woken wherever they wait, and what is put off is put off.

use std::time::{Duration, Instant};

use tidegate_protocol::v1::{
    CancelJobsRequest, GetJobRequest, JobState, NewJob, SubmitJobRequest, SubmitOutcome, SubmittedJob,
    WatchJobRequest, job_service_client::JobServiceClient,
};
use tidegate_tests::{
    Answer, App, End, Proxy, Redis, RedisOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc,
    eventually,
};
use tokio::task::JoinSet;
use tonic::{Status, transport::Channel};

use crate::producer::{new_job, queue_stats};

const PATIENCE: Duration = Duration::from_secs(30);

async fn client(router: &Router) -> JobServiceClient<Channel> {
    JobServiceClient::connect(router.grpc_url())
        .await
        .expect("it listens")
}

async fn submit(client: &mut JobServiceClient<Channel>, job: NewJob) -> Result<SubmittedJob, Status> {
    let mut request = tonic::Request::new(SubmitJobRequest { job: Some(job) });
    request.set_timeout(Duration::from_secs(20));
    let answer = client.submit_job(request).await?;
    Ok(answer.into_inner().job.expect("a job"))
}

/// The store has the job and the router does not live to say so: the repeat, anywhere, finds it.
#[tokio::test]
async fn a_router_killed_between_the_stores_write_and_its_answer_loses_nothing_and_doubles_nothing() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let proxy = Proxy::start(redis.port()).await;
    let dying = Router::start(&sandbox, &proxy.redis_url(), RouterOptions::default()).await;
    let other = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let by_key = NewJob {
        idempotency_key: "inv-17".to_owned(),
        request_id: String::new(),
        ..new_job("email", "\"marker-of-the-key\"".to_owned())
    };
    let by_request = new_job("email", "\"marker-of-the-request\"".to_owned());
    let mut clients = (client(&dying).await, client(&other).await);
    for (job, marker) in [
        (&by_key, "marker-of-the-key"),
        (&by_request, "marker-of-the-request"),
    ] {
        proxy.cut_reply(marker, 0);
        let error = submit(&mut clients.0, job.clone())
            .await
            .expect_err("no answer can have come");
        assert!(proxy.has_cut(), "{error}");
    }
    dying.process.kill9();
    for job in [by_key, by_request] {
        let first = submit(&mut clients.1, job.clone())
            .await
            .expect("the repeat is answered");
        assert_eq!(first.outcome(), SubmitOutcome::Duplicate);
        let again = submit(&mut clients.1, job).await.expect("and again");
        assert_eq!(
            (again.outcome(), again.job_id),
            (SubmitOutcome::Duplicate, first.job_id)
        );
    }
    let queue = queue_stats(&other.grpc_url(), "email").await.expect("the queue");
    assert_eq!((queue.ready, queue.submitted_total), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_submits_of_one_key_at_two_routers_are_one_job() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let routers = [
        Router::start(&sandbox, &redis.url(), RouterOptions::default()).await,
        Router::start(&sandbox, &redis.url(), RouterOptions::default()).await,
    ];
    let clients = [client(&routers[0]).await, client(&routers[1]).await];
    let mut submits = JoinSet::new();
    for n in 0..1_000 {
        let mut client = clients[n % 2].clone();
        let job = NewJob {
            idempotency_key: "inv-17".to_owned(),
            ..new_job("email", "{}".to_owned())
        };
        submits.spawn(async move { submit(&mut client, job).await.expect("an answer") });
    }
    let answers = submits.join_all().await;
    let created = answers
        .iter()
        .filter(|job| job.outcome() == SubmitOutcome::Created)
        .count();
    assert_eq!(created, 1);
    assert!(answers.iter().all(|job| job.job_id == answers[0].job_id));
    let queue = queue_stats(&routers[0].grpc_url(), "email")
        .await
        .expect("the queue");
    assert_eq!((queue.ready, queue.submitted_total), (1, 1));
}

/// From the application's answer at one router's worker to the end of the wait at another router.
async fn waited(near: &Router, app: &App) -> Duration {
    let mut client = client(near).await;
    let job = NewJob {
        want_result: true,
        ..new_job("email", "{}".to_owned())
    };
    let id = submit(&mut client, job).await.expect("it is taken").job_id;
    let request = WatchJobRequest { job_id: id.clone() };
    let mut watch = client
        .watch_job(request)
        .await
        .expect("it is watched")
        .into_inner();
    loop {
        let update = watch
            .message()
            .await
            .expect("the stream is sound")
            .expect("an end comes");
        let job = update.job.expect("a job");
        if job.state() == JobState::Succeeded {
            assert_eq!(&job.result[..], b"done");
            let delivery = app.deliveries_of(&id).remove(0);
            return delivery.at.elapsed();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_at_one_router_is_woken_by_a_job_done_through_another() {
    const WORK: Duration = Duration::from_millis(50);
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let near = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let far = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let app = App::start(|_| Answer::ok().body("done").after(WORK));
    let options = WorkerOptions::default();
    let _worker = WorkerProc::start(&sandbox, &[far.grpc_url()], &app.url(), &["email"], options).await;
    let mut times = Vec::new();
    for _ in 0..9 {
        times.push(waited(&near, &app).await);
    }
    times.sort_unstable();
    // A router looks at a watched job each second: by looks alone the middle one would be half a second.
    assert!(times[4] < WORK + Duration::from_millis(200), "{times:?}");
    println!("from delivery to the waiter at another router, the job takes {WORK:?}: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_deadlines_and_the_cancel_of_a_running_job() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
    let app = App::start(|delivery| match &delivery.queue[..] {
        "slow" => Answer::ok().after(Duration::from_secs(25)),
        _ => Answer::ok(),
    });
    let options = WorkerOptions {
        slots: Some(1),
        ..WorkerOptions::default()
    };
    let queues = ["email", "slow"];
    let _worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &queues, options).await;
    let mut client = client(&router).await;
    let begin = Instant::now();
    let delayed = NewJob {
        delay_ms: 1_500,
        ..new_job("email", "{}".to_owned())
    };
    let delayed = submit(&mut client, delayed).await.expect("it is taken").job_id;
    app.wait_for(1, PATIENCE).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(1_500),
        "not before its time"
    );
    assert_eq!(app.deliveries()[0].job_id, delayed);

    // The only slot is held by a job that would take long; one that cannot wait so long expires unrun.
    let running = submit(&mut client, new_job("slow", "{}".to_owned()))
        .await
        .expect("it is taken")
        .job_id;
    app.wait_for(2, PATIENCE).await;
    let hurried = NewJob {
        deadline_after_ms: 500,
        ..new_job("email", "{}".to_owned())
    };
    let hurried = submit(&mut client, hurried).await.expect("it is taken").job_id;
    let state = async |client: &mut JobServiceClient<Channel>, job_id: &str| {
        let job_id = job_id.to_owned();
        let answer = client
            .get_job(GetJobRequest { job_id })
            .await
            .expect("it is kept");
        answer.into_inner().job.expect("a job").state()
    };
    eventually(PATIENCE, "the end of the hurried job", async || {
        (state(&mut client.clone(), &hurried).await == JobState::Expired).then_some(())
    })
    .await;

    let cancel = CancelJobsRequest {
        job_ids: vec![running.clone()],
    };
    let results = client
        .cancel_jobs(cancel)
        .await
        .expect("an answer")
        .into_inner()
        .results;
    assert_eq!(
        (results[0].state(), &results[0].error),
        (JobState::Cancelled, &None)
    );
    eventually(PATIENCE, "the handler's end", async || {
        let delivery = app.deliveries_of(&running).remove(0);
        matches!(delivery.end, End::HungUp).then_some(())
    })
    .await;
    submit(&mut client, new_job("email", "{}".to_owned()))
        .await
        .expect("it is taken");
    app.wait_for(3, Duration::from_secs(15)).await;
    assert_eq!(state(&mut client, &running).await, JobState::Cancelled);
    assert!(app.deliveries_of(&hurried).is_empty());
}
