use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::tasks::Tasks;

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    tasks: Tasks,
}

async fn start(limits: Limits) -> Running {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let readiness = Readiness::new();
    let tasks = Tasks::new(CancellationToken::new());
    let server = GrpcServer::new(readiness.clone())
        .limits(limits)
        .reflection(tonic_health::pb::FILE_DESCRIPTOR_SET);
    tasks.spawn("server", server.serve(listener, tasks.shutdown()));
    Running {
        address,
        readiness,
        tasks,
    }
}

/// Answers with what its path asks for.
#[derive(Clone)]
struct Odd;

impl NamedService for Odd {
    const NAME: &'static str = "t.v1.Odd";
}

const LARGE: usize = 200 << 10;

impl tower_service::Service<http::Request<Body>> for Odd {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let panics = request.uri().path().ends_with("Panic");
        Box::pin(async move {
            assert!(!panics, "a handler with a bug");
            let large = axum::body::Body::from(vec![0; LARGE]);
            Ok(http::Response::new(Body::new(large)))
        })
    }
}

async fn start_odd(limits: Limits) -> Running {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let readiness = Readiness::new();
    let tasks = Tasks::new(CancellationToken::new());
    let server = GrpcServer::new(readiness.clone()).limits(limits).add_service(Odd);
    tasks.spawn("server", server.serve(listener, tasks.shutdown()));
    Running {
        address,
        readiness,
        tasks,
    }
}

type Asking = h2::client::SendRequest<axum::body::Bytes>;

#[allow(
    clippy::disallowed_methods,
    reason = "the client's end of a connection, joined by the test"
)]
/// A client that reads only what it asks for itself; the second value is the connection's end.
async fn raw(address: SocketAddr) -> (Asking, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (asking, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    (asking, tokio::spawn(connection))
}

async fn ask(asking: &Asking, method: &str) -> http::Response<h2::RecvStream> {
    let request = http::Request::post(format!("http://t/t.v1.Odd/{method}"));
    let request = request.body(()).expect("a request");
    let mut asking = asking.clone().ready().await.expect("there is room");
    let (answer, _) = asking.send_request(request, true).expect("it is sent");
    answer.await.expect("an answer")
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_the_connection_goes_on() {
    let server = start_odd(Limits::default()).await;
    let (asking, _connection) = raw(server.address).await;
    assert_eq!(ask(&asking, "Panic").await.headers()["grpc-status"], "13");
    assert_eq!(ask(&asking, "Large").await.status(), 200);
    server.tasks.shutdown().cancel();
    drop(asking);
    server.tasks.run().await.expect("it drains");
}

#[tokio::test]
async fn a_connection_that_reads_nothing_is_closed_and_one_that_reads_slowly_is_not() {
    let limits = Limits {
        reader_patience: Duration::from_millis(300),
        unread_bytes_max: LARGE * 3 / 2,
        ..Limits::default()
    };
    let server = start_odd(limits).await;
    let (asking, closed) = raw(server.address).await;
    let _unread = ask(&asking, "Large").await.into_body();
    let mut second = ask(&asking, "Large").await.into_body();
    let trailers = second.trailers().await.expect("trailers").expect("a status");
    assert_eq!(trailers["grpc-status"], "8", "no room for a second one");
    let closed = tokio::time::timeout(Duration::from_secs(20), closed);
    // However a client names it: the request handle is still held, so only the server can have ended it.
    let _ = closed.await.expect("it is closed in time").expect("no panic");
    drop(asking);

    let (asking, _connection) = raw(server.address).await;
    let mut slow = ask(&asking, "Large").await.into_body();
    let mut read = 0;
    while let Some(data) = slow.data().await {
        let data = data.expect("it goes on");
        read += data.len();
        tokio::time::sleep(Duration::from_millis(40)).await;
        slow.flow_control()
            .release_capacity(data.len())
            .expect("it was read");
    }
    assert_eq!(read, LARGE);
    server.tasks.shutdown().cancel();
    drop(asking);
    server.tasks.run().await.expect("it drains");
}

async fn client(address: SocketAddr) -> HealthClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address is a URI");
    HealthClient::new(endpoint.connect().await.expect("it listens"))
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

#[tokio::test]
async fn health_follows_readiness_and_watches_end_with_the_drain() {
    let server = start(Limits::default()).await;
    let mut client = client(server.address).await;
    let alive = client.check(service(LIVENESS_SERVICE)).await.expect("it answers");
    assert_eq!(alive.into_inner().status, 1); // SERVING

    let mut watch = client.watch(service("")).await.expect("it streams").into_inner();
    let next = async |watch: &mut tonic::Streaming<_>| -> Option<i32> {
        let message: Option<tonic_health::pb::HealthCheckResponse> =
            watch.message().await.expect("the stream is sound");
        message.map(|message| message.status)
    };
    assert_eq!(next(&mut watch).await, Some(2)); // NOT_SERVING
    server.readiness.set(true, "");
    assert_eq!(next(&mut watch).await, Some(1));

    server.tasks.shutdown().cancel();
    assert_eq!(next(&mut watch).await, Some(2));
    assert_eq!(next(&mut watch).await, None);
    server.tasks.run().await.expect("nothing holds up the drain");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut silent = TcpStream::connect(server.address).await.expect("it listens");
    // The server may say its SETTINGS first; what counts is that the connection ends.
    let mut said = Vec::new();
    let _ = silent.read_to_end(&mut said).await;
    server.tasks.shutdown().cancel();
    server.tasks.run().await.expect("it drains");
}

#[tokio::test]
async fn connections_above_the_bound_are_closed() {
    let all = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let of_one_address = Limits {
        connections_per_ip_max: 1,
        ..Limits::default()
    };
    for limits in [all, of_one_address] {
        refuses_a_second_connection(limits).await;
    }
}

async fn refuses_a_second_connection(limits: Limits) {
    let server = start(limits).await;
    let mut first = client(server.address).await;
    first
        .check(service(LIVENESS_SERVICE))
        .await
        .expect("there is room");
    let mut second = TcpStream::connect(server.address)
        .await
        .expect("the kernel accepts");
    assert_eq!(
        second.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "it is closed at once"
    );
    server.tasks.shutdown().cancel();
    server.tasks.run().await.expect("it drains");
}
