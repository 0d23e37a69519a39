//! Nodes that have lost their controller come back one by one, and not for ever at once.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, and a panic is the way to report"
)]

use std::time::{Duration, Instant};

use tidegate_client::control::{ControlEvent, ControlLink, Kind};
use tidegate_protocol::v1;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

const NODES: usize = 12;
const LOOK: Duration = Duration::from_secs(6);
/// After the first tries, which are soon: most breaks are one controller's restart.
const LATER: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(10);

#[tokio::test]
async fn reconnects_are_spread_and_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let controllers = [format!("http://{}", listener.local_addr().unwrap())];
    let (stop, mut nodes) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..NODES {
        let (link, mut port) = ControlLink::new(&controllers, Kind::Targets).unwrap();
        nodes.spawn(link.run(stop.clone()));
        nodes.spawn(async move {
            while let Some(event) = port.events.recv().await {
                if let ControlEvent::Hello(reply) = event {
                    let _ = reply.send(v1::NodeHello::default());
                }
            }
        });
    }
    let began = Instant::now();
    let mut tries = Vec::new();
    while let Ok(Ok(_ended_at_once)) = timeout(LOOK.saturating_sub(began.elapsed()), listener.accept()).await
    {
        tries.push(began.elapsed());
    }
    stop.cancel();
    while nodes.join_next().await.is_some() {}

    let later: Vec<Duration> = tries.iter().copied().filter(|at| *at > LATER).collect();
    assert!(later.len() >= NODES, "they go on: {later:?}");
    assert!(tries.len() <= NODES * 30, "{} tries in {LOOK:?}", tries.len());
    let at_once = |at: &Duration| {
        later
            .iter()
            .filter(|other| **other >= *at && **other < *at + MOMENT)
            .count()
    };
    let most = later.iter().map(at_once).max().unwrap_or(0);
    assert!(most <= NODES / 2, "{most} of {NODES} at one moment: {later:?}");
}
