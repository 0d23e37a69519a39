//! A controller whose orders are written by the test.

use tidegate_protocol::v1::{
    self,
    attach_request::Message as Up,
    attach_response::Message as Down,
    control_service_server::{ControlService, ControlServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::harness::PATIENCE;

/// Where routers attach, and the streams they open.
pub struct Controller {
    pub address: String,
    streams: mpsc::Receiver<Node>,
    task: JoinHandle<()>,
}

/// One router's stream. Dropping it breaks the stream.
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
        let sent = self.0.send(Node { up, down }).await;
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    pub async fn start() -> Self {
        let (opened, streams) = mpsc::channel(8);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(ControlServiceServer::new(Service(opened)))
                .serve_with_incoming(TcpListenerStream::new(listener));
            server.await.unwrap();
        });
        Self {
            address,
            streams,
            task,
        }
    }

    pub async fn hello(&mut self) -> (Node, v1::NodeHello) {
        let stream = timeout(PATIENCE, self.streams.recv()).await;
        let mut node = stream.expect("in time").expect("a stream");
        match node.next().await {
            Some(Up::Hello(hello)) => (node, hello),
            other => panic!("a hello comes first, not {other:?}"),
        }
    }

    /// The next router, taken in by the leader of this epoch.
    pub async fn welcome(&mut self, ledger: &str, epoch: u64) -> (Node, v1::NodeHello) {
        let (node, hello) = self.hello().await;
        node.send(Down::Welcome(v1::ControlWelcome {
            version: version(epoch, 0),
            ledger_id: ledger.to_owned(),
            controller: "script".to_owned(),
            ..v1::ControlWelcome::default()
        }))
        .await;
        (node, hello)
    }
}

impl Node {
    pub async fn send(&self, message: Down) {
        let message = Some(message);
        let sent = self.down.send(Ok(v1::AttachResponse { message })).await;
        sent.expect("the router listens");
    }

    /// The next message; `None` = the router has closed its side.
    pub async fn next(&mut self) -> Option<Up> {
        let message = timeout(PATIENCE, self.up.message()).await.expect("in time");
        message.ok()??.message
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
        timeout(PATIENCE, find).await.expect("in time")
    }

    pub async fn caps(&mut self, caps: v1::Caps) -> v1::CapAnswers {
        self.send(Down::Caps(caps)).await;
        self.until(|message| match message {
            Up::CapAnswers(answers) => Some(answers),
            _ => None,
        })
        .await
    }

    pub async fn applied(&mut self) -> Option<v1::Version> {
        self.until(|message| match message {
            Up::Applied(applied) => Some(applied.version),
            _ => None,
        })
        .await
    }

    pub async fn report(&mut self) -> v1::Report {
        self.until(|message| match message {
            Up::Report(report) => Some(report),
            _ => None,
        })
        .await
    }
}

pub fn version(epoch: u64, generation: u64) -> Option<v1::Version> {
    Some(v1::Version { epoch, generation })
}
