//! The users' app of one lane: a real HTTP server that slows down beyond its capacity, and refuses far beyond it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    CAPACITY, QUEUES,
    load::{Clock, Plan},
};

/// Twice the capacity takes 2.8 times as long: beyond the knee the app does *less* in all, as a database does.
const STRETCH: f64 = 1.5;
/// From here on it refuses, at twice this it refuses almost everything.
const REFUSE_FROM: f64 = 1.25;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

pub struct KneeApp {
    pub url: String,
    pub counts: Arc<Counts>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
pub struct Counts {
    pub in_flight: AtomicU32,
    pub deliveries: AtomicU64,
    /// Answers other than success.
    pub errors: [AtomicU64; QUEUES.len()],
    samples: AtomicU64,
    samples_over: AtomicU64,
    done: Mutex<Done>,
}

/// Of each job, by its number: when it was done first. Of each queue: latencies in the order they came.
#[derive(Default)]
struct Done {
    jobs: Vec<bool>,
    latencies: [Vec<f64>; QUEUES.len()],
}

impl Counts {
    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Percent of the time with more in flight than the app's capacity of that moment.
    pub fn over_capacity_pct(&self) -> f64 {
        let samples = self.samples.load(Ordering::Relaxed).max(1);
        100.0 * self.samples_over.load(Ordering::Relaxed) as f64 / samples as f64
    }

    /// Of the last so many jobs of a queue, or of all queues and all time: ms from arrival to success.
    pub fn latency(&self, queue: Option<usize>, last: usize, quantile: f64) -> Option<f64> {
        let done = self.done();
        let mut values: Vec<f64> = match queue {
            Some(queue) => done.latencies[queue].iter().rev().take(last).copied().collect(),
            None => done.latencies.concat(),
        };
        drop(done);
        values.sort_by(f64::total_cmp);
        let rank = (quantile * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied()
    }

    /// Deliveries of jobs that had been delivered before.
    pub fn retries(&self) -> u64 {
        let first = self.done().jobs.iter().filter(|done| **done).count() as u64;
        self.deliveries.load(Ordering::Relaxed).saturating_sub(first)
    }
}

#[derive(Clone)]
struct Server {
    counts: Arc<Counts>,
    plan: Arc<Plan>,
    clock: Clock,
}

impl KneeApp {
    pub async fn start(plan: Arc<Plan>, clock: Clock) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        counts.done().jobs = vec![false; plan.arrivals.len()];
        let server = Server {
            counts: counts.clone(),
            plan,
            clock,
        };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let sampling = tokio::spawn(sample(server.clone()));
        let router = Router::new().fallback(deliver).with_state(server);
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            url,
            counts,
            tasks: [sampling, serving],
        })
    }
}

impl Drop for KneeApp {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    fn capacity(&self) -> u32 {
        if self.plan.slow.contains(&self.clock.elapsed()) {
            CAPACITY / 2
        } else {
            CAPACITY
        }
    }
}

/// Counts one request while it lives, also when the caller hangs up.
struct InFlight(Arc<Counts>);

impl InFlight {
    fn enter(counts: &Arc<Counts>) -> (Self, u32) {
        let n = counts.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(counts.clone()), n)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(serde::Deserialize)]
struct Payload {
    n: usize,
}

async fn deliver(State(server): State<Server>, _headers: HeaderMap, body: Bytes) -> StatusCode {
    let Ok(Payload { n }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let Some(arrival) = server.plan.arrivals.get(n) else {
        return StatusCode::NOT_FOUND;
    };
    let counts = &server.counts;
    counts.deliveries.fetch_add(1, Ordering::Relaxed);
    let (_in_flight, in_flight) = InFlight::enter(counts);
    let load = f64::from(in_flight) / f64::from(server.capacity());
    if fastrand::f64() < (load - REFUSE_FROM) / REFUSE_FROM {
        counts.errors[arrival.queue].fetch_add(1, Ordering::Relaxed);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let work = QUEUES[arrival.queue].work_ms * (0.5 + fastrand::f64()) * load.max(1.0).powf(STRETCH);
    tokio::time::sleep(Duration::from_secs_f64(work / 1_000.0)).await;
    let latency = server.clock.elapsed().saturating_sub(arrival.at).as_secs_f64() * 1_000.0;
    let mut done = counts.done();
    if !std::mem::replace(&mut done.jobs[n], true) {
        done.latencies[arrival.queue].push(latency);
    }
    StatusCode::OK
}

async fn sample(server: Server) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    loop {
        ticks.tick().await;
        let over = server.counts.in_flight.load(Ordering::Relaxed) > server.capacity();
        server.counts.samples.fetch_add(1, Ordering::Relaxed);
        server
            .counts
            .samples_over
            .fetch_add(u64::from(over), Ordering::Relaxed);
    }
}
