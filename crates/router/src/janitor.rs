//! What happens by time: the pulse, the look at the queues, and the sweeps that promote, take back, expire and trim.
//!
//! Two tasks, so that a sweep that takes long cannot make the store look silent. Every router sweeps every queue: sweeps
//! are idempotent, and no router has to be elected. Quiet queues are swept rarely, so that thousands of them cost little.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::CancellationToken;
use tidegate_protocol::domain::{Policy, QueueName};
use tidegate_store::{Durability, JobStore, QueueStats, StoreError, StoreResult, SweepReport, SweepRequest};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::{
    admission::Admission,
    catalog::{Catalog, Facts},
    condition::Condition,
    metrics::Metrics,
    watch::PULSE_INTERVAL_MS,
};

/// A queue with waiting or running jobs is swept this often: what is due starts at most this late.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// A quiet queue is swept each this many rounds: only history and keys have to go.
const QUIET_ROUNDS: u64 = 10;
/// The list of queues and their numbers are read this often.
const LOOK_INTERVAL_MS: u64 = 2_000;
/// Items of each kind that one sweep of one queue works off; keeps a script of Redis within its 5 ms.
const SWEEP_LIMIT: u32 = 1_000;
/// Sweeps in a row without a pause when there is more: then submits and leases get their turn ...
const SWEEPS_IN_A_ROW: u32 = 20;
/// ... for this long: what is due is late already.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);
/// Queues in one call of the store.
const QUEUES_PER_CALL: usize = 100;
/// A pulse that takes longer is given up: the next one must not wait behind it.
const PULSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the janitor works with.
#[derive(Clone)]
pub struct Janitor {
    pub store: Arc<dyn JobStore>,
    pub condition: Arc<Condition>,
    pub catalog: Arc<Catalog>,
    pub admission: Arc<Admission>,
    pub metrics: Arc<Metrics>,
}

impl Janitor {
    /// Pulses until `stop`.
    pub async fn pulse(self, stop: CancellationToken) {
        let mut ticks = interval(Duration::from_millis(PULSE_INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.pulse_once().await,
            }
        }
    }

    /// What an acknowledgement means; without an answer there is nothing to start for.
    pub async fn first_pulse(&self) -> StoreResult<Durability> {
        let sent_at = self.condition.at();
        let answer = timeout(PULSE_TIMEOUT, self.store.pulse()).await;
        let pulse =
            answer.unwrap_or_else(|_| Err(StoreError::Unknown("no answer to the first pulse".into())))?;
        let durability = pulse.durability.clone();
        self.condition.on_pulse(sent_at, Ok(pulse));
        Ok(durability)
    }

    async fn pulse_once(&self) {
        let sent_at = self.condition.at();
        let answer = timeout(PULSE_TIMEOUT, self.store.pulse()).await;
        self.condition.on_pulse(
            sent_at,
            answer.unwrap_or_else(|_| Err(StoreError::Unknown("no pulse".into()))),
        );
    }

    /// Sweeps until `stop`. A round that has begun is finished.
    pub async fn sweep(self, stop: CancellationToken) {
        let mut round = 0;
        let mut look_at = 0;
        loop {
            if self.condition.at() >= look_at {
                look_at = self.condition.at() + LOOK_INTERVAL_MS;
                self.look().await;
            }
            let mut more = true;
            for _ in 0..SWEEPS_IN_A_ROW {
                more = more && self.sweep_once(round % QUIET_ROUNDS == 0).await;
                if !more || stop.is_cancelled() {
                    break;
                }
            }
            let pause = if more { SWEEP_PAUSE } else { SWEEP_INTERVAL };
            round += u64::from(!more);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Reads what the queues hold, for the gauges and for whoever decides by it. On a fault the old knowledge stands.
    pub async fn look(&self) -> Option<Vec<QueueStats>> {
        let all = self.read_stats().await.ok()?;
        self.metrics.queue_stats(&all);
        for QueueStats {
            queue, unreadable, ..
        } in self.catalog.refresh(&all)
        {
            tracing::error!(
                %queue,
                unreadable,
                "jobs of this queue cannot be read and were set aside, with their bytes: they are among the dead, reason \
                 UNREADABLE"
            );
        }
        self.admission.refresh(&all);
        Some(all)
    }

    async fn read_stats(&self) -> StoreResult<Vec<QueueStats>> {
        let names = self.store.queues().await?;
        let mut all = Vec::with_capacity(names.len());
        for chunk in names.chunks(QUEUES_PER_CALL) {
            for stats in self.store.stats(chunk.to_vec()).await {
                all.extend(stats?);
            }
        }
        Ok(all)
    }

    /// One sweep of the queues that need one. True if a queue has more to do.
    pub async fn sweep_once(&self, quiet_too: bool) -> bool {
        let hold = self.condition.hold_due();
        let queues = self.catalog.queues(self.condition.at());
        let requests: Vec<SweepRequest> = queues
            .into_iter()
            .filter(|(_, _, busy)| *busy || quiet_too || hold)
            .map(|(queue, facts, _)| self.request(queue, facts, hold))
            .collect();
        let mut more = false;
        let mut written = true;
        for chunk in requests.chunks(QUEUES_PER_CALL) {
            let reports = self.store.sweep(chunk.to_vec()).await;
            for (request, report) in chunk.iter().zip(reports) {
                match report {
                    Ok(report) => {
                        self.note(&request.queue, &report);
                        more |= report.more;
                    }
                    Err(_) => written = false,
                }
            }
        }
        if hold && written {
            self.condition.hold_written();
        }
        more
    }

    fn request(&self, queue: QueueName, facts: Option<Facts>, hold: bool) -> SweepRequest {
        let ttl_ms = facts.map_or_else(|| Policy::default().lease_ttl_ms, |facts| facts.lease_ttl_ms);
        SweepRequest {
            queue,
            reclaim_until_ms: self.condition.reclaim_until_ms(ttl_ms).filter(|_| !hold),
            hold_ms: if hold { ttl_ms } else { 0 },
            limit: SWEEP_LIMIT,
            seed: seed(),
        }
    }

    fn note(&self, queue: &QueueName, report: &SweepReport) {
        self.metrics.leases_lost(queue, u64::from(report.reclaimed));
        if report.reclaimed > 0 {
            tracing::info!(%queue, leases = report.reclaimed, "leases ended without an answer from their worker");
        }
    }
}

/// For the jitter of what a store operation puts off.
pub fn seed() -> u32 {
    fastrand::u32(1..=2_147_483_646)
}
