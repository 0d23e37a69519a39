//! The worker without threads, network and clock, for models that drive a whole fleet by events: what [`crate::link`] and
//! [`crate::control`] do with the core, done by hand.

use tidegate_protocol::{
    domain::{LeaseRef, QueueName},
    v1,
};
use uuid::Uuid;

use crate::{
    Outcome, Verdict,
    core::{Core, Ended, Received, Settings, Start},
};

/// An attempt that the model has to run.
#[derive(Debug)]
pub struct Attempt(Start);

impl Attempt {
    pub fn lease(&self) -> &LeaseRef {
        &self.0.lease
    }

    /// The handler was told to stop.
    pub fn is_told_to_stop(&self) -> bool {
        self.0.stop.is_told()
    }
}

/// One worker process.
#[derive(Debug)]
pub struct WorkerModel(Core);

impl WorkerModel {
    pub fn new(slots: u32, queues: Vec<QueueName>, incarnation: Uuid) -> Self {
        Self(Core::new(Settings {
            slots,
            queues,
            incarnation,
            labels: std::collections::HashMap::new(),
        }))
    }

    /// The hello of a new stream to a router.
    pub fn open(&mut self, session: Uuid) -> v1::Hello {
        self.0.open(session)
    }

    pub fn closed(&mut self, hello_sent: bool) {
        self.0.closed(hello_sent);
    }

    pub fn outgoing(&mut self, now_ms: u64) -> Option<v1::LeaseRequest> {
        self.0.outgoing(now_ms)
    }

    /// The attempts to start.
    pub fn received(&mut self, now_ms: u64, message: v1::LeaseResponse, random: f64) -> Vec<Attempt> {
        match self.0.received(now_ms, message, random) {
            Received::Starts(starts) => starts.into_iter().map(Attempt).collect(),
            Received::Nothing | Received::Welcome { .. } | Received::GoAway { .. } => Vec::new(),
        }
    }

    /// It ran to its end and succeeded; or was dropped, because it was told to stop.
    pub fn ended(&mut self, now_ms: u64, attempt: Attempt, run_ms: u64) {
        let done = Verdict {
            outcome: Outcome::Succeeded {
                result: bytes::Bytes::new(),
            },
            class: None,
        };
        let verdict = (!attempt.is_told_to_stop()).then_some(done);
        let lease = attempt.0.lease;
        self.0.ended(
            now_ms,
            Ended {
                lease,
                verdict,
                run_ms,
                span: None,
            },
        );
    }

    pub fn tick(&mut self, now_ms: u64) {
        // Handlers of a model obey: none is overdue.
        let _ = self.0.tick(now_ms);
    }

    pub fn wake_at_ms(&self) -> u64 {
        self.0.wake_at_ms()
    }

    pub fn router_is_silent(&self, now_ms: u64) -> bool {
        self.0.router_is_silent(now_ms)
    }

    pub fn set_targets(&mut self, now_ms: u64, targets: &[v1::Target]) {
        self.0.set_targets(now_ms, targets);
    }

    pub fn targets_ended(&mut self, now_ms: u64) {
        self.0.targets_ended(now_ms);
    }

    /// What a controller is told when a stream opens.
    pub fn hello(&mut self, now_ms: u64) -> v1::NodeHello {
        self.0.tell_anew();
        v1::NodeHello {
            state: Some(self.0.state(now_ms)),
            ..self.0.node()
        }
    }

    pub fn report(&mut self, now_ms: u64) -> v1::Report {
        let report = self.0.news(now_ms);
        self.0.reported(now_ms, report.clone());
        report
    }
}
