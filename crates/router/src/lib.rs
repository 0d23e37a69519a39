//! The router: keeps jobs, hands them to workers, and answers for them.
//!
//! ```text
//!  producers --> job_service --> pipes (batches) ----+
//!  operators --> queue_service ----------------------+--> observed --> job store
//!  workers <===> lease streams --> pipes (batches) --+        |
//!                     ^                              |        v
//!                     +---- dispatcher (one task) ---+   janitor: pulse, sweeps --> condition, catalog
//!  controller <==> control: policies and caps to the store, facts and counts to the controller
//! ```
//!
//! It keeps no state of its own that matters: jobs, leases, caps and policies are the store's; a router that dies loses
//! its streams and nothing else. Everything to the store goes in lists. State has one owner task (the dispatcher's board,
//! each batch) or is a small table behind a std mutex that is held for a few lines ([`condition`], [`catalog`],
//! registry, waiters).
//!
//! What it deliberately does not know: how many jobs should run (caps and policies come from elsewhere, and the store
//! enforces them) and what a payload means.

mod admission;
mod batch;
mod catalog;
mod condition;
mod config;
mod control;
mod dispatcher;
mod janitor;
mod job_service;
mod lease;
mod metrics;
mod observed;
mod pipes;
pub mod policies;
mod queue_service;
mod run;
mod runtime;
mod status;
mod trace;
mod waiters;
pub mod watch;
mod window;

pub use config::{RouterArgs, RouterConfig, RouterFile};
pub use metrics::METRICS;
pub use run::{Host, Ready, RunError, run, run_on, serve};
pub use runtime::runtime;
