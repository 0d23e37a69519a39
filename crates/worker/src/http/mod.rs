//! Delivers jobs to an app in any language: one POST an attempt, the answer's status is the outcome.
//!
//! The app's address is the operator's (configuration or code), never a submitter's, so a job cannot choose where the
//! worker connects to; [`address`] says where a name may lead. Redirects are not followed: that would let the app's network
//! choose it. An answer is read up to 64 KiB, its head up to 64 KiB, and all of it within the attempt's time.

mod address;
mod answer;
mod callback;
mod connect;
mod request;
mod signature;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tidegate_chassis::{clock, config::Secret, telemetry::Meter};
use tidegate_protocol::limits::RESULT_BYTES_MAX;

use self::{address::Guard, answer::Answer, connect::AppClient, request::Extra, signature::Signer};
pub use self::{
    address::RefusedAddress,
    callback::Callbacks,
    connect::{Resolve, SystemResolver},
};
use crate::{
    Delivery, Job, Verdict,
    telemetry::{DeliveryCounters, handed_on},
};

/// Why an app cannot be delivered to.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("invalid app address {url:?}: {message}")]
    InvalidUrl { url: String, message: String },
    #[error(transparent)]
    Address(#[from] RefusedAddress),
    #[error(
        "port {port} is below 1024 and neither 80 nor 443: allow it with --app-allow {host}:{port} (worker.http.allow)"
    )]
    Port { port: u16, host: String },
    #[error(
        "invalid entry {text:?} of --app-allow (worker.http.allow): expected a name, name:port, address or network"
    )]
    InvalidAllow { text: String },
    /// Does not quote it.
    #[error(
        "a webhook secret (worker.http.secrets) is not whsec_ and the base64 of 24 to 64 bytes: make one with \
         echo \"whsec_$(openssl rand -base64 32)\""
    )]
    InvalidSecret,
    #[error(
        "invalid callback URL {url:?} (--callback-url, worker.http.callback_url): expected http://host:port"
    )]
    InvalidCallbackUrl { url: String },
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error("no certificate of a trusted authority on this machine, which https needs")]
    NoRoots(#[source] std::io::Error),
}

/// Where jobs are POSTed, and how.
pub struct HttpSettings {
    /// `http://` or `https://` (system roots) with a host.
    pub url: String,
    /// Names, addresses and networks that may be connected to although they are not public, e.g. `app.internal`,
    /// `10.1.0.0/16`; `name:port` for a port below 1024.
    pub allow: Vec<String>,
    /// Each signs (`whsec_...`, Standard Webhooks); none: deliveries are not signed.
    pub secrets: Vec<Secret>,
    /// Finds the host's addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Where to count; `None`: the process's meter.
    pub meter: Option<Meter>,
}

impl HttpSettings {
    /// The address alone: nothing allowed beyond the defaults, not signed.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            allow: Vec::new(),
            secrets: Vec::new(),
            resolver: Arc::new(SystemResolver),
            meter: None,
        }
    }
}

/// POSTs jobs to one URL. Connections are pooled; there are at most as many as running jobs.
#[derive(Clone)]
pub struct HttpDelivery {
    app: Arc<App>,
    callbacks: Option<Callbacks>,
}

/// What does not change from job to job.
struct App {
    url: Uri,
    client: AppClient,
    is_local: bool,
    signer: Signer,
    counters: DeliveryCounters,
}

impl std::fmt::Debug for HttpDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpDelivery({})", self.app.url)
    }
}

impl HttpDelivery {
    /// # Errors
    /// The address is none, or is not connected to; a setting is malformed.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpError> {
        let url = parse(&settings.url)?;
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let guard = Guard::new(url.host().unwrap_or_default(), port, &settings.allow)?;
        let signer = Signer::new(&settings.secrets)?;
        if signer.is_empty() && !guard.is_local() {
            tracing::warn!("deliveries are not signed: the app cannot tell them from anyone else's");
        }
        let app = App {
            is_local: guard.is_local(),
            client: connect::client(is_tls, settings.resolver, guard)?,
            url,
            signer,
            counters: DeliveryCounters::new(settings.meter, "http"),
        };
        Ok(Self {
            app: Arc::new(app),
            callbacks: None,
        })
    }

    /// Where an app that answers 202 calls when it is done; without, it cannot.
    pub fn with_callbacks(mut self, callbacks: Callbacks) -> Self {
        self.callbacks = Some(callbacks);
        self
    }

    /// Whether the app is on this machine by its address, so that it reaches what listens on loopback.
    pub fn is_local(&self) -> bool {
        self.app.is_local
    }

    /// The verdict and the word that it is counted as.
    async fn post(&self, job: Job) -> (Verdict, &'static str) {
        // Before the request is sent: an app may call before its answer is here.
        let expected = self
            .callbacks
            .as_ref()
            .map(|callbacks| callbacks.expect(&job.context));
        let extra = Extra {
            trace: handed_on(&job.context),
            callback: expected.as_ref().map(callback::Expected::url),
            signer: &self.app.signer,
            wall_s: clock::wall_s(),
        };
        let headers = request::headers(&job.context, &job.payload, extra);
        let mut request = Request::new(Full::new(job.payload));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.app.url.clone();
        *request.headers_mut() = headers;
        match (self.app.exchange(request).await, expected) {
            (Answer::Accepted, Some(expected)) => (expected.call().await, "called_back"),
            (Answer::Accepted, None) => (answer::no_callback(), "accepted"),
            // A call that was answered with success counts, whatever the app says besides.
            (Answer::Ended(verdict, word), expected) => {
                match expected.and_then(callback::Expected::called_already) {
                    Some(verdict) => (verdict, "called_back"),
                    None => (verdict, word),
                }
            }
        }
    }
}

#[async_trait]
impl Delivery for HttpDelivery {
    async fn deliver(&self, job: Job) -> Verdict {
        let (verdict, word) = self.post(job).await;
        self.app.counters.ended(word);
        verdict
    }
}

impl App {
    /// Sends the request and reads the answer.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return answer::no_response(&error),
        };
        let (head, body) = response.into_parts();
        // Read for every answer: what is left unread would cost the connection.
        match read(body, &head.headers).await {
            Ok((body, cut)) => {
                if cut {
                    self.counters.cut();
                }
                answer::of(head.status, &head.headers, body, clock::wall())
            }
            Err(error) => answer::broken_off(head.status, &error),
        }
    }
}

fn parse(url: &str) -> Result<Uri, HttpError> {
    let invalid = |message: &str| HttpError::InvalidUrl {
        url: url.to_owned(),
        message: message.to_owned(),
    };
    let uri: Uri = url
        .trim()
        .parse()
        .map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("expected http:// or https://"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it names no host"));
    }
    let authority = uri.authority().map(http::uri::Authority::as_str);
    if authority.unwrap_or_default().contains('@') {
        // It would be sent nowhere and end up in logs. (And not be quoted here.)
        return Err(HttpError::InvalidUrl {
            url: "http://...@...".to_owned(),
            message: "a user and password in it are not supported".to_owned(),
        });
    }
    Ok(uri)
}

/// The first 64 KiB, and whether there was more. That is not read: dropping the body cuts the connection.
async fn read(mut body: Incoming, headers: &HeaderMap) -> Result<(Bytes, bool), hyper::Error> {
    let announced = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let mut kept = Vec::with_capacity(announced.unwrap_or(0).min(RESULT_BYTES_MAX));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = RESULT_BYTES_MAX - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((kept.into(), true));
            }
        }
    }
    Ok((kept.into(), false))
}

#[cfg(test)]
mod tests;
