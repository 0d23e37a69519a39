//! Why a server ends a connection before it was asked anything.

use std::time::Duration;

use deadpool_redis::redis::ConnectionAddr;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// Said at once, or there is nothing to say.
const WAIT: Duration = Duration::from_millis(300);
const TEXT_MAX: u64 = 1_024;

/// A server that takes no connection (too many clients, protected mode) says so unasked and hangs up. A client that was
/// sending meanwhile mostly finds a broken pipe in place of that text; so one more connection is made that only listens.
pub(super) async fn of(address: &ConnectionAddr) -> Option<String> {
    let ConnectionAddr::Tcp(host, port) = address else {
        return None;
    };
    let mut text = Vec::new();
    let listening = async {
        let stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
        stream.take(TEXT_MAX).read_to_end(&mut text).await.ok()
    };
    timeout(WAIT, listening).await.ok()??;
    let text = String::from_utf8_lossy(&text);
    let text = text.lines().next()?.strip_prefix('-')?;
    Some(text.to_owned())
}
