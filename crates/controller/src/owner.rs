//! The one task that holds the core: a bounded mailbox in front, a ticker, and streams behind.
//!
//! Whoever wants something of the state sends a closure; so there is no lock, and every event meets the state that the
//! one before it has left.

use std::{collections::HashMap, time::Duration};

use tidegate_chassis::{
    CancellationToken,
    admin::Readiness,
    clock::{self, Monotonic},
    telemetry::trace::{Since, TraceContext, WorkSpan},
};
use tidegate_protocol::v1;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tonic::Status;

use crate::{
    core::{
        Core,
        model::{Decision, Effect, Hello, Now, Order, Said, StreamId},
    },
    ledger::{Record, Scribe},
    metrics::Metrics,
    status::Refusal,
    trace, wire,
};

/// Events that wait for the owner. Each takes microseconds; more waiting means that it is stuck, and senders wait then.
const MAILBOX_MAX: usize = 1_024;
/// Decisions that a watcher may be behind before it is told that it is too slow.
const WATCH_MAX: usize = 1_024;

pub type Outbox = mpsc::Sender<Result<v1::AttachResponse, Status>>;

type Turn = Box<dyn FnOnce(&mut Core, Now) + Send>;

enum Event {
    Join {
        hello: Box<Hello>,
        link: Link,
        stream: oneshot::Sender<StreamId>,
    },
    Said(StreamId, Said),
    Left(StreamId),
    Ask(Turn),
}

/// The way to one attached node.
pub struct Link {
    pub outbox: Outbox,
    /// Ends the stream's task.
    pub end: CancellationToken,
}

/// The owner has ended: the process is going down.
#[derive(Debug)]
pub struct Gone;

/// A cheap handle to the owner.
#[derive(Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Event>,
    decisions: broadcast::Sender<Decision>,
}

impl Handle {
    /// A node has said hello; gives the number of its stream.
    pub async fn join(&self, hello: Hello, link: Link) -> Result<StreamId, Gone> {
        let (stream, number) = oneshot::channel();
        let hello = Box::new(hello);
        self.send(Event::Join { hello, link, stream }).await?;
        number.await.map_err(|_| Gone)
    }

    pub async fn said(&self, stream: StreamId, said: Said) -> Result<(), Gone> {
        self.send(Event::Said(stream, said)).await
    }

    pub async fn left(&self, stream: StreamId) {
        // Without an owner there is nobody to tell.
        let _ = self.send(Event::Left(stream)).await;
    }

    /// Asks the state, or changes it.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        let turn: Turn = Box::new(move |core, now| {
            // A caller that has gone away needs no answer.
            let _ = answer.send(question(core, now));
        });
        self.send(Event::Ask(turn)).await?;
        answered.await.map_err(|_| Gone)
    }

    /// Every decision from now on.
    pub fn watch(&self) -> broadcast::Receiver<Decision> {
        self.decisions.subscribe()
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.mailbox.send(event).await.map_err(|_| Gone)
    }
}

/// See the [module](self).
pub struct Owner {
    core: Core,
    mailbox: mpsc::Receiver<Event>,
    decisions: broadcast::Sender<Decision>,
    links: HashMap<StreamId, Link>,
    streams: StreamId,
    clock: Monotonic,
    metrics: Metrics,
    readiness: Readiness,
    /// The span of the tick that is being carried out.
    tick: Option<WorkSpan>,
    scribe: Scribe,
    /// The epoch that the ledger is to have.
    raises: watch::Sender<u64>,
}

/// What the owner works with, beside the state.
pub struct Around {
    /// The one that the core was started by.
    pub clock: Monotonic,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub scribe: Scribe,
    pub raises: watch::Sender<u64>,
}

impl Owner {
    pub fn new(core: Core, around: Around) -> (Self, Handle) {
        let Around {
            clock,
            metrics,
            readiness,
            scribe,
            raises,
        } = around;
        let (events, mailbox) = mpsc::channel(MAILBOX_MAX);
        let (decisions, _) = broadcast::channel(WATCH_MAX);
        let handle = Handle {
            mailbox: events,
            decisions: decisions.clone(),
        };
        let owner = Self {
            core,
            mailbox,
            decisions,
            links: HashMap::new(),
            streams: 0,
            clock,
            metrics,
            readiness,
            tick: None,
            scribe,
            raises,
        };
        (owner, handle)
    }

    /// Until `stop`; from `draining` on readiness is no more its to say.
    pub async fn run(mut self, draining: CancellationToken, stop: CancellationToken) {
        self.show_readiness(&draining);
        loop {
            let now = self.now();
            let wait = Duration::from_millis(self.core.next_tick_ms().saturating_sub(now.mono_ms));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {
                    self.turn();
                }
                event = self.mailbox.recv() => {
                    let Some(event) = event else { return };
                    self.take(event);
                    self.carry_out();
                }
            }
            self.show_readiness(&draining);
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.clock.ms(),
            wall_ms: clock::wall_ms(),
        }
    }

    fn turn(&mut self) {
        let (now, since, turn) = (self.now(), Since::now(), Monotonic::start());
        self.core.check_lease(now);
        self.core.tick(now);
        self.tick = trace::tick(|| self.core.view(now), since);
        self.carry_out();
        self.tick = None;
        self.metrics.ticked(turn.seconds());
        self.metrics.show(&self.core.view(now), now.wall_ms);
        self.metrics.show_ledger(&self.scribe.condition());
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        // It may have been stopped for long: nothing is decided, and nothing sent, by a lease that has run out.
        self.core.check_lease(now);
        match event {
            Event::Join { hello, link, stream } => {
                self.streams += 1;
                self.links.insert(self.streams, link);
                let _ = stream.send(self.streams);
                self.core.join(self.streams, *hello, now);
            }
            Event::Said(stream, said) => self.core.said(stream, said, now),
            Event::Left(stream) => {
                self.links.remove(&stream);
                self.core.leave(stream, now);
            }
            Event::Ask(turn) => turn(&mut self.core, now),
        }
    }

    /// Until nothing is left to do: closing a slow node's stream may give another one work.
    fn carry_out(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send(stream, order) => self.send(stream, order),
                    Effect::Close(stream) => {
                        if let Some(link) = self.links.remove(&stream) {
                            link.end.cancel();
                        }
                    }
                    Effect::Decided(decision) => self.tell(decision),
                    Effect::Keep(record) => self.scribe.write(record),
                    Effect::RaiseEpoch(epoch) => {
                        self.raises.send_replace(epoch);
                    }
                }
            }
        }
    }

    /// Never waits: a node that does not read must not hold up the others.
    fn send(&mut self, stream: StreamId, order: Order) {
        let Some(link) = self.links.get(&stream) else {
            return;
        };
        let is_order = !matches!(order, Order::Refused { .. });
        if is_order && !self.core.may_push(self.now()) {
            return;
        }
        let Err(error) = link.outbox.try_send(Ok(wire::order(order))) else {
            return;
        };
        if matches!(error, mpsc::error::TrySendError::Full(_)) {
            tracing::warn!(stream, "a node does not read: its stream is closed");
            self.metrics.dropped();
        }
        if let Some(link) = self.links.remove(&stream) {
            link.end.cancel();
        }
        let now = self.now();
        self.core.leave(stream, now);
    }

    fn tell(&mut self, decision: Decision) {
        let tick = self.tick.as_ref().map(WorkSpan::context);
        let within = tick.as_ref().map(TraceContext::enter);
        tracing::info!(
            queue = %decision.queue,
            reason = decision.reason.as_str(),
            cap = decision.cap,
            previous_cap = decision.previous_cap,
            wanted = decision.wanted,
            target = decision.target,
            epoch = decision.version.epoch,
            generation = decision.version.generation,
            text = decision.text,
            "decided"
        );
        drop(within);
        self.metrics.decided(&decision);
        trace::decision(&decision, tick.as_ref());
        self.scribe.write(Record::Decision(decision.clone()));
        // Nobody watching is the usual case.
        let _ = self.decisions.send(decision);
    }

    fn show_readiness(&self, draining: &CancellationToken) {
        if draining.is_cancelled() {
            return;
        }
        match self.core.readiness() {
            Ok(()) => self.readiness.set(true, ""),
            Err(why) => self.readiness.set(false, why),
        }
    }
}

impl From<Gone> for Refusal {
    fn from(Gone: Gone) -> Self {
        Refusal::draining()
    }
}
