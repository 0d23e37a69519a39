//! The controller's state and everything that changes it: events in with their time, effects out, no I/O.
//!
//! One owner task holds the [`Core`]; nothing else can see it half-changed. A tick reads the whole latest state and never
//! a hint of what changed, so a lost message costs one tick and nothing more.

mod belief;
mod caps;
mod desired;
mod explain;
mod facts;
mod gates;
mod history;
pub mod model;
mod nodes;
mod operators;
mod policies;
mod probes;
mod tick;
mod view;

use std::collections::{BTreeMap, HashMap};

use tidegate_flow::{caps::Ledger, governor, histogram::Histogram};
use tidegate_protocol::domain::{QueueName, Resource, Version};
use uuid::Uuid;

pub use belief::{Reading, Trust};
pub use desired::{Desired, NoNumber};
pub use history::{HISTORY_MAX, HistoryPage};
pub use operators::Subject;
pub use policies::{Change, TuningError};
pub use probes::Asked;
pub use view::{FleetView, NodeView, ProbeView, QueueView, ResourceView};

use facts::Queue;
use history::History;
use model::{Effect, Now, StreamId};
use nodes::Node;

/// Queues known at once: a router that reports more has them ignored, so that no report can fill the memory.
const QUEUES_MAX: usize = 10_000;
/// Ticks that a leader looks on before it changes anything, when another one has been there before it: nodes come back
/// one by one, and the first ones are not the fleet.
const LEARNING_TICKS: u64 = 2;
/// Early ticks (alarms, new queues, changed policies) are at least this far apart.
const EARLY_TICK_MS: u64 = 1_000;
/// Orders live for this many ticks, and no shorter than the next: a controller that restarts is back by then.
const TTL_TICKS: u64 = 6;
const TTL_MS_MIN: u64 = 30_000;

/// What the core is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub tick_ms: u64,
    pub name: String,
    pub ledger_id: Uuid,
    /// Nobody else can lead, because the whole fleet is this process: caps that are in force are its own, of before.
    pub alone: bool,
}

/// See the [module](self).
pub struct Core {
    settings: Settings,
    ledger_id: String,
    /// Of this leadership, with the newest decision sent.
    version: Version,
    nodes: BTreeMap<StreamId, Node>,
    queues: BTreeMap<QueueName, Queue>,
    resources: BTreeMap<String, Managed<Resource>>,
    measured: BTreeMap<String, probes::Measured>,
    caps: Ledger,
    requests: HashMap<String, caps::Request>,
    writer: Option<StreamId>,
    /// Requests in a row that the writer left without an answer.
    writer_misses: u32,
    governor: governor::State,
    history: History,
    frozen: bool,
    learning_until_ms: u64,
    /// Somebody else leads: who, and when that was last seen.
    conflict: Option<(String, u64)>,
    /// The store has answered for every queue, and nobody else is in force: only now policies and targets are sent.
    is_leader: bool,
    /// The highest epoch of another ledger that a node has spoken of.
    seen_epoch: u64,
    /// Makes request ids unique: orders may share a version.
    asked: u64,
    refusals: u64,
    last_tick: Option<Now>,
    next_tick_ms: u64,
    store_latency: Histogram,
    store_latency_ms: f64,
    effects: Vec<Effect>,
}

/// What an operator has written, and how often.
#[derive(Clone, Debug)]
struct Managed<T> {
    value: T,
    /// Counts its changes, from 1.
    revision: u64,
    version: Version,
}

impl Core {
    pub fn new(settings: Settings, now: Now) -> Self {
        Self {
            ledger_id: settings.ledger_id.to_string(),
            next_tick_ms: now.mono_ms + settings.tick_ms,
            settings,
            version: Version {
                epoch: 1,
                generation: 0,
            },
            nodes: BTreeMap::new(),
            queues: BTreeMap::new(),
            resources: BTreeMap::new(),
            measured: BTreeMap::new(),
            caps: Ledger::default(),
            requests: HashMap::new(),
            writer: None,
            writer_misses: 0,
            governor: governor::State::default(),
            history: History::default(),
            frozen: false,
            learning_until_ms: 0,
            conflict: None,
            is_leader: false,
            seen_epoch: 0,
            asked: 0,
            refusals: 0,
            last_tick: None,
            store_latency: Histogram::default(),
            store_latency_ms: 0.0,
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Core::tick`] is due, by the monotonic clock.
    pub fn next_tick_ms(&self) -> u64 {
        self.next_tick_ms
    }

    /// Whether this controller leads, and why not.
    pub fn readiness(&self) -> Result<(), String> {
        match &self.conflict {
            Some((who, _)) => Err(format!("another controller leads: {who}")),
            None => Ok(()),
        }
    }

    fn is_learning(&self, now: Now) -> bool {
        now.mono_ms < self.learning_until_ms
    }

    fn ttl_ms(&self) -> u64 {
        (TTL_TICKS * self.settings.tick_ms).max(TTL_MS_MIN)
    }

    fn next_version(&mut self) -> Version {
        self.version.generation += 1;
        self.version
    }

    /// Another controller is in force. It is left alone: its orders end by themselves once it is gone.
    fn yield_to(&mut self, who: String, now: Now) {
        if self.conflict.as_ref().is_none_or(|(known, _)| *known != who) {
            tracing::error!(who, "another controller leads");
            self.refusals += 1;
        }
        self.conflict = Some((who, now.mono_ms));
    }

    /// Something cannot wait for the next tick, but a storm of it must not make one of ticks.
    fn tick_soon(&mut self, now: Now) {
        let apart = EARLY_TICK_MS.min(self.settings.tick_ms);
        let earliest = self.last_tick.map_or(now.mono_ms, |last| last.mono_ms + apart);
        self.next_tick_ms = self.next_tick_ms.min(earliest.max(now.mono_ms));
    }

    /// Another leadership was in force and is not any more: to be obeyed, decisions must be newer than all of its, and
    /// nothing that was answered to this one is certain.
    fn outrank(&mut self, seen: u64, now: Now) {
        if seen < self.version.epoch {
            return;
        }
        self.version = Version {
            epoch: seen + 1,
            generation: 0,
        };
        tracing::warn!(
            seen,
            epoch = self.version.epoch,
            "another leadership was in force: leading with a newer epoch"
        );
        self.learning_until_ms = now.mono_ms + LEARNING_TICKS * self.settings.tick_ms;
        self.caps.forget_answers();
        self.requests.clear();
        self.conflict = None;
        self.is_leader = false;
        let version = self.next_version();
        for queue in self.queues.values_mut() {
            if let Some(policy) = &mut queue.policy {
                policy.version = version;
            }
        }
        for node in self.nodes.values_mut() {
            node.sent_at_ms = None;
        }
        self.adopt(now);
        self.tick_soon(now);
    }
}

#[cfg(test)]
mod tests;
