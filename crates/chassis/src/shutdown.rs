//! From signals to one cancellation token.
//!
//! The first SIGTERM or SIGINT drains: everything that holds the token stops taking work and finishes what it
//! has. The second one exits at once, because an operator who asks twice does not want to wait.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::tasks;

/// Exit code after SIGINT, as a shell reports it: 128 + 2.
const EXIT_SIGINT: i32 = 130;
/// Exit code after SIGTERM: 128 + 15.
const EXIT_SIGTERM: i32 = 143;

/// A token that the first SIGTERM or SIGINT cancels; the second one ends the process (130 or 143).
///
/// Call once, inside the runtime.
///
/// # Panics
/// Outside a tokio runtime, or when the operating system refuses a signal handler.
pub fn token_on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let mut terminate =
        signal(SignalKind::terminate()).expect("a SIGTERM handler can be installed inside a runtime");
    let mut interrupt =
        signal(SignalKind::interrupt()).expect("a SIGINT handler can be installed inside a runtime");

    let cancel = token.clone();
    tasks::detach(async move {
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", EXIT_SIGTERM),
                _ = interrupt.recv() => ("SIGINT", EXIT_SIGINT),
            };
            // Also the exit when something else (a dead task) began the drain and the operator loses patience.
            if cancel.is_cancelled() {
                tracing::warn!(signal = name, "second signal: exiting now");
                std::process::exit(code);
            }
            tracing::info!(signal = name, "draining; a second signal exits at once");
            cancel.cancel();
        }
    });
    token
}
