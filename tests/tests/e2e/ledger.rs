//! What outlives a controller and a job store, over real processes and a real database.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use tidegate_tests::{
    Answer, App, Controller, ControllerOptions, Process, Redis, RedisOptions, Router, RouterOptions, Sandbox,
    WorkerOptions, WorkerProc, eventually,
};

use crate::producer::{new_job, queue_stats, submit_all, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);
const TICK: &str = "[controller]\ntick = \"200ms\"\n";
const POLICIES: &str = "[resources.pg-main]\ncapacity = 40\n[queues.email]\ncosts = { pg-main = 1 }\nstrategy = \"fixed\"\nmax = 28\n";

/// `tidegate control WORDS...`: its exit code and output.
pub async fn control(sandbox: &Sandbox, controllers: &[String], words: &[&str]) -> (i32, String) {
    let mut args = vec!["control".to_owned()];
    args.extend(words.iter().map(|&word| word.to_owned()));
    for url in controllers {
        args.extend(["--controller".to_owned(), url.clone()]);
    }
    let process = Process::tidegate(sandbox, args, &[]);
    let code = process.wait_exit(PATIENCE).await;
    (code, process.stdout() + &process.stderr())
}

/// The state of one controller; `Null` while it does not answer.
pub async fn status(sandbox: &Sandbox, controller: &str) -> Value {
    let (code, text) = control(sandbox, &[controller.to_owned()], &["status", "-o", "json"]).await;
    match code {
        0 => serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap(),
        _ => Value::Null,
    }
}

pub fn attached(controllers: &[String]) -> Vec<String> {
    let flags = controllers
        .iter()
        .flat_map(|url| ["--controller".to_owned(), url.clone()]);
    flags.collect()
}

pub async fn router(sandbox: &Sandbox, store: &str, controllers: &[String]) -> Router {
    let options = RouterOptions {
        args: attached(controllers),
        ..RouterOptions::default()
    };
    Router::start(sandbox, store, options).await
}

pub async fn worker(sandbox: &Sandbox, router: &Router, app: &App, controllers: &[String]) -> WorkerProc {
    let options = WorkerOptions {
        args: attached(controllers),
        ..WorkerOptions::default()
    };
    WorkerProc::start(sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await
}

pub async fn cap(router: &Router) -> Option<u32> {
    queue_stats(&router.grpc_url(), "email").await?.effective_cap
}

pub async fn cap_is(router: &Router, expected: u32) {
    let what = format!("a cap of {expected}");
    eventually(PATIENCE, what, async || {
        (cap(router).await == Some(expected)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_said_and_what_was_decided_outlive_the_controller() {
    let sandbox = Sandbox::new();
    let listen = Some(tidegate_tests::free_address());
    let ledger = "sqlite:kept/ledger.db".to_owned();
    let options = || ControllerOptions {
        listen: listen.clone(),
        policies: Some(POLICIES.to_owned()),
        config: Some(TICK.to_owned()),
        ledger: Some(ledger.clone()),
        ..ControllerOptions::default()
    };
    let first = Controller::start(&sandbox, options()).await;
    let urls = vec![first.grpc_url()];
    let second = [
        "controller",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--ledger",
        &ledger,
    ];
    let second = Process::tidegate(&sandbox, second, &[]);
    assert_eq!(second.wait_exit(PATIENCE).await, 1, "{}", second.tail());
    assert!(
        second.stderr().contains("in use by process"),
        "{}",
        second.stderr()
    );

    let app = App::start(|_| Answer::ok().after(Duration::from_millis(50)));
    let router = router(&sandbox, "memory:", &urls).await;
    let _worker = worker(&sandbox, &router, &app, &urls).await;
    submit_all(&[router.grpc_url()], "email", 4_000).await;
    cap_is(&router, 28).await;
    let (code, text) = control(
        &sandbox,
        &urls,
        &["pin", "email", "5", "--for", "1h", "--why", "a test"],
    )
    .await;
    assert_eq!(code, 0, "{text}");
    cap_is(&router, 5).await;
    let before = status(&sandbox, &urls[0]).await;

    first.process.kill9();
    first.process.wait_exit(PATIENCE).await;
    let _heir = Controller::start(&sandbox, options()).await;
    let after = eventually(PATIENCE, "the heir leads its fleet", async || {
        let status = status(&sandbox, &urls[0]).await;
        let whole =
            status["leader"] == true && status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2);
        whole.then_some(status)
    })
    .await;
    assert_eq!(after["ledger"]["ledger_id"], before["ledger"]["ledger_id"]);
    assert!(after["version"]["epoch"].as_u64() > before["version"]["epoch"].as_u64());
    assert_eq!(after["queues"][0]["pin"], 5, "{after}");
    // Nothing was ever above the pin: the heir started from what was kept, not from the file.
    assert_eq!(cap(&router).await, Some(5));
    let (_, history) = control(&sandbox, &urls, &["history", "--limit", "1000", "-o", "json"]).await;
    let epochs: std::collections::BTreeSet<u64> = history
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["version"]["epoch"].as_u64())
        .collect();
    assert!(
        epochs.contains(&before["version"]["epoch"].as_u64().unwrap()),
        "{epochs:?}"
    );
    control(&sandbox, &urls, &["unpin", "email"]).await;
    cap_is(&router, 28).await;
    replays(&sandbox, &ledger).await;
}

/// Every tick is decided again alike, beside the controller that writes them; a byte that has changed is found.
async fn replays(sandbox: &Sandbox, ledger: &str) {
    let replay = async || {
        let replay = ["control", "replay", "--ledger", ledger, "-o", "json"];
        let replay = Process::tidegate(sandbox, replay, &[]);
        let code = replay.wait_exit(PATIENCE).await;
        let line = replay.stdout().lines().next().unwrap_or_default().to_owned();
        let found: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}", replay.tail()));
        (code, found)
    };
    let (code, found) = replay().await;
    assert_eq!(code, 0, "{found}");
    assert!(
        found["ticks"].as_u64() > Some(10) && found["snapshots"].as_u64() >= Some(2),
        "{found}"
    );
    assert_eq!(
        (&found["mismatches_in_all"], &found["gaps"]),
        (&0.into(), &0.into()),
        "{found}"
    );

    let path = sandbox.path().join(ledger.trim_start_matches("sqlite:"));
    let mut db = SqliteConnection::connect(&format!("sqlite:{}", path.display()))
        .await
        .unwrap();
    let look = "SELECT epoch, tick, inputs FROM tidegate_ticks ORDER BY epoch, tick LIMIT 1 OFFSET 7";
    let (epoch, tick, mut inputs): (i64, i64, Vec<u8>) =
        sqlx::query_as(look).fetch_one(&mut db).await.unwrap();
    let middle = inputs.len() / 2;
    inputs[middle] ^= 1;
    sqlx::query("UPDATE tidegate_ticks SET inputs = $1 WHERE epoch = $2 AND tick = $3")
        .bind(inputs)
        .bind(epoch)
        .bind(tick)
        .execute(&mut db)
        .await
        .unwrap();
    let (code, found) = replay().await;
    assert_eq!(code, 1, "{found}");
    let named = &found["mismatches"][0];
    assert_eq!(
        (named["epoch"].as_i64(), named["tick"].as_i64()),
        (Some(epoch), Some(tick)),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_job_store_is_refused_until_it_is_accepted_also_across_restarts() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("appendonly", "no")).await;
    let options = ControllerOptions {
        policies: Some(POLICIES.to_owned()),
        config: Some(TICK.to_owned()),
        ..ControllerOptions::default()
    };
    let controller = Controller::start(&sandbox, options).await;
    let urls = vec![controller.grpc_url()];
    let app = App::start(|_| Answer::ok());
    let first = router(&sandbox, &redis.url(), &urls).await;
    let _worker = worker(&sandbox, &first, &app, &urls).await;
    submit_all(&[first.grpc_url()], "email", 10).await;
    app.wait_for_answers(10, PATIENCE).await;
    redis.must(&["SAVE"]).await;
    let (dump, kept) = (redis.dir().join("dump.rdb"), sandbox.path().join("kept.rdb"));
    std::fs::copy(&dump, &kept).unwrap();
    // Older than what may be lost by a crash.
    tokio::time::sleep(Duration::from_secs(13)).await;
    let restore = async || {
        redis.kill9().await;
        std::fs::copy(&kept, &dump).unwrap();
        redis.restart().await;
    };
    let refused = async |router: &Router| {
        let url = router.grpc_url();
        eventually(PATIENCE, "submits are refused", async || {
            let answer = try_batch(url.clone(), &[new_job("email", "1".into())]).await;
            answer
                .is_err_and(|error| error.contains("STORE_REWOUND"))
                .then_some(())
        })
        .await;
        let why = eventually(PATIENCE, "the controller knows", async || {
            let why = status(&sandbox, &urls[0]).await["store"]["refused"]
                .as_str()?
                .to_owned();
            (!why.is_empty()).then_some(why)
        });
        assert!(why.await.contains("came back as it was"));
    };
    let accept = async || {
        let (code, text) = control(&sandbox, &urls, &["accept-store", "--yes", "--why", "a test"]).await;
        assert!(code == 0 && text.contains("accepted store"), "{code} {text}");
    };

    // Under a running fleet: the router sees it.
    restore().await;
    refused(&first).await;
    let done = app.deliveries().len();
    accept().await;
    submit_all(&[first.grpc_url()], "email", 5).await;
    app.wait_for_answers(done + 5, PATIENCE).await;

    // Between two routers: only the ledger remembers.
    first.process.sigterm();
    first.process.wait_exit(PATIENCE).await;
    restore().await;
    let second = router(&sandbox, &redis.url(), &urls).await;
    // Also the very first one: a router is judged before it takes anything.
    let early = try_batch(second.grpc_url(), &[new_job("email", "1".into())]).await;
    assert!(
        early.as_ref().is_err_and(|error| error.contains("STORE_REWOUND")),
        "{early:?}"
    );
    refused(&second).await;
    // And the next one is told, too.
    second.process.kill9();
    let third = router(&sandbox, &redis.url(), &urls).await;
    refused(&third).await;
    accept().await;
    submit_all(&[third.grpc_url()], "email", 5).await;
    let (code, text) = control(&sandbox, &urls, &["accept-store", "--yes"]).await;
    assert!(code == 0 && text.contains("nothing to accept"), "{code} {text}");
}

/// The file goes under a running controller, which is then killed: whoever comes next knows of no epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_new_ledger_a_controller_wins_when_the_old_caps_have_ended() {
    let sandbox = Sandbox::new();
    let listen = Some(tidegate_tests::free_address());
    let options = |policies: &str| ControllerOptions {
        listen: listen.clone(),
        policies: Some(policies.to_owned()),
        config: Some(TICK.to_owned()),
        ledger: Some("sqlite:gone/ledger.db".to_owned()),
        ..ControllerOptions::default()
    };
    let first = Controller::start(&sandbox, options(POLICIES)).await;
    let urls = vec![first.grpc_url()];
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(300)));
    let router = router(&sandbox, "memory:", &urls).await;
    let _worker = worker(&sandbox, &router, &app, &urls).await;
    submit_all(&[router.grpc_url()], "email", 10_000).await;
    cap_is(&router, 28).await;
    let before = status(&sandbox, &urls[0]).await;
    std::fs::remove_dir_all(sandbox.path().join("gone")).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        status(&sandbox, &urls[0]).await["leader"],
        true,
        "it goes on by what it has open"
    );

    first.process.kill9();
    first.process.wait_exit(PATIENCE).await;
    let _heir = Controller::start(&sandbox, options(&POLICIES.replace("28", "12"))).await;
    let done = app.deliveries().len();
    // What the first one ordered is in force for half a minute, and nobody overrules it.
    let meanwhile = eventually(PATIENCE, "the heir hears of them from the router", async || {
        let status = status(&sandbox, &urls[0]).await;
        (status["leader"] == false).then_some(status)
    })
    .await;
    assert_eq!(cap(&router).await, Some(28), "{meanwhile}");
    let after = eventually(PATIENCE, "the heir is obeyed", async || {
        let status = status(&sandbox, &urls[0]).await;
        (status["leader"] == true && status["queues"][0]["cap"] == 12).then_some(status)
    })
    .await;
    assert_ne!(after["ledger"]["ledger_id"], before["ledger"]["ledger_id"]);
    assert!(
        after["version"]["epoch"].as_u64() > before["version"]["epoch"].as_u64(),
        "{after} after {before}"
    );
    cap_is(&router, 12).await;
    assert!(app.deliveries().len() > done + 500, "jobs go on");
}
