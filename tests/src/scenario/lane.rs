//! One arm's world: a Postgres, a Redis, controllers, a router and workers of its own, and what can be done to them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use tidegate_client::{Client, JobFilter, JobView};
use tidegate_protocol::v1::{GetFleetRequest, tuning_service_client::TuningServiceClient};

use super::{
    Arm, Script,
    arms::policies,
    count::Ended,
    faults::Step,
    plant::{JOBS_NAME, MONITOR, Plant, ROLE},
};
use crate::{
    Controller, ControllerOptions, Postgres, PostgresOptions, Proxy, Redis, RedisOptions, Router,
    RouterOptions, Sandbox, TestWorkerOptions, Way, WorkerProc, eventually, free_address, sampler,
};

/// For everything to be connected, and for the first caps. A machine that starts five lanes at once is busy.
const READY_MAX: Duration = Duration::from_secs(60);
/// Sessions of a ledger that two controllers share.
const LEDGER_SESSIONS: u32 = 20;

pub struct Lane<'a> {
    pub arm: Arm,
    pub client: Client,
    pub router: Router,
    pub controllers: Vec<Controller>,
    pub workers: Vec<WorkerProc>,
    database: Option<Database<'a>>,
    _redis: Redis<'a>,
    store: Option<Proxy>,
    /// What leads the first worker to routers and controllers, where it is to be cut off.
    ways: Vec<Proxy>,
}

struct Database<'a> {
    server: Postgres<'a>,
    plant: Plant,
    /// In front of it, where it is to go away.
    proxy: Option<Proxy>,
}

/// What a lane has taken so far.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Processor time in hundredths of a second.
    pub controller_ticks: u64,
    /// Of all workers together.
    pub worker_ticks: u64,
    pub store_calls: u64,
}

impl<'a> Lane<'a> {
    /// # Errors
    /// As servers say.
    pub async fn start(sandbox: &'a Sandbox, script: &Script, arm: Arm) -> Result<Self> {
        let database = Database::start(sandbox, script).await?;
        let redis = Redis::start(sandbox, RedisOptions::default()).await;
        let is_delayed = super::faults::steps(script)
            .iter()
            .any(|(_, step)| matches!(step, Step::StoreDelayMs(_)));
        let store = match is_delayed {
            true => Some(Proxy::start(redis.port()).await),
            false => None,
        };
        let store_url = store.as_ref().map_or_else(|| redis.url(), Proxy::redis_url);
        let monitor = database.as_ref().map(|database| database.url(MONITOR));
        let policies = policies(arm, &script.model, monitor.as_deref());
        let mut controllers = Vec::new();
        for _ in 0..script.live.controllers.unwrap_or(1) {
            let ledger = match (&database, script.live.controllers) {
                (Some(database), Some(_)) => Some(database.server.role_url("ledger")),
                _ => None,
            };
            let options = ControllerOptions {
                listen: Some(free_address()),
                policies: Some(policies.clone()),
                ledger,
                ..ControllerOptions::default()
            };
            controllers.push(Controller::start(sandbox, options).await);
        }
        let router = RouterOptions {
            args: flags(&controllers.iter().map(Controller::grpc_url).collect::<Vec<_>>()),
            ..RouterOptions::default()
        };
        let router = Router::start(sandbox, &store_url, router).await;
        let client = Client::connect([router.grpc_url()])?;
        let mut lane = Self {
            arm,
            client,
            router,
            controllers,
            workers: Vec::new(),
            database,
            _redis: redis,
            store,
            ways: Vec::new(),
        };
        lane.start_workers(sandbox, script).await;
        lane.is_ready(script).await;
        Ok(lane)
    }

    async fn start_workers(&mut self, sandbox: &Sandbox, script: &Script) {
        let controllers: Vec<String> = self.controllers.iter().map(Controller::grpc_url).collect();
        for (number, slots) in script.slots().into_iter().enumerate() {
            let (mut router, mut controllers) = (self.router.grpc_url(), controllers.clone());
            if number == 0 && script.live.partition_s.is_some() {
                router = self.way_to(&router).await;
                for url in &mut controllers {
                    *url = self.way_to(url).await;
                }
            }
            let mut args = flags(&controllers);
            for (name, queue) in &script.model.queues {
                let ms = queue.statement_timeout_s * 1_000.0;
                args.extend(["--statement-timeout-ms".to_owned(), format!("{name}={ms}")]);
            }
            if self.arm.blames_nobody() {
                args.push("--blames-nobody".to_owned());
            }
            let kind = if self.database.is_some() { "plant" } else { "sleep" };
            let queues = script.model.queues.keys();
            let options = TestWorkerOptions {
                queues: queues.map(|name| (name.clone(), kind.to_owned())).collect(),
                name: format!("{JOBS_NAME}-{number}"),
                postgres: self.database.as_ref().map(|database| database.url(ROLE)),
                slots: Some(slots),
                args,
                ..TestWorkerOptions::default()
            };
            self.workers
                .push(WorkerProc::start_test_worker(sandbox, &[router], options).await);
        }
    }

    async fn way_to(&mut self, url: &str) -> String {
        let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
        let proxy = Proxy::start(port.expect("a URL of the harness ends with its port")).await;
        let way = proxy.url();
        self.ways.push(proxy);
        way
    }

    /// All workers are there, and a controller has said what may run.
    async fn is_ready(&self, script: &Script) {
        let workers = self.workers.len() as u32;
        for queue in script.model.queues.keys() {
            eventually(
                READY_MAX,
                format!("{} is ready for {queue}", self.arm),
                async || {
                    let queue = self.client.get_queue(queue).await.ok()?;
                    let has_cap = queue.effective_cap.is_some_and(|cap| cap > 0);
                    (queue.sessions == workers && has_cap).then_some(())
                },
            )
            .await;
        }
    }

    pub fn plant(&self) -> Option<&Plant> {
        self.database.as_ref().map(|database| &database.plant)
    }

    /// How the other users reach the resource.
    pub fn api_url(&self) -> Option<String> {
        self.database.as_ref().map(|database| database.url(ROLE))
    }

    /// Does one thing to it.
    pub async fn apply(&self, step: Step) -> Result<()> {
        match (step, &self.database) {
            (Step::Knee(sessions), Some(database)) => database.plant.knee(sessions).await?,
            (Step::Down, Some(database)) => database.goes_away().await,
            (Step::Up, Some(database)) => database.comes_back().await,
            (Step::StoreDelayMs(ms), _) => {
                // Half of it each way.
                let each = Duration::from_secs_f64(ms / 2_000.0);
                self.store.iter().for_each(|store| store.delay(each));
            }
            (Step::KillLeader, _) if self.arm.has_faults() => self.kill_leader().await?,
            (Step::Partition, _) if self.arm.has_faults() => {
                for way in &self.ways {
                    way.blackhole(Way::ToServer);
                    way.blackhole(Way::ToClient);
                }
            }
            (Step::Heal, _) => {
                for way in &self.ways {
                    way.heal().await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn kill_leader(&self) -> Result<()> {
        for controller in &self.controllers {
            let mut tuning = TuningServiceClient::connect(controller.grpc_url()).await?;
            if tuning.get_fleet(GetFleetRequest {}).await?.into_inner().leader {
                controller.process.kill9();
                return Ok(());
            }
        }
        anyhow::bail!("no controller leads, so there is none to kill")
    }

    pub async fn costs(&self) -> Costs {
        let alive = self
            .controllers
            .iter()
            .filter(|controller| controller.process.exit_code().is_none());
        let (_, page) = crate::http_get(&self.router.metrics_url(), "/metrics").await;
        Costs {
            controller_ticks: alive.map(|controller| controller.process.cpu_ticks()).sum(),
            worker_ticks: self.workers.iter().map(|worker| worker.process.cpu_ticks()).sum(),
            store_calls: sampler::sum(&page, "tidegate_store_operation_duration_seconds_count", &[]) as u64,
        }
    }

    /// Nothing more is started, so that what is there can be counted.
    pub async fn pause(&self, script: &Script) -> Result<()> {
        for queue in script.model.queues.keys() {
            let paused = self.client.pause_queue(queue).await;
            paused.with_context(|| format!("{queue} of {} is not paused", self.arm))?;
        }
        Ok(())
    }

    /// Every job of a queue that the store has, by id: its state and when it ended.
    pub async fn jobs(&self, queue: &str) -> Result<BTreeMap<String, Ended>> {
        let mut jobs = BTreeMap::new();
        let mut token = String::new();
        loop {
            let filter = JobFilter::of(queue);
            let page = self.client.search(filter, 1_000, token).await?;
            let ended = |job: JobView| {
                let ended = Ended {
                    state: job.state,
                    finished_ms: job.finished_ms,
                };
                (job.id.to_string(), ended)
            };
            jobs.extend(page.jobs.into_iter().map(ended));
            match page.next_page_token {
                Some(next) => token = next,
                None => return Ok(jobs),
            }
        }
    }
}

impl<'a> Database<'a> {
    async fn start(sandbox: &'a Sandbox, script: &Script) -> Result<Option<Self>> {
        let Some((_, capacity)) = script.hard_cap() else {
            return Ok(None);
        };
        let server = Postgres::start(sandbox, PostgresOptions::default()).await;
        let plant = Plant::make(&server, capacity).await?;
        if script.live.controllers.is_some() {
            server.role("ledger", LEDGER_SESSIONS).await;
        }
        let goes_away = script
            .model
            .resources
            .values()
            .any(|resource| !resource.down_s.is_empty());
        let proxy = match goes_away {
            true => Some(Proxy::start(server.port()).await),
            false => None,
        };
        Ok(Some(Self { server, plant, proxy }))
    }

    fn url(&self, role: &str) -> String {
        match &self.proxy {
            Some(proxy) => format!("postgres://{role}@127.0.0.1:{}/postgres", proxy.port()),
            None => self.server.role_url(role),
        }
    }

    /// As a server that dies: who is connected is cut off, who comes is refused.
    async fn goes_away(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.refuse().await;
            proxy.cut();
        }
    }

    async fn comes_back(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.heal().await;
        }
    }
}

fn flags(controllers: &[String]) -> Vec<String> {
    let flags = controllers
        .iter()
        .flat_map(|url| ["--controller".to_owned(), url.clone()]);
    flags.collect()
}
