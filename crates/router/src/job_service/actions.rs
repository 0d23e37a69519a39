//! Cancelling, redriving and deleting: an answer per id.

use tidegate_protocol::{convert, domain::JobState, limits, v1};
use tidegate_store::{Action, ActionAnswer};

use super::{Jobs, too_many};
use crate::status::Refusal;

impl Jobs {
    pub(super) async fn act(
        &self,
        action: Action,
        ids: Vec<String>,
    ) -> Result<Vec<v1::JobActionResult>, Refusal> {
        if ids.len() > limits::BATCH_ITEMS_MAX {
            return Err(too_many("job_ids", ids.len(), limits::BATCH_ITEMS_MAX));
        }
        let parsed: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(at, id)| convert::job_id(&format!("job_ids[{at}]"), id))
            .collect();
        let valid: Vec<_> = parsed.iter().flatten().cloned().collect();
        let mut answers = if valid.is_empty() {
            Vec::new().into_iter()
        } else {
            let _room = self.reads.enter()?;
            let answers = self.store.act(action, valid).await;
            self.condition.record_all(&answers);
            answers.into_iter()
        };
        let result = |(job_id, parsed)| {
            let id = match parsed {
                Ok(id) => id,
                Err(invalid) => return refused(job_id, None, Refusal::from(invalid)),
            };
            match answers.next() {
                None => refused(job_id, None, Refusal::internal()),
                Some(Ok(ActionAnswer::Done(state))) => done(job_id, state),
                Some(Ok(ActionAnswer::NotFound)) => refused(job_id, None, Refusal::job_not_found(&id)),
                Some(Ok(ActionAnswer::WrongState(state))) => {
                    refused(job_id, Some(state), Refusal::wrong_state(state))
                }
                Some(Ok(ActionAnswer::KeyTaken(owner))) => {
                    refused(job_id, Some(JobState::Dead), Refusal::key_taken(&owner))
                }
                Some(Err(error)) => refused(job_id, None, Refusal::store(&error, &id.queue)),
            }
        };
        Ok(ids.into_iter().zip(parsed).map(result).collect())
    }
}

fn done(job_id: String, state: Option<JobState>) -> v1::JobActionResult {
    v1::JobActionResult {
        job_id,
        state: wire_state(state),
        error: None,
    }
}

fn refused(job_id: String, state: Option<JobState>, refusal: Refusal) -> v1::JobActionResult {
    v1::JobActionResult {
        job_id,
        state: wire_state(state),
        error: Some(refusal.into_item()),
    }
}

fn wire_state(state: Option<JobState>) -> i32 {
    state.map_or(v1::JobState::Unspecified, v1::JobState::from).into()
}
