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
};
use crate::{AnchoredClock, Clock, StoreEvent, StoreResult, wake::Events};

/// Some hundred microseconds: longer than a thread takes to wake, short enough if it does not.
const YIELDS_MAX: usize = 1_000;

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
    pub(super) async fn keep(&self, owed: Owed<'_>, ticket: Option<u64>) -> StoreResult<()> {
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

    pub(super) fn owed(&self, events: Vec<StoreEvent>) -> Owed<'_> {
        Owed {
            missed: &self.missed,
            events,
        }
    }

    pub(super) fn catch_up(&self) {
        if self.missed.load(Ordering::Relaxed) && self.missed.swap(false, Ordering::AcqRel) {
            self.events.send(StoreEvent::Resync);
        }
    }

    /// The part of [`Self::each`] under the lock.
    #[allow(clippy::type_complexity, reason = "three results of one step")]
    pub(super) fn apply<T, R>(
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
                queue.take_changes(J::KEEPS, &mut changes);
            }
        }
        let ticket = self.journal.append(changes);
        (answers, context.events.into_inner(), Some(ticket))
    }
}

/// Events that wait for their changes to be kept. The changes are made, whatever becomes of the wait: a wake that is
/// dropped before it was told is missed, and must not be forgotten.
pub(super) struct Owed<'s> {
    missed: &'s AtomicBool,
    pub(super) events: Vec<StoreEvent>,
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
