//! End-to-end tests: one binary, one module a subject. `cargo xtask test` builds what they start.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, and a panic is the way to report"
)]

mod bad_input;
mod caps;
mod checklist;
mod control;
mod delivery;
mod demo;
mod dev;
mod examples;
mod failover;
mod fences;
mod floods;
mod from_zero;
mod hard_cap;
mod harness;
mod hold;
mod hostile;
mod ledger;
mod once;
mod overload;
mod probes;
mod producer;
mod readme;
mod redis_faults;
mod repeats;
mod replicas;
mod servers;
mod steering;
mod survival;
mod target_pool;
mod telemetry;
