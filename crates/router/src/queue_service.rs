//! Operators: queues and what they hold.

use std::sync::Arc;

use tidegate_protocol::{
    convert,
    domain::{CapRecord, QueueName},
    v1,
};
use tidegate_store::{JobStore, QueueStats};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    job_service::{Reads, page_size, wrong_token},
    lease::Registry,
    status::Refusal,
};

/// See the [module](self).
pub struct Queues {
    pub store: Arc<dyn JobStore>,
    pub reads: Reads,
    pub sessions: Arc<Registry>,
}

#[async_trait]
impl v1::queue_service_server::QueueService for Queues {
    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_queue(
        &self,
        request: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        let name = convert::queue_name("name", &request.get_ref().name).map_err(Refusal::from)?;
        let _room = self.reads.enter()?;
        let queue = Some(self.get(name).await?);
        Ok(Response::new(v1::GetQueueResponse { queue }))
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        let queue = Some(self.pause(&request.get_ref().name, true).await?);
        Ok(Response::new(v1::PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        let queue = Some(self.pause(&request.get_ref().name, false).await?);
        Ok(Response::new(v1::ResumeQueueResponse { queue }))
    }
}

impl Queues {
    /// In name order; the token is the last name of the page before.
    async fn list(&self, wire: v1::ListQueuesRequest) -> Result<v1::ListQueuesResponse, Refusal> {
        let size = page_size(wire.page_size)?;
        let after: Option<QueueName> = match wire.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| wrong_token())?),
        };
        let _room = self.reads.enter()?;
        let answer = self.store.queues().await;
        self.reads.record(&answer);
        let names = answer.map_err(|error| Refusal::store_fault(&error))?;
        let mut rest = names
            .into_iter()
            .filter(|name| after.as_ref().is_none_or(|after| name > after));
        let page: Vec<QueueName> = rest.by_ref().take(size).collect();
        let next_page_token = match (rest.next(), page.last()) {
            (Some(_), Some(last)) => last.to_string(),
            _ => String::new(),
        };
        let mut queues = Vec::with_capacity(page.len());
        for (name, stats) in page.clone().iter().zip(self.store.stats(page).await) {
            // One that was removed in between is left out.
            if let Some(stats) = stats.map_err(|error| Refusal::store(&error, name))? {
                queues.push(self.wire(stats));
            }
        }
        Ok(v1::ListQueuesResponse {
            queues,
            next_page_token,
        })
    }

    async fn get(&self, name: QueueName) -> Result<v1::Queue, Refusal> {
        let answer = self
            .store
            .stats(vec![name.clone()])
            .await
            .pop()
            .ok_or_else(Refusal::internal)?;
        self.reads.record(&answer);
        let stats = answer.map_err(|error| Refusal::store(&error, &name))?;
        stats
            .map(|stats| self.wire(stats))
            .ok_or_else(|| Refusal::queue_not_found(&name))
    }

    async fn pause(&self, name: &str, paused: bool) -> Result<v1::Queue, Refusal> {
        let name = convert::queue_name("name", name)?;
        let _room = self.reads.enter()?;
        let answer = self
            .store
            .pause(vec![name.clone()], paused)
            .await
            .pop()
            .ok_or_else(Refusal::internal)?;
        self.reads.record(&answer);
        if !answer.map_err(|error| Refusal::store(&error, &name))? {
            return Err(Refusal::queue_not_found(&name));
        }
        tracing::info!(queue = %name, paused, "an operator paused or resumed a queue");
        self.get(name).await
    }

    fn wire(&self, stats: QueueStats) -> v1::Queue {
        let costs = stats.policy.costs_a_resource();
        let effective = CapRecord::effective(stats.cap.as_ref(), costs, stats.paused, stats.clock_ms);
        v1::Queue {
            name: stats.queue.to_string(),
            paused: stats.paused,
            scheduled: stats.scheduled,
            ready: stats.ready,
            ready_retries: stats.ready_retries,
            running: stats.running,
            slots: stats.slots,
            dead: stats.dead,
            succeeded: stats.succeeded,
            cancelled: stats.cancelled,
            expired: stats.expired,
            submitted_total: stats.submitted_total,
            succeeded_total: stats.succeeded_total,
            dead_total: stats.dead_total,
            oldest_ready_age_ms: stats
                .oldest_ready_ms
                .map_or(0, |since| stats.clock_ms.saturating_sub(since)),
            sessions: self.sessions.serving(&stats.queue),
            policy: Some((stats.queue, stats.policy, stats.policy_version).into()),
            cap: stats.cap.map(v1::Cap::from),
            effective_cap: effective.map(|(cap, _)| cap),
        }
    }
}
