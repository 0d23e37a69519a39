//! Network tests: a whole fleet on a virtual clock, with everything that networks, clocks and processes do wrong. One seed is
//! one run, the same each time. Fifty seeds here; `TIDEGATE_TEST_SEQUENCES=1000` runs as many, `TIDEGATE_TEST_SEED=n` that
//! one alone, both so many from there.
//!
//! After every event: what is at work on the resource is within its budget, by the handlers that run and by the store's own
//! entries; no order of an older leadership or decision was carried out; no job's success is recorded twice. At the end
//! every job has come to its one end.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: the environment names the seeds, and a panic is the way to report"
)]

mod attach;
mod cases;
mod controller;
mod net;
mod router;
mod seeds;
mod truth;
mod worker;
mod world;
