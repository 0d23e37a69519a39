//! What goes into the core and what comes out of it: plain data, so that a test can say exactly what happened.

use tidegate_flow::{governor::Reason, histogram::Histogram};
use tidegate_protocol::domain::{Cap, CapRecord, Policy, QueueName, Version};

use crate::ledger::Record;

/// The time of an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Measures; starts anywhere.
    pub mono_ms: u64,
    /// Is shown.
    pub wall_ms: u64,
}

/// One attached stream; never used twice.
pub type StreamId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Router,
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Router => "router",
            Role::Worker => "worker",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Hello {
    pub role: Role,
    /// Of the process: a second stream of it replaces the first.
    pub node: String,
    pub name: String,
    pub version: String,
    /// The newest decision it obeys, and whose.
    pub applied: Version,
    pub ledger_id: String,
    pub store_incarnation: String,
    pub queues: Vec<QueueName>,
    pub slots: u32,
    pub state: Report,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub queues: Vec<QueueReport>,
    pub resources: Vec<ResourceReport>,
    pub store_latency: Histogram,
    pub alarm: bool,
    /// 0: not said.
    pub slots: u32,
    pub store: Option<StoreSeen>,
}

/// A router's job store: which it is, its clock, and what the router found when it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSeen {
    pub incarnation: String,
    pub clock_ms: u64,
    pub found_watermark_ms: u64,
    pub found_clock_ms: u64,
    /// Why the router does not trust it; empty: it does.
    pub untrusted: String,
}

#[derive(Clone, Debug)]
pub struct QueueReport {
    pub queue: QueueName,
    pub counts: Counts,
    pub mean_in_flight: f64,
    pub is_down: bool,
    pub store: Option<StoreFacts>,
}

/// What happened since the last report; summed over nodes.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Of every job that succeeded.
    pub run_time: Histogram,
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    /// The jobs' own fault: no signal.
    pub job_errors: u64,
    pub submitted: u64,
    pub refused: u64,
    /// Of those refused, by the gate because they would wait too long.
    pub gated: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.run_time.merge(&other.run_time);
        self.overload += other.overload;
        self.down += other.down;
        self.errors += other.errors;
        self.job_errors += other.job_errors;
        self.submitted += other.submitted;
        self.refused += other.refused;
        self.gated += other.gated;
    }

    pub fn failures(&self) -> u64 {
        self.overload + self.down + self.errors
    }

    /// Jobs that came to be run, in so many seconds. What the gate refused is among them: a queue that is refused its jobs
    /// because it has too few slots would else want no more of them. The gate is asked before `rate` (a second, 0 = none):
    /// what would have been over that is no demand.
    pub fn arrivals(&self, rate: u32, seconds: f64) -> u64 {
        let most = match rate {
            0 => u64::MAX,
            rate => (f64::from(rate) * seconds) as u64,
        };
        self.submitted.max((self.submitted + self.gated).min(most))
    }

    /// Jobs that succeeded.
    pub fn completions(&self) -> u64 {
        self.run_time.count()
    }
}

/// The store's numbers; the newest win.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    pub ready: u64,
    pub running: u64,
    pub slots: u64,
    pub oldest_ready_age_ms: u64,
    pub clock_ms: u64,
}

#[derive(Clone, Debug)]
pub struct ResourceReport {
    pub resource: String,
    pub in_use: u32,
    pub waiters: u32,
}

/// A router's answer for one queue.
#[derive(Clone, Debug)]
pub struct CapAnswer {
    pub queue: QueueName,
    pub applied: bool,
    pub record: Option<CapRecord>,
    pub slots: u64,
    /// The store did not answer for it; what it did is unknown.
    pub error: Option<String>,
}

/// What a node said after its hello.
#[derive(Clone, Debug)]
pub enum Said {
    Report(Report),
    Applied(Version),
    CapAnswers {
        request_id: String,
        items: Vec<CapAnswer>,
    },
    /// It obeys somebody else.
    Refusal {
        obeyed: Version,
        ledger_id: String,
        reason: String,
    },
}

/// One message to a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    Welcome {
        version: Version,
        ledger_id: String,
        controller: String,
        /// See [`Order::RefuseStore`]; empty: it is trusted.
        store_refused: String,
    },
    Policies {
        version: Version,
        policies: Vec<(QueueName, Policy, Version)>,
        removed: Vec<QueueName>,
    },
    Caps {
        version: Version,
        request_id: String,
        /// Without a cap: adopt what is stored.
        orders: Vec<(QueueName, Option<Cap>)>,
        ttl_ms: u64,
    },
    Targets {
        version: Version,
        targets: Vec<(QueueName, u32, &'static str)>,
        ttl_ms: u64,
    },
    CapWriter(bool),
    /// The whole state: a queue that is not named is open.
    Gates {
        version: Version,
        gates: Vec<GateOrder>,
        ttl_ms: u64,
        /// They share the rates of a policy.
        routers: u32,
    },
    /// No submits and no grants: why.
    RefuseStore(String),
    AcceptStore {
        incarnation: String,
        watermark_ms: u64,
    },
    Refused {
        newer: Version,
        ledger_id: String,
        reason: String,
    },
}

/// What a router does with the submits of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct GateOrder {
    pub queue: QueueName,
    /// Share of them to refuse.
    pub refuse: f64,
    pub retry_after_ms: u64,
    pub reason: &'static str,
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send(StreamId, Order),
    /// The stream has no more business here; another one of its node has taken its place, or it was refused.
    Close(StreamId),
    Decided(Decision),
    /// For the ledger, in the background.
    Keep(Record),
    /// The ledger's epoch is to be this one; nothing is ordered until it is.
    RaiseEpoch(u64),
}

/// A change of a queue's cap or target, with what led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Its place in the history; 0 is none.
    pub seq: u64,
    pub at_ms: u64,
    pub version: Version,
    pub queue: QueueName,
    pub cap: u32,
    pub previous_cap: u32,
    pub wanted: u32,
    pub target: u32,
    pub reason: Reason,
    pub inputs: Vec<(&'static str, f64)>,
    pub text: String,
}
