//! The operations: arguments into calls, answers out of them.

use async_trait::async_trait;
use deadpool_redis::redis::cmd;
use futures_util::future::join_all;
use tidegate_protocol::domain::{Job, JobId, LeaseRef, NewJob, Outcome, QueueName, SettleResult, Submitted};
use tokio::sync::broadcast;

use super::{
    RedisStore,
    calls::{Batch, Call, submit_size},
    codec::{acted, all_submitted, each_byte, page, place, put_job, put_settlement, renewed, settled, swept},
    keys, operations, policy,
    reply::Reply,
};
use crate::{
    Action, ActionAnswer, CapAnswer, CapOrder, Grants, JobPage, JobStore, LeaseRequest, ListRequest, Pulse,
    QueueRecord, QueueStats, Reclaim, Reclaimed, ReleaseCause, RenewAnswer, SessionRelease, SettleItem,
    StoreError, StoreEvent, StoreResult, SweepReport, SweepRequest,
};

fn all<T, R>(items: &[T], error: StoreError) -> Vec<StoreResult<R>> {
    items.iter().map(|_| Err(error.clone())).collect()
}

#[async_trait]
impl JobStore for RedisStore {
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>> {
        if let Err(error) = self.enter(jobs.iter().map(NewJob::queue)).await {
            return all(&jobs, error);
        }
        let batch = Batch {
            link: &self.submits,
            operation: operations::SUBMIT,
            is_acknowledged: true,
            first: None,
            put: put_job,
            size: submit_size,
            read: all_submitted,
        };
        self.batch(&jobs, NewJob::queue, batch).await
    }

    fn hands_over(&self) -> bool {
        true
    }

    async fn submit_and_lease(
        &self,
        jobs: Vec<NewJob>,
        requests: Vec<LeaseRequest>,
    ) -> (Vec<StoreResult<Submitted>>, Vec<StoreResult<Grants>>) {
        self.hand_over(jobs, requests).await
    }

    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>> {
        if let Err(error) = self.enter(requests.iter().map(|request| &request.queue)).await {
            return all(&requests, error);
        }
        join_all(requests.iter().map(|request| self.lease_one(request))).await
    }

    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>> {
        let put = |call: &mut Call, lease: &LeaseRef| {
            call.lease(lease);
        };
        let read = |_: &QueueName, leases: &[&LeaseRef], reply: Reply| renewed(leases.len(), reply);
        let batch = Batch {
            link: &self.leases,
            operation: operations::RENEW,
            is_acknowledged: false,
            first: None,
            put,
            size: |_: &LeaseRef| 32,
            read,
        };
        self.batch(&leases, |lease| &lease.id.queue, batch).await
    }

    async fn reclaim(&self, reclaim: Reclaim) -> StoreResult<Reclaimed> {
        let mut queues = reclaim.queues.clone();
        queues.extend(reclaim.leases.iter().map(|lease| lease.id.queue.clone()));
        queues.sort();
        queues.dedup();
        let mut answer = Reclaimed::default();
        for queue in queues {
            self.reclaim_queue(&queue, &reclaim, &mut answer).await?;
        }
        Ok(answer)
    }

    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>> {
        let one = |release: SessionRelease| async move {
            let bye = release.cause == ReleaseCause::Bye;
            self.release_one(&release.queue, release.session.0, bye, release.seed)
                .await
        };
        join_all(releases.into_iter().map(one)).await
    }

    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>> {
        let read = |_: &QueueName, _: &[&SettleItem], reply: Reply| each_byte(reply, settled);
        let size = |item: &SettleItem| match &item.settlement.outcome {
            Outcome::Succeeded { result } => result.len() + 64,
            other => other.error().len() + 64,
        };
        let batch = Batch {
            link: self.confirming(&self.leases),
            operation: operations::SETTLE,
            is_acknowledged: true,
            first: None,
            put: put_settlement,
            size,
            read,
        };
        self.batch(&items, |item| &item.settlement.lease.id.queue, batch)
            .await
    }

    async fn sweep(&self, requests: Vec<SweepRequest>) -> Vec<StoreResult<SweepReport>> {
        let one = |request: SweepRequest| async move {
            let mut call = self.call(operations::SWEEP, &request.queue);
            // The time of the earliest lease is above 0.
            call.text(request.reclaim_until_ms.unwrap_or(0))
                .text(request.hold_ms)
                .text(request.limit)
                .text(request.seed);
            swept(self.run(&self.admin, &call).await?)
        };
        join_all(requests.into_iter().map(one)).await
    }

    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>> {
        let mut answers = self.read_jobs(&ids).await;
        // That the call failed says nothing of the jobs.
        let unreadable = |answer: &StoreResult<StoreResult<_>>| matches!(answer, Ok(Err(_)));
        for (id, answer) in ids
            .iter()
            .zip(&mut answers)
            .filter(|(_, answer)| unreadable(answer))
        {
            self.set_aside(&id.queue, std::slice::from_ref(id)).await;
            if let Some(again) = self.read_jobs(std::slice::from_ref(id)).await.pop() {
                *answer = again;
            }
        }
        answers.into_iter().map(Result::flatten).collect()
    }

    async fn list(&self, request: ListRequest) -> StoreResult<JobPage> {
        let (first, second) = place(request.cursor.as_deref())?;
        let mut call = self.call(operations::LIST, &request.queue);
        call.text(request.state.code())
            .text(request.limit)
            .text(first)
            .text(second);
        let (page, unreadable) = page(&request.queue, self.run(&self.admin, &call).await?)?;
        self.set_aside(&request.queue, &unreadable).await;
        Ok(page)
    }

    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>> {
        let name = match action {
            Action::Cancel => "cancel",
            Action::Redrive => "redrive",
            Action::Delete => "delete",
        };
        let put = |call: &mut Call, id: &JobId| {
            call.id(id);
        };
        let read = |queue: &QueueName, _: &[&JobId], reply: Reply| {
            let answers = reply.list()?.into_iter();
            answers.map(|answer| Ok(acted(queue, answer))).collect()
        };
        let batch = Batch {
            link: self.confirming(&self.admin),
            operation: operations::ACT,
            is_acknowledged: true,
            first: Some(name),
            put,
            size: |_: &JobId| 32,
            read,
        };
        self.batch(&ids, |id| &id.queue, batch).await
    }

    async fn queues(&self) -> StoreResult<Vec<QueueName>> {
        let mut command = cmd("ZRANGE");
        command.arg(keys::QUEUES).arg(0).arg(-1);
        let names = self.admin.command(&command).await?.texts();
        let read = |name: String| {
            name.parse()
                .map_err(|_| StoreError::Corrupt(format!("the queue name {name:?}")))
        };
        names.into_iter().map(read).collect()
    }

    async fn stats(&self, queues: Vec<QueueName>) -> Vec<StoreResult<Option<QueueStats>>> {
        let one = |queue: QueueName| async move {
            let reply = self
                .run(&self.admin, &self.call(operations::STATS, &queue))
                .await?;
            if reply.is_nil() {
                Ok(None)
            } else {
                policy::stats(queue, reply).map(Some)
            }
        };
        join_all(queues.into_iter().map(one)).await
    }

    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>> {
        if let Err(error) = self.enter(records.iter().map(|record| &record.queue)).await {
            return all(&records, error);
        }
        join_all(records.iter().map(|record| self.put_one(record))).await
    }

    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>> {
        if let Err(error) = self.enter(orders.iter().map(|order| &order.queue)).await {
            return all(&orders, error);
        }
        join_all(orders.iter().map(|order| self.order_cap(order))).await
    }

    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>> {
        let one = |queue: QueueName| async move {
            let mut call = self.call(operations::PAUSE, &queue);
            call.text(u8::from(paused));
            Ok(self.run(&self.admin, &call).await?.number()? == 1)
        };
        join_all(queues.into_iter().map(one)).await
    }

    async fn pulse(&self) -> StoreResult<Pulse> {
        let (clock_ms, incarnation, watermark_ms) = self.beat().await?;
        let server = self.seen().await?;
        // A server that restarted may have lost names that it had acknowledged.
        self.queues.belong_to(&format!("{incarnation} {}", server.run_id));
        Ok(Pulse {
            clock_ms,
            incarnation,
            watermark_ms,
            run_id: server.run_id,
            durability: server.durability,
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        self.events.subscribe()
    }

    async fn close(&self) {
        self.end().await;
    }
}
