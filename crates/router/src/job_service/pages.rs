//! Listing jobs page by page (AIP-158).

use prost::Message;
use tidegate_protocol::{convert::Invalid, domain::Job, limits, reason, v1};

use super::{
    Jobs, PAGE_TRIES,
    search::{Filter, Place},
};
use crate::status::Refusal;

/// A page's bytes: leaves room below the message limit for what gRPC adds.
const PAGE_BYTES_MAX: usize = limits::BATCH_BYTES_MAX;
/// Jobs that one call compares: what is rare must not make one call read a whole store.
const EXAMINED_MAX: usize = 10_000;
/// Of one store call, while few of them may fit.
const LOOK_MAX: usize = 1_000;

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
        let mut limit = page_size(wire.page_size)?;
        let filter = Filter::of(v1::JobFilter {
            queue: wire.queue,
            state: wire.state,
            created_from_ms: wire.created_from_ms,
            created_before_ms: wire.created_before_ms,
            idempotency_key: wire.idempotency_key,
        })?;
        let place = Place::parse(&wire.page_token, &filter)?;
        // Jobs with many headers make a page too large for one message: then a shorter one.
        for _ in 0..PAGE_TRIES {
            let (jobs, next) = self.page(&filter, place.clone(), limit).await?;
            let response = v1::ListJobsResponse {
                jobs: jobs.into_iter().map(|job| self.wire(job)).collect(),
                next_page_token: next.map_or_else(String::new, |next| next.token()),
            };
            if limit == 1 || response.encoded_len() <= PAGE_BYTES_MAX {
                return Ok(response);
            }
            limit = (limit / 2).max(1);
        }
        Err(Refusal::internal())
    }

    /// As many jobs as asked for, unless looking for them takes too long.
    async fn page(
        &self,
        filter: &Filter,
        place: Place,
        limit: usize,
    ) -> Result<(Vec<Job>, Option<Place>), Refusal> {
        let (mut found, mut examined, mut place) = (Vec::new(), 0, Some(place));
        while let Some(here) = place.take() {
            let missing = limit - found.len();
            let at_once = if filter.is_narrow() { LOOK_MAX } else { missing };
            let (mut jobs, mut next) = self.look(filter, &here, at_once).await?;
            let fitting = jobs.iter().enumerate().filter(|(_, job)| filter.fits(job));
            let last = fitting.map(|(at, _)| at + 1).nth(missing - 1);
            if let Some(last) = last.filter(|last| *last < jobs.len()) {
                // More than the page takes: again up to its last job, so that the next page begins right behind it.
                (jobs, next) = self.look(filter, &here, last).await?;
            }
            examined += jobs.len().max(1);
            found.extend(jobs.into_iter().filter(|job| filter.fits(job)).take(missing));
            place = next;
            if found.len() >= limit || examined >= EXAMINED_MAX {
                break;
            }
        }
        Ok((found, place))
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
}
