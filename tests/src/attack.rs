//! Clients that mean no good, or have bugs: messages that are wrong, streams by the thousand, connections that never come
//! to the point. Each goes on until its time is over; by a seed what is sent is the same, not when.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use prost::Message;
use tidegate_protocol::v1;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

/// No answer of a call for so long: it has none.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS (another payload under a known key), RESOURCE_EXHAUSTED,
/// FAILED_PRECONDITION, UNIMPLEMENTED, and OK where it hit upon something valid.
const ALLOWED: [&str; 7] = ["3", "5", "6", "8", "9", "12", "0"];
const METHODS: [&str; 11] = [
    "JobService/SubmitJob",
    "JobService/SubmitJobs",
    "JobService/GetJob",
    "JobService/ListJobs",
    "JobService/CancelJobs",
    "JobService/RedriveJobs",
    "JobService/DeleteJobs",
    "QueueService/ListQueues",
    "QueueService/GetQueue",
    "QueueService/PauseQueue",
    "QueueService/Nonsense",
];

type Asking = h2::client::SendRequest<Bytes>;

async fn dial(address: SocketAddr) -> Option<Asking> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (asking, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(async move {
        // However it ends: some of these connections are to be closed.
        let _ = connection.await;
    });
    Some(asking)
}

fn request(method: &str) -> Request<()> {
    Request::post(format!("http://t/tidegate.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// A gRPC frame; `claimed` is the length it says it has.
fn frame(body: &[u8], claimed: usize) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(claimed as u32);
    frame.put_slice(body);
    frame.freeze()
}

/// Sends one message; the status of the answer, if there was one.
async fn call(asking: &Asking, method: &str, body: Bytes) -> Option<String> {
    let mut asking = timeout(ANSWER_MAX, asking.clone().ready()).await.ok()?.ok()?;
    let (answer, mut sending) = asking.send_request(request(method), false).ok()?;
    // Too large ones may be refused before all of it is there.
    let _ = sending.send_data(body, true);
    let answer = timeout(ANSWER_MAX, answer).await.ok()?.ok()?;
    if let Some(status) = status(answer.headers()) {
        return Some(status);
    }
    let mut body = answer.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    status(&body.trailers().await.ok()??)
}

fn status(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

/// A message that is right, to be made wrong.
fn seed_message(random: &mut fastrand::Rng) -> Vec<u8> {
    let job = || v1::NewJob {
        queue: "fuzz".into(),
        payload: "{\"n\":1}".into(),
        idempotency_key: "k".into(),
        deadline_after_ms: 1_000,
        headers: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    match random.u8(0..4) {
        0 => v1::SubmitJobRequest { job: Some(job()) }.encode_to_vec(),
        1 => v1::SubmitJobsRequest { jobs: vec![job(); 3] }.encode_to_vec(),
        2 => v1::CancelJobsRequest {
            job_ids: vec!["fuzz:0:x".into(); 2],
        }
        .encode_to_vec(),
        _ => v1::ListJobsRequest {
            queue: "fuzz".into(),
            page_size: 5,
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

fn mutated(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed_message(random);
    for _ in 0..random.usize(0..6) {
        let at = random.usize(0..bytes.len().max(1));
        match random.u8(0..4) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 => bytes.truncate(at),
            2 => bytes.insert(at.min(bytes.len()), random.u8(..)),
            _ => bytes.extend((0..random.usize(0..20)).map(|_| random.u8(..))),
        }
    }
    bytes
}

/// Bad messages, one after the other.
pub async fn bad_messages(address: SocketAddr, mut random: fastrand::Rng, end: Instant) -> u32 {
    let mut sent = 0;
    while Instant::now() < end {
        let Some(asking) = dial(address).await else {
            continue;
        };
        for _ in 0..100 {
            let method = *random.choice(METHODS).as_ref().unwrap_or(&METHODS[0]);
            let body = mutated(&mut random);
            let claimed = if random.u8(0..10) == 0 {
                random.usize(0..100_000)
            } else {
                body.len()
            };
            let what = frame(&body, claimed);
            let Some(status) = call(&asking, method, what.clone()).await else {
                break;
            };
            assert!(
                ALLOWED.contains(&status.as_str()),
                "{method} answered {status} to {what:?}"
            );
            sent += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    sent
}

/// Streams opened and reset at once (CVE-2023-44487), and thousands that stay open and say nothing.
pub async fn many_streams(address: SocketAddr, end: Instant) {
    while Instant::now() < end {
        let Some(asking) = dial(address).await else {
            continue;
        };
        let mut open = Vec::new();
        for n in 0..10_000 {
            let mut next = asking.clone();
            match timeout(
                Duration::from_millis(20),
                std::future::poll_fn(|cx| next.poll_ready(cx)),
            )
            .await
            {
                Ok(Ok(())) => {}
                // No more streams at once than allowed: wait for nothing. Or the router has had enough of us.
                _ => break,
            }
            let Ok((answer, mut sending)) = next.send_request(request(METHODS[0]), false) else {
                break;
            };
            if n % 2 == 0 {
                sending.send_reset(h2::Reason::CANCEL);
            } else {
                open.push((answer, sending));
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Connections that begin and never come to the point.
pub async fn slow_headers(address: SocketAddr, mut random: fastrand::Rng, end: Instant) {
    let mut held = Vec::new();
    while Instant::now() < end {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            // SETTINGS, then a HEADERS frame of which only the first bytes come.
            begin.extend([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 40, 1, 4, 0, 0, 0, 1, 0x82]);
            if random.bool() {
                begin = (0..random.usize(1..200)).map(|_| random.u8(..)).collect();
            }
            begin.truncate(random.usize(1..=begin.len()));
            let _ = stream.write_all(&begin).await;
            held.push(stream);
        }
        held.truncate(200);
        sleep(Duration::from_millis(2)).await;
    }
}
