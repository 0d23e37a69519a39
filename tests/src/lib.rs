//! The harness of the end-to-end tests: real processes, a real Redis, a real HTTP app.
//!
//! Container engines are not to be had everywhere, and a mocked store or a router in the test's own process would hide
//! what these tests are for: what survives a `kill -9`, what a reconnect does, what a flag means. So a test starts the
//! built binary `tidegate` as a user would, on ports that the system chose, inside a [`Sandbox`] that ends everything
//! it started.
//!
//! ```text
//! let sandbox = Sandbox::new();
//! let redis = Redis::start(&sandbox, RedisOptions::default()).await;
//! let app = App::start(|delivery| if delivery.attempt == 1 { Answer::status(500) } else { Answer::ok() });
//! let router = Router::start(&sandbox, &redis.url(), RouterOptions::default()).await;
//! let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &["email"], WorkerOptions::default()).await;
//! ```
//!
//! Failures panic with what was awaited and, for a process, the end of its output.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, real environment, and a panic is the way to report"
)]

mod app;
pub mod attack;
pub mod bench;
pub mod checklist;
mod cluster;
mod collector;
pub mod demo;
pub mod golden;
pub mod load;
mod pgbouncer;
mod postgres;
mod process;
mod prometheus;
mod proxy;
mod redis;
pub mod report;
mod roles;
pub mod sampler;
mod sandbox;
pub mod scenario;
mod wait;
pub mod work;

pub use app::{Answer, App, Delivery, End};
pub use cluster::{Between, Builder, Cluster, Runs};
pub use collector::{Collector, Received, attributes};
pub use pgbouncer::{PgBouncer, PgBouncerOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use process::{Process, built};
pub use prometheus::{Prometheus, Sample, deploy, promtool};
pub use proxy::{Proxy, Way};
pub use redis::{Redis, RedisOptions};
pub use roles::{
    Controller, ControllerOptions, Dev, DevOptions, Router, RouterOptions, TestWorkerOptions, WorkerOptions,
    WorkerProc, http_get, try_http_get,
};
pub use sandbox::{Sandbox, free_address, free_port};
pub use wait::{START_TIMEOUT, eventually};
