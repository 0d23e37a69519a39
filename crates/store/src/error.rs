//! What can go wrong with a store call, as far as someone acts differently on it.

use tidegate_protocol::domain::JobId;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// Nothing happened: the store could not be reached.
    #[error("the job store is unavailable: {0}")]
    Unavailable(String),
    /// The call was sent and no answer came: it may have happened. Repeat with the same key, request id or fence.
    #[error("the job store did not answer in time, the outcome is unknown: {0}")]
    Unknown(String),
    /// It happened, but not as safely as was asked for: fewer replicas than configured confirmed it in time. Repeat with
    /// the same key, request id or fence.
    #[error("the job store did it, but {confirmed} of {wanted} replicas confirmed it in time")]
    Unconfirmed { confirmed: u64, wanted: u32 },
    /// Nothing happened: the store is busy or loading. Try again shortly.
    #[error("the job store is busy: {0}")]
    Busy(String),
    /// Nothing happened: the store is out of memory or disk.
    #[error("the job store is full: {0}")]
    Full(String),
    /// Nothing happened: the store takes no writes (a replica, or one that lost its own).
    #[error("the job store takes no writes: {0}")]
    ReadOnly(String),
    /// What is stored is not what was written, or not by this version.
    #[error("the job store is damaged, or of another version: {0}")]
    Corrupt(String),
    /// The request itself is wrong (e.g. a cursor of another store).
    #[error("invalid request: {0}")]
    Invalid(String),

    #[error("queue is full: {depth} jobs, max_depth {max}")]
    QueueFull { depth: u64, max: u64 },
    #[error("no room for another idempotency key: {max} are remembered")]
    KeysFull { max: u64 },
    #[error("the idempotency key belongs to job {id} with another payload")]
    KeyReused { id: JobId },
}

impl StoreError {
    /// A fault of the store (as opposed to an answer about the request): what breakers count.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            StoreError::Invalid(_)
                | StoreError::QueueFull { .. }
                | StoreError::KeysFull { .. }
                | StoreError::KeyReused { .. }
        )
    }
}
