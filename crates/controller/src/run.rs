//! Putting a controller together, and taking it down in order: health first, then streams, then the owner.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use tidegate_chassis::{
    CancellationToken,
    admin::{Readiness, serve_metrics},
    clock::{self, Monotonic},
    config::ConfigError,
    serve::{BindError, GrpcServer, Limits, MESSAGE_BYTES_MAX, bind_with_hint},
    tasks::{TaskEnded, Tasks},
    telemetry::{self, Metrics as Registry},
};
use tidegate_protocol::{
    DESCRIPTOR_SET,
    externalscaler::external_scaler_server::ExternalScalerServer,
    policy_file::{self, PolicyFile, PolicyFileError},
    v1::{control_service_server::ControlServiceServer, tuning_service_server::TuningServiceServer},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    attach::{Attaching, STREAMS_MAX},
    config::ControllerConfig,
    core::{Core, Settings, TuningError, model::Now},
    keda::{self, Scaler},
    metrics::Metrics,
    owner::{Handle, Owner},
    probes,
    status::Refusal,
    tuning::{Tuning, WATCHERS_MAX},
};

/// Health says NOT_SERVING this long before streams end, so that a node that comes back at once is not sent here again.
const DRAIN_LEAD: Duration = Duration::from_millis(50);
/// What the process's tasks may take beyond the drain of calls and streams.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// Why a controller did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Setting(String),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot read the policies file {}", path.display())]
    ReadPolicies { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Policies { path: PathBuf, source: PolicyFileError },
    #[error("{}: {source}", path.display())]
    Seed { path: PathBuf, source: TuningError },
    #[error("a listener has no address")]
    Listener(#[from] std::io::Error),
    #[error(transparent)]
    Tasks(#[from] TaskEnded),
}

impl RunError {
    /// 2: how it was called or configured; 1: everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Config(_)
            | RunError::Setting(_)
            | RunError::ReadPolicies { .. }
            | RunError::Policies { .. }
            | RunError::Seed { .. } => 2,
            RunError::Bind(_) | RunError::Listener(_) | RunError::Tasks(_) => 1,
        }
    }
}

/// Where a controller listens, now that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub grpc: SocketAddr,
    /// `None`: the process serves its operator's port itself.
    pub metrics: Option<SocketAddr>,
}

/// The one line of the output that programs may parse.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready role=controller grpc={}", self.grpc)?;
        self.metrics
            .map_or(Ok(()), |metrics| write!(f, " metrics={metrics}"))
    }
}

/// What a process gives the controller that it hosts.
pub struct Host {
    pub grpc: TcpListener,
    /// The operator's port and what it shows; `None` where the process has one for several roles.
    pub admin: Option<(TcpListener, Registry)>,
    /// Follows the controller's: whether it leads.
    pub readiness: Readiness,
}

/// A controller of its own process: binds and serves until `shutdown`. Telemetry must have been started.
pub async fn run(
    config: ControllerConfig,
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

/// A controller on listeners that the process has bound.
pub async fn run_on(
    config: ControllerConfig,
    host: Host,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    config.check().map_err(RunError::Setting)?;
    let clock = Monotonic::start();
    let core = core(&config, clock)?;
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
    let (owner, handle) = Owner::new(core, clock, Metrics::new(&meter), readiness.clone());
    let tasks = Tasks::new(shutdown.clone()).drain_deadline(config.drain_timeout + DRAIN_LEAD + DRAIN_MARGIN);
    if let Some((listener, registry)) = admin {
        tasks.spawn(
            "metrics",
            serve_metrics(listener, registry, readiness.clone(), shutdown.clone()),
        );
    }
    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    tasks.spawn("owner", owner.run(shutdown.clone(), stop.clone()));
    tasks.spawn(
        "drain",
        drain(readiness.clone(), shutdown.clone(), draining.clone()),
    );
    tasks.spawn(
        "probes",
        probes::ask(handle.clone(), probes::secrets(), shutdown.clone()),
    );
    let server = server(&config, &tasks, handle, readiness, draining);
    tasks.spawn("grpc", async move {
        let served = server.serve(grpc, shutdown).await;
        // No call is left that could ask it anything.
        stop.cancel();
        served
    });
    ready(addresses);
    tasks.run().await?;
    Ok(())
}

/// The state to start with. A mistake in the file is told before anything is served.
fn core(config: &ControllerConfig, clock: Monotonic) -> Result<Core, RunError> {
    let now = Now {
        mono_ms: clock.ms(),
        wall_ms: clock::wall_ms(),
    };
    let settings = Settings {
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        name: name(config),
        ledger_id: Uuid::new_v4(),
        alone: config.alone,
    };
    let mut core = Core::new(settings, now);
    if let Some(path) = &config.policies {
        core.seed(read(path)?, now).map_err(|source| RunError::Seed {
            path: path.clone(),
            source,
        })?;
    }
    Ok(core)
}

fn read(path: &std::path::Path) -> Result<PolicyFile, RunError> {
    let text = std::fs::read_to_string(path).map_err(|source| RunError::ReadPolicies {
        path: path.to_owned(),
        source,
    })?;
    policy_file::parse(&text).map_err(|source| RunError::Policies {
        path: path.to_owned(),
        source,
    })
}

fn server(
    config: &ControllerConfig,
    tasks: &Tasks,
    owner: Handle,
    readiness: Readiness,
    draining: CancellationToken,
) -> GrpcServer {
    let attaching = Attaching {
        owner: owner.clone(),
        streams: tasks.group("nodes", STREAMS_MAX),
        draining: draining.clone(),
    };
    let tuning = Tuning {
        owner: owner.clone(),
        watchers: tasks.group("watchers", WATCHERS_MAX),
        draining: draining.clone(),
    };
    let scaler = Scaler {
        owner,
        streams: tasks.group("scaler streams", keda::STREAMS_MAX),
        draining,
    };
    let limits = Limits {
        drain_timeout: config.drain_timeout,
        ..Limits::default()
    };
    let server = GrpcServer::new(readiness)
        .limits(limits)
        .answer(|why| Refusal::unanswered(why).into_status().into_http())
        .add_service(
            ControlServiceServer::new(attaching)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            TuningServiceServer::new(tuning)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(ExternalScalerServer::new(scaler).max_decoding_message_size(MESSAGE_BYTES_MAX));
    if config.reflection {
        server.reflection(DESCRIPTOR_SET)
    } else {
        server
    }
}

/// Health says so before any stream is ended.
async fn drain(readiness: Readiness, shutdown: CancellationToken, draining: CancellationToken) {
    shutdown.cancelled().await;
    readiness.set(false, "draining");
    tokio::time::sleep(DRAIN_LEAD).await;
    draining.cancel();
}

fn name(config: &ControllerConfig) -> String {
    match config.name.as_str() {
        "" => format!("controller-{}", &Uuid::new_v4().simple().to_string()[..8]),
        name => name.to_owned(),
    }
}
