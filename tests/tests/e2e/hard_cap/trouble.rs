//! A whole fleet with a proxy in every line, and what is done to it.

use std::time::Duration;

use tidegate_tests::{
    Controller, ControllerOptions, Proxy, Redis, RedisOptions, Router, RouterOptions, Sandbox, Way,
    WorkerOptions, WorkerProc, free_address,
};

use crate::ledger::{attached, control, status};

const WORKERS: usize = 5;
const CONTROLLERS: usize = 2;
const ROUTERS: usize = 2;
/// Exit codes of a command that met no leader.
const UNAVAILABLE: i32 = 5;
const TIMEOUT: i32 = 6;
/// Things that go wrong one after the other.
const TROUBLES: usize = 11;

/// Leases of three seconds, so that some end while their workers cannot be heard.
fn policies(email_max: u32, pdf_weight: u32) -> String {
    format!(
        "[resources.pg-main]\ncapacity = 50\nheadroom = 0.7\n\
         [queues.email]\ncosts = {{ pg-main = 1 }}\nmax = {email_max}\nlease_ttl = \"3s\"\n\
         [queues.pdf]\ncosts = {{ pg-main = 2 }}\nmax = 100\nweight = {pdf_weight}.0\nlease_ttl = \"3s\"\n"
    )
}

pub struct Fleet<'a> {
    sandbox: &'a Sandbox,
    app: String,
    ledger: String,
    _redis: Redis<'a>,
    /// Between each router and the store.
    stores: Vec<Proxy>,
    controllers: Vec<Controller>,
    /// Before each controller, for everybody.
    to_controllers: Vec<Proxy>,
    routers: Vec<Router>,
    /// Before each router, for the workers alone.
    to_routers: Vec<Proxy>,
    workers: Vec<WorkerProc>,
    /// Changes of policies that were taken.
    pub changes: usize,
}

fn port(address: &str) -> u16 {
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap()
}

impl<'a> Fleet<'a> {
    pub async fn start(sandbox: &'a Sandbox, ledger: &str, app: &str) -> Self {
        let redis = Redis::start(sandbox, RedisOptions::default()).await;
        let mut fleet = Self {
            sandbox,
            app: app.to_owned(),
            ledger: ledger.to_owned(),
            stores: Vec::new(),
            controllers: Vec::new(),
            to_controllers: Vec::new(),
            routers: Vec::new(),
            to_routers: Vec::new(),
            workers: Vec::new(),
            changes: 0,
            _redis: redis,
        };
        for at in 0..CONTROLLERS {
            let controller = fleet.controller(at, free_address()).await;
            let proxy = Proxy::start(port(&controller.grpc_address())).await;
            fleet.to_controllers.push(proxy);
            fleet.controllers.push(controller);
        }
        for _ in 0..ROUTERS {
            let store = Proxy::start(fleet._redis.port()).await;
            let options = RouterOptions {
                args: fleet.attached(),
                ..RouterOptions::default()
            };
            let router = Router::start(sandbox, &store.redis_url(), options).await;
            let proxy = Proxy::start(port(&router.grpc_address())).await;
            fleet.to_routers.push(proxy);
            fleet.stores.push(store);
            fleet.routers.push(router);
        }
        for _ in 0..WORKERS {
            fleet.start_worker().await;
        }
        fleet
    }

    async fn controller(&self, at: usize, listen: String) -> Controller {
        let options = ControllerOptions {
            listen: Some(listen),
            policies: Some(policies(100, 1)),
            config: Some(format!(
                "[controller]\ntick = \"500ms\"\nname = \"controller-{at}\"\n"
            )),
            ledger: Some(self.ledger.clone()),
            ..ControllerOptions::default()
        };
        Controller::start(self.sandbox, options).await
    }

    fn attached(&self) -> Vec<String> {
        let urls: Vec<String> = self.to_controllers.iter().map(Proxy::url).collect();
        attached(&urls)
    }

    async fn start_worker(&mut self) {
        let urls: Vec<String> = self.to_routers.iter().map(Proxy::url).collect();
        let options = WorkerOptions {
            slots: Some(16),
            args: self.attached(),
            ..WorkerOptions::default()
        };
        let queues = ["email", "pdf"];
        let worker = WorkerProc::start(self.sandbox, &urls, &self.app, &queues, options).await;
        self.workers.push(worker);
    }

    /// Around every proxy.
    pub fn router_urls(&self) -> Vec<String> {
        self.routers.iter().map(Router::grpc_url).collect()
    }

    /// One thing after the other goes wrong, and some get well again.
    pub async fn trouble(&mut self, round: usize) {
        match round % TROUBLES {
            0 => self.apply(6, 5).await,
            1 => self.kill_worker().await,
            2 => self.to_routers[0].cut(),
            3 => {
                self.to_routers[1].blackhole(Way::ToServer);
                self.apply(100, 1).await;
            }
            4 => {
                self.to_routers[0].delay(Duration::from_millis(300));
                self.to_controllers
                    .iter()
                    .for_each(|line| line.blackhole(Way::ToClient));
            }
            5 => {
                self.to_routers[1].heal().await;
                self.to_routers[1].half_open();
                self.stores[0].blackhole(Way::ToServer);
            }
            6 => {
                self.heal().await;
                self.kill_leader().await;
            }
            7 => {
                self.stores[1].delay(Duration::from_millis(400));
                self.to_routers[0].blackhole(Way::ToClient);
            }
            8 => {
                self.kill_worker().await;
                self.stores[0].blackhole(Way::ToClient);
            }
            9 => {
                self.heal().await;
                self.stores.iter().for_each(Proxy::cut);
                self.apply(30, 2).await;
            }
            _ => self.to_controllers.iter().for_each(Proxy::cut),
        }
    }

    pub async fn heal(&self) {
        for line in self
            .to_routers
            .iter()
            .chain(&self.to_controllers)
            .chain(&self.stores)
        {
            line.heal().await;
        }
    }

    async fn kill_worker(&mut self) {
        self.workers.remove(0).process.kill9();
        self.start_worker().await;
    }

    /// It comes back as a standby.
    async fn kill_leader(&mut self) {
        for at in 0..CONTROLLERS {
            let url = self.controllers[at].grpc_url();
            if status(self.sandbox, &url).await["leader"] == true {
                let address = self.controllers[at].grpc_address();
                self.controllers[at].process.kill9();
                self.controllers[at]
                    .process
                    .wait_exit(Duration::from_secs(10))
                    .await;
                self.controllers[at] = self.controller(at, address).await;
                return;
            }
        }
    }

    async fn apply(&mut self, email_max: u32, pdf_weight: u32) {
        let file = self
            .sandbox
            .write("change.toml", &policies(email_max, pdf_weight));
        let urls: Vec<String> = self.controllers.iter().map(Controller::grpc_url).collect();
        let (code, text) = control(self.sandbox, &urls, &["policy", "apply", &file]).await;
        assert!([0, UNAVAILABLE, TIMEOUT].contains(&code), "{code} {text}");
        self.changes += usize::from(code == 0);
    }
}
