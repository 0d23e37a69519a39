//! One action on all jobs that a filter names, batch by batch, with word of how far it is.
//!
//! It works on what was there when it began: jobs that come later are not meant. Jobs that move while pages go by may be
//! missed by one pass, so passes are made until one finds nothing to do.

use std::time::Duration;

use tidegate_chassis::CancellationToken;
use tidegate_protocol::{
    convert::Invalid,
    domain::{JobId, JobState},
    reason, v1,
};
use tidegate_store::{Action, ActionAnswer};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Jobs,
    search::{Filter, Place},
};
use crate::status::Refusal;

/// At once on this router: each keeps the store busy.
pub const BULKS_MAX: usize = 4;
/// Jobs of one store call.
const BATCH: usize = 200;
/// Between two of them, so that submits and leases get their turn.
const PAUSE: Duration = Duration::from_millis(2);
/// After these something keeps bringing jobs that fit: whoever wants more calls again.
const PASSES_MAX: u32 = 20;
/// Messages that a slow reader may be behind; then the work waits for it.
const PROGRESS_QUEUED: usize = 4;
/// A reader that takes nothing for this long is let go, and the work ends.
const READER_PATIENCE: Duration = Duration::from_secs(30);

type Progress = Result<v1::ActOnJobsResponse, Status>;

impl Jobs {
    pub(super) fn act_on(&self, wire: v1::ActOnJobsRequest) -> Result<ReceiverStream<Progress>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::draining());
        }
        let action = action(wire.action)?;
        let missing = || Invalid::new("filter", reason::INVALID_ARGUMENT, "must be set");
        let filter = Filter::of(wire.filter.ok_or_else(missing)?).map_err(|error| error.within("filter"))?;
        let filter = filter.only(states_of(action))?;
        let (progress, stream) = mpsc::channel(PROGRESS_QUEUED);
        let bulk = Bulk {
            jobs: self.clone(),
            action,
            filter: filter.until(self.condition.store_clock_ms() + 1),
            sums: v1::ActOnJobsResponse::default(),
            progress,
        };
        let draining = self.draining.clone();
        self.bulks
            .spawn(bulk.run(draining))
            .map_err(|why| Refusal::group(&why, "bulk actions"))?;
        Ok(ReceiverStream::new(stream))
    }
}

struct Bulk {
    jobs: Jobs,
    action: Action,
    filter: Filter,
    sums: v1::ActOnJobsResponse,
    progress: mpsc::Sender<Progress>,
}

impl Bulk {
    async fn run(mut self, draining: CancellationToken) {
        let ended = tokio::select! {
            biased;
            () = draining.cancelled() => Err(Refusal::draining()),
            ended = self.all() => ended,
        };
        let last = ended.map(|()| v1::ActOnJobsResponse {
            finished: true,
            ..self.sums
        });
        if let Ok(sums) = &last {
            let (queue, action) = (&self.filter.queue, self.action);
            tracing::info!(%queue, ?action, done = sums.done, refused = sums.refused, "an action on many jobs has ended");
        }
        self.tell(last.map_err(Refusal::into_status)).await;
    }

    async fn all(&mut self) -> Result<(), Refusal> {
        for pass in 0..PASSES_MAX {
            let done = self.sums.done;
            self.pass(pass == 0).await?;
            if self.sums.done == done {
                break;
            }
        }
        Ok(())
    }

    /// Through all states once.
    async fn pass(&mut self, is_first: bool) -> Result<(), Refusal> {
        let mut place = Place::first(&self.filter);
        while let Some(here) = place.take() {
            let (found, next) = self.jobs.look(&self.filter, &here, BATCH).await?;
            place = next;
            if is_first {
                self.sums.examined += found.len() as u64;
            }
            let ids: Vec<JobId> = found
                .into_iter()
                .filter(|job| self.filter.fits(job))
                .map(|job| job.id)
                .collect();
            if !ids.is_empty() {
                self.act(ids, is_first).await?;
            }
            if !self.tell(Ok(self.sums)).await {
                // Nobody listens any more: nobody wants the rest.
                return Err(Refusal::slow_reader());
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn act(&mut self, ids: Vec<JobId>, is_first: bool) -> Result<(), Refusal> {
        let answers = {
            let _room = self.jobs.reads.enter()?;
            let answers = self.jobs.store.act(self.action, ids).await;
            self.jobs.condition.record_all(&answers);
            answers
        };
        for answer in answers {
            match answer.map_err(|error| Refusal::store(&error, &self.filter.queue))? {
                ActionAnswer::Done(_) => self.sums.done += 1,
                // It has ended meanwhile, or somebody else was faster. Each pass meets it again.
                ActionAnswer::NotFound | ActionAnswer::WrongState(_) | ActionAnswer::KeyTaken(_) => {
                    self.sums.refused += u64::from(is_first);
                }
            }
        }
        Ok(())
    }

    /// False if nobody reads any more.
    async fn tell(&self, progress: Progress) -> bool {
        let sent = timeout(READER_PATIENCE, self.progress.send(progress)).await;
        matches!(sent, Ok(Ok(())))
    }
}

fn action(code: i32) -> Result<Action, Invalid> {
    match v1::JobAction::try_from(code) {
        Ok(v1::JobAction::Cancel) => Ok(Action::Cancel),
        Ok(v1::JobAction::Redrive) => Ok(Action::Redrive),
        Ok(v1::JobAction::Delete) => Ok(Action::Delete),
        Ok(v1::JobAction::Unspecified) | Err(_) => {
            let message = "must name an action, e.g. JOB_ACTION_CANCEL";
            Err(Invalid::new("action", reason::INVALID_ARGUMENT, message))
        }
    }
}

/// Others would only be refused, one by one.
fn states_of(action: Action) -> &'static [JobState] {
    match action {
        Action::Cancel => &[JobState::Scheduled, JobState::Ready, JobState::Running],
        Action::Redrive => &[JobState::Dead],
        Action::Delete => &JobState::ALL,
    }
}
