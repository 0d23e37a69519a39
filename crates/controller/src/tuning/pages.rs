//! Lists page by page (AIP-158).

use tidegate_protocol::{convert::Invalid, domain::QueueName, limits, reason, v1};

use super::{Tuning, queue};
use crate::{core::EPOCH_MAX, ledger::Place, status::Refusal, wire};

/// A policy may hold 64 KiB of schema, a message 4 MiB.
const POLICIES_PER_PAGE_MAX: usize = 50;

/// 0 is the default, above the maximum is the maximum, negative is refused.
fn page_size(size: i32, max: usize) -> Result<usize, Refusal> {
    match usize::try_from(size) {
        Ok(0) => Ok(limits::PAGE_ITEMS_DEFAULT.min(max)),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(Invalid::new("page_size", reason::INVALID_PAGE, "must not be negative").into()),
    }
}

/// The last name of the page before.
fn after(token: &str) -> Result<Option<QueueName>, Refusal> {
    match token {
        "" => Ok(None),
        token => Ok(Some(token.parse().map_err(|_| Refusal::wrong_token())?)),
    }
}

impl Tuning {
    pub(super) async fn policies(
        &self,
        wire: v1::ListPoliciesRequest,
    ) -> Result<v1::ListPoliciesResponse, Refusal> {
        let size = page_size(wire.page_size, POLICIES_PER_PAGE_MAX)?;
        let after = after(&wire.page_token)?;
        let mut page = self
            .ask_leader(move |core, _| core.policies(after.as_ref(), size + 1))
            .await?;
        let is_more = page.len() > size;
        page.truncate(size);
        let last = page.last().filter(|_| is_more).map(|(name, ..)| name.to_string());
        Ok(v1::ListPoliciesResponse {
            policies: page
                .into_iter()
                .map(|(name, policy, _)| (name, policy, None).into())
                .collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }

    pub(super) async fn resources(
        &self,
        wire: v1::ListResourcesRequest,
    ) -> Result<v1::ListResourcesResponse, Refusal> {
        let size = page_size(wire.page_size, limits::PAGE_ITEMS_MAX)?;
        let after = after(&wire.page_token)?;
        let mut page = self
            .ask_leader(move |core, _| core.resources(after.as_ref().map(QueueName::as_str), size + 1))
            .await?;
        let is_more = page.len() > size;
        page.truncate(size);
        let last = page
            .last()
            .filter(|_| is_more)
            .map(|(resource, _)| resource.name.clone());
        Ok(v1::ListResourcesResponse {
            resources: page.into_iter().map(v1::Resource::from).collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }

    pub(super) async fn past(&self, wire: v1::HistoryRequest) -> Result<v1::HistoryResponse, Refusal> {
        let size = page_size(wire.page_size, limits::PAGE_ITEMS_MAX)?;
        let name = match wire.queue.as_str() {
            "" => None,
            name => Some(queue(name)?),
        };
        let before = match wire.page_token.as_str() {
            "" => None,
            token => Some(place(token).ok_or_else(Refusal::wrong_token)?),
        };
        let name = name.as_ref().map(QueueName::as_str);
        let page = self.ledger.page(name, wire.since_ms, before, size).await?;
        let token = |place: Place| format!("{}.{}", place.epoch, place.number);
        Ok(v1::HistoryResponse {
            decisions: page.decisions.into_iter().map(wire::past_decision).collect(),
            next_page_token: page.before.map_or_else(String::new, token),
        })
    }
}

/// The last decision of the page before.
fn place(token: &str) -> Option<Place> {
    let (epoch, number) = token.split_once('.')?;
    Some(Place {
        epoch: epoch.parse().ok().filter(|epoch| *epoch <= EPOCH_MAX)?,
        number: number.parse().ok().filter(|number| *number <= EPOCH_MAX)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_and_tokens() {
        assert_eq!(page_size(0, 1_000).ok(), Some(100));
        assert_eq!(page_size(5_000, 50).ok(), Some(50));
        assert!(page_size(-1, 50).is_err());
        assert!(after("Not A Name").is_err());
        assert_eq!(after("").ok(), Some(None));
        assert_eq!(after("a").ok(), Some("a".parse().ok()));
        let known = Place { epoch: 3, number: 14 };
        assert_eq!(place("3.14"), Some(known));
        for wrong in ["3", "3.x", "-1.2", "18446744073709551615.1"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
