//! What the arguments of a handler can be: parts of its job and of the worker's state, in any order.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Job, JobContext, JobError};

/// An argument of a handler: made of the job, whose queue carries payloads of type `T`, and the worker's state `S`.
///
/// [`Payload`], [`State`], [`JobContext`] and the raw payload as [`Bytes`] are there; this is how to add one:
///
/// ```
/// use tidegate_worker::{FromJob, Job, JobError};
///
/// struct Tenant(String);
///
/// impl<S: Send + Sync, T> FromJob<S, T> for Tenant {
///     async fn from_job(job: &Job, _state: &S) -> Result<Self, JobError> {
///         match job.context.header("tenant") {
///             Some(tenant) => Ok(Tenant(tenant.to_owned())),
///             None => Err(JobError::invalid("no header 'tenant'")),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler of `Queue<{T}>` with state `{S}`",
    label = "not made of a job",
    note = "arguments are `Payload<{T}>`, `JobContext`, `State<X>` where `X` is `{S}` or implements `FromRef<{S}>`, \
            `Bytes`, and types of yours that implement `FromJob`"
)]
pub trait FromJob<S, T>: Sized {
    /// An error ends the attempt as it says; the handler is not called.
    fn from_job(job: &Job, state: &S) -> impl Future<Output = Result<Self, JobError>> + Send;
}

/// The job's payload, of the type that its queue was declared with. One that does not decode ends the job as invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromJob<S, T> for Payload<T> {
    async fn from_job(job: &Job, _state: &S) -> Result<Self, JobError> {
        decode(&job.payload).map(Payload)
    }
}

/// What the worker was given with [`crate::Worker::state`], or a part of it (see [`FromRef`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<X>(pub X);

impl<S: Send + Sync, T, X: FromRef<S>> FromJob<S, T> for State<X> {
    async fn from_job(_job: &Job, state: &S) -> Result<Self, JobError> {
        Ok(State(X::from_ref(state)))
    }
}

/// A part of the state `S`, cheap to clone out of it.
pub trait FromRef<S> {
    fn from_ref(state: &S) -> Self;
}

impl<S: Clone> FromRef<S> for S {
    fn from_ref(state: &S) -> Self {
        state.clone()
    }
}

impl<S: Send + Sync, T> FromJob<S, T> for JobContext {
    async fn from_job(job: &Job, _state: &S) -> Result<Self, JobError> {
        Ok(job.context.clone())
    }
}

/// The payload as it was submitted.
impl<S: Send + Sync, T> FromJob<S, T> for Bytes {
    async fn from_job(job: &Job, _state: &S) -> Result<Self, JobError> {
        Ok(job.payload.clone())
    }
}

impl<T> Deref for Payload<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Payload<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<X> Deref for State<X> {
    type Target = X;

    fn deref(&self) -> &X {
        &self.0
    }
}

/// From JSON. No further attempt would decode what does not, so it is invalid; the error says where.
fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, JobError> {
    serde_json::from_slice(payload).map_err(|error| undecodable::<T>(payload, &error))
}

/// Decodes once more, keeping the path: slower, and needed only for those that fail.
fn undecodable<T: DeserializeOwned>(payload: &[u8], error: &serde_json::Error) -> JobError {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(at) if at.path().iter().next().is_some() => format!("at {}: {}", at.path(), at.inner()),
        _ => error.to_string(),
    };
    JobError::invalid(format!("the payload does not decode: {error}"))
}
