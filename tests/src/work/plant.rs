//! Work on the plant of the scenarios: some time without a connection, then a statement that holds one.

use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidegate_worker::{
    FailureClass, JobError, PoolStats, PoolUsage,
    postgres::{TargetPool, TargetPoolOptions},
};

/// What a job waits for a connection before it counts as refused.
const ACQUIRE_MAX: Duration = Duration::from_secs(2);
/// An unused connection is closed after this, as [`TargetPool`] does it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// A queue's connections.
#[derive(Clone)]
pub(super) enum PlantPool {
    /// As wide as the queue's target at this worker; a full server is told from a broken one.
    Target(TargetPool),
    /// As users of a fixed number have it: a pool of that size, which asks a full server again until its time is up. A
    /// failure is a failure, and a wait is a wait: nothing is concluded from them.
    Fixed(PgPool),
}

impl PlantPool {
    pub(super) fn new(
        connect: PgConnectOptions,
        slots: u32,
        statement_timeout_ms: u64,
        blames_nobody: bool,
    ) -> Self {
        let connect = connect.options([("statement_timeout", statement_timeout_ms.to_string())]);
        if blames_nobody {
            let options = PgPoolOptions::new()
                .max_connections(slots)
                .acquire_timeout(ACQUIRE_MAX)
                .idle_timeout(IDLE_MAX);
            return Self::Fixed(options.connect_lazy_with(connect));
        }
        let options = TargetPoolOptions {
            ceiling: slots,
            acquire_timeout: ACQUIRE_MAX,
            ..TargetPoolOptions::default()
        };
        Self::Target(TargetPool::with(connect, options))
    }

    pub(super) async fn work(&self, off_ms: f64, ms: f64) -> Result<(), JobError> {
        tokio::time::sleep(Duration::from_secs_f64(off_ms.max(0.0) / 1_000.0)).await;
        self.hold(ms).await.map_err(|error| {
            let error = JobError::from(error);
            match self {
                Self::Target(_) => error,
                Self::Fixed(_) => error.with_class(FailureClass::Error),
            }
        })
    }

    async fn hold(&self, ms: f64) -> Result<(), sqlx::Error> {
        let work = sqlx::query("SELECT work($1)").bind(ms);
        match self {
            Self::Target(pool) => work.execute(&mut *pool.acquire().await?).await,
            Self::Fixed(pool) => work.execute(&mut *pool.acquire().await?).await,
        }
        .map(drop)
    }
}

impl PoolStats for PlantPool {
    fn usage(&self) -> PoolUsage {
        match self {
            Self::Target(pool) => pool.usage(),
            Self::Fixed(pool) => {
                let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
                PoolUsage {
                    in_use: pool.size().saturating_sub(idle),
                    idle,
                    waiters: 0,
                    size: pool.options().get_max_connections(),
                }
            }
        }
    }

    fn on_target(&self, jobs: u32) {
        if let Self::Target(pool) = self {
            pool.on_target(jobs);
        }
    }
}
