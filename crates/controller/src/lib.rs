//! The controller: the only owner of targets, caps and policies.
//!
//! ```text
//!  routers, workers <===> attach (a stream each) --+
//!                                                  +--> owner (one task, one mailbox) --> core (pure)
//!  operators -----------> tuning ------------------+        |
//!  KEDA ----------------> keda --------------------+        +--> metrics, decisions to watchers
//!  Postgres, ... <------- probes ------------------+
//! ```
//!
//! Everything that is decided is decided in [`core`]: events in with their time, effects out, no I/O. The arithmetic is
//! `tidegate_flow`'s. What is kept is in memory: a controller that restarts learns caps from the store and facts from the
//! nodes again.
//!
//! What it deliberately does not know: jobs. It never talks to the job store; routers do that for it. It looks at the resources
//! that its records name, and at nothing of them but how full they are.

mod attach;
mod config;
pub mod core;
mod edits;
mod keda;
mod keeper;
mod ledger;
mod metrics;
mod owner;
mod probes;
mod replay;
mod run;
mod seed;
mod status;
mod trace;
mod tuning;
pub mod wire;

pub use config::{ControllerArgs, ControllerConfig, ControllerFile};
pub use metrics::METRICS;
pub use replay::{Mismatch, Replayed, replay};
pub use run::{Host, Ready, RunError, run, run_on};
