//! The domain types: what the parts of Tidegate talk about among themselves.
//!
//! All times are milliseconds since the Unix epoch by the job store's clock, all durations milliseconds, both `u64`.

mod id;
mod job;
mod lease;
mod policy;
mod probe;
mod resource;

pub use id::{Incarnation, InvalidJobId, InvalidQueueName, JobId, LocalId, QueueName, Session};
pub use job::{
    Job, JobState, Lane, Lease, Loss, NewJob, OutcomeKind, PayloadHash, Settled, SubmitOutcome, Submitted,
};
pub use lease::{FailureClass, LeaseRef, Outcome, SettleResult, Settlement};
pub use policy::{Cap, CapRecord, Policy, ResourceCost, Retry, Strategy, Version, WhenDown};
pub use probe::{PgbouncerProbe, PostgresProbe, Probe, PrometheusProbe};
pub use resource::Resource;
