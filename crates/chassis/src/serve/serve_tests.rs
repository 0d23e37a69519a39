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
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
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
