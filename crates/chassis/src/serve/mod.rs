//! Listeners and gRPC servers with every limit set on purpose, and one measure of every call.

mod bind;
mod connections;
mod health;
mod limits;
mod paced;
mod peer;
mod routes;
mod rpc;

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};

pub use bind::{BindError, bind, bind_with_hint};
pub use connections::Connection;
pub use health::{HealthHandle, LIVENESS_SERVICE};
pub use limits::{Limits, MESSAGE_BYTES_MAX};
pub use peer::{Hold, PeerInfo};
pub use rpc::{Answer, Unanswered};

use self::routes::{Handled, Routes};
use self::rpc::{Calls, Known};
use crate::admin::Readiness;

/// Why a server could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the descriptors for reflection do not decode")]
    Reflection(#[source] tonic_reflection::server::Error),
    #[error("the TLS certificate or key cannot be used")]
    Tls(#[source] tonic::transport::Error),
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// A gRPC server: services, health, optional reflection, limits. Built, then served once.
pub struct GrpcServer {
    limits: Limits,
    routes: Routes,
    services: Vec<&'static str>,
    readiness: Readiness,
    health: HealthHandle,
    reflection: Vec<&'static [u8]>,
    tls: Option<ServerTlsConfig>,
    answer: Answer,
}

impl GrpcServer {
    /// A server whose health follows `readiness`: `""` and every service; `liveness` is always serving.
    pub fn new(readiness: Readiness) -> Self {
        Self {
            limits: Limits::default(),
            routes: Routes::default(),
            services: Vec::new(),
            readiness,
            health: HealthHandle::new(),
            reflection: Vec::new(),
            tls: None,
            answer: rpc::plain,
        }
    }

    /// Replaces the default limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a generated service. Set its message limits to [`MESSAGE_BYTES_MAX`] before, both ways: tonic does
    /// not limit what it sends.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: tower_service::Service<
                http::Request<Body>,
                Response = http::Response<Body>,
                Error = std::convert::Infallible,
                Future = Handled,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.routes.add(service);
        self.services.push(S::NAME);
        self
    }

    /// Serves reflection from an encoded `FileDescriptorSet`. On in dev, a flag elsewhere.
    pub fn reflection(mut self, descriptors: &'static [u8]) -> Self {
        self.reflection.push(descriptors);
        self
    }

    /// Serves TLS instead of plain HTTP/2.
    pub fn tls(mut self, config: ServerTlsConfig) -> Self {
        crate::tls_provider();
        self.tls = Some(config);
        self
    }

    /// What a caller is told who has no answer of a handler; else the status without details.
    pub fn answer(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    /// To change one service's health on its own.
    pub fn health(&self) -> HealthHandle {
        self.health.clone()
    }

    /// Serves until `shutdown` and through the drain: health says NOT_SERVING, after `drain_notice` the listener
    /// closes and connections get GOAWAY, then calls in flight finish. Streams must watch `shutdown` themselves;
    /// what is still open after `drain_timeout` is left behind.
    ///
    /// # Errors
    /// Unusable descriptors or certificates, or a server that failed; never a single connection.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let limits = self.limits.clone();
        let drain_timeout = limits.drain_notice + limits.drain_timeout;
        let health = self.health.clone();
        let readiness = self.readiness.clone();
        let services: Arc<[&'static str]> = self.services.clone().into();
        let (server, calls) = self.build()?;

        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(limits.tcp_keepalive));
        let incoming = connections::bounded(incoming, &limits);
        let begin_drain = CancellationToken::new();
        let serving = server.serve_with_incoming_shutdown(
            calls,
            incoming.boxed(),
            begin_drain.clone().cancelled_owned(),
        );
        // Boxed: the server's future is large, and this function's future holds it twice otherwise.
        let mut serving = Box::pin(serving);

        tokio::select! {
            biased;
            ended = &mut serving => return Ok(ended?),
            () = health.follow(&readiness, &services, &shutdown) => {}
        }
        health.not_serving(&services).await;
        let drain = async {
            tokio::time::sleep(limits.drain_notice).await;
            // Watches would hold their connections open for ever; they have had their NOT_SERVING.
            health.end_watches(&services).await;
            begin_drain.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = &mut serving => ended?,
            () = drain => {}
            () = tokio::time::sleep(drain_timeout) => {
                tracing::warn!("connections were still open when the drain ended");
            }
        }
        Ok(())
    }

    fn build(self) -> Result<(Server, Calls), ServeError> {
        let mut routes = self.routes;
        routes.add(self.health.service());
        if !self.reflection.is_empty() {
            let mut builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            for descriptors in self.reflection {
                builder = builder.register_encoded_file_descriptor_set(descriptors);
            }
            routes.add(builder.build_v1().map_err(ServeError::Reflection)?);
        }
        let known = Known::new(routes, self.services, self.answer, self.limits.unread_bytes_max);
        let mut server = self.limits.apply(Server::builder());
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).map_err(ServeError::Tls)?;
        }
        Ok((server, Calls(Arc::new(known))))
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
