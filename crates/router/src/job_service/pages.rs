//! Listing jobs page by page (AIP-158).

use prost::Message;
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::JobState,
    limits, reason, v1,
};
use tidegate_store::{ListRequest, StoreError};

use super::{Jobs, PAGE_TRIES};
use crate::status::Refusal;

/// A page's bytes: leaves room below the message limit for what gRPC adds.
const PAGE_BYTES_MAX: usize = limits::BATCH_BYTES_MAX;
/// Stores' cursors are a few numbers; anything longer was not made here.
const TOKEN_BYTES_MAX: usize = 512;

/// 0 is the default, above the maximum is the maximum, negative is refused.
pub(crate) fn page_size(size: i32) -> Result<usize, Refusal> {
    match usize::try_from(size) {
        Ok(0) => Ok(limits::PAGE_ITEMS_DEFAULT),
        Ok(size) => Ok(size.min(limits::PAGE_ITEMS_MAX)),
        Err(_) => Err(Invalid::new("page_size", reason::INVALID_PAGE, "must not be negative").into()),
    }
}

pub(crate) fn wrong_token() -> Refusal {
    Invalid::new(
        "page_token",
        reason::INVALID_PAGE,
        "was not answered by this call with these filters",
    )
    .into()
}

impl Jobs {
    pub(super) async fn list(&self, wire: v1::ListJobsRequest) -> Result<v1::ListJobsResponse, Refusal> {
        let queue = convert::queue_name("queue", &wire.queue)?;
        let state = convert::job_state("state", wire.state)?;
        let mut limit = page_size(wire.page_size)?;
        let cursor = cursor(&wire.page_token, state)?;
        // Jobs with many headers make a page too large for one message: then a shorter one.
        for _ in 0..PAGE_TRIES {
            let _room = self.reads.enter()?;
            let request = ListRequest {
                queue: queue.clone(),
                state,
                limit: limit as u32,
                cursor: cursor.clone(),
            };
            let answer = self.store.list(request).await;
            self.reads.record(&answer);
            let page = answer.map_err(|error| match error {
                StoreError::Invalid(_) => wrong_token(),
                error => Refusal::store(&error, &queue),
            })?;
            let response = v1::ListJobsResponse {
                jobs: page.jobs.into_iter().map(|job| self.wire(job)).collect(),
                next_page_token: page.next.map_or_else(String::new, |next| token(state, &next)),
            };
            if limit == 1 || response.encoded_len() <= PAGE_BYTES_MAX {
                return Ok(response);
            }
            limit = (limit / 2).max(1);
        }
        Err(Refusal::internal())
    }
}

/// The state is in the token, so that one of another listing is refused instead of giving other jobs.
fn token(state: JobState, cursor: &str) -> String {
    format!("{}.{cursor}", state.code())
}

fn cursor(token: &str, state: JobState) -> Result<Option<String>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    match token.split_once('.') {
        Some((code, cursor)) if token.len() <= TOKEN_BYTES_MAX && code == state.code().to_string() => {
            Ok(Some(cursor.to_owned()))
        }
        _ => Err(wrong_token()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_by_aip_158() {
        assert_eq!(page_size(0).unwrap(), 100);
        assert_eq!(page_size(7).unwrap(), 7);
        assert_eq!(page_size(1_001).unwrap(), 1_000);
        assert_eq!(page_size(-1).unwrap_err().reason(), reason::INVALID_PAGE);
    }

    #[test]
    fn a_token_belongs_to_its_listing() {
        let mine = token(JobState::Dead, "7.x");
        assert_eq!(cursor(&mine, JobState::Dead).unwrap().as_deref(), Some("7.x"));
        for (text, state) in [
            (mine.as_str(), JobState::Ready),
            ("7", JobState::Dead),
            (&"5.".repeat(400), JobState::Dead),
        ] {
            assert!(cursor(text, state).is_err());
        }
        assert_eq!(cursor("", JobState::Dead).unwrap(), None);
    }
}
