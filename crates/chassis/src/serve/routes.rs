//! Which service a call is for. By hand instead of by tonic's routes, which are a web framework's: a call would pass some
//! 250 moves of 300 bytes and several boxes, to find out what a comparison of its path says.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tower_service::Service;

/// What a generated service makes of a request.
pub(super) type Handled = BoxFuture<Response<Body>, Infallible>;

type Handler = Arc<dyn Fn(Request<Body>) -> Handled + Send + Sync>;

/// The services of one server: a handful.
#[derive(Clone, Default)]
pub(super) struct Routes {
    services: Vec<(&'static str, Handler)>,
}

impl Routes {
    pub fn add<S>(&mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Handled>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        // Generated services are always ready, and cloned as cheaply as what they share.
        let handler = Arc::new(move |request| service.clone().call(request));
        self.services.push((S::NAME, handler));
    }

    /// UNIMPLEMENTED where there is no such service.
    pub fn call(&self, request: Request<Body>) -> Handled {
        let name = service_of(request.uri().path());
        match self.services.iter().find(|(known, _)| *known == name) {
            Some((_, handler)) => handler(request),
            None => Box::pin(std::future::ready(Ok(unimplemented()))),
        }
    }
}

/// Of `/package.Service/Method`.
pub(super) fn service_of(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(service, _)| service)
}

fn unimplemented() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("12"));
    answer
}
