//! A controller in this process, on a real port, with hand-written nodes that say exactly what they are told to.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, a task may end with its test, and a panic is the way to report"
)]

mod attaching;
mod harness;
mod keda;
mod sharing;
mod startup;
mod tuning;
