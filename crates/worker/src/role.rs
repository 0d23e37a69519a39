//! The worker as a process: delivers jobs to an app or a command, and tells operators how it fares.

use std::{fmt, net::SocketAddr, process::ExitCode, time::Duration};

use tidegate_chassis::{
    CancellationToken,
    admin::{Readiness, serve_metrics},
    config::ConfigError,
    serve::{BindError, bind_with_hint},
    shutdown,
    tasks::{TaskEnded, Tasks},
    telemetry::{self, Meter, Metrics, TelemetryOptions},
};
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    Connected, Delivery, Worker, WorkerArgs, WorkerConfig, WorkerError,
    config::{ExecConfig, HttpConfig},
    exec::{ExecDelivery, ExecError, ExecSettings},
    http::{Callbacks, HttpDelivery, HttpError, HttpSettings},
};

/// What a drain takes after `drain_timeout`: handlers to be dropped, last outcomes, the bye.
const DRAIN_MARGIN: Duration = Duration::from_secs(6);

/// Why a worker did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "no app and no command: say where jobs are POSTed with --app URL (worker.app), or what runs them with \
         --exec CMD ARGS (worker.exec.command)"
    )]
    NoDelivery,
    #[error("an app and a command: give --app (worker.app) or --exec (worker.exec.command), not both")]
    TwoDeliveries,
    #[error(
        "how apps reach {0} is not known: name it with --callback-url http://HOST:PORT (worker.http.callback_url)"
    )]
    NoCallbackUrl(SocketAddr),
    #[error("no queue: name at least one with --queue NAME (worker.queues)")]
    NoQueue,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the listener has no address")]
    Listener(#[from] std::io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Tasks(#[from] TaskEnded),
}

impl RunError {
    /// 2: how it was called or configured; 1: everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::NoDelivery
            | Self::TwoDeliveries
            | Self::NoCallbackUrl(_)
            | Self::NoQueue
            | Self::Http(_)
            | Self::Exec(_) => 2,
            Self::Worker(
                WorkerError::InvalidQueue(_)
                | WorkerError::DuplicateQueue(_)
                | WorkerError::PoolOfStranger(_)
                | WorkerError::UnregisteredQueue { .. }
                | WorkerError::InvalidSchema { .. }
                | WorkerError::NoQueue
                | WorkerError::TooManyQueues(_)
                | WorkerError::NoRouter
                | WorkerError::InvalidRouter(_)
                | WorkerError::InvalidController(_)
                | WorkerError::InvalidSlots(_),
            ) => 2,
            Self::Worker(_) | Self::Bind(_) | Self::Listener(_) | Self::Tasks(_) => 1,
        }
    }
}

/// A worker that a router has taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// `None`: the process serves its operator's port itself.
    pub metrics: Option<SocketAddr>,
    /// The router's address.
    pub router: String,
}

/// The one line of the output that programs may parse.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready role=worker")?;
        self.metrics
            .map_or(Ok(()), |metrics| write!(f, " metrics={metrics}"))
    }
}

/// What a process gives the worker that it hosts.
pub struct Host {
    /// The operator's port and what it shows; `None` where the process has one for several roles.
    pub admin: Option<(TcpListener, Metrics)>,
    /// Ready once a router has taken the worker in, until the drain.
    pub readiness: Readiness,
}

/// The whole process, for `main`: configuration, telemetry, signals, the ready line, and the exit code.
pub async fn main(args: WorkerArgs) -> ExitCode {
    let Err(error) = start(&args).await else {
        return ExitCode::SUCCESS;
    };
    let code = error.downcast_ref().map_or(1, RunError::exit_code);
    eprintln!("tidegate-worker: {error:#}");
    ExitCode::from(code)
}

async fn start(args: &WorkerArgs) -> anyhow::Result<()> {
    let config = WorkerConfig::load(args).map_err(RunError::from)?.value.worker;
    let telemetry = telemetry::init("tidegate-worker", TelemetryOptions::default())?;
    let shutdown = shutdown::token_on_signals();
    let ended = run(config, telemetry.metrics(), shutdown, |ready| println!("{ready}")).await;
    telemetry.shutdown().await;
    Ok(ended?)
}

/// A worker of its own process: binds its operator's port and runs until `shutdown`. `ready` is called once, when a
/// router has taken it in; until one does it tries on, with a warning every few seconds. Telemetry must have been
/// started.
///
/// # Errors
/// At once for what is configured wrongly; later only when the worker must not go on.
pub async fn run(
    config: WorkerConfig,
    metrics: Metrics,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    // Before the port: a mistake in the configuration is told first.
    let (worker, port) = build(&config, Some(metrics.meter())).await?;
    let listener = bind_with_hint(config.metrics_listen, "--metrics-listen").await?;
    let host = Host {
        admin: Some((listener, metrics)),
        readiness: Readiness::new(),
    };
    serve(worker, port, &config, host, shutdown, ready).await
}

/// A worker in a process that has bound what there is to bind.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: WorkerConfig,
    host: Host,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    let meter = host.admin.as_ref().map(|(_, metrics)| metrics.meter());
    let (worker, port) = build(&config, meter).await?;
    serve(worker, port, &config, host, shutdown, ready).await
}

/// Where apps that answered 202 call.
struct CallbackPort {
    listener: TcpListener,
    callbacks: Callbacks,
}

async fn build(
    config: &WorkerConfig,
    meter: Option<Meter>,
) -> Result<(Worker, Option<CallbackPort>), RunError> {
    let worker = Worker::connect(&config.routers, &config.controllers)
        .name(&config.name)
        .slots(config.slots)
        .drain_timeout(config.drain_timeout)
        .label("version", env!("CARGO_PKG_VERSION"));
    if config.queues.is_empty() {
        return Err(RunError::NoQueue);
    }
    let (worker, port) = match (config.app.as_str(), config.exec.command.as_slice()) {
        ("", []) => return Err(RunError::NoDelivery),
        ("", _) => {
            let delivery = ExecDelivery::new(exec_settings(&config.exec, meter))?;
            (
                all_queues(worker.label("delivery", "exec"), config, &delivery),
                None,
            )
        }
        (_, []) => {
            let (delivery, port) = http(config, meter).await?;
            (
                all_queues(worker.label("delivery", "http"), config, &delivery),
                port,
            )
        }
        _ => return Err(RunError::TwoDeliveries),
    };
    worker.check()?;
    Ok((worker, port))
}

async fn http(
    config: &WorkerConfig,
    meter: Option<Meter>,
) -> Result<(HttpDelivery, Option<CallbackPort>), RunError> {
    let HttpConfig {
        allow,
        secrets,
        callback_listen,
        callback_url,
    } = &config.http;
    let settings = HttpSettings {
        allow: allow.clone(),
        secrets: secrets.clone(),
        meter: meter.clone(),
        ..HttpSettings::new(&config.app)
    };
    let delivery = HttpDelivery::new(settings)?;
    // What listens on loopback is reached from this machine only; what listens on every address has no name.
    let known = !callback_url.is_empty() || (delivery.is_local() && callback_listen.ip().is_loopback());
    if !known && *callback_listen != HttpConfig::default().callback_listen {
        return Err(RunError::NoCallbackUrl(*callback_listen));
    }
    if !known {
        return Ok((delivery, None));
    }
    let listener = bind_with_hint(*callback_listen, "--callback-listen").await?;
    let base = match callback_url.as_str() {
        "" => format!("http://{}", listener.local_addr()?),
        url => url.to_owned(),
    };
    let callbacks = Callbacks::new(&base, meter)?;
    let delivery = delivery.with_callbacks(callbacks.clone());
    Ok((delivery, Some(CallbackPort { listener, callbacks })))
}

fn all_queues(worker: Worker, config: &WorkerConfig, delivery: &(impl Delivery + Clone)) -> Worker {
    config
        .queues
        .iter()
        .fold(worker, |worker, queue| worker.deliver(queue, delivery.clone()))
}

fn exec_settings(config: &ExecConfig, meter: Option<Meter>) -> ExecSettings {
    ExecSettings {
        memory_bytes: Some(config.memory).filter(|bytes| *bytes > 0),
        cpu: Some(config.cpu).filter(|cpu| !cpu.is_zero()),
        open_files: Some(config.open_files).filter(|files| *files > 0),
        grace: config.grace,
        meter,
        ..ExecSettings::new(&config.command)
    }
}

async fn serve(
    worker: Worker,
    port: Option<CallbackPort>,
    config: &WorkerConfig,
    host: Host,
    shutdown: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), RunError> {
    let Host { admin, readiness } = host;
    // The controller may end this worker without the process being told to.
    let shutdown = shutdown.child_token();
    readiness.set(false, "no router yet");
    let tasks = Tasks::new(shutdown.clone()).drain_deadline(config.drain_timeout + DRAIN_MARGIN);
    let metrics = admin
        .as_ref()
        .map(|(listener, _)| listener.local_addr())
        .transpose()?;
    let worker = match &admin {
        Some((_, metrics)) => worker.meter(metrics.meter()),
        None => worker,
    };
    // The operator's port outlives the drain, so that the last numbers can be read.
    let stopped = CancellationToken::new();
    if let Some((listener, metrics)) = admin {
        tasks.spawn(
            "metrics",
            serve_metrics(listener, metrics, readiness.clone(), stopped.clone()),
        );
    }
    // What runs during the drain may still be completed.
    if let Some(CallbackPort { listener, callbacks }) = port {
        tasks.spawn("callbacks", callbacks.serve(listener, stopped.clone()));
    }
    let (connected, is_connected) = oneshot::channel::<Connected>();
    let worker = worker.on_connected(|router| drop(connected.send(router)));
    let draining = readiness.clone();
    let (begin, over) = (shutdown.clone(), shutdown.clone());
    tasks.spawn("worker", async move {
        let stop = async move {
            begin.cancelled().await;
            draining.set(false, "draining");
        };
        let ended = worker.run_until(stop).await;
        stopped.cancel();
        if ended.is_ok() {
            over.cancel();
        }
        ended
    });
    let begin = shutdown.clone();
    let announce = async {
        tokio::select! {
            Ok(router) = is_connected => {
                readiness.set(!begin.is_cancelled(), if begin.is_cancelled() { "draining" } else { "" });
                ready(Ready { metrics, router: router.address });
            }
            () = begin.cancelled() => {}
            else => {} // it ended first; its error is below
        }
    };
    let (ended, ()) = tokio::join!(tasks.run(), announce);
    Ok(ended?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_named_with_its_flag() {
        let config = |app: &str, queues: &[&str]| WorkerConfig {
            app: app.to_owned(),
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            ..WorkerConfig::default()
        };
        let command = |app: &str, command: &str| WorkerConfig {
            exec: ExecConfig {
                command: vec![command.to_owned()],
                ..ExecConfig::default()
            },
            ..config(app, &["a"])
        };
        for (config, text) in [
            (config("", &["a"]), "--app URL"),
            (command("http://127.0.0.1:1/", "true"), "not both"),
            (command("", "no-such-program"), "it is not on PATH"),
            (config("http://127.0.0.1:1/", &[]), "--queue NAME"),
            (config("not a url", &["a"]), "invalid app address"),
            (config("http://127.0.0.1:1/", &["No Such"]), "invalid name"),
            (config("http://127.0.0.1:1/", &["a", "a"]), "two handlers"),
            (
                WorkerConfig {
                    controllers: vec!["ftp://x".to_owned()],
                    ..config("http://127.0.0.1:1/", &["a"])
                },
                "invalid controller address \"ftp://x\"",
            ),
            (
                WorkerConfig {
                    slots: 0,
                    ..config("http://127.0.0.1:1/", &["a"])
                },
                "0 slots",
            ),
        ] {
            let host = Host {
                admin: None,
                readiness: Readiness::new(),
            };
            let error = run_on(config, host, CancellationToken::new(), |_| {})
                .await
                .expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn the_ready_line_is_stable() {
        let metrics = Some(SocketAddr::from(([127, 0, 0, 1], 9466)));
        let ready = Ready {
            metrics,
            router: "http://127.0.0.1:7600/".to_owned(),
        };
        assert_eq!(ready.to_string(), "ready role=worker metrics=127.0.0.1:9466");
    }
}
