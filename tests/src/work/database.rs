//! Work on a database with few sessions, and a record there of what ran.

use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidegate_worker::{FailureClass, JobContext, JobError};

/// What the superuser makes first. A row in `runs` is one run of one job; `effects` has what a run did, by fence, so that
/// a run that was cut off cannot do it over a later one. A session in `work` is one at work.
pub const SCHEMA: &str = "\
    CREATE TABLE runs (job text, fence bigint, worker text, PRIMARY KEY (job, fence)); \
    CREATE FUNCTION work(ms bigint) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(ms / 1000.0)'; \
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;";

#[derive(Clone)]
pub(super) struct Database {
    /// `None`: no work of this kind was asked for.
    pool: Option<PgPool>,
    worker: String,
}

impl Database {
    /// Connects when there is work: one session a slot, so that the pool is never what limits.
    pub(super) fn connect(url: &str, worker: &str, slots: u32) -> anyhow::Result<Self> {
        let pool = match url {
            "" => None,
            url => {
                let options: PgConnectOptions = url.parse()?;
                let options = options.application_name(worker);
                Some(
                    PgPoolOptions::new()
                        .max_connections(slots)
                        .connect_lazy_with(options),
                )
            }
        };
        Ok(Self {
            pool,
            worker: worker.to_owned(),
        })
    }

    pub(super) async fn work(&self, context: &JobContext, time: Duration) -> Result<(), JobError> {
        let pool = self
            .pool
            .as_ref()
            .ok_or_else(|| JobError::failed("no --postgres"))?;
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let mut session = pool.acquire().await.map_err(classed)?;
        sqlx::query("INSERT INTO runs VALUES ($1, $2, $3)")
            .bind(context.job_id().to_string())
            .bind(i64::try_from(context.fence()).unwrap_or(i64::MAX))
            .bind(&self.worker)
            .execute(&mut *session)
            .await
            .map_err(classed)?;
        sqlx::query("SELECT work($1)")
            .bind(ms)
            .execute(&mut *session)
            .await
            .map_err(classed)?;
        Ok(())
    }
}

fn classed(error: sqlx::Error) -> JobError {
    let text = error.to_string();
    let full = text.contains("too many") || text.contains("remaining connection slots");
    let class = match &error {
        sqlx::Error::Io(_) => FailureClass::Down,
        sqlx::Error::PoolTimedOut => FailureClass::Overload,
        _ if full => FailureClass::Overload,
        _ => FailureClass::Error,
    };
    JobError::retry(text).with_class(class)
}
