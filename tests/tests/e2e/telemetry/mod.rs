//! What operators see: traces at a real collector, metrics at a real Prometheus, logs.

mod canary;
mod check;
mod collector_config;
mod env;
mod exemplars;
mod fleet;
mod handlers;
mod metrics;
mod prometheus;
mod sampling;
mod story;
mod traces;
