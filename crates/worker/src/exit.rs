//! The end of a worker whose handlers do not end.

use std::time::Duration;

use tidegate_chassis::tasks::named_thread;

use crate::WorkerError;

/// For the application to say why it ends, and to end by itself.
const EXIT_AFTER: Duration = Duration::from_secs(5);
const EXIT_CODE: i32 = 1;

/// Ends the process a little later, if it has not ended by then. It may have no other way out: a runtime that is dropped
/// waits for its threads, and these do not end. The slots that they hold come free when the process is gone.
pub(crate) fn soon(why: &WorkerError) {
    let why = why.to_string();
    let exit = named_thread("tidegate-exit", move || {
        std::thread::sleep(EXIT_AFTER);
        tracing::error!(why, "handlers that nothing ends: the process exits");
        std::process::exit(EXIT_CODE);
    });
    match exit {
        // Joined by nobody: it ends with the process, or the process with it.
        Ok(thread) => std::mem::forget(thread),
        Err(error) => tracing::error!(%error, "no thread to end the process with"),
    }
}
