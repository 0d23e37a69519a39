//! Runs jobs: one gRPC stream to a router, no connection to the job store.
//!
//! ```no_run
//! use tidegate_worker::{JobContext, JobError, Payload, Queue, State, Worker, shutdown_signal};
//!
//! #[derive(serde::Deserialize)]
//! struct SendEmail { to: String }
//! const SEND_EMAIL: Queue<SendEmail> = Queue::new("email");
//!
//! #[derive(Clone)]
//! struct Db;
//! # impl Db { async fn address_is_known(&self, _: &str) -> std::io::Result<bool> { Ok(true) } }
//!
//! async fn send_email(ctx: JobContext, State(db): State<Db>, email: Payload<SendEmail>) -> Result<(), JobError> {
//!     if !db.address_is_known(&email.to).await? {
//!         return Err(JobError::failed("no such address")); // for good; the `?` above is a retry
//!     }
//!     println!("attempt {} for {}", ctx.attempt(), email.to);
//!     Ok(())
//! }
//!
//! # async fn demo(db: Db) -> Result<(), tidegate_worker::WorkerError> {
//! let worker = Worker::connect("http://127.0.0.1:7600", "http://127.0.0.1:7601")
//!     .state(db)
//!     .handle(SEND_EMAIL, send_email)
//!     .slots(64); // a ceiling; how many run is the controller's word
//! worker.run_until(shutdown_signal()).await
//! # }
//! ```
//!
//! From the outside in: [`Worker`] puts it together; `link` owns the stream on a thread of its own; `core` is the
//! protocol as a state machine without I/O, made of `leases` (what may be believed), `permits` (what may run),
//! `settles` (what is to be told), `reflex` (what a worker lowers by itself), `pools` (who waits for a connection) and
//! `tally` (what the controller is told);
//! `control` takes the controller's targets and reports to it; `run` runs attempts on the application's runtime.
//! `handler`, `extract`, `outcome` and `layer` make a [`Delivery`] of a plain function; [`http`] delivers jobs to an app in
//! any language, [`exec`] to a command. What this crate does not know: the store, targets' reasons, other workers.

/// The README's example compiles, and the guide's run.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[cfg(feature = "postgres")] // of which its last part speaks
    #[doc = include_str!("../../../docs/worker-rust.md")]
    struct Guide;
}

mod addresses;
mod config;
mod connect;
mod control;
mod core;
mod delivery;
mod error;
pub mod exec;
mod exit;
mod extract;
mod handler;
mod heartbeat;
pub mod http;
mod job;
mod layer;
mod leases;
mod link;
#[cfg(feature = "model")]
pub mod model;
mod outcome;
mod permits;
mod pools;
#[cfg(feature = "postgres")]
pub mod postgres;
mod reflex;
mod registry;
mod role;
mod run;
mod schema;
mod settles;
mod stop;
mod tally;
mod telemetry;
pub mod testing;
mod worker;

pub use addresses::Addresses;
pub use config::{ExecConfig, HttpConfig, WorkerArgs, WorkerConfig, WorkerFile};
pub use delivery::Delivery;
pub use error::WorkerError;
pub use extract::{FromJob, FromRef, Payload, State};
pub use handler::{Blocking, Handler, blocking};
pub use job::{Job, JobContext};
pub use layer::{JobLayer, JobService, Layered};
pub use outcome::{BoxError, IntoVerdict, JobError, Verdict};
pub use pools::{PoolStats, PoolUsage};
pub use role::{Host, Ready, RunError, main, run, run_on};
pub use telemetry::METRICS;
pub use tidegate_client::Queue;
pub use tidegate_protocol::domain::{FailureClass, JobId, JobState, Outcome};
pub use worker::{Connected, Worker, shutdown_signal};

/// Jobs one worker runs at most. With as many outcomes on their way, a renewal still names every lease it holds.
pub const SLOTS_MAX: u32 = 4_096;
/// Handlers that may go on after they were told to stop; with more the worker exits, because only the end of the process
/// ends them.
pub const OVERDUE_MAX: usize = 8;
