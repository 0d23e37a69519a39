//! One worker's stream, from hello to its end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tidegate_chassis::{CancellationToken, clock, telemetry::trace::TraceContext};
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::QueueName,
    limits, reason,
    v1::{self, lease_request::Message as Up, lease_response::Message as Down},
};
use tidegate_store::ITEMS_PER_CALL_MAX;
use tokio::time::timeout;
use tonic::Streaming;

use super::{
    Outbox, Shared,
    hello::Hello,
    message,
    registry::{Ending, Registration},
    release, renewal, settling,
};
use crate::{
    dispatcher::{CreditOf, Stream},
    status::Refusal,
};

/// A stream that says nothing holds a place for nobody.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A replaced stream ends within a turn of its loop; longer means that its task is stuck in a store call, whose results
/// are harmless by then.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(2);
/// Renewals and settlements of one stream under way; beyond that its messages are not read, which slows its worker down.
const OPERATIONS_MAX: usize = 64;
/// For the last words to a worker that may not read them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a stream came to its end.
enum End {
    Bye,
    /// The connection is gone, or the worker closed it without a word.
    Broken,
    /// Drained: the worker did not leave in time.
    Drained,
    Refused(Refusal),
}

/// The stream's task.
pub async fn serve(shared: Arc<Shared>, mut inbound: Streaming<v1::LeaseRequest>, outbox: Outbox) {
    if let Err(refusal) = talk(&shared, &mut inbound, &outbox).await {
        tracing::info!(
            reason = refusal.reason(),
            "a worker's stream was refused or ended"
        );
        let last = outbox.send(Err(refusal.into_status()));
        // Whoever does not read it learns the same from the end of the stream.
        let _ = timeout(LAST_WORDS, last).await;
    }
}

async fn talk(
    shared: &Arc<Shared>,
    inbound: &mut Streaming<v1::LeaseRequest>,
    outbox: &Outbox,
) -> Result<(), Refusal> {
    let hello = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return Err(Refusal::draining()),
        hello = timeout(HELLO_TIMEOUT, first(inbound)) => hello.map_err(|_| Refusal::hello_expected())??,
    };
    let Some(hello) = hello else { return Ok(()) };
    let registration = shared
        .registry
        .enter(hello.session, hello.queues.clone())
        .ok_or_else(Refusal::session_in_use)?;
    for session in &hello.replaces {
        if timeout(REPLACE_TIMEOUT, shared.registry.close(*session))
            .await
            .is_err()
        {
            tracing::warn!(%session, "a replaced stream has not ended yet");
        }
    }
    let reclaimed = hello.reclaim(shared).await?;
    tracing::info!(
        session = %hello.session,
        incarnation = %hello.incarnation,
        labels = hello.labels,
        slots = hello.slots,
        queues = hello.queues.len(),
        kept = reclaimed.kept.len(),
        lost = reclaimed.lost.len(),
        returned = reclaimed.returned,
        "a worker connected"
    );
    let held: BTreeSet<QueueName> = reclaimed
        .kept
        .iter()
        .map(|lease| lease.id.queue.clone())
        .collect();
    let welcome = v1::Welcome {
        reclaimed: reclaimed.kept.iter().map(v1::LeaseRef::from).collect(),
        lost: reclaimed.lost.iter().map(v1::LeaseRef::from).collect(),
        router: shared.name.clone(),
        store_clock_ms: shared.condition.store_clock_ms(),
    };
    let _ = outbox.send(Ok(message(Down::Welcome(welcome)))).await;
    Connected::new(shared, hello, registration, outbox)
        .run(inbound, held)
        .await
}

/// `None`: the worker left without a word.
async fn first(inbound: &mut Streaming<v1::LeaseRequest>) -> Result<Option<Hello>, Refusal> {
    match inbound.message().await {
        Ok(Some(v1::LeaseRequest {
            message: Some(Up::Hello(hello)),
        })) => Ok(Some(
            Hello::check(hello).map_err(|invalid| invalid.within("hello"))?,
        )),
        Ok(Some(_)) => Err(Refusal::hello_expected()),
        Ok(None) | Err(_) => Ok(None),
    }
}

struct Connected<'a> {
    shared: &'a Arc<Shared>,
    hello: Hello,
    registration: Registration,
    outbox: &'a Outbox,
    counter: Arc<AtomicU64>,
    operations: FuturesUnordered<BoxFuture<'a, Result<(), Refusal>>>,
}

impl<'a> Connected<'a> {
    fn new(shared: &'a Arc<Shared>, hello: Hello, registration: Registration, outbox: &'a Outbox) -> Self {
        Self {
            shared,
            hello,
            registration,
            outbox,
            counter: Arc::default(),
            operations: FuturesUnordered::new(),
        }
    }

    async fn run(
        mut self,
        inbound: &mut Streaming<v1::LeaseRequest>,
        mut held: BTreeSet<QueueName>,
    ) -> Result<(), Refusal> {
        let session = self.hello.session;
        let stream = Stream {
            session,
            incarnation: self.hello.incarnation,
            outbox: self.outbox.clone(),
            counter: self.counter.clone(),
            ending: self.registration.ending.clone(),
        };
        self.shared.dispatch.join(stream).await;
        let end = self.exchange(inbound).await;
        match self.shared.dispatch.leave(session).await {
            Some(granted) => held.extend(granted),
            // The dispatcher has ended first, in a drain: any queue may have been granted from.
            None => held.extend(self.hello.queues.iter().cloned()),
        }
        let held = held.into_iter().collect();
        match end {
            End::Bye => {
                tracing::info!(%session, "a worker said goodbye");
                release::goodbye(self.shared, session, held).await;
                Ok(())
            }
            End::Broken => {
                tracing::info!(%session, "a worker's stream broke");
                release::broken(self.shared, session, held);
                Ok(())
            }
            End::Drained => Err(Refusal::draining()),
            End::Refused(refusal) => {
                release::broken(self.shared, session, held);
                Err(refusal)
            }
        }
    }

    async fn exchange(&mut self, inbound: &mut Streaming<v1::LeaseRequest>) -> End {
        let ending = self.registration.ending.clone();
        let (draining, outbox) = (self.shared.draining.clone(), self.outbox);
        let patience = drain_patience(draining, self.shared.drain_patience, outbox, &ending);
        tokio::pin!(patience);
        loop {
            let room = self.operations.len() < OPERATIONS_MAX;
            let message = tokio::select! {
                biased;
                () = ending.told() => return End::Refused(ending.refusal()),
                () = outbox.closed() => return End::Broken,
                () = &mut patience => return End::Drained,
                Some(done) = self.operations.next() => match done {
                    Ok(()) => continue,
                    Err(refusal) => return End::Refused(refusal),
                },
                message = inbound.message(), if room => message,
            };
            let Ok(Some(message)) = message else {
                return End::Broken;
            };
            match self.obey(message.message).await {
                Ok(true) => {}
                Ok(false) => return End::Bye,
                Err(refusal) => return End::Refused(refusal),
            }
        }
    }

    /// False: goodbye.
    async fn obey(&mut self, said: Option<Up>) -> Result<bool, Refusal> {
        match said {
            Some(Up::Credits(credits)) => {
                self.seen(credits.counter);
                let credits = self.check(credits.credits)?;
                self.shared.dispatch.credits(self.hello.session, credits).await;
            }
            Some(Up::Renew(renew)) => {
                self.seen(renew.counter);
                let (shared, outbox) = (self.shared, self.outbox);
                self.operations.push(Box::pin(async move {
                    let too_many = || {
                        let message = format!("at most {} leases are taken", limits::LEASES_PER_STREAM_MAX);
                        Invalid::new("renew.leases", reason::BATCH_TOO_LARGE, message)
                    };
                    let renewed = renewal::renew(shared, renew).await.ok_or_else(too_many)?;
                    let _ = outbox.send(Ok(message(Down::Renewed(renewed)))).await;
                    Ok(())
                }));
            }
            Some(Up::Settle(settle)) => self.settle(settle)?,
            Some(Up::Bye(v1::Bye {})) => {
                // What was settled before the goodbye is recorded before the rest is given back.
                while let Some(done) = self.operations.next().await {
                    done?;
                }
                return Ok(false);
            }
            Some(Up::Hello(_)) => {
                let message = "a stream has one hello";
                return Err(Invalid::new("message", reason::INVALID_ARGUMENT, message).into());
            }
            // A message of a newer contract: what it asks for is not done, and the worker finds out.
            None => tracing::debug!(session = %self.hello.session, "an unknown message was ignored"),
        }
        Ok(true)
    }

    /// Before the store is asked for anything that this message is about.
    fn seen(&self, counter: u64) {
        self.counter.fetch_max(counter, Ordering::AcqRel);
    }

    fn check(&self, wire: Vec<v1::Credit>) -> Result<Vec<CreditOf>, Refusal> {
        if wire.len() > limits::QUEUES_PER_WORKER_MAX {
            let message = format!("at most {} queues are taken", limits::QUEUES_PER_WORKER_MAX);
            return Err(Invalid::new("credits", reason::BATCH_TOO_LARGE, message).into());
        }
        let parse = |(at, credit): (usize, v1::Credit)| {
            let queue = convert::credit_queue(&credit).map_err(|e| e.within(&format!("credits[{at}]")))?;
            if self.hello.queues.binary_search(&queue).is_err() {
                let message = "is not one of the hello's queues";
                return Err(Invalid::new(
                    format!("credits[{at}].queue"),
                    reason::INVALID_ARGUMENT,
                    message,
                ));
            }
            Ok(CreditOf {
                queue,
                free: credit.free,
                last_grant_seq: credit.last_grant_seq,
            })
        };
        let credits = wire
            .into_iter()
            .enumerate()
            .map(parse)
            .collect::<Result<Vec<_>, Invalid>>()?;
        Ok(credits)
    }

    /// An answer per part of one store call's size: a settlement need not wait for thousands of others.
    fn settle(&mut self, settle: v1::Settle) -> Result<(), Refusal> {
        let span = TraceContext::parse(&settle.traceparent, Some(&settle.tracestate));
        let mut wires = settle.settlements;
        if wires.len() > limits::LEASES_PER_STREAM_MAX {
            let message = format!("at most {} settlements are taken", limits::LEASES_PER_STREAM_MAX);
            return Err(Invalid::new("settle.settlements", reason::BATCH_TOO_LARGE, message).into());
        }
        while !wires.is_empty() {
            let part: Vec<_> = wires.drain(..wires.len().min(ITEMS_PER_CALL_MAX)).collect();
            let (shared, outbox, span) = (self.shared, self.outbox, span.clone());
            self.operations.push(Box::pin(async move {
                let settled = settling::settle(shared, part, span).await;
                let _ = outbox.send(Ok(message(Down::Settled(settled)))).await;
                Ok(())
            }));
        }
        Ok(())
    }
}

/// Tells the worker to go once the router drains, and ends when it has had its time.
async fn drain_patience(draining: CancellationToken, patience: Duration, outbox: &Outbox, ending: &Ending) {
    draining.cancelled().await;
    let go_away = v1::GoAway {
        reason: reason::DRAINING.to_owned(),
    };
    let until = clock::now() + patience;
    tokio::select! {
        sent = outbox.send(Ok(message(Down::GoAway(go_away)))) => drop(sent),
        () = ending.told() => {}
        () = tokio::time::sleep_until(until) => {}
    }
    tokio::time::sleep_until(until).await;
}
