//! A queue's name and the type of its payloads, bound once and shared by producer and worker.

use std::marker::PhantomData;

/// `const SEND_EMAIL: Queue<SendEmail> = Queue::new("email");`
///
/// The name is checked where it is used first (a const cannot fail politely): a submit answers `InvalidArgument`, a
/// worker refuses to start.
pub struct Queue<T> {
    name: &'static str,
    payload: PhantomData<fn() -> T>,
}

impl<T> Queue<T> {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            payload: PhantomData,
        }
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }
}

// By hand: a derive would ask the same of `T`.
impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Queue<T> {}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Queue").field(&self.name).finish()
    }
}
