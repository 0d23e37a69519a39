//! A router in this process, on a real port, with the memory store behind it and tonic clients in front.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, a task may end with its test, and a panic is the way to report"
)]

mod admission;
mod control;
mod controller;
mod draining;
mod ending;
mod faults;
mod faulty;
mod harness;
mod hostile;
mod leasing;
mod looking;
mod startup;
mod submitting;
mod watching;
