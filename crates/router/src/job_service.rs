//! Producers and operators: enter jobs, look at them, steer them.
//!
//! Each handler checks first (whether anything may be taken now, then the request itself) and turns the request into
//! domain types; from there on only [`Refusal`]s and domain types exist.

mod actions;
mod bulk;
mod pages;
mod search;
mod submit;
mod watching;

use std::sync::Arc;

use tidegate_chassis::CancellationToken;
use tidegate_chassis::{tasks::Group, telemetry::trace::Since};
use tidegate_protocol::{
    convert::{self, Invalid},
    domain::{Job, JobId},
    v1,
};
use tidegate_store::{Action, JobStore, StoreResult};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

pub use bulk::BULKS_MAX;
pub(crate) use pages::{page_size, wrong_token};
pub use watching::WATCHERS_MAX;

use crate::{
    admission::Admission,
    catalog::Catalog,
    condition::Condition,
    metrics::{Metrics, Operation},
    pipes::Pipes,
    status::Refusal,
    waiters::Waiters,
};

/// Reads and actions at once over all callers: operators and consoles, not the hot path. More would only queue in the
/// store, in front of submits.
const READS_MAX: usize = 64;
/// Tried this often to fit a page below the message limit; each try halves the page.
const PAGE_TRIES: usize = 11;

/// See the [module](self). A cheap handle.
#[derive(Clone)]
pub struct Jobs {
    pub store: Arc<dyn JobStore>,
    pub pipes: Pipes,
    pub condition: Arc<Condition>,
    pub catalog: Arc<Catalog>,
    pub admission: Arc<Admission>,
    pub metrics: Arc<Metrics>,
    pub waiters: Arc<Waiters>,
    /// Where the streams of watchers run; its bound is theirs.
    pub watchers: Group,
    /// Where actions on many jobs run; its bound is theirs.
    pub bulks: Group,
    pub draining: CancellationToken,
    pub reads: Reads,
}

/// Bounds reads over both services of the router.
#[derive(Clone)]
pub struct Reads {
    room: Arc<Semaphore>,
    condition: Arc<Condition>,
}

impl Reads {
    pub fn new(condition: Arc<Condition>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(READS_MAX)),
            condition,
        }
    }

    /// To be held while the store is asked.
    pub fn enter(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        let permit = self
            .room
            .try_acquire()
            .map_err(|_| Refusal::overloaded("reads"))?;
        self.condition.admit_read()?;
        Ok(permit)
    }

    pub fn record<T>(&self, answer: &StoreResult<T>) {
        self.condition.record(answer.as_ref().err());
    }
}

impl Jobs {
    async fn fetch(&self, id: &JobId) -> Result<Job, Refusal> {
        let _room = self.reads.enter()?;
        let answers = self.store.get(vec![id.clone()]).await;
        let answer = answers.into_iter().next().ok_or_else(Refusal::internal)?;
        self.reads.record(&answer);
        answer
            .map_err(|error| Refusal::store(&error, &id.queue))?
            .ok_or_else(|| Refusal::job_not_found(id))
    }

    fn submitted(&self, since: Since, refusal: Option<&Refusal>) {
        let error_type = refusal.map(Refusal::reason);
        self.metrics
            .operation(Operation::Submit, since.seconds(), error_type);
    }

    fn wire(&self, job: Job) -> v1::Job {
        let max_attempts = self.catalog.max_attempts(&job.id.queue);
        convert::job(job, max_attempts)
    }
}

#[async_trait]
impl v1::job_service_server::JobService for Jobs {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let since = Since::now();
        let answer = self.submit_one(request).await;
        self.submitted(since, answer.as_ref().err());
        Ok(Response::new(answer?))
    }

    async fn submit_jobs(
        &self,
        request: Request<v1::SubmitJobsRequest>,
    ) -> Result<Response<v1::SubmitJobsResponse>, Status> {
        let since = Since::now();
        let answer = self.submit_many(request).await;
        self.submitted(since, answer.as_ref().err());
        Ok(Response::new(answer?))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let id = convert::job_id("job_id", &request.get_ref().job_id).map_err(Refusal::from)?;
        let job = self.fetch(&id).await?;
        Ok(Response::new(v1::GetJobResponse {
            job: Some(self.wire(job)),
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn cancel_jobs(
        &self,
        request: Request<v1::CancelJobsRequest>,
    ) -> Result<Response<v1::CancelJobsResponse>, Status> {
        let results = self.act(Action::Cancel, request.into_inner().job_ids).await?;
        Ok(Response::new(v1::CancelJobsResponse { results }))
    }

    async fn redrive_jobs(
        &self,
        request: Request<v1::RedriveJobsRequest>,
    ) -> Result<Response<v1::RedriveJobsResponse>, Status> {
        let results = self.act(Action::Redrive, request.into_inner().job_ids).await?;
        Ok(Response::new(v1::RedriveJobsResponse { results }))
    }

    async fn delete_jobs(
        &self,
        request: Request<v1::DeleteJobsRequest>,
    ) -> Result<Response<v1::DeleteJobsResponse>, Status> {
        let results = self.act(Action::Delete, request.into_inner().job_ids).await?;
        Ok(Response::new(v1::DeleteJobsResponse { results }))
    }

    type ActOnJobsStream = ReceiverStream<Result<v1::ActOnJobsResponse, Status>>;

    async fn act_on_jobs(
        &self,
        request: Request<v1::ActOnJobsRequest>,
    ) -> Result<Response<Self::ActOnJobsStream>, Status> {
        Ok(Response::new(self.act_on(request.into_inner())?))
    }

    type WatchJobStream = ReceiverStream<Result<v1::WatchJobResponse, Status>>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let id = convert::job_id("job_id", &request.get_ref().job_id).map_err(Refusal::from)?;
        Ok(Response::new(self.watch(id).await?))
    }
}

fn too_many(field: &str, count: usize, max: usize) -> Refusal {
    let message = format!("{count} items; at most {max} are taken");
    Invalid::new(field, tidegate_protocol::reason::BATCH_TOO_LARGE, message).into()
}
