//! Putting a controller together, and taking it down in order: health first, then streams, then the owner.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

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
use tokio::{net::TcpListener, sync::watch};
use uuid::Uuid;

use crate::{
    attach::{Attaching, STREAMS_MAX},
    config::ControllerConfig,
    core::{Core, Lead, Settings, TuningError, model::Now},
    edits::Editor,
    keda::{self, Scaler},
    keeper::Keeper,
    ledger::{Leader, Ledger, OpenError, Scribe},
    metrics::Metrics,
    owner::{Around, Handle, Owner},
    probes,
    seed::Seed,
    status::Refusal,
    tuning::{Tuning, WATCHERS_MAX},
};

/// Health says NOT_SERVING this long before streams end, so that a node that comes back at once is not sent here again.
const DRAIN_LEAD: Duration = Duration::from_millis(50);
/// Whether it leads is known by then, if its ledger is there.
const SETTLE_MAX: Duration = Duration::from_secs(3);
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
    #[error(transparent)]
    Ledger(#[from] OpenError),
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
            | RunError::Seed { .. }
            | RunError::Ledger(OpenError::UnknownUrl | OpenError::Url(_)) => 2,
            RunError::Bind(_) | RunError::Ledger(_) | RunError::Listener(_) | RunError::Tasks(_) => 1,
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
    let settings = settings(&config);
    let seed = seed(&config, &settings)?;
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
    let leader = Leader {
        name: settings.name.clone(),
        url: match config.advertise.as_str() {
            "" => format!("http://{}", addresses.grpc),
            url => url.to_owned(),
        },
    };
    let ledger = Arc::new(Ledger::open(config.ledger.expose(), leader).await?);
    let (scribe, writing) = Scribe::new(ledger.clone());
    let meter = admin
        .as_ref()
        .map_or_else(telemetry::meter, |(_, registry)| registry.meter());
    let (raises, asked) = watch::channel(0);
    let around = Around {
        clock,
        metrics: Metrics::new(&meter),
        readiness: readiness.clone(),
        scribe: scribe.clone(),
        raises,
    };
    let (owner, handle) = Owner::new(Core::new(settings, now(clock)), around);
    let editor = Arc::new(Editor::new(handle.clone(), ledger.clone()));
    let keeper = Keeper::new(ledger.clone(), editor.clone(), handle.clone(), clock, asked)
        .seed(seed)
        .alone(config.alone);
    let settled = keeper.settled();
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
    tasks.spawn("lease", keeper.run(stop.clone()));
    tasks.spawn("history", writing.run(stop.clone()));
    let parts = Parts {
        owner: handle,
        editor,
        ledger,
        scribe,
    };
    let server = server(&config, &tasks, parts, readiness, draining);
    let ended = shutdown.clone();
    tasks.spawn("grpc", async move {
        let served = server.serve(grpc, ended).await;
        // No call is left that could ask it anything.
        stop.cancel();
        served
    });
    tokio::select! {
        () = settled.notified() => {}
        () = shutdown.cancelled() => {}
        // A ledger that does not answer: it serves all the same, and says so.
        () = tokio::time::sleep(SETTLE_MAX) => {}
    }
    ready(addresses);
    tasks.run().await?;
    Ok(())
}

fn now(clock: Monotonic) -> Now {
    Now {
        mono_ms: clock.ms(),
        wall_ms: clock::wall_ms(),
    }
}

fn settings(config: &ControllerConfig) -> Settings {
    Settings {
        tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
        name: name(config),
        alone: config.alone,
    }
}

/// The policies file, if there is one. A mistake in it is told before anything is served.
fn seed(config: &ControllerConfig, settings: &Settings) -> Result<Option<Seed>, RunError> {
    let Some(path) = &config.policies else {
        return Ok(None);
    };
    let seed = Seed {
        path: path.clone(),
        file: read(path)?,
        wins: config.policies_win,
    };
    let mut trial = Core::new(settings.clone(), Now::default());
    trial.lead(Lead::default(), Now::default());
    let tried = trial.seed(seed.file.clone(), Now::default());
    tried.map_err(|source| RunError::Seed {
        path: path.clone(),
        source,
    })?;
    Ok(Some(seed))
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

/// What the services stand on.
struct Parts {
    owner: Handle,
    editor: Arc<Editor>,
    ledger: Arc<Ledger>,
    scribe: Scribe,
}

fn server(
    config: &ControllerConfig,
    tasks: &Tasks,
    parts: Parts,
    readiness: Readiness,
    draining: CancellationToken,
) -> GrpcServer {
    let Parts {
        owner,
        editor,
        ledger,
        scribe,
    } = parts;
    let attaching = Attaching {
        owner: owner.clone(),
        streams: tasks.group("nodes", STREAMS_MAX),
        draining: draining.clone(),
    };
    let tuning = Tuning {
        owner: owner.clone(),
        editor,
        ledger,
        scribe,
        watchers: tasks.group("watchers", WATCHERS_MAX),
        draining: draining.clone(),
    };
    let scaler = Scaler::new(owner, tasks.group("scaler streams", keda::STREAMS_MAX), draining);
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
