//! Putting a worker together, and running it.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tidegate_chassis::{
    tasks::{NamedThread, named_thread},
    telemetry::{self, Meter},
};
use tidegate_client::{
    Queue,
    control::{ControlLink, Kind},
    endpoint,
};
use tidegate_protocol::{domain::QueueName, limits::QUEUES_PER_WORKER_MAX};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::{
    Delivery, JobContext, JobError, PoolStats, SLOTS_MAX, WorkerError,
    control::Control,
    core::{Core, Settings},
    delivery::Handler,
    link::{Link, Ports},
    pools::Pool,
    run::{Deliveries, run_attempts},
    telemetry::Instruments,
};

const SLOTS_DEFAULT: u32 = 64;
/// Under the 30 s after which Kubernetes kills, with what a drain takes beyond it.
pub(crate) const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(25);

/// A worker in the making; [`Worker::run_until`] runs it.
#[must_use = "a worker does nothing before run_until()"]
pub struct Worker {
    routers: Vec<String>,
    controllers: Vec<String>,
    name: String,
    deliveries: Vec<(String, Arc<dyn Delivery>)>,
    pools: Vec<(String, Vec<String>, Arc<dyn PoolStats>)>,
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

impl Worker {
    /// A worker of the routers at these addresses (`http://host:port`, `https://host:port` or `host:port`), all of one
    /// job store. Nothing is connected before [`Worker::run_until`].
    pub fn connect(routers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            routers: routers.into_iter().map(Into::into).collect(),
            controllers: Vec::new(),
            name: String::new(),
            deliveries: Vec::new(),
            pools: Vec::new(),
            slots: SLOTS_DEFAULT,
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            labels: HashMap::new(),
            connected: None,
            meter: None,
        }
    }

    /// Runs the queue's jobs with an async function. The payload is JSON; what it returns is kept as the job's result.
    pub fn handle<T, R, F, Fut>(self, queue: Queue<T>, handler: F) -> Self
    where
        F: Fn(JobContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, JobError>> + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        self.deliver(queue.name(), Handler::new(handler))
    }

    /// Runs the queue's jobs in another way, e.g. [`crate::http::HttpDelivery`].
    pub fn deliver(mut self, queue: impl Into<String>, delivery: impl Delivery) -> Self {
        self.deliveries.push((queue.into(), Arc::new(delivery)));
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
        self.pools.push((resource.into(), queues, Arc::new(stats)));
        self
    }

    /// How many jobs may run at once over all queues. A ceiling, 64 by default: how many do run is the controller's word.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Attaches to the first of these controllers that leads: how many jobs of each queue run here is its word then.
    /// Without a controller, and until its first word, every queue may use all slots.
    pub fn controllers(mut self, controllers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.controllers = controllers.into_iter().map(Into::into).collect();
        self
    }

    /// How the controller and its operators see this worker; a random name by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long running jobs may take to end after the shutdown; what still runs then is stopped and handed back.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Shown to operators with the worker: host, version.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Called once, when a router has taken the worker in. Runs on the thread that keeps the leases: it must not block.
    pub fn on_connected(mut self, f: impl FnOnce(Connected) + Send + 'static) -> Self {
        self.connected = Some(Box::new(f));
        self
    }

    /// Where to record metrics; by default the process's meter.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// What [`Self::run_until`] would refuse, without running it.
    ///
    /// # Errors
    /// The worker is put together wrongly.
    pub fn check(&self) -> Result<(), WorkerError> {
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(WorkerError::InvalidSlots(self.slots));
        }
        if self.routers.is_empty() {
            return Err(WorkerError::NoRouter);
        }
        self.endpoints()?;
        ControlLink::new(&self.controllers, Kind::Targets)?;
        let deliveries = by_queue(&self.deliveries)?;
        pools(&self.pools, &deliveries).map(drop)
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

    /// Runs jobs until `shutdown` (a future, e.g. `token.cancelled_owned()`), then drains. Handlers run on the runtime
    /// that polls this; leases are kept on a thread of their own.
    ///
    /// # Errors
    /// At once, when the worker is put together wrongly; later only when it must not go on: see [`WorkerError`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        self.check()?;
        let routers = self.endpoints()?;
        let deliveries = by_queue(&self.deliveries)?;
        let pools = pools(&self.pools, &deliveries)?;
        let incarnation = Uuid::new_v4();
        let (attach, control) = self.control(incarnation)?;
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
        let drain = CancellationToken::new();
        let abandoned = CancellationToken::new();
        let ports = Ports {
            starts,
            ended,
            drain: drain.clone(),
            drain_time: drain_timeout,
            abandoned: abandoned.clone(),
            connected,
        };
        let instruments = Instruments::new(&meter.unwrap_or_else(telemetry::meter));
        let core = Core::new(settings).with_pools(pools);
        let link = Link::new(core, routers, control, ports, instruments.clone());
        let mut link = start(link, attach, abandoned)?;

        let mut attempts = std::pin::pin!(run_attempts(to_start, report, deliveries, instruments));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                ended = &mut link.ended => {
                    return ended.unwrap_or(Err(WorkerError::LinkDied("it panicked")));
                }
                () = &mut shutdown, if !drain.is_cancelled() => drain.cancel(),
                // It ends just before the link does, whose word counts.
                () = &mut attempts, if !link.attempts_ended => link.attempts_ended = true,
            }
        }
    }
}

/// The thread that keeps the leases. Dropped (as when the caller drops `run_until`), it ends at once: the fields are
/// dropped in order, the guard tells it and the thread is joined.
struct LinkThread {
    ended: oneshot::Receiver<Result<(), WorkerError>>,
    attempts_ended: bool,
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
        attempts_ended: false,
        _abandon: abandoned.drop_guard(),
        _thread: thread,
    })
}

fn by_queue(registered: &[(String, Arc<dyn Delivery>)]) -> Result<Deliveries, WorkerError> {
    let mut deliveries = Deliveries::new();
    for (name, delivery) in registered {
        let queue: QueueName = name.parse()?;
        if deliveries.insert(queue, Arc::clone(delivery)).is_some() {
            return Err(WorkerError::DuplicateQueue(name.clone()));
        }
    }
    match deliveries.len() {
        0 => Err(WorkerError::NoQueue),
        queues if queues > QUEUES_PER_WORKER_MAX => Err(WorkerError::TooManyQueues(queues)),
        _ => Ok(deliveries),
    }
}

fn pools(
    registered: &[(String, Vec<String>, Arc<dyn PoolStats>)],
    deliveries: &Deliveries,
) -> Result<Vec<Pool>, WorkerError> {
    let pool = |(resource, names, stats): &(String, Vec<String>, Arc<dyn PoolStats>)| {
        let resource: QueueName = resource.parse()?; // resources are named like queues
        let mut queues = Vec::new();
        for name in names {
            let queue: QueueName = name.parse()?;
            if !deliveries.contains_key(&queue) {
                return Err(WorkerError::PoolOfStranger(name.clone()));
            }
            queues.push(queue);
        }
        Ok(Pool::new(resource.to_string(), queues, Arc::clone(stats)))
    };
    registered.iter().map(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolUsage;

    const A: Queue<String> = Queue::new("a");
    const BAD: Queue<String> = Queue::new("No Such");

    async fn noop(_: JobContext, _: String) -> Result<(), JobError> {
        Ok(())
    }

    #[tokio::test]
    async fn a_worker_put_together_wrongly_says_what_is_wrong() {
        let routers = || Worker::connect(["127.0.0.1:1"]);
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
                routers().handle(A, noop).slots(0),
                "0 slots: a worker has 1 to 4096",
            ),
            (
                routers().handle(A, noop).pool("pg", ["b"], PoolUsage::default),
                "the pool of queue \"b\", which has no handler here",
            ),
            (
                Worker::connect(Vec::<String>::new()).handle(A, noop),
                "no router: give the address",
            ),
            (
                Worker::connect(["ftp://x"]).handle(A, noop),
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
        let worker = Worker::connect(["127.0.0.1:1"]).handle(A, noop);
        let left = worker.run_until(tokio::time::sleep(Duration::from_millis(20)));
        tokio::time::timeout(Duration::from_secs(5), left)
            .await
            .expect("at once")
            .expect("no error");
    }
}
