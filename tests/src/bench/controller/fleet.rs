//! The nodes: their streams are real, what they say is made up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tidegate_chassis::clock::wall_ms;
use tidegate_protocol::v1::{
    self, attach_request::Message as Up, attach_response::Message as Down,
    control_service_client::ControlServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use uuid::Uuid;

const SLOTS: u32 = 10;
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Messages to a controller that wait.
const OUTBOX: usize = 16;

/// A version of targets and when they came.
pub type Arrivals = Arc<Mutex<Vec<(u64, u64)>>>;

pub fn queue(at: usize) -> String {
    format!("queue-{at:03}")
}

/// The fleet's load by queue: how much waits, moving so that the division does.
fn ready(queue: usize, turn: u64) -> u64 {
    let wave = (turn / 3 + queue as u64) % 7;
    40 + 60 * wave
}

pub async fn channel(url: &str) -> Result<Channel> {
    Ok(Channel::from_shared(url.to_owned())?.connect().await?)
}

async fn attach(
    channel: Channel,
    hello: v1::NodeHello,
) -> Result<(mpsc::Sender<v1::AttachRequest>, Streaming<v1::AttachResponse>)> {
    let (up, messages) = mpsc::channel(OUTBOX);
    up.send(request(Up::Hello(hello))).await?;
    let mut client = ControlServiceClient::new(channel);
    let down = client.attach(ReceiverStream::new(messages)).await?.into_inner();
    Ok((up, down))
}

fn request(message: Up) -> v1::AttachRequest {
    v1::AttachRequest {
        message: Some(message),
    }
}

/// Reports three of its queues each second, as if they had worked; or, when it is not busy, nothing at all.
pub async fn worker(
    channel: Channel,
    at: usize,
    queues: Vec<String>,
    is_busy: bool,
    arrivals: Arrivals,
) -> Result<()> {
    let hello = v1::NodeHello {
        role: v1::NodeRole::Worker.into(),
        node: Uuid::new_v4().to_string(),
        name: format!("worker-{at}"),
        queues: queues.clone(),
        slots: SLOTS,
        ..v1::NodeHello::default()
    };
    let (up, mut down) = attach(channel, hello).await?;
    let mut reports = tokio::time::interval_at(
        tokio::time::Instant::now() + REPORT_EVERY.mul_f64(fastrand::f64()),
        REPORT_EVERY,
    );
    let mut turn = at;
    loop {
        tokio::select! {
            message = down.message() => {
                let Some(message) = message?.and_then(|message| message.message) else { return Ok(()) };
                if let Down::Targets(targets) = message {
                    let version = targets.version.unwrap_or_default();
                    let came = (version.generation, wall_ms());
                    arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(came);
                    up.send(request(Up::Applied(v1::Applied { version: targets.version }))).await?;
                }
            }
            _ = reports.tick() => {
                turn += 1;
                let worked = |n: usize| v1::QueueReport {
                    queue: queues[(turn + n) % queues.len()].clone(),
                    run_time: Some(v1::Histogram {
                        buckets: [vec![0; 50], vec![1, 3, 5, 3, 1]].concat(),
                        count: 13,
                        sum_ms: 13.0 * 90.0,
                        sum_squares_ms: 13.0 * 8_200.0,
                    }),
                    mean_in_flight: 1.5,
                    in_flight: 2,
                    ..v1::QueueReport::default()
                };
                let report = v1::Report {
                    window_ms: 1_000,
                    queues: if is_busy { (0..3).map(worked).collect() } else { Vec::new() },
                    slots: SLOTS,
                    ..v1::Report::default()
                };
                up.send(request(Up::Report(report))).await?;
            }
        }
    }
}

/// Keeps caps as it is told, and says that queues wait, or nothing.
pub async fn router(channel: Channel, queues: usize, is_busy: bool) -> Result<()> {
    let hello = v1::NodeHello {
        role: v1::NodeRole::Router.into(),
        node: Uuid::new_v4().to_string(),
        name: "router".to_owned(),
        ..v1::NodeHello::default()
    };
    let (up, mut down) = attach(channel, hello).await?;
    let mut caps: BTreeMap<String, v1::Cap> = BTreeMap::new();
    let mut reports = tokio::time::interval(REPORT_EVERY);
    let mut turn = 0;
    loop {
        tokio::select! {
            message = down.message() => match message?.and_then(|message| message.message) {
                None => return Ok(()),
                Some(Down::Caps(orders)) => {
                    up.send(request(Up::CapAnswers(obey(&mut caps, orders)))).await?;
                }
                Some(Down::Policies(policies)) => {
                    let applied = v1::Applied { version: policies.version };
                    up.send(request(Up::Applied(applied))).await?;
                }
                Some(_) => {}
            },
            _ = reports.tick() => {
                turn += 1;
                let held = |at: usize| match caps.get(&queue(at)) {
                    Some(cap) if is_busy => cap.cap.into(),
                    _ => 0,
                };
                let facts = |at: usize| v1::QueueReport {
                    queue: queue(at),
                    submitted: if is_busy { 20 } else { 0 },
                    store: Some(v1::StoreFacts {
                        ready: if is_busy { ready(at, turn) } else { 0 },
                        running: held(at),
                        slots: held(at),
                        store_clock_ms: wall_ms(),
                        ..v1::StoreFacts::default()
                    }),
                    ..v1::QueueReport::default()
                };
                let report = v1::Report {
                    window_ms: 1_000,
                    queues: if is_busy || turn == 1 { (0..queues).map(facts).collect() } else { Vec::new() },
                    ..v1::Report::default()
                };
                up.send(request(Up::Report(report))).await?;
            }
        }
    }
}

fn obey(caps: &mut BTreeMap<String, v1::Cap>, orders: v1::Caps) -> v1::CapAnswers {
    let mut items = Vec::with_capacity(orders.orders.len());
    for order in orders.orders {
        let stored = caps.entry(order.queue.clone()).or_default();
        let (known, version) = (stored.version.is_some(), orders.version);
        if let Some(cap) = order.cap {
            *stored = cap;
        }
        if known || order.cap.is_some() {
            stored.version = version;
        }
        items.push(v1::cap_answers::Item {
            queue: order.queue,
            applied: true,
            cap: stored.version.is_some().then_some(*stored),
            slots: stored.cap.into(),
            error: None,
        });
    }
    v1::CapAnswers {
        request_id: orders.request_id,
        items,
    }
}
