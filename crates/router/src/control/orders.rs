//! Carrying out what the controller decides: policies and caps are written to the store, one order at a time and in the
//! order in which they came.

use std::{sync::Arc, time::Duration};

use tidegate_client::control::ControlVoice;
use tidegate_protocol::{
    convert,
    domain::{QueueName, Version},
    v1,
};
use tidegate_store::{CapAnswer, CapOrder, ITEMS_PER_CALL_MAX, JobStore, QueueRecord, StoreResult};
use tokio::{sync::mpsc, time::sleep};

use crate::{janitor::Janitor, status::Refusal};

/// Orders that wait for the store. The controller sends a few a tick, and repeats what has no answer.
const WAITING_MAX: usize = 8;
/// A policy that met a fault of the store is tried again this often; then the controller has to repeat it.
const TRIES_MAX: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub enum Order {
    Policies(v1::Policies),
    Caps(v1::Caps),
}

/// Hands orders to their task.
pub struct Orders {
    waiting: mpsc::Sender<Order>,
    voice: ControlVoice,
}

impl Orders {
    /// The handle, and the task's future, which ends when the handle is dropped.
    pub fn new(janitor: Janitor, voice: ControlVoice) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (waiting, mut orders) = mpsc::channel(WAITING_MAX);
        let handle = Self {
            waiting,
            voice: voice.clone(),
        };
        let task = async move {
            while let Some(order) = orders.recv().await {
                match order {
                    Order::Policies(policies) => {
                        let version = policies.version;
                        if write_policies(&janitor.store, policies).await {
                            // What is decided here by policies follows at once.
                            janitor.look().await;
                            voice.applied(version);
                        }
                    }
                    Order::Caps(caps) => voice.cap_answers(set_caps(&janitor.store, caps).await),
                }
            }
        };
        (handle, task)
    }

    /// Never waits: a store that does not keep up makes orders fail, which the controller counts as not applied.
    pub fn give(&self, order: Order) {
        let Err(error) = self.waiting.try_send(order) else {
            return;
        };
        tracing::warn!(
            max = WAITING_MAX,
            "an order of the controller was dropped: too many wait for the store"
        );
        if let Order::Caps(caps) = error.into_inner() {
            let refused = |order: v1::CapOrder| v1::cap_answers::Item {
                queue: order.queue,
                error: Some(Refusal::overloaded("waiting orders").into_item()),
                ..Default::default()
            };
            self.voice.cap_answers(v1::CapAnswers {
                request_id: caps.request_id,
                items: caps.orders.into_iter().map(refused).collect(),
            });
        }
    }
}

/// Whether all were written, or stood already in a newer version. A policy that cannot be right is left out: no repeat
/// would make it so.
async fn write_policies(store: &Arc<dyn JobStore>, order: v1::Policies) -> bool {
    let version = convert::version(order.version);
    for queue in &order.removed {
        tracing::info!(
            queue,
            "the policy of a queue was removed; its record stays as it is"
        );
    }
    let record = |wire: v1::Policy| {
        let name = wire.queue.clone();
        match convert::policy(wire) {
            Ok((queue, policy)) => Some(QueueRecord {
                queue,
                policy,
                version,
            }),
            Err(error) => {
                tracing::error!(queue = name, %error, "a policy of the controller was not taken");
                None
            }
        }
    };
    let records: Vec<QueueRecord> = order.policies.into_iter().filter_map(record).collect();
    let mut written = true;
    for chunk in records.chunks(ITEMS_PER_CALL_MAX) {
        written &= write(store, chunk.to_vec()).await;
    }
    if written {
        tracing::info!(
            queues = records.len(),
            ?version,
            "policies were written to the job store"
        );
    } else {
        tracing::error!(?version, "policies of the controller could not be written");
    }
    written
}

async fn write(store: &Arc<dyn JobStore>, mut records: Vec<QueueRecord>) -> bool {
    for tries in 1..=TRIES_MAX {
        let answers = store.put_queue(records.clone()).await;
        let mut failed = Vec::new();
        for (record, answer) in records.into_iter().zip(answers) {
            match answer {
                Ok(true) => {}
                Ok(false) => tracing::debug!(queue = %record.queue, "a newer policy is stored"),
                Err(_) => failed.push(record), // the store's words are in the log
            }
        }
        if failed.is_empty() {
            return true;
        }
        records = failed;
        if tries < TRIES_MAX {
            sleep(RETRY_PAUSE).await;
        }
    }
    false
}

/// Not tried again: a cap's answer must be of now, and the controller decides anew each tick.
async fn set_caps(store: &Arc<dyn JobStore>, order: v1::Caps) -> v1::CapAnswers {
    let (version, ttl_ms) = (convert::version(order.version), order.ttl_ms);
    let mut items = Vec::with_capacity(order.orders.len());
    let mut orders = Vec::new();
    // Where in the answer each order stands.
    let mut places = Vec::new();
    for wire in order.orders {
        let mut item = v1::cap_answers::Item {
            queue: wire.queue.clone(),
            ..Default::default()
        };
        match cap_order(wire, version, ttl_ms) {
            Ok(order) => {
                places.push(items.len());
                orders.push(order);
            }
            Err(refusal) => item.error = Some(refusal.into_item()),
        }
        items.push(item);
    }
    for (chunk, places) in orders
        .chunks(ITEMS_PER_CALL_MAX)
        .zip(places.chunks(ITEMS_PER_CALL_MAX))
    {
        let answers = store.set_caps(chunk.to_vec()).await;
        for ((order, place), answer) in chunk.iter().zip(places).zip(answers) {
            fill(&mut items[*place], &order.queue, answer);
        }
    }
    v1::CapAnswers {
        request_id: order.request_id,
        items,
    }
}

fn cap_order(wire: v1::CapOrder, version: Version, ttl_ms: u64) -> Result<CapOrder, Refusal> {
    Ok(CapOrder {
        queue: convert::queue_name("queue", &wire.queue)?,
        cap: wire.cap.map(|cap| convert::cap_record(cap).cap),
        version,
        ttl_ms,
    })
}

fn fill(item: &mut v1::cap_answers::Item, queue: &QueueName, answer: StoreResult<CapAnswer>) {
    match answer {
        Ok(answer) => {
            item.applied = answer.applied;
            item.cap = answer.record.map(v1::Cap::from);
            item.slots = answer.slots;
        }
        Err(error) => item.error = Some(Refusal::store(&error, queue).into_item()),
    }
}
