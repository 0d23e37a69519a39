//! What an app answers, or that it does not, decides how a job is settled and what the worker does next.

use std::net::SocketAddr;

use axum::{Router as App, http::StatusCode, routing::post};
use tidegate_chassis::tasks::Tasks;
use tidegate_protocol::v1::{self, settlement::Outcome};
use tidegate_worker::{Worker, http::HttpDelivery};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    Running,
    router::{Router, Session, kind},
};

async fn delivering(router: &mut Router, url: &str) -> (Running, Session) {
    let delivery = HttpDelivery::new(url).expect("a valid address");
    let worker = Worker::connect([router.address.clone()])
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
