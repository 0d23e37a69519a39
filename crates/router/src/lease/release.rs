//! What becomes of the jobs of a session that is over.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::clock;
use tidegate_protocol::domain::{QueueName, Session};
use tidegate_store::{ReleaseCause, SessionRelease};
use tokio::time::sleep;

use super::Shared;
use crate::janitor::seed;

/// A worker whose stream broke has this long to come back and reclaim, here or at another router.
const GRACE: Duration = Duration::from_secs(2);
/// Tried for this long while the store is away; by then the leases have ended by time or soon will.
const GIVE_UP: Duration = Duration::from_secs(30);
const PAUSE_MS_MAX: u64 = 500;

/// After the grace, in a task of its own. A draining router never gives its sessions' jobs back: its workers are alive
/// and about to reclaim them elsewhere.
pub fn broken(shared: &Arc<Shared>, session: Session, queues: Vec<QueueName>) {
    if queues.is_empty() || shared.draining.is_cancelled() {
        return;
    }
    let task = {
        let shared = shared.clone();
        async move {
            tokio::select! {
                biased;
                () = shared.draining.cancelled() => {}
                () = sleep(GRACE) => release(&shared, session, queues, ReleaseCause::Broken).await,
            }
        }
    };
    if let Err(error) = shared.releases.spawn(task) {
        tracing::warn!(%error, %session, "the jobs of a broken stream are not returned early: their leases end by time");
    }
}

/// The worker said goodbye: at once.
pub async fn goodbye(shared: &Shared, session: Session, queues: Vec<QueueName>) {
    release(shared, session, queues, ReleaseCause::Bye).await;
}

async fn release(shared: &Shared, session: Session, queues: Vec<QueueName>, cause: ReleaseCause) {
    let give_up = clock::now() + GIVE_UP;
    let mut open = queues;
    loop {
        let releases = open
            .iter()
            .map(|queue| SessionRelease {
                queue: queue.clone(),
                session,
                cause,
                seed: seed(),
            })
            .collect();
        let answers = shared.store.release_session(releases).await;
        let mut failed = Vec::new();
        for (queue, answer) in open.into_iter().zip(answers) {
            match answer {
                Ok(0) => {}
                Ok(jobs) => {
                    tracing::info!(%session, %queue, jobs, ?cause, "jobs of a worker that left went back");
                    if cause == ReleaseCause::Broken {
                        shared.metrics.leases_lost(&queue, jobs);
                    }
                }
                Err(error) if error.is_fault() => failed.push(queue),
                Err(error) => {
                    tracing::error!(%error, %session, %queue, "a session's jobs cannot be returned")
                }
            }
        }
        open = failed;
        if open.is_empty() {
            return;
        }
        let draining = cause == ReleaseCause::Broken && shared.draining.is_cancelled();
        if draining || clock::now() >= give_up {
            return tracing::warn!(%session, queues = open.len(), "a session's jobs were not returned: their leases end by time");
        }
        sleep(Duration::from_millis(fastrand::u64(0..=PAUSE_MS_MAX))).await;
    }
}
