//! A router whose answers are written by the test. It lives on a thread of its own, so that a worker that blocks the
//! test's runtime does not block it.

use std::net::SocketAddr;

use tidegate_chassis::tasks::{NamedThread, named_thread};
use tidegate_protocol::v1::{
    self,
    lease_request::Message as Up,
    lease_response::Message as Down,
    lease_service_server::{LeaseService, LeaseServiceServer},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::in_time;

/// Renewed four times as often: long enough to reconnect on a busy machine, short enough not to wait for.
pub const TTL_MS: u64 = 2_000;

/// Where workers connect, and the streams they open.
pub struct Router {
    pub address: String,
    streams: mpsc::Receiver<Session>,
    _stop: oneshot::Sender<()>,
    _thread: NamedThread,
}

/// One worker's stream. Dropping it breaks the stream.
pub struct Session {
    up: Streaming<v1::LeaseRequest>,
    down: mpsc::Sender<Result<v1::LeaseResponse, Status>>,
    /// Newest counter heard.
    pub counter: u64,
    pub renewals: u32,
    seq: u64,
    /// Renewals are answered as they come.
    pub answer_renewals: bool,
}

struct Service(mpsc::Sender<Session>);

#[async_trait]
impl LeaseService for Service {
    type LeaseStream = ReceiverStream<Result<v1::LeaseResponse, Status>>;

    async fn lease(
        &self,
        request: Request<Streaming<v1::LeaseRequest>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        let (down, stream) = mpsc::channel(64);
        let session = Session {
            up: request.into_inner(),
            down,
            counter: 0,
            renewals: 0,
            seq: 0,
            answer_renewals: true,
        };
        self.0
            .send(session)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Router {
    pub fn start() -> Self {
        let (opened, streams) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel::<SocketAddr>();
        let thread = named_thread("router", move || {
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
                    .add_service(LeaseServiceServer::new(Service(opened)))
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

    /// The next stream and its hello; welcomed.
    pub async fn welcome(&mut self) -> (Session, v1::Hello) {
        let (session, hello) = self.hello().await;
        session
            .send(Down::Welcome(v1::Welcome {
                router: "script".to_owned(),
                ..Default::default()
            }))
            .await;
        (session, hello)
    }

    pub async fn hello(&mut self) -> (Session, v1::Hello) {
        let mut session = in_time(self.streams.recv()).await.expect("a stream");
        match session.next().await {
            Some(Up::Hello(hello)) => (session, hello),
            other => panic!("a hello comes first, not {other:?}"),
        }
    }
}

impl Session {
    pub async fn send(&self, message: Down) {
        self.down
            .send(Ok(v1::LeaseResponse {
                message: Some(message),
            }))
            .await
            .expect("the worker listens");
    }

    /// The next message; `None` = the worker has closed its side.
    pub async fn next(&mut self) -> Option<Up> {
        let message = in_time(self.up.message()).await.ok()??.message.expect("set");
        match &message {
            Up::Renew(renew) => {
                self.counter = renew.counter;
                self.renewals += 1;
                if self.answer_renewals {
                    let renewed = v1::Renewed {
                        counter: renew.counter,
                        ..Default::default()
                    };
                    self.send(Down::Renewed(renewed)).await;
                }
            }
            Up::Credits(credits) => self.counter = credits.counter,
            _ => {}
        }
        Some(message)
    }

    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Up) -> Option<T>) -> T {
        // As a whole, because renewals never end.
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

    /// The credit of the only queue.
    pub async fn credit(&mut self) -> v1::Credit {
        self.until(|message| match message {
            Up::Credits(credits) => Some(credits.credits[0].clone()),
            _ => None,
        })
        .await
    }

    pub async fn renewal(&mut self) -> v1::Renew {
        self.until(|message| match message {
            Up::Renew(renew) => Some(renew),
            _ => None,
        })
        .await
    }

    /// A renewal that names this lease: the worker has taken it.
    pub async fn renewal_naming(&mut self, fence: u64) -> v1::Renew {
        loop {
            let renewal = self.renewal().await;
            if renewal.leases.contains(&lease(fence)) {
                return renewal;
            }
        }
    }

    pub async fn settlements(&mut self) -> Vec<v1::Settlement> {
        self.until(|message| match message {
            Up::Settle(settle) => Some(settle.settlements),
            _ => None,
        })
        .await
    }

    /// One settlement, answered as recorded.
    pub async fn settled(&mut self) -> v1::Settlement {
        let settlements = self.settlements().await;
        assert_eq!(settlements.len(), 1, "{settlements:?}");
        self.answer(&settlements[0], v1::SettleResult::Recorded).await;
        settlements[0].clone()
    }

    pub async fn answer(&self, settlement: &v1::Settlement, result: v1::SettleResult) {
        let item = v1::settled::Item {
            lease: settlement.lease.clone(),
            result: result.into(),
            ..Default::default()
        };
        self.send(Down::Settled(v1::Settled { items: vec![item] })).await;
    }

    pub async fn grant(&mut self, fence: u64, payload: &str) {
        self.grant_with(fence, payload, |_| {}).await;
    }

    pub async fn grant_with(&mut self, fence: u64, payload: &str, change: impl FnOnce(&mut v1::Grant)) {
        let mut grant = v1::Grant {
            job_id: job_id(fence),
            queue: "email".to_owned(),
            fence,
            attempt: 1,
            max_attempts: 3,
            payload: payload.to_owned().into(),
            lease_ttl_ms: TTL_MS,
            timeout_ms: 60_000,
            ..Default::default()
        };
        change(&mut grant);
        self.seq += 1;
        let grants = v1::Grants {
            seq: self.seq,
            counter: self.counter,
            store_clock_ms: 1_000_000,
            grants: vec![grant],
        };
        self.send(Down::Grants(grants)).await;
    }
}

pub fn job_id(n: u64) -> String {
    format!("email:0:{n:032x}")
}

pub fn lease(n: u64) -> v1::LeaseRef {
    v1::LeaseRef {
        job_id: job_id(n),
        fence: n,
    }
}

pub fn kind(settlement: &v1::Settlement) -> &'static str {
    use v1::settlement::Outcome;
    match settlement.outcome.as_ref().expect("set") {
        Outcome::Succeeded(_) => "succeeded",
        Outcome::Retry(_) => "retry",
        Outcome::Failed(_) => "failed",
        Outcome::Invalid(_) => "invalid",
        Outcome::Released(_) => "released",
        Outcome::Throttled(_) => "throttled",
    }
}
