//! A scenario file: what the plant is, what happens to it, and what must come out. `README.md` documents every key.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shape::{Amount, Curve};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    pub length_s: f64,
    #[serde(default)]
    pub fleet: Fleet,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub resources: BTreeMap<String, Resource>,
    pub queues: BTreeMap<String, Queue>,
    /// Whether submissions are refused when the predicted wait exceeds a queue's deadline.
    #[serde(default)]
    pub admission: bool,
    #[serde(default)]
    pub misreports: Vec<Misreport>,
    #[serde(default)]
    pub events: Vec<Event>,
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// What only a run with real servers needs; nothing to the model.
    pub live: Option<toml::Table>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    pub workers: u32,
    pub slots: u32,
    pub lease_ttl_s: f64,
    pub changes: Vec<FleetChange>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            workers: 4,
            slots: 25,
            lease_ttl_s: 10.0,
            changes: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetChange {
    pub at_s: f64,
    pub workers: u32,
    /// Those that leave die with their jobs instead of finishing them.
    #[serde(default)]
    pub kill: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// One operation at the server, which does them one by one.
    pub op_ms: Curve,
    /// Added to every call on its way.
    pub latency_ms: Curve,
    pub timeout_ms: u64,
    /// A slot that may run a job and has none asks again after this. 0: it is told.
    pub poll_s: f64,
    pub down_s: Vec<(f64, f64)>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            op_ms: Curve::Always(0.4),
            latency_ms: Curve::Always(0.0),
            timeout_ms: 1_000,
            poll_s: 0.0,
            down_s: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    pub capacity: u32,
    #[serde(default = "headroom")]
    pub headroom: f64,
    /// Connections that work at full speed at once.
    pub knee: Curve,
    #[serde(default)]
    pub api: Option<Api>,
    #[serde(default)]
    pub down_s: Vec<(f64, f64)>,
    /// Whether an active probe asks it once a second.
    #[serde(default)]
    pub probe: bool,
    /// Whether its use by everybody is measured.
    #[serde(default = "yes")]
    pub measured: bool,
}

fn headroom() -> f64 {
    0.7
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub per_s: Curve,
    #[serde(default = "api_work")]
    pub work: Amount,
}

fn api_work() -> Amount {
    Amount::Erlang {
        phases: 1,
        mean: 0.05,
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub per_s: Curve,
    /// (second, jobs at once).
    #[serde(default)]
    pub bursts: Vec<(f64, u32)>,
    #[serde(default = "one")]
    pub weight: f64,
    #[serde(default = "min")]
    pub min: u32,
    #[serde(default = "max")]
    pub max: u32,
    /// Seconds of a job in which it needs no resource.
    #[serde(default = "nothing")]
    pub off: Amount,
    /// Resources in the order in which a job uses them, one connection each.
    #[serde(default)]
    pub work: Vec<Work>,
    /// Every amount of the job times this.
    #[serde(default = "always_one")]
    pub scale: Curve,
    #[serde(default = "statement_timeout")]
    pub statement_timeout_s: f64,
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Share of attempts that fail for reasons of their own, class error.
    #[serde(default = "zero")]
    pub fails: Curve,
    pub deadline_s: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub resource: String,
    pub time: Amount,
}

fn one() -> f64 {
    1.0
}
fn min() -> u32 {
    1
}
fn max() -> u32 {
    1_000
}
fn nothing() -> Amount {
    Amount::Erlang { phases: 0, mean: 0.0 }
}
fn always_one() -> Curve {
    Curve::Always(1.0)
}
fn zero() -> Curve {
    Curve::Always(0.0)
}
fn statement_timeout() -> f64 {
    5.0
}
fn attempts() -> u32 {
    4
}

/// A number that is reported wrong for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Misreport {
    pub from_s: f64,
    pub until_s: f64,
    pub field: Field,
    pub says: Says,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    InUse,
    InFlight,
    Ready,
    RunTime,
    StoreLatency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    Nan,
    Negative,
    /// What it was when this began.
    Frozen,
    /// 10^9.
    Spike,
    /// Not measured at all.
    Nothing,
}

/// A disturbance from which recovery is timed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub at_s: f64,
    pub needs: Needs,
    /// The queue that is watched; without it the jobs of all.
    pub queue: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// As much must run as under the oracle, or nothing must wait.
    More,
    /// No more must run than under the oracle.
    Less,
    /// Caps must come to rest.
    Rest,
}

/// A range that a measure must be in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub measure: String,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// The bounds are times the value of this strategy.
    pub times: Option<String>,
    pub why: String,
}

impl Scenario {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no scenario", path.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        if !(self.length_s >= 1.0 && self.length_s <= 86_400.0) {
            bail!("length_s must be from 1 to 86400");
        }
        if self.queues.is_empty() {
            bail!("there is no queue: add [queues.NAME]");
        }
        let curves = self.queues.iter().flat_map(|(name, queue)| {
            [
                (format!("queues.{name}.per_s"), &queue.per_s),
                (format!("queues.{name}.scale"), &queue.scale),
                (format!("queues.{name}.fails"), &queue.fails),
            ]
        });
        let resources = self.resources.iter().flat_map(|(name, resource)| {
            let api = resource
                .api
                .iter()
                .map(move |api| (format!("resources.{name}.api.per_s"), &api.per_s));
            std::iter::once((format!("resources.{name}.knee"), &resource.knee)).chain(api)
        });
        let store = [
            ("store.op_ms".to_owned(), &self.store.op_ms),
            ("store.latency_ms".to_owned(), &self.store.latency_ms),
        ];
        for (place, curve) in curves.chain(resources).chain(store) {
            if let Err(why) = curve.check() {
                bail!("{place} {why}");
            }
        }
        for (name, queue) in &self.queues {
            for work in &queue.work {
                if !self.resources.contains_key(&work.resource) {
                    bail!("queues.{name} works on {0}: add [resources.{0}]", work.resource);
                }
            }
            if self.admission && queue.deadline_s.is_none() {
                bail!("queues.{name}.deadline_s is needed where admission is on");
            }
        }
        for event in self.events.iter().filter_map(|event| event.queue.as_ref()) {
            if !self.queues.contains_key(event) {
                bail!("an event watches {event}: there is no such queue");
            }
        }
        for expect in &self.expect {
            if expect.min.is_none() && expect.max.is_none() {
                bail!("the expectation of {} has neither min nor max", expect.measure);
            }
        }
        Ok(())
    }

    /// Units of each resource (by its place) that a running job of a queue holds: one connection each.
    pub fn costs(&self, queue: &Queue) -> Vec<usize> {
        let place = |work: &Work| self.resources.keys().position(|name| *name == work.resource);
        let mut places: Vec<usize> = queue.work.iter().filter_map(place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl Resource {
    /// Units that jobs may hold at the very most.
    pub fn hard_cap(&self) -> u32 {
        (f64::from(self.capacity) * self.headroom + 1e-9) as u32
    }
}
