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
mod keys;
mod ops;
mod queue;
mod ready;
mod sweep;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use tidegate_protocol::domain::{Job, JobId, LeaseRef, NewJob, QueueName, SettleResult, Submitted};
use tokio::sync::broadcast;

use self::journal::{Changes, Journal, Nowhere};
pub(crate) use self::{keys::KeyEntry, queue::Queue};
use crate::{
    Action, ActionAnswer, AnchoredClock, CapAnswer, CapOrder, Clock, Grants, JobPage, JobStore, LeaseRequest,
    ListRequest, Pulse, QueueRecord, QueueStats, Reclaim, Reclaimed, RenewAnswer, SessionRelease, SettleItem,
    StoreEvent, StoreResult, SweepReport, SweepRequest, wake::Events,
};

/// See the [module](self).
pub type MemoryStore = LocalStore<Nowhere>;

/// A store whose state is in this process; `J` says where changes are kept beside it.
pub struct LocalStore<J> {
    clock: Arc<dyn Clock>,
    events: Events,
    state: Mutex<State>,
    journal: J,
}

#[derive(Default)]
pub(crate) struct State {
    pub queues: BTreeMap<QueueName, Queue>,
    pub watermark_ms: u64,
}

/// What an operation works with beside the queue: the time of the whole batch, and whom to tell afterwards.
pub(crate) struct Context {
    pub now_ms: u64,
    events: RefCell<Vec<StoreEvent>>,
}

impl Context {
    pub(crate) fn tell(&self, event: StoreEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(AnchoredClock::starting_at_least(0)))
    }
}

impl MemoryStore {
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::new(clock, State::default(), Nowhere::default())
    }
}

impl<J: Journal> LocalStore<J> {
    pub(crate) fn new(clock: Arc<dyn Clock>, state: State, journal: J) -> Self {
        Self {
            clock,
            events: Events::new(),
            state: Mutex::new(state),
            journal,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves a state nobody can vouch for: go down with it.
        self.state.lock().expect("an earlier store operation panicked")
    }

    /// Runs `op` for each item on its queue, which is made if `create` and else may be absent; answers when the journal
    /// has kept what changed.
    async fn each<T, R>(
        &self,
        items: Vec<T>,
        queue_of: impl Fn(&T) -> QueueName + Send,
        create: bool,
        op: impl FnMut(Option<&mut Queue>, T, &Context) -> StoreResult<R> + Send,
    ) -> Vec<StoreResult<R>> {
        if let Err(error) = self.journal.check() {
            return items.iter().map(|_| Err(error.clone())).collect();
        }
        let (answers, events, ticket) = self.apply(items, queue_of, create, op);
        if let Some(ticket) = ticket
            && let Err(error) = self.journal.kept(ticket).await
        {
            return answers.into_iter().map(|_| Err(error.clone())).collect();
        }
        for event in events {
            self.events.send(event);
        }
        answers
    }

    /// The part of [`Self::each`] under the lock.
    #[allow(clippy::type_complexity, reason = "three results of one step")]
    fn apply<T, R>(
        &self,
        items: Vec<T>,
        queue_of: impl Fn(&T) -> QueueName,
        create: bool,
        mut op: impl FnMut(Option<&mut Queue>, T, &Context) -> StoreResult<R>,
    ) -> (Vec<StoreResult<R>>, Vec<StoreEvent>, Option<u64>) {
        let mut state = self.lock();
        let context = Context {
            now_ms: self.clock.now_ms(),
            events: RefCell::default(),
        };
        let mut touched = Vec::new();
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let name = queue_of(&item);
            if create && !state.queues.contains_key(&name) {
                state.queues.insert(name.clone(), Queue::new(name.clone()));
            }
            answers.push(op(state.queues.get_mut(&name), item, &context));
            if touched.last() != Some(&name) {
                touched.push(name);
            }
        }
        let mut changes = Changes::default();
        for name in touched {
            if let Some(queue) = state.queues.get_mut(&name) {
                queue.take_changes(J::KEEPS, &mut changes);
            }
        }
        let ticket = (!changes.is_empty()).then(|| self.journal.append(changes));
        (answers, context.events.into_inner(), ticket)
    }
}

#[async_trait]
impl<J: Journal> JobStore for LocalStore<J> {
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
        self.each(
            jobs,
            |job| job.queue().clone(),
            true,
            |queue, job, context| queue.expect("created").submit(job, context),
        )
        .await
    }

    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>> {
        self.each(
            requests,
            |request| request.queue.clone(),
            true,
            |queue, request, context| Ok(queue.expect("created").lease(&request.wants, context)),
        )
        .await
    }

    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        self.each(
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
        let mut queues = reclaim.queues.clone();
        queues.extend(reclaim.leases.iter().map(|lease| lease.id.queue.clone()));
        queues.sort();
        queues.dedup();
        let mut answer = Reclaimed::default();
        let parts = self.each(queues, Clone::clone, false, |queue, name, context| {
            let leases = reclaim
                .leases
                .iter()
                .filter(|lease| lease.id.queue == name)
                .cloned()
                .collect::<Vec<_>>();
            Ok(match queue {
                Some(queue) => queue.reclaim(&reclaim, leases, context),
                None => Reclaimed {
                    lost: leases,
                    ..Reclaimed::default()
                },
            })
        });
        let parts = parts.await;
        for part in parts {
            let part = part?;
            answer.kept.extend(part.kept);
            answer.lost.extend(part.lost);
            answer.returned += part.returned;
        }
        Ok(answer)
    }

    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>> {
        self.each(
            releases,
            |release| release.queue.clone(),
            false,
            |queue, release, context| Ok(queue.map_or(0, |queue| queue.release_session(&release, context))),
        )
        .await
    }

    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        self.each(
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
        self.each(
            requests,
            |request| request.queue.clone(),
            false,
            |queue, request, context| {
                Ok(queue.map_or_else(SweepReport::default, |queue| queue.sweep(&request, context)))
            },
        )
        .await
    }

    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>> {
        self.each(
            ids,
            |id| id.queue.clone(),
            false,
            |queue, id, _| Ok(queue.and_then(|queue| queue.get(&id))),
        )
        .await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<JobPage> {
        self.journal.check()?;
        let state = self.lock();
        state
            .queues
            .get(&request.queue)
            .map_or_else(|| Ok(JobPage::default()), |queue| queue.list(&request))
    }

    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>> {
        self.each(
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
        self.each(queues, Clone::clone, false, |queue, _, context| {
            Ok(queue.map(|queue| queue.stats(context)))
        })
        .await
    }

    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>> {
        self.each(
            records,
            |record| record.queue.clone(),
            true,
            |queue, record, context| Ok(queue.expect("created").put_policy(record, context)),
        )
        .await
    }

    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>> {
        self.each(
            orders,
            |order| order.queue.clone(),
            true,
            |queue, order, context| Ok(queue.expect("created").set_cap(&order, context)),
        )
        .await
    }

    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>> {
        self.each(queues, Clone::clone, false, |queue, _, context| {
            Ok(queue.map(|queue| queue.pause(paused, context)).is_some())
        })
        .await
    }

    async fn pulse(&self) -> StoreResult<Pulse> {
        self.journal.check()?;
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
