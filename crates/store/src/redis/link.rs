//! One shared connection to the server: made when first needed, made again after it broke.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError,
    redis::{
        AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, RedisError, Value,
        aio::MultiplexedConnection, cmd, pipe,
    },
};
use tokio::sync::{Mutex, watch};

use super::{calls::Call, faults, greeting, operations::LIBRARY, reply::Reply};
use crate::{OpenError, StoreError, StoreResult};

/// The client's own default of 500 ms is less than a busy server may take.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Replicas confirm within a millisecond, or are in trouble. A router has two calls of a kind in flight on one connection, and
/// the second waits behind the first: together well below [`RESPONSE_TIMEOUT`], so that both counts arrive.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);
/// Each link takes one connection out of the pool, and another one after that broke.
const POOL_SIZE: usize = 8;

pub(super) fn client(url: &str) -> Result<Client, OpenError> {
    Client::open(url).map_err(|_| OpenError::UnknownUrl(url.to_owned()))
}

/// Where a URL leads, without the password in it.
pub(super) fn address(url: &str) -> String {
    url.into_connection_info()
        .map_or_else(|_| "the given URL".to_owned(), |info| info.addr().to_string())
}

/// All connections of a store: whoever learns that they lead to the wrong server ends them all.
pub(super) struct Connections {
    pool: Pool,
    address: ConnectionAddr,
    /// Counts how often they were all ended.
    era: watch::Sender<u64>,
}

impl Connections {
    pub fn to(url: &str) -> Result<Arc<Self>, OpenError> {
        let unknown = |_| OpenError::UnknownUrl(url.to_owned());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let address = url.into_connection_info().map_err(unknown)?.addr().clone();
        let manager = Manager::new_with_config(url, config).map_err(unknown)?;
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .build()
            .map_err(|error| OpenError::Unsuitable(error.to_string()))?;
        let era = watch::Sender::new(0);
        Ok(Arc::new(Self { pool, address, era }))
    }

    /// Changes when all connections are to be made again.
    pub fn eras(&self) -> watch::Receiver<u64> {
        self.era.subscribe()
    }

    fn era(&self) -> u64 {
        *self.era.borrow()
    }

    /// Each of that era is made again, from the configured name, before its next use. A later one may lead elsewhere.
    fn drop_all(&self, era: u64) {
        self.era.send_if_modified(|now| {
            let is_current = *now == era;
            *now += u64::from(is_current);
            is_current
        });
    }

    async fn connect(&self) -> StoreResult<MultiplexedConnection> {
        match self.pool.get().await {
            Ok(object) => Ok(Connection::take(object)),
            Err(PoolError::Backend(error)) if error.is_io_error() => {
                match greeting::of(&self.address).await {
                    Some(text) => Err(faults::from_text(&text)),
                    None => Err(faults::from_connect(&error)),
                }
            }
            Err(PoolError::Backend(error)) => Err(faults::from_connect(&error)),
            Err(other) => Err(StoreError::Unavailable(other.to_string())),
        }
    }
}

/// See the [module](self).
pub(super) struct Link {
    all: Arc<Connections>,
    state: Mutex<State>,
    /// Attempts to connect that failed.
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    made: Made,
    last_failure: Option<StoreError>,
}

/// Which connection it is.
#[derive(Clone, Copy, Default)]
struct Made {
    /// Counts connections, so that one that broke is dropped once and not its successor.
    generation: u64,
    /// See [`Connections`].
    era: u64,
}

impl Link {
    pub fn new(all: &Arc<Connections>) -> Self {
        Self {
            all: all.clone(),
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
        self.load_library().await?;
        let answer = self.send(call.command()).await;
        answer.map(Reply).map_err(Refused::into_error)
    }

    /// The same, and does not answer before `acks` replicas have what it wrote, or what was written before it: a
    /// duplicate's first submit may be on its way to them.
    pub async fn run_confirmed(&self, call: &Call, acks: u32) -> StoreResult<Reply> {
        if acks == 0 {
            return self.run(call).await;
        }
        match self.send_confirmed(call, acks).await {
            Err(Refused::NoFunction) => {
                self.load_library().await?;
                self.send_confirmed(call, acks).await.map_err(Refused::into_error)
            }
            other => other.map_err(Refused::into_error),
        }
    }

    async fn send_confirmed(&self, call: &Call, acks: u32) -> Result<Reply, Refused> {
        let mut wait = cmd("WAIT");
        wait.arg(acks).arg(CONFIRM_TIMEOUT.as_millis() as u64);
        let (made, mut connection) = self.connection().await.map_err(Refused::Error)?;
        let mut both = pipe();
        // One after the other on one connection: WAIT waits for what its own connection has written.
        both.add_command(call.command().clone()).add_command(wait);
        let answers = connection.send_packed_commands(&both, 0, 2).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => return Err(self.failed(made, &error).await),
        };
        let Ok([answer, confirmed]) = <[Value; 2]>::try_from(answers) else {
            return Err(Refused::Error(StoreError::Unknown("half an answer".to_owned())));
        };
        let answer = match answer.extract_error() {
            Ok(answer) => Reply(answer),
            Err(error) => return Err(self.failed(made, &error).await),
        };
        let confirmed = match confirmed.extract_error() {
            Ok(confirmed) => Reply(confirmed).number().map_err(Refused::Error)?,
            // The operation is done. Most likely the server became a replica under the wait.
            Err(error) => {
                self.all.drop_all(made.era);
                return Err(Refused::Error(StoreError::Unknown(error.to_string())));
            }
        };
        match confirmed >= u64::from(acks) {
            true => Ok(answer),
            false => Err(Refused::Error(StoreError::Unconfirmed {
                confirmed,
                wanted: acks,
            })),
        }
    }

    pub async fn command(&self, command: &Cmd) -> StoreResult<Reply> {
        self.send(command).await.map(Reply).map_err(Refused::into_error)
    }

    async fn send(&self, command: &Cmd) -> Result<Value, Refused> {
        let (made, mut connection) = self.connection().await.map_err(Refused::Error)?;
        let error = match connection
            .send_packed_command(command)
            .await
            .and_then(Value::extract_error)
        {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        Err(self.failed(made, &error).await)
    }

    /// What an error means, and what it costs the connection that it came from.
    async fn failed(&self, made: Made, error: &RedisError) -> Refused {
        if faults::is_no_function(error) {
            return Refused::NoFunction;
        }
        let fault = faults::from_call(error);
        match fault {
            // The name may lead to another server by now: nobody goes on with this one.
            StoreError::ReadOnly(_) => self.all.drop_all(made.era),
            StoreError::Unknown(_) => self.drop_connection(made).await,
            _ if error.is_unrecoverable_error() => self.drop_connection(made).await,
            _ => {}
        }
        Refused::Error(fault)
    }

    async fn load_library(&self) -> StoreResult<()> {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(LIBRARY.as_str());
        self.command(&load).await.map(drop)
    }

    async fn connection(&self) -> StoreResult<(Made, MultiplexedConnection)> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut state = self.state.lock().await;
        let current = self.all.era();
        if state.made.era != current {
            state.connection = None;
        }
        if let Some(connection) = &state.connection {
            return Ok((state.made, connection.clone()));
        }
        // Whoever waited while another one tried in vain shares its answer, or a thousand callers would try in turn.
        if self.failures.load(Ordering::Acquire) > failures
            && let Some(error) = &state.last_failure
        {
            return Err(error.clone());
        }
        match self.all.connect().await {
            Ok(connection) => {
                let made = Made {
                    generation: state.made.generation + 1,
                    era: current,
                };
                (state.made, state.connection) = (made, Some(connection.clone()));
                Ok((made, connection))
            }
            Err(error) => {
                state.last_failure = Some(error.clone());
                self.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    async fn drop_connection(&self, made: Made) {
        let mut state = self.state.lock().await;
        if state.made.generation == made.generation {
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
