//! What only the embedded store promises: one owner, a file that survives its owner, and what happens when the file or its
//! disk is not as it should be. The contract that it shares with the other stores is tested in `tests`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, real environment, and a failed expectation is a failed test"
)]

mod answers;
mod child;
mod fixture;
mod full;
mod open;
mod owner;
