//! `tidegate dev`: router, controller, worker and an echo app in one process, on SQLite.
//!
//! On SIGTERM the worker goes first: it finishes what it runs and settles it, and only then do the others stop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_chassis::{
    CancellationToken,
    admin::{Readiness, serve_metrics},
    serve::bind_with_hint,
    shutdown,
    tasks::{TaskEnded, Tasks},
    telemetry::{self, TelemetryOptions},
};
use tidegate_controller::ControllerConfig;
use tidegate_router::RouterConfig;
use tidegate_worker::WorkerConfig;

use crate::{echo, output};

/// Everything of one process drains within this.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct DevArgs {
    /// Port for producers, operators and workers; 0 = any
    #[arg(long, default_value_t = 7600)]
    port: u16,
    /// Port of the controller, for `tidegate control`; 0 = any
    #[arg(long, default_value_t = 7601)]
    controller_port: u16,
    /// Port of /metrics; 0 = any
    #[arg(long, default_value_t = 0)]
    metrics_port: u16,
    /// The SQLite file
    #[arg(long, value_name = "PATH", default_value = "./.tidegate/jobs.db")]
    db: PathBuf,
    /// Deliver to this HTTP app instead of the built-in echo app
    #[arg(long, value_name = "URL")]
    app: Option<String>,
    /// Queue to serve; give it once for each
    #[arg(long = "queue", value_name = "NAME", default_values = ["default", "email"])]
    queues: Vec<String>,
    /// Queue policies and resources, a TOML file
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// How often the controller decides
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// Jobs that may run at once: a ceiling, the controller says how many do
    #[arg(long, default_value_t = 64)]
    slots: u32,
    /// Print only the ready line
    #[arg(long)]
    headless: bool,
}

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let options = TelemetryOptions {
        default_filter: args.headless.then(|| "warn".to_owned()),
        ..TelemetryOptions::default()
    };
    let telemetry = telemetry::init("tidegate-dev", options)?;
    let stop = shutdown::token_on_signals();
    let ended = start(&args, &telemetry, stop).await;
    telemetry.shutdown().await;
    ended
}

/// What the ready line and the greeting name.
struct Addresses {
    grpc: SocketAddr,
    controller: SocketAddr,
    metrics: SocketAddr,
    app: String,
}

async fn start(
    args: &DevArgs,
    telemetry: &telemetry::Telemetry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let grpc = bind_with_hint(local(args.port), "--port").await?;
    let control = bind_with_hint(local(args.controller_port), "--controller-port").await?;
    let metrics = bind_with_hint(local(args.metrics_port), "--metrics-port").await?;
    let tasks = Tasks::new(stop.clone()).drain_deadline(DRAIN_DEADLINE);
    let after_worker = CancellationToken::new();
    let app = match &args.app {
        Some(url) => url.clone(),
        None => {
            let (listener, address) = echo::bind().await.context("cannot bind the echo app")?;
            tasks.spawn("echo app", echo::serve(listener, after_worker.clone()));
            format!("http://{address}/")
        }
    };
    let addresses = Addresses {
        grpc: grpc.local_addr()?,
        controller: control.local_addr()?,
        metrics: metrics.local_addr()?,
        app,
    };
    let readiness = Readiness::new();
    tasks.spawn(
        "metrics",
        serve_metrics(metrics, telemetry.metrics(), readiness.clone(), stop.clone()),
    );

    // It stands before the others look for it, and goes when the worker has gone.
    let host = tidegate_controller::Host {
        grpc: control,
        admin: None,
        readiness: Readiness::new(),
    };
    let controller = tidegate_controller::run_on(controller_config(args), host, after_worker.clone(), |_| ());
    tasks.spawn("controller", Box::pin(controller));

    let (router_up, router_is_up) = tokio::sync::oneshot::channel();
    let router = RouterConfig {
        reflection: true,
        controllers: vec![format!("http://{}", addresses.controller)],
        ..router_config(&args.db)?
    };
    let host = tidegate_router::Host {
        grpc,
        admin: None,
        readiness: readiness.clone(),
    };
    let up = move |_| {
        // Nobody waits any more when the worker has failed.
        let _ = router_up.send(());
    };
    let router = Box::pin(tidegate_router::run_on(router, host, after_worker.clone(), up));
    let worker = worker_config(args, &addresses);
    let greeting = Greeting {
        addresses,
        headless: args.headless,
        db: args.db.clone(),
    };
    let (worker_stop, router_stop) = (stop.clone(), after_worker.clone());
    tasks.spawn("worker", async move {
        // A router that cannot start says why itself; there is nothing to connect to then.
        if router_is_up.await.is_err() {
            return Ok(());
        }
        let host = tidegate_worker::Host {
            admin: None,
            readiness: Readiness::new(),
        };
        let ended = tidegate_worker::run_on(worker, host, worker_stop, move |_| greeting.print()).await;
        router_stop.cancel();
        ended
    });
    // Whichever ends first, for whatever reason, ends the other.
    let router = async {
        let ended = router.await;
        stop.cancel();
        after_worker.cancel();
        ended
    };
    let others = async {
        let ended = tasks.run().await;
        after_worker.cancel();
        ended
    };
    let (router, others) = tokio::join!(router, others);
    router?;
    others.map_err(|error| match error {
        TaskEnded::Failed { source, .. } => source,
        error => error.into(),
    })
}

fn router_config(db: &Path) -> anyhow::Result<RouterConfig> {
    let path = db
        .to_str()
        .context("--db must be a path that can be written as text")?;
    Ok(RouterConfig {
        store: format!("sqlite:{path}").into(),
        name: "dev".to_owned(),
        ..RouterConfig::default()
    })
}

/// Beside the jobs: who removes the one removes the other.
fn ledger(db: &Path) -> String {
    format!("sqlite:{}", db.with_extension("ledger.db").display())
}

fn controller_config(args: &DevArgs) -> ControllerConfig {
    ControllerConfig {
        policies: args.policies.clone(),
        tick: args.tick,
        name: "dev".to_owned(),
        reflection: true,
        alone: true,
        policies_win: true,
        ledger: ledger(&args.db).into(),
        ..ControllerConfig::default()
    }
}

fn worker_config(args: &DevArgs, addresses: &Addresses) -> WorkerConfig {
    WorkerConfig {
        routers: vec![format!("http://{}", addresses.grpc)],
        controllers: vec![format!("http://{}", addresses.controller)],
        app: addresses.app.clone(),
        queues: args.queues.clone(),
        slots: args.slots,
        drain_timeout: Duration::from_secs(10),
        ..WorkerConfig::default()
    }
}

struct Greeting {
    addresses: Addresses,
    headless: bool,
    db: PathBuf,
}

impl Greeting {
    fn print(&self) {
        let Addresses {
            grpc,
            controller,
            metrics,
            app,
        } = &self.addresses;
        if !self.headless {
            output::line(format_args!("router      http://{grpc}"));
            output::line(format_args!("controller  http://{controller}"));
            output::line(format_args!("metrics     http://{metrics}/metrics"));
            output::line(format_args!("app         {app}"));
            output::line(format_args!("jobs        {}", self.db.display()));
            output::line(format_args!(
                "try         tidegate submit email '{{\"to\":\"ada@example.org\"}}' --wait --endpoint http://{grpc}"
            ));
            output::line(format_args!(
                "look        tidegate control status --controller http://{controller}"
            ));
        }
        output::line(format_args!(
            "ready role=dev grpc={grpc} controller={controller} metrics={metrics} app={app}"
        ));
    }
}
