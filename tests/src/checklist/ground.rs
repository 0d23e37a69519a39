//! What the load runs on: a fleet of its own, or somebody's, with two queues and a resource added for as long as it takes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tidegate_client::Client;
use tidegate_protocol::v1::{
    DeletePolicyRequest, DeleteResourceRequest, tuning_service_client::TuningServiceClient,
};
use tonic::{Code, transport::Channel};

use super::{Options, app::MARK, plan::Kind};
use crate::{Cluster, PgBouncerOptions, PostgresOptions, Process, START_TIMEOUT, Sandbox, try_http_get};

pub const RESOURCE: &str = "load-pg";
/// The default, and the article's.
const HEADROOM: f64 = 0.7;
/// Jobs that may run at once whatever was measured: what keeps short jobs fast in the first second of a peak.
const SHORT_MIN: u32 = 4;
/// Caps are in force by then: a policy is pushed at the next tick, 5 s by default.
const CAPS_MAX: Duration = Duration::from_secs(30);
/// Leases that were lost on the way hold their slots for as long.
const GONE_MAX: Duration = Duration::from_secs(60);

/// The addresses of a running fleet.
pub struct Given {
    routers: Vec<String>,
    controller: String,
    metrics: Vec<String>,
}

impl Given {
    /// `None`: none was named.
    ///
    /// # Errors
    /// Half of them was.
    pub fn of(options: &Options) -> anyhow::Result<(Option<Self>, Option<String>)> {
        let postgres = options.postgres.clone();
        match (&options.routers[..], &options.controller) {
            ([], None) if postgres.is_some() => {
                bail!("--postgres is for a running fleet: name it, too, with --router and --controller")
            }
            ([], None) if !options.metrics.is_empty() => {
                bail!("--metrics is for a running fleet: name it, too, with --router and --controller")
            }
            ([], None) => Ok((None, postgres)),
            ([], Some(_)) => bail!("--controller without --router: name both"),
            (_, None) => bail!("--router without --controller: name both"),
            (routers, Some(controller)) => {
                let given = Self {
                    routers: routers.to_vec(),
                    controller: controller.clone(),
                    metrics: options.metrics.clone(),
                };
                Ok((Some(given), postgres))
            }
        }
    }
}

/// What is seen of the checklist's other lines. `None`: it could not be looked at.
pub struct Shown {
    /// Metrics that no page has.
    pub missing: Option<Vec<&'static str>>,
    /// (connections that listen for wakes, connections for commands) to Redis.
    pub redis: Option<(usize, usize)>,
}

pub struct Ground<'a> {
    cluster: Option<Cluster<'a>>,
    given: bool,
    routers: Vec<String>,
    controller: String,
    metrics: Vec<String>,
    /// As the workers reach it.
    postgres: String,
    /// As Postgres itself is reached, around any pooler.
    server: String,
    capacity: u32,
}

impl<'a> Ground<'a> {
    /// Everything runs, the policies are in force, and the queues may run jobs.
    pub async fn start(
        sandbox: &'a Sandbox,
        (given, postgres): (Option<Given>, Option<String>),
        capacity: u32,
    ) -> anyhow::Result<Self> {
        let mut own = Cluster::builder().routers(0);
        if given.is_none() {
            own = own.redis().routers(2).controllers(1, "");
        }
        if postgres.is_none() {
            let pool = PgBouncerOptions::default().pool_size(capacity);
            own = own.postgres(PostgresOptions::default(), capacity).pgbouncer(pool);
        }
        let cluster = own.start(sandbox).await;
        let mut probe = "";
        let monitor;
        let (postgres, server) = match (postgres, cluster.postgres_url(), &cluster.postgres) {
            (Some(url), ..) => (url.clone(), url),
            (None, Some(pooled), Some(server)) => {
                let role = server.role("monitor", 5).await;
                server.must("GRANT pg_monitor TO monitor").await;
                monitor = format!(
                    "[resources.{RESOURCE}.probe.postgres]\nurl = \"{role}\"\nrole = \"app\"\n\
                     application_name = \"{MARK}\"\n"
                );
                probe = &monitor;
                (pooled, server.url())
            }
            _ => bail!("there is no Postgres"),
        };
        let is_given = given.is_some();
        let (routers, controller, metrics) = match given {
            Some(given) => (given.routers, given.controller, given.metrics),
            None => {
                let routers = cluster.routers.iter().map(|router| router.metrics_url());
                let controllers = cluster.controllers.iter().map(|one| one.metrics_url());
                let metrics = routers.chain(controllers).collect();
                let controller = cluster.controllers.first().context("it was started")?;
                (cluster.direct_urls(), controller.grpc_url(), metrics)
            }
        };
        let ground = Self {
            cluster: Some(cluster),
            given: is_given,
            routers,
            controller,
            metrics,
            postgres,
            server,
            capacity,
        };
        ground.apply(sandbox, probe).await?;
        ground.caps().await?;
        Ok(ground)
    }

    pub fn routers(&self) -> &[String] {
        &self.routers
    }

    pub fn controller(&self) -> &str {
        &self.controller
    }

    pub fn postgres(&self) -> &str {
        &self.postgres
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Connections that jobs may hold.
    pub fn budget(&self) -> u32 {
        (f64::from(self.capacity) * HEADROOM).floor() as u32
    }

    async fn apply(&self, sandbox: &Sandbox, probe: &str) -> anyhow::Result<()> {
        let [short, long] = Kind::ALL.map(Kind::queue);
        let policies = format!(
            "[resources.{RESOURCE}]\ncapacity = {}\nheadroom = {HEADROOM}\n{probe}\
             [queues.{short}]\ncosts = {{ {RESOURCE} = 1 }}\nmin = {SHORT_MIN}\nmax_wait = \"5s\"\n\
             [queues.{long}]\ncosts = {{ {RESOURCE} = 1 }}\ntier = 1\nmax_wait = \"30s\"\n",
            self.capacity
        );
        let file = sandbox.write("load.toml", &policies);
        let args = [
            "control",
            "policy",
            "apply",
            &file,
            "--controller",
            &self.controller,
        ];
        let applied = Process::tidegate(sandbox, args, &[]);
        match applied.wait_exit(START_TIMEOUT).await {
            0 => Ok(()),
            _ => bail!("the controller refuses the policies: {}", applied.stderr().trim()),
        }
    }

    async fn caps(&self) -> anyhow::Result<()> {
        let client = Client::connect(self.routers.to_vec())?;
        let wait = async {
            for kind in Kind::ALL {
                loop {
                    let queue = client.get_queue(kind.queue()).await;
                    if queue.is_ok_and(|queue| queue.effective_cap.is_some_and(|cap| cap > 0)) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let waited = tokio::time::timeout(CAPS_MAX, wait).await;
        waited.context("the controller gave the queues no cap: look at `tidegate control status`")
    }

    /// What pages and stores show, with the application's own page.
    pub async fn look(&self, own: &str) -> Shown {
        /// The article's set.
        const WANTED: [&str; 6] = [
            "tidegate_jobs{",
            "tidegate_worker_utilization_ratio{",
            "tidegate_retry_ratio{",
            "tidegate_job_run_duration_seconds_bucket{",
            "tidegate_circuit_state{",
            "tidegate_concurrency_target{",
        ];
        let mut pages = own.to_owned();
        for url in &self.metrics {
            if let Ok((200, page)) = try_http_get(url, "/metrics").await {
                pages.push_str(&page);
            }
        }
        let missing = WANTED.into_iter().filter(|name| !pages.contains(name)).collect();
        Shown {
            missing: (!self.metrics.is_empty()).then_some(missing),
            redis: self.redis().await,
        }
    }

    async fn redis(&self) -> Option<(usize, usize)> {
        let redis = self.cluster.as_ref()?.redis.as_ref()?;
        let clients = redis.command(&["CLIENT", "LIST"]).await.ok()?;
        let mut counts = (0, 0);
        for client in clients.lines() {
            let fields: BTreeMap<&str, &str> = client
                .split(' ')
                .filter_map(|field| field.split_once('='))
                .collect();
            let Some(command) = fields.get("cmd") else {
                continue;
            };
            let listens = ["sub", "ssub", "psub"]
                .iter()
                .any(|kind| fields.get(kind).is_some_and(|count| *count != "0"));
            match listens {
                true => counts.0 += 1,
                false if command.starts_with("client") => {} // this look
                false => counts.1 += 1,
            }
        }
        Some(counts)
    }

    /// Takes the two queues and the resource away again, where the fleet is somebody's.
    pub async fn restore(&self) -> anyhow::Result<()> {
        if !self.given {
            return Ok(());
        }
        let mut client = TuningServiceClient::connect(self.controller.clone()).await?;
        for kind in Kind::ALL {
            let request = DeletePolicyRequest {
                queue: kind.queue().to_owned(),
                why: "load test is over".to_owned(),
                ..DeletePolicyRequest::default()
            };
            let deleted = client.delete_policy(request).await.map(drop);
            gone(deleted).with_context(|| format!("cannot delete the policy of {}", kind.queue()))?;
        }
        delete_resource(&mut client).await
    }
}

/// Once nothing costs it any more: a deleted policy goes when its last slot is free, at a tick.
async fn delete_resource(client: &mut TuningServiceClient<Channel>) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let request = DeleteResourceRequest {
            name: RESOURCE.to_owned(),
            why: "load test is over".to_owned(),
            ..DeleteResourceRequest::default()
        };
        let deleted = gone(client.delete_resource(request).await.map(drop));
        let is_in_use = matches!(&deleted, Err(status) if status.code() == Code::FailedPrecondition);
        if !is_in_use || Instant::now() > deadline {
            return deleted.context("cannot delete the resource load-pg");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn gone(deleted: Result<(), tonic::Status>) -> Result<(), tonic::Status> {
    match deleted {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        deleted => deleted,
    }
}
