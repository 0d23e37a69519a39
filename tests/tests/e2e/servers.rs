//! The servers and the faulty line of the harness, proven before anything is judged by them.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tidegate_tests::{
    PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Proxy, Sandbox, Way, eventually,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(10);
/// Long enough for what would arrive if it could.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn postgres_limits_a_role_and_keeps_data_over_restart_and_crash() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default().max_connections(10)).await;
    let url = postgres.role("app", 2).await;
    postgres
        .must("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        .await;
    let _one = PgConnection::connect(&url).await.unwrap();
    let _two = PgConnection::connect(&url).await.unwrap();
    let third = PgConnection::connect(&url).await.map(drop);
    let third = third.expect_err("two is the limit");
    assert!(
        third.to_string().contains("too many connections for role"),
        "{third}"
    );

    postgres.restart().await;
    assert_eq!(postgres.number("SELECT sum(n) FROM t").await, 7);
    postgres.kill9().await;
    assert!(postgres.connect().await.is_err());
    postgres.restart().await;
    assert_eq!(postgres.number("SELECT sum(n) FROM t").await, 7);
}

/// A client that dies in the middle of a statement: the server ends the statement by itself.
#[tokio::test]
async fn postgres_notices_a_client_that_has_gone_and_stands_still_when_told() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    let url = postgres.role("app", 5).await;
    let proxy = Proxy::start(postgres.port()).await;
    let through = url.replace(&format!(":{}", postgres.port()), &format!(":{}", proxy.port()));
    let mut client = PgConnection::connect(&through).await.unwrap();
    let sleeping =
        tokio::spawn(async move { sqlx::query("SELECT pg_sleep(600)").execute(&mut client).await });
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
    eventually(SOON, "a statement at work", async || {
        (postgres.number(at_work).await == 1).then_some(())
    })
    .await;
    proxy.half_open();
    eventually(SOON, "the end of the statement", async || {
        (postgres.number(at_work).await == 0).then_some(())
    })
    .await;
    assert!(!sleeping.is_finished(), "the client does not hear of it");
    proxy.heal().await;
    sleeping.await.unwrap().expect_err("its connection is gone");

    postgres.freeze();
    let asked = tokio::time::timeout(QUIET, postgres.number("SELECT 1::bigint")).await;
    assert!(asked.is_err(), "a server that stands still answers nothing");
    postgres.thaw();
    assert_eq!(postgres.number("SELECT 1::bigint").await, 1);
}

#[tokio::test]
async fn pgbouncer_shares_few_sessions_among_many_clients() {
    let sandbox = Sandbox::new();
    let postgres = Postgres::start(&sandbox, PostgresOptions::default()).await;
    postgres.role("app", 50).await;
    let pooler = PgBouncer::start(&sandbox, &postgres, PgBouncerOptions::default().pool_size(2)).await;
    let url = pooler.role_url("app");
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(PgConnection::connect(&url).await.unwrap());
    }
    let work = clients.iter_mut().map(|client| async {
        // One transaction: the statements of a prepared one may go to two sessions.
        let mut transaction = client.begin().await.unwrap();
        sqlx::raw_sql("SELECT pg_sleep(0.1)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    });
    let started = Instant::now();
    futures_util::future::join_all(work).await;
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "three turns of two"
    );
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    assert_eq!(postgres.number(sessions).await, 2);
    pooler.restart().await;
    PgConnection::connect(&url).await.unwrap();
}

/// Sends back what it gets.
async fn echo() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

async fn round_trip(stream: &mut TcpStream, bytes: usize) -> Duration {
    let started = Instant::now();
    let (mut read, mut write) = stream.split();
    let sent = vec![7; bytes];
    let mut got = vec![0; bytes];
    let (written, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert_eq!(sent, got);
    started.elapsed()
}

#[tokio::test]
async fn a_line_is_slow_or_narrow_while_told_so() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, 10).await;
    proxy.delay(Duration::from_millis(100));
    assert!(round_trip(&mut stream, 10).await >= Duration::from_millis(200));
    proxy.heal().await;
    proxy.bandwidth(100_000);
    let took = round_trip(&mut stream, 50_000).await;
    assert!(
        took >= Duration::from_millis(400),
        "{took:?} for half a second's bytes"
    );
    proxy.heal().await;
    round_trip(&mut stream, 1_000_000).await;
}

#[tokio::test]
async fn a_hole_swallows_one_way_until_it_is_healed() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, 10).await;
    proxy.blackhole(Way::ToClient);
    stream.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    let answer = tokio::time::timeout(QUIET, stream.read_exact(&mut got)).await;
    assert!(answer.is_err(), "nothing comes back");
    proxy.heal().await;
    tokio::time::timeout(SOON, stream.read_exact(&mut got))
        .await
        .expect("what was held back arrives")
        .unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn connections_are_cut_half_cut_and_refused() {
    let proxy = Proxy::start(echo().await).await;
    let mut cut = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut cut, 10).await;
    proxy.cut();
    let ended = tokio::time::timeout(SOON, cut.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");

    let mut half = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut half, 10).await;
    proxy.half_open();
    half.write_all(b"hello").await.unwrap();
    let silence = tokio::time::timeout(QUIET, half.read(&mut [0; 1])).await;
    assert!(silence.is_err(), "the client does not hear of it: {silence:?}");
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut fresh, 10).await;

    proxy.refuse().await;
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    round_trip(&mut fresh, 10).await;
    proxy.heal().await;
    let ended = tokio::time::timeout(SOON, half.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    let mut again = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut again, 10).await;
}
