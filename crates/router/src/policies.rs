//! Policies from a file, for deployments without a controller: written to the store at start, as the oldest version there
//! is, so that whatever a controller has decided stands.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_protocol::{
    domain::Version,
    policy_file::{self, PolicyFileError},
};
use tidegate_store::{CapOrder, JobStore, QueueRecord, StoreError};

pub use tidegate_protocol::policy_file::QueuePolicy;

/// Every controller's epoch is higher.
const FILE_VERSION: Version = Version {
    epoch: 0,
    generation: 0,
};

/// Why a policies file was not taken. Each message names the file, the place and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    #[error("cannot read the policies file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("the job store did not take the policies")]
    Store(#[source] StoreError),
}

/// Reads and checks a file; nothing of it is taken if anything in it is wrong. Its resources are a controller's.
pub fn read(path: &Path) -> Result<Vec<QueuePolicy>, PoliciesError> {
    let text = std::fs::read_to_string(path).map_err(|source| PoliciesError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// The same for a text; `path` is for the errors.
pub fn parse(path: &Path, text: &str) -> Result<Vec<QueuePolicy>, PoliciesError> {
    let path = path.to_owned();
    match policy_file::parse(text) {
        Ok(file) => Ok(file.queues),
        Err(PolicyFileError::Syntax(message)) => Err(PoliciesError::Syntax { path, message }),
        Err(PolicyFileError::Invalid(message)) => Err(PoliciesError::Invalid { path, message }),
    }
}

/// Writes what the file says, and logs what was kept instead.
pub async fn apply(store: &Arc<dyn JobStore>, policies: Vec<QueuePolicy>) -> Result<(), PoliciesError> {
    let record = |entry: &QueuePolicy| QueueRecord {
        queue: entry.queue.clone(),
        policy: entry.policy.clone(),
        version: FILE_VERSION,
    };
    let written = store.put_queue(policies.iter().map(record).collect()).await;
    for (entry, written) in policies.iter().zip(written) {
        let queue = &entry.queue;
        if !written.map_err(PoliciesError::Store)? {
            tracing::warn!(%queue, "kept the stored policy, not the file's: a controller decided it");
        } else if entry.policy.costs_a_resource() && entry.cap.is_none() {
            tracing::info!(%queue, "costs a resource and has no cap in the file: runs nothing until a controller sets one");
        }
    }
    let order = |entry: &QueuePolicy| {
        let cap = Some(entry.cap?);
        Some(CapOrder {
            queue: entry.queue.clone(),
            cap,
            version: FILE_VERSION,
            ttl_ms: 0,
        })
    };
    let orders: Vec<CapOrder> = policies.iter().filter_map(order).collect();
    let answers = store.set_caps(orders.clone()).await;
    for (order, answer) in orders.iter().zip(answers) {
        let answer = answer.map_err(PoliciesError::Store)?;
        if !answer.applied {
            let kept = answer.record.map(|record| record.cap.cap);
            tracing::warn!(queue = %order.queue, ?kept, "kept the stored cap, not the file's: a controller decided it");
        }
    }
    tracing::info!(queues = policies.len(), "policies were written to the job store");
    Ok(())
}
