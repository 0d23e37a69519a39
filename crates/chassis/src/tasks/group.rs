//! Many short-lived tasks: bounded, joined, and free to end whenever they like.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::panic_message;

/// A cheap handle to a bounded set of tasks. From [`super::Tasks::group`].
///
/// After the shutdown the tasks are waited for; they watch the shutdown token themselves. What is still
/// running when the drain deadline passes is dropped where it stands.
#[derive(Clone, Debug)]
pub struct Group {
    name: Arc<str>,
    max: usize,
    room: Arc<Semaphore>,
    tracker: TaskTracker,
    closed: CancellationToken,
}

/// Why a group did not take a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefused {
    #[error("`{name}` is full: {max} are running")]
    Full { name: String, max: usize },
    #[error("`{name}` is closed: the process is shutting down")]
    Closed { name: String },
}

impl Group {
    /// The group, and the future that joins it after `shutdown` (spawned as a named task).
    pub(super) fn new(
        name: String,
        max: usize,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let group = Self {
            name: name.into(),
            max,
            room: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            tracker: TaskTracker::new(),
            closed: CancellationToken::new(),
        };
        let tracker = group.tracker.clone();
        // Cancelled when the join ends, or when it is aborted at the deadline: both close the group.
        let close: DropGuard = group.closed.clone().drop_guard();
        let joined = async move {
            let _close = close;
            shutdown.cancelled().await;
            tracker.close();
            tracker.wait().await;
        };
        (group, joined)
    }

    /// Starts a task. A panic in it is logged with the group's name; the others go on.
    ///
    /// # Errors
    /// [`GroupRefused::Full`] at the bound, [`GroupRefused::Closed`] once the group has been joined.
    pub fn spawn<F>(&self, future: F) -> Result<(), GroupRefused>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = self.name.clone();
        self.spawn_handle(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                let message = panic_message(panic.as_ref());
                tracing::error!(group = %name, message, "a task of the group panicked");
            }
        })
        .map(drop)
    }

    /// Starts a task whose result or panic the caller wants. `None`: it was cut off at the drain deadline.
    ///
    /// # Errors
    /// As [`Group::spawn`].
    pub fn spawn_handle<F>(&self, future: F) -> Result<JoinHandle<Option<F::Output>>, GroupRefused>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        if self.closed.is_cancelled() {
            return Err(GroupRefused::Closed {
                name: self.name.to_string(),
            });
        }
        let room = self
            .room
            .clone()
            .try_acquire_owned()
            .map_err(|_| GroupRefused::Full {
                name: self.name.to_string(),
                max: self.max,
            })?;
        let closed = self.closed.clone();
        Ok(self.tracker.spawn(async move {
            let _room = room;
            tokio::select! {
                biased;
                output = future => Some(output),
                () = closed.cancelled() => None,
            }
        }))
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tasks;
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn is_bounded_and_tasks_may_end() {
        let tasks = Tasks::new(CancellationToken::new());
        let group = tasks.group("streams", 1);
        let (finish, finished) = oneshot::channel::<()>();
        let first = group
            .spawn_handle(async move { finished.await.is_ok() })
            .expect("there is room");
        let refused = group.spawn(async {}).expect_err("it is full");
        assert_eq!(refused.to_string(), "`streams` is full: 1 are running");
        finish.send(()).expect("it is waiting");
        assert_eq!(first.await.expect("no panic"), Some(true));
        group.spawn(async {}).expect("there is room again");
    }

    #[tokio::test]
    async fn is_joined_at_shutdown_and_closed_afterwards() {
        let tasks = Tasks::new(CancellationToken::new());
        let group = tasks.group("streams", 8);
        let shutdown = tasks.shutdown();
        let (done, mut is_done) = oneshot::channel();
        let told = shutdown.clone();
        let work = async move {
            told.cancelled().await;
            tokio::task::yield_now().await;
            done.send(()).expect("the test waits");
        };
        group.spawn(work).expect("there is room");
        shutdown.cancel();
        tasks.run().await.expect("all ended");
        assert_eq!(is_done.try_recv(), Ok(()));
        assert!(matches!(group.spawn(async {}), Err(GroupRefused::Closed { .. })));
    }

    #[tokio::test]
    async fn a_panic_leaves_the_others_alone() {
        let tasks = Tasks::new(CancellationToken::new());
        let group = tasks.group("streams", 8);
        group
            .spawn(async { panic!("one bad stream") })
            .expect("there is room");
        let good = group.spawn_handle(async { 7 }).expect("there is room");
        assert_eq!(good.await.expect("no panic"), Some(7));
        tasks.shutdown().cancel();
        tasks
            .run()
            .await
            .expect("a panic in a group is not the process's end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_one_is_cut_off_at_the_deadline() {
        let tasks = Tasks::new(CancellationToken::new());
        let group = tasks.group("streams", 8);
        let stuck = group.spawn_handle(pending::<()>()).expect("there is room");
        tasks.shutdown().cancel();
        let error = tasks.run().await.expect_err("one is stuck");
        assert_eq!(error.to_string(), "not ended 25s after shutdown: streams");
        assert_eq!(stuck.await.expect("dropped, not panicked"), None);
    }
}
