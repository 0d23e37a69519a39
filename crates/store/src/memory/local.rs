//! The machine under [`LocalStore`]: one lock, one clock, one journal.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tidegate_protocol::domain::QueueName;

use super::{
    MemoryStore,
    journal::{Changes, Journal, Need, Nowhere},
    queue::Queue,
    sweep::PIECE,
};
use crate::{AnchoredClock, Clock, StoreEvent, StoreResult, wake::Events};

/// A hundred microseconds or more: longer than a thread takes to wake, short enough if it does not.
const YIELDS_MAX: usize = 300;

/// A store whose state is in this process; `J` says where changes are kept beside it.
pub struct LocalStore<J> {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: Events,
    /// Events of changes that were made but not answered: subscribers look at everything once that is possible.
    missed: AtomicBool,
    /// Callers that wait for the lock.
    waiting: AtomicUsize,
    /// How often somebody had the lock.
    turns: AtomicUsize,
    state: Mutex<State>,
    pub(super) journal: J,
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
            missed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            state: Mutex::new(state),
            journal,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // A panic while the lock was held leaves a state nobody can vouch for: go down with it.
        let state = self.state.lock().expect("an earlier store operation panicked");
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
        state
    }

    /// Lets somebody who waits for the lock have it first. A mutex goes to who asks at the right moment: one that works
    /// in many short pieces would keep it from everybody else.
    pub(super) async fn give_way(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        for _ in 0..YIELDS_MAX {
            tokio::task::yield_now().await;
            if self.waiting.load(Ordering::Relaxed) == 0 || self.turns.load(Ordering::Relaxed) != turns {
                break;
            }
            std::thread::yield_now();
        }
    }

    /// Runs `op` for each item on its queue, which is made if `create` and else may be absent; answers when the journal
    /// has kept everything so far, which is more than this call's own changes: a repeated submit must not be
    /// acknowledged before the first one is durable.
    pub(super) async fn each<T, R>(
        &self,
        need: Need,
        items: Vec<T>,
        queue_of: impl Fn(&T) -> QueueName + Send,
        create: bool,
        op: impl FnMut(Option<&mut Queue>, T, &Context) -> StoreResult<R> + Send,
    ) -> Vec<StoreResult<R>> {
        if let Err(error) = self.journal.check(need) {
            return items.iter().map(|_| Err(error.clone())).collect();
        }
        let (answers, events, ticket) = self.apply(need, items, queue_of, create, op);
        match self.keep(self.owed(events), ticket).await {
            Ok(()) => answers,
            Err(error) => answers.into_iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Waits for the journal, then tells what happened.
    async fn keep(&self, owed: Owed<'_>, ticket: Option<u64>) -> StoreResult<()> {
        let Some(ticket) = ticket else {
            return Ok(());
        };
        self.journal.kept(ticket).await?;
        for event in owed.paid() {
            self.events.send(event);
        }
        self.catch_up();
        Ok(())
    }

    fn owed(&self, events: Vec<StoreEvent>) -> Owed<'_> {
        Owed {
            missed: &self.missed,
            events,
        }
    }

    pub(super) fn work(&self) -> Work<'_, J> {
        Work {
            store: self,
            owed: self.owed(Vec::new()),
            ticket: None,
        }
    }

    pub(super) fn catch_up(&self) {
        if self.missed.load(Ordering::Relaxed) && self.missed.swap(false, Ordering::AcqRel) {
            self.events.send(StoreEvent::Resync);
        }
    }

    /// The part of [`Self::each`] under the lock.
    #[allow(clippy::type_complexity, reason = "three results of one step")]
    fn apply<T, R>(
        &self,
        need: Need,
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
        if need == Need::Nothing {
            return (answers, Vec::new(), None);
        }
        let mut changes = Changes::default();
        for name in touched {
            if let Some(queue) = state.queues.get_mut(&name) {
                queue.trim_ended();
                queue.take_changes(J::KEEPS, &mut changes);
            }
        }
        let ticket = self.journal.append(changes);
        (answers, context.events.into_inner(), Some(ticket))
    }
}

/// A call that takes the lock more than once: changes in pieces, kept and told of together.
pub(super) struct Work<'s, J> {
    store: &'s LocalStore<J>,
    owed: Owed<'s>,
    ticket: Option<u64>,
}

impl<J: Journal> Work<'_, J> {
    /// One piece; `None` if there is no such queue.
    pub fn once<R>(
        &mut self,
        name: &QueueName,
        mut step: impl FnMut(&mut Queue, &Context) -> R,
    ) -> Option<R> {
        let on_queue =
            |queue: Option<&mut Queue>, (), context: &Context| Ok(queue.map(|queue| step(queue, context)));
        let (mut answers, events, ticket) =
            self.store
                .apply(Need::Change, vec![()], |()| name.clone(), false, on_queue);
        self.owed.events.extend(events);
        self.ticket = ticket;
        answers.remove(0).unwrap_or_default()
    }

    /// Pieces until one does less than it may; how much was done in all.
    pub async fn repeat(
        &mut self,
        name: &QueueName,
        mut step: impl FnMut(&mut Queue, usize, &Context) -> usize + Send,
    ) -> u64 {
        let mut all = 0;
        loop {
            let done = self
                .once(name, |queue, context| step(queue, PIECE as usize, context))
                .unwrap_or(0);
            all += done as u64;
            if done < PIECE as usize {
                return all;
            }
            self.store.give_way().await;
        }
    }

    /// Waits for the journal, then tells what happened.
    pub async fn keep(self) -> StoreResult<()> {
        self.store.keep(self.owed, self.ticket).await
    }

    /// These answers, once everything is kept.
    pub async fn keep_all<R>(self, answers: Vec<R>) -> Vec<StoreResult<R>> {
        match self.keep().await {
            Ok(()) => answers.into_iter().map(Ok).collect(),
            Err(error) => answers.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// Events that wait for their changes to be kept. The changes are made, whatever becomes of the wait: a wake that is
/// dropped before it was told is missed, and must not be forgotten.
struct Owed<'s> {
    missed: &'s AtomicBool,
    events: Vec<StoreEvent>,
}

impl Owed<'_> {
    fn paid(mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if !self.events.is_empty() {
            self.missed.store(true, Ordering::Release);
        }
    }
}
