//! Three times as much as can be done, offered in an open loop: what is taken is done in time, the rest is refused at once,
//! and when it is over everything is as before.
//!
//! Jobs sleep, so that capacity is slots and not processors. `TIDEGATE_LONG=1` is the whole exercise, for a release build on
//! a quiet machine: 35 slots of 100 ms, a minute long, with the figures that are promised. Without it a seventh of that
//! load, shorter, and bounds that a busy machine keeps.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tidegate_protocol::v1::{SubmitJobRequest, job_service_client::JobServiceClient};
use tidegate_tests::{
    Answer, App, Controller, ControllerOptions, End, Redis, RedisOptions, Router, RouterOptions, Sandbox,
    WorkerOptions, WorkerProc,
};
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};

use crate::producer::{new_job, queue_stats};

const DEADLINE: Duration = Duration::from_secs(5);
const CHANNELS: usize = 4;

/// What one submit came to.
struct Call {
    took: Duration,
    sent: Instant,
    /// The job's id, or why it was refused.
    answer: Result<String, Code>,
}

/// How much of it.
struct Scale {
    slots: u32,
    run: Duration,
    time: Duration,
    goodput_min: f64,
    refusal_max: Duration,
    wait_max: Duration,
}

impl Scale {
    fn of_environment() -> Self {
        if std::env::var("TIDEGATE_LONG").is_ok_and(|value| value == "1") {
            return Self {
                slots: 35,
                run: Duration::from_millis(100),
                time: Duration::from_secs(60),
                goodput_min: 0.9,
                refusal_max: Duration::from_millis(5),
                wait_max: DEADLINE.mul_f64(1.6),
            };
        }
        Self {
            slots: 10,
            run: Duration::from_millis(200),
            time: Duration::from_secs(12),
            goodput_min: 0.6,
            refusal_max: Duration::from_millis(200),
            wait_max: DEADLINE.mul_f64(2.0),
        }
    }

    /// Jobs a second.
    fn capacity(&self) -> f64 {
        f64::from(self.slots) / self.run.as_secs_f64()
    }

    fn normal(&self) -> f64 {
        self.capacity() / 2.0
    }

    fn overload(&self) -> f64 {
        self.capacity() * 3.0
    }
}

async fn channels(router: &Router) -> Vec<Channel> {
    let mut all = Vec::new();
    for _ in 0..CHANNELS {
        let endpoint = Channel::from_shared(router.grpc_url()).unwrap();
        all.push(endpoint.connect().await.unwrap());
    }
    all
}

/// Submits at a rate whatever comes back: each call starts at its own time, not when the last one has ended.
async fn offer(channels: &[Channel], per_second: f64, time: Duration) -> Vec<Call> {
    let mut calls = JoinSet::new();
    let (start, count) = (Instant::now(), (per_second * time.as_secs_f64()) as usize);
    for n in 0..count {
        let at = start + Duration::from_secs_f64(n as f64 / per_second);
        tokio::time::sleep_until(at.into()).await;
        let channel = channels[n % channels.len()].clone();
        calls.spawn(async move {
            let mut request = tonic::Request::new(SubmitJobRequest {
                job: Some(new_job("email", "{}".to_owned())),
            });
            request.set_timeout(Duration::from_secs(5));
            let sent = Instant::now();
            let answer = JobServiceClient::new(channel).submit_job(request).await;
            Call {
                took: sent.elapsed(),
                sent,
                answer: answer
                    .map(|answer| answer.into_inner().job.unwrap().job_id)
                    .map_err(|status| status.code()),
            }
        });
    }
    calls.join_all().await
}

fn quantile(mut times: Vec<Duration>, q: f64) -> Duration {
    times.sort_unstable();
    let at = ((times.len() as f64 - 1.0) * q).round() as usize;
    times.get(at).copied().unwrap_or_default()
}

struct Bench<'a> {
    router: Router,
    worker: WorkerProc,
    app: App,
    _controller: Controller,
    _redis: Redis<'a>,
}

async fn start<'a>(sandbox: &'a Sandbox, scale: &Scale) -> Bench<'a> {
    let redis = Redis::start(sandbox, RedisOptions::default()).await;
    let policies = format!("[queues.email]\nmax_wait = \"{}s\"\n", DEADLINE.as_secs());
    let controller = Controller::start(
        sandbox,
        ControllerOptions {
            policies: Some(policies),
            config: Some("[controller]\ntick = \"1s\"\n".to_owned()),
            ..ControllerOptions::default()
        },
    )
    .await;
    let args = vec!["--controller".to_owned(), controller.grpc_url()];
    let options = RouterOptions {
        args: args.clone(),
        ..RouterOptions::default()
    };
    let router = Router::start(sandbox, &redis.url(), options).await;
    let run = scale.run;
    let app = App::start(move |_| Answer::ok().after(run));
    let options = WorkerOptions {
        slots: Some(scale.slots),
        args,
        ..WorkerOptions::default()
    };
    let worker = WorkerProc::start(sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await;
    Bench {
        router,
        worker,
        app,
        _controller: controller,
        _redis: redis,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_the_capacity_is_refused_politely_and_forgotten_at_once() {
    let sandbox = Sandbox::new();
    let scale = Scale::of_environment();
    let bench = start(&sandbox, &scale).await;
    let channels = channels(&bench.router).await;
    let warm = offer(&channels, scale.normal(), Duration::from_secs(6)).await;
    let refused = warm.iter().filter(|call| call.answer.is_err()).count();
    assert_eq!(refused, 0, "nobody is refused while there is room");

    let rss = |bench: &Bench<'_>| (bench.router.process.rss_kb(), bench.worker.process.rss_kb());
    // What a process needs at this load, it has after a few seconds of it.
    let ramp = offer(&channels, scale.overload(), Duration::from_secs(3)).await;
    let before = rss(&bench);
    let begin = Instant::now();
    let calls = offer(&channels, scale.overload(), scale.time).await;
    let end = begin + scale.time;
    let after = rss(&bench);
    let normal = recover(&channels, &bench.router, scale.normal()).await;
    bench.app.wait_for_answers(1, Duration::from_secs(1)).await;

    let deliveries = bench.app.deliveries();
    let done_in_time = deliveries
        .iter()
        .filter(|delivery| matches!(delivery.end, End::Answered(_)) && (begin..end).contains(&delivery.at));
    let goodput = done_in_time.count() as f64 / scale.time.as_secs_f64() / scale.capacity();
    let started: HashMap<&str, Instant> = deliveries
        .iter()
        .rev()
        .map(|delivery| (delivery.job_id.as_str(), delivery.at))
        .collect();
    let mut waits = Vec::new();
    for call in ramp.iter().chain(&calls) {
        match &call.answer {
            Ok(id) => {
                let at = started.get(id.as_str());
                let at = at.unwrap_or_else(|| panic!("{id} was taken and never ran"));
                waits.push(at.saturating_duration_since(call.sent));
            }
            Err(code) => assert_eq!(*code, Code::ResourceExhausted),
        }
    }
    let refusals: Vec<Duration> = calls
        .iter()
        .filter(|call| call.answer.is_err())
        .map(|call| call.took)
        .collect();
    let longest = waits.iter().max().copied().unwrap_or_default();
    let (refusal_p50, refusal_p99) = (quantile(refusals.clone(), 0.5), quantile(refusals.clone(), 0.99));
    println!(
        "overload: goodput {:.1} % of capacity, refused {} of {}, refusals p50 {refusal_p50:.1?} p99 {refusal_p99:.1?}, \
         wait p50 {:.1?} p99 {:.1?} longest {longest:.1?}, normal again after {normal:.1?}, \
         rss router {} -> {} kB, worker {} -> {} kB",
        100.0 * goodput,
        refusals.len(),
        calls.len(),
        quantile(waits.clone(), 0.5),
        quantile(waits.clone(), 0.99),
        before.0,
        after.0,
        before.1,
        after.1,
    );
    let Scale {
        goodput_min,
        refusal_max,
        wait_max,
        ..
    } = scale;
    assert!(goodput >= goodput_min, "goodput {goodput}");
    assert!(refusals.len() * 3 >= calls.len(), "two thirds cannot be done");
    assert!(
        refusal_p50 < refusal_max / 2 && refusal_p99 < refusal_max,
        "{refusal_p50:?} {refusal_p99:?}"
    );
    assert!(longest <= wait_max, "a job that was taken waited {longest:?}");
    assert!(normal <= Duration::from_secs(10), "normal again after {normal:?}");
    assert!(
        after.0 < before.0 * 5 / 4 + 20_000,
        "router {before:?} -> {after:?} kB"
    );
    assert!(
        after.1 < before.1 * 5 / 4 + 20_000,
        "worker {before:?} -> {after:?} kB"
    );
}

/// At half the capacity, until a whole second of it is taken and next to nothing waits.
async fn recover(channels: &[Channel], router: &Router, normal: f64) -> Duration {
    let begin = Instant::now();
    loop {
        let calls = offer(channels, normal, Duration::from_secs(1)).await;
        let is_open = calls.iter().all(|call| call.answer.is_ok());
        let queue = queue_stats(&router.grpc_url(), "email")
            .await
            .expect("the queue is there");
        if is_open && queue.oldest_ready_age_ms < 500 {
            return begin.elapsed();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "never normal again: {queue:?}"
        );
    }
}
