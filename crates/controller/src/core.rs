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
mod leadership;
pub mod model;
mod nodes;
mod operators;
mod policies;
mod probes;
mod replayable;
mod store;
mod tick;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_flow::{caps::Ledger, governor, histogram::Histogram};
use tidegate_protocol::domain::{QueueName, Resource, Version};

pub use belief::{Reading, Trust};
pub use desired::{Desired, NoNumber};
pub use leadership::{EPOCH_MAX, Lead, Standing};
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
    /// Nobody else can lead, because the whole fleet is this process: caps that are in force are its own, of before.
    pub alone: bool,
}

/// See the [module](self).
pub struct Core {
    settings: Settings,
    standing: Standing,
    /// Empty: none was ever read.
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
    /// The governor's clock goes on where the ledger's last snapshot stood, whichever process that was.
    governor_offset_ms: u64,
    /// Ticks of this leadership.
    ticks: u64,
    snapshot_due_ms: u64,
    history: History,
    trust: store::Trust,
    frozen: bool,
    /// Resources of which more is held than their budget.
    overfull: BTreeSet<String>,
    learning_until_ms: u64,
    /// Somebody else leads: who, and when that was last seen.
    conflict: Option<(String, u64)>,
    /// The store has answered for every queue, and nobody else is in force: only now policies and targets are sent.
    is_leader: bool,
    /// The highest epoch of another ledger that a node has spoken of.
    seen_epoch: u64,
    /// See [`Lead`].
    is_first: bool,
    stride: u64,
    /// The epoch that the ledger is asked to have; nothing is ordered until it has.
    raising: Option<u64>,
    /// It is raised without anybody having been there before.
    is_fresh: bool,
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
            standing: Standing::Standby(None, "it has not read its ledger yet".to_owned()),
            ledger_id: String::new(),
            next_tick_ms: now.mono_ms + settings.tick_ms,
            settings,
            version: Version::default(),
            nodes: BTreeMap::new(),
            queues: BTreeMap::new(),
            resources: BTreeMap::new(),
            measured: BTreeMap::new(),
            caps: Ledger::default(),
            requests: HashMap::new(),
            writer: None,
            writer_misses: 0,
            governor: governor::State::default(),
            governor_offset_ms: 0,
            ticks: 0,
            snapshot_due_ms: 0,
            trust: store::Trust::default(),
            history: History::default(),
            frozen: false,
            overfull: BTreeSet::new(),
            learning_until_ms: 0,
            conflict: None,
            is_leader: false,
            seen_epoch: 0,
            is_first: false,
            stride: 0,
            raising: None,
            is_fresh: false,
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

    /// Something cannot wait for the next tick, but a storm of it must not make one of ticks.
    fn tick_soon(&mut self, now: Now) {
        let apart = EARLY_TICK_MS.min(self.settings.tick_ms);
        let earliest = self.last_tick.map_or(now.mono_ms, |last| last.mono_ms + apart);
        self.next_tick_ms = self.next_tick_ms.min(earliest.max(now.mono_ms));
    }
}

#[cfg(test)]
mod tests;
