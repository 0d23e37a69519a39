//! From the answers of a lease call to messages on streams. What cannot be delivered goes back at once.

use std::{collections::HashMap, time::Duration};

use tidegate_protocol::{
    domain::{Job, OutcomeKind, Policy, QueueName, Session},
    limits, v1,
};
use tidegate_store::{Grant, Grants, StoreResult};

use super::{Asked, Dispatcher, board::Landing};
use crate::{metrics::Operation, trace};

/// One grants message; a single job and its headers always fit.
const MESSAGE_BYTES_MAX: usize = limits::BATCH_BYTES_MAX;
/// What a grant takes beside payload and headers, roughly.
const GRANT_BYTES: usize = 512;

/// What one session gets out of one call.
#[derive(Default)]
struct Parcel {
    grants: Vec<(Grant, v1::Grant)>,
    clock_ms: u64,
}

impl Dispatcher {
    pub(super) fn land(&mut self, asked: Asked, answers: Vec<StoreResult<Grants>>) {
        let Asked {
            requests,
            clocks_ms,
            counters,
            since,
        } = asked;
        let queues = requests.iter().map(|request| &request.queue);
        // They end with this: when the grants are on their streams.
        let _spans = trace::leases(self.calls, queues.zip(&answers), since);
        let failed = answers.iter().all(Result::is_err);
        self.metrics
            .operation(Operation::Lease, since.seconds(), failed.then_some("store"));
        requests.iter().for_each(|request| self.board.landed(request));
        let mut parcels: HashMap<Session, Parcel> = HashMap::new();
        let mut back = Vec::new();
        let mut outcomes = Vec::with_capacity(requests.len());
        for ((request, seen_ms), answer) in requests.iter().zip(clocks_ms).zip(answers) {
            // On a fault the queue waits for the poll; a wake or a new credit asks earlier.
            let Ok(grants) = answer else {
                outcomes.push(Landing::Failed);
                continue;
            };
            outcomes.push(if grants.unmet {
                Landing::Unmet
            } else {
                Landing::Met
            });
            if self.clock_went_back(&request.queue, grants.clock_ms, seen_ms) {
                back.extend(grants.grants);
            } else {
                self.sort(&request.queue, grants, &mut parcels, &mut back);
            }
        }
        let got: Vec<Session> = parcels.keys().copied().collect();
        for (session, parcel) in parcels {
            let counter = counters.get(&session).copied().unwrap_or(0);
            back.extend(self.deliver(session, parcel, counter));
        }
        for (request, landing) in requests.iter().zip(outcomes) {
            self.board
                .line_up(request, |session| got.contains(&session), landing);
        }
        self.handback.later(back);
    }

    /// A fence given out under a clock that went back could repeat one from before a failover. `seen_ms`: what was seen
    /// before this was asked; of calls that were in flight together the answers come in any order.
    fn clock_went_back(&mut self, queue: &QueueName, clock_ms: u64, seen_ms: u64) -> bool {
        let clock = self.clocks.entry(queue.clone()).or_default();
        clock.highest_ms = clock.highest_ms.max(seen_ms);
        // Once it is known to have gone back, that holds for all that was in flight.
        let back = clock_ms < seen_ms || (clock.back_at.is_some() && clock_ms < clock.highest_ms);
        if back {
            clock.back_at = Some(self.condition.at());
            let highest_ms = clock.highest_ms;
            tracing::warn!(%queue, clock_ms, highest_ms, "the store's clock went back: grants are handed back");
        }
        clock.highest_ms = clock.highest_ms.max(clock_ms);
        back
    }

    /// Grants by session, as far as its credit still allows: it may have left or taken credit back in the meantime.
    fn sort(
        &mut self,
        queue: &QueueName,
        grants: Grants,
        parcels: &mut HashMap<Session, Parcel>,
        back: &mut Vec<Grant>,
    ) {
        let clock_ms = grants.clock_ms;
        let mut allowances: HashMap<Session, u32> = HashMap::new();
        let waits = self.metrics.waits(queue);
        let mut granted = 0;
        for grant in grants.grants {
            let allowance = allowances
                .entry(grant.session)
                .or_insert_with(|| self.board.allowance(grant.session, queue));
            if *allowance == 0 {
                back.push(grant);
                continue;
            }
            *allowance -= 1;
            let wait = Duration::from_millis(clock_ms.saturating_sub(grant.job.due_ms));
            waits.ended(wait, grant.job.traceparent.as_deref());
            granted += 1;
            let wire = wire(&grant, &grants.policy);
            let parcel = parcels.entry(grant.session).or_default();
            parcel.clock_ms = parcel.clock_ms.max(clock_ms);
            parcel.grants.push((grant, wire));
        }
        self.metrics.granted(queue, granted);
        self.catalog.touch(std::iter::once(queue), self.condition.at());
    }

    /// In messages of bounded size. Answers what could not be sent.
    fn deliver(&mut self, session: Session, parcel: Parcel, counter: u64) -> Vec<Grant> {
        let Some(seat) = self.streams.get(&session) else {
            return parcel.grants.into_iter().map(|(grant, _)| grant).collect();
        };
        let mut rest = parcel.grants.into_iter().peekable();
        let mut back = Vec::new();
        while rest.peek().is_some() {
            let mut bytes = 0;
            let mut message = Vec::new();
            let mut kept = Vec::new();
            while let Some((_, wire)) = rest.peek() {
                bytes += size(wire);
                if bytes > MESSAGE_BYTES_MAX && !message.is_empty() {
                    break;
                }
                if let Some((grant, wire)) = rest.next() {
                    message.push(wire);
                    kept.push(grant);
                }
            }
            // Only what is on its way has a seq: a gap would make the worker's counting wrong.
            let Ok(place) = seat.stream.outbox.try_reserve() else {
                back.extend(kept);
                back.extend(rest.map(|(grant, _)| grant));
                break;
            };
            let seq = self.board.next_seq(session);
            for (queue, jobs) in count(&kept) {
                self.board.granted(session, &queue, seq, jobs);
            }
            let grants = v1::Grants {
                seq,
                counter,
                store_clock_ms: parcel.clock_ms,
                grants: message,
            };
            let message = v1::lease_response::Message::Grants(grants);
            place.send(Ok(v1::LeaseResponse {
                message: Some(message),
            }));
        }
        back
    }
}

fn count(grants: &[Grant]) -> HashMap<QueueName, u32> {
    let mut counts = HashMap::new();
    for grant in grants {
        *counts.entry(grant.job.id.queue.clone()).or_default() += 1;
    }
    counts
}

fn size(grant: &v1::Grant) -> usize {
    let headers: usize = grant
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 8)
        .sum();
    GRANT_BYTES + grant.payload.len() + headers + grant.tracestate.len()
}

/// Of the last attempt, whose span the new one links to. What was handed back unrun had none.
fn previous_fence(job: &Job) -> u64 {
    let ran = job
        .settled
        .filter(|settled| settled.outcome != OutcomeKind::Released);
    ran.map_or(0, |settled| settled.fence)
}

fn wire(grant: &Grant, policy: &Policy) -> v1::Grant {
    let job = &grant.job;
    v1::Grant {
        job_id: job.id.text(),
        queue: job.id.queue.to_string(),
        fence: job.fence,
        attempt: job.attempts + 1,
        max_attempts: policy.retry.max_attempts,
        payload: job.payload.clone(),
        headers: job.headers.iter().cloned().collect(),
        lease_ttl_ms: policy.lease_ttl_ms,
        timeout_ms: policy.timeout_ms,
        heartbeat_timeout_ms: policy.heartbeat_timeout_ms,
        deadline_ms: job.deadline_ms,
        created_at_ms: job.created_ms,
        traceparent: job.traceparent.clone().unwrap_or_default(),
        tracestate: job.tracestate.clone().unwrap_or_default(),
        previous_fence: previous_fence(job),
    }
}
