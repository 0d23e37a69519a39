//! Typed clients of Tidegate's services, for applications and for our own binaries.
//!
//! ```no_run
//! # async fn demo() -> Result<(), tidegate_client::ClientError> {
//! use tidegate_client::{Client, Queue};
//!
//! #[derive(serde::Serialize)]
//! struct SendEmail { to: String }
//! const EMAIL: Queue<SendEmail> = Queue::new("email");
//!
//! let client = Client::connect(["http://127.0.0.1:7600"])?;
//! let job = client.submit(&EMAIL, SendEmail { to: "a@b.c".into() }).key("invoice-17").send().await?;
//! println!("{} {:?}", job.id, job.outcome);
//! # Ok(()) }
//! ```
//!
//! What the library does so that its users need not:
//!
//! - **Batching.** While one submit call is in flight, further submits gather and leave together; a full batch leaves
//!   while others are in flight. No timer is involved: an idle client sends at once.
//! - **Retries** only where repeating is safe: calls that were refused as UNAVAILABLE, and submits whose outcome is
//!   unknown, because every job carries a request id that the store recognises. Full jitter, within the caller's
//!   deadline, at most a tenth of the traffic.
//! - **Failover** between the routers that it was given.
//! - **Typed errors**: [`ClientError::Backpressure`] says how long to wait.

mod batch;
mod call;
mod client;
pub mod control;
mod deadline;
mod encoded;
mod endpoints;
mod error;
mod jobs;
mod many;
pub mod observe;
mod queue;
mod queues;
mod search;
mod submit;
mod view;

pub use client::Client;
pub use endpoints::endpoint;
pub use error::ClientError;
pub use jobs::Watch;
pub use queue::Queue;
pub use search::{ActProgress, Acting, JobAction, JobFilter};
pub use submit::{Submission, Submit};
pub use tidegate_protocol::domain::{JobId, JobState, QueueName, SubmitOutcome, Submitted};
pub use view::{ActionResult, JobPage, JobView, LossView, QueuePage, QueueView};
