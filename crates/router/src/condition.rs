//! What this router knows of its store's condition, in one place and with a cheap handle: may submits be taken, reads be
//! made, jobs be granted, leases be taken back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_chassis::{CancellationToken, admin::Readiness, clock::Monotonic};
use tidegate_flow::breaker::{Breaker, State};
use tidegate_store::{Pulse, StoreError, StoreResult};

use crate::{
    metrics::Metrics,
    status::Refusal,
    watch::{Noticed, Watch},
};

/// A store that has been silent for this long makes the router not ready: long enough for a failover of Redis to be
/// ridden out, short enough that a balancer sends producers to a router that can reach its store.
const SILENT_MS_MAX: u64 = 5_000;

/// See the [module](self). Shared by everything that talks to the store.
pub struct Condition {
    clock: Monotonic,
    state: Mutex<Known>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    draining: CancellationToken,
}

struct Known {
    watch: Watch,
    breaker: Breaker,
}

impl Condition {
    pub fn new(metrics: Arc<Metrics>, readiness: Readiness, draining: CancellationToken) -> Self {
        let clock = Monotonic::start();
        metrics.circuit(State::Closed);
        let known = Known {
            watch: Watch::new(clock.ms()),
            breaker: Breaker::default(),
        };
        Self {
            clock,
            state: Mutex::new(known),
            metrics,
            readiness,
            draining,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process's clock, as the store's pulse is measured by.
    pub fn at(&self) -> u64 {
        self.clock.ms()
    }

    /// Whether it makes sense to look at a submit at all: a refusal must cost next to nothing.
    pub fn check_submit(&self) -> Result<(), Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::draining());
        }
        let known = self.lock();
        if known.watch.untrusted().is_some() {
            return Err(Refusal::rewound());
        }
        match known.breaker.refuses(self.at()) {
            Some(retry_after_ms) => Err(Refusal::circuit_open(retry_after_ms)),
            None => Ok(()),
        }
    }

    /// Whether a submit may be tried now.
    pub fn admit_submit(&self) -> Result<(), Refusal> {
        self.admit(&mut self.lock())
    }

    /// Whether a read may be tried.
    pub fn admit_read(&self) -> Result<(), Refusal> {
        self.admit(&mut self.lock())
    }

    fn admit(&self, known: &mut Known) -> Result<(), Refusal> {
        let before = known.breaker.state();
        let answer = known.breaker.admit(self.at()).map_err(Refusal::circuit_open);
        self.tell(before, known.breaker.state());
        answer
    }

    /// How a submit or read ended, for the breaker: an answer about the request is a success of the store.
    pub fn record(&self, error: Option<&StoreError>) {
        let mut known = self.lock();
        let before = known.breaker.state();
        match error.filter(|error| error.is_fault()) {
            Some(_) => known.breaker.on_failure(self.at()),
            None => known.breaker.on_success(self.at()),
        }
        self.tell(before, known.breaker.state());
    }

    /// The same for a list: only when all of it failed does the store as a whole count as failing.
    pub fn record_all<T>(&self, answers: &[StoreResult<T>]) {
        let good = answers
            .iter()
            .any(|answer| answer.as_ref().err().is_none_or(|error| !error.is_fault()));
        self.record(if good {
            None
        } else {
            answers.first().and_then(|answer| answer.as_ref().err())
        });
    }

    fn tell(&self, before: State, now: State) {
        if before == now {
            return;
        }
        self.metrics.circuit(now);
        match now {
            State::Open => tracing::error!("the store's circuit is open: submits and reads are refused"),
            State::HalfOpen => tracing::info!("the store's circuit is half open: a few calls are tried"),
            State::Closed => tracing::info!("the store's circuit is closed again"),
        }
    }

    /// The answer of a pulse that was sent at `sent_at`.
    pub fn on_pulse(&self, sent_at: u64, answer: StoreResult<Pulse>) {
        let at = self.at();
        let mut known = self.lock();
        if let Ok(pulse) = answer {
            self.metrics.durability(&pulse.durability);
            for notice in known.watch.on_pulse(sent_at, at, &pulse) {
                log(&notice);
            }
            let before = known.breaker.state();
            known.breaker.on_probe_success(at);
            self.tell(before, known.breaker.state());
        }
        let silent = known
            .watch
            .silent_ms(at)
            .is_none_or(|silent| silent > SILENT_MS_MAX);
        let why = if self.draining.is_cancelled() {
            "draining"
        } else if silent {
            "the job store does not answer"
        } else if known.watch.untrusted().is_some() {
            "the job store came back older than it was"
        } else if known.breaker.state() == State::Open {
            "the job store fails"
        } else {
            ""
        };
        self.readiness.set(why.is_empty(), why);
    }

    pub fn may_grant(&self, costs_a_resource: bool, ttl_ms: u64) -> bool {
        self.lock().watch.may_grant(self.at(), costs_a_resource, ttl_ms)
    }

    /// Which leases of a queue with this ttl may be taken back by time: see [`Watch::reclaim_until_ms`].
    pub fn reclaim_until_ms(&self, ttl_ms: u64) -> Option<u64> {
        self.lock().watch.reclaim_until_ms(self.at(), ttl_ms)
    }

    pub fn hold_due(&self) -> bool {
        self.lock().watch.hold_due()
    }

    pub fn hold_written(&self) {
        self.lock().watch.hold_written();
    }

    /// The store's clock by the last pulse, if that was sent after `at`.
    pub fn clock_read_after(&self, at: u64) -> Option<u64> {
        self.lock().watch.clock_read_after(at)
    }

    /// Which store it is, and the highest clock it was seen to have.
    pub fn store_identity(&self) -> (String, u64) {
        self.lock().watch.identity()
    }

    /// Watermark and clock of the store when this router first looked, and why it is not to be trusted.
    pub fn store_doubt(&self) -> ((u64, u64), Option<String>) {
        let known = self.lock();
        (known.watch.found().unwrap_or_default(), known.watch.doubt())
    }

    /// The controller's ledger remembers more than the store holds.
    pub fn refuse_store(&self, why: String) {
        tracing::error!(
            why,
            "the controller does not trust the job store: submits and grants are refused"
        );
        self.lock().watch.refuse(why);
    }

    pub fn accept_store(&self, incarnation: &str) {
        match self.lock().watch.accept(incarnation) {
            true => tracing::warn!(incarnation, "the job store was accepted as it is"),
            false => tracing::error!(
                incarnation,
                "another job store was accepted than the one that is there"
            ),
        }
    }

    /// The store's clock, as far as this process can tell.
    pub fn store_clock_ms(&self) -> u64 {
        self.lock().watch.clock_ms(self.at())
    }
}

fn log(notice: &Noticed) {
    match notice {
        Noticed::Stall { silent_ms } => {
            tracing::warn!(
                silent_ms,
                "the job store was silent: no lease is taken back by time for one ttl"
            );
        }
        Noticed::ClockJump { by_ms } => {
            tracing::warn!(
                by_ms,
                "the job store's clock jumped: no router takes a lease back by time for one ttl"
            );
        }
        Noticed::Restart => {
            tracing::warn!("the job store restarted: queues that cost a resource get no grants for one ttl");
        }
        Noticed::Rewound(why) => tracing::error!(
            ?why,
            "the job store came back older than it was: submits and grants are refused until it is accepted by `tidegate control accept-store`, or without a controller by restarting the routers"
        ),
        Noticed::CaughtUp => tracing::warn!("the job store's clock has caught up: submits and grants go on"),
    }
}
