//! How a plain function becomes what runs a queue's jobs.

use std::{future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;

use crate::{
    Delivery, FromJob, IntoVerdict, Job, Verdict,
    layer::{JobLayer, Layered},
};

/// A function that runs jobs of a `Queue<T>`, in a worker with state `S`: up to eight arguments that implement
/// [`FromJob`], and an answer that implements [`IntoVerdict`]. Implemented for every such `async fn` and closure;
/// [`blocking`] makes one of a function that is not async.
///
/// The payload is of the queue's type, or it does not compile:
///
/// ```compile_fail,E0277
/// # use tidegate_worker::{Payload, Queue, Worker};
/// const EMAIL: Queue<String> = Queue::new("email");
/// async fn send(number: Payload<u32>) {}
/// Worker::connect("http://127.0.0.1:7600", ()).handle(EMAIL, send);
/// ```
///
/// `M` only tells implementations apart.
#[diagnostic::on_unimplemented(
    message = "this cannot handle the jobs of a `Queue<{T}>` in a worker with state `{S}`",
    label = "not a handler of `Queue<{T}>`",
    note = "a handler is an `async fn` with up to eight arguments: `Payload<{T}>`, `JobContext`, `State<X>` where `X` is \
            `{S}` or implements `FromRef<{S}>`, `Bytes`, or types that implement `FromJob`",
    note = "it returns `()`, `Result<T, E>` with `T: serde::Serialize`, or a `Verdict`, and its future is `Send`",
    note = "`state()` comes before the handlers that need it; a function that is not async is registered with \
            `handle_blocking`"
)]
pub trait Handler<S, T, M>: Sized + 'static {
    /// What runs the jobs: made once, used for every attempt.
    fn into_delivery(self, state: S) -> Arc<dyn Delivery>;

    /// This handler with a tower layer around it, e.g. `send_email.layer(TimeoutLayer::new(..))`. For all handlers of a
    /// worker there is [`crate::Worker::layer`].
    fn layer<L: JobLayer>(self, layer: L) -> Layered<L, Self, S, T, M> {
        Layered::new(layer, self)
    }
}

/// An async function with its state.
struct Function<F, S, M> {
    f: F,
    state: S,
    arguments: PhantomData<fn() -> M>,
}

/// A function that blocks, with its state.
struct OnThread<F, S, M> {
    f: Arc<F>,
    state: S,
    arguments: PhantomData<fn() -> M>,
}

/// Makes a handler of a function that blocks; see [`blocking`].
#[derive(Debug, Clone, Copy)]
pub struct Blocking<F>(F);

/// Makes a handler of a function that is not async: it runs on a thread for blocking work, of which tokio has 512 by
/// default. A thread cannot be stopped, so let it look at [`crate::JobContext::is_cancelled`] now and then: until it returns, it
/// keeps its slot.
pub fn blocking<F>(f: F) -> Blocking<F> {
    Blocking(f)
}

/// The same for functions of every arity. `$A` names both a type and the variable that holds its value.
macro_rules! handlers {
    ($($A:ident),*) => {
        impl<F, Fut, S, T, $($A),*> Handler<S, T, ($($A,)*)> for F
        where
            F: Fn($($A),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoVerdict> + Send + 'static,
            S: Send + Sync + 'static,
            T: 'static,
            $($A: FromJob<S, T> + Send + 'static,)*
        {
            fn into_delivery(self, state: S) -> Arc<dyn Delivery> {
                let arguments = PhantomData::<fn() -> (T, $($A),*)>;
                Arc::new(Function { f: self, state, arguments })
            }
        }

        #[async_trait]
        impl<F, Fut, S, T, $($A),*> Delivery for Function<F, S, (T, $($A),*)>
        where
            F: Fn($($A),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoVerdict> + Send + 'static,
            S: Send + Sync + 'static,
            T: 'static,
            $($A: FromJob<S, T> + Send + 'static,)*
        {
            #[allow(non_snake_case, unused_variables, reason = "one name for an argument and its type; there may be none")]
            async fn deliver(&self, job: Job) -> Verdict {
                $(
                    let $A = match $A::from_job(&job, &self.state).await {
                        Ok(argument) => argument,
                        Err(error) => return error.into(),
                    };
                )*
                (self.f)($($A),*).await.into_verdict()
            }
        }

        impl<F, R, S, T, $($A),*> Handler<S, T, Blocking<($($A,)*)>> for Blocking<F>
        where
            F: Fn($($A),*) -> R + Send + Sync + 'static,
            R: IntoVerdict + Send + 'static,
            S: Send + Sync + 'static,
            T: 'static,
            $($A: FromJob<S, T> + Send + 'static,)*
        {
            fn into_delivery(self, state: S) -> Arc<dyn Delivery> {
                let arguments = PhantomData::<fn() -> (T, $($A),*)>;
                Arc::new(OnThread { f: Arc::new(self.0), state, arguments })
            }
        }

        #[async_trait]
        impl<F, R, S, T, $($A),*> Delivery for OnThread<F, S, (T, $($A),*)>
        where
            F: Fn($($A),*) -> R + Send + Sync + 'static,
            R: IntoVerdict + Send + 'static,
            S: Send + Sync + 'static,
            T: 'static,
            $($A: FromJob<S, T> + Send + 'static,)*
        {
            #[allow(non_snake_case, reason = "one name for an argument and its type")]
            async fn deliver(&self, job: Job) -> Verdict {
                $(
                    let $A = match $A::from_job(&job, &self.state).await {
                        Ok(argument) => argument,
                        Err(error) => return error.into(),
                    };
                )*
                let f = Arc::clone(&self.f);
                match job.context.run_blocking(move || f($($A),*)).await {
                    Ok(answer) => answer.into_verdict(),
                    Err(error) => error.into(),
                }
            }
        }
    };
}

handlers!();
handlers!(A1);
handlers!(A1, A2);
handlers!(A1, A2, A3);
handlers!(A1, A2, A3, A4);
handlers!(A1, A2, A3, A4, A5);
handlers!(A1, A2, A3, A4, A5, A6);
handlers!(A1, A2, A3, A4, A5, A6, A7);
handlers!(A1, A2, A3, A4, A5, A6, A7, A8);

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
