//! Putting a router together, and taking it down in order: health first, then streams, then what is in flight, then the
//! store.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tidegate_chassis::{
    CancellationToken,
    admin::{Readiness, serve_metrics},
    config::ConfigError,
    serve::{BindError, GrpcServer, Limits, MESSAGE_BYTES_MAX, bind_with_hint},
    tasks::{TaskEnded, Tasks},
    telemetry::{self, Metrics as Registry},
};
use tidegate_client::control::InvalidController;
use tidegate_protocol::{DESCRIPTOR_SET, v1};
use tidegate_store::{JobStore, OpenError, StoreError};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    catalog::Catalog,
    condition::Condition,
    config::RouterConfig,
    control::{Attachment, Verdict},
    dispatcher::{Dispatch, Dispatcher, HANDBACKS_MAX, Handback},
    janitor::Janitor,
    job_service::{BULKS_MAX, Jobs, Reads, WATCHERS_MAX},
    lease::{self, Leases},
    metrics::Metrics,
    observed::Observed,
    pipes::Pipes,
    policies::{self, PoliciesError},
    queue_service::Queues,
    status::Refusal,
    trace::{StoreCalls, system_of},
    waiters::Waiters,
};

/// Health says NOT_SERVING this long before streams are told to go, so that a worker that comes back at once is not sent
/// here again.
const DRAIN_LEAD: Duration = Duration::from_millis(50);
/// What the process's tasks may take beyond the drain of calls and streams.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// Why a router did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot open the job store")]
    Open(#[from] OpenError),
    #[error("the job store does not answer")]
    Store(#[source] StoreError),
    #[error(transparent)]
    Policies(#[from] PoliciesError),
    #[error(transparent)]
    Controller(#[from] InvalidController),
    #[error("a listener has no address")]
    Listener(#[from] std::io::Error),
    #[error(transparent)]
    Tasks(#[from] TaskEnded),
}

impl RunError {
    /// 2: how it was called or configured; 5: its store does not answer; 1: everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Config(_) | RunError::Controller(_) => 2,
            RunError::Policies(PoliciesError::Store(_)) | RunError::Store(_) => 5,
            RunError::Policies(_) => 2,
            RunError::Open(OpenError::UnknownUrl(_)) => 2,
            RunError::Open(OpenError::Unreachable { .. }) => 5,
            // It is there, and somebody has to do something about it.
            RunError::Open(_) => 1,
            RunError::Bind(_) | RunError::Listener(_) | RunError::Tasks(_) => 1,
        }
    }
}

/// Where a router listens, now that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub grpc: SocketAddr,
    /// `None`: the process serves its operator's port itself.
    pub metrics: Option<SocketAddr>,
}

/// The one line of the output that programs may parse.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready role=router grpc={}", self.grpc)?;
        self.metrics
            .map_or(Ok(()), |metrics| write!(f, " metrics={metrics}"))
    }
}

/// What a process gives the router that it hosts.
pub struct Host {
    pub grpc: TcpListener,
    /// The operator's port and what it shows; `None` where the process has one for several roles.
    pub admin: Option<(TcpListener, Registry)>,
    /// Follows the router's; read by health, and by the operator's port.
    pub readiness: Readiness,
}

/// A router of its own process: binds, opens the store, and serves until `shutdown`. Telemetry must have been started.
pub async fn run(
    config: RouterConfig,
    registry: Registry,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    let grpc = bind_with_hint(config.listen, "--listen").await?;
    let metrics = bind_with_hint(config.metrics_listen, "--metrics-listen").await?;
    let host = Host {
        grpc,
        admin: Some((metrics, registry)),
        readiness: Readiness::new(),
    };
    run_on(config, host, shutdown, ready).await
}

/// A router on listeners that the process has bound.
pub async fn run_on(
    config: RouterConfig,
    host: Host,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    // Read first: a mistake in it is told before a store is touched.
    let policies = config.policies.as_deref().map(policies::read).transpose()?;
    let store = tidegate_store::open(config.store.expose(), &config.store_options()).await?;
    let ended = async {
        if let Some(policies) = policies {
            policies::apply(&store, policies).await?;
        }
        serve(&config, store.clone(), host, shutdown, ready).await
    }
    .await;
    store.close().await;
    ended
}

/// A router on an open store, which stays open.
pub async fn serve(
    config: &RouterConfig,
    store: Arc<dyn JobStore>,
    host: Host,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    let attachment = Attachment::new(&config.controllers)?;
    let Host {
        grpc,
        admin,
        readiness,
    } = host;
    let addresses = Ready {
        grpc: grpc.local_addr()?,
        metrics: admin
            .as_ref()
            .map(|(listener, _)| listener.local_addr())
            .transpose()?,
    };
    let meter = admin
        .as_ref()
        .map_or_else(telemetry::meter, |(_, registry)| registry.meter());
    let metrics = Arc::new(Metrics::new(&meter));
    let store: Arc<dyn JobStore> = Arc::new(Observed::new(
        store,
        system_of(config.store.expose()),
        metrics.clone(),
    ));
    let tasks = Tasks::new(shutdown.clone())
        .drain_deadline(config.drain_notice + config.drain_timeout + DRAIN_LEAD + DRAIN_MARGIN);
    let (router, verdict) =
        Router::build(config, &tasks, store, metrics, readiness.clone(), attachment).await?;
    if let Some((listener, registry)) = admin {
        tasks.spawn(
            "metrics",
            serve_metrics(listener, registry, readiness, shutdown.clone()),
        );
    }
    tasks.spawn("drain", router.drain(shutdown.clone()));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = verdict.wait() => {}
    }
    let (stop, server) = (router.stop.clone(), router.server(config));
    tasks.spawn("grpc", async move {
        let served = server.serve(grpc, shutdown).await;
        // No call is left that could put anything into a batch.
        stop.cancel();
        served
    });
    ready(addresses);
    tasks.run().await?;
    Ok(())
}

/// The parts that the services are made of.
struct Router {
    jobs: v1::job_service_server::JobServiceServer<Jobs>,
    queues: v1::queue_service_server::QueueServiceServer<Queues>,
    leases: v1::lease_service_server::LeaseServiceServer<Leases>,
    readiness: Readiness,
    draining: CancellationToken,
    /// Ends the batches, after everything that uses them.
    stop: CancellationToken,
}

impl Router {
    async fn build(
        config: &RouterConfig,
        tasks: &Tasks,
        store: Arc<dyn JobStore>,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        attachment: Attachment,
    ) -> Result<(Self, Verdict), RunError> {
        let name = name(config);
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let janitor = meet(store, metrics, readiness.clone(), draining.clone()).await?;
        let Janitor {
            store,
            condition,
            catalog,
            admission,
            metrics,
        } = janitor.clone();
        let system = system_of(config.store.expose());
        let waiters = Arc::new(Waiters::default());
        tasks.spawn(
            "store events",
            waiters.clone().listen(store.subscribe(), stop.clone()),
        );
        let verdict = attachment.start(tasks, janitor.clone(), name.clone());
        let dispatch = start_tasks(tasks, janitor, system, &draining);
        let pipes = Pipes::start(tasks, &store, &condition, &catalog, &dispatch, system, &stop);
        let registry = Arc::new(lease::Registry::new(metrics.clone()));
        let reads = Reads::new(condition.clone());
        let shared = Arc::new(lease::Shared {
            store: store.clone(),
            pipes: pipes.clone(),
            condition: condition.clone(),
            metrics: metrics.clone(),
            registry: registry.clone(),
            dispatch,
            releases: tasks.group("session releases", lease::RELEASES_MAX),
            draining: draining.clone(),
            name,
            drain_patience: config.drain_notice + config.drain_timeout.mul_f64(0.9),
        });
        let leases = Leases {
            shared,
            streams: tasks.group("worker streams", lease::STREAMS_MAX),
        };
        let queues = Queues {
            store: store.clone(),
            reads: reads.clone(),
            sessions: registry,
        };
        let jobs = Jobs {
            store,
            pipes,
            condition,
            catalog,
            admission,
            metrics,
            waiters,
            watchers: tasks.group("watchers", WATCHERS_MAX),
            bulks: tasks.group("bulk actions", BULKS_MAX),
            draining: draining.clone(),
            reads,
        };
        let (jobs, queues, leases) = services(jobs, queues, leases);
        let router = Self {
            jobs,
            queues,
            leases,
            readiness,
            draining,
            stop,
        };
        Ok((router, verdict))
    }

    fn server(self, config: &RouterConfig) -> GrpcServer {
        let limits = Limits {
            drain_notice: config.drain_notice,
            drain_timeout: config.drain_timeout,
            connections_max: config.connections_max,
            connections_per_ip_max: config.connections_per_ip_max,
            ..Limits::default()
        };
        let server = GrpcServer::new(self.readiness)
            .limits(limits)
            .answer(|why| Refusal::unanswered(why).into_status().into_http())
            .add_service(self.jobs)
            .add_service(self.queues)
            .add_service(self.leases);
        if config.reflection {
            server.reflection(DESCRIPTOR_SET)
        } else {
            server
        }
    }

    /// Health says so before any stream is told.
    fn drain(&self, shutdown: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (readiness, draining) = (self.readiness.clone(), self.draining.clone());
        async move {
            shutdown.cancelled().await;
            readiness.set(false, "draining");
            tokio::time::sleep(DRAIN_LEAD).await;
            draining.cancel();
        }
    }
}

/// The first pulse before the first call: a store that cannot be asked for the time cannot be served from.
async fn meet(
    store: Arc<dyn JobStore>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    draining: CancellationToken,
) -> Result<Janitor, RunError> {
    let condition = Arc::new(Condition::new(metrics.clone(), readiness, draining));
    let janitor = Janitor {
        store,
        condition,
        catalog: Arc::new(Catalog::default()),
        admission: Arc::default(),
        metrics,
    };
    let durability = janitor.first_pulse().await.map_err(RunError::Store)?;
    tracing::info!(%durability, "the job store answers; this is what an acknowledgement means");
    janitor.look().await;
    Ok(janitor)
}

/// What runs by itself: the dispatcher, the pulse and the sweeps.
fn start_tasks(
    tasks: &Tasks,
    janitor: Janitor,
    system: &'static str,
    draining: &CancellationToken,
) -> Dispatch {
    let Janitor {
        store,
        condition,
        catalog,
        metrics,
        ..
    } = janitor.clone();
    let handback = Handback::new(store.clone(), tasks.group("hand-backs", HANDBACKS_MAX));
    let calls = StoreCalls { system, op: "lease" };
    let (dispatcher, dispatch) = Dispatcher::new(store, calls, condition, catalog, metrics, handback);
    tasks.spawn("dispatcher", dispatcher.run(draining.clone()));
    tasks.spawn("pulse", janitor.clone().pulse(tasks.shutdown()));
    tasks.spawn("sweep", janitor.sweep(tasks.shutdown()));
    dispatch
}

fn services(
    jobs: Jobs,
    queues: Queues,
    leases: Leases,
) -> (
    v1::job_service_server::JobServiceServer<Jobs>,
    v1::queue_service_server::QueueServiceServer<Queues>,
    v1::lease_service_server::LeaseServiceServer<Leases>,
) {
    (
        v1::job_service_server::JobServiceServer::new(jobs)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        v1::queue_service_server::QueueServiceServer::new(queues)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        v1::lease_service_server::LeaseServiceServer::new(leases)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}

fn name(config: &RouterConfig) -> String {
    match config.name.as_str() {
        "" => format!("router-{}", &Uuid::new_v4().simple().to_string()[..8]),
        name => name.to_owned(),
    }
}
