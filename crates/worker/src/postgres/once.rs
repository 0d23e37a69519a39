//! An effect that happens exactly once per job.
//!
//! 1. **Claim**, committed by itself: the job's row gets the attempt's fence, if that is higher. From here on an older
//!    attempt is refused, whatever becomes of this one. If the row says that the effect is done, its result is the answer.
//! 2. In one transaction (read committed): lock the row, look again, run the effect, write its result, commit. The lock
//!    lets attempts go one after the other, so what the row says about the fence is still true at the commit.
//!
//! The statements of the first step are sent as text and not prepared, because they stand outside of a transaction: a
//! pooler in transaction mode may send each message to another session. What they contain is of a narrow alphabet.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row, postgres::PgRow};
use tidegate_protocol::domain::{InvalidQueueName, JobId, QueueName};

use super::Connections;
use crate::{JobContext, JobError};

/// A transaction that does nothing for longer than this is ended by the server: of a process that stands still, say. Until
/// then the next attempt waits.
const BEGIN: &str =
    "begin isolation level read committed; set local idle_in_transaction_session_timeout = '30s'";
/// Of [`JobContext::once`]. No name that can be given.
const UNNAMED: &str = "";
const UNDEFINED_TABLE: &str = "42P01";

/// Why an effect has not happened, or its result is not known.
///
/// Through `?` each says what follows: what the effect answered, by its own word; an attempt that is not the newest, or was
/// told to stop, is released; everything else is a retry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// Nothing was changed.
    #[error("a newer attempt of this job (fence {newer}) came before this one (fence {fence})")]
    Superseded { fence: u64, newer: u64 },
    /// Nothing was changed.
    #[error("the attempt was told to stop before its effect was committed")]
    Cancelled,
    /// The effect itself failed, and was rolled back.
    #[error("{}", .0.text())]
    Effect(JobError),
    #[error(
        "there is no table tidegate_once: call tidegate_worker::postgres::create_ledger once, or put its LEDGER_SQL into \
         your migrations"
    )]
    NoLedger,
    #[error("invalid name of an effect")]
    InvalidName(#[source] InvalidQueueName),
    /// Nothing was changed, if it could not be kept; to read it again makes no sense if it is of another type by now.
    #[error("the effect's result is no JSON that can be kept or read")]
    Result(#[source] serde_json::Error),
    /// If this came from the commit, the effect may have happened; the next attempt finds out.
    #[error("the ledger of effects")]
    Database(#[source] Error),
}

impl OnceError {
    /// What follows, where it is not a retry.
    pub(crate) fn says(&self) -> Option<JobError> {
        match self {
            Self::Effect(error) => Some(error.clone()),
            Self::Superseded { .. } | Self::Cancelled => Some(JobError::released(self)),
            _ => None,
        }
    }
}

impl From<Error> for OnceError {
    fn from(error: Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some(UNDEFINED_TABLE) => Self::NoLedger,
            _ => Self::Database(error),
        }
    }
}

impl JobContext {
    /// Runs an effect on the database exactly once per job: if an earlier attempt has committed it, the result that it had
    /// is given and the effect does not run.
    ///
    /// ```no_run
    /// # use tidegate_worker::{JobContext, JobError, Payload, State};
    /// # #[derive(serde::Deserialize)] struct Payment { account: i64, cents: i64 }
    /// async fn pay(ctx: JobContext, State(pool): State<sqlx::PgPool>, payment: Payload<Payment>) -> Result<i64, JobError> {
    ///     let balance = ctx.once(&pool, async |db| {
    ///         let balance = sqlx::query_scalar("update account set cents = cents - $2 where id = $1 returning cents")
    ///             .bind(payment.account)
    ///             .bind(payment.cents)
    ///             .fetch_one(&mut *db)
    ///             .await?;
    ///         Ok(balance)
    ///     });
    ///     Ok(balance.await?)
    /// }
    /// ```
    ///
    /// **Limits.** Only what is done on the connection that the effect gets is undone and done once: not a message that it
    /// sends, not what it does on another connection. It must not commit. It holds a row of the ledger for as long as it
    /// runs, so that a second attempt waits for it; keep it short (the server ends it after 30 s without a statement).
    /// It lasts as long as the ledger's entry: see [`super::trim_ledger`]. One effect a job: for more there is
    /// [`Self::once_named`]. Isolation is read committed. Behind PgBouncer in transaction
    /// mode (before 1.21) make the effect's own statements `.persistent(false)`: a named one is not known to the next
    /// session. (`statement_cache_capacity(0)` does not help: sqlx names them all the same.)
    ///
    /// # Errors
    /// See [`OnceError`]. Nothing was changed unless it says so.
    pub async fn once<P, T, F>(&self, pool: &P, effect: F) -> Result<T, OnceError>
    where
        P: Connections,
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, JobError>,
    {
        self.run_once(UNNAMED, pool, effect).await
    }

    /// As [`Self::once`], for a job with several effects: each has a name (`[a-z0-9._-]{1,100}`).
    ///
    /// # Errors
    /// As [`Self::once`].
    pub async fn once_named<P, T, F>(&self, name: &str, pool: &P, effect: F) -> Result<T, OnceError>
    where
        P: Connections,
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, JobError>,
    {
        let name: QueueName = name.parse().map_err(OnceError::InvalidName)?;
        self.run_once(name.as_str(), pool, effect).await
    }

    async fn run_once<P, T, F>(&self, name: &str, pool: &P, effect: F) -> Result<T, OnceError>
    where
        P: Connections,
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, JobError>,
    {
        let entry = Entry {
            job_id: self.job_id(),
            effect: name,
            fence: self.fence(),
        };
        let mut connection = pool.connection().await?;
        if let Some(result) = entry.seen(&mut connection, entry.claim()).await? {
            return serde_json::from_str(&result).map_err(OnceError::Result);
        }
        let mut transaction = connection.begin_with(BEGIN).await?;
        if let Some(result) = entry.seen(&mut transaction, entry.lock()).await? {
            return serde_json::from_str(&result).map_err(OnceError::Result);
        }
        // Whatever ends this early drops the transaction, which rolls it back.
        let value = effect(&mut *transaction).await.map_err(OnceError::Effect)?;
        let result = serde_json::to_string(&value).map_err(OnceError::Result)?;
        if self.is_cancelled() {
            return Err(OnceError::Cancelled);
        }
        entry.done(&mut transaction, &result).await?;
        transaction.commit().await?;
        Ok(value)
    }
}

/// The row of one effect, as one attempt sees it.
struct Entry<'a> {
    job_id: &'a JobId,
    effect: &'a str,
    fence: u64,
}

impl Entry<'_> {
    fn claim(&self) -> String {
        let Self {
            job_id,
            effect,
            fence,
        } = self;
        format!(
            "insert into tidegate_once as o (job_id, effect, fence) values ('{job_id}', '{effect}', {fence}) \
             on conflict (job_id, effect) do update set fence = greatest(o.fence, excluded.fence) \
             returning fence, done, result::text"
        )
    }

    fn lock(&self) -> String {
        let Self { job_id, effect, .. } = self;
        format!(
            "select fence, done, result::text from tidegate_once \
             where job_id = '{job_id}' and effect = '{effect}' for update"
        )
    }

    /// What `sql` tells of the row: the result, if the effect is done.
    async fn seen(&self, connection: &mut PgConnection, sql: String) -> Result<Option<String>, OnceError> {
        // Job ids and names are made of `[a-z0-9._:-]`, fences of digits.
        let row: PgRow = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
        let newer = u64::try_from(row.try_get::<i64, _>("fence")?).unwrap_or_default();
        if newer > self.fence {
            let fence = self.fence;
            return Err(OnceError::Superseded { fence, newer });
        }
        let is_done: bool = row.try_get("done")?;
        let result: Option<String> = row.try_get("result")?;
        Ok(is_done.then(|| result.unwrap_or_else(|| "null".to_owned())))
    }

    async fn done(&self, connection: &mut PgConnection, result: &str) -> Result<(), OnceError> {
        // Inside the transaction, so an unnamed statement stays on its session.
        let sql = "update tidegate_once set done = true, result = $3::json where job_id = $1 and effect = $2";
        let query = sqlx::query(sql).persistent(false);
        let query = query.bind(self.job_id.to_string()).bind(self.effect).bind(result);
        query.execute(connection).await?;
        Ok(())
    }
}
