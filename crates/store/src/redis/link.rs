//! One shared connection to the server: made when first needed, made again after it broke.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError,
    redis::{
        AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, RedisError, Value,
        aio::MultiplexedConnection, cmd,
    },
};
use tokio::sync::Mutex;

use super::{calls::Call, faults, operations::LIBRARY, reply::Reply};
use crate::{OpenError, StoreError, StoreResult};

/// The client's own default of 500 ms is less than a busy server may take.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Each link takes one connection out of the pool, and another one after that broke.
const POOL_SIZE: usize = 8;

pub(super) fn client(url: &str) -> Result<Client, OpenError> {
    Client::open(url).map_err(|_| OpenError::UnknownUrl(url.to_owned()))
}

pub(super) fn pool(url: &str) -> Result<Pool, OpenError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let manager = Manager::new_with_config(url, config).map_err(|_| OpenError::UnknownUrl(url.to_owned()))?;
    Pool::builder(manager)
        .max_size(POOL_SIZE)
        .build()
        .map_err(|error| OpenError::Unsuitable(error.to_string()))
}

/// Where a URL leads, without the password in it.
pub(super) fn address(url: &str) -> String {
    url.into_connection_info()
        .map_or_else(|_| "the given URL".to_owned(), |info| info.addr().to_string())
}

/// See the [module](self).
pub(super) struct Link {
    pool: Pool,
    state: Mutex<State>,
    /// Attempts to connect that failed.
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that one that broke is dropped once and not its successor.
    generation: u64,
    last_failure: Option<StoreError>,
}

impl Link {
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// Runs an operation. A server that does not know the library is given it in the same call.
    pub async fn run(&self, call: &Call) -> StoreResult<Reply> {
        match self.send(call.command()).await {
            Err(Refused::NoFunction) => {}
            other => return other.map(Reply).map_err(Refused::into_error),
        }
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(LIBRARY.as_str());
        self.command(&load).await?;
        let answer = self.send(call.command()).await;
        answer.map(Reply).map_err(Refused::into_error)
    }

    pub async fn command(&self, command: &Cmd) -> StoreResult<Reply> {
        self.send(command).await.map(Reply).map_err(Refused::into_error)
    }

    async fn send(&self, command: &Cmd) -> Result<Value, Refused> {
        let (generation, mut connection) = self.connection().await.map_err(Refused::Error)?;
        let error = match connection
            .send_packed_command(command)
            .await
            .and_then(Value::extract_error)
        {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if faults::is_no_function(&error) {
            return Err(Refused::NoFunction);
        }
        let fault = faults::from_call(&error);
        // Read-only: the name may lead to another server by now.
        if matches!(fault, StoreError::Unknown(_) | StoreError::ReadOnly(_)) || error.is_unrecoverable_error()
        {
            self.drop_connection(generation).await;
        }
        Err(Refused::Error(fault))
    }

    async fn connection(&self) -> StoreResult<(u64, MultiplexedConnection)> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.generation, connection.clone()));
        }
        // Whoever waited while another one tried in vain shares its answer, or a thousand callers would try in turn.
        if self.failures.load(Ordering::Acquire) > failures
            && let Some(error) = &state.last_failure
        {
            return Err(error.clone());
        }
        match self.pool.get().await {
            Ok(object) => {
                let connection = Connection::take(object);
                state.generation += 1;
                state.connection = Some(connection.clone());
                Ok((state.generation, connection))
            }
            Err(error) => {
                let error = match error {
                    PoolError::Backend(error) => faults::from_connect(&error),
                    other => StoreError::Unavailable(other.to_string()),
                };
                state.last_failure = Some(error.clone());
                self.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    async fn drop_connection(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.connection = None;
        }
    }
}

enum Refused {
    NoFunction,
    Error(StoreError),
}

impl Refused {
    fn into_error(self) -> StoreError {
        match self {
            // Asked again at once, the server has forgotten it again: someone flushes its functions.
            Refused::NoFunction => StoreError::Busy("the server does not keep its functions".to_owned()),
            Refused::Error(error) => error,
        }
    }
}

/// What [`RedisError`] is called elsewhere.
pub(super) type ClientError = RedisError;
