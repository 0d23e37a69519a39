//! `once()` against a real Postgres: an effect happens exactly once per job, whoever dies, lags or races.

use std::{process::Command, sync::Arc, time::Duration};

use futures_util::future::join_all;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tidegate_tests::{PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Process, Sandbox};
use tidegate_worker::{
    JobContext, JobError, Outcome, Verdict,
    postgres::{OnceError, create_ledger, trim_ledger},
};
use tokio::sync::Notify;

const SOON: Duration = Duration::from_secs(10);
/// Tells this program, started once more, where to do an effect and die.
const CHILD_URL: &str = "TIDEGATE_TEST_ONCE_URL";

fn attempt(job: u32, fence: u64) -> JobContext {
    let id = format!("pay:0:{job:032x}").parse().expect("valid");
    JobContext::for_test_with_fence(id, fence)
}

async fn connect(url: &str) -> PgPool {
    let options = url.parse::<sqlx::postgres::PgConnectOptions>().expect("a URL");
    let pool = PgPoolOptions::new().max_connections(20);
    pool.connect_with(options).await.expect("it answers")
}

async fn ready(postgres: &Postgres<'_>) -> PgPool {
    let pool = connect(&postgres.url()).await;
    create_ledger(&pool).await.expect("made");
    postgres.must("create table payment (job text)").await;
    pool
}

/// The effect: one row; its result is how many rows there are. Not kept as prepared statements, as PgBouncer asks for.
async fn pay(ctx: &JobContext, pool: &PgPool) -> Result<i64, OnceError> {
    let job = ctx.job_id().to_string();
    ctx.once(pool, async |db| {
        let insert = sqlx::query("insert into payment values ($1)").persistent(false);
        insert.bind(&job).execute(&mut *db).await?;
        let count = sqlx::query_scalar("select count(*) from payment").persistent(false);
        Ok(count.fetch_one(&mut *db).await?)
    })
    .await
}

async fn payments(postgres: &Postgres<'_>) -> i64 {
    postgres.number("select count(*) from payment").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_finds_the_result_of_the_first() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = connect(&postgres.url()).await;
    let missing = pay(&attempt(1, 1), &pool).await;
    assert!(matches!(missing, Err(OnceError::NoLedger)), "{missing:?}");
    let (a, b) = tokio::join!(create_ledger(&pool), create_ledger(&pool));
    a.and(b).expect("any number may make it at once");
    postgres.must("create table payment (job text)").await;

    let failing = attempt(1, 1);
    let failed = failing
        .once(&pool, async |db| {
            sqlx::query("insert into payment values ('x')")
                .execute(&mut *db)
                .await?;
            Err::<i64, _>(JobError::failed("no such account"))
        })
        .await
        .expect_err("the effect failed");
    let outcome = Verdict::from(JobError::from(failed)).outcome;
    assert_eq!(
        outcome,
        Outcome::Failed {
            error: "no such account".into()
        }
    );
    assert_eq!(payments(&postgres).await, 0, "rolled back");

    assert_eq!(pay(&attempt(1, 2), &pool).await.expect("done"), 1);
    assert_eq!(pay(&attempt(2, 3), &pool).await.expect("another job"), 2);
    assert_eq!(
        pay(&attempt(1, 4), &pool).await.expect("found"),
        1,
        "what it was then"
    );
    let again = attempt(1, 4);
    let receipt = again
        .once_named("receipt", &pool, async |_| Ok("sent".to_owned()))
        .await;
    assert_eq!(receipt.expect("an effect of its own"), "sent");
    let bad = again.once_named("No Name", &pool, async |_| Ok(())).await;
    assert!(matches!(bad, Err(OnceError::InvalidName(_))), "{bad:?}");
    assert_eq!(payments(&postgres).await, 2);

    postgres
        .must("update tidegate_once set created_at = now() - interval '8 days' where effect = ''")
        .await;
    let trimmed = trim_ledger(&pool, Duration::from_secs(7 * 86_400)).await;
    assert_eq!(trimmed.expect("trimmed"), 2);
    assert_eq!(postgres.number("select count(*) from tidegate_once").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_attempt_is_refused_from_the_moment_a_newer_one_came() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = ready(&postgres).await;
    let newer = attempt(1, 7);
    let failed = newer
        .once(&pool, async |_| Err::<(), _>(JobError::retry("no luck")))
        .await;
    assert!(matches!(failed, Err(OnceError::Effect(_))), "{failed:?}");
    for _ in 0..2 {
        let refused = pay(&attempt(1, 6), &pool).await.expect_err("it is too old");
        assert!(
            matches!(refused, OnceError::Superseded { fence: 6, newer: 7 }),
            "{refused}"
        );
        assert!(matches!(
            Verdict::from(JobError::from(refused)).outcome,
            Outcome::Released { .. }
        ));
        pay(&attempt(1, 7), &pool).await.expect("the newest may");
    }
    assert_eq!(payments(&postgres).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_one_after_the_other() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = ready(&postgres).await;
    for (job, commits) in [(1, true), (2, false)] {
        let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = {
            let (pool, inside, go_on) = (pool.clone(), inside.clone(), go_on.clone());
            tokio::spawn(async move {
                let ctx = attempt(job, 1);
                ctx.once(&pool, async |db| {
                    sqlx::query("insert into payment values ('first')")
                        .execute(&mut *db)
                        .await?;
                    inside.notify_one();
                    go_on.notified().await;
                    if commits {
                        Ok(-1)
                    } else {
                        Err(JobError::retry("no luck"))
                    }
                })
                .await
            })
        };
        inside.notified().await;
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pay(&attempt(job, 2), &pool).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!second.is_finished(), "it waits for the first");
        go_on.notify_one();
        let first: Result<i64, OnceError> = first.await.expect("joined");
        assert_eq!(first.is_ok(), commits, "{first:?}");
        let second = second.await.expect("joined").expect("done");
        assert_eq!(
            second,
            if commits { -1 } else { 2 },
            "the first's result, or its own"
        );
    }
    assert_eq!(payments(&postgres).await, 2, "one of each job");
}

async fn race(pool: &PgPool, jobs: u32) {
    let pairs = (1..=jobs).map(|job| async move {
        let (old, new) = (attempt(job, 1), attempt(job, 2));
        tokio::join!(pay(&old, pool), pay(&new, pool))
    });
    for (old, new) in join_all(pairs).await {
        let new = new.expect("nobody is newer");
        match old {
            Ok(old) => assert_eq!(old, new, "one effect, one result"),
            Err(error) => assert!(matches!(error, OnceError::Superseded { .. }), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_racing_pairs_have_a_hundred_effects() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = ready(&postgres).await;
    race(&pool, 100).await;
    assert_eq!(payments(&postgres).await, 100);
    assert_eq!(
        postgres.number("select count(distinct job) from payment").await,
        100
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_pgbouncer_it_is_the_same() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    ready(&postgres).await.close().await;
    let pooler = PgBouncer::start(&sandbox, &postgres, PgBouncerOptions::default().pool_size(4)).await;
    let pool = connect(&pooler.role_url("postgres")).await;
    create_ledger(&pool).await.expect("it is there");
    race(&pool, 50).await;
    assert_eq!(payments(&postgres).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_told_to_stop_changes_nothing() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = ready(&postgres).await;
    let fenced = attempt(1, 1);
    let stopped = fenced
        .once(&pool, async |db| {
            sqlx::query("insert into payment values ('late')")
                .execute(&mut *db)
                .await?;
            fenced.token().cancel();
            Ok(())
        })
        .await;
    assert!(matches!(stopped, Err(OnceError::Cancelled)), "{stopped:?}");
    let dropped = attempt(2, 1);
    let hangs = dropped.once(&pool, async |db| {
        sqlx::query("insert into payment values ('hangs')")
            .execute(&mut *db)
            .await?;
        std::future::pending::<Result<(), JobError>>().await
    });
    let hung = tokio::time::timeout(Duration::from_millis(300), hangs).await;
    assert!(hung.is_err(), "it was dropped in its effect");
    for job in [1, 2] {
        tokio::time::timeout(SOON, pay(&attempt(job, 2), &pool))
            .await
            .expect("no lock is left")
            .expect("done");
    }
    assert_eq!(payments(&postgres).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_between_effect_and_commit_has_done_nothing() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let pool = ready(&postgres).await;
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["once::child_waits_in_its_effect", "--exact", "--nocapture"])
        .env(CHILD_URL, postgres.url());
    let child = Process::start(&sandbox, command);
    child.wait_for_line("effect done", SOON).await;
    assert_eq!(payments(&postgres).await, 0, "not committed");
    child.kill9();
    let second = tokio::time::timeout(SOON, pay(&attempt(1, 2), &pool)).await;
    assert_eq!(second.expect("the dead one's lock is gone").expect("done"), 1);
    let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    assert_eq!(postgres.number(open).await, 0, "no transaction is left");
}

/// Started by the test above as a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn child_waits_in_its_effect() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let pool = connect(&url).await;
    let ctx = attempt(1, 1);
    let never = ctx.once(&pool, async |db| {
        sqlx::query("insert into payment values ('child')")
            .execute(&mut *db)
            .await?;
        println!("effect done");
        std::future::pending::<Result<i64, JobError>>().await
    });
    never.await.expect("it is killed before");
}
