//! The routers a client may talk to, and which one it talks to now.
//!
//! One at a time and not a balanced set: submits of one client then gather in one batch. The start is random, so many
//! clients spread over the routers; a router that fails is left for the next in the list, and there is no way back until
//! that one fails too, because a client that hops back and forth only makes a wobbling router wobble more.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::ClientError;

/// A router that does not take a connection in this time is as good as gone.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Both as the protocol asks of lease streams; a submit's deadline is no longer than their sum.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER_MAX: Duration = Duration::from_secs(3);

/// A router's address with the settings that our connections use: `http://host:port`, `https://host:port` (system
/// roots), or `host:port` (plain).
pub fn endpoint(text: &str) -> Result<Endpoint, ClientError> {
    let text = text.trim();
    let invalid = |why: &dyn std::fmt::Display| ClientError::InvalidEndpoint {
        endpoint: text.to_owned(),
        message: why.to_string(),
    };
    let uri = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let is_tls = uri.starts_with("https://");
    if !is_tls && !uri.starts_with("http://") {
        return Err(invalid(&"expected http:// or https://"));
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|error| invalid(&error))?;
    if endpoint
        .uri()
        .authority()
        .is_none_or(|authority| authority.host().is_empty())
    {
        return Err(invalid(&"expected http://host:port"));
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_MAX)
        .tcp_nodelay(true);
    if !is_tls {
        return Ok(endpoint);
    }
    endpoint
        .tls_config(ClientTlsConfig::new().with_enabled_roots())
        .map_err(|error| invalid(&error))
}

pub(crate) struct Endpoints {
    list: Vec<Router>,
    current: AtomicUsize,
}

struct Router {
    endpoint: Endpoint,
    /// Made at the first use: only then is it certain that a runtime is there, which the channel needs.
    channel: OnceLock<Channel>,
}

impl Endpoints {
    pub(crate) fn new(texts: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, ClientError> {
        let list = texts
            .into_iter()
            .map(|text| {
                Ok(Router {
                    endpoint: endpoint(&text.into())?,
                    channel: OnceLock::new(),
                })
            })
            .collect::<Result<Vec<_>, ClientError>>()?;
        if list.is_empty() {
            let message = "give the address of at least one router".to_owned();
            return Err(ClientError::InvalidEndpoint {
                endpoint: String::new(),
                message,
            });
        }
        let current = AtomicUsize::new(fastrand::usize(..list.len()));
        Ok(Self { list, current })
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The router to use now, and its number for [`Self::failed`].
    pub(crate) fn current(&self) -> (usize, Channel) {
        let index = self.current.load(Ordering::Relaxed);
        let router = &self.list[index];
        (
            index,
            router
                .channel
                .get_or_init(|| router.endpoint.connect_lazy())
                .clone(),
        )
    }

    /// Moves on, unless another call did so already.
    pub(crate) fn failed(&self, index: usize) {
        let next = (index + 1) % self.list.len();
        let _ = self
            .current
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_scheme_are_taken() {
        for text in [
            "http://127.0.0.1:7600",
            "127.0.0.1:7600",
            "router.svc:7600",
            " https://tide.example ",
        ] {
            endpoint(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn other_addresses_are_refused_with_their_text() {
        for text in ["", "ftp://a:1", "http://", "http:// a", "unix:///tmp/x"] {
            let error = endpoint(text).expect_err(text);
            assert!(matches!(error, ClientError::InvalidEndpoint { .. }), "{error:?}");
        }
        assert!(Endpoints::new(Vec::<String>::new()).is_err());
    }

    #[tokio::test]
    async fn two_failures_of_one_call_move_on_once() {
        let endpoints = Endpoints::new(["a:1", "b:1", "c:1"]).expect("valid");
        let (first, _) = endpoints.current();
        endpoints.failed(first);
        endpoints.failed(first);
        assert_eq!(endpoints.current().0, (first + 1) % 3);
    }
}
