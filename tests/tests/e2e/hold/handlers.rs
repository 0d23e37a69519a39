//! Handlers as they should not be: the others on their worker go on, and the operator sees which it was.

use std::time::Duration;

use tidegate_client::Client;
use tidegate_tests::{Cluster, Runs, Sandbox, WorkerProc, eventually, sampler};

use super::{PATIENCE, all_succeeded, job_when};
use crate::producer::{new_job, submit_all, try_batch};

const POLICIES: &str = "\
    [queues.loop]\ntimeout = \"1s\"\nretry = { max_attempts = 1 }\n\
    [queues.panic]\nretry = { max_attempts = 1 }\n\
    [queues.never]\ntimeout = \"1s\"\nretry = { max_attempts = 1 }\n\
    [queues.deaf]\nretry = { max_attempts = 1 }\n\
    [queues.block]\ntimeout = \"1s\"\nretry = { max_attempts = 1 }\n\
    [queues.stuck]\ntimeout = \"1s\"\nretry = { max_attempts = 1 }\n";

async fn overdue(worker: &WorkerProc, queue: &str) {
    eventually(PATIENCE, format!("{queue} is shown as overdue"), async || {
        let page = worker.metrics().await;
        (sampler::metric(&page, "tidegate_jobs_overdue", queue) == Some(1.0)).then_some(())
    })
    .await;
}

/// The log says so too, with the queue and the job.
async fn logged(worker: &WorkerProc, what: &str, id: &str) {
    let line = worker.process.wait_for_line(&format!("\"{id}\""), PATIENCE).await;
    let all = worker.process.stdout();
    let both = all.lines().any(|line| line.contains(what) && line.contains(id));
    assert!(both, "no line with {what:?} and {id}, but {line}");
}

async fn error_of(client: &Client, id: &str) -> String {
    job_when(client, id, "is dead", |job| job.state.as_str() == "dead")
        .await
        .error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_beside_handlers_that_loop_panic_hang_or_do_not_listen() {
    const GOOD: u64 = 200;
    let sandbox = Sandbox::new();
    let kinds = [
        ("good", "sleep"),
        ("loop", "loop"),
        ("panic", "panic"),
        ("never", "never"),
        ("deaf", "deaf"),
    ];
    let cluster = Cluster::builder()
        .policies(POLICIES)
        .workers(1, Runs::work(&kinds))
        .start(&sandbox)
        .await;
    let (client, urls) = (cluster.client(), cluster.direct_urls());
    let worker = &cluster.workers[0];
    let mut bad = Vec::new();
    for queue in ["loop", "panic", "never", "deaf"] {
        bad.push(submit_all(&urls, queue, 1).await.remove(0));
    }
    job_when(&client, &bad[3], "runs", |job| job.state.as_str() == "running").await;
    client.cancel([&bad[3]]).await.expect("cancelled");
    let good: Vec<_> = (0..GOOD)
        .map(|_| new_job("good", "{\"ms\":50}".to_owned()))
        .collect();
    try_batch(urls[0].clone(), &good).await.expect("acknowledged");

    all_succeeded(&client, "good", GOOD).await;
    overdue(worker, "loop").await;
    overdue(worker, "deaf").await;
    logged(worker, "overdue", &bad[0]).await;
    logged(worker, "overdue", &bad[3]).await;
    logged(worker, "panicked", &bad[1]).await;
    assert_eq!(
        error_of(&client, &bad[1]).await,
        "handler panicked: as it was told"
    );
    let never = error_of(&client, &bad[2]).await;
    assert!(never.starts_with("timed out after 1000 ms"), "{never}");
    // What goes on is not settled: nobody else may run it meanwhile.
    let looping = client.get(&bad[0]).await.expect("it is there");
    assert_eq!(looping.state.as_str(), "running");
    assert_eq!(worker.process.exit_code(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_more_than_eight_handlers_that_nothing_ends_exits_and_says_why() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::builder()
        .policies(POLICIES)
        .workers(1, Runs::work(&[("stuck", "deaf")]))
        .start(&sandbox)
        .await;
    submit_all(&cluster.direct_urls(), "stuck", 9).await;
    let worker = &cluster.workers[0].process;
    let code = worker.wait_exit(Duration::from_secs(30)).await;
    assert_eq!(code, 1, "{}", worker.tail());
    let said = "9 handlers outlived their cancel or timeout (stuck: 9)";
    assert!(worker.stderr().contains(said), "{}", worker.tail());
}

/// Two threads, two handlers that hold them: the third job would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_threads_are_all_held_exits_and_another_runs_the_rest() {
    let sandbox = Sandbox::new();
    let mut cluster = Cluster::builder()
        .policies(POLICIES)
        .workers(1, Runs::work(&[("block", "block"), ("good", "noop")]))
        .start(&sandbox)
        .await;
    let (client, urls) = (cluster.client(), cluster.direct_urls());
    let blocking = submit_all(&urls, "block", 2).await;
    for id in &blocking {
        job_when(&client, id, "runs", |job| job.state.as_str() == "running").await;
    }
    submit_all(&urls, "good", 3).await;
    let worker = cluster.workers.remove(0).process;
    let code = worker.wait_exit(Duration::from_secs(60)).await;
    assert_eq!(code, 1, "{}", worker.tail());
    assert!(
        worker.stdout().contains("hold every slot or every thread"),
        "{}",
        worker.tail()
    );
    // They would hold the heir's threads, too.
    client.cancel(&blocking).await.expect("cancelled");
    cluster.start_worker().await;
    all_succeeded(&client, "good", 3).await;
}
