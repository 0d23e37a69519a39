//! The user's application: a real HTTP server that remembers every delivery and answers as the test says.

use crate::wait::eventually;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Larger than the largest payload (256 KiB): the app itself never refuses a body.
const BODY_MAX: usize = 1024 * 1024;

/// What the app answers, and how long it takes to.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
}

impl Answer {
    pub fn ok() -> Self {
        Self::status(200)
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
        }
    }

    /// Works for so long before it answers.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn into_response(self) -> Response {
        let mut response = Response::new(self.body.into());
        *response.status_mut() =
            StatusCode::from_u16(self.status).expect("a test answers with a valid status");
        for (name, value) in &self.headers {
            let name = name
                .parse::<HeaderName>()
                .expect("a test answers with valid headers");
            let value = value
                .parse::<HeaderValue>()
                .expect("a test answers with valid headers");
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The app is still at it.
    Open,
    Answered(u16),
    /// The caller hung up before the answer: what a cancelled or self-fenced job looks like from here.
    HungUp,
}

/// One request that reached the app.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// In order of arrival, from 0.
    pub number: usize,
    pub job_id: String,
    pub queue: String,
    pub attempt: u32,
    pub fence: u64,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
    /// Deliveries that the app was working on when this one arrived, itself included.
    pub in_flight: usize,
    pub end: End,
}

impl Delivery {
    /// A header as text, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Behaviour = dyn Fn(&Delivery) -> Answer + Send + Sync;

struct Shared {
    behaviour: Mutex<Arc<Behaviour>>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    deliveries: Vec<Delivery>,
    in_flight: usize,
    max_in_flight: usize,
}

/// Has a runtime of its own, so that a test that blocks does not look like a slow app, and so that [`App::close`] cuts
/// every connection at once.
pub struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl App {
    /// `behaviour` is asked once per request, before the answer's delay.
    pub fn start(behaviour: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour)
    }

    /// As [`App::start`], at an address that an earlier app had: its return from the dead.
    pub fn start_at(
        address: SocketAddr,
        behaviour: impl Fn(&Delivery) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        listener
            .set_nonblocking(true)
            .expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Arc::new(behaviour)),
            record: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("test-app")
            .enable_all()
            .build()
            .expect("start the app's runtime");
        let router = axum::Router::new().fallback(serve).with_state(shared.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("adopt the listener");
            axum::serve(listener, router)
                .await
                .expect("serve until the runtime ends");
        });
        Self {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how requests from now on are answered.
    pub fn behave(&self, behaviour: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.behaviour) = Arc::new(behaviour);
    }

    /// Everything that arrived so far, in order of arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.shared.record).deliveries.clone()
    }

    pub fn deliveries_of(&self, job_id: &str) -> Vec<Delivery> {
        self.deliveries()
            .into_iter()
            .filter(|delivery| delivery.job_id == job_id)
            .collect()
    }

    pub fn in_flight(&self) -> usize {
        lock(&self.shared.record).in_flight
    }

    pub fn max_in_flight(&self) -> usize {
        lock(&self.shared.record).max_in_flight
    }

    /// Waits until at least `count` deliveries have arrived.
    pub async fn wait_for(&self, count: usize, timeout: Duration) -> Vec<Delivery> {
        self.wait_until(timeout, &format!("{count} deliveries"), |all| all.len() >= count)
            .await
    }

    /// Waits until at least `count` deliveries have been answered.
    pub async fn wait_for_answers(&self, count: usize, timeout: Duration) -> Vec<Delivery> {
        let answered = |delivery: &&Delivery| matches!(delivery.end, End::Answered(_));
        let enough = |all: &[Delivery]| all.iter().filter(answered).count() >= count;
        self.wait_until(timeout, &format!("{count} answered deliveries"), enough)
            .await
    }

    async fn wait_until(
        &self,
        timeout: Duration,
        what: &str,
        enough: impl Fn(&[Delivery]) -> bool,
    ) -> Vec<Delivery> {
        let waited = tokio::time::timeout(
            // The inner deadline is the real one, the outer only lets the message name what did arrive.
            timeout,
            eventually(timeout * 2, what, async || {
                let all = self.deliveries();
                enough(&all).then_some(all)
            }),
        );
        waited.await.unwrap_or_else(|_| {
            let seen: Vec<String> = self.deliveries().iter().map(summary).collect();
            panic!(
                "waited {timeout:?} for {what}; arrived: {}\n{}",
                seen.len(),
                seen.join("\n")
            )
        })
    }

    /// The app dies: its port refuses, open connections are cut. The record stays readable.
    pub fn close(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.close();
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        return Answer::status(413).into_response();
    };
    let text = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let arrived = Delivery {
        number: 0,
        job_id: text("ce-id").to_owned(),
        queue: text("ce-type").to_owned(),
        attempt: text("ce-tidegateattempt").parse().unwrap_or(0),
        fence: text("ce-tidegatefence").parse().unwrap_or(0),
        path: parts.uri.path().to_owned(),
        headers: parts.headers.clone(),
        body,
        at: Instant::now(),
        in_flight: 0,
        end: End::Open,
    };
    let (mut open, delivery) = Open::new(shared.clone(), arrived);
    let behaviour = lock(&shared.behaviour).clone();
    let answer = behaviour(&delivery);
    tokio::time::sleep(answer.delay).await;
    open.end = End::Answered(answer.status);
    answer.into_response()
}

/// A delivery in work. The server drops it when the caller hangs up, which is how that is noticed.
struct Open {
    shared: Arc<Shared>,
    number: usize,
    end: End,
}

impl Open {
    fn new(shared: Arc<Shared>, mut delivery: Delivery) -> (Self, Delivery) {
        let mut record = lock(&shared.record);
        record.in_flight += 1;
        record.max_in_flight = record.max_in_flight.max(record.in_flight);
        delivery.number = record.deliveries.len();
        delivery.in_flight = record.in_flight;
        record.deliveries.push(delivery.clone());
        drop(record);
        (
            Self {
                shared,
                number: delivery.number,
                end: End::HungUp,
            },
            delivery,
        )
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut record = lock(&self.shared.record);
        record.in_flight -= 1;
        record.deliveries[self.number].end = self.end;
    }
}

/// A behaviour that panics fails its own request; the record must stay usable for the assertion that explains it.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn summary(delivery: &Delivery) -> String {
    let Delivery {
        number,
        job_id,
        attempt,
        fence,
        end,
        ..
    } = delivery;
    format!("  {number}: job {job_id} attempt {attempt} fence {fence} {end:?}")
}
