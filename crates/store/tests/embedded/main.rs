//! What only the stores of one process promise: one owner of a file, a file that survives its owner, what happens when the
//! file or its disk is not as it should be, work in pieces. The contract that all stores share is tested in `tests`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, real environment, and a failed expectation is a failed test"
)]

mod answers;
mod bounds;
mod child;
mod fixture;
mod full;
mod open;
mod owner;
mod unreadable;
