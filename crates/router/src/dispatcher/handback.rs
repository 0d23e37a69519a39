//! Jobs that were leased but reached no worker go back to ready at once instead of waiting for their lease to end.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::tasks::Group;
use tidegate_protocol::domain::{LeaseRef, Outcome, Settlement};
use tidegate_store::{Grant, ITEMS_PER_CALL_MAX, JobStore, SettleItem, StoreError};
use tokio::time::sleep;

/// Hand-backs under way at once; beyond that the leases end by their time.
pub const HANDBACKS_MAX: usize = 256;
/// Tries while the store is away; together about half a lease.
const TRIES: u32 = 20;
const PAUSE_MS_MAX: u64 = 500;

/// A cheap handle.
#[derive(Clone)]
pub struct Handback {
    store: Arc<dyn JobStore>,
    group: Group,
}

impl Handback {
    pub fn new(store: Arc<dyn JobStore>, group: Group) -> Self {
        Self { store, group }
    }

    /// In a task of its own, so that nobody's grants wait for it.
    pub fn later(&self, grants: Vec<Grant>) {
        if grants.is_empty() {
            return;
        }
        let (this, jobs) = (self.clone(), grants.len());
        if let Err(error) = self.group.spawn(async move { this.now(grants).await }) {
            tracing::warn!(%error, jobs, "undelivered jobs are not handed back: their leases end by time");
        }
    }

    pub async fn now(&self, grants: Vec<Grant>) {
        for chunk in grants.chunks(ITEMS_PER_CALL_MAX) {
            let mut items: Vec<SettleItem> = chunk.iter().map(released).collect();
            for _ in 0..TRIES {
                let answers = self.store.settle(items.clone()).await;
                let mut answers = answers.into_iter();
                items.retain(|_| {
                    answers
                        .next()
                        .is_some_and(|answer| answer.is_err_and(|error| StoreError::is_fault(&error)))
                });
                if items.is_empty() {
                    break;
                }
                sleep(Duration::from_millis(fastrand::u64(0..=PAUSE_MS_MAX))).await;
            }
            if !items.is_empty() {
                tracing::warn!(
                    jobs = items.len(),
                    "undelivered jobs could not be handed back: their leases end by time"
                );
            }
        }
    }
}

fn released(grant: &Grant) -> SettleItem {
    SettleItem {
        settlement: Settlement {
            lease: LeaseRef {
                id: grant.job.id.clone(),
                fence: grant.job.fence,
            },
            outcome: Outcome::Released { error: String::new() },
            class: None,
            run_ms: 0,
        },
        random: fastrand::f64(),
    }
}
