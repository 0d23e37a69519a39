//! Putting a worker together, and running it.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use tidegate_chassis::{
    clock::Monotonic,
    shutdown,
    tasks::{NamedThread, named_thread},
    telemetry::{self, Meter},
};
use tidegate_client::{
    Queue,
    control::{ControlLink, Kind},
    endpoint,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::{
    Addresses, Delivery, Handler, JobLayer, PoolStats, SLOTS_MAX, WorkerError, blocking,
    control::Control,
    core::{Core, Settings},
    handler::Blocking,
    link::{Link, Ports},
    registry::Registry,
    run::run_attempts,
    telemetry::Instruments,
};

const SLOTS_DEFAULT: u32 = 64;
/// Under the 30 s after which Kubernetes kills, with what a drain takes beyond it.
pub(crate) const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(25);

/// A worker in the making; [`Worker::run_until`] runs it. `S` is what handlers get with [`crate::State`].
#[must_use = "a worker does nothing before run_until()"]
pub struct Worker<S = ()> {
    state: S,
    parts: Parts,
}

/// What does not depend on the state.
struct Parts {
    routers: Vec<String>,
    controllers: Vec<String>,
    name: String,
    registry: Registry,
    slots: u32,
    drain_timeout: Duration,
    labels: HashMap<String, String>,
    connected: Option<Box<dyn FnOnce(Connected) + Send>>,
    meter: Option<Meter>,
}

/// The router that answered first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub address: String,
    /// What it calls itself.
    pub router: String,
}

/// The first SIGTERM or SIGINT: for [`Worker::run_until`], which drains then. A second one ends the process at once.
pub async fn shutdown_signal() {
    shutdown::token_on_signals().cancelled_owned().await;
}

impl Worker {
    /// A worker of these routers, all of one job store, attached to the first of these controllers that leads: how many
    /// jobs of each queue run here is its word. Without a controller (`()`), and until its first word, every queue may
    /// use all slots. Nothing is connected before [`Worker::run_until`].
    pub fn connect(routers: impl Addresses, controllers: impl Addresses) -> Self {
        let parts = Parts {
            routers: routers.into_addresses(),
            controllers: controllers.into_addresses(),
            name: String::new(),
            registry: Registry::default(),
            slots: SLOTS_DEFAULT,
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            labels: HashMap::new(),
            connected: None,
            meter: None,
        };
        Self { state: (), parts }
    }
}

impl<S: Clone + Send + Sync + 'static> Worker<S> {
    /// What the handlers registered after this get with [`crate::State`]: pools, clients, configuration. It is cloned
    /// for each handler, and for each attempt that asks for it: keep it cheap to clone.
    pub fn state<N>(self, state: N) -> Worker<N> {
        let parts = self.parts;
        Worker { state, parts }
    }

    /// Runs the queue's jobs with an async function; see [`Handler`] for what it may take and return.
    pub fn handle<T, M>(mut self, queue: Queue<T>, handler: impl Handler<S, T, M>) -> Self {
        let delivery = handler.into_delivery(self.state.clone());
        self.parts.registry.add(queue.name(), queue.schema(), delivery);
        self
    }

    /// Runs the queue's jobs with a function that blocks, each on a thread of its own; see [`blocking`].
    pub fn handle_blocking<T, M, F>(self, queue: Queue<T>, handler: F) -> Self
    where
        Blocking<F>: Handler<S, T, M>,
    {
        self.handle(queue, blocking(handler))
    }

    /// Runs the queue's jobs in another way, e.g. [`crate::http::HttpDelivery`].
    pub fn deliver(mut self, queue: impl Into<String>, delivery: impl Delivery) -> Self {
        self.parts.registry.add(queue, None, Arc::new(delivery));
        self
    }

    /// Puts a tower layer around every handler and delivery, also those registered later; the last one is the outermost.
    /// For a single handler there is [`Handler::layer`].
    pub fn layer(mut self, layer: impl JobLayer) -> Self {
        self.parts.registry.layer(layer);
        self
    }

    /// Serves only these of the queues that have handlers, so that one program can be started for some of them. A name
    /// without a handler is refused at start.
    pub fn queues(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.parts.registry.only(names);
        self
    }

    /// A pool of connections to a shared resource, e.g. `pg-main`, that the handlers of these queues take from (none
    /// named: of all queues). How full it is goes to the controller; while callers wait for a connection, half as many of
    /// these jobs run here.
    pub fn pool<Q: Into<String>>(
        mut self,
        resource: impl Into<String>,
        queues: impl IntoIterator<Item = Q>,
        stats: impl PoolStats,
    ) -> Self {
        let queues = queues.into_iter().map(Into::into).collect();
        self.parts.registry.pool(resource.into(), queues, Arc::new(stats));
        self
    }

    /// How many jobs may run at once over all queues. A ceiling, 64 by default: how many do run is the controller's word.
    pub fn slots(mut self, slots: u32) -> Self {
        self.parts.slots = slots;
        self
    }

    /// How the controller and its operators see this worker; a random name by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.parts.name = name.into();
        self
    }

    /// How long running jobs may take to end after the shutdown; what still runs then is stopped and handed back.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.parts.drain_timeout = timeout;
        self
    }

    /// Shown to operators with the worker: host, version.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parts.labels.insert(name.into(), value.into());
        self
    }

    /// Called once, when a router has taken the worker in. Runs on the thread that keeps the leases: it must not block.
    pub fn on_connected(mut self, f: impl FnOnce(Connected) + Send + 'static) -> Self {
        self.parts.connected = Some(Box::new(f));
        self
    }

    /// Where to record metrics; by default the process's meter.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.parts.meter = Some(meter);
        self
    }

    /// What [`Self::run_until`] would refuse, without running it.
    ///
    /// # Errors
    /// The worker is put together wrongly.
    pub fn check(&self) -> Result<(), WorkerError> {
        self.parts.check()
    }

    /// Runs jobs until `shutdown` (a future, e.g. [`shutdown_signal`]), then drains. Handlers run on the runtime that
    /// polls this; leases are kept on a thread of their own.
    ///
    /// # Errors
    /// At once, when the worker is put together wrongly; later only when it must not go on: see [`WorkerError`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        self.parts.run_until(shutdown).await
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.parts.registry
    }
}

impl Parts {
    fn check(&self) -> Result<(), WorkerError> {
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(WorkerError::InvalidSlots(self.slots));
        }
        if self.routers.is_empty() {
            return Err(WorkerError::NoRouter);
        }
        self.endpoints()?;
        ControlLink::new(&self.controllers, Kind::Targets)?;
        let deliveries = self.registry.build()?;
        self.registry.pools(&deliveries).map(drop)
    }

    /// The way to the controllers, if there are any.
    fn control(&self, incarnation: Uuid) -> Result<(Option<ControlLink>, Option<Control>), WorkerError> {
        if self.controllers.is_empty() {
            return Ok((None, None));
        }
        let (link, port) = ControlLink::new(&self.controllers, Kind::Targets)?;
        let name = match self.name.as_str() {
            "" => format!("worker-{}", &incarnation.simple().to_string()[..8]),
            name => name.to_owned(),
        };
        Ok((Some(link), Some(Control::new(port, name))))
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, WorkerError> {
        self.routers.iter().map(|text| Ok(endpoint(text)?)).collect()
    }

    async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        self.check()?;
        let routers = self.endpoints()?;
        let deliveries = self.registry.build()?;
        let pools = self.registry.pools(&deliveries)?;
        let incarnation = Uuid::new_v4();
        let (attach, control) = self.control(incarnation)?;
        // The name under which lost leases are blamed on this process.
        tracing::info!(incarnation = %incarnation.simple(), pid = std::process::id(), "worker starts");
        let Self {
            slots,
            drain_timeout,
            labels,
            connected,
            meter,
            ..
        } = self;
        let settings = Settings {
            slots,
            queues: deliveries.keys().cloned().collect(),
            incarnation,
            labels,
        };

        // A place for every permit each way: neither side ever waits for the other.
        let (starts, to_start) = mpsc::channel(slots as usize);
        let (report, ended) = mpsc::channel(slots as usize);
        let clock = Monotonic::start();
        let drain = CancellationToken::new();
        let abandoned = CancellationToken::new();
        let ports = Ports {
            starts,
            ended,
            drain: drain.clone(),
            drain_time: drain_timeout,
            abandoned: abandoned.clone(),
            connected,
            clock,
        };
        let instruments = Instruments::new(&meter.unwrap_or_else(telemetry::meter));
        let core = Core::new(settings).with_pools(pools);
        let attach = attach.map(|link| link.observed(instruments.observer()));
        let link = Link::new(core, routers, control, ports, instruments.clone());
        let mut link = start(link, attach, abandoned)?;

        // A task and not a part of this future, which a `main` polls on a thread beside the runtime's: each attempt would
        // cross over. Dropped with this future.
        let mut attempts = JoinSet::new();
        attempts.spawn(run_attempts(to_start, report, deliveries, instruments, clock));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                ended = &mut link.ended => {
                    return ended.unwrap_or(Err(WorkerError::LinkDied("it panicked")));
                }
                () = &mut shutdown, if !drain.is_cancelled() => drain.cancel(),
                // It ends just before the link does, whose word counts.
                Some(Err(error)) = attempts.join_next() => if error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                },
            }
        }
    }
}

/// The thread that keeps the leases. Dropped (as when the caller drops `run_until`), it ends at once: the fields are
/// dropped in order, the guard tells it and the thread is joined.
struct LinkThread {
    ended: oneshot::Receiver<Result<(), WorkerError>>,
    _abandon: DropGuard,
    _thread: NamedThread,
}

fn start(
    link: Link,
    attach: Option<ControlLink>,
    abandoned: CancellationToken,
) -> Result<LinkThread, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Thread)?;
    let (done, ended) = oneshot::channel();
    let thread = named_thread("tidegate-link", move || {
        let attached = async {
            if let Some(attach) = attach {
                attach.run(CancellationToken::new()).await;
            }
            std::future::pending().await
        };
        // Both on this thread, where no handler is; the stream to the controller ends with the link.
        let result = runtime.block_on(async {
            tokio::select! {
                result = link.run() => result,
                result = attached => result,
            }
        });
        let _ = done.send(result); // nobody listens after the worker was dropped
    })
    .map_err(WorkerError::Thread)?;
    Ok(LinkThread {
        ended,
        _abandon: abandoned.drop_guard(),
        _thread: thread,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, PoolUsage};

    const A: Queue<String> = Queue::new("a");
    const BAD: Queue<String> = Queue::new("No Such");

    async fn noop(_: Payload<String>) {}

    #[tokio::test]
    async fn a_worker_put_together_wrongly_says_what_is_wrong() {
        let routers = || Worker::connect("127.0.0.1:1", ());
        for (worker, expected) in [
            (routers(), "no queue: register at least one handler"),
            (
                routers().handle(BAD, noop),
                "invalid name \"No Such\": use 1 to 100",
            ),
            (
                routers().handle(A, noop).handle(A, noop),
                "queue \"a\" has two handlers",
            ),
            (
                routers().handle(A, noop).queues(["a", "b"]),
                "no handler for queue \"b\": there are handlers for a",
            ),
            (
                routers().handle(A, noop).slots(0),
                "0 slots: a worker has 1 to 4096",
            ),
            (
                routers().handle(A, noop).pool("pg", ["b"], PoolUsage::default),
                "the pool of queue \"b\", which has no handler here",
            ),
            (
                Worker::connect((), ()).handle(A, noop),
                "no router: give the address",
            ),
            (
                Worker::connect("ftp://x", ()).handle(A, noop),
                "invalid router address \"ftp://x\"",
            ),
        ] {
            let error = worker
                .run_until(std::future::pending())
                .await
                .expect_err(expected);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_worker_that_found_no_router_leaves_at_once() {
        let worker = Worker::connect("127.0.0.1:1", ()).handle(A, noop);
        let left = worker.run_until(tokio::time::sleep(Duration::from_millis(20)));
        tokio::time::timeout(Duration::from_secs(5), left)
            .await
            .expect("at once")
            .expect("no error");
    }
}
