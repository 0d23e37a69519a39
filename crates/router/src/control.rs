//! The router's end of the control stream: orders in, reports out.
//!
//! Four tasks, so that a store that is slow for one of them does not hold up the others: the link, the ear (here), the
//! orders (one at a time), and the reports (each looks at the store first).

mod facts;
mod orders;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidegate_chassis::{
    CancellationToken,
    clock::Monotonic,
    tasks::Tasks,
    telemetry::{self, RpcClient},
};
use tidegate_client::{
    control::{ControlEvent, ControlLink, ControlPort, ControlVoice, InvalidController, Kind},
    observe::{CallEnd, Observer},
};
use tidegate_protocol::v1::{self, command::Command};
use tidegate_store::QueueStats;
use tokio::{
    sync::{oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use self::{
    facts::Facts,
    orders::{Order, Orders},
};
use crate::{janitor::Janitor, window::Counts};

/// Facts of the store are this old at most, when they are told.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A store that takes longer to say what it holds is told of without it.
const LOOK_MAX: Duration = Duration::from_millis(900);
/// A start waits this long for a controller: several reconnects, and little beside a rollout's pause.
const VERDICT_MAX: Duration = Duration::from_secs(3);
/// Counts of a time without a controller say nothing of now: they are dropped when they cover more than this.
const WINDOW_MS_MAX: u64 = 10_000;

/// The way to the controllers that the configuration names.
pub struct Attachment(Option<(ControlLink, ControlPort)>);

impl Attachment {
    pub fn new(controllers: &[String]) -> Result<Self, InvalidController> {
        if controllers.is_empty() {
            return Ok(Self(None));
        }
        let (link, port) = ControlLink::new(controllers, Kind::Caps)?;
        let rpc = RpcClient::new(&telemetry::meter());
        let observer = Observer::new(move |end: CallEnd| rpc.ended(end.method, end.code, end.took));
        Ok(Self(Some((link.observed(observer), port))))
    }

    /// Starts the tasks; none without a controller. They end with the process's shutdown: another router takes the
    /// orders then. What is answered says when the store was judged.
    pub fn start(self, tasks: &Tasks, janitor: Janitor, name: String) -> Verdict {
        let Some((link, port)) = self.0 else {
            return Verdict(None);
        };
        janitor.metrics.window.start();
        janitor.metrics.controller_connected(false);
        let (connected, is_connected) = watch::channel(false);
        let verdict = Verdict(Some(is_connected.clone()));
        let reports = Arc::new(Reports {
            janitor,
            voice: port.voice(),
            clock: Monotonic::start(),
            told: Mutex::default(),
        });
        let (orders, carry_out) = Orders::new(reports.janitor.clone(), port.voice());
        let ear = Ear {
            reports: reports.clone(),
            orders,
            connected,
            name,
            node: Uuid::new_v4(),
        };
        let stop = tasks.shutdown();
        tasks.spawn("control link", link.run(stop.clone()));
        tasks.spawn("control", ear.listen(port, stop.clone()));
        tasks.spawn("control orders", carry_out);
        tasks.spawn("control reports", reports.tell(is_connected, stop));
        verdict
    }
}

/// Whether the controller, whose ledger outlives a store that is restored, has judged the store.
pub struct Verdict(Option<watch::Receiver<bool>>);

impl Verdict {
    /// A store that came back older than it was must take no submits, and only the ledger may remember that. A router does
    /// not depend on a controller that lives: without one it goes on, and is told when there is one.
    pub async fn wait(self) {
        let Some(mut connected) = self.0 else { return };
        let judged = timeout(VERDICT_MAX, connected.wait_for(|connected| *connected)).await;
        if judged.is_err() {
            tracing::warn!("no controller has judged the job store: it is trusted until one does");
        }
    }
}

/// Hears the controller.
struct Ear {
    reports: Arc<Reports>,
    orders: Orders,
    connected: watch::Sender<bool>,
    name: String,
    node: Uuid,
}

impl Ear {
    async fn listen(self, mut port: ControlPort, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = port.events.recv() => match event {
                    Some(event) => self.on(event).await,
                    // The link ends by the same token.
                    None => return stop.cancelled().await,
                }
            }
        }
    }

    async fn on(&self, event: ControlEvent) {
        let metrics = &self.reports.janitor.metrics;
        match event {
            ControlEvent::Hello(reply) => self.hello(reply).await,
            ControlEvent::Connected { store_refused, .. } => {
                metrics.controller_connected(true);
                if !store_refused.is_empty() {
                    self.reports.janitor.condition.refuse_store(store_refused);
                }
                self.connected.send_replace(true);
            }
            ControlEvent::Disconnected => {
                metrics.controller_connected(false);
                metrics.cap_writer(false);
                self.connected.send_replace(false);
            }
            ControlEvent::Refused => metrics.controller_refused(),
            ControlEvent::Policies(policies) => self.orders.give(Order::Policies(policies)),
            ControlEvent::Caps(caps) => self.orders.give(Order::Caps(caps)),
            ControlEvent::Gates(gates) => self.reports.janitor.admission.obey(gates),
            ControlEvent::Command(Command::CapWriter(command)) => {
                tracing::info!(writer = command.writer, "which router writes the caps");
                metrics.cap_writer(command.writer);
            }
            ControlEvent::Command(Command::AcceptStore(accept)) => {
                self.reports.janitor.condition.accept_store(&accept.incarnation);
            }
            ControlEvent::Command(Command::RefuseStore(refuse)) => {
                self.reports.janitor.condition.refuse_store(refuse.reason);
            }
            // A worker's business.
            ControlEvent::Targets(_) | ControlEvent::Command(Command::Drain(_) | Command::Cancel(_)) => {}
        }
    }

    async fn hello(&self, reply: oneshot::Sender<v1::NodeHello>) {
        let state = self.reports.full().await;
        let (store_incarnation, store_watermark_ms) = self.reports.janitor.condition.store_identity();
        let hello = v1::NodeHello {
            role: v1::NodeRole::Router.into(),
            node: self.node.to_string(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_incarnation,
            store_watermark_ms,
            state: Some(state),
            ..Default::default()
        };
        let _ = reply.send(hello); // the stream may be gone by now
    }
}

/// Looks at the store and tells the controller.
struct Reports {
    janitor: Janitor,
    voice: ControlVoice,
    clock: Monotonic,
    /// A few lines under it, never across an await.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    facts: Facts,
    at_ms: u64,
}

impl Reports {
    async fn tell(self: Arc<Self>, connected: watch::Receiver<bool>, stop: CancellationToken) {
        let mut ticks = interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if *connected.borrow() {
                self.tell_once().await;
            } else {
                self.drop_old();
            }
        }
    }

    async fn tell_once(&self) {
        let stats = self.look().await;
        let counts = self.janitor.metrics.window.take();
        let report = self.make(stats.as_deref(), &counts);
        let window_ms = report.window_ms;
        if !self.voice.report(report) {
            self.janitor.metrics.window.put_back(counts);
            let mut told = self.told();
            told.at_ms = told.at_ms.saturating_sub(window_ms);
            told.facts.forget();
        }
    }

    /// All facts, for the begin of a stream. The counts follow with the first report: whether anybody who leads hears
    /// the hello is not certain, and what is counted must be told once.
    async fn full(&self) -> v1::Report {
        let stats = self.look().await;
        let facts = &mut self.told().facts;
        facts.forget();
        v1::Report {
            store: self.store(),
            ..facts.report(stats.as_deref(), &Counts::default(), 0)
        }
    }

    async fn look(&self) -> Option<Vec<QueueStats>> {
        timeout(LOOK_MAX, self.janitor.look()).await.ok().flatten()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, stats: Option<&[QueueStats]>, counts: &Counts) -> v1::Report {
        let mut told = self.told();
        let now_ms = self.clock.ms();
        let since_ms = std::mem::replace(&mut told.at_ms, now_ms);
        v1::Report {
            store: self.store(),
            ..told.facts.report(stats, counts, now_ms.saturating_sub(since_ms))
        }
    }

    /// `None`: it has never answered.
    fn store(&self) -> Option<v1::StoreState> {
        let condition = &self.janitor.condition;
        let (incarnation, _) = condition.store_identity();
        let ((found_watermark_ms, found_clock_ms), untrusted) = condition.store_doubt();
        (!incarnation.is_empty()).then(|| v1::StoreState {
            incarnation,
            clock_ms: condition.store_clock_ms(),
            found_watermark_ms,
            found_clock_ms,
            untrusted: untrusted.unwrap_or_default(),
        })
    }

    fn drop_old(&self) {
        let mut told = self.told();
        if self.clock.ms().saturating_sub(told.at_ms) > WINDOW_MS_MAX {
            told.at_ms = self.clock.ms();
            self.janitor.metrics.window.take();
        }
    }
}
