//! The live sessions of this router: each at most once, and each to be ended from outside.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tidegate_chassis::CancellationToken;
use tidegate_protocol::domain::{QueueName, Session};

use crate::{metrics::Metrics, status::Refusal};

/// How one stream is told to end, and tells that it has.
#[derive(Default)]
pub struct Ending {
    told: CancellationToken,
    too_slow: AtomicBool,
    ended: CancellationToken,
}

impl Ending {
    /// Its worker does not read.
    pub fn slow(&self) {
        self.too_slow.store(true, Ordering::Release);
        self.told.cancel();
    }

    fn replaced(&self) {
        self.told.cancel();
    }

    pub async fn told(&self) {
        self.told.cancelled().await;
    }

    /// Why it was told to.
    pub fn refusal(&self) -> Refusal {
        if self.too_slow.load(Ordering::Acquire) {
            Refusal::slow_reader()
        } else {
            Refusal::replaced()
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

struct Live {
    ending: Arc<Ending>,
    queues: Arc<[QueueName]>,
}

/// See the [module](self). Bounded by the number of streams.
pub struct Registry {
    live: Mutex<HashMap<Session, Live>>,
    metrics: Arc<Metrics>,
}

impl Registry {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        metrics.workers_connected(0);
        Self {
            live: Mutex::default(),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Session, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the session has a live stream.
    pub fn enter(self: &Arc<Self>, session: Session, queues: Arc<[QueueName]>) -> Option<Registration> {
        let mut live = self.lock();
        if live.contains_key(&session) {
            return None;
        }
        let ending = Arc::new(Ending::default());
        live.insert(
            session,
            Live {
                ending: ending.clone(),
                queues,
            },
        );
        self.metrics.workers_connected(live.len());
        Some(Registration {
            session,
            ending,
            registry: self.clone(),
        })
    }

    /// Ends a session's stream, if it is here, and waits until it takes no more part.
    pub async fn close(&self, session: Session) {
        let ending = self.lock().get(&session).map(|live| live.ending.clone());
        if let Some(ending) = ending {
            ending.replaced();
            ending.ended.cancelled().await;
        }
    }

    /// How many sessions serve the queue.
    pub fn serving(&self, queue: &QueueName) -> u32 {
        self.lock()
            .values()
            .filter(|live| live.queues.contains(queue))
            .count() as u32
    }
}

/// A session's place in the registry; ends with its drop, also by a panic.
pub struct Registration {
    session: Session,
    pub ending: Arc<Ending>,
    registry: Arc<Registry>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut live = self.registry.lock();
        live.remove(&self.session);
        self.registry.metrics.workers_connected(live.len());
        drop(live);
        self.ending.ended.cancel();
    }
}
