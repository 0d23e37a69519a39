//! The job store's contract: one suite for every store.
//!
//! [`cases`] states the promises one by one, readable as a specification; [`random`] drives random operation sequences
//! against every store at once and demands equal answers and equal final states. Both move a clock by hand.
//! [`redis_faults`] provokes what can go wrong with a Redis, and demands the right error and nothing lost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: the environment chooses a seed, and a failed expectation is a failed test"
)]

mod cases;
mod fixture;
mod random;
mod redis_faults;
