//! Everything the worker knows, and what it says and does about it: a state machine without I/O.
//!
//! [`crate::link`] feeds it what arrives and the time, sends what [`Core::outgoing`] gives, and starts the attempts that
//! [`Core::received`] gives. So every rule of the protocol can be tested without a network or a clock.

mod control;
mod received;
mod stuck;
mod time;

use std::collections::HashMap;

use tidegate_chassis::telemetry::trace::TraceContext;
use tidegate_protocol::{
    domain::{LeaseRef, QueueName},
    v1::{self, lease_request::Message as Up},
};
use uuid::Uuid;

use crate::{
    Verdict,
    leases::Leases,
    permits::{Permits, Usage},
    pools::{Pool, Pools},
    reflex::Reflexes,
    settles::Settles,
    stop::{Cause, Stop},
    tally::Tally,
};

/// A timeout is mandatory: this one, where a router grants a job without.
const TIMEOUT_DEFAULT_MS: u64 = 300_000;
/// How long a handler has between its cancel and being dropped; a tenth of the ttl where that is less, so that a fenced
/// one is gone before the store gives its job away.
const GRACE_MAX_MS: u64 = 1_000;
/// A handler that is still there this long after it was dropped holds a thread.
const OVERDUE_AFTER_MS: u64 = 500;
/// After a drain's time is up: for handlers to be dropped and their settlements to be answered.
const DRAIN_EXTRA_MS: u64 = 4_000;
/// How long successes without a result gather while the router has credit enough: one by one they cost more than a job that
/// does little. Where the store's cap is below the targets (it ran out, or a raise is on its way) slots are held so much
/// longer.
const GATHER_MS: u64 = 2;
/// Closed sessions to name in a hello. Reconnects are a second apart on average, so what falls off has long expired.
const CLOSED_SESSIONS_MAX: usize = 64;

/// What never changes while the process lives.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) slots: u32,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) incarnation: Uuid,
    pub(crate) labels: HashMap<String, String>,
}

/// An attempt to start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) lease: LeaseRef,
    pub(crate) grant: v1::Grant,
    /// How long ago it was submitted, by the store's clock, when it was granted.
    pub(crate) age_ms: u64,
    /// It will be stopped after this long.
    pub(crate) time_ms: u64,
    pub(crate) stop: Stop,
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lease: LeaseRef,
    /// `None`: it was dropped, or never started.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) run_ms: u64,
    /// Its span, where it is kept.
    pub(crate) span: Option<TraceContext>,
}

/// What the link has to do about a message.
#[derive(Debug)]
pub(crate) enum Received {
    Nothing,
    Welcome { router: String },
    Starts(Vec<Start>),
    GoAway { reason: String },
}

#[derive(Debug)]
struct Running {
    queue: QueueName,
    stop: Stop,
    grace_ms: u64,
    began_ms: u64,
    /// By timeout or deadline, and which.
    stop_at_ms: u64,
    stop_why: Cause,
    /// 0: none is asked for.
    heartbeat_timeout_ms: u64,
    /// Set when it was told to stop.
    cause: Option<Cause>,
    overdue_at_ms: u64,
    overdue_told: bool,
}

impl Running {
    /// When it is to be stopped unless it ends or gives a sign of life, and why.
    fn stop_due(&self) -> (u64, Cause) {
        let after_ms = self.heartbeat_timeout_ms;
        let heard_ms = self.stop.heartbeat().last_ms().max(self.began_ms);
        let silent_at_ms = heard_ms.saturating_add(after_ms);
        if after_ms > 0 && silent_at_ms < self.stop_at_ms {
            (silent_at_ms, Cause::Silent { after_ms })
        } else {
            (self.stop_at_ms, self.stop_why)
        }
    }

    /// It was told to stop and goes on.
    fn is_overdue(&self, now_ms: u64) -> bool {
        self.cause.is_some() && now_ms >= self.overdue_at_ms
    }
}

#[derive(Debug)]
struct Stream {
    session: String,
    /// How many of the closed sessions its hello named.
    replaced: usize,
    welcomed: bool,
    grant_seq: u64,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    until_ms: u64,
    stopped: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    leases: Leases,
    permits: Permits,
    settles: Settles,
    reflexes: Reflexes,
    pools: Pools,
    tally: Tally,
    /// What the controller was told last of each queue, apart from counts.
    told: HashMap<QueueName, v1::QueueReport>,
    /// Since the last report: a reflex set in, or a lease was lost.
    alarm: bool,
    jobs: HashMap<LeaseRef, Running>,
    stream: Option<Stream>,
    closed_sessions: Vec<String>,
    /// No attempt times out or becomes overdue before this; may be too early, never too late.
    scan_at_ms: u64,
    rotate_at_ms: u64,
    /// When an attempt ended last.
    ended_ms: u64,
    stuck_since_ms: Option<u64>,
    drain: Option<Drain>,
    /// Outcomes and free slots are told then; `None`: at once.
    gather_until_ms: Option<u64>,
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Self {
        let permits = Permits::new(settings.slots, settings.queues.iter().cloned());
        let tally = Tally::new(settings.queues.iter().cloned());
        Self {
            settings,
            leases: Leases::default(),
            permits,
            settles: Settles::default(),
            reflexes: Reflexes::default(),
            pools: Pools::default(),
            tally,
            told: HashMap::new(),
            alarm: false,
            jobs: HashMap::new(),
            stream: None,
            closed_sessions: Vec::new(),
            scan_at_ms: u64::MAX,
            rotate_at_ms: 0,
            ended_ms: 0,
            stuck_since_ms: None,
            drain: None,
            gather_until_ms: None,
        }
    }

    /// The pools that the handlers take from.
    pub(crate) fn with_pools(mut self, pools: Vec<Pool>) -> Self {
        self.pools = Pools::new(pools);
        self.tell_pools();
        self
    }

    /// A new stream is to be opened: the hello that comes first on it.
    pub(crate) fn open(&mut self, session: Uuid) -> v1::Hello {
        let session = session.to_string();
        let stream = Stream {
            session: session.clone(),
            replaced: self.closed_sessions.len(),
            welcomed: false,
            grant_seq: 0,
        };
        self.stream = Some(stream);
        v1::Hello {
            session,
            incarnation: self.settings.incarnation.to_string(),
            replaces: self.closed_sessions.clone(),
            reclaim: wire(self.leases.all()),
            queues: self.settings.queues.iter().map(ToString::to_string).collect(),
            labels: self.settings.labels.clone(),
            slots: self.settings.slots,
        }
    }

    /// The stream is closed on our side: nothing of it will be heard any more.
    pub(crate) fn closed(&mut self, hello_sent: bool) {
        let Some(stream) = self.stream.take() else { return };
        if hello_sent {
            self.closed_sessions.push(stream.session);
        }
        if self.closed_sessions.len() > CLOSED_SESSIONS_MAX {
            self.closed_sessions.remove(0);
        }
        self.leases.new_stream();
        self.settles.new_stream();
        self.permits.new_stream();
    }

    /// The next message to send, if there is one; call until there is none.
    pub(crate) fn outgoing(&mut self, now_ms: u64) -> Option<v1::LeaseRequest> {
        let stream = self.stream.as_ref().filter(|stream| stream.welcomed)?;
        let last_grant_seq = stream.grant_seq;
        // Renewals first: they are what runs out.
        if self.leases.renew_at_ms().is_some_and(|at_ms| now_ms >= at_ms) {
            let renewal = self.leases.renew(now_ms);
            return Some(up(Up::Renew(v1::Renew {
                counter: renewal.counter,
                leases: wire(renewal.leases),
            })));
        }
        if self.is_gathering(now_ms) {
            return None;
        }
        if let Some(settle) = self.settles.next(now_ms) {
            return Some(up(Up::Settle(settle)));
        }
        let offers = self.permits.offers(self.held_back());
        if offers.is_empty() {
            return None;
        }
        let credit = |(queue, free): (QueueName, u32)| v1::Credit {
            queue: queue.to_string(),
            free,
            last_grant_seq,
        };
        let credits = offers.into_iter().map(credit).collect();
        Some(up(Up::Credits(v1::Credits {
            counter: self.leases.count(now_ms),
            credits,
        })))
    }

    /// Whether [`Self::outgoing`] would give something.
    pub(crate) fn has_outgoing(&self, now_ms: u64) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.welcomed)
            && (self.leases.renew_at_ms().is_some_and(|at_ms| now_ms >= at_ms)
                || (!self.is_gathering(now_ms)
                    && (self.settles.has_next() || self.permits.has_offers(self.held_back()))))
    }

    /// Outcomes that pile up because the store does not answer hold back slots: so there are never more than twice as
    /// many leases as slots.
    fn held_back(&self) -> u32 {
        let outcomes = u32::try_from(self.settles.len()).unwrap_or(u32::MAX);
        outcomes.saturating_sub(self.settings.slots)
    }

    /// Whether what there is to tell may wait for more of it.
    fn is_gathering(&self, now_ms: u64) -> bool {
        self.gather_until_ms.is_some_and(|at_ms| now_ms < at_ms)
            && self.drain.is_none()
            && self.permits.is_roomy()
    }

    /// When [`Self::tick`] or [`Self::outgoing`] will have something to do.
    pub(crate) fn wake_at_ms(&self) -> u64 {
        let rotate = self.permits.wants_ticks().then_some(self.rotate_at_ms);
        let welcomed = self.stream.as_ref().is_some_and(|stream| stream.welcomed);
        let renew = self.leases.renew_at_ms().filter(|_| welcomed);
        let drain = self.drain.map(|drain| match drain.stopped {
            false => drain.until_ms,
            true => drain.until_ms + DRAIN_EXTRA_MS,
        });
        [
            Some(self.leases.fence_at_ms()),
            Some(self.scan_at_ms),
            Some(self.reflexes.wake_at_ms()),
            Some(self.pools.wake_at_ms()),
            self.settles.wake_at_ms(),
            self.gather_until_ms,
            self.leases.give_up_at_ms(),
            renew,
            rotate,
            drain,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    /// A renewal has no answer for so long that the stream must be given up.
    pub(crate) fn router_is_silent(&self, now_ms: u64) -> bool {
        self.leases.give_up_at_ms().is_some_and(|at_ms| now_ms >= at_ms)
    }

    /// Handlers that still run. While there are any, the worker must not say bye: that would free their slots.
    pub(crate) fn running(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.settles.len()
    }

    pub(crate) fn held(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn usage(&self) -> impl Iterator<Item = Usage> {
        self.permits.usage()
    }
}

fn up(message: Up) -> v1::LeaseRequest {
    v1::LeaseRequest {
        message: Some(message),
    }
}

fn wire(leases: Vec<LeaseRef>) -> Vec<v1::LeaseRef> {
    leases.into_iter().map(v1::LeaseRef::from).collect()
}

fn lease_ref(wire: &v1::LeaseRef) -> Option<LeaseRef> {
    domain(&wire.job_id, wire.fence)
}

fn domain(job_id: &str, fence: u64) -> Option<LeaseRef> {
    Some(LeaseRef {
        id: job_id.parse().ok()?,
        fence,
    })
}

#[cfg(test)]
mod tests;
