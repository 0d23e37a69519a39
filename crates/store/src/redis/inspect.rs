//! What a server says about itself, for people who ask whether it may hold jobs: looks, and changes nothing.

use std::time::{Duration, Instant};

use deadpool_redis::redis::cmd;

use super::{
    link::{self, Connections, Link},
    reply::Reply,
    server::field,
};
use crate::{OpenError, StoreResult};

/// The middle one of so many round trips is told.
const PINGS: usize = 5;

/// Facts of one moment. Numbers that a server does not tell (managed ones may forbid it) are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspection {
    /// `host:port`, without a password.
    pub address: String,
    pub version: String,
    pub role: String,
    pub is_loading: bool,
    pub maxmemory_policy: String,
    /// Bytes; 0: no limit.
    pub maxmemory: u64,
    pub used_memory: u64,
    pub maxclients: Option<u64>,
    pub connected_clients: u64,
    pub has_append_only_file: bool,
    /// `always`, `everysec` or `no`.
    pub appendfsync: Option<String>,
    /// The last write of the append-only file or of a snapshot did not fail.
    pub is_persistence_well: bool,
    pub connected_replicas: u64,
    pub slowest_fork_us: u64,
    /// The server's clock as of the end of the look, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Median of a few.
    pub round_trip: Duration,
}

/// Asks the Redis at `url`.
///
/// # Errors
/// It cannot be reached, or refuses to say who it is.
pub async fn inspect(url: &str) -> Result<Inspection, OpenError> {
    let connections = Connections::to(url)?;
    let link = Link::new(&connections);
    let address = link::address(url);
    ask(&link, address.clone())
        .await
        .map_err(|error| OpenError::Unreachable {
            what: format!("redis://{address}"),
            why: error.to_string(),
        })
}

async fn ask(link: &Link, address: String) -> StoreResult<Inspection> {
    let info = link.command(&cmd("INFO")).await?.bytes()?;
    let info = String::from_utf8_lossy(&info);
    let text = |name: &str| field(&info, name).unwrap_or_default().to_owned();
    let number = |name: &str| field(&info, name).and_then(|text| text.parse().ok());
    let is_ok = |name: &str| field(&info, name).is_none_or(|text| text == "ok");
    let (clock_ms, round_trip) = clock(link).await?;
    Ok(Inspection {
        address,
        version: text("redis_version"),
        role: text("role"),
        is_loading: text("loading") == "1",
        maxmemory_policy: text("maxmemory_policy"),
        maxmemory: number("maxmemory").unwrap_or(0),
        used_memory: number("used_memory").unwrap_or(0),
        maxclients: number("maxclients"),
        connected_clients: number("connected_clients").unwrap_or(0),
        has_append_only_file: text("aof_enabled") == "1",
        appendfsync: setting(link, "appendfsync").await,
        is_persistence_well: is_ok("aof_last_write_status") && is_ok("rdb_last_bgsave_status"),
        connected_replicas: number("connected_slaves").unwrap_or(0),
        slowest_fork_us: number("latest_fork_usec").unwrap_or(0),
        clock_ms,
        round_trip,
    })
}

/// The server's clock as of now, and how long a round trip takes.
#[allow(
    clippy::disallowed_methods,
    reason = "measures the way to the server for a person; nothing is decided by it"
)]
async fn clock(link: &Link) -> StoreResult<(u64, Duration)> {
    let mut rounds = Vec::with_capacity(PINGS);
    let mut clock_ms = 0;
    for _ in 0..PINGS {
        let asked = Instant::now();
        let [seconds, micros]: [Reply; 2] = link.command(&cmd("TIME")).await?.fixed()?;
        let took = asked.elapsed();
        clock_ms = seconds.number()? * 1_000 + micros.number()? / 1_000 + took.as_millis() as u64 / 2;
        rounds.push(took);
    }
    rounds.sort_unstable();
    Ok((clock_ms, rounds[PINGS / 2]))
}

/// `None`: the server does not say.
async fn setting(link: &Link, name: &str) -> Option<String> {
    let mut command = cmd("CONFIG");
    command.arg("GET").arg(name);
    link.command(&command).await.ok()?.texts().pop()
}
