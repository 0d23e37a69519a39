//! A pool of connections that is as large as the target of the queues that use it.
//!
//! Not `sqlx::PgPool`, whose size is fixed when it is made, and which tries a refused connection again until its time is
//! up, so that a database that is away looks like one that is full. Connections are sqlx's all the same.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, Error, PgConnection, postgres::PgConnectOptions};
use tidegate_chassis::clock;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

use super::{Connections, gate::Gate};
use crate::{PoolStats, PoolUsage};

/// A connection that nobody has used for this long is closed: what is not needed now is somebody else's.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// One that was used a moment ago needs no test before it is used again.
const FRESH: Duration = Duration::from_secs(1);
/// A server that does not take a connection in this time is away.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For what a handler left on the connection: a rollback, or the rest of an answer. One that needs longer is closed.
const CLEAN_MAX: Duration = Duration::from_secs(1);

/// What the server is told of [`TargetPoolOptions::cut_off`].
const CUT_OFF: [&str; 3] = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
];

/// How a [`TargetPool`] is bounded.
#[derive(Debug, Clone)]
pub struct TargetPoolOptions {
    /// Connections at most, whatever the target.
    pub ceiling: u32,
    /// Connections that one job holds at once.
    pub per_job: u32,
    /// How long a caller waits for its turn; then the error is `sqlx::Error::PoolTimedOut`, which is overload.
    pub acquire_timeout: Duration,
    /// The server ends a statement that takes longer, and closes a session that a handler holds without using it for as
    /// long. So what a frozen process left in the middle of its work is over before others have its jobs: half the lease
    /// ttl of the queues is right. `None`: what the role says. Needs PostgreSQL 14; a PgBouncer refuses it.
    pub cut_off: Option<Duration>,
}

impl Default for TargetPoolOptions {
    fn default() -> Self {
        Self {
            ceiling: 100,
            per_job: 1,
            acquire_timeout: Duration::from_secs(5),
            cut_off: None,
        }
    }
}

/// A pool for handlers: no connection until one is needed, at most `target x per_job`, none that has been idle for 5 s.
///
/// Register it, and the worker keeps it at the target and reports how full it is:
/// `worker.pool("pg-main", ["email", "report"], pool.clone())`. Until a worker does, it has room for one job. A lowered
/// target closes idle connections at once and takes none away from a job. Cheap to clone.
#[derive(Clone)]
pub struct TargetPool(Arc<Inner>);

struct Inner {
    connect: PgConnectOptions,
    options: TargetPoolOptions,
    gate: Gate,
    state: Mutex<State>,
    /// Connections that are being made fit for the next caller.
    cleaning: TaskTracker,
}

#[derive(Default)]
struct State {
    /// The one that was used last is at the end.
    idle: Vec<Idle>, // at most `size`, see close_surplus
    /// With callers, on the way to one, or being cleaned.
    in_use: u32,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

impl TargetPool {
    /// By URL, e.g. `postgres://app@db/app`, with default options.
    ///
    /// # Errors
    /// The URL is not one.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self::with(url.parse()?, TargetPoolOptions::default()))
    }

    pub fn with(connect: PgConnectOptions, options: TargetPoolOptions) -> Self {
        let cut_off = options.cut_off.map(|after| after.as_millis().max(1));
        let connect = match cut_off {
            Some(ms) => connect.options(CUT_OFF.map(|name| (name, format!("{ms}ms")))),
            None => connect,
        };
        let inner = Inner {
            gate: Gate::new(options.per_job.clamp(1, options.ceiling.max(1))),
            connect,
            options,
            state: Mutex::default(),
            cleaning: TaskTracker::new(),
        };
        Self(Arc::new(inner))
    }

    /// Waits for a connection, and opens one if none is idle.
    ///
    /// # Errors
    /// `PoolTimedOut` when it is not this caller's turn in time; everything else is of the server.
    pub async fn acquire(&self) -> Result<TargetConnection, Error> {
        let inner = &self.0;
        let turn = tokio::time::timeout(inner.options.acquire_timeout, inner.gate.enter());
        turn.await.map_err(|_| Error::PoolTimedOut)?;
        let (place, mut idle) = Place::take(Arc::clone(inner));
        while let Some(Idle {
            mut connection,
            since,
        }) = idle
        {
            if since.elapsed() < FRESH || is_clean(&mut connection).await {
                return Ok(TargetConnection::new(connection, place));
            }
            idle = inner.lock().idle.pop();
        }
        match tokio::time::timeout(CONNECT_MAX, inner.connect.connect()).await {
            Ok(connection) => Ok(TargetConnection::new(connection?, place)),
            Err(_) => Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// How many jobs may use it at once, from now on. The worker calls it; only tests and programs without one need to.
    pub fn set_target(&self, jobs: u32) {
        let inner = &self.0;
        let wanted = jobs.max(1).saturating_mul(inner.options.per_job.max(1));
        inner.gate.resize(wanted.min(inner.options.ceiling.max(1)));
        inner.close_surplus();
    }

    /// Closes what is idle, and waits until what is given back is clean.
    pub async fn close_idle(&self) {
        self.0.cleaning.close();
        self.0.cleaning.wait().await;
        self.0.cleaning.reopen();
        let idle = std::mem::take(&mut self.0.lock().idle);
        for Idle { connection, .. } in idle {
            let _ = connection.close().await; // it is gone either way
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes idle connections that are too old, or more than there may be. To drop one is to close its socket, which
    /// neither blocks nor fails; they are dropped outside of the lock.
    fn close_surplus(&self) {
        let size = self.gate.size();
        let mut state = self.lock();
        let room = size.saturating_sub(state.in_use) as usize;
        let too_many = state.idle.len().saturating_sub(room);
        let now = clock::now();
        let too_old = state.idle.partition_point(|idle| now - idle.since >= IDLE_MAX);
        let closed: Vec<Idle> = state.idle.drain(..too_many.max(too_old)).collect();
        drop(state);
        drop(closed);
    }
}

impl PoolStats for TargetPool {
    fn usage(&self) -> PoolUsage {
        self.0.close_surplus();
        let state = self.0.lock();
        PoolUsage {
            in_use: state.in_use,
            idle: u32::try_from(state.idle.len()).unwrap_or(u32::MAX),
            waiters: self.0.gate.waiters(),
            size: self.0.gate.size(),
        }
    }

    fn on_target(&self, jobs: u32) {
        self.set_target(jobs);
    }
}

impl Connections for TargetPool {
    type Connection = TargetConnection;

    async fn connection(&self) -> Result<TargetConnection, Error> {
        self.acquire().await
    }
}

/// The right to one connection; dropped, it lets the next caller in.
struct Place {
    inner: Arc<Inner>,
    /// Left for that caller.
    left: Option<PgConnection>,
}

impl Place {
    /// With an idle connection, if there is one. Both in one step: of a place that is taken and a connection that still lies
    /// idle there is one more than there may be, and it would be closed as surplus instead of being used.
    fn take(inner: Arc<Inner>) -> (Self, Option<Idle>) {
        let idle = {
            let mut state = inner.lock();
            state.in_use += 1;
            state.idle.pop()
        };
        inner.close_surplus();
        (Self { inner, left: None }, idle)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let since = clock::now();
        let left = self.left.take().map(|connection| Idle { connection, since });
        {
            let mut state = self.inner.lock();
            state.in_use -= 1;
            state.idle.extend(left);
        }
        self.inner.close_surplus();
        self.inner.gate.leave();
    }
}

/// A connection of a [`TargetPool`], given back when it is dropped: `&mut *connection` is an executor.
pub struct TargetConnection {
    /// Taken only by the drop.
    held: Option<(PgConnection, Place)>,
}

impl TargetConnection {
    fn new(connection: PgConnection, place: Place) -> Self {
        Self {
            held: Some((connection, place)),
        }
    }
}

impl Deref for TargetConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        let (connection, _) = self.held.as_ref().expect("only the drop takes it");
        connection
    }
}

impl DerefMut for TargetConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        let (connection, _) = self.held.as_mut().expect("only the drop takes it");
        connection
    }
}

/// A handler may have been dropped in the middle of a statement or a transaction, whose locks must not wait for the next
/// user of this connection. So it is cleaned at once, and its place is taken until it is.
impl Drop for TargetConnection {
    fn drop(&mut self) {
        let (Some((mut connection, mut place)), Ok(runtime)) = (self.held.take(), Handle::try_current())
        else {
            return; // without a runtime it is closed
        };
        let cleaning = place.inner.cleaning.clone();
        let clean = async move {
            if is_clean(&mut connection).await {
                place.left = Some(connection);
            }
            drop(place);
        };
        cleaning.spawn_on(clean, &runtime);
    }
}

/// Sends what is pending and waits until the server is ready for the next statement.
async fn is_clean(connection: &mut PgConnection) -> bool {
    matches!(
        tokio::time::timeout(CLEAN_MAX, connection.ping()).await,
        Ok(Ok(()))
    )
}
