//! Delivers jobs to an app in any language: one POST an attempt, the answer's status is the outcome.
//!
//! The app's address is the operator's (configuration or code), never a submitter's, so a job cannot choose where the
//! worker connects to. Redirects are not followed: that would let the app's network choose it.

mod answer;
mod request;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tidegate_chassis::clock;
use tidegate_protocol::limits::RESULT_BYTES_MAX;

use crate::{Delivery, Job, Verdict, telemetry::handed_on};

/// An app that does not take a connection in this time is down.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Below the idle time after which common servers close (Node closes after 5 s): a connection that dies under a request
/// costs an attempt.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Why an app's address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("invalid app address {url:?}: {message}")]
    InvalidUrl { url: String, message: String },
    #[error("no certificate of a trusted authority on this machine, which https needs")]
    NoRoots(#[source] std::io::Error),
}

/// POSTs jobs to one URL. Connections are pooled; there are at most as many as running jobs.
#[derive(Debug, Clone)]
pub struct HttpDelivery {
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpDelivery {
    /// `http://` or `https://` (system roots) with a host.
    pub fn new(url: &str) -> Result<Self, HttpError> {
        let invalid = |message: &str| HttpError::InvalidUrl {
            url: url.to_owned(),
            message: message.to_owned(),
        };
        let uri: Uri = url
            .trim()
            .parse()
            .map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("expected http:// or https://")),
        };
        let authority = uri
            .authority()
            .map(http::uri::Authority::as_str)
            .unwrap_or_default();
        if uri.host().is_none_or(str::is_empty) {
            return Err(invalid("it names no host"));
        }
        if authority.contains('@') {
            // It would be sent nowhere and end up in logs.
            return Err(invalid("a user and password in it are not supported"));
        }
        Ok(Self {
            url: uri,
            client: client(is_tls)?,
        })
    }

    async fn post(&self, job: Job) -> Verdict {
        let trace = handed_on(&job.context);
        let headers = request::headers(&job.context, trace, clock::wall_s());
        let mut request = Request::new(Full::new(job.payload));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) => return answer::no_response(&error),
        };
        let (head, body) = response.into_parts();
        // Read for every answer: what is left unread would cost the connection.
        match read(body, &head.headers).await {
            Ok(body) => answer::of(head.status, &head.headers, body, clock::wall()),
            Err(error) => answer::broken_off(head.status, &error),
        }
    }
}

#[async_trait]
impl Delivery for HttpDelivery {
    async fn deliver(&self, job: Job) -> Verdict {
        self.post(job).await
    }
}

fn client(is_tls: bool) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, HttpError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_MAX));
    let builder = HttpsConnectorBuilder::new();
    let ring = rustls::crypto::ring::default_provider();
    let https = if is_tls {
        builder
            .with_provider_and_native_roots(ring)
            .map_err(HttpError::NoRoots)?
    } else {
        // Reading the system's roots takes a while and fails on machines that have none: not for plain HTTP.
        let config = rustls::ClientConfig::builder_with_provider(ring.into())
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    let connector = https.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector))
}

/// The first 64 KiB. What comes after is not read: dropping the body cuts the connection.
async fn read(mut body: Incoming, headers: &HeaderMap) -> Result<Bytes, hyper::Error> {
    let announced = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let mut kept = Vec::with_capacity(announced.unwrap_or(0).min(RESULT_BYTES_MAX));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = RESULT_BYTES_MAX - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break;
            }
        }
    }
    Ok(kept.into())
}

#[cfg(test)]
mod tests;
