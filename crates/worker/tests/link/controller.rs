//! A controller whose orders are written by the test.

use std::net::SocketAddr;

use tidegate_chassis::tasks::{NamedThread, named_thread};
use tidegate_protocol::v1::{
    self,
    attach_request::Message as Up,
    attach_response::Message as Down,
    control_service_server::{ControlService, ControlServiceServer},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::in_time;

/// Where nodes attach, and the streams they open.
pub struct Controller {
    pub address: String,
    streams: mpsc::Receiver<Node>,
    _stop: oneshot::Sender<()>,
    _thread: NamedThread,
}

/// One node's stream. Dropping it breaks the stream.
pub struct Node {
    up: Streaming<v1::AttachRequest>,
    down: mpsc::Sender<Result<v1::AttachResponse, Status>>,
}

struct Service(mpsc::Sender<Node>);

#[async_trait]
impl ControlService for Service {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (down, stream) = mpsc::channel(64);
        let up = request.into_inner();
        self.0
            .send(Node { up, down })
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Controller {
    pub fn start() -> Self {
        let (opened, streams) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel::<SocketAddr>();
        let thread = named_thread("controller", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                bound
                    .send(listener.local_addr().expect("bound"))
                    .expect("the test waits");
                let server = tonic::transport::Server::builder()
                    .add_service(ControlServiceServer::new(Service(opened)))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    served = server => served.expect("it serves"),
                    _ = stopped => {}
                }
            });
        })
        .expect("a thread");
        let address = format!("http://{}", address.recv().expect("it listens"));
        Self {
            address,
            streams,
            _stop: stop,
            _thread: thread,
        }
    }

    pub async fn hello(&mut self) -> (Node, v1::NodeHello) {
        let mut node = in_time(self.streams.recv()).await.expect("a stream");
        match node.next().await {
            Some(Up::Hello(hello)) => (node, hello),
            other => panic!("a hello comes first, not {other:?}"),
        }
    }

    /// The next node, taken in by the leader of this epoch.
    pub async fn welcome(&mut self, ledger: &str, epoch: u64) -> (Node, v1::NodeHello) {
        let (node, hello) = self.hello().await;
        node.welcome(ledger, epoch).await;
        (node, hello)
    }
}

impl Node {
    pub async fn welcome(&self, ledger: &str, epoch: u64) {
        self.send(Down::Welcome(v1::ControlWelcome {
            version: version(epoch, 0),
            ledger_id: ledger.to_owned(),
            controller: "script".to_owned(),
            ..v1::ControlWelcome::default()
        }))
        .await;
    }

    pub async fn send(&self, message: Down) {
        let message = Some(message);
        let sent = self.down.send(Ok(v1::AttachResponse { message })).await;
        sent.expect("the node listens");
    }

    /// For the queue that all these tests use.
    pub async fn target(&self, version: Option<v1::Version>, target: u32, ttl_ms: u64) {
        let queue = "email".to_owned();
        let reason = "DEMAND".to_owned();
        self.send(Down::Targets(v1::Targets {
            version,
            targets: vec![v1::Target {
                queue,
                target,
                reason,
            }],
            ttl_ms,
        }))
        .await;
    }

    /// The next message; `None` = the node has closed its side.
    pub async fn next(&mut self) -> Option<Up> {
        in_time(self.up.message()).await.ok()??.message
    }

    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Up) -> Option<T>) -> T {
        // As a whole, because reports never end.
        let find = async {
            loop {
                let message = self.next().await.expect("the stream is open");
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        };
        in_time(find).await
    }

    pub async fn applied(&mut self) -> Option<v1::Version> {
        self.until(|message| match message {
            Up::Applied(applied) => Some(applied.version),
            _ => None,
        })
        .await
    }

    /// The next report, and what it says of the only queue.
    pub async fn report(&mut self) -> (v1::Report, v1::QueueReport) {
        self.until(|message| match message {
            Up::Report(report) => Some((report.clone(), report.queues.first()?.clone())),
            _ => None,
        })
        .await
    }
}

pub fn version(epoch: u64, generation: u64) -> Option<v1::Version> {
    Some(v1::Version { epoch, generation })
}
