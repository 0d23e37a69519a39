//! The job store in Redis: any number of routers on one server.
//!
//! Each operation is one call of a Lua function per queue and piece of a batch, atomic and on the server's own clock; [`keys`] says
//! what is kept where, `lua/` how it changes, [`blob`] how a job is packed. This side only packs arguments and reads
//! answers. Submits, leases and everything else have a connection each, so that a flood of submits does not delay the
//! settles behind it; each is taken from the pool once and shared.

mod blob;
mod calls;
mod codec;
mod events;
mod faults;
mod greeting;
mod handover;
mod inspect;
mod keys;
mod link;
mod operations;
mod ops;
mod policy;
mod reply;
mod server;
mod store;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{
    link::{Connections, Link},
    server::Server,
};

pub use self::inspect::{Inspection, inspect};
use crate::{AnchoredClock, Clock, OpenError, wake::Events};

#[derive(Clone, Default)]
pub struct RedisOptions {
    /// For tests: a clock moved by hand. Default: the server's own.
    pub clock: Option<Arc<dyn Clock>>,
    /// Replicas that must have a change before it is acknowledged; 0 = none.
    pub min_replica_acks: u32,
}

/// See the [module](self).
pub struct RedisStore {
    submits: Link,
    leases: Link,
    admin: Link,
    /// For calls that wait for replicas, if any do: leases and pulses are not to stand behind them. Submits have their own.
    confirmed: Option<Link>,
    clock: Option<Arc<dyn Clock>>,
    min_replica_acks: u32,
    /// The server's clock at the last pulse, and this process's.
    clock_seen: Mutex<Option<(u64, u64)>>,
    here: AnchoredClock,
    /// Queues whose names are known to be in [`keys::QUEUES`].
    queues: calls::KnownQueues,
    policies: policy::KnownPolicies,
    server: Mutex<Server>,
    events: Events,
    listener: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    closed: AtomicBool,
}

impl RedisStore {
    /// Connects, and refuses a server that would lose jobs or cannot run the operations.
    pub async fn connect(url: &str, options: RedisOptions) -> Result<Self, OpenError> {
        let all = Connections::to(url)?;
        let admin = Link::new(&all);
        let acks = options.min_replica_acks;
        let server = Server::inspect(&admin, acks)
            .await
            .map_err(|fault| fault.at(url))?;
        let (events, stop) = (Events::new(), CancellationToken::new());
        let listener = events::listen(link::client(url)?, all.eras(), events.clone(), stop.clone());
        Ok(Self {
            submits: Link::new(&all),
            leases: Link::new(&all),
            admin,
            confirmed: (acks > 0).then(|| Link::new(&all)),
            clock: options.clock,
            min_replica_acks: acks,
            clock_seen: Mutex::default(),
            here: AnchoredClock::starting_at_least(0),
            queues: calls::KnownQueues::default(),
            policies: policy::KnownPolicies::default(),
            server: Mutex::new(server),
            events,
            listener: Mutex::new(Some(listener)),
            stop,
            closed: AtomicBool::new(false),
        })
    }

    /// The connection for a call that replicas have to confirm, where that is asked for; else the `usual` one.
    fn confirming<'a>(&'a self, usual: &'a Link) -> &'a Link {
        self.confirmed.as_ref().unwrap_or(usual)
    }

    async fn end(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.stop.cancel();
        let listener = self
            .listener
            .lock()
            .expect("nothing panics under this lock")
            .take();
        if let Some(listener) = listener
            && let Err(error) = listener.await
        {
            tracing::error!(%error, "the listener for wake-ups did not end well");
        }
    }
}
