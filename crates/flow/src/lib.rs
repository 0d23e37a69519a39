//! Every decision of Tidegate, as plain functions of their inputs.
//!
//! No clock, no randomness, no I/O and no dependency: time and random values are arguments. So a decision can be tested
//! in an instant, replayed from a record, and simulated faster than real time.

pub mod backoff;
pub mod breaker;
pub mod histogram;
