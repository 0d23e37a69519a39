//! The first message of a stream: who the worker is, and what it still holds.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tidegate_chassis::clock;
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{Incarnation, LeaseRef, QueueName, Session},
    limits, reason, v1,
};
use tidegate_store::{ITEMS_PER_CALL_MAX, Reclaim, Reclaimed, StoreError};
use tokio::time::sleep;

use super::Shared;
use crate::status::Refusal;

/// Sessions that one hello replaces: a worker has one stream a router, and reconnects one at a time.
const REPLACES_MAX: usize = 100;
/// Labels are for people.
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 256;
/// A store that is away for longer makes the worker try again, perhaps elsewhere.
const RECLAIM_WITHIN: Duration = Duration::from_secs(1);
const PAUSE_MS_MAX: u64 = 250;

/// A valid hello.
#[derive(Debug)]
pub struct Hello {
    pub session: Session,
    pub incarnation: Incarnation,
    pub replaces: Vec<Session>,
    pub reclaim: Vec<LeaseRef>,
    pub queues: Arc<[QueueName]>,
    pub slots: u32,
    pub labels: String,
}

impl Hello {
    pub fn check(wire: v1::Hello) -> Result<Self, Invalid> {
        let bound = |field: &str, count: usize, max: usize| {
            let message = format!("{count} entries; at most {max} are taken");
            let too_many = || Invalid::new(field, reason::BATCH_TOO_LARGE, message);
            (count <= max).then_some(()).ok_or_else(too_many)
        };
        bound("replaces", wire.replaces.len(), REPLACES_MAX)?;
        bound("queues", wire.queues.len(), limits::QUEUES_PER_WORKER_MAX)?;
        bound("labels", wire.labels.len(), LABELS_MAX)?;
        let session = convert::session("session", &wire.session)?;
        let replaces = wire
            .replaces
            .iter()
            .enumerate()
            .map(|(at, text)| convert::session(&format!("replaces[{at}]"), text))
            .collect::<Result<Vec<_>, _>>()?;
        if replaces.contains(&session) {
            let message = "names the session of this hello: every stream needs a UUID of its own";
            return Err(Invalid::new("replaces", reason::INVALID_ARGUMENT, message));
        }
        let queues = wire
            .queues
            .iter()
            .enumerate()
            .map(|(at, name)| convert::queue_name(&format!("queues[{at}]"), name))
            .collect::<Result<BTreeSet<_>, _>>()?;
        Ok(Self {
            session,
            incarnation: convert::incarnation("incarnation", &wire.incarnation)?,
            replaces,
            reclaim: convert::lease_refs("reclaim", &wire.reclaim)?,
            queues: queues.into_iter().collect(),
            slots: wire.slots,
            labels: labels(wire.labels),
        })
    }

    /// The queues in which the process may hold leases.
    fn concerned(&self) -> Vec<QueueName> {
        let held = self.reclaim.iter().map(|lease| &lease.id.queue);
        self.queues
            .iter()
            .chain(held)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .cloned()
            .collect()
    }

    /// Takes over what the worker still holds, and gives back what it does not. The sessions it replaces must be closed
    /// by now.
    pub async fn reclaim(&self, shared: &Shared) -> Result<Reclaimed, Refusal> {
        let queues = self.concerned();
        let reclaim = |replaces: Vec<Session>, leases: &[LeaseRef]| Reclaim {
            session: self.session,
            incarnation: self.incarnation,
            replaces,
            queues: queues.clone(),
            leases: leases.to_vec(),
        };
        // All that is kept carries the new session before the rest of the old ones is returned with the last call.
        let split = self.reclaim.len().saturating_sub(1) / ITEMS_PER_CALL_MAX * ITEMS_PER_CALL_MAX;
        let (early, last) = self.reclaim.split_at(split);
        let mut answer = Reclaimed::default();
        let calls = early
            .chunks(ITEMS_PER_CALL_MAX)
            .map(|chunk| reclaim(Vec::new(), chunk));
        for call in calls.chain([reclaim(self.replaces.clone(), last)]) {
            let part = ask(shared, call).await?;
            answer.kept.extend(part.kept);
            answer.lost.extend(part.lost);
            answer.returned += part.returned;
        }
        Ok(answer)
    }
}

async fn ask(shared: &Shared, call: Reclaim) -> Result<Reclaimed, Refusal> {
    let give_up = clock::now() + RECLAIM_WITHIN;
    loop {
        let error: StoreError = match shared.store.reclaim(call.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = Duration::from_millis(fastrand::u64(0..=PAUSE_MS_MAX));
        if !error.is_fault() || clock::now() + pause >= give_up {
            return Err(Refusal::store_fault(&error));
        }
        sleep(pause).await;
    }
}

/// For a log line: sorted, and cut to a length that a log takes.
fn labels(wire: std::collections::HashMap<String, String>) -> String {
    let mut labels: Vec<String> = wire
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    labels.sort_unstable();
    let mut text = labels.join(" ");
    text.truncate(text.floor_char_boundary(LABEL_BYTES_MAX));
    text
}
