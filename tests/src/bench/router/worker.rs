//! The worker of the measurements: a process that runs nothing, and says at its end how late its jobs began.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use tidegate_worker::{Delivery, Job, Verdict, Worker};
use tokio::signal::unix::{SignalKind, signal};

use super::QUEUE;

pub(in crate::bench) const READY: &str = "ready role=bench-worker";
/// Begins the line with the delays.
pub(super) const PICKED: &str = "picked";
/// Samples kept; a measurement has far fewer.
const SAMPLES_MAX: usize = 1_000_000;

/// Until SIGTERM.
///
/// # Errors
/// No router, or one that refuses it.
pub async fn run(router: String, slots: u32) -> anyhow::Result<()> {
    let delays = Delays::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let worker = Worker::connect(router, ())
        .deliver(QUEUE, delays.clone())
        .slots(slots)
        .on_connected(|_| println!("{READY}"));
    let ended = async {
        terminate.recv().await;
    };
    worker.run_until(ended).await?;
    println!("{}", delays.line()?);
    Ok(())
}

/// From the moment at which a job was to be sent to the start of its handler, in us. By the wall clock, which is the same
/// for both processes.
#[derive(Clone, Default)]
struct Delays(Arc<Mutex<Vec<u64>>>);

impl Delays {
    fn note(&self, due_ns: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let delay_us = (now.as_nanos() as u64).saturating_sub(due_ns) / 1_000;
        let mut delays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if delays.len() < SAMPLES_MAX {
            delays.push(delay_us);
        }
    }

    fn line(&self) -> anyhow::Result<String> {
        let mut delays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        delays.sort_unstable();
        if delays.is_empty() {
            return Ok(format!("{PICKED} 0"));
        }
        let at = |quantile: f64| {
            let rank = (quantile * delays.len() as f64).ceil() as usize;
            delays.get(rank.saturating_sub(1)).copied()
        };
        let (p50, p99) = at(0.5).zip(at(0.99)).context("a quantile of nothing")?;
        Ok(format!("{PICKED} {} {p50} {p99}", delays.len()))
    }
}

#[tonic::async_trait]
impl Delivery for Delays {
    async fn deliver(&self, job: Job) -> Verdict {
        let stamp = job.payload.first_chunk().copied().map_or(0, u64::from_be_bytes);
        if stamp > 0 {
            self.note(stamp);
        }
        Verdict::succeeded(Vec::new())
    }
}
