//! What the server says about itself: whether it may hold jobs, and what an acknowledgement by it means.

use deadpool_redis::redis::cmd;

use super::{
    keys,
    link::{self, Link},
};
use crate::{Durability, OpenError, StoreError, StoreResult};

const VERSION_MIN: u32 = 7;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    /// Changes when the server restarts.
    pub run_id: String,
    pub durability: Durability,
}

/// Why a server is not used.
#[derive(Debug)]
pub(super) enum Unfit {
    Store(StoreError),
    Version(String),
    Evicts(String),
    Schema(u64),
}

impl From<StoreError> for Unfit {
    fn from(error: StoreError) -> Self {
        Unfit::Store(error)
    }
}

impl Unfit {
    /// Of a server that was fit when the store was opened.
    pub fn into_error(self) -> StoreError {
        match self {
            Unfit::Store(error) => error,
            Unfit::Version(version) => StoreError::Unavailable(format!("Redis is of version {version} now")),
            Unfit::Evicts(policy) => {
                StoreError::Unavailable(format!("Redis evicts keys now (maxmemory-policy {policy})"))
            }
            Unfit::Schema(schema) => StoreError::Corrupt(keys::other_schema(schema)),
        }
    }

    pub fn at(self, url: &str) -> OpenError {
        let what = link::address(url);
        match self {
            Unfit::Store(error) => OpenError::Unreachable {
                what: format!("redis://{what}"),
                why: error.to_string(),
            },
            Unfit::Version(version) => OpenError::Unsuitable(format!(
                "Redis at {what} is of version {version}: Tidegate needs {VERSION_MIN}.0 or newer (or Valkey)"
            )),
            Unfit::Schema(schema) => OpenError::Unsuitable(format!(
                "what Redis at {what} holds cannot be used: {}",
                keys::other_schema(schema)
            )),
            Unfit::Evicts(policy) => OpenError::Unsuitable(format!(
                "Redis at {what} evicts keys when memory is full (maxmemory-policy {policy}), and jobs with them: set \
                 maxmemory-policy noeviction there, or use a Redis of its own"
            )),
        }
    }
}

impl Server {
    /// `acks`: replicas that are to have what is acknowledged.
    pub async fn inspect(link: &Link, acks: u32) -> Result<Self, Unfit> {
        let info = info(link).await?;
        fit(&info)?;
        let durability = match field(&info, "aof_enabled") {
            Some("1") => synced(link).await?,
            _ => Durability::Snapshot,
        };
        let replicas = field(&info, "connected_slaves")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        if replicas < acks {
            tracing::warn!(
                replicas,
                min_replica_acks = acks,
                "Redis has too few replicas: nothing is acknowledged until it has more"
            );
        }
        let durability = match acks {
            0 => durability,
            acks => Durability::Replicated {
                acks,
                local: Box::new(durability),
            },
        };
        refuse_other_schema(link).await?;
        Ok(Self {
            run_id: run_id(&info),
            durability,
        })
    }
}

/// A store of another version is not written to. One without a version is new, or of before there were versions.
async fn refuse_other_schema(link: &Link) -> Result<(), Unfit> {
    let mut command = cmd("HMGET");
    command.arg(keys::STORE).arg("incarnation").arg("schema");
    let [incarnation, schema] = link.command(&command).await?.fixed()?;
    if incarnation.is_nil() {
        return Ok(());
    }
    let schema = if schema.is_nil() { 1 } else { schema.number()? };
    match schema == keys::SCHEMA {
        true => Ok(()),
        false => Err(Unfit::Schema(schema)),
    }
}

/// Whether a server that says this of itself would keep jobs, and can run the operations.
fn fit(info: &str) -> Result<(), Unfit> {
    // Valkey reports the Redis version it is compatible with here.
    let version = field(info, "redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    if major.unwrap_or(0) < VERSION_MIN {
        return Err(Unfit::Version(version.to_owned()));
    }
    match field(info, "maxmemory_policy").unwrap_or_default() {
        "noeviction" => Ok(()),
        evicting => Err(Unfit::Evicts(evicting.to_owned())),
    }
}

/// The run id of a server that is still fit: an operator may change its settings at any time.
pub(super) async fn current_run_id(link: &Link) -> Result<String, Unfit> {
    let info = info(link).await?;
    fit(&info)?;
    Ok(run_id(&info))
}

fn run_id(info: &str) -> String {
    field(info, "run_id").unwrap_or_default().to_owned()
}

async fn info(link: &Link) -> StoreResult<String> {
    // All sections: a server before 7.0, which is to be told so, takes no list of them.
    let command = cmd("INFO");
    Ok(String::from_utf8_lossy(&link.command(&command).await?.bytes()?).into_owned())
}

/// Managed servers may forbid CONFIG; then the weaker promise is reported.
async fn synced(link: &Link) -> StoreResult<Durability> {
    let mut command = cmd("CONFIG");
    command.arg("GET").arg("appendfsync");
    let values = match link.command(&command).await {
        Ok(reply) => reply.texts(),
        Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(match values.last().map(String::as_str) {
        Some("always") => Durability::Fsync,
        // The system writes when it likes, half a minute later perhaps.
        Some("no") => Durability::Snapshot,
        _ => Durability::EverySecond,
    })
}

pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nrun_id:abc\r\n";
        assert_eq!(field(info, "maxmemory_policy"), Some("allkeys-lru"));
        assert_eq!(field(info, "maxmemory"), Some("0"));
        assert_eq!(field(info, "policy"), None);
    }

    #[test]
    fn old_servers_and_such_that_evict_are_unfit() {
        let judge = |version: &str, policy: &str| {
            fit(&format!(
                "redis_version:{version}\r\nmaxmemory_policy:{policy}\r\n"
            ))
        };
        for version in ["7.0.15", "7.2.4", "8.0.0", "10.1"] {
            assert!(judge(version, "noeviction").is_ok(), "{version}");
            let evicts = judge(version, "volatile-lru");
            assert!(matches!(evicts, Err(Unfit::Evicts(policy)) if policy == "volatile-lru"));
        }
        for version in ["6.2.14", "5.0", "", "unknown"] {
            let text = judge(version, "noeviction")
                .unwrap_err()
                .at("redis://127.0.0.1:1");
            let text = text.to_string();
            assert!(
                text.contains("needs 7.0 or newer") && text.contains(version),
                "{text}"
            );
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_not_the_password() {
        let url = "redis://user:s3cret@127.0.0.1:1/0";
        let text = Unfit::Evicts("allkeys-lru".to_owned()).at(url).to_string();
        assert!(
            text.contains("noeviction") && text.contains("127.0.0.1:1"),
            "{text}"
        );
        let text = Unfit::Store(StoreError::Unavailable("refused".to_owned()))
            .at(url)
            .to_string();
        assert!(!text.contains("s3cret") && text.contains("127.0.0.1:1"), "{text}");
    }
}
