//! Work on a database with few sessions, and a record there of what ran.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tidegate_worker::{
    JobContext, JobError,
    postgres::{TargetPool, TargetPoolOptions},
};

use super::Args;

/// What the superuser makes first. A row in `runs` is one run of one job; `effects` has what a run did, by fence, so that
/// a run that was cut off cannot do it over a later one. A session in `work` is one at work.
pub const SCHEMA: &str = "\
    CREATE TABLE runs (job text, fence bigint, worker text, PRIMARY KEY (job, fence)); \
    CREATE FUNCTION work(ms bigint) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(ms / 1000.0)'; \
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;";

#[derive(Clone)]
pub(super) struct Database {
    /// `None`: no work of this kind was asked for.
    pub(super) pool: Option<TargetPool>,
    worker: String,
}

impl Database {
    /// Connects when there is work.
    pub(super) fn new(args: &Args) -> anyhow::Result<Self> {
        let pool = match args.postgres.as_str() {
            "" => None,
            url => Some(pool(url, args)?),
        };
        Ok(Self {
            pool,
            worker: args.name.clone(),
        })
    }

    pub(super) async fn work(
        &self,
        context: &JobContext,
        pause: Duration,
        time: Duration,
    ) -> Result<(), JobError> {
        let pool = self
            .pool
            .as_ref()
            .ok_or_else(|| JobError::failed("no --postgres"))?;
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let mut session = pool.acquire().await?;
        sqlx::query("INSERT INTO runs VALUES ($1, $2, $3)")
            .bind(context.job_id().to_string())
            .bind(i64::try_from(context.fence()).unwrap_or(i64::MAX))
            .bind(&self.worker)
            .persistent(false)
            .execute(&mut *session)
            .await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        sqlx::query("SELECT work($1)")
            .bind(ms)
            .persistent(false)
            .execute(&mut *session)
            .await?;
        Ok(())
    }
}

fn pool(url: &str, args: &Args) -> anyhow::Result<TargetPool> {
    let connect: PgConnectOptions = url.parse()?;
    let options = TargetPoolOptions {
        ceiling: args.slots,
        cut_off: args.cut_off_ms.map(Duration::from_millis),
        ..TargetPoolOptions::default()
    };
    let pool = TargetPool::with(connect.application_name(&args.name), options);
    if args.pool.is_none() {
        // It is never what limits.
        pool.set_target(args.slots);
    }
    Ok(pool)
}
