//! Work on the plant of the scenarios: some time without a connection, then a statement that holds one.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tidegate_worker::{
    FailureClass, JobError, PoolStats, PoolUsage,
    postgres::{TargetPool, TargetPoolOptions},
};

/// What a job waits for a connection before it counts as refused.
const ACQUIRE_MAX: Duration = Duration::from_secs(2);

/// A queue's pool, as wide as the queue's target at this worker.
#[derive(Clone)]
pub(super) struct PlantPool {
    pool: TargetPool,
    /// A failure is a failure, and a wait is a wait: nothing is concluded from them.
    blames_nobody: bool,
}

impl PlantPool {
    pub(super) fn new(
        connect: PgConnectOptions,
        slots: u32,
        statement_timeout_ms: u64,
        blames_nobody: bool,
    ) -> Self {
        let connect = connect.options([("statement_timeout", statement_timeout_ms.to_string())]);
        let options = TargetPoolOptions {
            ceiling: slots,
            acquire_timeout: ACQUIRE_MAX,
            ..TargetPoolOptions::default()
        };
        Self {
            pool: TargetPool::with(connect, options),
            blames_nobody,
        }
    }

    pub(super) async fn work(&self, off_ms: f64, ms: f64) -> Result<(), JobError> {
        tokio::time::sleep(Duration::from_secs_f64(off_ms.max(0.0) / 1_000.0)).await;
        self.hold(ms).await.map_err(|error| {
            let error = JobError::from(error);
            match self.blames_nobody {
                true => error.with_class(FailureClass::Error),
                false => error,
            }
        })
    }

    async fn hold(&self, ms: f64) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let work = sqlx::query("SELECT work($1)").bind(ms);
        work.execute(&mut *connection).await.map(drop)
    }
}

impl PoolStats for PlantPool {
    fn usage(&self) -> PoolUsage {
        let usage = self.pool.usage();
        match self.blames_nobody {
            true => PoolUsage { waiters: 0, ..usage },
            false => usage,
        }
    }

    fn on_target(&self, jobs: u32) {
        self.pool.on_target(jobs);
    }
}
