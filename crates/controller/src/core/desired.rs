//! How many slots a fleet should have, for whoever sizes it.

use tidegate_protocol::domain::QueueName;

use super::{
    Core,
    model::{Now, Role},
};

/// Ticks without a turn, or without a word of any router, after which numbers are of another time.
const STALE_TICKS: u64 = 3;

/// What queues want together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Sum of what each queue should run if the fleet had the slots, and no less than runs.
    pub slots: u64,
    /// Something waits or runs, so there must be somebody.
    pub is_active: bool,
}

/// Why there is no number: the fleet must stay as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNumber {
    #[error("this controller does not lead: {0}")]
    Standby(String),
    #[error("{0}")]
    Stale(String),
    #[error("there is no queue {0}: apply a policy, or submit its first job")]
    NoQueue(QueueName),
}

impl Core {
    pub fn desired(&self, queues: &[QueueName], now: Now) -> Result<Desired, NoNumber> {
        let why = self.standby_reason();
        if !why.is_empty() {
            return Err(NoNumber::Standby(why));
        }
        if !self.is_leader {
            return Err(NoNumber::Standby(
                "the job store has not answered for every queue yet".to_owned(),
            ));
        }
        let stale_ms = STALE_TICKS * self.settings.tick_ms.max(super::EARLY_TICK_MS);
        let is_old = |at_ms: u64| now.mono_ms.saturating_sub(at_ms) > stale_ms;
        if self.last_tick.is_none_or(|last| is_old(last.mono_ms)) {
            return Err(NoNumber::Stale(
                "the control loop has not turned for too long".to_owned(),
            ));
        }
        let mut routers = self.nodes.values().filter(|node| node.role == Role::Router);
        if routers.all(|node| is_old(node.reported_ms)) {
            return Err(NoNumber::Stale("no router reports what waits".to_owned()));
        }
        let mut desired = Desired::default();
        for name in queues {
            let queue = self
                .queues
                .get(name)
                .ok_or_else(|| NoNumber::NoQueue(name.clone()))?;
            if !queue.is_decided {
                return Err(NoNumber::Stale(format!("nothing is decided about {name} yet")));
            }
            let jobs = queue.store.ready.saturating_add(queue.store.running);
            // Before the first job has ended nobody knows what is needed, and of a queue whose workers have all left what
            // was found is what it keeps warm: but no more than one slot a job.
            let is_found = queue.seen.mean_ms.is_some() && queue.seen.slots > 0;
            let wanted = match is_found {
                true => u64::from(queue.goal.wanted),
                false => u64::from(queue.goal.wanted).min(jobs),
            };
            desired.slots += wanted.max(queue.store.running);
            desired.is_active |= queue.store.ready + queue.store.running + queue.store.slots > 0;
        }
        Ok(desired)
    }
}
