//! Clients that mean no good, or have bugs: what they send is answered as theirs to mend, and others do not notice.
//!
//! A seeded random fuzzer against a real router. It runs for a few seconds; `TIDEGATE_FUZZ_SECONDS=n` makes it longer, and
//! `TIDEGATE_TEST_SEED=n` replays one run (by what is sent, not by when).

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

use super::harness::*;

const SECONDS: u64 = 4;
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
    let mut asking = timeout(PATIENCE, asking.clone().ready()).await.ok()?.ok()?;
    let (answer, mut sending) = asking.send_request(request(method), false).ok()?;
    // Too large ones may be refused before all of it is there.
    let _ = sending.send_data(body, true);
    let answer = timeout(PATIENCE, answer).await.ok()?.ok()?;
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

/// A field of the wire format: bytes under a number.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// Each kind of mistake that has a name, and what it must be answered.
#[tokio::test]
async fn mistakes_with_a_name_are_the_callers_to_mend() {
    let server = Server::start().await;
    let asking = dial(server.address).await.unwrap();
    let queue = field(1, b"email");
    let job = |more: Vec<u8>| field(1, &[queue.clone(), more].concat());
    let huge = vec![0; 5 << 20];
    let cases: Vec<(&str, &str, Bytes, &str)> = vec![
        ("not protobuf", METHODS[0], frame(&[0xff; 40], 40), "3"),
        ("a cut message", METHODS[0], frame(&job(vec![])[..4], 4), "3"),
        (
            "text that is not UTF-8",
            METHODS[0],
            frame(&field(1, &field(1, b"\xff\xfe")), 6),
            "3",
        ),
        (
            "5 MB of payload",
            METHODS[0],
            frame(&job(field(2, &huge)), job(field(2, &huge)).len()),
            "8",
        ),
        (
            "a length that is not there",
            METHODS[0],
            frame(b"x", 0xffff_ffff),
            "8",
        ),
        (
            "an unknown state",
            METHODS[3],
            frame(&[queue.clone(), varint(2, 99)].concat(), queue.len() + 2),
            "3",
        ),
        (
            "a negative state",
            METHODS[3],
            frame(&[queue.clone(), varint(2, u64::MAX)].concat(), queue.len() + 11),
            "3",
        ),
        (
            "a negative time",
            METHODS[0],
            framed(job(varint(6, u64::MAX))),
            "3",
        ),
        (
            "a deadline far away",
            METHODS[0],
            framed(job(varint(8, 1 << 60))),
            "3",
        ),
        (
            "a delay of ages",
            METHODS[0],
            framed(job(varint(7, i64::MAX as u64))),
            "3",
        ),
        (
            "a negative page",
            METHODS[3],
            framed([queue.clone(), varint(3, -5_i64 as u64)].concat()),
            "3",
        ),
        ("nothing at all", METHODS[0], framed(Vec::new()), "3"),
        ("no frame", METHODS[0], Bytes::from_static(b"\x00"), "3"),
        (
            "compressed, it says",
            METHODS[0],
            Bytes::from_static(b"\x01\x00\x00\x00\x01x"),
            "3",
        ),
    ];
    for (what, method, body, expected) in cases {
        let got = call(&asking, method, body).await;
        assert_eq!(got.as_deref(), Some(expected), "{what}");
    }
    // Deep nesting: protobuf groups within groups.
    let got = call(&asking, METHODS[0], framed(vec![0x0b; 100_000])).await;
    assert_eq!(got.as_deref(), Some("3"), "groups without an end");
    assert!(
        server.submit("email").await.starts_with("email:"),
        "and it goes on"
    );
    drop(asking);
    server.stop().await.unwrap();
}

fn framed(body: Vec<u8>) -> Bytes {
    frame(&body, body.len())
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
async fn bad_messages(address: SocketAddr, mut random: fastrand::Rng, end: Instant) -> u32 {
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
async fn many_streams(address: SocketAddr, end: Instant) {
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
async fn slow_headers(address: SocketAddr, mut random: fastrand::Rng, end: Instant) {
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

/// Submits one by one; how long each took.
async fn bystander(server: &Server, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        server.submit("email").await;
        times.push(begin.elapsed());
        sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    times
}

fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_and_floods_hurt_nobody_else() {
    let seed = number("TIDEGATE_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("TIDEGATE_FUZZ_SECONDS").unwrap_or(SECONDS);
    println!("TIDEGATE_TEST_SEED={seed}");
    let random = || fastrand::Rng::with_seed(seed);
    let server = Server::start().await;
    let address = server.address;
    let calm = bystander(&server, Instant::now() + Duration::from_secs(seconds.min(3))).await;

    let attack = async |time: Duration| {
        let end = Instant::now() + time;
        tokio::join!(
            bad_messages(address, random(), end),
            many_streams(address, end),
            slow_headers(address, random(), end),
            bystander(&server, end),
        )
    };
    let (first, ..) = attack(Duration::from_secs(2)).await;
    let before_kb = rss_kb();
    let (second, (), (), attacked) = attack(Duration::from_secs(seconds)).await;
    let after_kb = rss_kb();

    let at = |times: &[Duration], q: f64| times[((times.len() - 1) as f64 * q) as usize];
    let (calm_p99, attacked_p99) = (at(&calm, 0.99), at(&attacked, 0.99));
    println!(
        "{} bad messages; others: calm p50 {:.1?} p99 {calm_p99:.1?}, attacked p50 {:.1?} p99 {attacked_p99:.1?}; \
         rss {before_kb} -> {after_kb} kB",
        first + second,
        at(&calm, 0.5),
        at(&attacked, 0.5),
    );
    assert!(second > 50, "the fuzzer came to {second} messages");
    // Attackers and router share this process and its cores, so others are slowed by the attackers' own work as well.
    assert!(
        attacked_p99 < calm_p99 * 10 + Duration::from_millis(100),
        "{calm_p99:?} -> {attacked_p99:?}"
    );
    // The jobs that bystanders leave behind are about a kilobyte each.
    let allowed = before_kb * 3 / 2 + 30_000;
    assert!(after_kb < allowed, "{before_kb} -> {after_kb} kB");
    server.stop().await.unwrap();
}
