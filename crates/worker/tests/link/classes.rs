//! What an app answers, or that it does not, decides how a job is settled and what the worker does next.

use std::{net::SocketAddr, time::Duration};

use axum::{Router as App, http::StatusCode, routing::post};
use tidegate_chassis::tasks::Tasks;
use tidegate_protocol::v1::{self, settlement::Outcome};
use tidegate_worker::{
    Worker,
    http::{HttpDelivery, HttpSettings},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Running,
    router::{Router, Session, kind},
};

async fn delivering(router: &mut Router, url: &str) -> (Running, Session) {
    let delivery = HttpDelivery::new(HttpSettings::new(url)).expect("a valid address");
    let worker = Worker::connect(&router.address, ())
        .deliver("email", delivery)
        .slots(4);
    let running = Running::start(worker);
    let (mut session, _) = router.welcome().await;
    assert_eq!(session.credit().await.free, 4);
    (running, session)
}

#[tokio::test]
async fn an_app_that_is_away_costs_a_few_attempts_and_no_more() {
    // Bound, so that nobody else takes it, and not listening: connections are refused.
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("a free port");
    let address = socket.local_addr().expect("bound");
    let mut router = Router::start();
    let (running, mut session) = delivering(&mut router, &format!("http://{address}/")).await;
    let mut kinds = Vec::new();
    for fence in 1..=5 {
        session.grant(fence, "{}").await;
        let settlement = session.settled().await;
        assert_eq!(settlement.failure_class(), v1::FailureClass::Down);
        kinds.push(kind(&settlement));
    }
    assert_eq!(kinds, ["retry", "retry", "retry", "retry", "throttled"]);

    // It is back: the first success lets all slots be used again.
    let listener = socket.listen(16).expect("it is bound");
    let app = App::new().route("/", post(|| async { "done" }));
    let apps = Tasks::new(CancellationToken::new());
    apps.spawn("app", async move { axum::serve(listener, app).await });
    while session.credit().await.free != 1 {}
    session.grant(6, "{}").await;
    assert_eq!(kind(&session.settled().await), "succeeded");
    while session.credit().await.free != 4 {}
    running.stop().await;
}

#[tokio::test]
async fn an_app_that_is_full_is_given_half_for_a_second_and_its_own_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let busy = || async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")]) };
    let apps = Tasks::new(CancellationToken::new());
    let app = App::new().route("/", post(busy));
    apps.spawn("app", async move { axum::serve(listener, app).await });
    let mut router = Router::start();
    let (running, mut session) = delivering(&mut router, &url).await;
    session.grant(1, "{}").await;
    let settlement = session.settled().await;
    assert_eq!(settlement.failure_class(), v1::FailureClass::Overload);
    let Some(Outcome::Throttled(throttled)) = settlement.outcome else {
        panic!("{settlement:?}")
    };
    assert_eq!(throttled.after_ms, 7_000);
    while session.credit().await.free != 2 {}
    while session.credit().await.free != 4 {}
    running.stop().await;
}

/// Head and body, a byte at a time, for ever: the attempt's time bounds it, and the others go on.
#[tokio::test]
async fn an_app_that_drips_is_cut_off_by_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let apps = Tasks::new(CancellationToken::new());
    apps.spawn("app", async move {
        let mut drips = tokio::task::JoinSet::new();
        for head in ["HTTP/1.1 200 OK\r\nx: ", "HTTP/1.1 200 OK\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            drips.spawn(async move {
                stream.write_all(head.as_bytes()).await.expect("it reads");
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        while drips.join_next().await.is_some() {}
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("it reads");
        std::future::pending::<()>().await;
    });
    let mut router = Router::start();
    let (running, mut session) = delivering(&mut router, &url).await;
    for fence in 1..=2 {
        session
            .grant_with(fence, "{}", |grant| grant.timeout_ms = 400)
            .await;
    }
    let mut settled = Vec::new();
    while settled.len() < 2 {
        for settlement in session.settlements().await {
            session.answer(&settlement, v1::SettleResult::Recorded).await;
            settled.push((kind(&settlement), settlement.failure_class()));
        }
    }
    assert_eq!(settled, [("retry", v1::FailureClass::Error); 2]);
    session.grant(3, "{}").await;
    assert_eq!(kind(&session.settled().await), "succeeded");
    running.stop().await;
}
