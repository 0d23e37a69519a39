//! The client against a router that misbehaves by script, over real connections.
#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate_client::{Client, ClientError, JobState, Queue, Submission, SubmitOutcome};
use tidegate_protocol::{
    reason,
    v1::{
        self,
        job_service_server::{JobService, JobServiceServer},
    },
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_types::{ErrorDetails, StatusExt};

const EMAIL: Queue<String> = Queue::new("email");

/// What a router does with its next SubmitJobs.
enum Act {
    /// Refuse before anything is done.
    Refuse(Code, &'static str, Option<Duration>),
    /// Take the jobs and lose the answer.
    TakeAndHang,
    /// Refuse the first item only.
    RefuseFirst(Code, &'static str),
}

#[derive(Clone, Default)]
struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    /// Request ids of each SubmitJobs call that arrived.
    calls: Arc<Mutex<Vec<Vec<String>>>>,
    /// Jobs taken, by request id.
    taken: Arc<Mutex<HashMap<String, String>>>,
    /// A permit per answer; `None` = answer at once.
    gate: Option<Arc<Semaphore>>,
    watched: Arc<Mutex<VecDeque<Vec<v1::JobState>>>>,
}

fn status(code: Code, reason: &str, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, reason::DOMAIN, HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, "scripted", details)
}

impl Script {
    fn take(&self, job: &v1::NewJob) -> v1::submit_jobs_response::Item {
        let mut taken = self.taken.lock().unwrap();
        let known = taken.contains_key(&job.request_id);
        let next = format!("{}:0:{:032x}", job.queue, taken.len() + 1);
        let job_id = taken.entry(job.request_id.clone()).or_insert(next).clone();
        let outcome = if known {
            v1::SubmitOutcome::Duplicate
        } else {
            v1::SubmitOutcome::Created
        };
        let submitted = v1::SubmittedJob {
            job_id,
            outcome: outcome.into(),
            state: v1::JobState::Ready.into(),
            ..Default::default()
        };
        v1::submit_jobs_response::Item {
            result: Some(v1::submit_jobs_response::item::Result::Job(submitted)),
        }
    }
}

#[async_trait]
impl JobService for Script {
    type WatchJobStream = ReceiverStream<Result<v1::WatchJobResponse, Status>>;

    async fn submit_job(
        &self,
        _: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn submit_jobs(
        &self,
        request: Request<v1::SubmitJobsRequest>,
    ) -> Result<Response<v1::SubmitJobsResponse>, Status> {
        assert!(
            request.metadata().contains_key("grpc-timeout"),
            "every call carries its deadline"
        );
        let jobs = request.into_inner().jobs;
        self.calls
            .lock()
            .unwrap()
            .push(jobs.iter().map(|job| job.request_id.clone()).collect());
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect("open").forget();
        }
        let act = self.acts.lock().unwrap().pop_front();
        let mut items: Vec<_> = match act {
            Some(Act::Refuse(code, reason, after)) => return Err(status(code, reason, after)),
            _ => jobs.iter().map(|job| self.take(job)).collect(),
        };
        match act {
            Some(Act::TakeAndHang) => std::future::pending::<()>().await,
            Some(Act::RefuseFirst(code, reason)) => {
                let error = v1::ItemError {
                    code: code.into(),
                    reason: reason.into(),
                    ..Default::default()
                };
                items[0].result = Some(v1::submit_jobs_response::item::Result::Error(error));
            }
            _ => {}
        }
        Ok(Response::new(v1::SubmitJobsResponse { items }))
    }

    async fn get_job(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        Err(status(Code::NotFound, reason::JOB_NOT_FOUND, None))
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_jobs(
        &self,
        request: Request<v1::CancelJobsRequest>,
    ) -> Result<Response<v1::CancelJobsResponse>, Status> {
        let result = |job_id| v1::JobActionResult {
            job_id,
            state: v1::JobState::Cancelled.into(),
            error: None,
        };
        let results = request.into_inner().job_ids.into_iter().map(result).collect();
        Ok(Response::new(v1::CancelJobsResponse { results }))
    }

    async fn redrive_jobs(
        &self,
        _: Request<v1::RedriveJobsRequest>,
    ) -> Result<Response<v1::RedriveJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_jobs(
        &self,
        _: Request<v1::DeleteJobsRequest>,
    ) -> Result<Response<v1::DeleteJobsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ActOnJobsStream = ReceiverStream<Result<v1::ActOnJobsResponse, Status>>;

    async fn act_on_jobs(
        &self,
        _: Request<v1::ActOnJobsRequest>,
    ) -> Result<Response<Self::ActOnJobsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let states = self.watched.lock().unwrap().pop_front().unwrap_or_default();
        let id = request.into_inner().job_id;
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        for state in states {
            let job = v1::Job {
                id: id.clone(),
                state: state.into(),
                ..Default::default()
            };
            tx.send(Ok(v1::WatchJobResponse { job: Some(job) }))
                .await
                .expect("it is read");
        }
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test's server ends with the test's runtime"
)]
async fn serve(script: &Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder()
        .add_service(JobServiceServer::new(script.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

async fn one(acts: impl IntoIterator<Item = Act>) -> (Script, Client) {
    let script = Script {
        acts: Arc::new(Mutex::new(acts.into_iter().collect())),
        ..Script::default()
    };
    let address = serve(&script).await;
    let client = Client::connect([address.to_string()]).expect("valid");
    (script, client)
}

#[tokio::test]
async fn submits_in_flight_gather_into_the_next_batch() {
    let gate = Arc::new(Semaphore::new(0));
    let script = Script {
        gate: Some(Arc::clone(&gate)),
        ..Script::default()
    };
    let client = Client::connect([serve(&script).await.to_string()]).expect("valid");
    let submits = (0..101).map(|i| client.submit(&EMAIL, format!("{i}")).send());
    let all = futures_util::future::join_all(submits);
    let open = async {
        while script.calls.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.add_permits(10);
    };
    let (results, ()) = tokio::join!(all, open);
    for result in &results {
        assert_eq!(result.as_ref().expect("taken").outcome, SubmitOutcome::Created);
    }
    let sizes: Vec<usize> = script.calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 101);
    assert!(sizes.len() <= 3, "101 submits took calls of {sizes:?}");
    client.close().await;
}

#[tokio::test]
async fn a_full_batch_leaves_beside_the_call_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let script = Script {
        gate: Some(Arc::clone(&gate)),
        ..Script::default()
    };
    let client = Client::connect([serve(&script).await.to_string()]).expect("valid");
    let sizes = || -> Vec<usize> { script.calls.lock().unwrap().iter().map(Vec::len).collect() };
    let submits = (0..4_500).map(|i| client.submit(&EMAIL, format!("{i}")).send());
    let all = futures_util::future::join_all(submits);
    let open = async {
        // Three calls are the bound, though a fourth batch is full.
        while sizes().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            sizes().len() == 3 && sizes()[1..] == [1_000, 1_000],
            "{:?}",
            sizes()
        );
        gate.add_permits(100);
    };
    let (results, ()) = tokio::join!(all, open);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(sizes().iter().sum::<usize>(), 4_500);
    client.close().await;
}

#[tokio::test]
async fn a_refused_call_is_repeated_with_the_same_request_id() {
    let (script, client) = one([
        Act::Refuse(Code::Unavailable, reason::STORE_UNAVAILABLE, None),
        Act::Refuse(
            Code::Unavailable,
            reason::STORE_BUSY,
            Some(Duration::from_millis(5)),
        ),
    ])
    .await;
    let submitted = client
        .submit(&EMAIL, "x".to_owned())
        .send()
        .await
        .expect("the third try is taken");
    assert_eq!(submitted.outcome, SubmitOutcome::Created);
    let calls = script.calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|ids| ids == &calls[0]), "{calls:?}");
}

#[tokio::test]
async fn an_item_refused_for_now_is_repeated_alone() {
    let (script, client) = one([Act::RefuseFirst(Code::Unavailable, reason::STORE_BUSY)]).await;
    client
        .submit(&EMAIL, "x".to_owned())
        .send()
        .await
        .expect("the second try is taken");
    assert_eq!(script.calls.lock().unwrap().len(), 2);
    let refused = Act::RefuseFirst(Code::Unavailable, reason::STORE_BUSY);
    script.acts.lock().unwrap().push_back(refused);
    let many = ["a", "b"].map(|text| Submission::new(&EMAIL, text.to_owned()));
    let results = client.submit_many(many).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let sizes: Vec<usize> = script.calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 1, 2, 1]);
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_of_another_router_and_answers_duplicate() {
    let hanging = Script::default();
    hanging.acts.lock().unwrap().push_back(Act::TakeAndHang);
    // Both stand before one store; whichever is asked first hangs once.
    let other = hanging.clone();
    let addresses = [serve(&hanging).await.to_string(), serve(&other).await.to_string()];
    let client = Client::connect(addresses)
        .expect("valid")
        .timeout(Duration::from_millis(1_200));
    let submitted = client
        .submit(&EMAIL, "x".to_owned())
        .send()
        .await
        .expect("the other router knows it");
    assert_eq!(submitted.outcome, SubmitOutcome::Duplicate);
}

#[tokio::test]
async fn a_dead_router_is_left_for_the_next() {
    let script = Script::default();
    let live = serve(&script).await.to_string();
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port")
        .local_addr()
        .expect("bound");
    for _ in 0..8 {
        let client = Client::connect([dead.to_string(), live.clone()]).expect("valid");
        client
            .submit(&EMAIL, "x".to_owned())
            .send()
            .await
            .expect("the live one takes it");
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_within_the_deadline() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port")
        .local_addr()
        .expect("bound");
    let client = Client::connect([dead.to_string()])
        .expect("valid")
        .timeout(Duration::from_millis(300));
    let error = client
        .submit(&EMAIL, "x".to_owned())
        .send()
        .await
        .expect_err("nobody is there");
    assert!(
        matches!(
            error,
            ClientError::Unavailable { .. } | ClientError::Timeout { .. }
        ),
        "{error:?}"
    );
    let error = client
        .get("email:0:00000000000000000000000000000001")
        .await
        .expect_err("nobody is there");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn backpressure_is_typed_and_not_repeated() {
    let after = Duration::from_millis(750);
    let (script, client) = one([Act::Refuse(
        Code::ResourceExhausted,
        reason::QUEUE_FULL,
        Some(after),
    )])
    .await;
    let error = client
        .submit(&EMAIL, "x".to_owned())
        .send()
        .await
        .expect_err("full");
    assert!(
        matches!(&error, ClientError::Backpressure { retry_after, reason, .. }
        if *retry_after == after && reason == reason::QUEUE_FULL)
    );
    assert_eq!(script.calls.lock().unwrap().len(), 1);
    script.acts.lock().unwrap().push_back(Act::RefuseFirst(
        Code::AlreadyExists,
        reason::IDEMPOTENCY_KEY_REUSED,
    ));
    let error = client
        .submit(&EMAIL, "x".to_owned())
        .key("k")
        .send()
        .await
        .expect_err("reused");
    assert!(matches!(error, ClientError::KeyReused { .. }), "{error:?}");
}

#[tokio::test]
async fn retries_end_with_the_budget() {
    let refusals = (0..1_000).map(|_| Act::Refuse(Code::Unavailable, reason::STORE_BUSY, None));
    let (script, client) = one(refusals).await;
    let client = client.timeout(Duration::from_secs(30));
    let error = client
        .submit_raw("email", "x")
        .send()
        .await
        .expect_err("always refused");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
    let first = script.calls.lock().unwrap().len();
    assert_eq!(first, 11, "one try and the reserve of ten");
    client
        .submit_raw("email", "x")
        .send()
        .await
        .expect_err("always refused");
    assert_eq!(
        script.calls.lock().unwrap().len(),
        first + 1,
        "no budget, no retry"
    );
}

#[tokio::test]
async fn waiting_survives_a_router_that_drains() {
    let (script, client) = one([]).await;
    script.watched.lock().unwrap().extend([
        vec![v1::JobState::Ready, v1::JobState::Running],
        vec![v1::JobState::Running, v1::JobState::Succeeded],
    ]);
    let id = "email:0:00000000000000000000000000000001";
    let job = client
        .wait(id, Duration::from_secs(5))
        .await
        .expect("it succeeds");
    assert_eq!(
        (job.state, job.id.to_string().as_str()),
        (JobState::Succeeded, id)
    );
    let error = client
        .wait(id, Duration::from_millis(50))
        .await
        .expect_err("it never ends");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn calls_about_jobs_answer_per_job() {
    let (_script, client) = one([]).await;
    let id = "email:0:00000000000000000000000000000001";
    let results = client.cancel([id, id]).await.expect("answered");
    assert_eq!(results.len(), 2);
    assert_eq!(results[0].state, Some(JobState::Cancelled));
    let error = client.get(id).await.expect_err("not there");
    assert!(matches!(&error, ClientError::NotFound { reason, .. } if reason == reason::JOB_NOT_FOUND));
}
