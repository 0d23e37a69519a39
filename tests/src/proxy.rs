//! A TCP proxy: the name that leads to another server after a failover, and the cable that is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request of the tests fits, so that what it begins with and where it ends are seen at once.
const CHUNK: usize = 256 * 1024;

/// Listens on a port of its own; ends with its value, its connections with it.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    /// Where new connections lead. Old ones stay where they are.
    target: u16,
    cut: Option<Cut>,
    connections: Vec<JoinHandle<()>>,
}

/// Ends the next connection over which a request with `marker` goes, so that one exchange is left half done.
struct Cut {
    marker: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// So many bytes of the request reach the server.
    Request(usize),
    /// The request arrives, and so many bytes of the reply come back.
    Reply(usize),
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(Mutex::new(State {
            target,
            cut: None,
            connections: Vec::new(),
        }));
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Self {
            address,
            state,
            accepting,
        }
    }

    /// As `--store` and redis clients take it.
    pub fn redis_url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// New connections lead to that port from now on.
    pub fn lead_to(&self, port: u16) {
        lock(&self.state).target = port;
    }

    /// Ends the connection of the next request with `marker` in it when `bytes` of that request have gone on.
    pub fn cut_request(&self, marker: &str, bytes: usize) {
        self.cut(marker, Place::Request(bytes));
    }

    /// Lets the next request with `marker` in it through, and ends its connection after `bytes` of what is answered.
    pub fn cut_reply(&self, marker: &str, bytes: usize) {
        self.cut(marker, Place::Reply(bytes));
    }

    fn cut(&self, marker: &str, place: Place) {
        lock(&self.state).cut = Some(Cut {
            marker: marker.as_bytes().to_vec(),
            place,
        });
    }

    /// Whether a cut that was asked for has been made.
    pub fn has_cut(&self) -> bool {
        lock(&self.state).cut.is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        for connection in &lock(&self.state).connections {
            connection.abort();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        let target = lock(&state).target;
        // Nobody there: the client sees its connection end.
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
            continue;
        };
        let copying = copy(client, server, state.clone());
        let connection = tokio::spawn(async move {
            let _ = copying.await;
        });
        lock(&state).connections.push(connection);
    }
}

/// Passes bytes on in both directions until one side ends or a cut is due; then both ends are closed.
async fn copy(client: TcpStream, server: TcpStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut request, mut reply) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        tokio::select! {
            read = from_client.read(&mut request) => {
                let request = &request[..read?];
                match due(&state, request) {
                    None if request.is_empty() => return Ok(()),
                    None => to_server.write_all(request).await?,
                    Some(Place::Request(bytes)) => return to_server.write_all(&request[..bytes]).await,
                    Some(Place::Reply(bytes)) => {
                        to_server.write_all(request).await?;
                        return part(&mut from_server, &mut to_client, &mut reply, bytes).await;
                    }
                }
            }
            read = from_server.read(&mut reply) => {
                let reply = &reply[..read?];
                if reply.is_empty() {
                    return Ok(());
                }
                to_client.write_all(reply).await?;
            }
        }
    }
}

fn due(state: &Mutex<State>, request: &[u8]) -> Option<Place> {
    let mut state = lock(state);
    let marker = &state.cut.as_ref()?.marker;
    let found = request.windows(marker.len()).any(|window| window == &marker[..]);
    found.then(|| state.cut.take().map(|cut| cut.place)).flatten()
}

/// The server has answered when its first byte is here.
async fn part(
    from_server: &mut OwnedReadHalf,
    to_client: &mut OwnedWriteHalf,
    reply: &mut [u8],
    bytes: usize,
) -> io::Result<()> {
    let read = from_server.read(reply).await?;
    to_client.write_all(&reply[..bytes.min(read)]).await
}
