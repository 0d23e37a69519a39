//! Help for handlers that work on a Postgres (crate feature `postgres`, over sqlx).
//!
//! - [`crate::JobContext::once`]: an effect in the database that happens exactly once per job, however often the job is
//!   tried. Its ledger is a table of yours: [`create_ledger`], [`trim_ledger`].
//! - [`TargetPool`]: a pool whose size follows the target of the queues that use it.
//! - [`class_of`]: whether an error means that the database is overloaded, away, or neither. `?` in a handler asks it by
//!   itself.

mod class;
mod gate;
mod ledger;
mod once;
mod pool;

use std::{future::Future, ops::DerefMut};

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use class::class_of;
pub use ledger::{LEDGER_SQL, create_ledger, trim_ledger};
pub use once::OnceError;
pub use pool::{TargetConnection, TargetPool, TargetPoolOptions};

/// A pool to take a connection from: `sqlx::PgPool` or [`TargetPool`].
pub trait Connections: Send + Sync {
    type Connection: DerefMut<Target = PgConnection> + Send;

    /// Waits for one.
    fn connection(&self) -> impl Future<Output = Result<Self::Connection, sqlx::Error>> + Send;
}

impl Connections for PgPool {
    type Connection = PoolConnection<Postgres>;

    async fn connection(&self) -> Result<Self::Connection, sqlx::Error> {
        self.acquire().await
    }
}
