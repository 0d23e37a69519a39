//! One connection through the proxy: two pumps, each with the line between its ends.

use super::{Line, Place, Shared, Way};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A request of the tests fits, so that what it begins with and where it ends are seen at once.
const CHUNK: usize = 256 * 1024;
/// Chunks on their way: more than a delayed line carries in the tests.
const ON_THE_WAY: usize = 256;
/// What is written at a time on a slow line, so that a change of it is felt soon.
const PIECE: usize = 4 * 1024;
/// A late timer is made good within this, so that the rate is right on average.
const CATCH_UP: Duration = Duration::from_millis(50);

/// How a connection is ended from outside.
enum Fate {
    Cut,
    HalfOpen,
}

pub(super) async fn carry(mut client: TcpStream, target: u16, shared: Arc<Shared>) {
    let born = *shared.line.borrow();
    // Nobody there: the client sees its connection end.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true)); // a delay is the test's to choose
    let fate = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // Bytes that may still come back, once the reply is to be cut.
        let reply_left = AtomicUsize::new(usize::MAX);
        let up = pump(from_client, to_server, Way::ToServer, &shared, &reply_left);
        let down = pump(from_server, to_client, Way::ToClient, &shared, &reply_left);
        tokio::select! {
            _ = up => None,
            _ = down => None,
            fate = fate(&shared, born) => Some(fate),
        }
    };
    match fate {
        Some(Fate::Cut) => {}
        // One side has ended, and the other hears of it when the line lets it.
        None => {
            let (mut there, mut back) = (shared.line.subscribe(), shared.line.subscribe());
            tokio::join!(
                async {
                    passes(&mut there, Way::ToServer).await;
                    drop(server);
                },
                async {
                    passes(&mut back, Way::ToClient).await;
                    drop(client);
                },
            );
        }
        Some(Fate::HalfOpen) => {
            drop(server);
            swallow(client, &shared).await;
        }
    }
}

async fn fate(shared: &Shared, born: Line) -> Fate {
    let mut line = shared.line.subscribe();
    let done = |line: &Line| line.cuts > born.cuts || line.half_opens > born.half_opens;
    match line.wait_for(done).await {
        Ok(line) if line.cuts == born.cuts => Fate::HalfOpen,
        _ => Fate::Cut,
    }
}

/// Reads what nobody will get, until the line is cut or healed.
async fn swallow(mut client: TcpStream, shared: &Shared) {
    let mut line = shared.line.subscribe();
    let before = *line.borrow();
    let mut nothing = vec![0; PIECE];
    let reading = async { while matches!(client.read(&mut nothing).await, Ok(1..)) {} };
    tokio::select! {
        () = reading => {}
        _ = line.wait_for(|line| line.cuts > before.cuts || line.heals > before.heals) => {}
    }
}

/// Passes bytes on until one side ends or a cut is due.
async fn pump(
    mut from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    way: Way,
    shared: &Shared,
    reply_left: &AtomicUsize,
) -> io::Result<()> {
    let (on_the_way, arriving) = mpsc::channel(ON_THE_WAY);
    let line = shared.line.subscribe();
    let reading = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from.read(&mut buffer).await?;
            let (keep, last) = match way {
                Way::ToServer => up_to_cut(shared, &buffer[..read], reply_left),
                Way::ToClient => {
                    let left = reply_left.load(Ordering::Relaxed);
                    (read.min(left), left < usize::MAX)
                }
            };
            let due = Instant::now() + line.borrow().delay;
            let sent = on_the_way.send((due, buffer[..keep].to_vec())).await;
            if read == 0 || last || sent.is_err() {
                drop(on_the_way); // what is on the way arrives before the end does
                return io::Result::Ok(());
            }
        }
    };
    let (_, written) = tokio::join!(reading, write(to, arriving, way, shared.line.subscribe()));
    written
}

/// How much of a request goes on, and whether it is the last.
fn up_to_cut(shared: &Shared, request: &[u8], reply_left: &AtomicUsize) -> (usize, bool) {
    let mut state = shared.lock();
    let is_marked = |marker: &[u8]| request.windows(marker.len()).any(|window| window == marker);
    match state
        .cut
        .take_if(|cut| is_marked(&cut.marker))
        .map(|cut| cut.place)
    {
        None => (request.len(), false),
        Some(Place::Request(bytes)) => (bytes.min(request.len()), true),
        // The server has answered when its first byte is here.
        Some(Place::Reply(bytes)) => {
            reply_left.store(bytes, Ordering::Relaxed);
            (request.len(), false)
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut arriving: mpsc::Receiver<(Instant, Vec<u8>)>,
    way: Way,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let mut next_at = Instant::now();
    while let Some((due, chunk)) = arriving.recv().await {
        tokio::time::sleep_until(due).await;
        for piece in chunk.chunks(PIECE) {
            passes(&mut line, way).await;
            to.write_all(piece).await?;
            let rate = line.borrow().bytes_per_second;
            if let Some(rate) = rate {
                let takes = Duration::from_secs_f64(piece.len() as f64 / rate as f64);
                let now = Instant::now();
                next_at = next_at.max(now.checked_sub(CATCH_UP).unwrap_or(now)) + takes;
                tokio::time::sleep_until(next_at).await;
            }
        }
    }
    passes(&mut line, way).await;
    Ok(())
}

/// Waits while that way is a hole.
async fn passes(line: &mut watch::Receiver<Line>, way: Way) {
    let passing = line.wait_for(|line| line.passes(way)).await;
    drop(passing.expect("its sender is shared with this connection"));
}
