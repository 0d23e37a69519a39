//! A whole Tidegate of real processes, described in a few words.
//!
//! ```text
//! let sandbox = Sandbox::new();
//! let mut cluster = Cluster::builder()
//!     .redis()
//!     .postgres(PostgresOptions::default())
//!     .policies("[queues.pg]\ncosts = { pg-main = 1 }\ncap = 8\n")
//!     .routers(2)
//!     .workers(3, Runs::Work(&[("pg", "postgres")]))
//!     .proxied(Between::WorkersAndRouters)
//!     .start(&sandbox)
//!     .await;
//! cluster.workers[0].process.kill9();
//! cluster.restart_router(1).await;
//! ```
//!
//! The sandbox ends it all.

use crate::roles::{
    Controller, ControllerOptions, Router, RouterOptions, TestWorkerOptions, WorkerOptions, WorkerProc,
};
use crate::sandbox::{Sandbox, free_address};
use crate::wait::START_TIMEOUT;
use crate::{PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, Proxy, Redis, RedisOptions};
use tidegate_client::Client;

/// The role that the workers' statements run as.
const ROLE: &str = "app";

/// What the workers run.
#[derive(Clone)]
pub enum Runs {
    /// Nothing yet: [`Cluster::start_worker`] later.
    Nothing,
    /// `tidegate worker`: these queues, delivered to an app.
    App { url: String, queues: Vec<String> },
    /// `test-worker`: (queue, kind of work).
    Work(Vec<(String, String)>),
}

impl Runs {
    pub fn app(url: impl Into<String>, queues: &[&str]) -> Self {
        Self::App {
            url: url.into(),
            queues: queues.iter().map(|&queue| queue.to_owned()).collect(),
        }
    }

    pub fn work(queues: &[(&str, &str)]) -> Self {
        let queues = queues
            .iter()
            .map(|(queue, kind)| ((*queue).to_owned(), (*kind).to_owned()));
        Self::Work(queues.collect())
    }
}

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// One in front of each router.
    WorkersAndRouters,
    RoutersAndRedis,
    WorkersAndPostgres,
}

#[derive(Clone)]
enum Store {
    Memory,
    Sqlite,
    Redis(RedisOptions),
}

/// What there is to be; see the [module](self).
#[derive(Clone)]
pub struct Builder {
    store: Store,
    postgres: Option<PostgresOptions>,
    sessions: u32,
    pgbouncer: Option<PgBouncerOptions>,
    policies: Option<String>,
    controller_config: Option<String>,
    routers: usize,
    controllers: usize,
    workers: usize,
    runs: Runs,
    slots: u32,
    worker_args: Vec<String>,
    proxied: Vec<Between>,
}

pub struct Cluster<'a> {
    sandbox: &'a Sandbox,
    builder: Builder,
    pub redis: Option<Redis<'a>>,
    pub postgres: Option<Postgres<'a>>,
    pub pgbouncer: Option<PgBouncer<'a>>,
    pub controllers: Vec<Controller>,
    pub routers: Vec<Router>,
    pub workers: Vec<WorkerProc>,
    proxies: Vec<(Between, Proxy)>,
}

impl Cluster<'_> {
    /// One router on a store in memory, and nothing else.
    pub fn builder() -> Builder {
        Builder {
            store: Store::Memory,
            postgres: None,
            sessions: 50,
            pgbouncer: None,
            policies: None,
            controller_config: None,
            routers: 1,
            controllers: 0,
            workers: 0,
            runs: Runs::Nothing,
            slots: 16,
            worker_args: Vec::new(),
            proxied: Vec::new(),
        }
    }
}

impl Builder {
    pub fn redis(self) -> Self {
        self.redis_with(RedisOptions::default())
    }

    pub fn redis_with(mut self, options: RedisOptions) -> Self {
        self.store = Store::Redis(options);
        self
    }

    /// The embedded store, in the sandbox.
    pub fn sqlite(mut self) -> Self {
        self.store = Store::Sqlite;
        self
    }

    /// With the tables of `test-worker` and a role `app` that may have `sessions` at once.
    pub fn postgres(mut self, options: PostgresOptions, sessions: u32) -> Self {
        self.postgres = Some(options);
        self.sessions = sessions;
        self
    }

    /// Workers reach Postgres through it.
    pub fn pgbouncer(mut self, options: PgBouncerOptions) -> Self {
        self.pgbouncer = Some(options);
        self
    }

    /// The text of a policies file, for the controllers if there are any, else for the routers.
    pub fn policies(mut self, text: impl Into<String>) -> Self {
        self.policies = Some(text.into());
        self
    }

    pub fn routers(mut self, routers: usize) -> Self {
        self.routers = routers;
        self
    }

    /// `config`: the text of their config file.
    pub fn controllers(mut self, controllers: usize, config: &str) -> Self {
        self.controllers = controllers;
        self.controller_config = Some(config.to_owned());
        self
    }

    pub fn workers(mut self, workers: usize, runs: Runs) -> Self {
        self.workers = workers;
        self.runs = runs;
        self
    }

    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    pub fn worker_args(mut self, args: &[&str]) -> Self {
        self.worker_args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub fn proxied(mut self, place: Between) -> Self {
        self.proxied.push(place);
        self
    }

    pub async fn start(self, sandbox: &Sandbox) -> Cluster<'_> {
        let mut cluster = Cluster {
            sandbox,
            redis: None,
            postgres: None,
            pgbouncer: None,
            controllers: Vec::new(),
            routers: Vec::new(),
            workers: Vec::new(),
            proxies: Vec::new(),
            builder: self.clone(),
        };
        if let Store::Redis(options) = self.store {
            let redis = Redis::start(sandbox, options).await;
            cluster.proxy(Between::RoutersAndRedis, redis.port()).await;
            cluster.redis = Some(redis);
        }
        if let Some(options) = self.postgres {
            cluster.start_postgres(options).await;
        }
        for _ in 0..self.controllers {
            cluster.controllers.push(cluster.controller().await);
        }
        for _ in 0..self.routers {
            let router = cluster.router(free_address()).await;
            let address = router.grpc_address();
            let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            cluster
                .proxy(Between::WorkersAndRouters, port.expect("an address has a port"))
                .await;
            cluster.routers.push(router);
        }
        for _ in 0..self.workers {
            cluster.start_worker().await;
        }
        cluster
    }
}

impl<'a> Cluster<'a> {
    async fn proxy(&mut self, place: Between, port: u16) {
        if self.builder.proxied.contains(&place) {
            self.proxies.push((place, Proxy::start(port).await));
        }
    }

    async fn start_postgres(&mut self, options: PostgresOptions) {
        let postgres = Postgres::start(self.sandbox, options).await;
        postgres.role(ROLE, self.builder.sessions).await;
        postgres.must(crate::work::SCHEMA).await;
        let mut port = postgres.port();
        if let Some(options) = self.builder.pgbouncer.clone() {
            let pooler = PgBouncer::start(self.sandbox, &postgres, options).await;
            port = pooler.port();
            self.pgbouncer = Some(pooler);
        }
        self.proxy(Between::WorkersAndPostgres, port).await;
        self.postgres = Some(postgres);
    }

    async fn controller(&self) -> Controller {
        let options = ControllerOptions {
            listen: Some(free_address()),
            policies: self.builder.policies.clone(),
            config: self.builder.controller_config.clone(),
            ..ControllerOptions::default()
        };
        Controller::start(self.sandbox, options).await
    }

    fn controller_args(&self) -> Vec<String> {
        let urls = self.controllers.iter().map(Controller::grpc_url);
        urls.flat_map(|url| ["--controller".to_owned(), url]).collect()
    }

    async fn router(&self, listen: String) -> Router {
        let policies = match self.controllers.is_empty() {
            true => self.builder.policies.clone(),
            false => None,
        };
        let options = RouterOptions {
            listen: Some(listen),
            policies,
            args: self.controller_args(),
            ..RouterOptions::default()
        };
        Router::start(self.sandbox, &self.store_url(), options).await
    }

    fn store_url(&self) -> String {
        let file = self.sandbox.path().join("jobs.db");
        match (
            &self.builder.store,
            self.between(Between::RoutersAndRedis).next(),
            &self.redis,
        ) {
            (Store::Memory, ..) => "memory:".to_owned(),
            (Store::Sqlite, ..) => format!("sqlite:{}", file.display()),
            (Store::Redis(_), Some(proxy), _) => proxy.redis_url(),
            (Store::Redis(_), None, redis) => redis.as_ref().expect("it has been started").url(),
        }
    }

    /// The proxies of one place, in the order of what they lead to.
    pub fn between(&self, place: Between) -> impl Iterator<Item = &Proxy> {
        self.proxies
            .iter()
            .filter(move |(at, _)| *at == place)
            .map(|(_, proxy)| proxy)
    }

    /// As workers reach the routers.
    pub fn router_urls(&self) -> Vec<String> {
        let proxied: Vec<String> = self.between(Between::WorkersAndRouters).map(Proxy::url).collect();
        match proxied.is_empty() {
            true => self.direct_urls(),
            false => proxied,
        }
    }

    /// Around any proxy.
    pub fn direct_urls(&self) -> Vec<String> {
        self.routers.iter().map(Router::grpc_url).collect()
    }

    /// A producer of all routers.
    pub fn client(&self) -> Client {
        Client::connect(self.direct_urls()).expect("routers have valid addresses")
    }

    /// As workers reach Postgres.
    pub fn postgres_url(&self) -> Option<String> {
        let postgres = self.postgres.as_ref()?;
        let port = match (self.between(Between::WorkersAndPostgres).next(), &self.pgbouncer) {
            (Some(proxy), _) => proxy.port(),
            (None, Some(pooler)) => pooler.port(),
            (None, None) => postgres.port(),
        };
        Some(format!("postgres://{ROLE}@127.0.0.1:{port}/postgres"))
    }

    /// One more worker of the same kind.
    pub async fn start_worker(&mut self) {
        let (slots, routers) = (Some(self.builder.slots), self.router_urls());
        let mut args = self.controller_args();
        args.extend(self.builder.worker_args.clone());
        let worker = match &self.builder.runs {
            Runs::Nothing => return,
            Runs::App { url, queues } => {
                let options = WorkerOptions {
                    slots,
                    args,
                    ..WorkerOptions::default()
                };
                let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
                WorkerProc::start(self.sandbox, &routers, url, &queues, options).await
            }
            Runs::Work(queues) => {
                let options = TestWorkerOptions {
                    queues: queues.clone(),
                    name: format!("worker-{}", self.workers.len()),
                    postgres: self.postgres_url(),
                    slots,
                    args,
                    ..TestWorkerOptions::default()
                };
                WorkerProc::start_test_worker(self.sandbox, &routers, options).await
            }
        };
        self.workers.push(worker);
    }

    /// SIGTERM, and a new one in its place when it has ended. Answers its exit code.
    pub async fn roll_worker(&mut self, index: usize) -> i32 {
        let old = self.workers[index].process.clone();
        old.sigterm();
        let code = old.wait_exit(START_TIMEOUT).await;
        self.start_worker().await;
        self.workers.swap_remove(index);
        code
    }

    /// SIGTERM, and a new one at the same address. Answers its exit code.
    pub async fn roll_router(&mut self, index: usize) -> i32 {
        let old = self.routers[index].process.clone();
        old.sigterm();
        let code = old.wait_exit(START_TIMEOUT).await;
        self.restart_router(index).await;
        code
    }

    /// One that has ended comes back where it was.
    pub async fn restart_router(&mut self, index: usize) {
        self.routers[index] = self.router(self.routers[index].grpc_address()).await;
    }
}
