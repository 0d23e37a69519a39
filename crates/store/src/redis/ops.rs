//! Operations that are one call, or a run of calls, on one queue.

use tidegate_protocol::domain::{Job, JobId, LeaseRef, QueueName};
use uuid::Uuid;

use super::{
    RedisStore, blob,
    calls::{Batch, Call},
    codec::{corrupt, got, grants},
    keys,
    link::RESPONSE_TIMEOUT,
    operations, policy,
    reply::Reply,
    server,
};
use crate::{
    CapAnswer, CapOrder, Clock, Grants, ITEMS_PER_CALL_MAX, LeaseRequest, QueueRecord, Reclaim, Reclaimed,
    StoreError, StoreResult,
};

/// Jobs that one call gives back at most; there are as many calls as it takes.
const RELEASED_PER_CALL: u32 = 256;
const LEASES_PER_CALL: usize = 256;

impl RedisStore {
    pub(super) async fn lease_one(&self, request: &LeaseRequest) -> StoreResult<Grants> {
        let mut call = self.call(operations::LEASE, &request.queue);
        self.put_request(&mut call, request, ITEMS_PER_CALL_MAX);
        let reply = self.run(&self.leases, &call).await?;
        self.granted(request, reply).await
    }

    /// The arguments of a lease.
    pub(super) fn put_request(&self, call: &mut Call, request: &LeaseRequest, grants_max: usize) {
        call.text(grants_max);
        call.text(self.not_after().map(|ms| ms.to_string()).unwrap_or_default());
        let known = self.policies.digest(&request.queue);
        call.text(known.map(|digest| digest.to_string()).unwrap_or_default());
        for want in &request.wants {
            call.ids(want.session.0, want.incarnation.0).text(want.max);
        }
    }

    pub(super) async fn granted(&self, request: &LeaseRequest, reply: Reply) -> StoreResult<Grants> {
        let mut unreadable = Vec::new();
        let learn = |json| self.policies.learn(&request.queue, json);
        let mut grants = grants(request, reply, learn, &mut unreadable)?;
        if !unreadable.is_empty() {
            self.set_aside(&request.queue, &unreadable).await;
            grants.unmet = true;
        }
        Ok(grants)
    }

    /// Jobs that the server's side takes for readable and ours does not: dead from now on, see `lua/aside.lua`. What fails
    /// here is done when they are met again.
    pub(super) async fn set_aside(&self, queue: &QueueName, ids: &[JobId]) {
        for piece in ids.chunks(LEASES_PER_CALL) {
            let mut call = self.call(operations::ACT, queue);
            call.text("aside");
            piece.iter().for_each(|id| {
                call.id(id);
            });
            if let Err(error) = self.run(&self.admin, &call).await {
                tracing::warn!(%queue, %error, "jobs that cannot be read could not be set aside");
            }
        }
    }

    /// Outside what became of the call, inside what became of the job.
    pub(super) async fn read_jobs(&self, ids: &[JobId]) -> Vec<StoreResult<StoreResult<Option<Job>>>> {
        let put = |call: &mut Call, id: &JobId| {
            call.id(id);
        };
        let read =
            |_: &QueueName, ids: &[&JobId], reply: Reply| Ok(got(ids, reply)?.into_iter().map(Ok).collect());
        let batch = Batch {
            link: &self.admin,
            operation: operations::GET,
            is_acknowledged: false,
            first: None,
            put,
            size: |_: &JobId| 16_384,
            read,
        };
        self.batch(ids, |id| &id.queue, batch).await
    }

    pub(super) async fn release_one(
        &self,
        queue: &QueueName,
        session: Uuid,
        bye: bool,
        seed: u32,
    ) -> StoreResult<u64> {
        let mut released = 0;
        loop {
            let mut call = self.call(operations::RELEASE, queue);
            call.bytes(session.as_bytes())
                .text(u8::from(bye))
                .text(seed)
                .text(RELEASED_PER_CALL);
            let reply = self.run(&self.leases, &call).await?;
            let [n, more] = reply.fixed()?;
            released += n.number()?;
            if more.number()? == 0 {
                return Ok(released);
            }
        }
    }

    /// Which of `leases` are kept.
    pub(super) async fn hold(
        &self,
        queue: &QueueName,
        reclaim: &Reclaim,
        leases: &[LeaseRef],
    ) -> StoreResult<Vec<bool>> {
        loop {
            let mut call = self.call(operations::RECLAIM, queue);
            call.bytes(reclaim.session.0.as_bytes())
                .bytes(reclaim.incarnation.0.as_bytes());
            leases.iter().for_each(|lease| {
                call.lease(lease);
            });
            let reply = self.run(&self.leases, &call).await?;
            let mut answers = reply.list()?.into_iter().map(|answer| Ok(answer.number()? == 1));
            let again = answers.next().ok_or_else(|| corrupt("nothing"))??;
            if !again {
                return answers.collect();
            }
        }
    }

    pub(super) async fn reclaim_queue(
        &self,
        queue: &QueueName,
        reclaim: &Reclaim,
        answer: &mut Reclaimed,
    ) -> StoreResult<()> {
        let leases: Vec<_> = reclaim
            .leases
            .iter()
            .filter(|lease| lease.id.queue == *queue)
            .cloned()
            .collect();
        // Without leases there may still be losses to take back.
        let pieces = leases
            .chunks(LEASES_PER_CALL)
            .chain(leases.is_empty().then_some(&[][..]));
        for piece in pieces {
            let kept = self.hold(queue, reclaim, piece).await?;
            if kept.len() != piece.len() {
                return Err(corrupt("another number of leases"));
            }
            for (lease, kept) in piece.iter().zip(kept) {
                if kept {
                    answer.kept.push(lease.clone())
                } else {
                    answer.lost.push(lease.clone())
                }
            }
        }
        for session in reclaim
            .replaces
            .iter()
            .filter(|session| **session != reclaim.session)
        {
            answer.returned += self.release_one(queue, session.0, true, 1).await?;
        }
        Ok(())
    }

    pub(super) async fn order_cap(&self, order: &CapOrder) -> StoreResult<CapAnswer> {
        let mut call = self.call(operations::CAPS, &order.queue);
        call.text(order.version.epoch)
            .text(order.version.generation)
            .text(blob::number(order.ttl_ms));
        if let Some(cap) = order.cap {
            call.text(cap.cap).text(cap.retry_cap).text(cap.safe);
        }
        let mut answer = self.run(&self.admin, &call).await?.list()?.into_iter();
        let (Some(applied), Some(slots)) = (answer.next(), answer.next()) else {
            return Err(corrupt("too few values"));
        };
        let record = match answer.next().filter(|cap| !cap.is_nil()) {
            Some(cap) => Some(policy::cap_record(&cap.bytes()?)?),
            None => None,
        };
        Ok(CapAnswer {
            applied: applied.number()? == 1,
            record,
            slots: slots.number()?,
        })
    }

    pub(super) async fn put_one(&self, record: &QueueRecord) -> StoreResult<bool> {
        let mut call = self.call(operations::PUT, &record.queue);
        call.text(record.version.epoch).text(record.version.generation);
        for field in policy::fields(&record.policy)? {
            call.bytes(field.as_bytes());
        }
        Ok(self
            .run_confirmed(self.confirming(&self.admin), &call)
            .await?
            .number()?
            == 1)
    }

    /// When the answer to a call sent now will not be waited for any more, by the store's clock as far as it is known.
    fn not_after(&self) -> Option<u64> {
        let seen = (*self.clock_seen.lock().expect("nothing panics under this lock"))?;
        let (store_ms, here_ms) = seen;
        let elapsed = self.here.now_ms().saturating_sub(here_ms);
        Some(store_ms + elapsed + RESPONSE_TIMEOUT.as_millis() as u64)
    }

    /// The one call that is not about a queue: clock, incarnation and watermark.
    pub(super) async fn beat(&self) -> StoreResult<(u64, String, u64)> {
        let mut call = self.call_on(operations::PULSE, keys::STORE);
        call.text(Uuid::new_v4().simple()).text(keys::SCHEMA);
        let [clock, incarnation, watermark, schema] = self.run(&self.admin, &call).await?.fixed()?;
        let schema = schema.number()?;
        if schema != keys::SCHEMA {
            return Err(StoreError::Corrupt(keys::other_schema(schema)));
        }
        let incarnation = String::from_utf8_lossy(&incarnation.bytes()?).into_owned();
        let clock_ms = clock.number()?;
        if self.clock.is_none() {
            let seen = Some((clock_ms, self.here.now_ms()));
            *self.clock_seen.lock().expect("nothing panics under this lock") = seen;
        }
        Ok((clock_ms, incarnation, watermark.number()?))
    }

    pub(super) async fn enter(&self, names: impl Iterator<Item = &QueueName>) -> StoreResult<()> {
        self.queues.enter(&self.admin, names.cloned()).await
    }

    /// The server as it is now; looked at closely only after a restart.
    pub(super) async fn seen(&self) -> StoreResult<server::Server> {
        let run_id = server::current_run_id(&self.admin)
            .await
            .map_err(server::Unfit::into_error)?;
        let seen = self
            .server
            .lock()
            .expect("nothing panics under this lock")
            .clone();
        if seen.run_id == run_id {
            return Ok(seen);
        }
        let now = server::Server::inspect(&self.admin, self.min_replica_acks)
            .await
            .map_err(server::Unfit::into_error)?;
        *self.server.lock().expect("nothing panics under this lock") = now.clone();
        Ok(now)
    }
}
