//! Clients that have bugs: what they send is answered as theirs to mend. (What floods do to others is an end-to-end test,
//! with the router in a process of its own.)

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use tokio::{net::TcpStream, time::timeout};

use super::harness::*;

const SUBMIT_JOB: &str = "JobService/SubmitJob";
const LIST_JOBS: &str = "JobService/ListJobs";

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
        ("not protobuf", SUBMIT_JOB, frame(&[0xff; 40], 40), "3"),
        ("a cut message", SUBMIT_JOB, frame(&job(vec![])[..4], 4), "3"),
        (
            "text that is not UTF-8",
            SUBMIT_JOB,
            frame(&field(1, &field(1, b"\xff\xfe")), 6),
            "3",
        ),
        (
            "5 MB of payload",
            SUBMIT_JOB,
            frame(&job(field(2, &huge)), job(field(2, &huge)).len()),
            "8",
        ),
        (
            "a length that is not there",
            SUBMIT_JOB,
            frame(b"x", 0xffff_ffff),
            "8",
        ),
        (
            "an unknown state",
            LIST_JOBS,
            frame(&[queue.clone(), varint(2, 99)].concat(), queue.len() + 2),
            "3",
        ),
        (
            "a negative state",
            LIST_JOBS,
            frame(&[queue.clone(), varint(2, u64::MAX)].concat(), queue.len() + 11),
            "3",
        ),
        (
            "a negative time",
            SUBMIT_JOB,
            framed(job(varint(6, u64::MAX))),
            "3",
        ),
        (
            "a deadline far away",
            SUBMIT_JOB,
            framed(job(varint(8, 1 << 60))),
            "3",
        ),
        (
            "a delay of ages",
            SUBMIT_JOB,
            framed(job(varint(7, i64::MAX as u64))),
            "3",
        ),
        (
            "a negative page",
            LIST_JOBS,
            framed([queue.clone(), varint(3, -5_i64 as u64)].concat()),
            "3",
        ),
        ("nothing at all", SUBMIT_JOB, framed(Vec::new()), "3"),
        ("no frame", SUBMIT_JOB, Bytes::from_static(b"\x00"), "3"),
        (
            "compressed, it says",
            SUBMIT_JOB,
            Bytes::from_static(b"\x01\x00\x00\x00\x01x"),
            "3",
        ),
    ];
    for (what, method, body, expected) in cases {
        let got = call(&asking, method, body).await;
        assert_eq!(got.as_deref(), Some(expected), "{what}");
    }
    // Deep nesting: protobuf groups within groups.
    let got = call(&asking, SUBMIT_JOB, framed(vec![0x0b; 100_000])).await;
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
