//! How soon a job is picked up: from the moment at which it was to be submitted to the start of its handler, with jobs
//! submitted at a steady rate, whatever becomes of the earlier ones (an open loop).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use tidegate_client::Client;
use tokio_util::task::TaskTracker;

use super::{QUEUE, Stack, WARM_UP, payload, worker};
use crate::{START_TIMEOUT, Sandbox};

/// Name, jobs a second, routers: with two of them jobs are submitted at one and the worker is at the other.
pub(super) const CASES: [(&str, u64, usize); 3] = [
    ("pickup_500", 500, 1),
    ("pickup_2000", 2_000, 1),
    ("pickup_across_500", 500, 2),
];

pub(super) struct Picked {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

pub(super) async fn measure(rate: u64, routers: usize, seconds: f64) -> anyhow::Result<Picked> {
    let sandbox = Sandbox::new();
    let stack = Stack::start(&sandbox, routers).await;
    let client = Client::connect([stack.submit_url()])?;
    let warm_up = (rate as f64 * WARM_UP.as_secs_f64()) as u64;
    let measured = (rate as f64 * seconds) as u64;
    let sending = Sending::default();
    let (runtime, sent) = (tokio::runtime::Handle::current(), sending.clone());
    // A thread, because the runtime's timer has a resolution of a millisecond.
    let generator = thread::spawn(move || {
        let _in_runtime = runtime.enter();
        generate(rate, warm_up, measured, &client, &sent);
    });
    tokio::task::spawn_blocking(move || generator.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the generator panicked"))?;
    sending.tasks.close();
    sending.tasks.wait().await;
    let failed = sending.failed.load(Ordering::Relaxed);
    ensure!(failed == 0, "{failed} submits failed");
    stack.settled(warm_up + measured).await?;
    stack.worker.sigterm();
    let line = stack.worker.wait_for_line(worker::PICKED, START_TIMEOUT).await;
    parse(&line, measured)
}

#[derive(Clone, Default)]
struct Sending {
    tasks: TaskTracker,
    failed: Arc<AtomicU64>,
}

fn generate(rate: u64, warm_up: u64, measured: u64, client: &Client, sending: &Sending) {
    let period = Duration::from_secs(1) / rate as u32;
    let mut due = SystemTime::now();
    for n in 0..warm_up + measured {
        due += period;
        if let Ok(early) = due.duration_since(SystemTime::now()) {
            thread::sleep(early);
        }
        let stamp = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let submit = client.submit_raw(QUEUE, payload(if n < warm_up { 0 } else { stamp }));
        let failed = sending.failed.clone();
        sending.tasks.spawn(async move {
            if let Err(error) = submit.send().await {
                eprintln!("a submit failed: {error}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// `picked COUNT P50 P99`, in us.
fn parse(line: &str, jobs: u64) -> anyhow::Result<Picked> {
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    ensure!(
        numbers.first() == Some(&jobs),
        "the worker measured other jobs than {jobs}: {line:?}"
    );
    let ms = |at: usize| {
        let us = numbers.get(at).context("the worker told no quantile")?;
        anyhow::Ok(*us as f64 / 1_000.0)
    };
    Ok(Picked {
        p50_ms: ms(1)?,
        p99_ms: ms(2)?,
    })
}
