//! The limits of a gRPC server. tonic's own defaults are mostly "none"; nothing here is left to them.

use std::time::Duration;

use tonic::transport::Server;

/// Largest message either way, in bytes. Generated services need it told: `max_decoding_message_size`,
/// `max_encoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Limits of one server. The defaults are for a port that strangers can reach.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more are closed as they come, so that their clients try another server.
    pub connections_max: usize,
    /// Of one address; many clients behind one address share it.
    pub connections_per_ip_max: usize,
    /// Time for a new connection to say its first 24 bytes (the HTTP/2 preface).
    pub handshake_timeout: Duration,
    /// Streams at once on a connection. Never `None`: that would remove hyper's bound of 200 (CVE-2023-44487).
    pub streams_max: u32,
    /// Calls that run at once for a connection; more wait, or are refused with `load_shed`.
    pub calls_max: usize,
    pub load_shed: bool,
    /// Bytes of answers that may wait for the reader of one connection; answers beyond it are refused ...
    pub unread_bytes_max: usize,
    /// ... and a connection that reads nothing of them for this long is closed.
    pub reader_patience: Duration,
    /// Time until a call has answered its headers; a client's own shorter deadline wins.
    pub request_timeout: Duration,
    /// A connection is pinged this often, and is dead when the answer takes longer than the timeout.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// The kernel's own probe, for a peer that vanished before HTTP/2 began.
    pub tcp_keepalive: Duration,
    /// After a time between these two, drawn once a server, a connection is asked to go, so that balancers
    /// which spread connections also spread long-lived clients.
    pub connection_age_min: Duration,
    pub connection_age_max: Duration,
    /// Bytes of received headers of a call.
    pub header_list_bytes_max: u32,
    pub frame_bytes_max: u32,
    /// Bytes that a peer may send ahead of the reader: on a stream, on a connection.
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    /// Streams that the peer reset before we accepted them (rapid reset), and that we reset for its errors.
    pub pending_reset_streams_max: usize,
    pub local_error_reset_streams_max: usize,
    /// From NOT_SERVING to closing the listener: what a balancer needs to notice. 0 where nothing balances.
    pub drain_notice: Duration,
    /// From closing the listener to giving up on open calls.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_ip_max: 1_000,
            handshake_timeout: Duration::from_secs(10),
            streams_max: 256,
            calls_max: 256,
            load_shed: false,
            unread_bytes_max: 16 << 20,
            reader_patience: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            // Together under the 10 s of a lease: a dead worker's stream breaks before its leases end.
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(3),
            tcp_keepalive: Duration::from_secs(30),
            connection_age_min: Duration::from_secs(10 * 60),
            connection_age_max: Duration::from_secs(30 * 60),
            header_list_bytes_max: 16 << 10,
            frame_bytes_max: 16 << 10,
            // A full batch of small jobs is 300 KiB: with less it would stop half-way and wait for our reading of it.
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
            pending_reset_streams_max: 20,
            local_error_reset_streams_max: 1024,
            drain_notice: Duration::ZERO,
            // Under the drain deadline of the process's tasks (25 s), which would name this server as stuck.
            drain_timeout: Duration::from_secs(20),
        }
    }
}

impl Limits {
    pub(super) fn apply(&self, server: Server) -> Server {
        // No `max_connection_age_grace`: with it tonic 0.14 cuts the connection at the end of the grace without
        // ever sending the GOAWAY that the grace is for.
        server
            .max_concurrent_streams(self.streams_max)
            .concurrency_limit_per_connection(self.calls_max)
            .load_shed(self.load_shed)
            .timeout(self.request_timeout)
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .max_connection_age(self.connection_age())
            .http2_max_header_list_size(self.header_list_bytes_max)
            .max_frame_size(self.frame_bytes_max)
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .http2_adaptive_window(Some(false))
            .http2_max_pending_accept_reset_streams(Some(self.pending_reset_streams_max))
            .http2_max_local_error_reset_streams(Some(self.local_error_reset_streams_max))
            .tcp_nodelay(true)
            .accept_http1(false)
    }

    fn connection_age(&self) -> Duration {
        let spread = self.connection_age_max.saturating_sub(self.connection_age_min);
        self.connection_age_min + spread.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_age_is_drawn_from_the_range() {
        let limits = Limits::default();
        for _ in 0..100 {
            let age = limits.connection_age();
            assert!((limits.connection_age_min..=limits.connection_age_max).contains(&age));
        }
    }
}
