//! Three times as much as can be done, offered in an open loop: what is taken is done in time, the rest is refused at once,
//! and when it is over everything is as before.
//!
//! Jobs sleep, so that capacity is slots and not processors. The end-to-end test runs a small and short one of it,
//! `cargo xtask bench overload` the whole.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tidegate_client::Client;
use tidegate_protocol::v1::{NewJob, SubmitJobRequest, job_service_client::JobServiceClient};
use tonic::{Code, transport::Channel};
use uuid::Uuid;

use super::Figures;
use crate::{
    Answer, App, Controller, ControllerOptions, End, Redis, RedisOptions, Router, RouterOptions, Sandbox,
    WorkerOptions, WorkerProc,
    load::{Latencies, Sent, open_loop, steady},
};

/// What the queue's policy promises.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Connections of the producer.
const CHANNELS: usize = 4;
const CALL_MAX: Duration = Duration::from_secs(5);
const QUEUE: &str = "email";
const WARM_UP: Duration = Duration::from_secs(6);
/// What a process needs at this load, it has after so long.
const RAMP: Duration = Duration::from_secs(5);
/// Next to nothing waits.
const NORMAL_AGE_MS: u64 = 500;
const NEVER_NORMAL: Duration = Duration::from_secs(60);

/// How much of it.
#[derive(Clone, Copy)]
pub struct Scale {
    pub slots: u32,
    pub run: Duration,
    /// Of the overload.
    pub time: Duration,
}

impl Scale {
    /// What is promised is promised for this one, in a release build on a quiet machine.
    pub const WHOLE: Self = Self {
        slots: 35,
        run: Duration::from_millis(100),
        time: Duration::from_secs(60),
    };

    /// Jobs a second.
    fn capacity(self) -> f64 {
        f64::from(self.slots) / self.run.as_secs_f64()
    }

    fn normal(self) -> f64 {
        self.capacity() / 2.0
    }

    fn overload(self) -> f64 {
        self.capacity() * 3.0
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Seen {
    /// Jobs done during the overload, as a share of the capacity.
    pub goodput: f64,
    pub offered: usize,
    pub refusals: Times,
    /// From submit to the start of the handler, of all that were taken.
    pub waits: Times,
    /// After the end of the overload.
    pub normal_after: Duration,
    /// Before and after, in kB.
    pub router_kb: (u64, u64),
    pub worker_kb: (u64, u64),
}

#[derive(Debug)]
pub struct Times {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let all: Latencies = times.collect();
        Self {
            count: all.count(),
            p50_ms: all.ms(0.5),
            p99_ms: all.ms(0.99),
            max_ms: all.ms(1.0),
        }
    }
}

/// # Errors
/// A process that does not start, or a refusal of another kind than overload.
pub async fn run(scale: Scale, rounds: usize) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..rounds {
        let seen = measure(scale).await?;
        let growth = |(before, after): (u64, u64)| (after as f64 - before as f64) / 1024.0;
        figures.add("overload_goodput_pct", 100.0 * seen.goodput);
        figures.add("overload_refusal_p50_ms", seen.refusals.p50_ms);
        figures.add("overload_refusal_p99_ms", seen.refusals.p99_ms);
        figures.add("overload_wait_p99_ms", seen.waits.p99_ms);
        figures.add("overload_wait_max_ms", seen.waits.max_ms);
        figures.add("overload_normal_after_ms", seen.normal_after.as_secs_f64() * 1e3);
        figures.add("overload_router_growth_mb", growth(seen.router_kb));
        figures.add("overload_worker_growth_mb", growth(seen.worker_kb));
    }
    Ok(figures)
}

/// The id of the job, or why it was refused.
type Answered = Sent<Result<String, Code>>;

/// # Errors
/// As [`run`].
pub async fn measure(scale: Scale) -> anyhow::Result<Seen> {
    let sandbox = Sandbox::new();
    let stack = Stack::start(&sandbox, scale).await?;
    let warm = stack.offer(scale.normal(), WARM_UP).await;
    ensure!(
        warm.iter().all(|call| call.answer.is_ok()),
        "somebody is refused while there is room"
    );
    let rss = || (stack.router.process.rss_kb(), stack.worker.process.rss_kb());
    let ramp = stack.offer(scale.overload(), RAMP).await;
    let before = rss();
    let begin = Instant::now();
    let calls = stack.offer(scale.overload(), scale.time).await;
    let end = begin + scale.time;
    let after = rss();
    let normal_after = stack.recovers(scale.normal()).await?;

    let deliveries = stack.app.deliveries();
    let in_time = |delivery: &&crate::Delivery| {
        matches!(delivery.end, End::Answered(_)) && (begin..end).contains(&delivery.at)
    };
    let done = deliveries.iter().filter(in_time).count() as f64;
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
                let at = at.with_context(|| format!("{id} was taken and never ran"))?;
                waits.push(at.saturating_duration_since(call.due));
            }
            Err(code) => ensure!(*code == Code::ResourceExhausted, "a submit was answered {code:?}"),
        }
    }
    let refused = calls.iter().filter(|call| call.answer.is_err());
    Ok(Seen {
        goodput: done / scale.time.as_secs_f64() / scale.capacity(),
        offered: calls.len(),
        refusals: Times::of(refused.map(Sent::latency)),
        waits: Times::of(waits.into_iter()),
        normal_after,
        router_kb: (before.0, after.0),
        worker_kb: (before.1, after.1),
    })
}

struct Stack<'a> {
    client: Client,
    channels: Vec<Channel>,
    router: Router,
    worker: WorkerProc,
    app: App,
    _controller: Controller,
    _redis: Redis<'a>,
}

impl<'a> Stack<'a> {
    async fn start(sandbox: &'a Sandbox, scale: Scale) -> anyhow::Result<Self> {
        let redis = Redis::start(sandbox, RedisOptions::default()).await;
        let policies = format!("[queues.{QUEUE}]\nmax_wait = \"{}s\"\n", DEADLINE.as_secs());
        let options = ControllerOptions {
            policies: Some(policies),
            config: Some("[controller]\ntick = \"1s\"\n".to_owned()),
            ..ControllerOptions::default()
        };
        let controller = Controller::start(sandbox, options).await;
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
        let url = router.grpc_url();
        let worker =
            WorkerProc::start(sandbox, std::slice::from_ref(&url), &app.url(), &[QUEUE], options).await;
        Ok(Self {
            client: Client::connect([url.clone()])?,
            channels: channels(&url).await?,
            router,
            worker,
            app,
            _controller: controller,
            _redis: redis,
        })
    }

    /// Submits at a rate whatever comes back: each call starts at its own time, not when the last one has ended.
    async fn offer(&self, per_second: f64, time: Duration) -> Vec<Answered> {
        let arrivals = steady(time, per_second);
        open_loop(Instant::now(), &arrivals, |n| {
            submit(self.channels[n % self.channels.len()].clone(), QUEUE)
        })
        .await
    }

    /// At half the capacity, until a whole second of it is taken and next to nothing waits.
    async fn recovers(&self, normal: f64) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        loop {
            let calls = self.offer(normal, Duration::from_secs(1)).await;
            let queue = self.client.get_queue(QUEUE).await?;
            let is_open = calls.iter().all(|call| call.answer.is_ok());
            if is_open && queue.oldest_ready_age_ms < NORMAL_AGE_MS {
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < NEVER_NORMAL, "never normal again: {queue:?}");
        }
    }
}

/// Connections of a producer.
pub(super) async fn channels(url: &str) -> anyhow::Result<Vec<Channel>> {
    let mut all = Vec::new();
    for _ in 0..CHANNELS {
        all.push(Channel::from_shared(url.to_owned())?.connect().await?);
    }
    Ok(all)
}

/// A call of one job, with a deadline.
pub(super) async fn submit(channel: Channel, queue: &str) -> Result<String, Code> {
    let job = NewJob {
        queue: queue.to_owned(),
        payload: "{}".into(),
        request_id: Uuid::new_v4().to_string(),
        ..NewJob::default()
    };
    let mut request = tonic::Request::new(SubmitJobRequest { job: Some(job) });
    request.set_timeout(CALL_MAX);
    let answer = JobServiceClient::new(channel).submit_job(request).await;
    let answer = answer.map_err(|status| status.code())?.into_inner();
    Ok(answer.job.map(|job| job.job_id).unwrap_or_default())
}
