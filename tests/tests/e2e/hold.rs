//! What must hold whatever is killed, frozen or restarted under full load. Longer with `TIDEGATE_LONG=1`.

mod frozen;
mod handlers;
mod outage;
mod rolling;

use std::time::Duration;

use tidegate_client::{Client, JobView};
use tidegate_tests::eventually;

/// For everything that takes moments unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn is_long() -> bool {
    std::env::var_os("TIDEGATE_LONG").is_some()
}

/// Waits until so many jobs of the queue have succeeded; nothing is left, dead, or counted more than once.
async fn all_succeeded(client: &Client, queue: &str, jobs: u64) {
    eventually(PATIENCE, format!("{jobs} successes in {queue}"), async || {
        let queue = client.get_queue(queue).await.ok()?;
        (queue.succeeded_total >= jobs).then_some(())
    })
    .await;
    // Long enough for a job that would be run or recorded once more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queue = client.get_queue(queue).await.expect("a router answers");
    let left = queue.ready + queue.scheduled + queue.running + queue.dead;
    assert_eq!(
        (queue.succeeded_total, queue.submitted_total, left),
        (jobs, jobs, 0)
    );
}

/// The job, when it is what it is waited for.
async fn job_when(client: &Client, id: &str, what: &str, is: impl Fn(&JobView) -> bool) -> JobView {
    eventually(PATIENCE, format!("{id} {what}"), async || {
        client.get(id).await.ok().filter(|job| is(job))
    })
    .await
}
