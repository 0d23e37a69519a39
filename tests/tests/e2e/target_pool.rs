//! `TargetPool` against a real Postgres: as many connections as the target, none when nobody needs one, and errors that
//! say whether the database is full or away.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tidegate_tests::{
    Cluster, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Process, Runs, Sandbox, eventually,
    sampler,
};
use tidegate_worker::{
    FailureClass, JobError, PoolStats, Verdict,
    postgres::{TargetPool, TargetPoolOptions},
};

use crate::producer::{new_job, try_batch};

const SOON: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

fn pool(url: &str, acquire_ms: u64) -> TargetPool {
    let options = TargetPoolOptions {
        ceiling: 20,
        acquire_timeout: Duration::from_millis(acquire_ms),
        ..TargetPoolOptions::default()
    };
    TargetPool::with(url.parse().expect("a URL"), options)
}

const SESSIONS: &str = "select count(*) from pg_stat_activity where usename = 'app' and state is not null";

/// Sessions of the role, as the server sees them.
async fn sessions(postgres: &Postgres<'_>) -> i64 {
    postgres.number(SESSIONS).await
}

async fn class_of(pool: &TargetPool, sql: &'static str) -> (Option<FailureClass>, String) {
    let run = async {
        let mut connection = pool.acquire().await?;
        sqlx::raw_sql(sql).execute(&mut *connection).await?;
        Ok::<(), sqlx::Error>(())
    };
    let error = run.await.expect_err("it fails");
    let verdict = Verdict::from(JobError::from(error));
    (verdict.class, verdict.outcome.error().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_as_many_connections_as_the_target() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = pool(&postgres.role("app", 20).await, 10_000);
    assert_eq!(sessions(&postgres).await, 0, "none before one is needed");
    for target in [6, 2, 9] {
        pool.set_target(target);
        eventually(SOON, "what is too many is closed", async || {
            (sessions(&postgres).await <= i64::from(target)).then_some(())
        })
        .await;
        let run = join_all((0..40).map(|_| async {
            let mut connection = pool.acquire().await.expect("in time");
            sqlx::raw_sql("select pg_sleep(0.05)")
                .execute(&mut *connection)
                .await
                .expect("it sleeps");
        }));
        let mut most = 0;
        let watch = async {
            loop {
                most = most.max(sessions(&postgres).await);
                let usage = pool.usage();
                assert!(usage.in_use + usage.idle <= usage.size, "{usage:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = run => {}
            () = watch => {}
        }
        assert_eq!(most, i64::from(target), "all of it is used, and no more");
    }
    pool.set_target(1);
    let lowered = Instant::now();
    eventually(SOON, "one session is left", async || {
        (sessions(&postgres).await <= 1).then_some(())
    })
    .await;
    assert!(
        lowered.elapsed() < Duration::from_secs(3),
        "what is idle is closed at once"
    );
    // The worker looks ten times a second.
    eventually(Duration::from_secs(10), "none is left", async || {
        (pool.usage().idle == 0 && sessions(&postgres).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_full_use_goes_on_with_the_connections_that_it_has() {
    const ROUNDS: usize = 50;
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = pool(&postgres.role("app", 20).await, 10_000);
    pool.set_target(3);
    let users = (0..5).map(|_| async {
        let mut seen = BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut connection = pool.acquire().await.expect("in time");
            let session = sqlx::query_scalar("select pg_backend_pid()");
            seen.insert(session.fetch_one(&mut *connection).await.expect("it answers"));
        }
        seen
    });
    let sessions: BTreeSet<i32> = join_all(users).await.into_iter().flatten().collect();
    assert!(
        sessions.len() <= 3,
        "{} sessions for {} uses",
        sessions.len(),
        5 * ROUNDS
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_is_seen_and_one_that_waits_too_long_is_overload() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = pool(&postgres.role("app", 20).await, 300);
    let held = pool.acquire().await.expect("there is room for one job");
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { class_of(&pool, "select 1").await }
    });
    eventually(SOON, "one waits", async || {
        (pool.usage().waiters == 1).then_some(())
    })
    .await;
    let usage = pool.usage();
    assert_eq!((usage.in_use, usage.idle, usage.size), (1, 0, 1));
    let (class, text) = waiting.await.expect("joined");
    assert_eq!(class, Some(FailureClass::Overload), "{text}");
    drop(held);
    eventually(SOON, "it is back", async || {
        (pool.usage().idle == 1).then_some(())
    })
    .await;
    assert_eq!(pool.usage().waiters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_has_a_class() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let app = postgres.role("app", 1).await;
    let (one, other) = (pool(&app, 300), pool(&app, 300));
    let stranger = pool(&postgres.role_url("stranger"), 300);
    let server = postgres.url();
    let (server, _) = server.rsplit_once('/').expect("it names a database");
    let nowhere = pool(&format!("{server}/nowhere"), 300);
    let held = one.acquire().await.expect("the one connection of the role");
    for (pool, sql, class, text) in [
        (
            &other,
            "select 1",
            FailureClass::Overload,
            "too many connections for role",
        ),
        (&stranger, "select 1", FailureClass::Down, "does not exist"),
        (&nowhere, "select 1", FailureClass::Down, "does not exist"),
    ] {
        let (got, error) = class_of(pool, sql).await;
        assert!(got == Some(class) && error.contains(text), "{got:?} {error}");
    }
    drop(held);
    for (sql, class, text) in [
        (
            "set statement_timeout = 50; select pg_sleep(5)",
            FailureClass::Overload,
            "statement timeout",
        ),
        (
            "select pg_cancel_backend(pg_backend_pid())",
            FailureClass::Error,
            "user request",
        ),
        ("select no_such_column", FailureClass::Job, "does not exist"),
        (
            "select pg_terminate_backend(pg_backend_pid())",
            FailureClass::Down,
            "administrator command",
        ),
    ] {
        let (got, error) = class_of(&one, sql).await;
        assert!(got == Some(class) && error.contains(text), "{got:?} {error}");
    }
    postgres.shutdown().await;
    let (got, error) = class_of(&one, "select 1").await;
    assert_eq!(got, Some(FailureClass::Down), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pgbouncer_says_has_a_class() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let options = PgBouncerOptions::default()
        .pool_size(1)
        .with("query_wait_timeout", "1")
        .with("max_client_conn", "3");
    let pooler = PgBouncer::start(&sandbox, &postgres, options).await;
    let pool = pool(&pooler.role_url("postgres"), 300);
    pool.set_target(10);
    let mut holder = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("begin")
        .execute(&mut *holder)
        .await
        .expect("it has the server's one session");
    let (class, error) = class_of(&pool, "select 1").await;
    assert!(
        class == Some(FailureClass::Overload) && error.contains("query_wait_timeout"),
        "{class:?} {error}"
    );
    let more = join_all((0..5).map(|_| pool.acquire())).await;
    let refused = more
        .into_iter()
        .find_map(Result::err)
        .expect("three clients, no more");
    let verdict = Verdict::from(JobError::from(refused));
    assert_eq!(verdict.class, Some(FailureClass::Overload), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropped_handler_leaves_behind_is_gone_at_once() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    postgres
        .must("create table item (id int); insert into item values (1); grant all on item to public")
        .await;
    let pool = pool(&postgres.role("app", 20).await, 5_000);
    pool.set_target(2);
    for statement in [
        "update item set id = id",
        "update item set id = id; select pg_sleep(60)",
    ] {
        let handler = async {
            use sqlx::Connection;
            let mut connection = pool.acquire().await.expect("a connection");
            let mut transaction = connection.begin().await.expect("begun");
            sqlx::raw_sql(statement)
                .execute(&mut *transaction)
                .await
                .expect("locked");
            std::future::pending::<()>().await;
        };
        let stopped = tokio::time::timeout(Duration::from_millis(300), handler).await;
        assert!(stopped.is_err(), "it was dropped");
        let mut next = pool.acquire().await.expect("a connection");
        let update = sqlx::raw_sql("update item set id = id").execute(&mut *next);
        tokio::time::timeout(SOON, update)
            .await
            .expect("no lock is left")
            .expect("updated");
    }
    assert!(pool.usage().in_use <= 1, "places come back");
}

/// Always `max`, so that the numbers are known.
fn twelve_then(max: u32) -> String {
    format!(
        "[resources.pg-main]\ncapacity = 40\n\
         [queues.pg]\nstrategy = \"fixed\"\nmax = {max}\ncosts = {{ pg-main = 1 }}\n"
    )
}

/// Two workers and a controller: what it gives the queue is how many sessions the database sees, idle ones included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pools_of_a_fleet_have_as_many_sessions_as_the_controller_gives() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::builder()
        .postgres(PostgresOptions::default(), 50)
        .policies(twelve_then(12))
        .controllers(1, "[controller]\ntick = \"1s\"\n")
        .workers(2, Runs::work(&[("pg", "postgres")]))
        .worker_args(&["--pool", "pg-main"])
        .start(&sandbox)
        .await;
    let postgres = cluster.postgres.as_ref().expect("it was asked for");
    for _ in 0..2 {
        let jobs: Vec<_> = (0..750)
            .map(|_| new_job("pg", "{\"ms\":50}".to_owned()))
            .collect();
        try_batch(cluster.direct_urls().remove(0), &jobs)
            .await
            .expect("acknowledged");
    }
    eventually(PATIENCE, "all twelve sessions are there", async || {
        (postgres.number(SESSIONS).await == 12).then_some(())
    })
    .await;
    let before = sampler::number(&postgres.url(), SESSIONS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(before.stop().await.never_above(12).highest(), Some(12));

    let file = sandbox.write("four.toml", &twelve_then(4));
    let url = cluster.controllers[0].grpc_url();
    let apply = ["control", "policy", "apply", &file, "--controller", &url];
    let applied = Process::tidegate(&sandbox, apply, &[]);
    assert_eq!(applied.wait_exit(PATIENCE).await, 0, "{}", applied.tail());
    eventually(PATIENCE, "four are left", async || {
        (postgres.number(SESSIONS).await <= 4).then_some(())
    })
    .await;
    let after = sampler::number(&postgres.url(), SESSIONS);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        after.stop().await.never_above(4).highest(),
        Some(4),
        "and they work"
    );

    let client = cluster.client();
    eventually(PATIENCE, "every job succeeds", async || {
        let queue = client.get_queue("pg").await.ok()?;
        (queue.succeeded_total == 1_500).then_some(())
    })
    .await;
    eventually(Duration::from_secs(15), "none is left", async || {
        (postgres.number(SESSIONS).await == 0).then_some(())
    })
    .await;
}
