//! A router under test, and a worker that says exactly what it is told to.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, admin::Readiness, telemetry::Metrics};
use tidegate_protocol::v1::{
    self, job_service_client::JobServiceClient, lease_request::Message as Up,
    lease_response::Message as Down, lease_service_client::LeaseServiceClient,
    queue_service_client::QueueServiceClient,
};
use tidegate_router::{Host, RouterConfig, RunError};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

pub use super::faulty::Faulty;

/// Longer than anything should take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to believe that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A running router.
pub struct Server {
    pub store: Arc<Faulty>,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    pub channel: Channel,
    pub address: std::net::SocketAddr,
    task: JoinHandle<Result<(), RunError>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Arc::default(), RouterConfig::default()).await
    }

    pub async fn on(store: Arc<Faulty>) -> Self {
        Self::with(store, RouterConfig::default()).await
    }

    pub async fn with(store: Arc<Faulty>, config: RouterConfig) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let metrics = Metrics::for_test("tidegate-router");
        let host = Host {
            grpc: bind().await.unwrap(),
            admin: Some((bind().await.unwrap(), metrics.clone())),
            readiness: Readiness::new(),
        };
        let address = host.grpc.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (is_ready, ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let (store, shutdown) = (store.clone(), shutdown.clone());
            let ready = |ready| is_ready.send(ready).unwrap();
            async move { tidegate_router::serve(&config, store, host, shutdown, ready).await }
        });
        let ready = timeout(PATIENCE, ready)
            .await
            .expect("it starts")
            .expect("it is ready");
        assert_eq!(ready.grpc, address);
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self {
            store,
            metrics,
            shutdown,
            channel,
            address,
            task,
        }
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub fn queues(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel.clone())
    }

    /// A job with a payload; gives its id.
    pub async fn submit(&self, queue: &str) -> String {
        let request = v1::SubmitJobRequest {
            job: Some(new_job(queue)),
        };
        let answer = self.jobs().submit_job(request).await.expect("submit");
        answer.into_inner().job.unwrap().job_id
    }

    pub async fn submit_many(&self, queue: &str, count: usize) -> Vec<String> {
        let request = v1::SubmitJobsRequest {
            jobs: vec![new_job(queue); count],
        };
        let answer = self
            .jobs()
            .submit_jobs(request)
            .await
            .expect("submit")
            .into_inner();
        answer
            .items
            .into_iter()
            .map(|item| submitted(item).job_id)
            .collect()
    }

    /// A worker of its own process, welcomed.
    pub async fn worker(&self, queues: &[&str]) -> Worker {
        let (worker, welcome) = Worker::connect(self, hello(queues)).await;
        assert!(welcome.reclaimed.is_empty() && welcome.lost.is_empty());
        worker
    }

    /// Drains, and waits for the end.
    pub async fn stop(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        self.ended().await
    }

    pub async fn ended(self) -> Result<(), RunError> {
        let Self { task, channel, .. } = self;
        drop(channel);
        timeout(PATIENCE * 2, task)
            .await
            .expect("it ends")
            .expect("no panic")
    }
}

pub fn new_job(queue: &str) -> v1::NewJob {
    v1::NewJob {
        queue: queue.into(),
        payload: "{}".into(),
        ..Default::default()
    }
}

pub fn submitted(item: v1::submit_jobs_response::Item) -> v1::SubmittedJob {
    match item.result {
        Some(v1::submit_jobs_response::item::Result::Job(job)) => job,
        other => panic!("not submitted: {other:?}"),
    }
}

pub fn hello(queues: &[&str]) -> v1::Hello {
    v1::Hello {
        session: Uuid::new_v4().to_string(),
        incarnation: Uuid::new_v4().to_string(),
        queues: queues.iter().map(|&queue| queue.to_owned()).collect(),
        slots: 10,
        ..Default::default()
    }
}

pub fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

pub fn lease_of(grant: &v1::Grant) -> v1::LeaseRef {
    v1::LeaseRef {
        job_id: grant.job_id.clone(),
        fence: grant.fence,
    }
}

pub fn settlement(lease: v1::LeaseRef, outcome: v1::settlement::Outcome) -> v1::Settlement {
    v1::Settlement {
        lease: Some(lease),
        outcome: Some(outcome),
        ..Default::default()
    }
}

pub fn success() -> v1::settlement::Outcome {
    v1::settlement::Outcome::Succeeded(v1::Succeeded {
        result: "done".into(),
    })
}

/// Waits until `check` holds.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    let all = async {
        while !check().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// One stream of a worker.
pub struct Worker {
    pub hello: v1::Hello,
    up: mpsc::Sender<v1::LeaseRequest>,
    down: Streaming<v1::LeaseResponse>,
    counter: u64,
    /// Seq of the newest grants received.
    pub seq: u64,
}

impl Worker {
    pub async fn connect(server: &Server, hello: v1::Hello) -> (Self, v1::Welcome) {
        let mut worker = Self::dial(server, hello).await.expect("the stream opens");
        match worker.next().await.expect("a welcome") {
            Down::Welcome(welcome) => (worker, welcome),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Opens the stream and says hello; the answer is not read.
    pub async fn dial(server: &Server, hello: v1::Hello) -> Result<Self, Status> {
        let mut worker = Self::open(server).await?;
        worker.hello = hello.clone();
        worker.say(Up::Hello(hello)).await;
        Ok(worker)
    }

    pub async fn open(server: &Server) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(256);
        let mut client = LeaseServiceClient::new(server.channel.clone());
        let down = client.lease(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self {
            hello: v1::Hello::default(),
            up,
            down,
            counter: 0,
            seq: 0,
        })
    }

    pub async fn say(&mut self, message: Up) {
        let _ = self
            .up
            .send(v1::LeaseRequest {
                message: Some(message),
            })
            .await;
    }

    pub async fn next(&mut self) -> Result<Down, Status> {
        let message = timeout(PATIENCE, self.down.message())
            .await
            .expect("an answer in time")?;
        Ok(message
            .expect("the stream goes on")
            .message
            .expect("a known message"))
    }

    /// Whether nothing comes for a while.
    pub async fn silent(&mut self) -> bool {
        timeout(SILENCE, self.down.message()).await.is_err()
    }

    /// How the stream ended.
    pub async fn end(&mut self) -> Result<(), Status> {
        loop {
            match timeout(PATIENCE, self.down.message())
                .await
                .expect("an end in time")
            {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    }

    pub async fn credit(&mut self, queue: &str, free: u32, last_grant_seq: u64) -> u64 {
        self.counter += 1;
        let credits = vec![v1::Credit {
            queue: queue.into(),
            free,
            last_grant_seq,
        }];
        self.say(Up::Credits(v1::Credits {
            counter: self.counter,
            credits,
        }))
        .await;
        self.counter
    }

    /// The next message, which must be grants.
    pub async fn grants(&mut self) -> v1::Grants {
        match self.next().await.expect("grants") {
            Down::Grants(grants) => {
                self.seq = grants.seq;
                grants
            }
            other => panic!("not grants: {other:?}"),
        }
    }

    /// Credit for exactly `count` jobs, and the jobs.
    pub async fn take(&mut self, queue: &str, count: usize) -> Vec<v1::Grant> {
        self.credit(queue, count as u32, self.seq).await;
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.grants().await.grants);
        }
        assert_eq!(all.len(), count, "more than the credit");
        all
    }

    pub async fn renew(&mut self, leases: Vec<v1::LeaseRef>) -> v1::Renewed {
        self.counter += 1;
        self.say(Up::Renew(v1::Renew {
            counter: self.counter,
            leases,
        }))
        .await;
        match self.next().await.expect("an answer to renew") {
            Down::Renewed(renewed) => {
                assert_eq!(renewed.counter, self.counter);
                renewed
            }
            other => panic!("not renewed: {other:?}"),
        }
    }

    pub async fn settle(&mut self, settlements: Vec<v1::Settlement>) -> Vec<v1::settled::Item> {
        self.say(Up::Settle(v1::Settle {
            settlements,
            ..Default::default()
        }))
        .await;
        match self.next().await.expect("an answer to settle") {
            Down::Settled(settled) => settled.items,
            other => panic!("not settled: {other:?}"),
        }
    }

    /// A hello of the same process that takes this stream's place.
    pub fn successor(&self, reclaim: Vec<v1::LeaseRef>) -> v1::Hello {
        v1::Hello {
            session: Uuid::new_v4().to_string(),
            replaces: vec![self.hello.session.clone()],
            reclaim,
            ..self.hello.clone()
        }
    }
}
