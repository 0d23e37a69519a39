//! Hands out jobs. One task owns the board of sessions and credits, makes one lease call for everything that is dirty,
//! and sends what comes back down the streams; while the call is in flight the next dirt gathers.
//!
//! It is woken by credits, by the store's wakes, and by a poll each second that asks for everything hungry in one call:
//! a lost wake costs a second, never a job.

mod board;
mod delivery;
mod handback;
mod handover;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tidegate_chassis::{CancellationToken, telemetry::trace::Since};
use tidegate_protocol::domain::{Incarnation, QueueName, Session};
use tidegate_store::{Grant, Grants, JobStore, LeaseRequest, StoreEvent, StoreResult};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use self::board::{Board, Landing};
pub use self::{
    handback::{HANDBACKS_MAX, Handback},
    handover::Handover,
};
use crate::{
    catalog::Catalog,
    condition::Condition,
    lease::{Ending, Outbox},
    metrics::Metrics,
    trace::StoreCalls,
};

/// Messages of all streams that wait for the dispatcher; a full queue slows the streams down, which slows their workers.
const COMMANDS_QUEUED_MAX: usize = 4_096;
/// Messages taken before the board is looked at again.
const COMMANDS_PER_TURN: usize = 256;
/// The fallback poll.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A stream is granted to only while it has room for this many messages: the rest is for answers to the worker.
const OUTBOX_ROOM_MIN: usize = 8;
/// Polls in a row that find a stream's outbox full before it is closed: a reader that slow holds jobs for nothing.
const POLLS_FULL_MAX: u32 = 5;

/// What the dispatcher needs of a stream.
pub struct Stream {
    pub session: Session,
    pub incarnation: Incarnation,
    pub outbox: Outbox,
    /// The newest counter of the worker's messages.
    pub counter: Arc<AtomicU64>,
    pub ending: Arc<Ending>,
}

/// One queue of a credits message.
pub struct CreditOf {
    pub queue: QueueName,
    pub free: u32,
    pub last_grant_seq: u64,
}

enum Command {
    Join(Stream),
    Credits(Session, Vec<CreditOf>),
    Leave(Session, oneshot::Sender<Vec<QueueName>>),
    Entering(
        Vec<QueueName>,
        mpsc::OwnedPermit<Command>,
        oneshot::Sender<Handover>,
    ),
    HandedOver(Asked, Vec<StoreResult<Grants>>),
    /// Whoever made the handover is gone, and with it the answer.
    Abandoned(Asked),
}

/// A cheap handle. All of it does nothing once the dispatcher has ended, which it does only in a drain.
#[derive(Clone)]
pub struct Dispatch {
    commands: mpsc::Sender<Command>,
}

impl Dispatch {
    pub async fn join(&self, stream: Stream) {
        let _ = self.commands.send(Command::Join(stream)).await;
    }

    pub async fn credits(&self, session: Session, credits: Vec<CreditOf>) {
        let _ = self.commands.send(Command::Credits(session, credits)).await;
    }

    /// Jobs are about to be entered into these queues: what somebody waits for there in vain, to be leased in the same
    /// call. `None`: nothing. It is over with [`Handover::done`], or when it is dropped.
    pub async fn entering(&self, queues: Vec<QueueName>) -> Option<Handover> {
        let back = self.commands.clone().reserve_owned().await.ok()?;
        let (reply, answer) = oneshot::channel();
        let entering = Command::Entering(queues, back, reply);
        self.commands.send(entering).await.ok()?;
        answer.await.ok()
    }

    /// No grant goes to the session any more; answers the queues it was granted from. `None` once the dispatcher has
    /// ended.
    pub async fn leave(&self, session: Session) -> Option<Vec<QueueName>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Leave(session, reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The owner; see the [module](self).
pub struct Dispatcher {
    store: Arc<dyn JobStore>,
    calls: StoreCalls,
    condition: Arc<Condition>,
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
    handback: Handback,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Receiver<StoreEvent>,
    board: Board,
    streams: HashMap<Session, Seat>,
    /// The highest store clock seen with grants of each queue, while someone wants its jobs. By queue, because queues may
    /// live on different machines of a cluster; what concerns the store as a whole is the pulse's to see.
    clocks: HashMap<QueueName, QueueClock>,
}

struct Seat {
    stream: Stream,
    polls_full: u32,
}

#[derive(Default)]
struct QueueClock {
    highest_ms: u64,
    /// When it was seen to have gone back: no grants until a later pulse has passed the highest again.
    back_at: Option<u64>,
}

/// What the store is asked for, and what was known before it is asked: each session's counter, and of each request's queue
/// the highest clock.
struct Asked {
    requests: Vec<LeaseRequest>,
    clocks_ms: Vec<u64>,
    counters: HashMap<Session, u64>,
    since: Since,
}

/// A lease call in flight.
struct Flight {
    asked: Asked,
    answers: BoxFuture<'static, Vec<StoreResult<Grants>>>,
}

impl Dispatcher {
    pub fn new(
        store: Arc<dyn JobStore>,
        calls: StoreCalls,
        condition: Arc<Condition>,
        catalog: Arc<Catalog>,
        metrics: Arc<Metrics>,
        handback: Handback,
    ) -> (Self, Dispatch) {
        let (handle, commands) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let events = store.subscribe();
        let dispatch = Dispatch { commands: handle };
        let dispatcher = Self {
            store,
            calls,
            condition,
            catalog,
            metrics,
            handback,
            commands,
            events,
            board: Board::default(),
            streams: HashMap::new(),
            clocks: HashMap::new(),
        };
        (dispatcher, dispatch)
    }

    /// Until `draining`; then what is in flight is finished and handed back.
    pub async fn run(mut self, draining: CancellationToken) {
        let mut polls = interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flight: Option<Flight> = None;
        let mut inbox = Vec::with_capacity(COMMANDS_PER_TURN);
        loop {
            if flight.is_none() {
                flight = self.take_off();
            }
            tokio::select! {
                biased;
                () = draining.cancelled() => break,
                answers = landing(&mut flight) => {
                    if let Some(landed) = flight.take() {
                        self.land(landed.asked, answers);
                    }
                }
                _ = self.commands.recv_many(&mut inbox, COMMANDS_PER_TURN) => {
                    inbox.drain(..).for_each(|command| self.obey(command));
                }
                event = self.events.recv() => self.note(event),
                _ = polls.tick() => self.poll(),
            }
        }
        if let Some(flight) = flight {
            self.handback.now(granted(flight.answers.await)).await;
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            if let Command::HandedOver(_, answers) = command {
                self.handback.now(granted(answers)).await;
            }
        }
    }

    fn take_off(&mut self) -> Option<Flight> {
        let asked = self.ask(|board, may_grant, takes| board.plan(may_grant, takes))?;
        let (store, requests) = (self.store.clone(), asked.requests.clone());
        let answers = Box::pin(async move { store.lease(requests).await });
        Some(Flight { asked, answers })
    }

    /// What a plan of the board comes to; `None`: nothing.
    fn ask(
        &mut self,
        plan: impl FnOnce(
            &mut Board,
            &mut dyn FnMut(&QueueName) -> bool,
            &dyn Fn(Session) -> bool,
        ) -> Vec<LeaseRequest>,
    ) -> Option<Asked> {
        let (condition, catalog, clocks, streams) =
            (&self.condition, &self.catalog, &mut self.clocks, &self.streams);
        let mut may_grant = |queue: &QueueName| {
            let (costs, ttl_ms) = match catalog.facts(queue) {
                Some(facts) => (facts.costs_a_resource, facts.lease_ttl_ms),
                // Not looked at yet: the careful answer.
                None => (true, u64::MAX),
            };
            condition.may_grant(costs, ttl_ms)
                && clocks.get_mut(queue).is_none_or(|clock| clock.passed(condition))
        };
        let takes = |session| {
            let room = |seat: &Seat| seat.stream.outbox.capacity() >= OUTBOX_ROOM_MIN;
            streams.get(&session).is_some_and(room)
        };
        let requests = plan(&mut self.board, &mut may_grant, &takes);
        if requests.is_empty() {
            return None;
        }
        let sessions = requests
            .iter()
            .flat_map(|request| &request.wants)
            .map(|want| want.session);
        let counters = sessions
            .filter_map(|session| {
                Some((
                    session,
                    self.streams.get(&session)?.stream.counter.load(Ordering::Acquire),
                ))
            })
            .collect();
        let clock = |request: &LeaseRequest| {
            self.clocks
                .get(&request.queue)
                .map_or(0, |clock| clock.highest_ms)
        };
        let clocks_ms = requests.iter().map(clock).collect();
        Some(Asked {
            requests,
            clocks_ms,
            counters,
            since: Since::now(),
        })
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join(stream) => {
                self.board.join(stream.session, stream.incarnation);
                self.streams.insert(
                    stream.session,
                    Seat {
                        stream,
                        polls_full: 0,
                    },
                );
            }
            Command::Credits(session, credits) => {
                for credit in credits {
                    self.board
                        .credit(session, credit.queue, credit.free, credit.last_grant_seq);
                }
            }
            Command::Leave(session, reply) => {
                // The stream may have given up waiting; then it does not release either.
                let _ = reply.send(self.forget(session));
            }
            Command::Entering(queues, back, reply) => {
                let asked = self.ask(|board, may_grant, takes| board.plan_for(&queues, may_grant, takes));
                // Without a reply nothing is asked for. One that nobody waits for any more is dropped, and says so.
                if let Some(asked) = asked {
                    let _ = reply.send(Handover::new(asked, back));
                }
            }
            Command::HandedOver(asked, answers) => self.land(asked, answers),
            Command::Abandoned(asked) => self.abandon(&asked),
        }
    }

    /// What was granted meanwhile, if anything was, comes back by time.
    fn abandon(&mut self, asked: &Asked) {
        tracing::warn!(
            "a submit vanished with the jobs that it was to hand out: they come back when their leases end"
        );
        asked
            .requests
            .iter()
            .for_each(|request| self.board.landed(request));
        for request in &asked.requests {
            self.board.line_up(request, |_| false, Landing::Failed);
        }
    }

    fn forget(&mut self, session: Session) -> Vec<QueueName> {
        self.streams.remove(&session);
        if self.streams.is_empty() {
            self.clocks.clear();
        }
        self.board.leave(session)
    }

    fn note(&mut self, event: Result<StoreEvent, broadcast::error::RecvError>) {
        match event {
            Ok(StoreEvent::Wake(queue)) => self.board.mark(&queue),
            Ok(StoreEvent::Finished(_)) => {}
            Ok(StoreEvent::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => {
                self.board.mark_hungry(true)
            }
            Err(broadcast::error::RecvError::Closed) => {
                tracing::warn!("the job store publishes no more events: only the poll is left");
                // A receiver that stays silent, because a closed one would be ready for ever.
                self.events = broadcast::Sender::new(1).subscribe();
            }
        }
    }

    fn poll(&mut self) {
        self.board.mark_hungry(false);
        let mut gone = Vec::new();
        for (session, seat) in &mut self.streams {
            let full = seat.stream.outbox.capacity() == 0;
            seat.polls_full = if full { seat.polls_full + 1 } else { 0 };
            if seat.polls_full >= POLLS_FULL_MAX {
                seat.stream.ending.slow();
            }
            // A stream whose task died without a word.
            if seat.stream.ending.has_ended() {
                gone.push(*session);
            }
        }
        for session in gone {
            self.forget(session);
        }
    }
}

impl QueueClock {
    fn passed(&mut self, condition: &Condition) -> bool {
        let passed = |at: u64| {
            condition
                .clock_read_after(at)
                .is_some_and(|clock_ms| clock_ms >= self.highest_ms)
        };
        if self.back_at.is_some_and(passed) {
            self.back_at = None;
        }
        self.back_at.is_none()
    }
}

fn granted(answers: Vec<StoreResult<Grants>>) -> Vec<Grant> {
    let grants = answers.into_iter().flatten();
    grants.flat_map(|grants| grants.grants).collect()
}

/// Pending for ever when nothing is in flight.
async fn landing(flight: &mut Option<Flight>) -> Vec<StoreResult<Grants>> {
    match flight {
        Some(flight) => (&mut flight.answers).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "dispatcher/handover_tests.rs"]
mod tests;
