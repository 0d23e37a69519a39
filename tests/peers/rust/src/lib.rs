//! What the adapters written in Rust share: the calls of ../README.md around a peer's two functions. Tidegate's own adapter
//! includes this file, too.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

/// Submits in flight.
pub const LANES: usize = 64;
const BULK: u64 = 500;
const PAYLOAD_BYTES: usize = 200;

/// CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn payload(id: u64, at: u64) -> Value {
    let bare = json!({"id": id, "at": at.to_string(), "pad": ""})
        .to_string()
        .len();
    json!({"id": id, "at": at.to_string(), "pad": "x".repeat(PAYLOAD_BYTES.saturating_sub(bare))})
}

/// `submit MODE NUMBERS`: `add` submits one job by the peer's single call, more by its bulk call.
pub async fn submit<F, A>(mode: &str, numbers: &[f64], lanes: usize, add: A)
where
    A: Fn(Vec<Value>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (first, second) = (numbers[0], numbers.get(1).copied().unwrap_or(0.0));
    let start = now_ns();
    let elapsed = move || (now_ns() - start) as f64 / 1e9;
    let sent = Arc::new(AtomicU64::new(0));
    match mode {
        "single" => {
            let lane = || {
                let (add, sent) = (add.clone(), Arc::clone(&sent));
                tokio::spawn(async move {
                    while elapsed() < first {
                        add(vec![payload(sent.fetch_add(1, Ordering::Relaxed), now_ns())]).await;
                    }
                })
            };
            join_all((0..lanes).map(|_| lane())).await;
        }
        "rate" => {
            let total = (first * (1.0 + second)) as u64;
            let runtime = Handle::current();
            // A thread, because the runtime's timer knows whole milliseconds.
            let send = move || {
                let jobs = (0..total).map(|id| {
                    let at = start + (id as f64 / first * 1e9) as u64;
                    thread::sleep(Duration::from_nanos(at.saturating_sub(now_ns())));
                    // Jobs of the first second have no time: they are the warm-up.
                    let at = if (id as f64) < first { 0 } else { at };
                    runtime.spawn(add(vec![payload(id, at)]))
                });
                jobs.collect::<Vec<_>>()
            };
            let answers = spawn_blocking(send).await.expect("the generator ends");
            sent.store(total, Ordering::Relaxed);
            join_all(answers).await;
        }
        _ => loop {
            let from = sent.load(Ordering::Relaxed);
            let more = if mode == "bulk" {
                BULK
            } else {
                BULK.min(first as u64 - from)
            };
            if more == 0 || (mode == "bulk" && elapsed() >= first) {
                break;
            }
            add((from..from + more).map(|id| payload(id, now_ns())).collect()).await;
            sent.store(from + more, Ordering::Relaxed);
        },
    }
    println!("submitted {} {}", sent.load(Ordering::Relaxed), elapsed());
}

/// What a worker counts.
#[derive(Default)]
pub struct Work {
    sleep: Duration,
    handled: AtomicU64,
    waits: Mutex<Vec<f64>>,
}

impl Work {
    pub fn new(sleep_ms: f64) -> Arc<Self> {
        let sleep = Duration::from_secs_f64(sleep_ms / 1e3);
        Arc::new(Self {
            sleep,
            ..Self::default()
        })
    }

    /// The handler.
    pub async fn handle(&self, job: &Value) {
        let at = job["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or(0);
        if at > 0 {
            let wait = now_ns().saturating_sub(at) as f64 / 1e6;
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.push(wait);
        }
        if !self.sleep.is_zero() {
            println!("start {}", job["id"]);
            tokio::time::sleep(self.sleep).await;
            println!("end {}", job["id"]);
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports until SIGTERM, then says how long jobs waited.
    pub async fn report(&self) {
        println!("ready");
        let mut end = signal(SignalKind::terminate()).expect("listen for SIGTERM");
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = end.recv() => break,
                _ = tick.tick() => println!("handled {} {}", self.handled.load(Ordering::Relaxed), now_ns()),
            }
        }
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (waits.len() as f64 * share) as usize;
            waits
                .get(index.min(waits.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        println!("handled {} {}", self.handled.load(Ordering::Relaxed), now_ns());
        println!(
            "pickup {} {} {} {} {}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            waits.len()
        );
    }
}

/// A submitter has one thread, as those on Node and Ruby have: beside a store and a worker on two processors a second one
/// mostly wakes the first up.
pub fn runtime() -> Runtime {
    let mut builder = match &*args().0 {
        "submit" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().build().expect("build a runtime")
}

/// The call and its numbers, as the process was given them.
pub fn args() -> (String, String, Vec<f64>) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let call = args.first().cloned().unwrap_or_default();
    let mode = args.get(1).cloned().unwrap_or_default();
    let numbers = args.iter().skip(1).filter_map(|text| text.parse().ok()).collect();
    assert!(
        ["submit", "work"].contains(&&*call),
        "unknown call {call:?}; see ../README.md"
    );
    (call, mode, numbers)
}
