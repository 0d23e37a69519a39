//! The worker against a router that follows a script, over real connections.

mod classes;
mod control;
mod controller;
mod drain;
mod exec;
mod lease;
mod reconnect;
mod role;
mod router;

use std::{future::Future, time::Duration};

use tidegate_chassis::tasks::Tasks;
use tidegate_worker::{JobContext, JobError, Payload, Queue, Worker};
use tokio_util::sync::CancellationToken;

pub const EMAIL: Queue<u32> = Queue::new("email");

/// A worker that runs until the test ends, or its token is cancelled.
pub struct Running {
    pub shutdown: CancellationToken,
    pub tasks: Tasks,
}

impl Running {
    pub fn start(worker: Worker) -> Self {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("worker", worker.run_until(shutdown.clone().cancelled_owned()));
        Self { shutdown, tasks }
    }

    /// Ends it and waits for it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.tasks.run()).await.expect("it ends well");
    }
}

pub fn worker<F, Fut>(routers: &[String], handler: F) -> Worker
where
    F: Fn(JobContext, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<u32, JobError>> + Send + 'static,
{
    controlled(routers, &[], handler)
}

pub fn controlled<F, Fut>(routers: &[String], controllers: &[&str], handler: F) -> Worker
where
    F: Fn(JobContext, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<u32, JobError>> + Send + 'static,
{
    Worker::connect(routers, controllers.to_vec())
        .handle(EMAIL, move |ctx: JobContext, Payload(n): Payload<u32>| {
            handler(ctx, n)
        })
        .slots(4)
}

/// A test that hangs says nothing; one that fails does.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}
