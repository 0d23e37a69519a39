//! What the program `test-worker` runs: a worker on the library, whose handlers do what the tests need done, good and bad.
//!
//! `--queue email=noop` registers the queue `email` with one kind of work; see [`Work`]. A payload of `{"ms":250}` says how
//! long it takes.

mod database;
mod plant;
mod traced;

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use clap::Parser;
use sqlx::postgres::PgConnectOptions;
use tidegate_chassis::{
    CancellationToken,
    admin::{Readiness, serve_metrics},
    shutdown,
    telemetry::{self, TelemetryOptions},
};
use tidegate_worker::{Delivery, Job, JobContext, JobError, Verdict, Worker};
use tokio::net::TcpListener;

use database::Database;
pub use database::SCHEMA;
use plant::PlantPool;

/// Longer than any test: what is to end earlier is ended by somebody.
const FOR_EVER: Duration = Duration::from_secs(600);
const STATEMENT_TIMEOUT_MS: u64 = 5_000;

#[derive(Parser)]
#[command(name = "test-worker")]
pub struct Args {
    #[arg(long = "router", required = true)]
    routers: Vec<String>,
    #[arg(long = "controller")]
    controllers: Vec<String>,
    /// NAME=KIND
    #[arg(long = "queue", required = true, value_parser = queue)]
    queues: Vec<(String, Work)>,
    #[arg(long, default_value_t = 64)]
    slots: u32,
    #[arg(long, default_value_t = 25)]
    drain_seconds: u64,
    /// NAME=MS: of a queue of the kind `plant`
    #[arg(long = "statement-timeout-ms", value_parser = statement_timeout)]
    statement_timeouts: Vec<(String, u64)>,
    /// Of the kind `plant`: a failure is a failure, whoever is to blame, as in systems that do not ask
    #[arg(long)]
    blames_nobody: bool,
    /// What the kind `plant` works on, as the controller knows it
    #[arg(long, default_value = "pg")]
    resource: String,
    /// Where the kinds `postgres` and `plant` do their work
    #[arg(long, default_value = "")]
    postgres: String,
    /// The resource that it is, so that its pool follows the target; without it the pool has a session a slot
    #[arg(long)]
    pool: Option<String>,
    /// See `TargetPoolOptions::cut_off`
    #[arg(long)]
    cut_off_ms: Option<u64>,
    #[arg(long, default_value = "test-worker")]
    name: String,
    #[arg(long, default_value = "127.0.0.1:0")]
    metrics_listen: SocketAddr,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Work {
    /// Succeeds at once
    Noop,
    /// Sleeps, then succeeds
    Sleep,
    /// Works inside Postgres, see [`SCHEMA`]
    Postgres,
    /// Works inside Postgres on connections as many as the target, see [`crate::scenario`]
    Plant,
    /// Computes for ever on a thread of the runtime
    Loop,
    /// Holds a thread of the runtime for ever
    Block,
    Panic,
    /// Waits for something that never comes
    Never,
    /// Takes its whole process with it
    Abort,
    /// Goes on for ever on a thread of its own, whatever it is told
    Deaf,
    /// Makes spans with `tracing`, see [`traced`]
    Traced,
}

fn queue(text: &str) -> Result<(String, Work), String> {
    let (name, kind) = text.split_once('=').ok_or("NAME=KIND")?;
    Ok((name.to_owned(), clap::ValueEnum::from_str(kind, true)?))
}

fn statement_timeout(text: &str) -> Result<(String, u64), String> {
    let (name, ms) = text.split_once('=').ok_or("NAME=MS")?;
    Ok((
        name.to_owned(),
        ms.parse().map_err(|error| format!("{ms}: {error}"))?,
    ))
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Payload {
    ms: f64,
    /// Before the statement that takes so long, while a session is held.
    pause_ms: u64,
    /// Before that, without a session.
    off_ms: f64,
}

struct Handler {
    work: Work,
    database: Database,
    /// Of the kind `plant` only.
    pool: Option<PlantPool>,
}

#[async_trait]
impl Delivery for Handler {
    async fn deliver(&self, job: Job) -> Verdict {
        let payload: Payload = serde_json::from_slice(&job.payload).unwrap_or_default();
        let done = self.run(&job.context, &payload).await;
        done.map_or_else(Verdict::from, |()| Verdict::succeeded("\"done\""))
    }
}

impl Handler {
    async fn run(&self, context: &JobContext, payload: &Payload) -> Result<(), JobError> {
        let time = Duration::from_secs_f64((payload.off_ms + payload.ms).max(0.0) / 1_000.0);
        let pause = Duration::from_millis(payload.pause_ms);
        match self.work {
            Work::Noop => {}
            Work::Sleep => tokio::time::sleep(time).await,
            Work::Postgres => self.database.work(context, pause, time).await?,
            Work::Plant => {
                let pool = self
                    .pool
                    .as_ref()
                    .ok_or_else(|| JobError::failed("no --postgres"))?;
                pool.work(payload.off_ms, payload.ms).await?;
            }
            Work::Loop => loop {
                std::hint::spin_loop();
            },
            Work::Block => std::thread::sleep(FOR_EVER),
            Work::Panic => panic!("as it was told"),
            Work::Abort => std::process::abort(),
            Work::Never => std::future::pending().await,
            Work::Traced => traced::work(context).await?,
            Work::Deaf => context.run_blocking(|| std::thread::sleep(FOR_EVER)).await?,
        }
        Ok(())
    }
}

/// Runs until SIGTERM.
///
/// # Errors
/// As [`Worker::run_until`], and what kept it from starting.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let telemetry = telemetry::init("test-worker", TelemetryOptions::default())?;
    let shutdown = shutdown::token_on_signals();
    let listener = TcpListener::bind(args.metrics_listen).await?;
    let metrics = listener.local_addr()?;
    let serving = serve_metrics(
        listener,
        telemetry.metrics(),
        Readiness::new(),
        CancellationToken::new(),
    );
    tokio::spawn(serving);
    let database = Database::new(&args)?;
    let mut worker = Worker::connect(args.routers, args.controllers)
        .name(args.name.clone())
        .slots(args.slots)
        .drain_timeout(Duration::from_secs(args.drain_seconds))
        .on_connected(move |_| println!("ready role=worker metrics={metrics}"));
    if let (Some(resource), Some(pool)) = (args.pool, database.pool.clone()) {
        let uses = |queue: &&(String, Work)| matches!(queue.1, Work::Postgres);
        let queues = args.queues.iter().filter(uses).map(|(name, _)| name.clone());
        worker = worker.pool(resource, queues.collect::<Vec<_>>(), pool);
    }
    for (queue, work) in args.queues {
        let pool = match work {
            Work::Plant => {
                let of_queue = args.statement_timeouts.iter().find(|(name, _)| *name == queue);
                let timeout_ms = of_queue.map_or(STATEMENT_TIMEOUT_MS, |(_, ms)| *ms);
                let connect: PgConnectOptions = args.postgres.parse()?;
                let connect = connect.application_name(&args.name);
                Some(PlantPool::new(
                    connect,
                    args.slots,
                    timeout_ms,
                    args.blames_nobody,
                ))
            }
            _ => None,
        };
        if let Some(pool) = pool.clone() {
            worker = worker.pool(args.resource.clone(), [queue.clone()], pool);
        }
        let database = database.clone();
        let handler = Handler { work, database, pool };
        worker = worker.deliver(queue, handler);
    }
    worker.run_until(shutdown.cancelled_owned()).await?;
    Ok(())
}
