//! The controller under test, a router with a store of a few maps, and a worker.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate_chassis::{CancellationToken, admin::Readiness, telemetry::Metrics};
use tidegate_controller::{ControllerConfig, Host, RunError};
use tidegate_protocol::v1::{
    self, attach_request::Message as Up, attach_response::Message as Down,
    control_service_client::ControlServiceClient, tuning_service_client::TuningServiceClient,
};
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

/// Longer than anything should take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Two queues on 35 of 50 connections.
pub const POLICIES: &str = "
[resources.pg]
capacity = 50
[queues.a]
costs = { pg = 1 }
strategy = \"fixed\"
[queues.b]
costs = { pg = 1 }
strategy = \"fixed\"
";

pub struct Server {
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub shutdown: CancellationToken,
    pub channel: Channel,
    task: JoinHandle<Result<(), RunError>>,
    _dir: tempfile::TempDir,
}

/// Quick turns, and the text of a policies file if there is one.
pub fn config(dir: &tempfile::TempDir, policies: &str) -> ControllerConfig {
    let path: PathBuf = dir.path().join("policies.toml");
    std::fs::write(&path, policies).unwrap();
    ControllerConfig {
        tick: Duration::from_millis(100),
        policies: Some(path),
        ledger: "memory:".into(),
        name: "under-test".into(),
        ..ControllerConfig::default()
    }
}

impl Server {
    pub async fn start(policies: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, policies);
        let bind = || TcpListener::bind("127.0.0.1:0");
        let metrics = Metrics::for_test("tidegate-controller");
        let readiness = Readiness::new();
        let host = Host {
            grpc: bind().await.unwrap(),
            admin: Some((bind().await.unwrap(), metrics.clone())),
            readiness: readiness.clone(),
        };
        let address = host.grpc.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (is_ready, ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                let ready = |ready| is_ready.send(ready).unwrap();
                tidegate_controller::run_on(config, host, shutdown, ready).await
            }
        });
        let ready = timeout(PATIENCE, ready).await.unwrap().unwrap();
        assert_eq!(ready.grpc, address);
        eventually("it leads", async || readiness.is_ready()).await;
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        Self {
            metrics,
            readiness,
            shutdown,
            channel: endpoint.connect().await.unwrap(),
            task,
            _dir: dir,
        }
    }

    pub fn tuning(&self) -> TuningServiceClient<Channel> {
        TuningServiceClient::new(self.channel.clone())
    }

    pub async fn fleet(&self) -> v1::GetFleetResponse {
        let fleet = self.tuning().get_fleet(v1::GetFleetRequest {}).await;
        fleet.unwrap().into_inner()
    }

    pub async fn stop(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        drop(self.channel);
        timeout(PATIENCE, self.task).await.expect("it ends").unwrap()
    }
}

pub fn hello(role: v1::NodeRole, queues: &[&str], slots: u32) -> v1::NodeHello {
    v1::NodeHello {
        role: role.into(),
        node: Uuid::new_v4().to_string(),
        name: format!("fake-{}", role.as_str_name()),
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        slots,
        ..v1::NodeHello::default()
    }
}

/// One stream of a node.
pub struct Node {
    pub up: mpsc::Sender<v1::AttachRequest>,
    down: Streaming<v1::AttachResponse>,
}

impl Node {
    pub async fn open(server: &Server) -> Self {
        let (up, messages) = mpsc::channel(64);
        let mut client = ControlServiceClient::new(server.channel.clone());
        let down = client
            .attach(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        Self { up, down }
    }

    pub async fn attach(server: &Server, hello: v1::NodeHello) -> Self {
        let node = Self::open(server).await;
        node.say(Up::Hello(hello)).await;
        node
    }

    pub async fn say(&self, message: Up) {
        say(&self.up, message).await;
    }

    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = timeout(PATIENCE, self.down.message())
            .await
            .expect("an answer in time")?;
        Ok(message.map(|message| message.message.expect("a known message")))
    }

    /// The first message that `pick` wants.
    pub async fn find<T>(&mut self, what: &str, pick: impl Fn(Down) -> Option<T>) -> T {
        let found = async {
            loop {
                let message = self.next().await.expect("the stream goes on").expect(what);
                if let Some(found) = pick(message) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, found).await.expect(what)
    }
}

async fn say(up: &mpsc::Sender<v1::AttachRequest>, message: Up) {
    let message = Some(message);
    // A stream that has ended is what some tests want.
    let _ = up.send(v1::AttachRequest { message }).await;
}

/// The job store: caps with their versions, what runs and what waits.
#[derive(Default)]
pub struct Store {
    pub queues: BTreeMap<String, Stored>,
    clock_ms: u64,
    /// Most units ever held: sum over the queues of the larger of cap and running.
    pub held_max: u64,
}

#[derive(Clone, Default)]
pub struct Stored {
    pub version: (u64, u64),
    pub cap: Option<u32>,
    pub running: u64,
    pub ready: u64,
}

impl Store {
    pub fn set_caps(&mut self, caps: v1::Caps) -> v1::CapAnswers {
        let version = caps.version.unwrap_or_default();
        let stamp = (version.epoch, version.generation);
        let mut items = Vec::new();
        for order in caps.orders {
            let queue = self.queues.entry(order.queue.clone()).or_default();
            let applied = stamp >= queue.version;
            if applied {
                queue.version = stamp;
                queue.cap = order.cap.map(|cap| cap.cap).or(queue.cap);
            }
            items.push(v1::cap_answers::Item {
                queue: order.queue,
                applied,
                cap: queue.cap.map(|cap| v1::Cap {
                    cap,
                    version: Some(v1::Version {
                        epoch: queue.version.0,
                        generation: queue.version.1,
                    }),
                    ..v1::Cap::default()
                }),
                slots: queue.running,
                error: None,
            });
        }
        self.held_max = self.held_max.max(self.held());
        v1::CapAnswers {
            request_id: caps.request_id,
            items,
        }
    }

    fn held(&self) -> u64 {
        let held = |queue: &Stored| u64::from(queue.cap.unwrap_or(0)).max(queue.running);
        self.queues.values().map(held).sum()
    }

    pub fn facts(&mut self) -> v1::Report {
        self.clock_ms += 1;
        let queues = self.queues.iter().map(|(name, stored)| v1::QueueReport {
            queue: name.clone(),
            store: Some(v1::StoreFacts {
                ready: stored.ready,
                running: stored.running,
                slots: stored.running,
                store_clock_ms: self.clock_ms,
                ..v1::StoreFacts::default()
            }),
            ..v1::QueueReport::default()
        });
        v1::Report {
            window_ms: 50,
            queues: queues.collect(),
            ..v1::Report::default()
        }
    }
}

/// A router that answers cap orders from a shared store and reports its facts 20 times a second.
pub struct Router {
    pub store: Arc<Mutex<Store>>,
    pub orders: Arc<Mutex<Vec<Down>>>,
    task: JoinHandle<()>,
}

impl Router {
    pub async fn start(server: &Server, store: Arc<Mutex<Store>>) -> Self {
        let hello = v1::NodeHello {
            state: Some(store.lock().unwrap().facts()),
            ..hello(v1::NodeRole::Router, &[], 0)
        };
        let mut node = Node::attach(server, hello).await;
        let orders: Arc<Mutex<Vec<Down>>> = Arc::default();
        let task = tokio::spawn({
            let (store, orders) = (store.clone(), orders.clone());
            async move {
                loop {
                    tokio::select! {
                        message = node.down.message() => {
                            let Ok(Some(v1::AttachResponse { message: Some(message) })) = message else { return };
                            orders.lock().unwrap().push(message.clone());
                            if let Down::Caps(caps) = message {
                                let answers = store.lock().unwrap().set_caps(caps);
                                node.say(Up::CapAnswers(answers)).await;
                            }
                        }
                        () = sleep(Duration::from_millis(50)) => {
                            let facts = store.lock().unwrap().facts();
                            node.say(Up::Report(facts)).await;
                        }
                    }
                }
            }
        });
        Self { store, orders, task }
    }

    pub fn kill(&self) {
        self.task.abort();
    }

    pub fn cap(&self, queue: &str) -> u32 {
        let store = self.store.lock().unwrap();
        store.queues.get(queue).and_then(|stored| stored.cap).unwrap_or(0)
    }
}

/// A worker that reports and keeps its last targets.
pub struct Worker {
    pub targets: Arc<Mutex<BTreeMap<String, u32>>>,
    task: JoinHandle<()>,
}

impl Worker {
    pub async fn start(server: &Server, queues: &[&str], slots: u32) -> Self {
        let mut node = Node::attach(server, hello(v1::NodeRole::Worker, queues, slots)).await;
        let targets: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
        let task = tokio::spawn({
            let targets = targets.clone();
            async move {
                loop {
                    tokio::select! {
                        message = node.down.message() => {
                            let Ok(Some(message)) = message else { return };
                            if let Some(Down::Targets(new)) = message.message {
                                let new = new.targets.into_iter().map(|one| (one.queue, one.target));
                                *targets.lock().unwrap() = new.collect();
                            }
                        }
                        () = sleep(Duration::from_millis(200)) => {
                            node.say(Up::Report(v1::Report { slots, ..v1::Report::default() })).await;
                        }
                    }
                }
            }
        });
        Self { targets, task }
    }

    pub fn target(&self, queue: &str) -> u32 {
        self.targets.lock().unwrap().get(queue).copied().unwrap_or(0)
    }

    pub fn kill(&self) {
        self.task.abort();
    }
}

pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

/// The first field that a refusal names.
pub fn field(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .and_then(|info| info.metadata.get("field").cloned())
        .unwrap_or_default()
}

/// Waits until `check` holds.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    let all = async {
        while !check().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
