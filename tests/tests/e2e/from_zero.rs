//! Scale from zero: jobs that come before their first worker, or after the last one has gone, are taken, and the worker that
//! comes then gets them. The queue costs a resource and has a deadline, so caps and admission are in force.

use std::time::Duration;

use tidegate_tests::{
    Answer, App, Controller, ControllerOptions, Router, RouterOptions, Sandbox, WorkerOptions, WorkerProc,
    eventually,
};

use crate::producer::{new_job, queue_stats, try_batch};

const PATIENCE: Duration = Duration::from_secs(60);
/// Many ticks, several deadlines, and longer than a gate outlives its controller's word.
const LONG: Duration = Duration::from_secs(4);
const QUEUE: &str = "email";
const POLICIES: &str = "[resources.pg-main]\ncapacity = 10\nheadroom = 0.7\n\
     [queues.email]\ncosts = { pg-main = 1 }\nmax = 7\nmax_wait = \"1s\"\n";
const TICK: &str = "[controller]\ntick = \"200ms\"\n";

/// Nothing of it may be refused.
async fn taken(router: &Router, jobs: usize) {
    let batch: Vec<_> = (0..jobs).map(|_| new_job(QUEUE, "{}".to_owned())).collect();
    let answer = try_batch(router.grpc_url(), &batch).await;
    assert_eq!(answer.map(|ids| ids.len()), Ok(jobs));
}

async fn worker(sandbox: &Sandbox, router: &Router, app: &App, attached: &[String]) -> WorkerProc {
    let options = WorkerOptions {
        args: attached.to_vec(),
        ..WorkerOptions::default()
    };
    WorkerProc::start(sandbox, &[router.grpc_url()], &app.url(), &[QUEUE], options).await
}

async fn drained(router: &Router, jobs: u64) {
    eventually(PATIENCE, format!("{jobs} jobs done"), async || {
        let queue = queue_stats(&router.grpc_url(), QUEUE).await?;
        (queue.succeeded_total == jobs).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_without_a_worker_are_taken_and_the_next_worker_gets_them() {
    let sandbox = Sandbox::new();
    // As long as some ticks: nothing is done in the first ones of a worker that comes.
    let app = App::start(|_| Answer::ok().after(Duration::from_millis(500)));
    let options = ControllerOptions {
        policies: Some(POLICIES.to_owned()),
        config: Some(TICK.to_owned()),
        ..ControllerOptions::default()
    };
    let controller = Controller::start(&sandbox, options).await;
    let attached = vec!["--controller".to_owned(), controller.grpc_url()];
    let options = RouterOptions {
        args: attached.clone(),
        ..RouterOptions::default()
    };
    let router = Router::start(&sandbox, "memory:", options).await;

    // Nobody has ever served this queue: no rate is known, and the oldest job waits for longer than the deadline.
    for _ in 0..4 {
        taken(&router, 10).await;
        tokio::time::sleep(LONG / 4).await;
    }
    taken(&router, 10).await;
    let first = worker(&sandbox, &router, &app, &attached).await;
    drained(&router, 50).await;

    // By now a rate is known. With the last worker it goes.
    first.process.sigterm();
    assert_eq!(
        first.process.wait_exit(PATIENCE).await,
        0,
        "{}",
        first.process.tail()
    );
    tokio::time::sleep(LONG / 4).await;
    for _ in 0..4 {
        taken(&router, 10).await;
        tokio::time::sleep(LONG / 4).await;
    }
    let _second = worker(&sandbox, &router, &app, &attached).await;
    // Whom it finds nothing out about yet it shuts nobody out for.
    eventually(PATIENCE, "the worker has jobs", async || {
        let queue = queue_stats(&router.grpc_url(), QUEUE).await?;
        (queue.running > 0).then_some(())
    })
    .await;
    taken(&router, 1).await;
    drained(&router, 91).await;
}
