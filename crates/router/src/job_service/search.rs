//! Which jobs of a queue somebody means.
//!
//! Stores list one state at a time and know no other order: times and keys are compared here, while pages go by. So a search
//! costs what it looks at, and is bounded by call.

use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{Job, JobState, QueueName},
    limits, reason, v1,
};
use tidegate_store::{JobPage, ListRequest, StoreError};

use super::{Jobs, pages::wrong_token};
use crate::status::Refusal;

/// Stores' cursors are a few numbers; anything longer was not made here.
const TOKEN_BYTES_MAX: usize = 512;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    pub queue: QueueName,
    /// Looked through in this order; never empty.
    pub states: Vec<JobState>,
    pub created_from_ms: u64,
    /// 0: whenever.
    pub created_before_ms: u64,
    pub key: String,
}

impl Filter {
    pub fn of(wire: v1::JobFilter) -> Result<Self, Invalid> {
        let key = wire.idempotency_key;
        if key.len() > limits::KEY_BYTES_MAX {
            let message = format!("{} bytes; at most {} are taken", key.len(), limits::KEY_BYTES_MAX);
            return Err(Invalid::new("idempotency_key", reason::INVALID_KEY, message));
        }
        let (from, before) = (wire.created_from_ms, wire.created_before_ms);
        if before > 0 && before <= from {
            let message = "is not after created_from_ms: no job is both";
            return Err(Invalid::new("created_before_ms", reason::INVALID_TIME, message));
        }
        Ok(Self {
            queue: convert::queue_name("queue", &wire.queue)?,
            states: match wire.state {
                0 => JobState::ALL.to_vec(),
                state => vec![convert::job_state("state", state)?],
            },
            created_from_ms: from,
            created_before_ms: before,
            key,
        })
    }

    /// Nothing outside of these states.
    pub fn only(mut self, states: &[JobState]) -> Result<Self, Invalid> {
        self.states.retain(|state| states.contains(state));
        if self.states.is_empty() {
            let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
            let message = format!("the action is for jobs that are {}", names.join(", "));
            return Err(Invalid::new("filter.state", reason::INVALID_ARGUMENT, message));
        }
        Ok(self)
    }

    /// Nothing submitted later.
    pub fn until(mut self, created_before_ms: u64) -> Self {
        let before = &mut self.created_before_ms;
        *before = match *before {
            0 => created_before_ms,
            before => before.min(created_before_ms),
        };
        self
    }

    /// Whether a job of the right queue and state is meant.
    pub fn fits(&self, job: &Job) -> bool {
        job.created_ms >= self.created_from_ms
            && (self.created_before_ms == 0 || job.created_ms < self.created_before_ms)
            && (self.key.is_empty() || job.idempotency_key.as_deref() == Some(self.key.as_str()))
    }

    /// Whether more than queue and state has to be compared.
    pub fn is_narrow(&self) -> bool {
        self.created_from_ms > 0 || self.created_before_ms > 0 || !self.key.is_empty()
    }

    /// The state after this one.
    fn after(&self, state: JobState) -> Option<JobState> {
        let at = self.states.iter().position(|known| *known == state)?;
        self.states.get(at + 1).copied()
    }
}

/// A place in a search: a state, and a place of the store's in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub state: JobState,
    cursor: Option<String>,
}

impl Place {
    pub fn first(filter: &Filter) -> Option<Self> {
        let state = *filter.states.first()?;
        Some(Self { state, cursor: None })
    }

    /// The state is in the token, so that one of another listing is refused instead of giving other jobs.
    pub fn token(&self) -> String {
        let cursor = self.cursor.as_deref().unwrap_or_default();
        format!("{}.{cursor}", self.state.code())
    }

    /// Empty: the begin.
    pub fn parse(token: &str, filter: &Filter) -> Result<Self, Refusal> {
        if token.is_empty() {
            return Self::first(filter).ok_or_else(Refusal::internal);
        }
        let parts = token.split_once('.').filter(|_| token.len() <= TOKEN_BYTES_MAX);
        let (code, cursor) = parts.ok_or_else(wrong_token)?;
        let state = filter
            .states
            .iter()
            .find(|state| state.code().to_string() == code);
        Ok(Self {
            state: *state.ok_or_else(wrong_token)?,
            cursor: (!cursor.is_empty()).then(|| cursor.to_owned()),
        })
    }
}

impl Jobs {
    /// The store's next page of a search, whole, and where to go on.
    pub(super) async fn look(
        &self,
        filter: &Filter,
        place: &Place,
        limit: usize,
    ) -> Result<(Vec<Job>, Option<Place>), Refusal> {
        let _room = self.reads.enter()?;
        let request = ListRequest {
            queue: filter.queue.clone(),
            state: place.state,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            cursor: place.cursor.clone(),
        };
        let answer = self.store.list(request).await;
        self.reads.record(&answer);
        let JobPage { jobs, next } = answer.map_err(|error| match error {
            StoreError::Invalid(_) => wrong_token(),
            error => Refusal::store(&error, &filter.queue),
        })?;
        let state = place.state;
        let place = match next {
            Some(next) => Some(Place {
                state,
                cursor: Some(next),
            }),
            None => filter.after(state).map(|state| Place { state, cursor: None }),
        };
        Ok((jobs, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(state: v1::JobState) -> Filter {
        Filter::of(v1::JobFilter {
            queue: "email".into(),
            state: state.into(),
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn a_token_belongs_to_its_listing() {
        let dead = filter(v1::JobState::Dead);
        let mine = Place {
            state: JobState::Dead,
            cursor: Some("7.x".into()),
        };
        let token = mine.token();
        assert_eq!(Place::parse(&token, &dead).unwrap(), mine);
        for (text, filter) in [
            (token.as_str(), &filter(v1::JobState::Ready)),
            ("7", &dead),
            (&"5.".repeat(400), &dead),
            ("x.", &dead),
        ] {
            assert!(Place::parse(text, filter).is_err());
        }
        assert_eq!(Place::parse("", &dead).unwrap().cursor, None);
    }

    #[test]
    fn a_search_goes_through_its_states_in_order() {
        let all = filter(v1::JobState::Unspecified);
        let mut place = Place::first(&all).map(|place| place.state);
        let mut seen = Vec::new();
        while let Some(state) = place {
            seen.push(state);
            place = all.after(state);
        }
        assert_eq!(seen, JobState::ALL);
        assert_eq!(filter(v1::JobState::Dead).after(JobState::Dead), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let wire = |from, before, key: &str| v1::JobFilter {
            queue: "email".into(),
            created_from_ms: from,
            created_before_ms: before,
            idempotency_key: key.into(),
            ..Default::default()
        };
        assert!(Filter::of(wire(5, 6, "k")).unwrap().is_narrow());
        assert_eq!(Filter::of(wire(5, 5, "")).unwrap_err().field, "created_before_ms");
        assert_eq!(
            Filter::of(wire(0, 0, &"k".repeat(256))).unwrap_err().field,
            "idempotency_key"
        );
        assert_eq!(Filter::of(v1::JobFilter::default()).unwrap_err().field, "queue");
    }
}
