//! Why a worker does not start, or stops.

use std::collections::HashMap;

use tidegate_client::{ClientError, control::InvalidController};
use tidegate_protocol::{domain::QueueName, limits::QUEUES_PER_WORKER_MAX};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    #[error("{0}")]
    InvalidQueue(#[from] tidegate_protocol::domain::InvalidQueueName),
    #[error("queue {0:?} has two handlers: register each queue once")]
    DuplicateQueue(String),
    #[error(
        "the pool of queue {0:?}, which has no handler here: register the handler, or take the queue away"
    )]
    PoolOfStranger(String),
    /// It was asked for by [`crate::Worker::queues`].
    #[error("no handler for queue {queue:?}: there are handlers for {registered}")]
    UnregisteredQueue { queue: String, registered: String },
    #[error("invalid schema of queue {queue:?}: {message}")]
    InvalidSchema { queue: String, message: String },
    #[error("no queue: register at least one handler")]
    NoQueue,
    #[error("{0} queues: one worker serves at most {QUEUES_PER_WORKER_MAX}")]
    TooManyQueues(usize),
    #[error("no router: give the address of at least one, e.g. http://127.0.0.1:7600")]
    NoRouter,
    #[error(transparent)]
    InvalidRouter(#[from] ClientError),
    #[error(transparent)]
    InvalidController(#[from] InvalidController),
    #[error("{0} slots: a worker has 1 to {max}", max = crate::SLOTS_MAX)]
    InvalidSlots(u32),
    /// Handlers that went on after they were told to stop. Nothing but the end of the process ends them: five seconds after
    /// this error it exits (code 1), if it has not done so by itself.
    #[error("{count} handlers outlived their cancel or timeout ({queues}): a worker with more than {max} of those exits", max = crate::OVERDUE_MAX)]
    TooManyOverdue { count: u32, queues: String },
    /// The same end, with fewer of them.
    #[error(
        "{count} handlers outlived their cancel or timeout ({queues}) and hold every slot or every thread: nothing else can run here"
    )]
    Stuck { count: u32, queues: String },
    #[error("the thread that keeps the leases could not be started")]
    Thread(#[source] std::io::Error),
    #[error("the thread that keeps the leases ended: {0}")]
    LinkDied(&'static str),
}

impl WorkerError {
    /// How many handlers of which queues, for people.
    pub(crate) fn queues(counts: &HashMap<&QueueName, u32>) -> String {
        let mut queues: Vec<String> = counts.iter().map(|(queue, n)| format!("{queue}: {n}")).collect();
        queues.sort();
        queues.join(", ")
    }
}
