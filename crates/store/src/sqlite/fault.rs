//! What an error of SQLite means.

use std::path::Path;

use crate::{OpenError, StoreError};

/// Result codes of SQLite, <https://www.sqlite.org/rescode.html>.
const READ_ONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;
/// Extended: there is no room for the shared memory of the log.
const NO_ROOM_FOR_SHARED_MEMORY: i32 = 4874;
/// An extended code has its primary one in the lowest byte.
const PRIMARY: i32 = 0xff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Full,
    ReadOnly,
    Damaged,
    NotADatabase,
    Interrupted,
    Other,
}

impl Fault {
    pub fn of(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
        match code & PRIMARY {
            _ if code == NO_ROOM_FOR_SHARED_MEMORY => Self::Full,
            FULL => Self::Full,
            READ_ONLY => Self::ReadOnly,
            CORRUPT => Self::Damaged,
            NOT_A_DATABASE => Self::NotADatabase,
            INTERRUPT => Self::Interrupted,
            _ => Self::Other,
        }
    }
}

/// What an error while opening says about the file.
pub(super) fn explain(path: &Path, error: &sqlx::Error) -> OpenError {
    let (path, text) = (path.to_owned(), error.to_string());
    match Fault::of(error) {
        Fault::NotADatabase => OpenError::NotAStore {
            path,
            why: "it is no SQLite database".to_owned(),
        },
        Fault::Damaged => OpenError::Damaged { path, why: text },
        _ => OpenError::Io { path, error: text },
    }
}

/// So that callers hear what is wrong with the disk.
pub(super) fn classify(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    match Fault::of(error) {
        Fault::Full => StoreError::Full(text),
        Fault::ReadOnly => StoreError::ReadOnly(text),
        Fault::Damaged | Fault::NotADatabase => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}
