//! The three ways to the store that are batched: submits, renewals and settlements. Each has an owner task of its own, so
//! that a flood of submits cannot delay the renewals on which every running job depends.

use std::{future::Future, sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, clock, tasks::Tasks};
use tidegate_protocol::{
    domain::{LeaseRef, NewJob, QueueName, SettleResult, Submitted},
    limits,
};
use tidegate_store::{ITEMS_PER_CALL_MAX, JobStore, RenewAnswer, SettleItem, StoreError, StoreResult};
use tokio::time::sleep;

use crate::{
    batch::{Batcher, Bounds, NotTried, batcher},
    catalog::Catalog,
    condition::Condition,
    dispatcher::Dispatch,
    trace::StoreCalls,
};

/// One call travels or is answered while the store works on another. Were there only one, whoever comes while it is in
/// flight would wait for a whole round trip before its own; with more the batches get small.
const CALLS_IN_FLIGHT_MAX: usize = 2;
/// Groups that wait for the submit batch; at 1,000 items a call this is several seconds of the fastest store.
const SUBMITS_QUEUED_MAX: usize = 8_192;
/// Payload bytes that wait for the submit batch.
const SUBMIT_BYTES_QUEUED_MAX: usize = 64 << 20;
/// Groups of at most 1,000 that wait for the renew or settle batch: more than all streams together have in flight.
const LEASE_GROUPS_QUEUED_MAX: usize = 16_384;
/// Bytes that wait for the settle batch: results may be 64 KiB each.
const SETTLE_BYTES_QUEUED_MAX: usize = 256 << 20;
/// What a lease's name takes in memory, roughly.
pub const LEASE_BYTES: usize = 128;

/// A renewal or settlement that met a fault of the store is tried again until then; the worker's own clock is running.
const RETRY_WITHIN: Duration = Duration::from_secs(1);
/// Full jitter below this, so that a store that comes back is not met by all at once.
const RETRY_PAUSE_MS_MAX: u64 = 250;

/// Jobs that are entered and handed out in one call: their submitters wait for the lease, too. That is right for few, which
/// a worker waits for; many are entered first, so that their answers leave while the lease is on its way.
const HANDOVER_MAX: usize = 8;

/// Cheap handles.
#[derive(Clone)]
pub struct Pipes {
    pub submit: Batcher<NewJob, StoreResult<Submitted>>,
    renew: Batcher<LeaseRef, StoreResult<RenewAnswer>>,
    settle: Batcher<SettleItem, StoreResult<SettleResult>>,
}

impl Pipes {
    /// Starts the owner tasks; they end after `stop`.
    pub fn start(
        tasks: &Tasks,
        store: &Arc<dyn JobStore>,
        condition: &Arc<Condition>,
        catalog: &Arc<Catalog>,
        dispatch: &Dispatch,
        system: &'static str,
        stop: &CancellationToken,
    ) -> Self {
        let calls = |op| StoreCalls { system, op };
        let (submit, submits) = batcher(
            Bounds {
                items_max: limits::BATCH_ITEMS_MAX,
                bytes_max: limits::BATCH_BYTES_MAX,
                in_flight_max: CALLS_IN_FLIGHT_MAX,
                queued_max: SUBMITS_QUEUED_MAX,
                queued_bytes_max: SUBMIT_BYTES_QUEUED_MAX,
                skip_abandoned: true,
            },
            calls("submit"),
            stop.clone(),
            {
                let (condition, catalog) = (condition.clone(), catalog.clone());
                let (store, dispatch) = (store.clone(), dispatch.clone());
                move |jobs: Vec<NewJob>| {
                    let (condition, catalog) = (condition.clone(), catalog.clone());
                    let (store, dispatch) = (store.clone(), dispatch.clone());
                    async move {
                        catalog.touch(jobs.iter().map(NewJob::queue), condition.at());
                        let answers = enter(&*store, &dispatch, jobs).await;
                        condition.record_all(&answers);
                        answers
                    }
                }
            },
        );
        let lease_bounds = Bounds {
            items_max: ITEMS_PER_CALL_MAX,
            bytes_max: limits::BATCH_BYTES_MAX,
            in_flight_max: CALLS_IN_FLIGHT_MAX,
            queued_max: LEASE_GROUPS_QUEUED_MAX,
            queued_bytes_max: SETTLE_BYTES_QUEUED_MAX,
            // A worker that is gone has settled all the same.
            skip_abandoned: false,
        };
        let (renew, renewals) = batcher(lease_bounds, calls("renew"), stop.clone(), {
            let store = store.clone();
            move |leases| {
                let store = store.clone();
                async move { store.renew(leases).await }
            }
        });
        let (settle, settlements) = batcher(lease_bounds, calls("settle"), stop.clone(), {
            let store = store.clone();
            move |items| {
                let store = store.clone();
                async move { store.settle(items).await }
            }
        });
        tasks.spawn("submit batches", submits);
        tasks.spawn("renew batches", renewals);
        tasks.spawn("settle batches", settlements);
        Self {
            submit,
            renew,
            settle,
        }
    }

    /// An answer per lease, in order; faults have been tried again.
    pub async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        persistently(leases, |leases| {
            let bytes = leases.len() * LEASE_BYTES;
            self.renew.call(leases, bytes)
        })
        .await
    }

    /// An answer per item, in order; faults have been tried again.
    pub async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        persistently(items, |items| {
            let bytes = items.iter().map(settle_bytes).sum();
            self.settle.call(items, bytes)
        })
        .await
    }
}

/// Enters jobs; those for which a worker waits go out in the same call.
async fn enter(store: &dyn JobStore, dispatch: &Dispatch, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
    if !store.hands_over() || jobs.len() > HANDOVER_MAX {
        return store.submit(jobs).await;
    }
    let Some(handover) = dispatch.entering(queues_of(&jobs)).await else {
        return store.submit(jobs).await;
    };
    let (submitted, grants) = store.submit_and_lease(jobs, handover.requests()).await;
    handover.done(grants);
    submitted
}

/// Each once.
fn queues_of(jobs: &[NewJob]) -> Vec<QueueName> {
    let mut queues: Vec<&QueueName> = Vec::new();
    for job in jobs {
        if queues.last() != Some(&job.queue()) {
            queues.push(job.queue());
        }
    }
    queues.sort_unstable();
    queues.dedup();
    queues.into_iter().cloned().collect()
}

fn settle_bytes(item: &SettleItem) -> usize {
    use tidegate_protocol::domain::Outcome;
    let content = match &item.settlement.outcome {
        Outcome::Succeeded { result } => result.len(),
        other => other.error().len(),
    };
    LEASE_BYTES + content
}

/// Calls for all items, in groups of one store call's size, and again for those that met a fault, within
/// [`RETRY_WITHIN`].
async fn persistently<T, R, F, Fut>(items: Vec<T>, call: F) -> Vec<StoreResult<R>>
where
    T: Clone,
    F: Fn(Vec<T>) -> Fut,
    Fut: Future<Output = Result<Vec<StoreResult<R>>, NotTried>>,
{
    let give_up = clock::now() + RETRY_WITHIN;
    let mut answers: Vec<StoreResult<R>> = Vec::with_capacity(items.len());
    answers.resize_with(items.len(), || Err(StoreError::Unavailable("not tried".into())));
    let mut open: Vec<usize> = (0..items.len()).collect();
    loop {
        let groups = open.chunks(ITEMS_PER_CALL_MAX).map(|group| {
            let items = group.iter().map(|&at| items[at].clone()).collect();
            call(items)
        });
        let results = futures_util::future::join_all(groups).await;
        for (group, result) in open.chunks(ITEMS_PER_CALL_MAX).zip(results) {
            // A group that was not tried keeps the answer it has: unavailable, or its last fault.
            for (&at, answer) in group.iter().zip(result.unwrap_or_default()) {
                answers[at] = answer;
            }
        }
        open.retain(|&at| answers[at].as_ref().is_err_and(StoreError::is_fault));
        let pause = Duration::from_millis(fastrand::u64(0..=RETRY_PAUSE_MS_MAX));
        if open.is_empty() || clock::now() + pause >= give_up {
            return answers;
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_met_a_fault_is_tried_again_and_not_for_ever() {
        let calls = Mutex::new(Vec::new());
        let fails = |n: u32, calls: usize| n == 9 || (n == 2 && calls < 3);
        let answers = persistently(vec![1, 2, 9], |items: Vec<u32>| {
            let mut calls = calls.lock().unwrap();
            calls.push(items.clone());
            let tries = calls.len();
            let answer = move |n| {
                if fails(n, tries) {
                    Err(StoreError::Busy("x".into()))
                } else {
                    Ok(n * 10)
                }
            };
            std::future::ready(Ok(items.into_iter().map(answer).collect()))
        })
        .await;
        assert_eq!(answers, [Ok(10), Ok(20), Err(StoreError::Busy("x".into()))]);
        let calls = calls.into_inner().unwrap();
        assert_eq!(&calls[..3], [vec![1, 2, 9], vec![2, 9], vec![2, 9]]);
        assert!(calls.len() > 3 && calls[3..].iter().all(|call| *call == [9]));
        let zero_pauses_bound = 200;
        assert!(
            calls.len() < zero_pauses_bound,
            "{} tries within a second",
            calls.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_batcher_that_is_full_counts_as_unavailable() {
        let answers = persistently(vec![1; 1_500], |items: Vec<u32>| {
            let answer = if items.len() < 1_000 {
                Err(NotTried::Full)
            } else {
                Ok(items.into_iter().map(Ok).collect())
            };
            std::future::ready(answer)
        })
        .await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1_000);
        assert!(matches!(answers[1_499], Err(StoreError::Unavailable(_))));
    }
}
