//! OS threads for work that must not share the runtime's threads, joined when their owner goes.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::panic_message;

/// A thread that is joined when this is dropped.
///
/// The closure must be able to end by then: let it watch a token or a channel whose sender is dropped first
/// (in a struct, declare the sender above this field).
#[derive(Debug)]
pub struct NamedThread {
    name: String,
    handle: Option<JoinHandle<()>>,
}

/// Starts an OS thread with a name (the kernel shows its first 15 bytes).
///
/// # Errors
/// The operating system has no thread to give.
pub fn named_thread<F>(name: impl Into<String>, f: F) -> io::Result<NamedThread>
where
    F: FnOnce() + Send + 'static,
{
    let name = name.into();
    let handle = Builder::new().name(name.clone()).spawn(f)?;
    Ok(NamedThread {
        name,
        handle: Some(handle),
    })
}

impl NamedThread {
    /// Whether it has ended (a panic included): owners that need it alive check this.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets it go unjoined: for a thread that may hang at the very end of the process.
    pub(crate) fn detach(mut self) {
        self.handle = None;
    }
}

impl Drop for NamedThread {
    fn drop(&mut self) {
        let Some(Err(panic)) = self.handle.take().map(JoinHandle::join) else {
            return;
        };
        tracing::error!(
            thread = self.name,
            message = panic_message(panic.as_ref()),
            "a thread panicked"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn is_joined_on_drop() {
        let ran = Arc::new(AtomicBool::new(false));
        let flag = ran.clone();
        let thread = named_thread("renewer", move || flag.store(true, Ordering::SeqCst));
        drop(thread.expect("a thread can be started"));
        assert!(ran.load(Ordering::SeqCst));
    }
}
