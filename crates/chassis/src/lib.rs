//! What every Tidegate binary stands on, and nothing about jobs.
//!
//! A process is the same whatever role it plays: it reads its configuration ([`config`]), starts
//! telemetry ([`telemetry`]), binds its listeners ([`serve`], [`admin`]), runs named tasks that are all
//! joined ([`tasks`]) and drains when it is told to stop ([`shutdown`]). Keeping that here keeps the
//! versions of OpenTelemetry, tonic's server settings, clock reads and `tokio::spawn` in one place each.
//!
//! This crate is domain-free on purpose: it imports none of our crates, so it cannot grow a queue or a job.

pub mod admin;
pub mod clock;
pub mod config;
pub mod serve;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;

pub use tokio_util::sync::CancellationToken;

/// Installs ring as the process's TLS provider; later calls do nothing.
///
/// rustls, tonic and redis take the process default and panic without one, so this comes first in `main`
/// (and in tests that use TLS). ring everywhere keeps aws-lc and its C toolchain out of the build.
pub fn tls_provider() {
    // An error means that a provider is installed already, by us or by the embedding application.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
