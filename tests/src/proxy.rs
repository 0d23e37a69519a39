//! A TCP proxy between any two: the name that leads to another server after a failover, the cable that is cut, the line
//! that is slow, silent or half dead. Everything can be switched while connections go through it.
//!
//! What is delayed or held back is not lost: TCP repeats what a network drops, so it arrives when the fault has passed.

mod connection;

use crate::sandbox::free_address;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Another process may take a free port first.
const BIND_TRIES: usize = 20;
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Listens on a port of its own; ends with its value, its connections with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

struct Shared {
    state: Mutex<State>,
    line: watch::Sender<Line>,
}

struct State {
    /// Where new connections lead. Old ones stay where they are.
    target: u16,
    cut: Option<Cut>,
}

/// What the line is like now.
#[derive(Clone, Copy, Default)]
struct Line {
    refuses: bool,
    /// Each way.
    delay: Duration,
    bytes_per_second: Option<u64>,
    hole_to_server: bool,
    hole_to_client: bool,
    /// Connections made before the last one are cut.
    cuts: u64,
    /// Connections made before the last one have lost their server.
    half_opens: u64,
    /// What was half open is closed.
    heals: u64,
}

impl Line {
    fn passes(&self, way: Way) -> bool {
        match way {
            Way::ToServer => !self.hole_to_server,
            Way::ToClient => !self.hole_to_client,
        }
    }
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        // Not any port: it must be free when it comes back after a refusal.
        let listener = bind(|| free_address().parse().expect("an address")).await;
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State { target, cut: None }),
            line: watch::Sender::new(Line::default()),
        });
        let (listens, listening) = watch::channel(true);
        let accepting = tokio::spawn(accept(listener, shared.clone(), listens));
        Self {
            address,
            shared,
            listening,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// As `--router` and gRPC clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As `--store` and redis clients take it.
    pub fn redis_url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// New connections lead to that port from now on.
    pub fn lead_to(&self, port: u16) {
        self.shared.lock().target = port;
    }

    /// Each byte arrives so much later, each way; a round trip takes twice as long.
    pub fn delay(&self, delay: Duration) {
        self.shared.line.send_modify(|line| line.delay = delay);
    }

    /// Each connection carries at most so many bytes a second, each way.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        let rate = Some(bytes_per_second.max(1));
        self.shared.line.send_modify(|line| line.bytes_per_second = rate);
    }

    /// Nothing arrives any more that way, the end of a connection neither; the other way goes on.
    pub fn blackhole(&self, way: Way) {
        self.shared.line.send_modify(|line| match way {
            Way::ToServer => line.hole_to_server = true,
            Way::ToClient => line.hole_to_client = true,
        });
    }

    /// Ends every connection there is; new ones go through.
    pub fn cut(&self) {
        self.shared.line.send_modify(|line| line.cuts += 1);
    }

    /// The server loses every connection there is, and the client does not hear of it; new ones go through.
    pub fn half_open(&self) {
        self.shared.line.send_modify(|line| line.half_opens += 1);
    }

    /// New connections are refused, as by a machine without the server. What is connected stays.
    pub async fn refuse(&self) {
        self.shared.line.send_modify(|line| line.refuses = true);
        self.listens(false).await;
    }

    /// The line is as good as new. What was held back arrives; what was half open ends.
    pub async fn heal(&self) {
        self.shared.line.send_modify(|line| {
            *line = Line {
                cuts: line.cuts,
                half_opens: line.half_opens,
                heals: line.heals + 1,
                ..Line::default()
            };
        });
        self.listens(true).await;
    }

    async fn listens(&self, listens: bool) {
        let mut listening = self.listening.clone();
        let changed = listening.wait_for(|now| *now == listens).await;
        changed.expect("the proxy listens as long as it lives");
    }

    /// Ends the connection of the next request with `marker` in it when `bytes` of that request have gone on.
    pub fn cut_request(&self, marker: &str, bytes: usize) {
        self.cut_at(marker, Place::Request(bytes));
    }

    /// Lets the next request with `marker` in it through, and ends its connection after `bytes` of what is answered.
    pub fn cut_reply(&self, marker: &str, bytes: usize) {
        self.cut_at(marker, Place::Reply(bytes));
    }

    fn cut_at(&self, marker: &str, place: Place) {
        self.shared.lock().cut = Some(Cut {
            marker: marker.as_bytes().to_vec(),
            place,
        });
    }

    /// Whether a cut that was asked for has been made.
    pub fn has_cut(&self) -> bool {
        self.shared.lock().cut.is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, listens: watch::Sender<bool>) {
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut listener = Some(listener);
    let mut line = shared.line.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let refuses = line.borrow_and_update().refuses;
        match (refuses, &listener) {
            (true, Some(_)) => listener = None,
            (false, None) => listener = Some(bind(|| address).await),
            (true, None) | (false, Some(_)) => {}
        }
        listens.send_replace(listener.is_some());
        tokio::select! {
            client = next(listener.as_ref()) => {
                let target = shared.lock().target;
                connections.spawn(connection::carry(client, target, shared.clone()));
            }
            // The sender is in `shared`.
            _ = line.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> tokio::net::TcpStream {
    match listener {
        Some(listener) => loop {
            // Fails for one that has gone again.
            if let Ok((client, _)) = listener.accept().await {
                return client;
            }
        },
        None => std::future::pending().await,
    }
}

async fn bind(address: impl Fn() -> SocketAddr) -> TcpListener {
    for _ in 1..BIND_TRIES {
        if let Ok(listener) = TcpListener::bind(address()).await {
            return listener;
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
    TcpListener::bind(address()).await.expect("a free port")
}
