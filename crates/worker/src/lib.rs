//! Runs jobs: one gRPC stream to a router, no connection to the job store.
//!
//! ```no_run
//! use tidegate_worker::{JobContext, JobError, Queue, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct SendEmail { to: String }
//! const EMAIL: Queue<SendEmail> = Queue::new("email");
//!
//! async fn send_email(ctx: JobContext, email: SendEmail) -> Result<(), JobError> {
//!     if !email.to.contains('@') {
//!         return Err(JobError::failed("no address"));
//!     }
//!     println!("attempt {} for {}", ctx.attempt(), email.to);
//!     Ok(())
//! }
//!
//! # async fn demo(shutdown: tokio_util::sync::CancellationToken) -> Result<(), tidegate_worker::WorkerError> {
//! let worker = Worker::connect(["http://127.0.0.1:7600"]).handle(EMAIL, send_email).slots(64);
//! worker.run_until(shutdown.cancelled_owned()).await
//! # }
//! ```
//!
//! From the outside in: [`Worker`] puts it together; `link` owns the stream on a thread of its own; `core` is the
//! protocol as a state machine without I/O, made of `leases` (what may be believed), `permits` (what may run),
//! `settles` (what is to be told), `reflex` (what a worker lowers by itself), `pools` (who waits for a connection) and
//! `tally` (what the controller is told);
//! `control` takes the controller's targets and reports to it; `run` runs attempts on the application's runtime. [`http`]
//! delivers jobs to an app in any language, [`exec`] to a command. What this crate does not know: the store, targets' reasons, other workers.

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod config;
mod connect;
mod control;
mod core;
mod delivery;
mod error;
pub mod exec;
pub mod http;
mod job;
mod leases;
mod link;
mod permits;
mod pools;
mod reflex;
mod role;
mod run;
mod settles;
mod stop;
mod tally;
mod telemetry;
mod worker;

pub use config::{ExecConfig, HttpConfig, WorkerArgs, WorkerConfig, WorkerFile};
pub use delivery::Delivery;
pub use error::WorkerError;
pub use job::{Job, JobContext, JobError, Verdict};
pub use pools::{PoolStats, PoolUsage};
pub use role::{Host, Ready, RunError, main, run, run_on};
pub use tidegate_client::Queue;
pub use tidegate_protocol::domain::{FailureClass, Outcome};
pub use worker::{Connected, Worker};

/// Jobs one worker runs at most. With as many outcomes on their way, a renewal still names every lease it holds.
pub const SLOTS_MAX: u32 = 4_096;
/// Handlers that may go on after they were told to stop; with more the worker exits, because only the end of the process
/// ends them.
pub const OVERDUE_MAX: usize = 8;
