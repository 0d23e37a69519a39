//! What a failed call means: one table for what the server says, one function for what the connection does.

use std::io;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerError};

use crate::StoreError;

type Make = fn(String) -> StoreError;

/// By the first words of the server's text; the first match counts. In each case nothing was done.
const TABLE: &[(&str, Make)] = &[
    ("BUSY ", StoreError::Busy),
    ("LOADING", StoreError::Busy),
    ("TRYAGAIN", StoreError::Busy),
    ("CLUSTERDOWN", StoreError::Busy),
    ("OOM", StoreError::Full),
    // The disk is full or broken: the server answers, but keeps nothing.
    ("MISCONF", StoreError::Full),
    ("READONLY", StoreError::ReadOnly),
    ("NOREPLICAS", StoreError::Unavailable),
    ("MASTERDOWN", StoreError::Unavailable),
    ("NOAUTH", StoreError::Unavailable),
    ("NOPERM", StoreError::Unavailable),
    ("WRONGPASS", StoreError::Unavailable),
    ("ERR max number of clients", StoreError::Unavailable),
    // Protected mode.
    ("DENIED", StoreError::Unavailable),
    ("WRONGTYPE", StoreError::Corrupt),
];

/// A text that the table does not know comes from an operation that met what it does not expect.
pub(crate) fn from_text(text: &str) -> StoreError {
    let known = TABLE.iter().find(|(prefix, _)| text.starts_with(prefix));
    known.map_or(StoreError::Corrupt as Make, |(_, make)| *make)(text.to_owned())
}

pub(crate) fn from_server(error: &ServerError) -> StoreError {
    from_text(&text_of(error))
}

pub(crate) fn is_no_function(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("Function not found"))
}

fn text_of(error: &ServerError) -> String {
    // The client cuts LOADING, READONLY and the like into a code and the rest.
    format!("{} {}", error.code(), error.details().unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// A connection could not be made: whatever was to be sent was not.
pub(crate) fn from_connect(error: &RedisError) -> StoreError {
    let text = error.to_string();
    match error.clone().into_server_errors().as_deref() {
        Some([(_, server), ..]) => from_server(server),
        _ => StoreError::Unavailable(text),
    }
}

/// The call was handed to a connection and no answer came.
pub(crate) fn from_call(error: &RedisError) -> StoreError {
    if let Some([(_, server), ..]) = error.clone().into_server_errors().as_deref() {
        return from_server(server);
    }
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => StoreError::Unknown("no answer in time".to_owned()),
        ErrorKind::Io => StoreError::Unknown(format!("the connection broke: {error}")),
        ErrorKind::Parse => StoreError::Unknown(format!("an answer that is none: {error}")),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Connecting took too long.
pub(crate) fn connect_timeout() -> RedisError {
    RedisError::from(io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of Redis 7.0.15, verbatim.
    #[test]
    fn texts_of_the_server_by_case() {
        let (full, busy): (Make, Make) = (StoreError::Full, StoreError::Busy);
        let (unavailable, read_only): (Make, Make) = (StoreError::Unavailable, StoreError::ReadOnly);
        let corrupt: Make = StoreError::Corrupt;
        let cases: &[(&str, Make)] = &[
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                busy,
            ),
            ("LOADING Redis is loading the dataset in memory", busy),
            ("TRYAGAIN Multiple keys request during rehashing of slot", busy),
            ("CLUSTERDOWN The cluster is down", busy),
            ("CLUSTERDOWN Hash slot not served", busy),
            ("OOM command not allowed when used memory > 'maxmemory'.", full),
            (
                "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
                full,
            ),
            (
                "MISCONF Redis is configured to persist data to AOF, but it's currently unable to persist to disk. \
                 Writable scripts are blocked. Use 'no-writes' flag for read only scripts. AOF error: No space left",
                full,
            ),
            (
                "MISCONF Errors writing to the AOF file: No space left on device",
                full,
            ),
            ("READONLY You can't write against a read only replica.", read_only),
            (
                "READONLY Can not run script with write flag on readonly replica",
                read_only,
            ),
            ("NOREPLICAS Not enough good replicas to write.", unavailable),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                unavailable,
            ),
            ("NOAUTH Authentication required.", unavailable),
            (
                "NOPERM this user has no permissions to run the 'evalsha' command",
                unavailable,
            ),
            ("ERR max number of clients reached", unavailable),
            ("DENIED Redis is running in protected mode because", unavailable),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                corrupt,
            ),
            (
                "ERR @user_function: 12: attempt to index a nil value script: tidegate, on @user_function:12.",
                corrupt,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(from_text(text), expected((*text).to_owned()));
        }
    }

    #[test]
    fn a_call_without_an_answer_is_unknown_and_a_failed_connect_is_not() {
        for kind in [
            io::ErrorKind::TimedOut,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
        ] {
            let error = RedisError::from(io::Error::from(kind));
            assert!(matches!(from_call(&error), StoreError::Unknown(_)), "{kind}");
        }
        let refused = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(matches!(from_connect(&refused), StoreError::Unavailable(_)));
        assert!(matches!(
            from_connect(&connect_timeout()),
            StoreError::Unavailable(_)
        ));
    }
}
