//! The controller over real processes: budgets hold, its death costs nothing, and there is only one.

use std::time::{Duration, Instant};

use tidegate_tests::{
    Answer, App, Controller, ControllerOptions, Process, Redis, RedisOptions, Router, RouterOptions, Sandbox,
    WorkerOptions, WorkerProc, eventually, free_address,
};

use crate::producer::{queue_stats, submit_all};

const PATIENCE: Duration = Duration::from_secs(60);
/// A fifth of a second: the tests wait for a few of them. Caps live 30 s whatever the tick.
const TICK: &str = "[controller]\ntick = \"200ms\"\n";

fn controller(policies: &str) -> ControllerOptions {
    ControllerOptions {
        policies: Some(policies.to_owned()),
        config: Some(TICK.to_owned()),
        ..ControllerOptions::default()
    }
}

fn attached(controllers: &[String]) -> Vec<String> {
    let flags = controllers
        .iter()
        .flat_map(|url| ["--controller".to_owned(), url.clone()]);
    flags.collect()
}

async fn router(sandbox: &Sandbox, store: &str, controllers: &[String]) -> Router {
    let args = attached(controllers);
    Router::start(
        sandbox,
        store,
        RouterOptions {
            args,
            ..RouterOptions::default()
        },
    )
    .await
}

async fn worker(
    sandbox: &Sandbox,
    routers: &[String],
    app: &App,
    queues: &[&str],
    controllers: &[String],
) -> WorkerProc {
    let args = attached(controllers);
    let options = WorkerOptions {
        args,
        ..WorkerOptions::default()
    };
    WorkerProc::start(sandbox, routers, &app.url(), queues, options).await
}

/// Floors 1, shared with different weights and costs.
fn shared(email_max: u32, pdf_weight: u32) -> String {
    format!(
        "[resources.pg-main]\ncapacity = 50\nheadroom = 0.7\n\
         [queues.email]\ncosts = {{ pg-main = 1 }}\nmax = {email_max}\n\
         [queues.pdf]\ncosts = {{ pg-main = 2 }}\nmax = 100\nweight = {pdf_weight}.0\n"
    )
}

/// Units of pg-main that the leases of both queues hold, in one atomic look at the store.
async fn units(redis: &Redis<'_>) -> u64 {
    const LOOK: &str = "local function slots(queue) local n = 0 \
        for _, set in ipairs({'leases:0', 'leases:1', 'ghosts:0', 'ghosts:1'}) do \
          n = n + redis.call('ZCARD', '{tg:' .. queue .. ':0}:' .. set) end \
        return n end \
        return slots('email') + 2 * slots('pdf')";
    redis.must(&["EVAL", LOOK, "0"]).await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_queues_never_hold_more_of_a_resource_than_its_budget() {
    const BUDGET: u64 = 35;
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(60)));
    let leader = Controller::start(&sandbox, controller(&shared(100, 1))).await;
    let controllers = vec![leader.grpc_url()];
    let one = router(&sandbox, &redis.url(), &controllers).await;
    let two = router(&sandbox, &redis.url(), &controllers).await;
    let urls = vec![one.grpc_url(), two.grpc_url()];
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(worker(&sandbox, &urls, &app, &["email", "pdf"], &controllers).await);
    }
    tokio::join!(
        submit_all(&urls, "email", 20_000),
        submit_all(&urls, "pdf", 10_000)
    );

    let end = Instant::now() + Duration::from_secs(60);
    let sampling = async {
        let mut highest = 0;
        while Instant::now() < end {
            let units = units(&redis).await;
            assert!(units <= BUDGET, "{units} units of {BUDGET} in use");
            highest = highest.max(units);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        highest
    };
    let disturbing = async {
        let mut round = 0;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_secs(3)).await;
            round += 1;
            let file = sandbox.write(
                "change.toml",
                &shared([100, 6, 30][round % 3], [1, 5][round as u32 as usize % 2]),
            );
            let apply = [
                "control",
                "policy",
                "apply",
                &file,
                "--controller",
                &controllers[0],
            ];
            let apply = Process::tidegate(&sandbox, apply, &[]);
            assert_eq!(apply.wait_exit(PATIENCE).await, 0, "{}", apply.tail());
            if round % 3 == 0 {
                workers.remove(0).process.kill9();
                workers.push(worker(&sandbox, &urls, &app, &["email", "pdf"], &controllers).await);
            }
        }
    };
    let (highest, ()) = tokio::join!(sampling, disturbing);
    assert!(
        highest > BUDGET / 2,
        "the budget was never used: {highest} of {BUDGET}"
    );
}

async fn effective_cap(router: &str, queue: &str) -> Option<u32> {
    queue_stats(router, queue).await?.effective_cap
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_without_the_controller_and_caps_sink_until_it_is_back() {
    let sandbox = Sandbox::new();
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(50)));
    let policies = "[resources.pg-main]\ncapacity = 40\n[queues.email]\ncosts = { pg-main = 1 }\nstrategy = \"fixed\"\nmax = 28\n";
    let listen = Some(free_address());
    let options = || ControllerOptions {
        listen: listen.clone(),
        ..controller(policies)
    };
    let leader = Controller::start(&sandbox, options()).await;
    let controllers = vec![leader.grpc_url()];
    let router = router(&sandbox, "memory:", &controllers).await;
    let urls = vec![router.grpc_url()];
    let _worker = worker(&sandbox, &urls, &app, &["email"], &controllers).await;
    submit_all(&urls, "email", 60_000).await;
    eventually(PATIENCE, "the cap reaches the whole budget", async || {
        (effective_cap(&urls[0], "email").await == Some(28)).then_some(())
    })
    .await;

    leader.process.kill9();
    leader.process.wait_exit(PATIENCE).await;
    let killed = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        effective_cap(&urls[0], "email").await,
        Some(28),
        "a cap lives 30 s"
    );
    let delivered = app.deliveries().len();
    // 0.3 of the budget.
    eventually(PATIENCE, "the cap sinks to its safe value", async || {
        (effective_cap(&urls[0], "email").await == Some(8)).then_some(())
    })
    .await;
    assert!(
        killed.elapsed() > Duration::from_secs(20),
        "sank after {:?}",
        killed.elapsed()
    );
    assert!(app.deliveries().len() > delivered, "work stopped");

    let _heir = Controller::start(&sandbox, options()).await;
    eventually(PATIENCE, "everything is as before", async || {
        (effective_cap(&urls[0], "email").await == Some(28)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_controller_is_refused_loudly() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default()).await;
    let policies = "[queues.email]\nstrategy = \"fixed\"\nmax = 5\n";
    let first = Controller::start(&sandbox, controller(policies)).await;
    let one = router(&sandbox, &redis.url(), &[first.grpc_url()]).await;
    let app = App::start(|_| Answer::ok());
    let urls = [one.grpc_url()];
    let _worker = worker(&sandbox, &urls, &app, &["email"], &[first.grpc_url()]).await;
    eventually(PATIENCE, "the first controller sets caps", async || {
        (effective_cap(&one.grpc_url(), "email").await == Some(5)).then_some(())
    })
    .await;

    // By mistake: another controller, with another opinion, on the same store.
    let second = Controller::start(&sandbox, controller(&policies.replace('5', "50"))).await;
    let _two = router(&sandbox, &redis.url(), &[second.grpc_url()]).await;
    second
        .process
        .wait_for_line("another controller leads", PATIENCE)
        .await;
    let status = ["control", "status", "--controller", &second.grpc_url()];
    let status = Process::tidegate(&sandbox, status, &[]);
    assert_eq!(status.wait_exit(PATIENCE).await, 0, "{}", status.tail());
    assert!(
        status.stdout().contains("another controller leads"),
        "{}",
        status.stdout()
    );
    for _ in 0..20 {
        assert_eq!(effective_cap(&one.grpc_url(), "email").await, Some(5));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
