//! Binding a port, with an error that says what to do.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("address {address} is in use: stop the other process or choose another with {flag}")]
    InUse { address: SocketAddr, flag: String },
    #[error("address {address} needs privileges: choose a port above 1023 with {flag}")]
    Denied { address: SocketAddr, flag: String },
    #[error("address {address} is not on this machine: choose one that is with {flag}")]
    NotHere { address: SocketAddr, flag: String },
    #[error("cannot listen on {address}")]
    Other { address: SocketAddr, source: io::Error },
}

/// Binds `address` (port 0: any free one); errors speak of `--port`.
///
/// # Errors
/// [`BindError`], each kind with what to do about it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_with_hint(address, "--port").await
}

/// Binds `address`; errors speak of `flag`, such as `--metrics-port`.
///
/// # Errors
/// As [`bind`].
pub async fn bind_with_hint(address: SocketAddr, flag: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let flag = flag.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address, flag },
            io::ErrorKind::PermissionDenied => BindError::Denied { address, flag },
            io::ErrorKind::AddrNotAvailable => BindError::NotHere { address, flag },
            _ => BindError::Other { address, source },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_says_what_to_do() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(any).await.expect("there is a free port");
        let address = first.local_addr().expect("it is bound");
        let error = bind(address).await.expect_err("it is in use");
        assert_eq!(
            error.to_string(),
            format!("address {address} is in use: stop the other process or choose another with --port")
        );
        let error = bind_with_hint(address, "--metrics-port")
            .await
            .expect_err("it is in use");
        assert!(
            error.to_string().ends_with("choose another with --metrics-port"),
            "{error}"
        );
    }
}
