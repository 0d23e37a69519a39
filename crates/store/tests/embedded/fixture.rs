//! Jobs and calls, short to write.

use std::{future::Future, path::Path, time::Duration};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tidegate_protocol::domain::{
    Incarnation, Job, JobId, LeaseRef, NewJob, Outcome, Policy, QueueName, Session, SettleResult, Settlement,
    Submitted, Version,
};
use tidegate_store::{
    JobStore, LeaseRequest, OpenError, QueueRecord, QueueStats, SettleItem, StoreResult, Want,
    sqlite::{SqliteOptions, SqliteStore},
};
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, SqliteOptions::default()).await
}

/// Somebody else on a file, or its maker.
pub async fn stranger(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

pub async fn execute(connection: &mut SqliteConnection, text: &str) {
    let statements = sqlx::raw_sql(AssertSqlSafe(text.to_owned()));
    statements.execute(connection).await.unwrap();
}

/// Opens the file, executes and closes it.
pub async fn execute_on(path: &Path, text: &str) {
    let mut connection = stranger(path).await;
    execute(&mut connection, text).await;
    connection.close().await.unwrap();
}

pub fn queue() -> QueueName {
    "email".parse().unwrap()
}

pub fn job(payload: impl Into<Bytes>) -> NewJob {
    let id = JobId {
        queue: queue(),
        shard: 0,
        local: Uuid::now_v7(),
    };
    NewJob::new(id, payload)
}

/// A policy under which nothing is forgotten and no lease ends while a test runs.
pub async fn keep_everything(store: &impl JobStore) {
    let policy = Policy {
        keep_finished: 1_000_000,
        lease_ttl_ms: 600_000,
        ..Policy::default()
    };
    let record = QueueRecord {
        queue: queue(),
        policy,
        version: Version::default(),
    };
    assert!(store.put_queue(vec![record]).await.remove(0).unwrap());
}

pub async fn submit(store: &impl JobStore, job: NewJob) -> StoreResult<Submitted> {
    store.submit(vec![job]).await.remove(0)
}

/// A thousand at a time; all must be taken.
pub async fn submit_all(store: &impl JobStore, jobs: Vec<NewJob>) {
    for batch in jobs.chunks(1_000) {
        let answers = store.submit(batch.to_vec()).await;
        assert!(answers.iter().all(Result::is_ok));
    }
}

pub async fn lease(store: &impl JobStore, max: u32) -> StoreResult<Vec<LeaseRef>> {
    let want = Want {
        session: Session(Uuid::from_u128(1)),
        incarnation: Incarnation(Uuid::from_u128(1)),
        max,
    };
    let request = LeaseRequest {
        queue: queue(),
        wants: vec![want],
    };
    let grants = store.lease(vec![request]).await.remove(0)?.grants;
    let held = |job: Job| LeaseRef {
        id: job.id,
        fence: job.fence,
    };
    Ok(grants.into_iter().map(|grant| held(grant.job)).collect())
}

pub async fn settle(store: &impl JobStore, lease: &LeaseRef) -> StoreResult<SettleResult> {
    settle_with(store, lease, "done").await
}

pub async fn settle_with(
    store: &impl JobStore,
    lease: &LeaseRef,
    result: impl Into<Bytes>,
) -> StoreResult<SettleResult> {
    let settlement = Settlement {
        lease: lease.clone(),
        outcome: Outcome::Succeeded {
            result: result.into(),
        },
        class: None,
        run_ms: 1,
    };
    store
        .settle(vec![SettleItem {
            settlement,
            random: 0.5,
        }])
        .await
        .remove(0)
}

pub async fn get(store: &impl JobStore, id: &JobId) -> Option<Job> {
    store.get(vec![id.clone()]).await.remove(0).unwrap()
}

pub async fn stats(store: &impl JobStore) -> QueueStats {
    store.stats(vec![queue()]).await.remove(0).unwrap().unwrap()
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
