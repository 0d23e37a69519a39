//! The job store in memory: the executable specification of the contract, and a store for tests and throw-away runs.
//!
//! One mutex around everything, held for one batch and never across an await; every queue is a [`Queue`] of its own.
//! Read [`queue`] and [`ops`] to learn what each operation does; the other stores must answer the same.
//!
//! [`LocalStore`] is the same machine with a [`Journal`] beside it: changes are handed to the journal while the lock is
//! held, so in the order they happened, and no answer leaves before the journal has kept them. With [`Nowhere`] it is
//! the memory store, with the file of [`crate::sqlite`] the embedded one.

mod history;
pub(crate) mod journal;
pub(crate) mod keys;
mod local;
mod ops;
pub(crate) mod queue;
mod read;
mod ready;
pub(crate) mod slots;
mod spread;
mod sweep;

use async_trait::async_trait;
use tidegate_protocol::domain::{Job, JobId, LeaseRef, NewJob, QueueName, SettleResult, Submitted};
use tokio::sync::broadcast;

pub use self::local::LocalStore;
use self::{
    journal::{Journal, Need, Nowhere},
    sweep::{add, pieces},
};
pub(crate) use self::{
    keys::KeyEntry,
    local::{Context, State},
    queue::Queue,
};
use crate::{
    Action, ActionAnswer, CapAnswer, CapOrder, Grants, JobPage, JobStore, LeaseRequest, ListRequest, Pulse,
    QueueRecord, QueueStats, Reclaim, Reclaimed, RenewAnswer, SessionRelease, SettleItem, StoreEvent,
    StoreResult, SweepReport, SweepRequest,
};

/// See the [module](self).
pub type MemoryStore = LocalStore<Nowhere>;

#[async_trait]
impl<J: Journal> JobStore for LocalStore<J> {
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
        self.each(
            Need::Room,
            jobs,
            |job| job.queue().clone(),
            true,
            |queue, job, context| queue.expect("created").submit(job, context),
        )
        .await
    }

    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>> {
        self.each(
            Need::Change,
            requests,
            |request| request.queue.clone(),
            true,
            |queue, request, context| Ok(queue.expect("created").lease(&request.wants, context)),
        )
        .await
    }

    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        self.each(
            Need::Change,
            leases,
            |lease| lease.id.queue.clone(),
            false,
            |queue, lease, context| {
                Ok(queue.map_or(RenewAnswer::Cancelled, |queue| queue.renew(&lease, context)))
            },
        )
        .await
    }

    async fn reclaim(&self, reclaim: Reclaim) -> StoreResult<Reclaimed> {
        self.journal.check(Need::Change)?;
        let mut queues = reclaim.queues.clone();
        queues.extend(reclaim.leases.iter().map(|lease| lease.id.queue.clone()));
        queues.sort();
        queues.dedup();
        let (mut answer, mut work) = (Reclaimed::default(), self.work());
        for name in queues {
            let take_back = |queue: &mut Queue, limit, context: &Context| {
                queue.take_back_losses(reclaim.incarnation, limit, context)
            };
            work.repeat(&name, take_back).await;
            let leases = reclaim.leases.iter().filter(|lease| lease.id.queue == name);
            let leases: Vec<_> = leases.cloned().collect();
            let held = work.once(&name, |queue, context| queue.reclaim(&reclaim, &leases, context));
            let held = held.unwrap_or_else(|| vec![false; leases.len()]);
            for (lease, held) in leases.into_iter().zip(held) {
                if held { &mut answer.kept } else { &mut answer.lost }.push(lease);
            }
            for &session in reclaim
                .replaces
                .iter()
                .filter(|session| **session != reclaim.session)
            {
                let give_back = |queue: &mut Queue, limit, context: &Context| {
                    queue.return_leases(session, limit, context)
                };
                answer.returned += work.repeat(&name, give_back).await;
            }
        }
        work.keep().await?;
        Ok(answer)
    }

    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>> {
        if let Err(error) = self.journal.check(Need::Change) {
            return releases.iter().map(|_| Err(error.clone())).collect();
        }
        let (mut given, mut work) = (Vec::with_capacity(releases.len()), self.work());
        for release in &releases {
            let step =
                |queue: &mut Queue, limit, context: &Context| queue.release_session(release, limit, context);
            given.push(work.repeat(&release.queue, step).await);
        }
        work.keep_all(given).await
    }

    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        self.each(
            Need::Change,
            items,
            |item| item.settlement.lease.id.queue.clone(),
            false,
            |queue, item, context| {
                Ok(queue.map_or(SettleResult::NotFound, |queue| queue.settle(&item, context)))
            },
        )
        .await
    }

    async fn sweep(&self, requests: Vec<SweepRequest>) -> Vec<StoreResult<SweepReport>> {
        if let Err(error) = self.journal.check(Need::Change) {
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        let (mut reports, mut work) = (Vec::with_capacity(requests.len()), self.work());
        for request in requests {
            let mut whole = SweepReport::default();
            for piece in pieces(&request) {
                let report = work.once(&request.queue, |queue, context| queue.sweep(&piece, context));
                add(&mut whole, report.unwrap_or_default());
                if !whole.more {
                    break;
                }
                self.give_way().await;
            }
            reports.push(whole);
        }
        work.keep_all(reports).await
    }

    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>> {
        self.each(
            Need::Nothing,
            ids,
            |id| id.queue.clone(),
            false,
            |queue, id, _| Ok(queue.and_then(|queue| queue.get(&id))),
        )
        .await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<JobPage> {
        self.journal.check(Need::Nothing)?;
        let state = self.lock();
        state
            .queues
            .get(&request.queue)
            .map_or_else(|| Ok(JobPage::default()), |queue| queue.list(&request))
    }

    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>> {
        self.each(
            Need::Change,
            ids,
            |id| id.queue.clone(),
            false,
            |queue, id, context| {
                Ok(queue.map_or(ActionAnswer::NotFound, |queue| queue.act(action, &id, context)))
            },
        )
        .await
    }

    async fn queues(&self) -> StoreResult<Vec<QueueName>> {
        Ok(self.lock().queues.keys().cloned().collect())
    }

    async fn stats(&self, queues: Vec<QueueName>) -> Vec<StoreResult<Option<QueueStats>>> {
        self.each(Need::Nothing, queues, Clone::clone, false, |queue, _, context| {
            Ok(queue.map(|queue| queue.stats(context)))
        })
        .await
    }

    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>> {
        self.each(
            Need::Change,
            records,
            |record| record.queue.clone(),
            true,
            |queue, record, context| Ok(queue.expect("created").put_policy(record, context)),
        )
        .await
    }

    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>> {
        self.each(
            Need::Change,
            orders,
            |order| order.queue.clone(),
            true,
            |queue, order, context| Ok(queue.expect("created").set_cap(&order, context)),
        )
        .await
    }

    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>> {
        self.each(Need::Change, queues, Clone::clone, false, |queue, _, context| {
            Ok(queue.map(|queue| queue.pause(paused, context)).is_some())
        })
        .await
    }

    async fn pulse(&self) -> StoreResult<Pulse> {
        self.journal.check(Need::Change)?;
        self.catch_up();
        let (clock_ms, watermark_ms) = {
            let mut state = self.lock();
            let clock_ms = self.clock.now_ms();
            let watermark_ms = state.watermark_ms;
            state.watermark_ms = watermark_ms.max(clock_ms);
            (clock_ms, watermark_ms)
        };
        self.journal.watermark(watermark_ms.max(clock_ms)).await?;
        Ok(Pulse {
            clock_ms,
            incarnation: self.journal.incarnation().to_owned(),
            watermark_ms,
            run_id: self.journal.run_id().to_owned(),
            durability: self.journal.durability(),
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        self.events.subscribe()
    }

    async fn close(&self) {
        self.journal.close().await;
    }
}
