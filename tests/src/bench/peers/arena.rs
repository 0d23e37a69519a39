//! One peer's servers, its adapter's processes, and what can be seen of them from outside.

use std::{process::Command, time::Duration};

use anyhow::{Context, bail};

use super::peer::{Peer, Store};
use crate::{
    Controller, ControllerOptions, Postgres, PostgresOptions, Process, Redis, RedisOptions, Router,
    RouterOptions, Sandbox,
};

/// The longest of the adapter's calls, with room.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the adapter writes how much it has handled, and some more.
const REPORT_WAIT: Duration = Duration::from_millis(250);

/// A queue under the law of a cap, far above the load: what limits cost, not what they do, and not how a fleet that nobody
/// knows yet begins with few.
const LIMITS: &str = r#"
[resources.downstream]
capacity = 100000

[queues.bench]
min = 1000
max = 1000
costs = { downstream = 1 }
"#;

enum Server<'a> {
    Redis(Redis<'a>),
    Postgres(Postgres<'a>),
    File(std::path::PathBuf),
}

pub struct Arena<'a> {
    pub peer: Peer,
    sandbox: &'a Sandbox,
    server: Server<'a>,
    router: Option<Router>,
    controller: Option<Controller>,
    limits: bool,
}

/// What the store's server has done so far.
#[derive(Clone, Copy, Default)]
pub struct Work {
    pub commands: f64,
    pub cpu_s: f64,
}

impl<'a> Arena<'a> {
    pub async fn start(sandbox: &'a Sandbox, peer: Peer, limits: bool) -> Self {
        let server = match peer.store() {
            Store::Redis => Server::Redis(Redis::start(sandbox, RedisOptions::default()).await),
            // A peer that promises to keep jobs is measured keeping them.
            Store::Postgres => {
                let options = PostgresOptions::default().with("fsync", "on");
                Server::Postgres(Postgres::start(sandbox, options).await)
            }
            Store::Sqlite => Server::File(sandbox.path().join("jobs.db")),
        };
        let mut arena = Self {
            peer,
            sandbox,
            server,
            router: None,
            controller: None,
            limits,
        };
        if peer.is_tidegate() {
            arena.start_tidegate().await;
        }
        arena
    }

    async fn start_tidegate(&mut self) {
        let store = match &self.server {
            Server::Redis(redis) => redis.url(),
            Server::File(path) => format!("sqlite:{}", path.display()),
            Server::Postgres(_) => unreachable!("Tidegate keeps no jobs in Postgres"),
        };
        let mut options = RouterOptions::default();
        if self.limits {
            let controller = ControllerOptions {
                policies: Some(LIMITS.to_owned()),
                ..ControllerOptions::default()
            };
            let controller = Controller::start(self.sandbox, controller).await;
            options.args = vec!["--controller".to_owned(), controller.grpc_url()];
            self.controller = Some(controller);
        }
        self.router = Some(Router::start(self.sandbox, &store, options).await);
    }

    /// Runs one of the adapter's submit calls to its end: jobs and seconds.
    pub async fn submit(&self, args: &[&str]) -> anyhow::Result<(f64, f64)> {
        let mut all = vec!["submit"];
        all.extend(args);
        let process = self.adapter(&all);
        let line = process.wait_for_line("submitted ", CALL_TIMEOUT).await;
        let numbers = numbers(&line);
        match numbers[..] {
            [jobs, seconds] => Ok((jobs, seconds)),
            _ => bail!("the adapter of {} said {line:?}", self.peer.name()),
        }
    }

    pub async fn worker(&self, concurrency: u32, sleep_ms: u32) -> Worker {
        let (concurrency, sleep) = (concurrency.to_string(), sleep_ms.to_string());
        let process = self.adapter(&["work", &concurrency, &sleep]);
        process.wait_for_line("ready", START_TIMEOUT).await;
        Worker { process }
    }

    fn adapter(&self, args: &[&str]) -> Process {
        let mut command: Command = self.peer.command();
        command
            .args(args)
            .env("LIMITS", u8::from(self.limits).to_string());
        match &self.server {
            Server::Redis(redis) => command.env("REDIS_URL", redis.url()),
            Server::Postgres(postgres) => command.env("DATABASE_URL", postgres.url()),
            Server::File(_) => &mut command,
        };
        if let Some(router) = &self.router {
            command.env("TIDEGATE_ROUTER", router.grpc_url());
        }
        Process::start(self.sandbox, command)
    }

    /// Bytes that the store holds.
    pub async fn bytes(&self) -> anyhow::Result<f64> {
        match &self.server {
            Server::Redis(redis) => info(redis, "memory", "used_memory").await,
            Server::Postgres(postgres) => {
                let size = "SELECT pg_database_size(current_database())";
                Ok(postgres.number(size).await as f64)
            }
            Server::File(path) => {
                let size = |end: &str| {
                    let file = format!("{}{end}", path.display());
                    std::fs::metadata(file).map_or(0, |meta| meta.len())
                };
                Ok((size("") + size("-wal")) as f64)
            }
        }
    }

    /// Connections to the store, the one that asks not counted.
    pub async fn connections(&self) -> anyhow::Result<f64> {
        match &self.server {
            Server::Redis(redis) => Ok(info(redis, "clients", "connected_clients").await? - 1.0),
            Server::Postgres(postgres) => {
                let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                              AND pid <> pg_backend_pid()";
                Ok(postgres.number(others).await as f64)
            }
            Server::File(_) => Ok(0.0),
        }
    }

    /// Commands, those inside scripts included, and CPU time of a Redis; nothing of the others.
    pub async fn work(&self) -> anyhow::Result<Work> {
        let Server::Redis(redis) = &self.server else {
            return Ok(Work::default());
        };
        let user = info(redis, "cpu", "used_cpu_user").await?;
        let system = info(redis, "cpu", "used_cpu_sys").await?;
        Ok(Work {
            commands: info(redis, "stats", "total_commands_processed").await?,
            cpu_s: user + system,
        })
    }
}

/// A running worker of the peer.
pub struct Worker {
    pub process: Process,
}

impl Worker {
    /// Every report: jobs handled so far, and when, in seconds.
    pub fn reports(&self) -> Vec<(f64, f64)> {
        let output = self.process.stdout();
        let complete = output.rfind('\n').map_or("", |end| &output[..end]);
        let lines = complete.lines().filter(|line| line.starts_with("handled "));
        lines
            .filter_map(|line| match numbers(line)[..] {
                [handled, at] => Some((handled, at / 1e9)),
                _ => None,
            })
            .collect()
    }

    pub fn handled(&self) -> f64 {
        self.reports().last().map_or(0.0, |(handled, _)| *handled)
    }

    /// Waits until so many jobs are handled, the worker exits, or the time is over.
    pub async fn wait(&self, jobs: f64, timeout: Duration) {
        let end = tokio::time::Instant::now() + timeout;
        while self.handled() < jobs && self.process.exit_code().is_none() && tokio::time::Instant::now() < end
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(REPORT_WAIT).await;
    }

    /// Ends it; p50, p99, p99.9 and maximum of the wait from submit to start in ms, and of how many jobs.
    pub async fn end(self) -> anyhow::Result<[f64; 5]> {
        self.process.sigterm();
        let line = self.process.wait_for_line("pickup ", START_TIMEOUT).await;
        numbers(&line)
            .try_into()
            .ok()
            .with_context(|| format!("the adapter said {line:?}"))
    }
}

fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

async fn info(redis: &Redis<'_>, section: &str, name: &str) -> anyhow::Result<f64> {
    let text = redis.command(&["INFO", section]).await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.and_then(|value| value.trim().parse().ok());
    value.with_context(|| format!("no {name} in INFO {section}"))
}
