//! Named tasks that are all joined; the only home of `tokio::spawn` and of OS threads.
//!
//! A detached task that dies leaves a process that looks alive and does nothing. So each long task has a name
//! and an owner: [`Tasks::run`] returns as soon as one of them ends before it was told to, and the process goes
//! down with the name in its last log line: a dead task is a dead process, never a quiet one. Many short-lived
//! tasks (one a connection, one a job) go into a [`Group`], bounded and joined as well.

#![allow(clippy::disallowed_methods, reason = "the home of spawning tasks and threads")]

mod group;
mod thread;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use group::{Group, GroupRefused};
pub use thread::{NamedThread, named_thread};

/// How long a drain may take by default: under the 30 s after which Kubernetes kills.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// What a task may end with: nothing, or a result whose error is reported.
pub trait TaskOutput: Send + 'static {
    fn into_result(self) -> anyhow::Result<()>;
}

impl TaskOutput for () {
    fn into_result(self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<E: Into<anyhow::Error> + Send + 'static> TaskOutput for Result<(), E> {
    fn into_result(self) -> anyhow::Result<()> {
        self.map_err(Into::into)
    }
}

/// Why [`Tasks::run`] did not end well.
#[derive(Debug, thiserror::Error)]
pub enum TaskEnded {
    #[error("task `{name}` ended before shutdown")]
    Early { name: String },
    #[error("task `{name}` failed")]
    Failed { name: String, source: anyhow::Error },
    #[error("task `{name}` panicked: {message}")]
    Panicked { name: String, message: String },
    #[error("not ended {}s after shutdown: {}", deadline.as_secs(), names.join(", "))]
    Overdue { names: Vec<String>, deadline: Duration },
}

/// The long tasks of one process (or of one role in `tidegate dev`). Dropping it aborts them.
pub struct Tasks {
    shutdown: CancellationToken,
    deadline: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
}

impl Tasks {
    /// Tasks that are to end when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            deadline: DRAIN_DEADLINE,
            inner: Mutex::default(),
        }
    }

    /// How long after the shutdown tasks may take to end before they are aborted.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The token that tells these tasks to end.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task that lives until shutdown. It watches the token itself and ends in its own good order.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        let mut inner = self.lock();
        let handle = inner.set.spawn(async move { future.await.into_result() });
        inner.names.insert(handle.id(), name.into());
    }

    /// A bounded group of short-lived tasks, joined by [`Tasks::run`] after the shutdown.
    pub fn group(&self, name: impl Into<String>, max: usize) -> Group {
        let name = name.into();
        let (group, joined) = Group::new(name.clone(), max, self.shutdown.clone());
        self.spawn(name, joined);
        group
    }

    /// Waits until the shutdown is cancelled and all tasks have ended.
    ///
    /// # Errors
    /// A task that ended, failed or panicked before the shutdown: it is named, the token is cancelled and the
    /// others are drained first. A task that failed or panicked while draining. Tasks that outlived the
    /// deadline, which are then aborted.
    pub async fn run(self) -> Result<(), TaskEnded> {
        let Self {
            shutdown,
            deadline,
            inner,
        } = self;
        let mut inner = inner
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());

        let first = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            ended = inner.next() => match ended {
                Some(ended) => Err(ended.before_shutdown()),
                None => {
                    // No task at all: a process that only waits for its signal.
                    shutdown.cancelled().await;
                    Ok(())
                }
            },
        };
        if let Err(ended) = &first {
            tracing::error!(error = %describe(ended), "a task ended early: shutting down");
            shutdown.cancel();
        }
        let drained = match tokio::time::timeout(deadline, inner.drain()).await {
            Ok(drained) => drained,
            Err(_) => Err(inner.abort(deadline)),
        };
        first.and(drained)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

struct Ended {
    name: String,
    result: Result<anyhow::Result<()>, JoinError>,
}

impl Ended {
    fn before_shutdown(self) -> TaskEnded {
        let name = self.name.clone();
        self.while_draining().err().unwrap_or(TaskEnded::Early { name })
    }

    fn while_draining(self) -> Result<(), TaskEnded> {
        let name = self.name;
        match self.result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(TaskEnded::Failed { name, source }),
            Err(error) if error.is_panic() => {
                let message = panic_message(error.into_panic().as_ref());
                Err(TaskEnded::Panicked { name, message })
            }
            // Aborted: only we do that, after the deadline.
            Err(_) => Ok(()),
        }
    }
}

impl Inner {
    async fn next(&mut self) -> Option<Ended> {
        let joined = self.set.join_next_with_id().await?;
        let (id, result) = match joined {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let name = self.names.remove(&id).unwrap_or_else(|| "unnamed".to_owned());
        Some(Ended { name, result })
    }

    /// Joins all; the first error is returned, the others are logged.
    async fn drain(&mut self) -> Result<(), TaskEnded> {
        let mut first = Ok(());
        while let Some(ended) = self.next().await {
            tracing::debug!(task = ended.name, "task ended");
            if let Err(ended) = ended.while_draining() {
                tracing::error!(error = %describe(&ended), "a task failed while draining");
                first = first.and(Err(ended));
            }
        }
        first
    }

    fn abort(&mut self, deadline: Duration) -> TaskEnded {
        let mut names: Vec<String> = self.names.drain().map(|(_, name)| name).collect();
        names.sort();
        self.set.abort_all();
        let overdue = TaskEnded::Overdue { names, deadline };
        tracing::error!(error = %overdue, "drain deadline passed: aborting the rest");
        overdue
    }
}

/// With the cause, for a log line.
fn describe(ended: &TaskEnded) -> String {
    match ended {
        TaskEnded::Failed { source, .. } => format!("{ended}: {source:#}"),
        other => other.to_string(),
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// For the signal handler alone, which must outlive every drain.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn an_early_end_is_named_and_cancels_the_rest() {
        let tasks = Tasks::new(CancellationToken::new());
        let shutdown = tasks.shutdown();
        let other = shutdown.clone();
        tasks.spawn("listener", async move { other.cancelled().await });
        tasks.spawn("sweeper", async {});
        let error = tasks.run().await.expect_err("the sweeper ended");
        assert_eq!(error.to_string(), "task `sweeper` ended before shutdown");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_named() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("sweeper", async {
            let rows: Vec<u8> = Vec::new();
            assert_eq!(rows.len(), 1, "no rows");
        });
        let error = tasks.run().await.expect_err("the sweeper panicked");
        assert!(
            error.to_string().starts_with("task `sweeper` panicked: ")
                && error.to_string().contains("no rows"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_error_is_named_with_its_cause() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("sweeper", async {
            Err::<(), _>(anyhow::anyhow!("store is gone"))
        });
        let error = tasks.run().await.expect_err("the sweeper failed");
        assert_eq!(describe(&error), "task `sweeper` failed: store is gone");
    }

    #[tokio::test]
    async fn shutdown_joins_all() {
        let tasks = Tasks::new(CancellationToken::new());
        let shutdown = tasks.shutdown();
        for name in ["a", "b"] {
            let shutdown = shutdown.clone();
            tasks.spawn(name, async move { shutdown.cancelled().await });
        }
        shutdown.cancel();
        tasks.run().await.expect("both ended after the shutdown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_is_named_at_the_deadline() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("stuck", pending::<()>());
        tasks.shutdown().cancel();
        let error = tasks.run().await.expect_err("it is stuck");
        assert_eq!(error.to_string(), "not ended 25s after shutdown: stuck");
    }
}
