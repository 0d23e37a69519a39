//! The worker's one connection to the routers, on an OS thread and a runtime of its own.
//!
//! Handlers may block the application's runtime; the renewals must go out all the same, or every lease of this process
//! would be lost because one handler computes. So nothing of the application runs here, and nothing here waits for the
//! application: channels to and from the attempts have a place for every permit.
//!
//! One task owns everything ([`Core`] and the stream); the rest talks to it through channels.

use std::time::Duration;

use tidegate_chassis::clock::{self, Monotonic};
use tidegate_client::control::ControlEvent;
use tidegate_flow::backoff::full_jitter_ms;
use tidegate_protocol::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Endpoint};
use uuid::Uuid;

use crate::{
    Connected, WorkerError,
    connect::{Connection, Heard, Opened, open},
    control::{Control, Todo},
    core::{Core, Ended, Received, Start},
    exit,
    telemetry::Instruments,
};

/// The first reconnect follows soon: most breaks are one router's restart, and another one is there.
const RECONNECT_BASE_MS: u64 = 50;
/// A worker without a router has 8 s before it fences everything; it must find a new one well before.
const RECONNECT_MAX_MS: u64 = 2_000;
/// A stream that lasted this long was a good one: the next failure is a first one again.
const GOOD_AFTER_MS: u64 = 5_000;
/// From hello to welcome. A router may wait for the end of streams that the hello replaces, and must ask the store.
const WELCOME_MAX_MS: u64 = 5_000;
/// How often people are told that no router answers.
const WARN_EVERY_MS: u64 = 5_000;
/// How often the gauges are written.
const GAUGES_EVERY_MS: u64 = 1_000;
/// For the last words of a drain to get out.
const BYE_MAX: Duration = Duration::from_secs(1);

/// How the link and the rest of the worker reach each other.
pub(crate) struct Ports {
    pub(crate) starts: mpsc::Sender<Start>,
    pub(crate) ended: mpsc::Receiver<Ended>,
    /// Finish what runs, then leave.
    pub(crate) drain: CancellationToken,
    pub(crate) drain_time: Duration,
    /// The worker was dropped: leave as you stand.
    pub(crate) abandoned: CancellationToken,
    pub(crate) connected: Option<Box<dyn FnOnce(Connected) + Send>>,
    /// The core's time, and the heartbeats'.
    pub(crate) clock: Monotonic,
}

enum Event {
    Stream(Heard),
    Ended(Ended),
    Control(ControlEvent),
    /// Room in the outbox, or it is time for something.
    Awake,
    Drain,
    Abandoned,
}

pub(crate) struct Link {
    core: Core,
    ports: Ports,
    control: Option<Control>,
    routers: Vec<Endpoint>,
    /// Which router is used now, or next.
    router: usize,
    connection: Connection,
    /// Failures since the last good stream.
    failures: u32,
    warned_ms: Option<u64>,
    gauges_ms: u64,
    instruments: Instruments,
}

impl Link {
    /// Without `control` there is no controller: every queue has all slots.
    pub(crate) fn new(
        core: Core,
        routers: Vec<Endpoint>,
        control: Option<Control>,
        ports: Ports,
        instruments: Instruments,
    ) -> Self {
        // Many workers that start together spread over the routers.
        let router = fastrand::usize(..routers.len().max(1));
        if control.is_some() {
            instruments.controller_connected(false);
        }
        Self {
            core,
            ports,
            control,
            routers,
            router,
            connection: Connection::Waiting { until_ms: 0 },
            failures: 0,
            warned_ms: None,
            gauges_ms: 0,
            instruments,
        }
    }

    /// Runs until the drain is over.
    ///
    /// # Errors
    /// What the worker must not go on with.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        loop {
            let event = self.next_event().await;
            let now_ms = self.ports.clock.ms();
            match event {
                Event::Stream(Heard::Opened(Ok(stream))) => {
                    let stream = Box::new(stream);
                    self.connection = Connection::Open {
                        stream,
                        since_ms: now_ms,
                        welcomed: false,
                    };
                }
                Event::Stream(Heard::Opened(Err(error))) => {
                    self.closed(now_ms, &error.message, error.hello_sent);
                }
                Event::Stream(Heard::Message(message)) => self.on_message(now_ms, message)?,
                Event::Stream(Heard::Broken(why)) => self.closed(now_ms, &why, true),
                Event::Ended(ended) => self.core.ended(now_ms, ended),
                Event::Control(event) => self.on_control(now_ms, event),
                Event::Awake => {}
                Event::Drain => {
                    tracing::info!(running = self.core.running(), "worker drains");
                    self.core.drain(now_ms, millis(self.ports.drain_time));
                }
                Event::Abandoned => return Ok(()),
            }
            // Everything that is there already, so that what is sent covers it all.
            while let Ok(ended) = self.ports.ended.try_recv() {
                self.core.ended(now_ms, ended);
            }
            self.core.tick(now_ms).inspect_err(exit::soon)?;
            if let Some(control) = &mut self.control {
                control.tick(now_ms, &mut self.core);
            }
            self.watch_router(now_ms);
            self.flush(now_ms);
            if now_ms >= self.gauges_ms {
                self.gauges_ms = now_ms + GAUGES_EVERY_MS;
                self.write_gauges(now_ms);
                let starts = &self.ports.starts;
                let untaken = starts.capacity() < starts.max_capacity();
                self.core
                    .watch_handlers(now_ms, untaken)
                    .inspect_err(exit::soon)?;
            }
            if self.core.is_drained(now_ms) {
                return self.leave().await;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let now_ms = self.ports.clock.ms();
        let blocked = self.outbox_blocked(now_ms);
        let wake = self.wake_at_ms(now_ms);
        let draining = self.core.is_draining();
        tokio::select! {
            () = self.ports.abandoned.cancelled() => Event::Abandoned,
            () = self.ports.drain.cancelled(), if !draining => Event::Drain,
            heard = self.connection.next() => Event::Stream(heard),
            event = order(&mut self.control) => Event::Control(event),
            Some(ended) = self.ports.ended.recv() => Event::Ended(ended),
            () = room(blocked) => Event::Awake,
            () = tokio::time::sleep_until(wake) => Event::Awake,
        }
    }

    fn on_control(&mut self, now_ms: u64, event: ControlEvent) {
        let Some(control) = &mut self.control else { return };
        match control.on(now_ms, event, &mut self.core, &self.instruments) {
            Todo::Nothing => {}
            Todo::Drain => self.ports.drain.cancel(),
        }
    }

    fn on_message(&mut self, now_ms: u64, message: v1::LeaseResponse) -> Result<(), WorkerError> {
        match self.core.received(now_ms, message, fastrand::f64()) {
            Received::Nothing => {}
            Received::Welcome { router } => {
                let address = self.address();
                tracing::info!(address, router, held = self.core.held(), "connected to a router");
                if let Connection::Open { welcomed, .. } = &mut self.connection {
                    *welcomed = true;
                }
                self.warned_ms = None;
                if let Some(connected) = self.ports.connected.take() {
                    connected(Connected { address, router });
                }
            }
            Received::Starts(starts) => {
                for start in starts {
                    // There is a place for every permit, so it is full only if permits were miscounted.
                    if self.ports.starts.try_send(start).is_err() {
                        return Err(WorkerError::LinkDied("the attempts take no more jobs"));
                    }
                }
            }
            Received::GoAway { reason } => {
                tracing::info!(address = self.address(), reason, "router goes away");
                self.forget_failures(now_ms);
                self.connection = Connection::Waiting { until_ms: now_ms };
                self.core.closed(true);
                // Not a failure, unless all routers do nothing but send us on.
                let first = self.failures == 0;
                self.next_router(now_ms, first);
            }
        }
        Ok(())
    }

    /// The stream is gone. Dropped first, so that nothing of it can arrive any more; then another one is opened.
    fn closed(&mut self, now_ms: u64, why: &str, hello_sent: bool) {
        self.forget_failures(now_ms);
        self.connection = Connection::Waiting { until_ms: now_ms };
        self.core.closed(hello_sent);
        let due = self
            .warned_ms
            .is_none_or(|warned| now_ms >= warned + WARN_EVERY_MS);
        if due {
            self.warned_ms = Some(now_ms);
            let (address, held) = (self.address(), self.core.held());
            tracing::warn!(address, error = why, held, "no connection to a router: trying on");
        }
        self.next_router(now_ms, false);
    }

    /// After a good stream the next failure is a first one.
    fn forget_failures(&mut self, now_ms: u64) {
        if let Connection::Open {
            since_ms,
            welcomed: true,
            ..
        } = self.connection
            && now_ms >= since_ms + GOOD_AFTER_MS
        {
            self.failures = 0;
        }
    }

    fn next_router(&mut self, now_ms: u64, at_once: bool) {
        self.failures = self.failures.saturating_add(1);
        self.router = (self.router + 1) % self.routers.len().max(1);
        let wait_ms = full_jitter_ms(
            RECONNECT_BASE_MS,
            RECONNECT_MAX_MS,
            self.failures,
            fastrand::f64(),
        );
        let until_ms = if at_once { now_ms } else { now_ms + wait_ms };
        self.connection = Connection::Waiting { until_ms };
    }

    /// Opens a stream when it is time, and gives one up that says nothing.
    fn watch_router(&mut self, now_ms: u64) {
        let silent = match &self.connection {
            Connection::Waiting { until_ms } if now_ms >= *until_ms => {
                let Some(endpoint) = self.routers.get(self.router).cloned() else {
                    return;
                };
                let endpoint = endpoint.keep_alive_while_idle(true);
                let hello = self.core.open(Uuid::new_v4());
                self.connection =
                    Connection::Opening(Box::pin(open(endpoint, hello, self.instruments.observer())));
                false
            }
            Connection::Waiting { .. } | Connection::Opening(_) => false,
            Connection::Open {
                since_ms,
                welcomed: false,
                ..
            } => now_ms >= since_ms + WELCOME_MAX_MS,
            Connection::Open { .. } => self.core.router_is_silent(now_ms),
        };
        if silent {
            self.closed(now_ms, "the router does not answer", true);
        }
    }

    /// Sends what there is to say, as far as the outbox takes it. What it does not take is not made yet: it merges with
    /// what comes.
    fn flush(&mut self, now_ms: u64) {
        let Connection::Open { stream, .. } = &self.connection else {
            return;
        };
        while let Ok(place) = stream.up.try_reserve() {
            let Some(message) = self.core.outgoing(now_ms) else {
                return;
            };
            place.send(message);
        }
    }

    /// The outbox, when it is full and there is something to say.
    fn outbox_blocked(&self, now_ms: u64) -> Option<mpsc::Sender<v1::LeaseRequest>> {
        let Connection::Open { stream, .. } = &self.connection else {
            return None;
        };
        let full = stream.up.capacity() == 0 && !stream.up.is_closed();
        (full && self.core.has_outgoing(now_ms)).then(|| stream.up.clone())
    }

    fn wake_at_ms(&self, now_ms: u64) -> tokio::time::Instant {
        let connection = match &self.connection {
            Connection::Waiting { until_ms } => *until_ms,
            Connection::Open {
                since_ms,
                welcomed: false,
                ..
            } => since_ms + WELCOME_MAX_MS,
            Connection::Opening(_) | Connection::Open { .. } => u64::MAX,
        };
        // An hour is as good as never, and does not overflow.
        let control = self.control.as_ref();
        let control = control.map_or(u64::MAX, |control| control.wake_at_ms(&self.core));
        let wait_ms = self
            .core
            .wake_at_ms()
            .min(connection)
            .min(control)
            .saturating_sub(now_ms)
            .min(3_600_000);
        clock::now() + Duration::from_millis(wait_ms)
    }

    fn write_gauges(&self, now_ms: u64) {
        let circuit = |queue: &_| self.core.circuit(queue);
        let overdue = self.core.overdue(now_ms);
        self.instruments.usage(self.core.usage(), &overdue, circuit);
    }

    fn address(&self) -> String {
        self.routers
            .get(self.router)
            .map(|endpoint| endpoint.uri().to_string())
            .unwrap_or_default()
    }

    /// The end of a drain. Bye hands back what is still held, so it is not said while a handler still runs: its slot must
    /// stay counted until its lease ends, because it may still be at work.
    async fn leave(self) -> Result<(), WorkerError> {
        let (running, unsettled) = (self.core.running(), self.core.unsettled());
        if running + unsettled > 0 {
            tracing::warn!(
                running,
                unsettled,
                "worker leaves with leases that will end by time"
            );
        }
        let Connection::Open { stream, .. } = self.connection else {
            return Ok(());
        };
        let Opened { up, mut down, call } = *stream;
        let last_words = async {
            if running == 0 {
                let bye = v1::lease_request::Message::Bye(v1::Bye {});
                let _ = up.send(v1::LeaseRequest { message: Some(bye) }).await;
            }
            drop(up);
            // The router ends the stream when it has heard it all.
            while let Ok(Some(_)) = down.message().await {}
        };
        if tokio::time::timeout(BYE_MAX, last_words).await.is_ok()
            && let Some(call) = call
        {
            call.end(Code::Ok);
        }
        Ok(())
    }
}

/// The controller's next word; for ever when there is none.
async fn order(control: &mut Option<Control>) -> ControlEvent {
    match control {
        Some(control) => control.next().await,
        None => std::future::pending().await,
    }
}

/// Until the outbox has room; for ever when nothing waits for it.
async fn room(outbox: Option<mpsc::Sender<v1::LeaseRequest>>) {
    match outbox {
        Some(outbox) => drop(outbox.reserve().await),
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
