//! How a job gets to the code that does it: a Rust function ([`crate::Handler`]), an HTTP app ([`crate::http`]), a command
//! ([`crate::exec`]).

use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;

use crate::{Job, Verdict};

/// Runs one attempt and says how it ended.
///
/// The future may be dropped at any await: when the attempt is to stop, it has at most a second after
/// [`crate::JobContext::cancelled`]. The timeout is kept by the caller.
#[async_trait]
pub trait Delivery: Send + Sync + 'static {
    async fn deliver(&self, job: Job) -> Verdict;
}

/// A time of the job store's clock, for programs in other languages.
pub(crate) fn rfc3339(epoch_ms: u64) -> String {
    // Times on the wire end with the year 9999; what lies beyond is not formatted by anyone.
    let time = UNIX_EPOCH + Duration::from_millis(epoch_ms.min(tidegate_protocol::convert::TIME_MS_MAX));
    humantime::format_rfc3339_millis(time).to_string()
}
