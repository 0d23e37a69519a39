//! A queue's name and the type of its payloads, bound once and shared by producer and worker.

use std::marker::PhantomData;

/// `const SEND_EMAIL: Queue<SendEmail> = Queue::new("email");`
///
/// The name is checked where it is used first (a const cannot fail politely): a submit answers `InvalidArgument`, a
/// worker refuses to start.
pub struct Queue<T> {
    name: &'static str,
    schema: Option<&'static str>,
    payload: PhantomData<fn() -> T>,
}

impl<T> Queue<T> {
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            schema: None,
            payload: PhantomData,
        }
    }

    /// Binds a JSON Schema to the queue, e.g. `include_str!("email.schema.json")`. A worker with the feature `schema`
    /// checks every payload against it before the handler sees it; what does not match is invalid, that is dead at once.
    #[must_use]
    pub const fn with_schema(self, schema: &'static str) -> Self {
        Self {
            schema: Some(schema),
            ..self
        }
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// As text, if the queue has one.
    pub const fn schema(&self) -> Option<&'static str> {
        self.schema
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
