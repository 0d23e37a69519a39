//! The application: two workers on the library, whose jobs hold a connection of the database for a while, and a record
//! of what ran.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use tidegate_chassis::telemetry::{self, LogOutput, Telemetry, TelemetryOptions};
use tidegate_worker::{
    JobContext, JobError, Payload, Queue, State, Worker,
    postgres::{TargetPool, TargetPoolOptions},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    ground::{Ground, RESOURCE},
    offer::Offered,
    plan::{Kind, Plan},
};
use crate::START_TIMEOUT;

/// Two, so that targets are divided.
const WORKERS: usize = 2;
/// A ceiling for each; how many run is the controller's word.
const SLOTS: u32 = 32;
/// Marks our statements among those of a database that others use, too. See [`super::watch`].
pub const MARK: &str = "tidegate-load";

pub const SHORT: Queue<Work> = Queue::new(Kind::Short.queue());
pub const LONG: Queue<Work> = Queue::new(Kind::Long.queue());

/// Its place among the arrivals, and how long the database works on it.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Work {
    pub number: usize,
    pub ms: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    pub attempts: u32,
    pub successes: u32,
    /// End of the first success.
    pub done: Option<Instant>,
}

/// Of each arrival, by its number.
#[derive(Clone)]
pub struct Record(Arc<Mutex<Vec<Ran>>>);

impl Record {
    fn new(arrivals: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Ran::default(); arrivals])))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ran>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, number: usize, note: impl FnOnce(&mut Ran)) {
        if let Some(ran) = self.lock().get_mut(number) {
            note(ran);
        }
    }

    /// Waits until every admitted job is done, or for so long. What ran, then.
    pub async fn drained(&self, offered: &[Offered], patience: Duration) -> Vec<Ran> {
        let deadline = Instant::now() + patience;
        let is_open = |ran: &[Ran]| {
            let mut pairs = offered.iter().zip(ran);
            pairs.any(|(offered, ran)| offered.is_admitted() && ran.done.is_none())
        };
        loop {
            let ran = self.lock().clone();
            if !is_open(&ran) || Instant::now() > deadline {
                return ran;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[derive(Clone)]
struct Downstream {
    pool: TargetPool,
    record: Record,
    slow: Arc<AtomicU32>,
}

async fn work(
    context: JobContext,
    State(downstream): State<Downstream>,
    work: Payload<Work>,
) -> Result<(), JobError> {
    downstream.record.note(work.number, |ran| {
        ran.attempts = ran.attempts.max(context.attempt())
    });
    let ms = work.ms * u64::from(downstream.slow.load(Ordering::Relaxed));
    // As text: a pooler may send a prepared statement to another session.
    let statement = format!("SELECT pg_sleep({}) /* {MARK} */", ms as f64 / 1e3);
    let mut connection = downstream.pool.acquire().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut *connection)
        .await?;
    drop(connection);
    downstream.record.note(work.number, |ran| {
        ran.successes += 1;
        ran.done.get_or_insert_with(Instant::now);
    });
    Ok(())
}

pub struct Application {
    pub record: Record,
    /// Times as long as undisturbed that the database works.
    pub slow: Arc<AtomicU32>,
    telemetry: Telemetry,
    stop: watch::Sender<bool>,
    workers: JoinSet<anyhow::Result<()>>,
}

impl Application {
    /// Both workers are taken in when it returns.
    pub async fn start(ground: &Ground<'_>, plan: &Plan) -> anyhow::Result<Self> {
        let options = TelemetryOptions {
            output: LogOutput::Stderr,
            // A statement of a slow database is no news here.
            default_filter: Some("warn,sqlx=error".to_owned()),
            ..TelemetryOptions::default()
        };
        let telemetry = telemetry::init("tidegate-load", options)?;
        let record = Record::new(plan.arrivals().len());
        let slow = Arc::new(AtomicU32::new(1));
        let (stop, _) = watch::channel(false);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let options: PgConnectOptions = ground.postgres().parse().context("--postgres")?;
            let options = options.application_name(&format!("{MARK}-{number}"));
            let pool = TargetPool::with(options, TargetPoolOptions::default());
            let downstream = Downstream {
                pool: pool.clone(),
                record: record.clone(),
                slow: slow.clone(),
            };
            let (connected, taken_in) = oneshot::channel();
            let worker = Worker::connect(ground.routers().to_vec(), vec![ground.controller().to_owned()])
                .name(format!("{MARK}-{number}"))
                .slots(SLOTS)
                .pool(RESOURCE, Kind::ALL.map(Kind::queue), pool)
                .state(downstream)
                .handle(SHORT, work)
                .handle(LONG, work)
                .on_connected(move |_| {
                    let _ = connected.send(()); // who has stopped waiting has an error of its own
                });
            let mut stopped = stop.subscribe();
            workers.spawn(async move {
                let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
                worker.run_until(stopped).await.context("the worker ended")
            });
            tokio::select! {
                taken_in = tokio::time::timeout(START_TIMEOUT, taken_in) => {
                    taken_in.context("no router takes a worker in")?.context("the worker ended")?;
                }
                Some(ended) = workers.join_next() => ended??,
            }
        }
        Ok(Self {
            record,
            slow,
            telemetry,
            stop,
            workers,
        })
    }

    /// The text of its own metrics page.
    pub fn metrics(&self) -> String {
        self.telemetry.render()
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}
