//! Connections to the app: pooled, bounded, and only to addresses that were judged.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use tower_service::Service;

use super::{HttpError, address::Guard};

/// An app that does not take a connection in this time is down.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Below the idle time after which common servers close (Node closes after 5 s): a connection that dies under a request
/// costs an attempt.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// There are at most as many connections as running jobs; of those that are done, this many wait for the next job.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// Status line and headers of an answer: what common servers send at most, and some.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// Finds a host's addresses.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the system does it.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The host has no address that is known now.
#[derive(Debug, thiserror::Error)]
#[error("no address of {host:?}")]
pub(super) struct LookupFailed {
    host: String,
    source: Option<io::Error>,
}

pub(super) type AppClient = Client<HttpsConnector<HttpConnector<Guarded>>, Full<Bytes>>;

/// Proxies that the environment names are not used: where jobs go is the configuration's word.
pub(super) fn client(is_tls: bool, resolver: Arc<dyn Resolve>, guard: Guard) -> Result<AppClient, HttpError> {
    let mut tcp = HttpConnector::new_with_resolver(Guarded { resolver, guard });
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
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .http1_max_headers(HEADERS_MAX)
        .build(connector))
}

/// Resolves once for each connection, judges all addresses, and gives those: the connection goes to one of them, and
/// nobody asks again. (Hosts that are addresses were judged at the start.)
#[derive(Clone)]
pub(super) struct Guarded {
    resolver: Arc<dyn Resolve>,
    guard: Guard,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { resolver, guard } = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let failed = |source| LookupFailed {
                host: host.to_owned(),
                source,
            };
            // One name server that does not answer must not use up the attempt's time.
            let found = tokio::time::timeout(CONNECT_MAX, resolver.resolve(host)).await;
            let found = found
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error| failed(Some(error)))?;
            if found.is_empty() {
                return Err(failed(None).into());
            }
            // One bad address among good ones is reason enough: which of them is used would be chance.
            for address in &found {
                guard.check(*address)?;
            }
            let addresses: Vec<SocketAddr> = found
                .into_iter()
                .map(|address| SocketAddr::new(address, 0)) // the port is the URL's
                .collect();
            Ok(addresses.into_iter())
        })
    }
}
