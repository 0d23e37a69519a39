//! The hard cap by what Postgres itself says: sessions at work, at every look, whatever is done to workers, controllers,
//! lines and policies. Twenty seconds of trouble; `TIDEGATE_LONG=1` makes it sixty.

mod app;
mod trouble;

use std::time::{Duration, Instant};

use tidegate_tests::{Postgres, PostgresOptions, Sandbox, eventually};

use self::{app::App, trouble::Fleet};
use crate::producer::submit_all;

/// floor(0.7 * 50)
const BUDGET: i64 = 35;
const LOOK: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE usename = 'app' AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(1_800);
/// For lines that are well again to carry work again.
const RECOVERY: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_at_work_never_exceed_the_budget() {
    let seconds = match std::env::var_os("TIDEGATE_LONG") {
        Some(_) => 60,
        None => 20,
    };
    let sandbox = Sandbox::new();
    // A session whose client is gone ends soon, as it is asked of whoever relies on the cap.
    let options = PostgresOptions::default().with("client_connection_check_interval", "10ms");
    let postgres = Postgres::start(&sandbox, options).await;
    let app = App::start(postgres.role("app", 50).await).await;
    let ledger = postgres.role("ledger", 20).await;
    let mut fleet = Fleet::start(&sandbox, &ledger, &app.url).await;
    let routers = fleet.router_urls();
    tokio::join!(
        submit_all(&routers, "email", 4_000),
        submit_all(&routers, "pdf", 2_000)
    );

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut watcher = postgres.connect().await.unwrap();
    let sampling = async {
        let (mut highest, mut looks) = (0, 0);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        while Instant::now() < end {
            ticks.tick().await;
            let at_work: i64 = sqlx::query_scalar(LOOK).fetch_one(&mut watcher).await.unwrap();
            assert!(
                at_work <= BUDGET,
                "{at_work} sessions of {BUDGET} are at work, look {looks}"
            );
            (highest, looks) = (highest.max(at_work), looks + 1);
        }
        (highest, looks)
    };
    let disturbing = async {
        for round in 0.. {
            tokio::time::sleep(ROUND).await;
            if Instant::now() >= end {
                return fleet;
            }
            fleet.trouble(round).await;
        }
        fleet
    };
    let ((highest, looks), fleet) = tokio::join!(sampling, disturbing);
    let (done, failed, changes) = (app.done(), app.failed(), fleet.changes);
    println!(
        "{looks} looks, at most {highest} of {BUDGET} at work, {done} jobs done, {failed} failed, {changes} changes of policies"
    );
    assert!(highest > BUDGET / 2, "the budget was never used: {highest}");
    assert!(done > 50, "{done} jobs were done, {failed} failed");
    assert!(changes > 0, "no change of a policy was taken");
    fleet.heal().await;
    eventually(RECOVERY, "work goes on", async || {
        (app.done() > done + 50).then_some(())
    })
    .await;
}
